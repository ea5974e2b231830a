"""A connection is a channel of bytes each way: what arrives, in which order, and how it ends."""

from __future__ import annotations

import socket
from typing import Any

import pytest

import flower
from flower.errors import ChannelClosed, Timeout, TooLong
from flower.net import Conn, Dial
from tests.net.support import (
    NEVER,
    connected,
    failing,
    fill,
    in_thread,
    listening,
    plain_peer,
    read_all,
    receive_all,
    receive_exactly,
    reset,
    rounds,
    until,
)

pytestmark = pytest.mark.usefixtures("loop")

SOON = 0.005  # seconds; a timeout that a test waits for

# -- Bytes


@pytest.mark.parametrize("size", [1, 100, 65_536, 300_000, pytest.param(3_000_000, marks=pytest.mark.slow)])
def test_bytes_arrive_whole_and_in_order(size: int) -> None:
    data = bytes(i * 7 % 251 for i in range(size))
    with connected() as (near, far):

        def sender() -> None:
            for at in range(0, size, 50_000):
                near.send(data[at : at + 50_000])
            near.close()

        t = flower.go(sender)
        assert read_all(far) == data
        t.join()


def test_both_directions_at_once() -> None:
    data = b"abcdefghij" * 30_000
    with connected() as (near, far):

        def pump(conn: Conn) -> bytes:
            def send() -> None:
                for at in range(0, len(data), 10_000):
                    conn.send(data[at : at + 10_000])

            sender = flower.go(send)
            got = bytearray()
            while len(got) < len(data):
                got += conn.receive(NEVER)
            sender.join()
            return bytes(got)

        a, b = flower.go(pump, near), flower.go(pump, far)
        assert a.join() == b.join() == data


@pytest.mark.parametrize("data", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_send_takes_bytes_of_every_kind(data: Any) -> None:
    with connected() as (near, far):
        near.send(data)
        assert far.receive(NEVER) == b"x"


def test_send_takes_a_copy_of_what_can_change() -> None:
    with connected() as (near, far):
        data = bytearray(b"before")
        near.send(data)
        data[:] = b"after!"
        assert far.receive(NEVER) == b"before"


@pytest.mark.parametrize("data", ["text", 5, None, [b"x"]])
def test_send_takes_nothing_else(data: Any) -> None:
    with connected() as (near, far):
        with pytest.raises(TypeError, match="takes bytes"):
            near.send(data)
        near.send(b"x")
        assert far.receive(NEVER) == b"x"


def test_write_takes_text_as_utf8() -> None:
    with connected() as (near, far):
        near.write("grüße")
        assert far.read() == "grüße".encode()


def test_writelines() -> None:
    with connected() as (near, far):
        near.writelines(["a", b"b", bytearray(b"c")])
        assert far.read() == b"abc"


def test_empty_data_is_no_data() -> None:
    with connected() as (near, far):
        near.send(b"")
        near.send(b"x")
        assert far.read() == b"x"


def test_the_seeds_spelling_and_the_channels_are_one() -> None:
    with connected() as (near, far):
        near.write(b"1")
        assert far.receive(NEVER) == b"1"
        near.send(b"2")
        assert far.read() == b"2"


# -- How it ends


def test_end_of_file() -> None:
    with connected() as (near, far):
        near.send(b"last words")
        near.close()
        assert far.read() == b"last words"
        assert far.read() == b""
        assert far.read() == b""
        with pytest.raises(ChannelClosed) as caught:
            far.receive()
        assert caught.value.channel is far
        assert "the peer closed it" in str(caught.value)
        assert list(far) == []


def test_after_the_peers_end_of_file_the_other_direction_is_open() -> None:
    with plain_peer() as (conn, sock):
        sock.shutdown(socket.SHUT_WR)
        assert conn.read() == b""
        assert conn.status == "writeonly"
        assert not any(conn._stream.poller._sockets.watched)  # the end would be there to be read again and again
        conn.send(b"still here")
        rounds(2)
        assert sock.recv(100) == b"still here"


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_after_both_ends_it_is_closed(first: str) -> None:
    with plain_peer() as (conn, sock):
        if first == "ours":
            conn.close_write()
            assert conn.status == "readonly"
        sock.shutdown(socket.SHUT_WR)
        assert conn.read() == b""
        conn.close_write()
        assert conn.status == "closed"
        until(lambda: conn._stream._transport is None)


def test_iteration_ends_with_the_file() -> None:
    with connected() as (near, far):
        near.send(b"abc")
        near.close()
        assert b"".join(far) == b"abc"


def test_a_reset_is_no_end_of_file() -> None:
    with plain_peer() as (conn, sock):
        sock.sendall(b"before")
        assert conn.read() == b"before"
        reset(sock)
        for _ in range(2):  # a failure stays one
            with pytest.raises(ConnectionResetError):
                conn.read()
            with pytest.raises(ConnectionResetError):
                conn.receive()
        with pytest.raises(ConnectionResetError):
            next(iter(conn))
        with pytest.raises(OSError):
            conn.send(b"x")
        assert conn.status == "closed"


def test_what_came_before_a_reset_is_read_first() -> None:
    with plain_peer() as (conn, sock):
        sock.sendall(b"before")
        until(lambda: len(conn._receive_channel))
        reset(sock)
        until(lambda: conn.status == "closed")
        assert conn.read() == b"before"
        with pytest.raises(ConnectionResetError):
            conn.read()


def test_a_blocked_reader_learns_of_a_reset() -> None:
    with plain_peer() as (conn, sock):
        t = flower.tasklet(conn.read)()
        rounds(1)
        assert t.blocked
        reset(sock)
        with pytest.raises(ConnectionResetError):
            t.join(NEVER)


def test_every_reader_learns_of_a_reset() -> None:
    with plain_peer() as (conn, sock):
        readers = [failing(conn.read) for _ in range(3)]
        readers += [failing(flower.select, conn, flower.channel()) for _ in range(2)]
        rounds(1)
        reset(sock)
        assert [type(t.join(NEVER)) for t in readers] == [ConnectionResetError] * 5


@pytest.mark.parametrize("waits", [False, True])
def test_a_select_says_which_connection_broke(waits: bool) -> None:
    with plain_peer() as (one, _), plain_peer() as (other, sock), plain_peer() as (third, _):
        if not waits:
            reset(sock)
            until(lambda: other._incoming.closing)
        t = flower.go(flower.select, one, other, third)
        flower.schedule()
        if waits:
            reset(sock)
        with pytest.raises(ConnectionResetError) as caught:
            t.join(NEVER)
        assert caught.value.channel is other


def test_a_select_learns_of_a_reset() -> None:
    with plain_peer() as (conn, sock):
        reset(sock)
        with pytest.raises(ConnectionResetError):
            flower.select(conn, timeout=NEVER)


@pytest.mark.parametrize("operation", ["receive", "read", "send", "write"])
def test_after_a_local_close(operation: str) -> None:
    with connected() as (near, _far):
        near.close()
        near.close()
        args = [b"x"] if operation in ("send", "write") else []
        with pytest.raises(ChannelClosed, match="closed here"):
            getattr(near, operation)(*args)
        assert list(near) == []
        assert near.status == "closed"


def test_a_local_close_drops_what_was_not_received() -> None:
    with connected() as (near, far):
        near.send(b"unread")
        until(lambda: len(far._receive_channel))
        assert far.read(2) == b"un"
        near.send(b"and more")
        until(lambda: len(far._incoming))
        far.close()
        assert len(far._incoming) == 0
        with pytest.raises(ChannelClosed):
            far.read()
        with pytest.raises(ChannelClosed):
            flower.select(far)


def test_a_local_close_wakes_a_blocked_reader() -> None:
    with connected() as (near, _far):
        t = flower.tasklet(near.receive)()
        rounds(1)
        near.close()
        with pytest.raises(ChannelClosed):
            t.join(NEVER)


def test_a_line_is_too_long_as_soon_as_that_is_certain() -> None:
    with plain_peer() as (conn, sock):
        sock.sendall(b"12345678")
        with pytest.raises(TooLong, match="among the first 8 bytes"):
            conn.read_until(limit=8, timeout=NEVER)
        assert conn.read() == b"12345678"


def test_closed_here_in_the_middle_of_what_is_read_it_was_not_cut_off() -> None:
    with plain_peer() as (conn, sock):
        reading = failing(conn.read_exactly, 10)
        sock.sendall(b"abc")
        until(lambda: conn._front)
        conn.close()
        error = reading.join(NEVER)
        assert isinstance(error, ChannelClosed)
        assert "closed here" in str(error)


def test_what_was_written_before_a_close_still_leaves() -> None:
    data = b"x" * 5_000_000
    with plain_peer() as (conn, sock):
        conn.send(data)
        conn.close()
        assert len(in_thread(receive_all, sock)()) == len(data)


def test_what_was_written_before_a_half_close_leaves_and_then_its_end() -> None:
    data = b"x" * 5_000_000
    with plain_peer() as (conn, sock):
        conn.send(data)
        conn.close_write()
        assert len(in_thread(receive_all, sock)()) == len(data)
        sock.sendall(b"the other way it is open")
        assert conn.receive(NEVER) == b"the other way it is open"


def test_run_waits_for_what_was_written_before_a_close() -> None:
    data = b"x" * 5_000_000
    with plain_peer() as (conn, sock):
        finish = in_thread(receive_all, sock)
        conn.send(data)
        conn.close()
        flower.run()
        assert len(finish()) == len(data)


def test_run_waits_for_the_last_byte_that_was_written_before_a_close() -> None:
    ours, theirs = socket.socketpair()
    with theirs, Dial("sockpipe", ours) as conn:
        conn._stream._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that they leave in small pieces
        scheduler = conn._stream.poller.scheduler
        held = scheduler.holds
        conn.send(b"x" * 200_000)
        transport = conn._stream._transport
        conn.close()
        while transport.get_write_buffer_size():
            assert scheduler.holds == held + 1
            theirs.recv(2000)
            rounds(1)
        until(lambda: scheduler.holds == held)


def test_at_the_end_of_a_program_only_a_peer_that_was_told_something_last_is_waited_for() -> None:
    for answered in True, False:
        with plain_peer() as (conn, sock):
            conn.write("question")
            if answered:
                sock.sendall(b"answer")
                assert conn.receive(NEVER) == b"answer"
            conn.close()
            assert conn._stream.finish(False) is not answered


def test_a_peer_that_never_reads_does_not_keep_a_closed_connection_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flower.net._stream.LINGER", SOON)
    with plain_peer() as (conn, _sock):
        conn.send(b"x" * 10_000_000)
        conn.close()
        flower.run()
        assert not conn._stream.poller.resources


def test_a_peer_that_has_read_all_does_not_keep_a_closed_connection_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flower.net._stream.PARTING", SOON)
    with plain_peer() as (conn, sock):
        conn.send(b"x" * 10_000_000)
        conn.close()
        assert len(in_thread(receive_exactly, sock, 10_000_000)()) == 10_000_000
        until(lambda: conn._stream._transport is None, NEVER / 2)
        assert sock.recv(1) == b""


# -- Timeouts and cancellation: nothing is lost


def test_a_receive_that_times_out() -> None:
    with connected() as (near, far):
        for operation in (far.receive, lambda timeout: far.read(timeout=timeout)):
            with pytest.raises(Timeout):
                operation(timeout=SOON)
        near.send(b"x")
        assert far.read() == b"x"


def test_a_cancelled_receive_loses_no_byte() -> None:
    with connected() as (near, far):
        with flower.move_on(SOON) as scope:
            far.receive()
        assert scope.expired
        near.send(b"x")
        assert far.receive(NEVER) == b"x"


def test_a_killed_reader_loses_no_byte() -> None:
    with connected() as (near, far):
        t = flower.tasklet(far.read)()
        rounds(1)
        near.send(b"x")
        t.kill()
        assert far.receive(NEVER) == b"x"


def test_a_kill_just_as_the_bytes_arrive_loses_none() -> None:
    with connected() as (near, far):
        got: list[bytes] = []
        t = flower.go(lambda: got.append(far.receive()))
        rounds(1)
        near.send(b"x")
        until(lambda: not t.blocked)  # its outcome is written: the kill comes too late
        t.kill()
        assert b"".join(got) == b"x"


def test_a_kill_just_as_there_is_room_comes_too_late() -> None:
    with plain_peer() as (conn, sock):
        total = fill(conn)
        t = flower.go(conn.send, b"y" * 1000)
        rounds(1)
        assert t.blocked
        conn._stream.resume_writing()  # as the loop does
        t.kill()
        assert t.join() is None
        assert in_thread(receive_exactly, sock, total + 1000)() == b"x" * total + b"y" * 1000


@pytest.mark.parametrize("operation", ["receive", "read", "send", "accept"])
def test_a_scope_that_has_expired_already(operation: str) -> None:
    with listening() as listener, plain_peer() as (conn, sock):
        total = fill(conn) if operation == "send" else 0
        with flower.move_on(0) as scope:
            if operation == "accept":
                listener.accept()
            elif operation == "send":
                conn.send(b"never")
            else:
                getattr(conn, operation)()
        assert scope.expired
        conn.close()
        assert len(in_thread(receive_all, sock)()) == total


def test_data_that_is_there_needs_no_waiting() -> None:
    with connected() as (near, far):
        near.send(b"x")
        until(lambda: len(far._receive_channel))
        with flower.move_on(0):
            assert far.receive() == b"x"


def test_a_send_that_times_out_took_nothing() -> None:
    with plain_peer() as (conn, sock):
        total = fill(conn)
        with pytest.raises(Timeout, match="no room to write"):
            conn.send(b"never", timeout=SOON)
        finish = in_thread(receive_exactly, sock, total)
        conn.send(b"the end", timeout=NEVER)
        assert finish() == b"x" * total
        assert in_thread(receive_exactly, sock, 7)() == b"the end"


def test_a_cancelled_send_took_nothing() -> None:
    with plain_peer() as (conn, sock):
        total = fill(conn)
        with flower.move_on(SOON) as scope:
            conn.send(b"never")
        assert scope.expired
        conn.close()
        assert len(in_thread(receive_all, sock)()) == total


def test_blocked_senders_go_on_in_order() -> None:
    with plain_peer() as (conn, sock):
        total = fill(conn)
        senders = [flower.go(conn.send, bytes([48 + i]) * 70_000) for i in range(5)]
        rounds(1)
        assert all(t.blocked for t in senders)
        finish = in_thread(receive_exactly, sock, total + 350_000)
        for t in senders:
            t.join(NEVER)
        assert finish()[total:] == b"".join(bytes([48 + i]) * 70_000 for i in range(5))


def test_a_killed_sender_lets_the_next_one_go_on() -> None:
    with plain_peer() as (conn, sock):
        total = fill(conn)
        senders = [flower.go(conn.send, bytes([48 + i]) * 1000) for i in range(3)]
        rounds(1)
        senders[0].kill()
        finish = in_thread(receive_exactly, sock, total + 2000)
        for t in senders[1:]:
            t.join(NEVER)
        assert finish()[total:] == b"1" * 1000 + b"2" * 1000


@pytest.mark.parametrize("end", ["close", "reset"])
def test_blocked_senders_learn_of_the_end(end: str) -> None:
    with plain_peer() as (conn, sock):
        fill(conn)
        senders = [failing(conn.send, b"x") for _ in range(3)]
        rounds(1)
        if end == "close":
            conn.close()
            sock.close()
        else:
            reset(sock)
        for t in senders:
            assert isinstance(t.join(NEVER), ChannelClosed if end == "close" else ConnectionError)


def test_a_sender_that_never_waits_learns_of_a_reset() -> None:
    with plain_peer() as (conn, sock):
        reset(sock)
        with pytest.raises(ConnectionError):
            while True:
                conn.send(b"x" * 10_000)
