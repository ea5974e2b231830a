"""framed: peers that cut, stop and lie; bounds, threads, and what is left."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import flower
from flower.errors import ProtocolError
from flower.net import Conn, Dial, LengthPrefixed, Lines, MessagePack, framed
from tests.net.support import (
    NEVER,
    Frozen,
    connected,
    failing,
    framed_plain,
    in_thread,
    listening,
    plain_peer,
    receive_all,
    receive_exactly,
    reset,
    rounds,
    until,
    waiting,
)

pytestmark = pytest.mark.usefixtures("loop")


class Odd(Exception):
    """An error that can't be made again of its arguments."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} {other}")


# -- Ends and faults


@pytest.mark.parametrize("parked", [False, True])
def test_closed_here(parked: bool) -> None:
    with framed_plain(Lines()) as (messages, sock):
        tasklets = [waiting(messages.receive), waiting(flower.select, messages)] if parked else []
        messages.close()
        messages.close()
        for t in tasklets:
            with pytest.raises(flower.ChannelClosed) as caught:
                t.join(NEVER)
            assert caught.value.channel is messages
        for _ in range(2):
            with pytest.raises(flower.ChannelClosed, match="was closed here"):
                messages.receive()
        with pytest.raises(flower.ChannelClosed, match="was closed here"):
            flower.select(messages)
        with pytest.raises(flower.ChannelClosed):
            messages.send("too late")
        assert in_thread(receive_all, sock)() == b""


@pytest.mark.filterwarnings("ignore:a thread ended with 1 tasklets:ResourceWarning")
@pytest.mark.parametrize("begun", [False, True])
def test_the_end_of_its_thread_is_told_in_other_threads(begun: bool) -> None:
    made: flower.channel[Any] = flower.channel(1)
    leave = threading.Event()

    def body() -> None:
        with listening() as listener:
            near, far = Dial("tcp", listener.addr()), listener.receive(NEVER)
        messages = framed(near, Lines())
        if begun:
            rounds(2)
        made.send((messages, far))
        leave.wait(NEVER)

    finish = in_thread(body)
    messages, _far = made.receive(NEVER)
    readers = [failing(messages.receive), failing(list, messages), failing(flower.select, messages)]
    rounds(1)
    leave.set()
    finish()
    for reader in [*readers, failing(messages.receive)]:
        error = reader.join(NEVER)
        assert isinstance(error, ConnectionAbortedError)
        assert "the thread that reads it has ended" in str(error)


@pytest.mark.filterwarnings("ignore:a thread ended with 1 tasklets:ResourceWarning")
@pytest.mark.parametrize("begun", [True, False])
def test_the_end_of_a_thread_that_only_reads_is_told_in_other_threads(begun: bool) -> None:
    made: flower.channel[Any] = flower.channel(1)
    leave = threading.Event()

    def body(conn: Conn) -> None:
        messages = framed(conn, Lines())
        if begun:
            flower.schedule()
        made.send(messages)
        leave.wait(NEVER)

    with connected() as (near, _far):
        finish = in_thread(body, near)
        messages = made.receive(NEVER)
        reader = failing(list, messages)
        rounds(1)
        leave.set()
        finish()
        error = reader.join(NEVER)
        assert isinstance(error, ConnectionAbortedError)
        assert "the thread that reads it has ended" in str(error)
        assert near.status == "open"


def test_a_fork_leaves_it_to_the_parent() -> None:
    with framed_plain(Lines()) as (messages, sock):
        rounds(1)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                messages.receive(NEVER)
            except ConnectionAbortedError as error:
                status = 0 if "belongs to the parent process" in str(error) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        sock.sendall(b"still here\n")
        assert messages.receive(NEVER) == "still here"


def test_its_connection_closed_here_in_the_middle_of_a_message() -> None:
    with framed_plain(MessagePack()) as (messages, sock):
        sock.sendall(b"\x92\x01")
        t = waiting(messages.receive)
        messages.conn.close()
        with pytest.raises(flower.ChannelClosed, match="was closed here"):  # and not a fault of the peer's
            t.join(NEVER)


def test_closed_with_messages_that_nobody_took() -> None:
    with framed_plain(Lines()) as (messages, sock):
        sock.sendall(b"one\ntwo\n")
        rounds(3)
        messages.close()
        assert list(messages) == []


@pytest.mark.parametrize("parked", [False, True])
def test_a_reset(parked: bool) -> None:
    with framed_plain(Lines()) as (messages, sock):
        sock.sendall(b"one\ntwo")
        assert messages.receive(NEVER) == "one"
        tasklets = [waiting(messages.receive), waiting(flower.select, messages)] if parked else []
        reset(sock)
        for t in tasklets:
            with pytest.raises(ConnectionResetError):
                t.join(NEVER)
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                messages.receive(NEVER)
        with pytest.raises(ConnectionResetError):
            flower.select(messages)


VIOLATIONS: dict[str, tuple[Any, bytes, bytes, str]] = {
    "a long line": (Lines(max_size=10), b"good\n", b"x" * 20, "a line longer than 10 bytes"),
    "a long frame": (
        LengthPrefixed(max_size=10),
        b"\0\0\0\4good",
        b"\0\0\0\x0b",
        "a message of 11 bytes; 10 is the most",
    ),
    "a long message": (MessagePack(max_size=10), b"\xa4good", b"\xbfxxxxxxxxxxxxxx", "10"),
    "no text": (Lines(), b"good\n", b"\xff\n", "can't decode"),
    "no msgpack": (MessagePack(), b"\xa4good", b"\xc1", "no valid MessagePack"),
}


@pytest.mark.parametrize("kind", VIOLATIONS)
@pytest.mark.parametrize("parked", [False, True])
def test_a_violation(kind: str, parked: bool) -> None:
    codec, good, bad, text = VIOLATIONS[kind]
    with framed_plain(codec) as (messages, sock):
        sock.sendall(good)
        assert messages.receive(NEVER) in ("good", b"good")
        tasklets = [waiting(messages.receive), waiting(flower.select, messages)] if parked else []
        sock.sendall(bad)
        host, port = sock.getsockname()
        for t in tasklets:
            with pytest.raises(ProtocolError, match=text):
                t.join(NEVER)
        for _ in range(2):
            with pytest.raises(ProtocolError, match=text) as caught:
                messages.receive(NEVER)
        assert f"{host}:{port}: " in str(caught.value)
        with pytest.raises(ProtocolError, match=text):
            list(messages)
        messages.send(codec.decode([good]).__next__())  # a last word is possible
        assert sock.recv(100) == good


@pytest.mark.parametrize("codec", [LengthPrefixed(), MessagePack()])
def test_an_end_in_the_middle_of_a_message(codec: Any) -> None:
    with framed_plain(codec) as (messages, sock):
        sock.sendall(codec.encode(b"whole") + codec.encode(b"cut off")[:-1])
        sock.close()
        assert messages.receive(NEVER) == b"whole"
        with pytest.raises(ProtocolError, match="an end in the middle of a message"):
            messages.receive(NEVER)


def test_a_violation_that_nobody_catches_ends_no_server() -> None:
    seen: list[BaseException] = []
    before = flower.set_error_handler(lambda t, error: seen.append(error))
    try:
        with framed_plain(Lines(max_size=10)) as (messages, sock):
            flower.go(messages.receive)
            sock.sendall(b"x" * 20)
            until(lambda: seen)
        assert isinstance(seen[0], ProtocolError)
    finally:
        flower.set_error_handler(before)


def test_somebody_else_reads_the_connection() -> None:
    with framed_plain(Lines()) as (messages, sock):
        assert isinstance(messages.conn, Conn)
        rounds(2)
        with pytest.raises(RuntimeError, match="another tasklet is waiting to read"):
            messages.conn.read_exactly(1)
        sock.sendall(b"one\n")
        assert messages.receive(NEVER) == "one"


@pytest.mark.compiled  # uncompiled, the frames of the core hold what they raise
def test_what_failed_leaves_no_cycle() -> None:
    with plain_peer() as (conn, sock):
        rounds(2)
        gc.collect()
        gc.disable()
        try:
            messages = framed(conn, Lines(max_size=10))
            sock.sendall(b"x" * 20)
            failed = False
            try:
                messages.receive(NEVER)
            except ProtocolError:
                failed = True
            assert failed
            rounds(2)  # the pump ends
            ref = weakref.ref(messages)
            inner = messages._inner
            del messages
            assert ref() is None
            assert sys.getrefcount(inner) == 2
        finally:
            gc.enable()


def test_a_codec_that_fails_in_its_own_way() -> None:
    class Broken(Lines):
        def decode(self, chunks: Any) -> Iterator[Any]:
            yield next(iter(chunks)).decode()
            raise LookupError("a bug")

    with framed_plain(Broken()) as (messages, sock):
        sock.sendall(b"one")
        assert messages.receive(NEVER) == "one"
        with pytest.raises(ProtocolError, match="a bug") as caught:
            messages.receive(NEVER)
        assert isinstance(caught.value.__cause__, LookupError)


@pytest.mark.parametrize("error", [Frozen(1), Odd(1, 2)])
def test_bytes_of_one_s_own_that_fail_in_their_own_way(error: Exception) -> None:
    class Bytes:
        def read(self) -> bytes:
            fail.receive(NEVER)
            raise error

        def send(self, data: bytes, timeout: float | None = None) -> None:
            raise error

        def close(self) -> None: ...

        close_write = close

    fail = flower.channel()
    messages = framed(Bytes(), Lines())
    readers = [failing(messages.receive) for _ in range(2)]
    rounds(1)
    fail.send(None)
    readers.append(failing(messages.receive))
    for reader in readers:
        found = reader.join(NEVER)
        assert (type(found), found.args) == (type(error), error.args)


def test_a_codec_that_ends_before_its_peer_does() -> None:
    class UntilBye(Lines):
        def decode(self, chunks: Any) -> Iterator[Any]:
            for line in super().decode(chunks):
                if line == "bye":
                    return
                yield line

    with framed_plain(UntilBye()) as (messages, sock):
        sock.sendall(b"one\nbye\ntwo\n")
        assert messages.receive(NEVER) == "one"
        with pytest.raises(flower.ChannelClosed, match="not read any more: the codec has ended"):
            messages.receive(NEVER)
        messages.send("see you")
        assert in_thread(receive_exactly, sock, 8)() == b"see you\n"


# -- Bounds, threads, and what is left


@pytest.mark.slow
def test_a_flood_is_held_back() -> None:
    with framed_plain(Lines()) as (messages, sock):
        sock.setblocking(False)
        sent = idle = 0
        while idle < 20:
            try:
                sent += sock.send((b"x" * 999 + b"\n") * 50)
                idle = 0
            except BlockingIOError:
                idle += 1
                rounds(2)
        assert sent < 16 * 1024 * 1024  # what the kernel holds, most of it
        sock.setblocking(True)
        finish = in_thread(lambda: sock.shutdown(socket.SHUT_WR))
        received = sum(len(line) + 1 for line in messages)
        finish()
        assert received - sent in (0, 1)  # the last line may have no end


def test_dropped_it_stops_reading_and_leaves_the_connection() -> None:
    with plain_peer() as (conn, sock):
        sock.sendall(b"one\n")
        for line in framed(conn, Lines()):
            assert line == "one"
            break
        rounds(2)  # the pump leaves
        sock.sendall(b"raw")
        assert conn.receive(NEVER) == b"raw"


def test_dropped_it_ends_what_its_selects_send_through() -> None:
    with plain_peer() as (conn, sock):
        messages = framed(conn, Lines())
        flower.select((messages, "one"), timeout=NEVER)
        inner = messages._inner
        assert inner.outbox is not None
        assert inner.outbox.balance < 0  # the writer waits for the next
        del messages
        rounds(2)
        assert inner.outbox.balance == 0
        assert sock.recv(100) == b"one\n"


class Message:
    """Of a kind that can be seen to go."""


class Messages:
    """A message for each byte."""

    def encode(self, message: Message) -> bytes:
        return b"x"

    def decode(self, chunks: Any) -> Iterator[Message]:
        for chunk in chunks:
            for _ in chunk:
                yield Message()


def test_a_message_is_let_go_of_before_the_next_is_waited_for() -> None:
    with connected() as (near, far):
        one, other = framed(near, Messages()), framed(far, Messages())
        message = Message()
        flower.select((one, message), timeout=NEVER)
        sent = weakref.ref(message)
        del message
        received = weakref.ref(other.receive(NEVER))
        rounds(2)
        assert (sent(), received()) == (None, None)


def test_receiving_in_another_thread() -> None:
    with framed_plain(Lines()) as (messages, sock):
        finish = in_thread(lambda: [messages.receive(NEVER) for _ in range(100)])
        sock.sendall(b"".join(b"%d\n" % n for n in range(100)))
        assert finish() == [str(n) for n in range(100)]


def test_a_line_server() -> None:
    def handle(conn: Conn) -> None:
        peer = framed(conn, Lines())
        for line in peer:
            peer.send(line.upper())

    with listening() as listener:
        t = flower.go(listener.serve, handle)
        with socket.create_connection(listener.addr(), NEVER) as sock:
            sock.sendall(b"hello\nthere\n")
            sock.shutdown(socket.SHUT_WR)
            assert in_thread(receive_all, sock)() == b"HELLO\nTHERE\n"
        listener.close()
        t.join(NEVER)


def test_what_it_looks_like() -> None:
    with framed_plain(Lines()) as (messages, _sock):
        assert repr(messages).startswith("<Framed Lines over <Conn tcp 127.0.0.1:")
        assert messages
