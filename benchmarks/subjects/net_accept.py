"""Connections that are accepted and closed at once, sixteen at a time."""

from __future__ import annotations

import socket
from typing import Any

from benchmarks.registry import Stopwatch, Subject
from benchmarks.subjects._net import measured

SUBJECT = Subject("net_accept", "Accept a connection and close it, one core for the server", "ns", "connection")

N, AT_A_TIME = 4_000, 16


@SUBJECT.by("flower", N)
def flower(n: int, watch: Stopwatch) -> None:
    import flower
    from flower.net import Listen

    def serve(sock: socket.socket, connections: int) -> None:
        with Listen(sock.dup(), "socktcp") as listener:
            for _ in range(connections):
                listener.receive().close()
            flower.time.sleep(0.01)  # the last ones leave in the background

    measured(serve, n, watch, "accept", AT_A_TIME, 0)


@SUBJECT.by("uvloop protocol", N)
def uvloop_protocol(n: int, watch: Stopwatch) -> None:
    import asyncio

    import uvloop

    def serve(sock: socket.socket, connections: int) -> None:
        class Close(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                nonlocal connections
                transport.close()
                connections -= 1
                if not connections:
                    done.set_result(None)

        async def main() -> None:
            nonlocal done
            done = asyncio.get_running_loop().create_future()
            await asyncio.get_running_loop().create_server(Close, sock=sock.dup())
            await done

        done: Any = None
        uvloop.run(main())

    measured(serve, n, watch, "accept", AT_A_TIME, 0)


@SUBJECT.by("gevent", N)
def gevent(n: int, watch: Stopwatch) -> None:
    import gevent.socket

    def serve(sock: socket.socket, connections: int) -> None:
        with gevent.socket.socket(fileno=sock.dup().detach()) as ours:
            for _ in range(connections):
                ours.accept()[0].close()

    measured(serve, n, watch, "accept", AT_A_TIME, 0)


SUBJECT.at_most("of a raw Protocol's, 0.8", ("flower", ""), ("uvloop protocol", ""), 1 / 0.8)
