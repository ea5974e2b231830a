"""Echo servers, one for each library: each returns when so many connections have come and gone."""

from __future__ import annotations

import socket
from typing import Any


def flower(sock: socket.socket, connections: int) -> None:
    import flower
    from flower.net import Conn, Listen

    left = flower.channel(connections)

    def echo(conn: Conn) -> None:
        while True:
            data = conn.read()
            if not data:
                break
            conn.write(data)
        left.send(None)

    with Listen(sock.dup(), "socktcp") as listener:
        flower.go(listener.serve, echo)
        for _ in range(connections):
            left.receive()


def uvloop_protocol(sock: socket.socket, connections: int) -> None:
    import asyncio

    import uvloop

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

        def connection_lost(self, error: BaseException | None) -> None:
            nonlocal connections
            connections -= 1
            if not connections:
                done.set_result(None)

    async def main() -> None:
        nonlocal done
        done = asyncio.get_running_loop().create_future()
        await asyncio.get_running_loop().create_server(Echo, sock=sock.dup())
        await done

    done: Any = None
    uvloop.run(main())


def asyncio_streams(sock: socket.socket, connections: int) -> None:
    import asyncio

    import uvloop

    async def echo(reader: Any, writer: Any) -> None:
        nonlocal connections
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()
        connections -= 1
        if not connections:
            done.set_result(None)

    async def main() -> None:
        nonlocal done
        done = asyncio.get_running_loop().create_future()
        await asyncio.start_server(echo, sock=sock.dup())
        await done

    done: Any = None
    uvloop.run(main())


def gevent(sock: socket.socket, connections: int) -> None:
    import gevent.event
    import gevent.server
    import gevent.socket

    done = gevent.event.Event()

    def echo(conn: Any, _address: Any) -> None:
        nonlocal connections
        while data := conn.recv(65_536):
            conn.sendall(data)
        connections -= 1
        if not connections:
            done.set()

    ours = gevent.socket.socket(fileno=sock.dup().detach())
    server = gevent.server.StreamServer(ours, echo)
    server.start()
    done.wait()
    server.stop()


if __name__ == "__main__":  # python -m benchmarks.subjects._servers NAME CONNECTIONS SIZE N
    import sys

    from benchmarks.registry import Stopwatch
    from benchmarks.subjects._net import measured

    name, conns, size, n = sys.argv[1], *map(int, sys.argv[2:5])
    for _ in range(int(sys.argv[5]) if len(sys.argv) > 5 else 3):
        found = measured(globals()[name], n, Stopwatch(), "echo", conns, size)
        print(
            f"{name}: {n / found['wall']:,.0f}/s, {found['cpu'] / n * 1e6:.2f} us CPU, p99 {found['p99'] * 1e3:.2f} ms"
        )
