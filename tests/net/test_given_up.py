"""Each call of the network that can wait, given up after one turn of the loop, after two, and so on to its end.

Whatever it was in the middle of, nothing is left behind (the fixtures look), and what it worked on is as before, or is
cut.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

import flower
import flower.io
from flower.net import Conn, Dial, LengthPrefixed, Listen, framed
from tests.net.certificates import certificates
from tests.net.support import HOME, NEVER, connected, fill, rounds

pytestmark = pytest.mark.usefixtures("loop")

MOST = 1000  # turns; an operation that takes longer hangs

Operation = Callable[[], Any]


def server_options(proto: str) -> dict[str, Any]:
    made = certificates()
    return {"cert": made.server, "key": made.server_key} if proto == "tls" else {}


def trust(proto: str) -> dict[str, Any]:
    return {"ca": certificates().ca} if proto == "tls" else {}


@contextmanager
def dial(proto: str, host: str = HOME) -> Iterator[Operation]:
    with tempfile.TemporaryDirectory() as folder:
        where: Any = os.path.join(folder, "socket") if proto == "pipe" else (HOME, 0)
        with Listen(where, proto, **server_options(proto)) as listener:
            address = listener.addr() if proto == "pipe" else (host, listener.addr()[1])
            yield lambda: Dial(proto, address, **trust(proto))
            rounds(2)
            with Dial(proto, listener.addr(), **trust(proto)) as conn:  # it serves others
                conn.send(b"still")
                while True:
                    with listener.receive(NEVER) as far, suppress(OSError):
                        if far.read(timeout=NEVER) == b"still":
                            break


@contextmanager
def accept(proto: str) -> Iterator[Operation]:
    with Listen((HOME, 0), proto, **server_options(proto)) as listener:
        dialling = flower.go(Dial, proto, listener.addr(), **trust(proto))
        yield listener.receive
        with dialling.join(NEVER) as near:
            with suppress(flower.Timeout), listener.receive(0.0 if near.status == "closed" else 0.05) as far:
                far.send(b"x")
                assert near.read(timeout=NEVER) == b"x"  # nobody had it: it is whole


@contextmanager
def start_tls(server_side: bool) -> Iterator[Operation]:
    made = certificates()
    with connected() as (near, far):

        def server() -> None:
            far.start_tls(server_side=True, cert=made.server, key=made.server_key)

        def client() -> None:
            near.start_tls(server_name="localhost", ca=made.ca)

        def other() -> None:
            with suppress(OSError, flower.ChannelClosed):
                (client if server_side else server)()

        t = flower.go(other)
        yield server if server_side else client
        near.abort()
        t.join(NEVER)


@contextmanager
def a_full_connection(call: Callable[[Conn], Any]) -> Iterator[Operation]:
    """Of a call that waits for room, and a peer that begins to read at once."""
    with connected() as (near, far):
        total = fill(near)
        t = flower.go(far.read_exactly, total)
        yield lambda: call(near)
        assert t.join(NEVER) == b"x" * total
        near.send(b"after")
        near.close()
        rest = b"".join(iter(lambda: far.read(timeout=NEVER), b""))
        assert rest in (b"after", b"sentafter")


@contextmanager
def a_conversation(call: Callable[[Conn], Any], data: bytes) -> Iterator[Operation]:
    """Of a call that reads, and a peer that sends a byte a turn."""
    with connected() as (near, far):

        def trickle() -> None:
            for i in range(len(data)):
                far.send(data[i : i + 1])
                rounds(1)
            far.close_write()

        t = flower.go(trickle)
        got = bytearray()

        def read() -> None:
            got.extend(call(near))

        yield read
        t.join(NEVER)
        got += b"".join(iter(lambda: near.read(timeout=NEVER), b""))
        assert bytes(got) == data


@contextmanager
def messages() -> Iterator[Operation]:
    with connected() as (near, far):
        out, here = framed(near, LengthPrefixed(2)), framed(far, LengthPrefixed(2))
        got: list[bytes] = []

        def send() -> None:
            for i in range(5):
                out.send(b"%d" % i)
                rounds(1)
            out.close_write()

        t = flower.go(send)
        yield lambda: got.append(here.receive())
        got += here
        t.join(NEVER)
        assert got == [b"%d" % i for i in range(5)]
        here.close()
        out.close()


@contextmanager
def serve(stop: bool) -> Iterator[Operation]:
    with Listen((HOME, 0)) as listener, ExitStack() as stack:
        served: list[bytes] = []

        def handle(conn: Conn) -> None:
            served.append(conn.read())

        clients = [stack.enter_context(Dial("tcp", listener.addr())) for _ in range(4)]
        for client in clients[:2]:
            client.send(b"x")

        def close() -> None:
            rounds(8)
            listener.close()

        def work() -> None:
            if stop:
                t = flower.go(listener.serve, handle)
                rounds(1)
                listener.stop(0.0005)
                t.join(NEVER)
            else:
                listener.serve(handle, limit=2)

        t = None if stop else flower.go(close)
        yield work
        if t is not None:
            t.join(NEVER)
        for client in clients:
            client.close()
        listener.close()
        rounds(5)


@contextmanager
def udp(operation: str) -> Iterator[Operation]:
    with Listen((HOME, 0), "udp") as here, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        plain.bind((HOME, 0))
        if operation == "dial":
            yield lambda: Dial("udp", ("localhost", here.addr()[1]))
        elif operation == "send":
            yield lambda: here.send(b"x", ("localhost", plain.getsockname()[1]))
        else:
            got: list[Any] = []

            def send() -> None:
                rounds(3)
                plain.sendto(b"datagram", here.addr())

            t = flower.go(send)
            yield lambda: got.append(here.receive())
            t.join(NEVER)
            got = got or [here.receive(NEVER)]
            assert got == [(b"datagram", plain.getsockname())]


@contextmanager
def readiness() -> Iterator[Operation]:
    near, far = socket.socketpair()
    with near, far:

        def send() -> None:
            rounds(3)
            far.send(b"x")

        t = flower.go(send)
        yield lambda: flower.io.wait_read(near)
        t.join(NEVER)
        flower.io.wait_read(near, timeout=NEVER)


OPERATIONS: dict[str, Callable[[], Any]] = {
    "dial tcp": lambda: dial("tcp"),
    "dial tcp by name": lambda: dial("tcp", "localhost"),
    "dial tls": lambda: dial("tls"),
    "dial pipe": lambda: dial("pipe"),
    "dial udp": lambda: udp("dial"),
    "accept tcp": lambda: accept("tcp"),
    "accept tls": lambda: accept("tls"),
    "start_tls of the client": lambda: start_tls(False),
    "start_tls of the server": lambda: start_tls(True),
    "send": lambda: a_full_connection(lambda conn: conn.send(b"sent")),
    "select to send": lambda: a_full_connection(lambda conn: flower.select((conn, b"sent"), flower.never())),
    "flush": lambda: a_full_connection(lambda conn: conn.flush()),
    "receive": lambda: a_conversation(lambda conn: conn.receive(), b"abcdef"),
    "read": lambda: a_conversation(lambda conn: conn.read(2), b"abcdef"),
    "read_exactly": lambda: a_conversation(lambda conn: conn.read_exactly(4), b"abcdef"),
    "read_until": lambda: a_conversation(lambda conn: conn.read_until(b"de"), b"abcdef"),
    "select to receive": lambda: a_conversation(lambda conn: flower.select(flower.never(), conn)[1], b"abcdef"),
    "framed": messages,
    "serve": lambda: serve(False),
    "stop": lambda: serve(True),
    "udp send": lambda: udp("send"),
    "udp receive": lambda: udp("receive"),
    "wait_read": readiness,
}


def give_up(operation: Operation, how: str, turns: int) -> bool:
    """Start it, give it up after so many turns; says whether it had ended before that."""
    scopes: list[Any] = []

    def body() -> None:
        result = None
        with flower.move_on() as scope:
            scopes.append(scope)
            result = operation()
        if hasattr(result, "close"):
            result.close()

    t = flower.go(body)
    for _ in range(turns):
        rounds(1)
    ended = not t.alive
    if how == "kill":
        t.kill()
    elif scopes:
        scopes[0].cancel()
    with suppress(flower.TaskletKilled):
        t.join(NEVER)
    return ended


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "cancel"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_given_up_at_every_turn(name: str, how: str) -> None:
    for turns in range(MOST):
        with OPERATIONS[name]() as operation:
            ended = give_up(operation, how, turns)
        if ended:
            return
    pytest.fail(f"{name} has not ended after {MOST} turns")
