"""Our own transports: what is left to read after a reset, and systems without epoll."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import random
import select
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

import flower
import flower.io
from flower import process
from flower.net import Conn, Dial, _stream, _transport
from tests.net.support import (
    NEVER,
    connected,
    in_thread,
    plain_peer,
    read_all,
    receive_all,
    receive_exactly,
    reset,
    rounds,
    until,
)

pytestmark = pytest.mark.usefixtures("loop")

BULK = 1_000_000
MORE = 48_000  # bytes; more than is read at a time, less than what a kernel takes before it waits for the reader


def test_what_came_before_a_reset_is_read_first() -> None:
    with plain_peer() as (conn, sock):
        sock.sendall(b"x" * MORE)
        reset(sock)
        got = 0
        with pytest.raises(ConnectionResetError):
            while True:
                got += len(conn.receive(NEVER))
        assert got == MORE


def test_a_reset_ends_who_waits_to_read_and_who_waits_for_room() -> None:
    with plain_peer() as (conn, sock):
        reader = flower.go(conn.read)
        writer = flower.go(lambda: [conn.send(b"x" * 65_536) for _ in range(1000)])
        rounds(5)
        reset(sock)
        for t in (reader, writer):
            with pytest.raises(OSError):
                t.join(NEVER)


@pytest.mark.parametrize("epoll", [True, False])
def test_both_ways_at_once_with_epoll_and_without(monkeypatch: pytest.MonkeyPatch, epoll: bool) -> None:
    if not epoll:
        monkeypatch.setattr(_transport, "_epoll", None)

    def body() -> list[bytes]:
        with connected() as (near, far):
            for conn in near, far:
                flower.go(lambda conn=conn: (conn.send(b"x" * BULK, NEVER), conn.close_write()))
            return [read_all(near), read_all(far)]

    assert in_thread(flower.run, body)() == [b"x" * BULK] * 2


@pytest.mark.parametrize("kept", ["the chunks", "views of them", "nothing"])
def test_memory_is_read_into_again_only_when_nobody_has_it(kept: str) -> None:
    """A transfer of many: its chunks are long, and the memory of those that were let go of is used again."""
    data = random.Random(7).randbytes(8_000_000)
    with plain_peer() as (conn, sock):
        sent = in_thread(lambda: sock.sendall(data))
        chunks: list[Any] = []
        told = []  # of each chunk, when it came
        digest = hashlib.sha256()
        while sum(told) < len(data):
            chunk = conn.receive(NEVER)
            told.append(len(chunk))
            digest.update(chunk)
            hash(chunk)  # it is remembered in the object
            assert {chunk: len(told)}[bytes(memoryview(chunk))] == len(told)
            assert chunk + b"" == bytes(bytearray(chunk))
            if kept != "nothing" and len(told) % 3 != 1:
                chunks.append((sum(told[:-1]), chunk if kept == "the chunks" else memoryview(chunk)))
        sent()
    assert digest.digest() == hashlib.sha256(data).digest()
    assert max(told) > 60_000
    for at, chunk in chunks:
        assert data[at : at + len(chunk)] == chunk


def test_one_system_call_takes_what_a_tasklet_writes_after_its_first_write() -> None:
    with plain_peer() as (conn, sock):

        def write() -> bytes:
            for letter in "abc":
                conn.write(letter)
            return sock.recv(10, socket.MSG_DONTWAIT)

        assert flower.go(write).join() == b"a"
        rounds(1)
        assert sock.recv(10, socket.MSG_DONTWAIT) == b"bc"
        much = flower.go(lambda: (conn.write(b"x"), [conn.write(b"y" * 10_000) for _ in range(2)], sock.recv(30_000)))
        assert len(much.join()[2]) == 20_001  # it is more than is to be held for that
        assert flower.go(write).join() == b"a"  # a new turn, and again the first of it
        rounds(1)
        assert sock.recv(10, socket.MSG_DONTWAIT) == b"bc"
        assert (
            flower.go(lambda: (conn.writelines("fg"), conn.write("h"), conn.flush(), sock.recv(10))[-1]).join()
            == b"fgh"
        )
        conn.write("d")
        conn.write("e")
        assert sock.recv(10, socket.MSG_DONTWAIT) == b"de"  # main may be about to block its thread


@pytest.mark.parametrize("how", ["join", "run", "receive"])
def test_main_goes_on_when_all_has_left(how: str) -> None:
    """It may be about to block its thread, as Python's prompt does."""
    done = flower.channel(label="done")
    with plain_peer() as (conn, sock):

        def write() -> None:
            conn.write("a")
            conn.write("b")
            if how == "receive":
                done.send(None)

        t = flower.go(write)
        if how == "run":
            flower.run()
        elif how == "receive":
            done.receive()
        t.join()
        assert sock.recv(10, socket.MSG_DONTWAIT) == b"ab"


def in_the_middle(function: Callable[[], object], of: Callable[[], object]) -> None:
    """Have a finalizer call the function: the collector runs at the first allocation that can bring it about."""

    class Circle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            function()

    gc.collect()
    gc.disable()
    before = gc.get_threshold()
    kept: list[list[int]] = [[] for _ in range(200)]  # so that none is at hand, which the next would be made of
    Circle()
    gc.set_threshold(1)
    gc.enable()
    try:
        of()
    finally:
        gc.set_threshold(*before)
        kept.clear()
        gc.collect()  # where none was made, and nothing ran in the middle


def test_what_a_finalizer_writes_in_the_middle_of_a_write_that_is_gathered() -> None:
    with plain_peer() as (conn, sock):

        def write() -> None:
            conn.write("a")
            in_the_middle(lambda: conn.write("b"), lambda: conn.write("c"))

        flower.go(write).join()
        assert sorted(receive_exactly(sock, 3)) == sorted(b"abc")


@pytest.mark.parametrize("what", ["write", "abort"])
def test_a_finalizer_in_the_middle_of_a_write_that_the_kernel_does_not_take(what: str) -> None:
    with plain_peer() as (conn, sock):
        taken = []
        finalize = conn.abort if what == "abort" else lambda: taken.append(conn._stream.offer(b"b"))
        in_the_middle(finalize, lambda: conn.write(b"a" * (10 * BULK)))
        assert conn.status == ("closed" if what == "abort" else "open")
        assert taken in ([], [True], [False])  # there may be no room any more
        conn.close()
        finish = in_thread(receive_all, sock)
        if what == "abort":
            with pytest.raises(ConnectionResetError):
                finish()
            assert not any(conn._stream.poller._sockets.watched)
        else:
            assert finish().count(b"b") == taken.count(True)


def test_sockets_that_were_found_ready_and_are_others_when_it_is_their_turn() -> None:
    """Tasklets run after so many bytes. Those that run then may close what was found ready, and use its descriptor."""
    with ExitStack() as stack:
        pairs = [stack.enter_context(plain_peer()) for _ in range(6)]
        fresh: list[Any] = []
        first: list[Conn] = []

        def read(mine: Conn) -> None:
            with suppress(ConnectionAbortedError):
                while mine.read():
                    if not first:
                        first.append(mine)
                        for conn, _ in pairs:
                            if conn is not mine:
                                conn.abort()
                        rounds(2)
                        fresh.extend(stack.enter_context(plain_peer()) for _ in range(5))

        readers = [flower.go(read, conn) for conn, _ in pairs]
        rounds(1)
        for _, sock in pairs:
            sock.setblocking(False)
            sock.send(b"x" * BULK)
        until(lambda: len(fresh) == 5)
        for conn, sock in fresh:
            sock.sendall(b"y")
            assert conn.receive(NEVER) == b"y"
        for _, sock in pairs:
            sock.close()
        for t in readers:
            t.join(NEVER)


@pytest.mark.parametrize("when", ["resumed", "written"])
def test_a_connection_that_the_system_can_watch_no_more_is_lost(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    class Full:
        """An epoll set; there is a limit to how many sockets a user may have in all of them."""

        full = False

        def __init__(self) -> None:
            self._set = select.epoll()
            for name in ("fileno", "modify", "unregister", "poll", "close"):
                setattr(self, name, getattr(self._set, name))

        def register(self, fd: int, events: int) -> None:
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._set.register(fd, events)

    monkeypatch.setattr(_transport, "_epoll", Full)

    def body() -> None:
        with plain_peer() as (conn, sock):
            sock.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    sock.send(b"x" * 65_536)
                    rounds(1)
            until(lambda: conn._stream._paused)
            monkeypatch.setattr(Full, "full", True)
            if when == "written":
                conn.write(b"x" * 10 * BULK)
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
                while True:
                    conn.receive(NEVER)
            assert caught.value.errno == errno.ENOSPC
            assert conn.status == "closed"
            monkeypatch.setattr(Full, "full", False)

    in_thread(flower.run, body)()


def test_a_reader_that_takes_the_last_just_as_a_write_fails_has_nothing_watched_any_more() -> None:
    with plain_peer() as (conn, sock):
        while not conn._stream._paused:
            sock.send(b"x" * 10_000)
            rounds(1)
        transport = conn._stream._transport
        reset(sock)
        conn.send(b"x")
        assert transport.is_closing()
        while conn._stream._paused and len(conn._incoming):
            conn.receive(NEVER)
        flower.select(conn, default=None)
        rounds(2)
        assert conn.status == "closed"
        assert transport not in conn._stream.poller._sockets.watched


def test_of_many_small_pieces_the_first_leave_before_the_turn_is_over() -> None:
    with plain_peer() as (conn, sock):

        def write() -> bytes:
            for _ in range(_stream.PIECES + 3):
                conn.write("x")
            return sock.recv(1000, socket.MSG_DONTWAIT)

        assert flower.go(write).join() == b"x" * (1 + _stream.PIECES)
        rounds(1)
        assert sock.recv(1000, socket.MSG_DONTWAIT) == b"xx"


@pytest.mark.parametrize("of", ["a socket", "a program's input"])
def test_a_flush_that_is_given_up_leaves_the_room_that_there_is(of: str) -> None:
    with plain_peer() as (conn, _sock), process.start(["sleep", "1000"], stdout=None) as program:
        if of != "a socket":
            conn.close()
            conn = program.stdin

        def write() -> None:
            while not conn._stream._transport.get_write_buffer_size():
                conn.send(b"x" * 1000)
            with pytest.raises(flower.Timeout):
                conn.flush(timeout=0.005)
            conn.send(b"there is room for this", NEVER)

        flower.go(write).join(NEVER)
        conn.abort()
        program.kill()


def test_all_who_flush_go_on() -> None:
    with plain_peer() as (conn, sock):
        conn.send(b"x" * 5 * BULK)
        tasklets = [flower.go(conn.flush) for _ in range(3)]
        rounds(1)
        assert all(t.blocked for t in tasklets)
        finish = in_thread(receive_exactly, sock, 5 * BULK)
        for t in tasklets:
            t.join(NEVER)
        finish()


def test_a_flush_after_a_write_that_failed_says_so() -> None:
    with plain_peer() as (conn, sock):
        sock.shutdown(socket.SHUT_WR)
        assert conn.read(timeout=NEVER) == b""
        reset(sock)
        select.select([conn._stream._sock], [], [], NEVER)
        conn.send(b"x")
        with pytest.raises(OSError, match=r"127\.0\.0\.1"):
            conn.flush(timeout=NEVER)
    with process.start(["true"], stdout=None) as program:
        poll = select.poll()
        poll.register(program.stdin._stream._sock._fd, 0)
        assert poll.poll(NEVER * 1000)  # nobody reads any more, and the loop has yet to know
        program.stdin.send(b"x")
        with pytest.raises(BrokenPipeError, match="stdin"):
            program.stdin.flush(timeout=NEVER)


def test_to_send_nothing_is_to_ask_whether_one_may() -> None:
    with plain_peer() as (conn, sock):
        conn.send(b"")
        conn.close_write()
        with pytest.raises(flower.ChannelClosed):
            conn.send(b"")
        assert sock.recv(10) == b""


def test_the_end_of_a_thread_leaves_no_descriptor() -> None:
    def body() -> None:
        with connected() as (near, far):
            near.send(b"x")
            assert far.receive(NEVER) == b"x"

    def descriptors() -> set[Any]:
        return {entry.name for entry in Path("/dev/fd").iterdir()}

    before = descriptors()
    thread = threading.Thread(target=flower.run, args=(body,))
    thread.start()
    flower.blocking(thread.join)
    assert len(descriptors()) <= len(before)


def test_what_came_before_a_reset_is_read_though_a_writer_is_the_first_to_see_it() -> None:
    with plain_peer() as (conn, sock):
        conn.send(b"a request")
        sock.sendall(b"an answer")
        sock.close()  # with the request unread: a reset
        with pytest.raises(OSError):
            for _ in range(100):
                conn.send(b"more of the request")
        assert conn.receive(NEVER) == b"an answer"
        with pytest.raises(ConnectionResetError):
            conn.receive(NEVER)


def test_a_half_close_that_comes_too_late_hides_no_reset() -> None:
    with plain_peer() as (conn, sock):
        reset(sock)
        conn.close_write()
        with pytest.raises(ConnectionResetError):
            conn.receive(NEVER)


@pytest.mark.parametrize("last", ["send", "close_write"])
def test_an_end_is_read_though_a_writer_is_the_first_to_see_that_nobody_is_there(last: str) -> None:
    with plain_peer() as (conn, sock):
        sock.sendall(b"an answer")
        sock.close()  # a clean end
        conn.send(b"a request")  # which is answered with a reset
        if last == "close_write":
            conn.close_write()
        else:
            with pytest.raises(BrokenPipeError):
                for _ in range(100):
                    conn.send(b"more of it")
        assert conn.receive(NEVER) == b"an answer"
        assert conn.read(timeout=NEVER) == b""
        with pytest.raises(OSError):
            conn.send(b"too late")


def test_a_given_socket_that_its_owner_closes_is_the_connection_s_and_no_other_is_taken_for_it() -> None:
    def body() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            with ours:
                conn = Dial("sockpipe", ours)
            near, far = socket.socketpair()  # of the next numbers
            with far, Dial("sockpipe", near) as other:
                conn.send(b"x")
                assert theirs.recv(10) == b"x"
                far.sendall(b"y")
                assert other.receive(NEVER) == b"y"
                theirs.sendall(b"z")
                assert conn.receive(NEVER) == b"z"
                conn.close()
                assert other.status == "open"

    in_thread(flower.run, body)()


def test_an_answer_waits_for_no_other_tasklet_and_many_answers_leave_together() -> None:
    with plain_peer() as (conn, sock):
        seen = []

        def answer(data: bytes) -> None:
            conn.send(data)
            sock.setblocking(False)
            try:
                seen.append(sock.recv(100))
            except BlockingIOError:
                seen.append(b"")

        def turn(*answers: bytes) -> list[bytes]:
            sock.sendall(b"x")
            until(lambda: len(conn._incoming))
            conn.receive(NEVER)
            seen.clear()
            for data in answers:
                flower.go(answer, data)
            flower.go(rounds, 1)  # so that none of them is the last
            rounds(2)
            return seen[:]

        assert turn(b"a") == [b"a"]
        assert turn(b"a", b"b") == [b"a", b""]
        flower.io.wait_read(sock, NEVER)
        assert sock.recv(100) == b"b"
        assert turn(b"a", b"b") == [b"", b""]  # there were several the last time, too
        flower.io.wait_read(sock, NEVER)
        assert sock.recv(100) == b"ab"
        assert turn(b"a") == [b""]
        flower.io.wait_read(sock, NEVER)
        assert sock.recv(100) == b"a"
        assert turn(b"a") == [b"a"]
