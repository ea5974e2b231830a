"""An echo server that speaks TLS, on one core, the load on another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks.registry import Stopwatch, Subject
from benchmarks.subjects._net import HOME, ROOT, on_two_cores

SUBJECT = Subject("net_tls", "Echo over TLS, 64 connections, 1 KiB", "ns", "request")

N, CONNECTIONS, SIZE = 15_000, 64, 1024


def certificate(folder: str) -> tuple[str, str]:
    cert, key = f"{folder}/cert.pem", f"{folder}/key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=bench"
    subprocess.run([*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


Begin = Callable[[int], None]  # called with the port, when the server listens


def _measured(serve: Callable[[Begin, str, str], None], n: int, watch: Stopwatch) -> None:
    """Run ``serve(begin, certificate, key)``, which returns when CONNECTIONS have come and gone, under load."""
    with ExitStack() as stack:
        load: Any = None

        def begin(port: int) -> None:
            nonlocal load
            numbers = (port, CONNECTIONS, SIZE, n, max(1, n // 10), os.getpid())
            command = [sys.executable, str(ROOT / "benchmarks" / "load" / "tls.py"), *map(str, numbers)]
            load = subprocess.Popen(command, stdout=subprocess.PIPE)
            stack.enter_context(on_two_cores(load.pid))

        serve(begin, *certificate(stack.enter_context(tempfile.TemporaryDirectory())))
        out, _ = load.communicate(timeout=60)
    found: dict[str, Any] = json.loads(out)
    watch.wall, watch.cpu = found["wall"], found["cpu"]


@SUBJECT.by("flower", N)
def flower(n: int, watch: Stopwatch) -> None:
    import flower
    from flower.net import Conn, Listen

    def serve(begin: Begin, cert: str, key: str) -> None:
        left: Any = flower.channel(CONNECTIONS)

        def echo(conn: Conn) -> None:
            while data := conn.read():
                conn.write(data)
            left.send(None)

        with Listen((HOME, 0), "tls", cert=cert, key=key) as listener:
            begin(listener.addr()[1])
            flower.go(listener.serve, echo)
            for _ in range(CONNECTIONS):
                left.receive()

    _measured(serve, n, watch)


@SUBJECT.by("uvloop protocol", N)
def uvloop_protocol(n: int, watch: Stopwatch) -> None:
    import asyncio
    import ssl

    import uvloop

    def serve(begin: Begin, cert: str, key: str) -> None:
        connections = CONNECTIONS

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
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(cert, key)
            server = await asyncio.get_running_loop().create_server(Echo, HOME, 0, ssl=context)
            begin(server.sockets[0].getsockname()[1])
            await done

        done: Any = None
        uvloop.run(main())

    _measured(serve, n, watch)


@SUBJECT.by("asyncio+uvloop", N)
def asyncio_streams(n: int, watch: Stopwatch) -> None:
    import asyncio
    import ssl

    import uvloop

    def serve(begin: Begin, cert: str, key: str) -> None:
        connections = CONNECTIONS

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
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(cert, key)
            server = await asyncio.start_server(echo, HOME, 0, ssl=context)
            begin(server.sockets[0].getsockname()[1])
            await done

        done: Any = None
        uvloop.run(main())

    _measured(serve, n, watch)


SUBJECT.at_most("of a raw Protocol's on uvloop's TLS", ("flower", ""), ("uvloop protocol", ""), 1.05)
