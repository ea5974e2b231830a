"""A connection as a part of a program: backpressure, select, what it looks like, and what leaves together."""

from __future__ import annotations

import socket
import warnings
from typing import Any

import pytest

import flower
from flower.errors import ChannelClosed
from flower.net import Conn, Dial, Listen
from flower.net._bounds import HIGH_WATER, INCOMING_LIMIT
from tests.net.support import (
    HOME,
    NEVER,
    connected,
    failing,
    fill,
    in_thread,
    listening,
    plain_peer,
    read_all,
    rounds,
    until,
)

pytestmark = pytest.mark.usefixtures("loop")


# -- Backpressure


def test_a_flood_is_held_back() -> None:
    with plain_peer() as (conn, sock):
        sock.setblocking(False)
        sent = 0
        for _ in range(200):
            try:
                while True:
                    sent += sock.send(b"x" * 65_536)
            except BlockingIOError:
                rounds(1)
        held = sum(len(chunk) for chunk in iter(lambda: conn._receive_channel.try_receive(b""), b""))
        assert 0 < held <= 2 * INCOMING_LIMIT
        assert sent > held
        got = held
        while got < sent:
            got += len(conn.receive(NEVER))
        assert got == sent


def test_a_flood_of_tiny_chunks_is_held_back() -> None:
    with plain_peer() as (conn, _sock):
        stream = conn._stream
        while not stream._paused:
            stream.data_received(b"x")
        assert len(conn._receive_channel) < INCOMING_LIMIT / 16
        conn._stream._resume()  # as of a second receiver, in another thread, that looked before the flood came
        assert conn._stream._paused


def test_chunks_that_are_taken_one_by_one_hold_nothing_back() -> None:
    with plain_peer() as (conn, _sock):
        for _ in range(INCOMING_LIMIT // 16_384 + 1):
            conn._stream.data_received(b"x" * 16_384)
            assert len(conn.receive()) == 16_384
        assert not conn._stream._paused


@pytest.mark.parametrize("how", ["receive", "select", "iterate"])
def test_reading_goes_on_when_the_buffer_was_taken(how: str) -> None:
    size = 4 * INCOMING_LIMIT
    with plain_peer() as (conn, sock):
        finish = in_thread(sock.sendall, b"x" * size)
        until(lambda: conn._stream._paused)
        got = 0
        chunks = iter(conn)
        while got < size:
            if how == "select":
                source, data = flower.select(conn, timeout=NEVER)
                assert source is conn
            else:
                data = next(chunks) if how == "iterate" else conn.receive(NEVER)
            got += len(data)
        finish()
        assert got == size


def test_a_peer_that_never_reads_holds_a_bounded_amount() -> None:
    with plain_peer() as (conn, _sock):
        fill(conn)
        transport = conn._stream._transport
        assert transport.get_write_buffer_size() <= HIGH_WATER + 65_536


def test_a_receiver_in_another_thread_resumes_reading() -> None:
    size = 4 * INCOMING_LIMIT
    with plain_peer() as (conn, sock):
        finish = in_thread(sock.sendall, b"x" * size)
        until(lambda: conn._stream._paused)

        def receiver() -> int:
            got = 0
            while got < size:
                got += len(conn.receive(NEVER))
            return got

        assert in_thread(receiver)() == size
        finish()


def test_keep_alive() -> None:
    with connected() as (near, _far):
        for options, error, text in [
            ({"idle": 0}, ValueError, "idle is 1 to 32767, not 0"),
            ({"interval": 32_768}, ValueError, "interval is 1 to 32767, not 32768"),
            ({"count": 128}, ValueError, "count is 1 to 127, not 128"),
            ({"idle": 1.5}, TypeError, r"idle is an int, not 1\.5"),
            ({"count": True}, TypeError, "count is an int, not True"),
        ]:
            with pytest.raises(error, match=text):
                near.keep_alive(**options)
        near.keep_alive(32_767, 32_767, 127)  # the kernel takes the limits
        option = near._stream._sock.getsockopt
        names = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
        assert [option(socket.IPPROTO_TCP, name) for name in names] == [32_767, 32_767, 127]
        near.keep_alive(30, 10, 3)
        assert option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000  # milliseconds


def test_another_thread_may_close_but_not_send() -> None:
    with connected() as (near, far):
        with pytest.raises(RuntimeError, match="another thread"):
            in_thread(near.send, b"x")()
        with pytest.raises(RuntimeError, match="another thread: only that one may close it for writing"):
            in_thread(near.close_write)()
        assert not in_thread(near._stream.offer, b"x")()
        assert near.status == "open"
        near.send(b"y")
        in_thread(near.close)()
        assert far.read() == b"y"
        assert far.read() == b""
        assert near.status == "closed"


# -- select


def test_select_over_connections_and_channels() -> None:
    with connected() as (a, b), connected() as (c, d):
        quit = flower.channel(1)
        a.send(b"first")
        assert tuple(flower.select(b, d, quit, timeout=NEVER)) == (b, b"first")
        c.send(b"second")
        assert tuple(flower.select(b, d, quit, timeout=NEVER)) == (d, b"second")
        quit.send("enough")
        assert tuple(flower.select(b, d, quit, timeout=NEVER)) == (quit, "enough")


def test_a_select_that_lost_consumes_no_byte() -> None:
    with connected() as (a, b):
        ready = flower.channel(1)
        ready.send(1)
        a.send(b"x")
        until(lambda: len(b._receive_channel))
        taken = 0
        for _ in range(20):
            source, _value = flower.select(b, ready)
            if source is b:
                taken += 1
                break
            ready.send(1)
        assert taken or b.receive(NEVER) == b"x"
        assert len(b._receive_channel) == 0


def test_select_on_a_closed_connection() -> None:
    with connected() as (a, b):
        a.close()
        with pytest.raises(ChannelClosed):
            flower.select(b, timeout=NEVER)


def test_select_with_a_default() -> None:
    with connected() as (_a, b):
        assert tuple(flower.select(b, default="nothing")) == (None, "nothing")


# -- What it looks like


def test_addresses_and_status() -> None:
    with connected() as (near, far):
        assert near.local_addr() == far.remote_addr() == near.local_address()
        assert near.remote_addr() == far.local_addr() == near.remote_address()
        assert near.status == far.status == "open"
        assert "127.0.0.1" in repr(near)
        assert "open" in repr(near)
        near.close()
        assert near.status == "closed"
        until(lambda: far.status != "open")
        assert far.status == "writeonly"


def test_a_connection_is_always_true() -> None:
    with connected() as (near, far):
        assert near
        near.close()
        assert near
        assert far


def test_the_with_statement_closes() -> None:
    with connected() as (near, far):
        with near as same:
            assert same is near
        assert near.status == "closed"
        assert far.read() == b""


# -- Dropped


def pair() -> tuple[Conn, Conn]:
    with listening() as listener:
        return Dial("tcp", listener.addr()), listener.receive(NEVER)


def test_dropped_before_its_end_it_warns_and_closes() -> None:
    near, far = pair()
    stream = near._stream
    with pytest.warns(ResourceWarning, match="dropped, and not closed"):
        del near  # no cycle holds it
    assert stream.ended
    assert far.read() == b""
    far.close()


def test_dropped_after_its_end_it_is_silent() -> None:
    near, far = pair()
    far.close()
    assert near.read() == b""
    stream = near._stream
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del near
    assert stream.ended


def test_dropped_while_reading_is_paused_it_is_closed() -> None:
    near, far = pair()
    sender = flower.go(far.send, b"x" * 4 * INCOMING_LIMIT)
    stream = near._stream
    until(lambda: stream._paused)
    with pytest.warns(ResourceWarning):
        del near
    assert stream.ended
    sender.join()
    with pytest.raises((OSError, ChannelClosed)):
        while True:
            far.send(b"x" * 65_536, timeout=NEVER)
    far.close()


@pytest.mark.parametrize("what", ["closed", "aborted", "listener", "datagrams"])
def test_closed_and_dropped_in_another_thread_it_is_silent(what: str) -> None:
    """Its own thread has yet to do so."""
    with listening() as listener:
        near = Dial("tcp", listener.addr())
        box: list[Any] = [listener.receive(NEVER)]
    if what in ("listener", "datagrams"):
        box.pop().close()
        box.append(Listen((HOME, 0), "tcp" if what == "listener" else "udp"))

    def close_and_drop() -> None:
        getattr(box[0], "abort" if what == "aborted" else "close")()
        box.clear()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        in_thread(close_and_drop)()
    assert [str(w.message) for w in caught] == []
    near.close()


def test_dropped_in_another_thread_it_is_closed_in_its_own() -> None:
    near, far = pair()
    box = [near]
    del near
    with pytest.warns(ResourceWarning):
        in_thread(box.clear)()
    assert far.read() == b""
    far.close()


@pytest.mark.parametrize("parked", [True, False])
def test_the_end_of_its_thread_is_no_end_of_file(parked: bool) -> None:
    box: Any = flower.channel(2)
    stop = flower.channel()

    def owner() -> None:
        for conn in pair():
            box.send(conn)
        stop.receive(NEVER)

    end = in_thread(owner)
    conns = [box.receive(NEVER) for _ in range(2)]
    readers = [failing(conn.read) for conn in conns] if parked else []
    rounds(2)
    stop.send(None)
    end()
    for conn in conns:
        with pytest.raises(ConnectionAbortedError, match="its thread has ended"):
            conn.read()
    for reader in readers:
        assert "its thread has ended" in str(reader.join(NEVER))


# -- What the tasklets of one turn write leaves together


def writers(conn: Conn, count: int, last: Any = None) -> list[flower.tasklet]:
    def write(number: int) -> None:
        conn.send(b"%d," % number)
        if number == count - 1 and last is not None:
            last()

    return [flower.go(write, number) for number in range(count)]


NUMBERS = b"".join(b"%d," % number for number in range(100))


@pytest.mark.parametrize("end", ["close", "close_write", "flush", "main"])
def test_what_was_written_in_one_turn_leaves_in_order_whatever_follows(end: str) -> None:
    with connected() as (near, far):
        last = getattr(near, end, None)
        for t in writers(near, 100, last) + writers(near, 0):
            t.join(NEVER)
        if end == "main":
            near.send(b"main")
        near.close()
        assert read_all(far) == NUMBERS + (b"main" if end == "main" else b"")


def test_what_was_written_in_one_turn_and_is_much_leaves_before_its_end() -> None:
    block = b"x" * 5000
    with connected() as (near, far):
        for t in [flower.go(near.send, block) for _ in range(50)]:
            t.join(NEVER)
        near.close()
        assert read_all(far) == block * 50


def test_an_abort_drops_what_was_written_in_its_turn() -> None:
    with connected() as (near, far):
        for t in writers(near, 100, near.abort):
            t.join(NEVER)
        with pytest.raises(ConnectionResetError):
            read_all(far)
