"""Helpers of the RPC tests: pairs of peers, and peers that speak raw bytes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest

import flower
from flower import ChannelClosed, channel, rpc
from flower.net import Dial, Listen
from flower.rpc._hello import Settings
from flower.rpc._session import DEFAULTS
from tests.net.support import HOME, NEVER, until

URL = "tcp://127.0.0.1:0"
PLAIN = Settings(plain=True)
LIMITS = {"max_chans": 100, "chan_items": 64, "chan_bytes": 1 << 18}
HELLO = [0, 1, "$/hello", [{"v": 1, "node": "raw", "ext": 70, "feat": []}]]


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


def greet(raw: Raw, **told: Any) -> None:
    hello = {"v": 1, "feat": ["call", "cancel", "channels", "types", "bye"], "ext": 70, **LIMITS, **told}
    raw.send([0, 1, "$/hello", [hello]])
    assert raw.receive()[2] is None


def end_of(kind: int, number: int, items: int, size: int) -> msgpack.ExtType:
    return msgpack.ExtType(70, msgpack.packb([kind, number, items, size, {}]))


def quiet(*sessions: Any) -> None:
    """Wait until no channel is open any more."""
    until(lambda: not any(len(session.streams) for session in sessions))


@contextmanager
def streaming(**settings: Any) -> Iterator[tuple[Streams, Any, Any]]:
    """A service, the session of a peer that is connected to it, and the server's session."""
    service = Streams()
    with served(service, Settings(**settings), Settings(**settings)) as (server, peer):
        session = peer._session
        assert session.call("add", (1, 2)) == 3
        (other,) = server._sessions
        yield service, session, other
        session.close()
        until(lambda: not server._sessions)
        assert not len(session.streams)
        assert not len(other.streams)


class Streams(Calc):
    """Gives and takes channels."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Any = None
        self.made = 0

    def count(self, n: int) -> Iterator[int]:
        for i in range(n):
            self.made = i + 1
            yield i

    def endless(self) -> Iterator[int]:
        try:
            yield from self.count(10**9)
        finally:
            self.log.append("closed")

    def failing(self, n: int) -> Iterator[int]:
        yield from range(n)
        raise KeyError("no more")

    def unpackable_stream(self) -> Iterator[Any]:
        yield 1
        yield object()

    def waiting(self) -> Iterator[int]:
        yield 0
        self.gate.receive(NEVER)
        yield 1

    def careful(self) -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            self.gate.receive(NEVER)
            self.log.append("cleaned")

    def keep(self, end: Any) -> None:
        self.kept = end

    def give_back(self) -> Any:
        return self.kept

    def fill(self, sender: Any, n: int) -> None:
        for i in range(n):
            sender.send(i)
        sender.close()

    def total(self, receiver: Any) -> int:
        return sum(receiver)

    def double(self, receiver: Any, sender: Any) -> None:
        for value in receiver:
            sender.send(2 * value)
        sender.close()

    def drop(self, end: Any) -> None:
        pass

    def slow_drop(self, end: Any) -> None:
        self.gate.receive(NEVER)


class Far(Calc):
    def send_on(self, values: Any, _: Any = None) -> Any:
        with pytest.raises(ChannelClosed) as caught:
            while True:
                values.send(1, timeout=NEVER)
        return caught.value.reason


class Moves(Calc):
    def fill(self, values: Any, count: int) -> None:
        for n in range(count):
            values.send(n, NEVER)
        values.close()

    def fill_and_give_back(self, sender: Any, receiver: Any, count: int) -> Any:
        flower.go(self.fill, sender, count)
        flower.schedule()
        return receiver

    def take(self, values: Any) -> list[int]:
        return list(values)


class Packs:
    """What is sent in its place, is made as it is packed."""

    def __init__(self, do: Any) -> None:
        self.do = do


rpc.register(Packs, name="tests.Packs", to=lambda found: found.do(), of=lambda value: value)


class Gives(Calc):
    made: channel[Any]

    def open(self, count: int) -> Any:
        self.made = channel(1000)
        for n in range(count):
            self.made.send(n)
        return self.made.receiver

    def take(self, values: Any, *_: Any) -> list[Any]:
        self.made.close()
        return list(values)

    def close(self) -> None:
        self.made.close()
