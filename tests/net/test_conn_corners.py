"""A connection where its two sides don't keep step: polled, reset, closed with data unread, given a wrong timeout."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import tracemalloc
import weakref
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import pytest

import flower
import flower.io
from flower import channel, process
from flower.errors import ChannelClosed, Timeout
from flower.net import Conn, Dial, Lines, Listen, framed
from tests.net.certificates import certificates
from tests.net.support import HOME, NEVER, fill, in_thread, plain_peer, receive_all, reset, rounds, until

pytestmark = pytest.mark.usefixtures("loop")


@pytest.mark.parametrize("how", ["select", "no time", "read_exactly"])
def test_polling_goes_on_when_the_buffer_was_taken(how: str) -> None:
    with plain_peer() as (conn, sock):
        finish = in_thread(sock.sendall, b"x" * 3_000_000)
        until(lambda: conn._stream._paused)
        count = 0
        while count < 3_000_000:
            rounds(1)
            if how == "select":
                count += len(flower.select(conn, default=b"")[1])
            else:
                try:
                    count += len(conn.receive(0) if how == "no time" else conn.read_exactly(3_000_000, timeout=0))
                except Timeout:
                    pass
        finish()


@pytest.mark.parametrize("how", ["read", "read_exactly", "read_until"])
def test_a_small_piece_is_taken_without_a_copy_of_the_rest(how: str) -> None:
    size = 200_000
    with plain_peer() as (conn, sock):
        finish = in_thread(sock.sendall, b"1234567\n" * (size // 8))
        with pytest.raises(Timeout):
            conn.read_exactly(size + 1, timeout=0.1)
        finish()
        pieces = {"read": lambda: conn.read(8), "read_exactly": lambda: conn.read_exactly(8)}
        take = pieces.get(how, conn.read_until)
        take()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(10):
                assert take() == b"1234567\n"
            most = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
        assert most < size / 10


def test_a_pause_that_comes_after_the_last_was_taken_ends_at_once() -> None:
    with plain_peer() as (conn, sock):
        reader = flower.go(conn.receive)
        rounds(1)
        assert reader.blocked
        conn._stream._pause()  # as when a receiver in another thread was quicker, and waits again
        sock.sendall(b"x")
        assert reader.join(NEVER) == b"x"


def test_select_after_a_reset_never_takes_it_for_an_end() -> None:
    with plain_peer() as (conn, sock):
        reset(sock)
        for _ in range(3):
            with pytest.raises(ConnectionResetError):
                flower.select(conn, timeout=NEVER)


def test_channel_closed_names_the_connection() -> None:
    with plain_peer() as (conn, sock):
        sock.close()
        assert conn.read(timeout=NEVER) == b""
        for attempt in (conn.receive, lambda: flower.select(conn), lambda: flower.select(conn, default=None)):
            with pytest.raises(ChannelClosed, match="the peer closed it") as caught:
                attempt()
            assert caught.value.channel is conn
        conn.close()
        with pytest.raises(ChannelClosed) as caught:
            conn.send(b"x")
        assert caught.value.channel is conn


@pytest.mark.parametrize("timeout", [-1, float("nan"), True, "x"])
def test_timeouts_are_checked_where_none_is_needed(timeout: Any) -> None:
    with plain_peer() as (conn, sock):
        sock.sendall(b"x")
        for attempt in (lambda: conn.send(b"y", timeout), lambda: conn.write("y", timeout=timeout)):
            with pytest.raises((TypeError, ValueError), match="timeout"):
                attempt()
        rounds(3)
        for attempt in (lambda: conn.receive(timeout), lambda: conn.read(timeout=timeout)):
            with pytest.raises((TypeError, ValueError), match="timeout"):
                attempt()
        assert conn.receive() == b"x"


def test_an_abort_that_drops_what_came_is_not_taken_for_the_peers_end() -> None:
    with plain_peer() as (conn, sock):
        sock.sendall(b"something")
        sock.shutdown(socket.SHUT_WR)
        until(lambda: conn.status == "writeonly")
        conn.abort()
        for read in (conn.read, conn.receive, lambda: list(conn), lambda: flower.select(conn), conn.read_until):
            with pytest.raises(ConnectionAbortedError, match="was aborted here"):
                read()
        assert conn.status == "closed"


def test_an_abort_is_a_reset_at_the_peer() -> None:
    with plain_peer() as (conn, sock):
        fill(conn)
        conn.abort()
        rounds(2)
        with pytest.raises(ConnectionResetError):
            receive_all(sock)


def test_a_close_with_unread_data_loses_nothing_that_was_written() -> None:
    with plain_peer() as (conn, sock):
        pushed = in_thread(sock.sendall, b"q" * 20_000_000)  # more than the kernel holds
        until(lambda: conn._stream._paused)
        total = fill(conn)
        conn.close()
        pushed()  # the peer is not stopped by our end
        finish = in_thread(receive_all, sock)
        assert len(finish()) == total
    until(lambda: conn._stream._transport is None)


def test_a_parked_select_names_the_connection_that_ends() -> None:
    with plain_peer() as (conn, sock):
        t = flower.go(flower.select, flower.channel(), conn)
        rounds(2)
        sock.close()
        with pytest.raises(flower.ChannelClosed) as caught:
            t.join(NEVER)
        assert caught.value.channel is conn


def test_bytes_leave_at_once_though_the_writer_never_waits() -> None:
    with plain_peer() as (conn, sock):
        for i in range(3):
            conn.send(b"%d" % i)
            assert sock.recv(100) == b"%d" % i  # this blocks the thread, the loop with it


@pytest.mark.compiled  # uncompiled, a frame that raises keeps the exception, and the exception the frame
@pytest.mark.parametrize("proto", ["tcp", "tls"])
@pytest.mark.parametrize("end", ["close", "abort", "peer"])
def test_an_ended_connection_leaves_no_cycle(proto: str, end: str) -> None:
    made = certificates()
    server = {"cert": made.server, "key": made.server_key} if proto == "tls" else {}
    gc.collect()
    gc.disable()
    try:
        with Listen((HOME, 0), proto, **server) as listener:
            near = Dial(proto, listener.addr(), **({"ca": made.ca} if proto == "tls" else {}))
            far = listener.receive(NEVER)
        assert flower.select((near, b"x"))[0] is near
        assert far.read(timeout=NEVER) == b"x"
        if end == "peer":
            far.close()
            assert near.read(timeout=NEVER) == b""
            near.close()
        else:
            getattr(near, end)()
            try:
                far.read(timeout=NEVER)
            except OSError:
                pass
            far.close()
        poller = near._stream.poller
        until(lambda: not poller.resources)
        streams = [weakref.ref(conn._stream) for conn in (near, far)]
        del near, far
        rounds(2)
        assert [ref() for ref in streams] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("how", ["cut off", "too long"])
def test_what_a_peer_does_ends_no_program(how: str) -> None:
    """An uncaught error of a connection is reported, of whatever kind it is: a tasklet that nobody joins may see it."""
    before = flower.set_error_handler(None)
    try:
        with plain_peer() as (conn, sock):
            t = flower.tasklet(conn.read_until if how == "too long" else conn.read_exactly, label="handler")
            t(*((b"\n",) if how == "too long" else (10,)), **({"limit": 5} if how == "too long" else {}))
            rounds(1)
            sock.sendall(b"123456")
            sock.close()
            with redirect_stderr(StringIO()) as err:
                until(lambda: not t.alive)
                rounds(2)  # nothing is raised here, in main
            assert "Error in <tasklet 'handler'" in err.getvalue()
    finally:
        flower.set_error_handler(before)


def send_without_room(conn: Conn) -> None:
    fill(conn)
    conn.send(b"one more")


def flush_without_room(conn: Conn) -> None:
    fill(conn)
    conn.flush()


OF_A_CONNECTION: dict[str, Any] = {
    "receive": lambda conn: conn.receive(),
    "receive in time": lambda conn: conn.receive(NEVER),
    "read": lambda conn: conn.read(),
    "read a few": lambda conn: conn.read(5),
    "read_exactly": lambda conn: conn.read_exactly(5),
    "read_until": lambda conn: conn.read_until(),
    "iteration": list,
    "send": send_without_room,
    "flush": flush_without_room,
    "start_tls": lambda conn: conn.start_tls(server_name="localhost"),
    "framed": lambda conn: framed(conn, Lines()).receive(),
    "iteration of messages": lambda conn: list(framed(conn, Lines())),
}


def ends_at_a_closed_channel() -> channel[Any]:
    """A tasklet that will, and that nobody joins; gives the channel."""
    closed: channel[Any] = channel()
    closed.close()
    flower.go(lambda: (rounds(10), closed.send("a value")))
    return closed


@pytest.mark.parametrize("call", OF_A_CONNECTION)
def test_what_a_tasklet_ended_with_is_not_the_end_of_what_main_waits_for(call: str) -> None:
    with plain_peer() as (conn, _):
        closed = ends_at_a_closed_channel()
        with pytest.raises(ChannelClosed) as caught:
            OF_A_CONNECTION[call](conn)
        assert caught.value.channel is closed


@pytest.mark.parametrize("call", OF_A_CONNECTION)
def test_nor_is_what_is_thrown_into_a_tasklet_the_end_of_what_that_waits_for(call: str) -> None:
    with plain_peer() as (conn, _):
        thrown = ChannelClosed("another one is closed")
        t = flower.go(OF_A_CONNECTION[call], conn)
        rounds(10)
        t.throw(thrown)
        with pytest.raises(ChannelClosed) as caught:
            t.join()
        assert caught.value is thrown


class Frozen(ChannelClosed):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)

    __init__ = Exception.__init__


def test_nor_is_an_error_that_can_not_be_changed() -> None:
    def ends() -> None:
        rounds(10)
        raise Frozen("of its own")

    with plain_peer() as (conn, _):
        flower.go(ends)
        with pytest.raises(Frozen, match="of its own"):
            conn.read()


class Odd(Timeout):
    def __getattr__(self, name: str) -> None:
        raise (AttributeError if name == "__notes__" else LookupError)(name)


def test_nor_is_an_error_that_lets_no_attribute_be_looked_at() -> None:
    with plain_peer() as (conn, _):
        t = flower.go(conn.read, timeout=NEVER)
        rounds(10)
        t.throw(Odd("of its own"))
        with pytest.raises(Odd, match="of its own"):
            t.join()


@pytest.mark.parametrize("call", ["receive", "iteration", "serve", "serve with a limit", "udp", "process"])
def test_nor_of_a_listener_a_udp_socket_or_a_program(call: str) -> None:
    with Listen((HOME, 0)) as listener, Listen((HOME, 0), "udp") as datagrams, process.start(["cat"]) as program:
        calls: dict[str, Any] = {
            "receive": listener.receive,
            "iteration": lambda: list(listener),
            "serve": lambda: listener.serve(print),
            "serve with a limit": lambda: listener.serve(print, limit=1),
            "udp": datagrams.receive,
            "process": lambda: program.wait(NEVER),
        }
        closed = ends_at_a_closed_channel()
        with pytest.raises(ChannelClosed) as caught:
            calls[call]()
        assert caught.value.channel is closed


@pytest.mark.parametrize("call", ["receive", "send", "flush", "wait_read", "process", "stop", "a coroutine"])
def test_nor_is_a_timeout_of_a_tasklet_one_of_what_main_waits_for(call: str) -> None:
    with plain_peer() as (conn, _), process.start(["sh", "-c", "trap '' TERM; echo; cat"]) as program:
        assert program.stdout.read_exactly(1, timeout=NEVER) == b"\n"
        near, far = os.pipe()
        calls: dict[str, Any] = {
            "receive": lambda: conn.receive(NEVER),
            "send": lambda: conn.send(b"one more", NEVER),
            "flush": lambda: conn.flush(timeout=NEVER),
            "wait_read": lambda: flower.io.wait_read(near, NEVER),
            "process": lambda: program.wait(NEVER),
            "stop": lambda: program.stop(NEVER),
            "a coroutine": lambda: flower.wait(asyncio.sleep(NEVER), NEVER),
        }

        def ends() -> None:
            rounds(50)
            raise Timeout("of its own")

        if call in ("send", "flush"):
            fill(conn)
        flower.go(ends)
        with pytest.raises(Timeout, match="of its own"):
            calls[call]()
        os.close(near)
        os.close(far)
        assert program.status is None


@pytest.mark.parametrize("timeout", [None, NEVER])
def test_a_timeout_that_is_thrown_is_not_the_one_of_what_the_tasklet_waits_for(timeout: float | None) -> None:
    with process.start(["cat"]) as program:
        thrown = Timeout("of another one")
        t = flower.go(program.wait, timeout)
        rounds(10)
        t.throw(thrown)
        with pytest.raises(Timeout) as caught:
            t.join()
        assert caught.value is thrown


def test_what_a_tasklet_ended_with_is_no_failure_of_the_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def slow(host: str, *args: Any, flags: int = 0, **kwargs: Any) -> Any:
        if not flags & socket.AI_NUMERICHOST:
            over.wait(NEVER)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    def ends() -> None:
        rounds(10)
        raise FileNotFoundError("a file")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    flower.go(ends)
    with pytest.raises(FileNotFoundError) as caught:
        Dial("tcp", ("name.invalid", 9))
    over.set()
    assert str(caught.value) == "a file"


def test_a_writer_that_fails_does_not_end_the_loop_of_main_over_the_same_connection() -> None:
    with plain_peer() as (conn, _):
        conn.close_write()
        flower.go(lambda: (rounds(10), conn.send(b"too late")))
        with pytest.raises(ChannelClosed, match="closed here for writing"):
            list(conn)


@pytest.mark.parametrize("of", ["a connection", "a file"])
def test_a_stop_iteration_of_a_tasklet_ends_no_loop_of_main(of: str) -> None:
    over = threading.Event()

    class Slow(StringIO):
        def readline(self, size: int | None = -1, /) -> str:
            over.wait(NEVER)
            return ""

    def ends() -> None:
        rounds(10)
        next(iter([]))

    with plain_peer() as (conn, _):
        flower.go(ends)
        with pytest.raises(RuntimeError, match="StopIteration"):
            list(conn if of == "a connection" else flower.io.File(Slow()))
        over.set()
