"""Helpers of the network's tests: turns of the loop, and peers that know nothing of Flower."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import flower
from flower.net import Conn, Dial, Framed, Listen, Listener, framed
from flower.net._loop import wait
from tests.net.certificates import certificates

NEVER = 30.0  # seconds; a timeout that a passing test never sees elapse
UNACKNOWLEDGED = 0.1  # seconds; Linux acknowledges within 40 ms what it has, and then there is room for more
HOME = "127.0.0.1"


async def _nothing() -> None:
    pass


def rounds(count: int) -> None:
    """Let the loop go round, so that what is ready in the kernel is read."""
    for _ in range(count):
        wait(_nothing())


def until(condition: Callable[[], Any], limit: float = NEVER) -> None:
    """Let the loop go round until the condition holds."""
    with flower.timeout(limit):
        while not condition():
            rounds(1)


@contextmanager
def listening() -> Any:
    """A listener on a port of its own."""
    listener = Listen((HOME, 0), "tcp")
    try:
        yield listener
    finally:
        listener.close()


@contextmanager
def connected() -> Any:
    """Both ends of a connection, as Conns."""
    with listening() as listener:
        near = Dial("tcp", listener.addr())
        far = listener.receive(NEVER)
    try:
        yield near, far
    finally:
        near.close()
        far.close()


@contextmanager
def plain_peer() -> Any:
    """A Conn, and at its other end a plain socket, blocking with a time limit."""
    with listening() as listener:
        sock = socket.create_connection(listener.addr(), NEVER)
        conn = listener.receive(NEVER)
    try:
        yield conn, sock
    finally:
        conn.close()
        sock.close()


def reset(sock: socket.socket) -> None:
    """Close a plain socket so that the peer gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def fill(conn: Conn) -> int:
    """Send until there is no room, and none to come; the number of bytes that were taken."""
    total = 0
    with suppress(flower.Timeout):
        while True:
            conn.send(b"x" * 65_536, timeout=UNACKNOWLEDGED)
            total += 65_536
    return total


def read_all(conn: Conn) -> bytes:
    return b"".join(iter(lambda: conn.read(timeout=NEVER), b""))


def echo(conn: Conn) -> None:
    for data in conn:
        conn.send(data)
    conn.close()


@contextmanager
def echo_server() -> Any:
    """A listener that echoes."""
    with listening() as listener:
        t = flower.tasklet(listener.serve)(echo)
        yield listener
        listener.close()
        t.join(NEVER)


def failing(function: Callable[..., Any], *args: Any) -> Any:
    """A tasklet whose result is the exception that the function raises."""

    def body() -> BaseException:
        try:
            result = function(*args)
        except Exception as error:
            return error
        raise AssertionError(f"it was to fail, and gave {result!r}")

    return flower.go(body)


def in_thread(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """Run the function in a thread; gives a function that waits for the result, in its tasklet."""
    done = flower.channel(1)

    def body() -> None:
        try:
            result = function(*args)
        except BaseException as error:
            done.send(flower.bomb(error))
        else:
            done.send(result)

    thread = threading.Thread(target=body)
    thread.start()

    def finish() -> Any:
        try:
            return done.receive(NEVER)
        finally:
            thread.join(NEVER)

    return finish


def receive_exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            break
        data += piece
    return bytes(data)


def receive_all(sock: socket.socket) -> bytes:
    data = bytearray()
    while piece := sock.recv(65536):
        data += piece
    return bytes(data)


class Program:
    """A Python program in a process of its own. It is killed when the ``with`` block is left."""

    def __init__(self, code: str, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", textwrap.dedent(code), *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "error"},
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        assert line, f"it ended: {self.process.stderr.read()}"
        return line.strip()

    def kill(self, signum: int = signal.SIGKILL) -> None:
        self.process.send_signal(signum)

    def end(self) -> str:
        """Wait for its end, which must be a good one with nothing on standard error; what it printed."""
        out, err = self.process.communicate(timeout=NEVER)
        assert (self.process.returncode, err) == (0, ""), f"ended with {self.process.returncode}: {out}{err}"
        return out


def output(code: str, *args: str) -> str:
    """What a program prints that must end well, and say nothing on standard error."""
    with Program(code, *args) as program:
        return program.end()


@contextmanager
def listening_tls(**options: Any) -> Iterator[Listener]:
    made = certificates()
    with Listen((HOME, 0), "tls", cert=made.server, key=made.server_key, **options) as listener:
        yield listener


@contextmanager
def serving_tls(**options: Any) -> Iterator[Listener]:
    """A TLS server that echoes."""
    with listening_tls(**options) as listener:
        t = flower.go(listener.serve, echo)
        yield listener
        listener.close()
        t.join(NEVER)


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates().ca)


def alive(listener: Listener) -> bool:
    """Whether the server still serves."""
    with Dial("tls", listener.addr(), ca=certificates().ca) as conn:
        conn.write("alive?")
        return conn.read_exactly(6, timeout=NEVER) == b"alive?"


def alive_at_last(listener: Listener) -> bool:
    """As `alive`, of a server that gives handshakes so little time that on a busy machine we may be late, too."""
    with flower.timeout(NEVER):
        while True:
            try:
                return alive(listener)
            except ConnectionError:
                pass


@contextmanager
def pipe() -> Iterator[list[int]]:
    ends = list(os.pipe())
    try:
        yield ends
    finally:
        for fd in ends:
            if fd >= 0:
                os.close(fd)


@dataclass(frozen=True)
class Frozen(Exception):
    """An error that takes no note, nor any other attribute."""

    code: int


@contextmanager
def framed_plain(codec: Any) -> Iterator[tuple[Framed[Any], socket.socket]]:
    """A framed connection, and at its other end a plain socket."""
    with plain_peer() as (conn, sock), framed(conn, codec) as messages:
        yield messages, sock


def waiting(function: Any, *args: Any) -> flower.tasklet:
    """A tasklet that calls the function, and waits in it."""
    t = flower.go(function, *args)
    rounds(2)
    assert t.blocked
    return t
