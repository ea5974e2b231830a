"""Helpers of the RPC tests: pairs of peers, and peers that speak raw bytes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack

import flower
from flower import rpc
from flower.net import Dial, Listen
from flower.rpc._hello import Settings
from flower.rpc._session import DEFAULTS
from tests.net.support import HOME, NEVER, until

URL = "tcp://127.0.0.1:0"
PLAIN = Settings(plain=True)


class Calc:
    """A service for the tests."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.gate = flower.channel()

    @rpc.method  # for services that inherit it
    def add(self, a: Any, b: Any) -> Any:
        return a + b

    @rpc.method
    def echo(self, value: Any) -> Any:
        return value

    def fail(self, text: str) -> None:
        raise ValueError(text)

    @rpc.method
    def note(self, value: Any) -> None:
        self.log.append(value)

    @rpc.method
    def wait(self, value: Any = None) -> Any:
        """Blocks until somebody opens the gate."""
        self.gate.receive(NEVER)
        return value

    def unpackable(self) -> object:
        return object()

    def _private(self) -> str:
        return "secret"


@contextmanager
def served(
    service: object = None, settings: Settings = DEFAULTS, ours: Settings = DEFAULTS
) -> Iterator[tuple[rpc.Server, rpc.Peer]]:
    """A server, with settings, and a peer that is connected to it, and that it has accepted."""
    with (
        rpc.serve(URL, service if service is not None else Calc(), settings=settings) as server,
        rpc.connect(server.url, settings=ours) as peer,
    ):
        until(lambda: bool(server._sessions) or peer._session.fault is not None)
        yield server, peer
    settle()


def settle() -> None:
    """Let sessions that are over end their tasklets."""
    until(lambda: flower.getruncount() == 1)


@contextmanager
def pair(left: object = None, right: object = None) -> Iterator[tuple[rpc.Peer, rpc.Peer]]:
    """Two peers on one connection, each with a service."""
    with Listen((HOME, 0)) as listener:
        one = Dial("tcp", listener.addr())
        other = listener.receive(NEVER)
    with rpc.Peer(one, left) as a, rpc.Peer(other, right) as b:
        yield a, b
    settle()


class Raw:
    """A peer of nothing but bytes."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        self.unpacker = msgpack.Unpacker(strict_map_key=False)

    def send(self, *messages: Any) -> None:
        self.conn.send(b"".join(m if isinstance(m, bytes) else msgpack.packb(m) for m in messages))

    def receive(self) -> Any:
        """The next message; None at the end of file."""
        while True:
            for message in self.unpacker:
                return message
            data = self.conn.read(timeout=NEVER)
            if not data:
                return None
            self.unpacker.feed(data)


@contextmanager
def raw_client(server: rpc.Server) -> Iterator[Raw]:
    with Dial("tcp", server.address) as conn:
        yield Raw(conn)
    settle()


@contextmanager
def raw_server(service: object = None, settings: Settings = PLAIN) -> Iterator[tuple[rpc.Peer, Raw]]:
    """A peer whose other side we write by hand."""
    with Listen((HOME, 0)) as listener:
        host, port = listener.addr()
        peer = rpc.connect(f"tcp://{host}:{port}", service, settings=settings)
        conn = listener.receive(NEVER)
    with peer, conn:
        yield peer, Raw(conn)
    settle()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOME, 0))
        port: int = sock.getsockname()[1]
        return port
