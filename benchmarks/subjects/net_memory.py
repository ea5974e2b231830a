"""What an idle connection takes, with its tasklet that waits to read."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.registry import Stopwatch, Subject
from benchmarks.subjects._net import listening
from benchmarks.subjects.memory import resident

SUBJECT = Subject("net_memory", "Memory of an idle connection", "bytes", "connection", rounds=3)

N = 1000
CLIENT = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
port, count = map(int, sys.argv[1:])
kept = []
for line in sys.stdin:
    for _ in range(int(line)):
        kept.append(socket.create_connection(("127.0.0.1", port)))
        kept[-1].sendall(b"x")
    for sock in kept:
        sock.setblocking(True)
    print("connected", flush=True)
"""


@contextmanager
def clients() -> Iterator[tuple[socket.socket, Any]]:
    """A listening socket, and a function that has so many connect to it, from another process."""
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with listening() as sock:
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(sock.getsockname()[1]), "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

        def connect(count: int) -> None:
            assert process.stdin is not None
            print(count, file=process.stdin, flush=True)

        yield sock, connect
        process.kill()
        process.communicate()


@SUBJECT.by("flower", N, repeats=1)
def flower(n: int, watch: Stopwatch) -> None:
    import flower
    from flower.net import Conn, Listen

    here: Any = flower.channel(n)

    def handle(conn: Conn) -> None:
        conn.read()
        here.send(None)
        conn.read()

    with clients() as (sock, connect):
        with Listen(sock.dup(), "socktcp") as listener:
            t = flower.go(listener.serve, handle)
            for wave in (n // 10, n):  # the first ones warm it up
                before = resident()
                connect(wave)
                for _ in range(wave):
                    here.receive()
                flower.schedule()
                watch.value = (resident() - before) / wave
            listener.stop(0)
            t.join()


@SUBJECT.by("gevent", N, repeats=1)
def gevent(n: int, watch: Stopwatch) -> None:
    import gevent.queue
    import gevent.server
    import gevent.socket

    here = gevent.queue.Queue()

    def handle(conn: Any, _address: Any) -> None:
        conn.recv(65_536)
        here.put(None)
        conn.recv(65_536)

    with clients() as (sock, connect):
        server = gevent.server.StreamServer(gevent.socket.socket(fileno=sock.dup().detach()), handle)
        server.start()
        for wave in (n // 10, n):
            before = resident()
            connect(wave)
            for _ in range(wave):
                here.get()
            gevent.sleep(0)
            watch.value = (resident() - before) / wave
        server.stop()


@SUBJECT.by("asyncio+uvloop", N, repeats=1)
def asyncio_streams(n: int, watch: Stopwatch) -> None:
    import asyncio

    import uvloop

    async def main(sock: socket.socket, connect: Any) -> None:
        here: asyncio.Queue[None] = asyncio.Queue()

        async def handle(reader: Any, _writer: Any) -> None:
            await reader.read(65_536)
            here.put_nowait(None)
            await reader.read(65_536)

        await asyncio.start_server(handle, sock=sock.dup())
        for wave in (n // 10, n):
            before = resident()
            connect(wave)
            for _ in range(wave):
                await here.get()
            watch.value = (resident() - before) / wave

    with clients() as (sock, connect):
        uvloop.run(main(sock, connect))


SUBJECT.at_most("an idle connection, of gevent's", ("flower", ""), ("gevent", ""), 1)
