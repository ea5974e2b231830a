"""What every stream connection must do, whatever carries it: a suite to be run over each transport.

Subclass `ConnectionConformance`, and give `connected`. Nothing here knows how a connection is made, or looks
inside one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flower
from flower.channels._scheduler import current_scheduler
from flower.errors import ChannelClosed, IncompleteRead, Timeout, TooLong
from flower.net import Conn
from tests.net.send_cases import SendCases
from tests.net.support import NEVER, failing, fill, read_all, rounds, until

SOON = 0.005  # seconds; a timeout that a test waits for
SIZES = [0, 1, 1000, 16_385, 65_536, 1_000_000, pytest.param(10 << 20, marks=pytest.mark.slow)]
READERS = {
    "receive": lambda conn: conn.receive(),
    "read": lambda conn: conn.read(),
    "read(n)": lambda conn: conn.read(3),
    "read_exactly": lambda conn: conn.read_exactly(3),
    "read_until": lambda conn: conn.read_until(b"3"),
    "iterate": lambda conn: next(iter(conn)),
    "select": lambda conn: flower.select(conn)[1],
}


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def send_in_pieces(conn: Conn, data: bytes, piece: int = 50_000) -> None:
    for at in range(0, len(data), piece):
        conn.send(data[at : at + piece])


def reader(name: str, conn: Conn) -> Any:
    """Like `READERS`, with an iteration's end and all other ends as the exceptions that they are."""
    try:
        return READERS[name](conn)
    except StopIteration:
        raise ChannelClosed("the iteration has ended") from None


class ConnectionConformance(SendCases):
    """The suite. Each test gets both ends of a connection, as Conns of this thread."""

    # What a peer sees of `abort` while it waits: a reset, or, where the transport has none, the end of file.
    seen_of_abort: type[Exception] = ConnectionResetError
    # How many connections are opened and closed, one after the other and 25 at a time.
    churn = 100

    def connected(self, **options: Any) -> AbstractContextManager[tuple[Conn, Conn]]:
        """Both ends, which are closed on leaving. The options are those of `Listen` and `Dial` alike."""
        raise NotImplementedError

    # -- Bytes

    @pytest.mark.parametrize("size", SIZES)
    def test_echo(self, size: int) -> None:
        data = pattern(size)
        with self.connected() as (near, far):

            def echo() -> None:
                for chunk in far:
                    far.send(chunk)
                far.close_write()

            def send() -> None:
                send_in_pieces(near, data)
                near.close_write()

            with flower.group() as g:
                g.go(echo)
                g.go(send)
                assert read_all(near) == data

    def test_one_large_write(self) -> None:
        data = pattern(3_000_000)
        with self.connected() as (near, far):
            near.send(data)
            near.close_write()
            assert read_all(far) == data

    def test_byte_by_byte(self) -> None:
        data = pattern(300)
        with self.connected() as (near, far):

            def send() -> None:
                for i in range(len(data)):
                    near.send(data[i : i + 1])
                    if i % 3 == 0:
                        rounds(1)
                near.close()

            t = flower.go(send)
            assert b"".join(iter(lambda: far.read(1), b"")) == data
            t.join()

    def test_both_directions_at_once(self) -> None:
        data = pattern(700_000)
        with self.connected() as (near, far), flower.group() as g:
            for conn in (near, far):
                g.go(send_in_pieces, conn, data, 10_000)
            readers = [g.go(conn.read_exactly, len(data)) for conn in (near, far)]
            assert [t.join(NEVER) for t in readers] == [data, data]

    def test_bytes_leave_before_the_writer_waits(self) -> None:
        with self.connected() as (near, far):
            for i in range(5):
                near.send(b"%d" % i)
                assert near.flush() is None  # at once: nothing is left behind
                near.flush(timeout=0)
            assert far.read_exactly(5) == b"01234"

    def test_writelines_and_text(self) -> None:
        with self.connected() as (near, far):
            near.writelines(["grüße", b"b", bytearray(b"c"), memoryview(b"d")])
            near.write("\n")
            assert far.read_until(timeout=NEVER) == "grüßebcd\n".encode()

    @pytest.mark.slow
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        pieces=st.lists(st.integers(0, 90_000), max_size=12),
        pauses=st.sets(st.integers(0, 11)),
        reads=st.lists(st.integers(1, 120_000), min_size=1, max_size=6),
        how=st.sampled_from(["read", "read_exactly", "receive", "select"]),
        close=st.sampled_from(["close", "close_write"]),
    )
    def test_any_chunks_any_delays(
        self, pieces: list[int], pauses: set[int], reads: list[int], how: str, close: str
    ) -> None:
        """The bytes are the same, however they are cut, delayed and closed."""
        data = pattern(sum(pieces))
        with self.connected(read_buffer=30_000) as (near, far):

            def send() -> None:
                at = 0
                for i, piece in enumerate(pieces):
                    near.send(data[at : at + piece])
                    at += piece
                    if i in pauses:
                        rounds(1)
                getattr(near, close)()

            t = flower.go(send)
            got = bytearray()
            turn = 0
            while len(got) < len(data):
                size = reads[turn % len(reads)]
                turn += 1
                if how == "read":
                    got += far.read(size, timeout=NEVER)
                elif how == "read_exactly":
                    got += far.read_exactly(min(size, len(data) - len(got)), timeout=NEVER)
                elif how == "receive" or turn % 2:
                    got += far.receive(NEVER)
                else:
                    got += flower.select(far, flower.never(), timeout=NEVER)[1]
            assert bytes(got) == data
            assert far.read(timeout=NEVER) == b""
            t.join()

    # -- Cutting what is read

    def test_read_takes_at_most_so_many(self) -> None:
        with self.connected() as (near, far):
            near.send(b"abcdef")
            assert far.read(4) == b"abcd"
            assert far.read(0) == b""
            assert far.read(1) == b"e"
            near.send(b"g")
            assert far.read() == b"f"
            assert far.receive() == b"g"

    def test_read_exactly(self) -> None:
        with self.connected() as (near, far):
            t = flower.go(far.read_exactly, 6)
            for piece in (b"ab", b"cd", b"efgh"):
                rounds(3)
                assert t.alive
                near.send(piece)
            assert t.join(NEVER) == b"abcdef"
            assert far.read_exactly(0) == b""
            assert far.read_exactly(2) == b"gh"

    def test_read_until(self) -> None:
        with self.connected() as (near, far):
            near.send(b"one\r\ntwo\r")
            assert far.read_until(b"\r\n") == b"one\r\n"
            t = flower.go(far.read_until, b"\r\n")
            rounds(3)
            near.send(b"\nrest")
            assert t.join(NEVER) == b"two\r\n"
            assert far.receive() == b"rest"

    def test_a_line_that_is_too_long_is_refused_and_kept(self) -> None:
        with self.connected() as (near, far):
            near.send(b"x" * 100 + b"\n")
            for _ in range(2):
                with pytest.raises(TooLong, match="first 100 bytes") as caught:
                    far.read_until(limit=100)
                assert str(far._stream.describe()) in str(caught.value)
            assert far.read_until(limit=101) == b"x" * 100 + b"\n"
            with pytest.raises(ValueError, match="no room for the separator"):
                far.read_until(b"ab", limit=1)
            with pytest.raises(ValueError, match="not an empty one"):
                far.read_until(b"")
            with pytest.raises(TypeError, match="number of bytes"):
                far.read_until(b"x", limit="5")  # type: ignore[arg-type]

    @pytest.mark.parametrize("how", ["receive", "read", "select", "iterate", "poll"])
    def test_what_is_left_of_a_chunk_is_for_the_next_reader(self, how: str) -> None:
        with self.connected() as (near, far):
            near.send(b"abcdef")
            assert far.read_exactly(2) == b"ab"
            other = flower.channel(1)
            if how in ("select", "poll"):  # a select that loses leaves them
                other.send(1)
                while flower.select(other, far)[0] is other:
                    if other.try_send(1) and far.read(1) != b"c":
                        raise AssertionError
                    break
                else:
                    return
                other.try_receive()
                assert flower.select(far, other, timeout=NEVER)[1] == b"def"
            else:
                assert READERS[how](far) == b"cdef"
            near.send(b"g")
            assert far.receive() == b"g"

    def test_the_end_within_what_was_to_be_read(self) -> None:
        with self.connected() as (near, far):
            near.send(b"abc")
            near.close()
            for attempt in (lambda: far.read_exactly(4), lambda: far.read_until(b"\n")):
                with pytest.raises(IncompleteRead, match="after 3 bytes"):
                    attempt()
            assert far.read_exactly(3) == b"abc"
            for attempt in (lambda: far.read_exactly(1), lambda: far.read_until(b"\n")):
                with pytest.raises(ChannelClosed, match="the peer closed it"):
                    attempt()
            assert far.read(5) == b""

    @pytest.mark.parametrize("size", [-1, "3", 2.0, True])
    def test_bad_sizes(self, size: Any) -> None:
        with self.connected() as (_near, far):
            for attempt in (far.read, far.read_exactly):
                with pytest.raises((TypeError, ValueError), match="number of bytes"):
                    attempt(size)

    # -- How it ends

    def test_half_close(self) -> None:
        with self.connected() as (near, far):
            near.send(b"question")
            near.close_write()
            near.close_write()
            assert near.status == "readonly"
            with pytest.raises(ChannelClosed, match="closed here for writing") as caught:
                near.send(b"more")
            assert caught.value.channel is near
            assert far.read_exactly(8, timeout=NEVER) == b"question"
            assert far.read(timeout=NEVER) == b""
            assert far.status == "writeonly"
            far.send(b"ans")
            rounds(2)
            far.send(b"wer")
            far.close_write()
            assert read_all(near) == b"answer"
            until(lambda: near.status == far.status == "closed")
            assert near.read() == far.read() == b""

    def test_half_close_wakes_a_blocked_sender(self) -> None:
        with self.connected() as (near, far):
            total = fill(near)
            t = failing(near.send, b"x")
            rounds(1)
            near.close_write()
            assert isinstance(t.join(NEVER), ChannelClosed)
            assert len(read_all(far)) == total

    def test_close_with_data_in_flight(self) -> None:
        data = pattern(2_000_000)
        with self.connected() as (near, far):
            near.send(data)
            near.close()
            assert near.status == "closed"
            assert read_all(far) == data

    def test_what_was_sent_before_a_close_survives_a_peer_that_still_sends(self) -> None:
        with self.connected() as (near, far):
            far.send(b"x" * 100)
            near.send(b"enough, thank you")
            near.close()
            for _ in range(20):
                rounds(1)
                try:
                    far.send(b"x" * 10_000, timeout=0)
                except (OSError, ChannelClosed):
                    break
            assert far.read_exactly(17, timeout=NEVER) == b"enough, thank you"
            assert far.read(timeout=NEVER) == b""

    @pytest.mark.parametrize("name", READERS)
    def test_every_way_of_reading_sees_the_end(self, name: str) -> None:
        with self.connected() as (near, far):
            by_value = name in ("read", "read(n)")
            t = flower.go(reader, name, far) if by_value else failing(reader, name, far)
            rounds(2)
            near.close()
            end = t.join(NEVER)
            assert end == b"" if by_value else isinstance(end, ChannelClosed)

    @pytest.mark.parametrize("name", READERS)
    @pytest.mark.parametrize("end", ["close", "abort"])
    def test_every_way_of_reading_sees_a_local_end(self, name: str, end: str) -> None:
        with self.connected() as (near, _far):
            t = failing(reader, name, near)
            rounds(2)
            getattr(near, end)()
            kind = ChannelClosed if end == "close" else ConnectionAbortedError
            assert isinstance(t.join(NEVER), kind)
            assert isinstance(failing(reader, name, near).join(NEVER), kind)
            assert near.status == "closed"

    @pytest.mark.parametrize("name", READERS)
    @pytest.mark.parametrize("end", ["close", "abort"])
    def test_what_is_left_of_a_chunk_is_dropped_by_a_local_end(self, name: str, end: str) -> None:
        with self.connected() as (near, far):
            near.send(b"12345678")
            assert far.read_exactly(2) == b"12"
            getattr(far, end)()
            kind = ChannelClosed if end == "close" else ConnectionAbortedError
            assert isinstance(failing(reader, name, far).join(NEVER), kind)

    @pytest.mark.parametrize("name", READERS)
    def test_every_way_of_reading_sees_an_abort_of_the_peers(self, name: str) -> None:
        if self.seen_of_abort is ChannelClosed and name in ("read", "read(n)"):
            name = "receive"
        with self.connected() as (near, far):
            near.send(b"1")
            assert far.read() == b"1"
            t = failing(reader, name, far)
            rounds(2)
            near.abort()
            error = t.join(NEVER)
            assert isinstance(error, self.seen_of_abort)
            if isinstance(error, OSError):
                assert str(far._stream.describe()) in str(error)
            assert isinstance(failing(reader, name, far).join(NEVER), self.seen_of_abort)

    @pytest.mark.parametrize("state", ["idle", "unread", "full", "half", "eof", "closing", "closed"])
    @pytest.mark.parametrize("end", ["close", "abort"])
    def test_any_end_in_any_state(self, state: str, end: str) -> None:
        with self.connected() as (near, far):
            if state == "unread":
                far.send(b"x" * 1000)
                rounds(3)
            elif state == "full":
                fill(near)
            elif state == "half":
                near.close_write()
            elif state == "eof":
                far.close_write()
                assert near.read(timeout=NEVER) == b""
            elif state == "closing":
                fill(near)
                near.close()
            elif state == "closed":
                near.close()
                far.close()
                rounds(3)
            getattr(near, end)()
            assert near.status == "closed"
            near.close()
            near.abort()
            try:
                while far.read(timeout=NEVER):
                    pass
            except (OSError, ChannelClosed):
                pass
            with pytest.raises((OSError, ChannelClosed)):
                near.send(b"x")
            with pytest.raises((OSError, ChannelClosed)):
                near.flush()

    def test_senders_learn_of_an_abort_of_the_peers(self) -> None:
        with self.connected() as (near, far):
            fill(near)
            senders = [failing(near.send, b"x") for _ in range(3)] + [failing(near.flush)]
            rounds(1)
            far.abort()
            assert all(isinstance(t.join(NEVER), ConnectionError) for t in senders)
            with pytest.raises(ConnectionError):
                near.send(b"x")

    def test_two_ends_that_close_at_once(self) -> None:
        with self.connected() as (near, far):
            near.send(b"x")
            far.send(b"y")
            near.close()
            far.close()
        flower.run()

    # -- Cancellation and timeouts

    @pytest.mark.parametrize("name", READERS)
    @pytest.mark.parametrize("how", ["scope", "kill"])
    def test_a_cancelled_reader_loses_nothing(self, name: str, how: str) -> None:
        with self.connected() as (near, far):
            near.send(b"1")
            until(lambda: far._incoming.balance)
            if name in ("read_exactly", "read_until"):  # in the middle of it
                expected = b"123"
            else:
                assert far.receive() == b"1"
                expected = b"23"
            if how == "kill":
                t = flower.go(reader, name, far)
                rounds(2)
                assert t.blocked
                t.kill()
            else:
                with flower.move_on(SOON) as scope:
                    reader(name, far)
                assert scope.expired
            near.send(b"23")
            near.close()
            assert read_all(far) == expected

    def test_timeouts(self) -> None:
        with self.connected() as (near, far):
            near.send(b"1")
            for attempt in (
                lambda: far.read_exactly(2, timeout=SOON),
                lambda: far.read_until(timeout=SOON),
                lambda: (far.read(1), far.read(1, timeout=SOON)),
                lambda: far.receive(SOON),
                lambda: far.read(timeout=SOON),
                lambda: flower.select(far, timeout=SOON),
            ):
                with pytest.raises(Timeout):
                    attempt()
            near.send(b"2")
            assert far.read() == b"2"

    def test_a_timeout_says_from_whom_nothing_came(self) -> None:
        with self.connected() as (_near, far):
            for attempt in (far.receive, lambda t: far.read(timeout=t), lambda t: far.read(1, timeout=t)):
                with pytest.raises(Timeout) as caught:
                    attempt(SOON)
                assert str(caught.value) == f"{far!r}: nothing came within {SOON} s"

    def test_an_outer_timeout_stays_the_outer_one(self) -> None:
        with self.connected() as (_near, far):
            with pytest.raises(Timeout) as caught, flower.timeout(SOON) as scope:
                far.read_exactly(2, timeout=NEVER)
            assert scope.expired
            assert "what was to be read" not in str(caught.value)

    @pytest.mark.parametrize("how", ["timeout", "scope", "kill"])
    @pytest.mark.parametrize("call", ["send", "flush"])
    def test_a_writer_that_gives_up_has_sent_nothing_more(self, call: str, how: str) -> None:
        with self.connected() as (near, far):
            total = fill(near)
            args = [b"never"] if call == "send" else []
            if how == "timeout":
                with pytest.raises(Timeout):
                    getattr(near, call)(*args, timeout=SOON)
            elif how == "scope":
                with flower.move_on(SOON) as scope:
                    getattr(near, call)(*args)
                assert scope.expired
            else:
                t = flower.go(getattr(near, call), *args)
                rounds(1)
                assert t.blocked
                t.kill()
            finish = flower.go(far.read_exactly, total)
            near.flush(timeout=NEVER)
            near.send(b"the end")
            assert finish.join(NEVER) == b"x" * total
            assert far.read_exactly(7, timeout=NEVER) == b"the end"

    # -- Several at once

    def test_two_readers_share_the_chunks(self) -> None:
        with self.connected() as (near, far):
            readers = [flower.go(far.receive) for _ in range(2)]
            rounds(1)
            near.send(b"a")
            until(lambda: not all(t.blocked for t in readers))
            near.send(b"b")
            assert sorted(t.join(NEVER) for t in readers) == [b"a", b"b"]

    def test_one_reader_alone_may_want_bytes_that_belong_together(self) -> None:
        with self.connected() as (near, far):
            t = flower.go(far.read_exactly, 4)
            rounds(1)
            for attempt in (
                far.receive,
                far.read,
                lambda: far.read(1),
                lambda: far.read_exactly(1),
                far.read_until,
                lambda: flower.select(far),
            ):
                with pytest.raises(RuntimeError, match="another tasklet"):
                    attempt()
            near.send(b"abcd")
            assert t.join(NEVER) == b"abcd"
            t = flower.go(far.receive)
            rounds(1)
            with pytest.raises(RuntimeError, match="waiting to read"):
                far.read_exactly(1)
            near.send(b"e")
            assert t.join(NEVER) == b"e"

    def test_what_one_reader_leaves_is_not_overtaken(self) -> None:
        """While one waits for a part of what comes, nobody may wait for what comes behind it."""
        with self.connected() as (near, far):
            t = flower.go(far.read, 3)
            rounds(1)
            for attempt in (far.receive, far.read, lambda: far.read_exactly(1), lambda: flower.select(far)):
                with pytest.raises(RuntimeError, match="another tasklet"):
                    attempt()
            near.send(b"abcdef")
            assert t.join(NEVER) == b"abc"
            assert far.receive() == b"def"
            t = flower.go(far.read, 3)
            rounds(1)
            t.kill()
            near.send(b"g")
            assert far.receive() == b"g"

    def test_senders_take_turns(self) -> None:
        with self.connected() as (near, far):
            total = fill(near)
            senders = [flower.go(near.send, bytes([48 + i]) * 70_000) for i in range(5)]
            rounds(1)
            assert all(t.blocked for t in senders)
            got = far.read_exactly(total + 350_000, timeout=NEVER)
            assert got[total:] == b"".join(bytes([48 + i]) * 70_000 for i in range(5))

    def test_select_between_connections_timers_and_channels(self) -> None:
        with self.connected() as (a, b), self.connected() as (c, d):
            quit = flower.channel(1)
            a.send(b"first")
            assert tuple(flower.select(b, d, quit, flower.never(), timeout=NEVER)) == (b, b"first")
            c.send(b"second")
            assert flower.select(d, b, flower.after(NEVER)).index == 0
            soon = flower.after(SOON)
            assert flower.select(b, d, soon)[0] is soon
            quit.send("enough")
            assert flower.select(b, d, quit) == (quit, "enough")
            a.close()
            with pytest.raises(ChannelClosed) as caught:
                flower.select(b, d, timeout=NEVER)
            assert caught.value.channel is b

    # -- Bounds

    def test_a_peer_that_never_reads_holds_a_bounded_amount(self) -> None:
        with self.connected(write_buffer=10_000) as (near, far):
            fill(near)
            assert near._stream._transport.get_write_buffer_size() <= 10_000 + 70_000
            t = failing(near.flush)
            near.abort()
            assert isinstance(t.join(NEVER), ConnectionAbortedError)
            far.abort()

    def test_a_flood_is_held_back(self) -> None:
        with self.connected(read_buffer=50_000) as (near, far):
            total = fill(near)
            rounds(3)
            held = sum(len(far._incoming.try_receive(b"")) for _ in range(len(far._incoming)))
            assert 0 < held <= 50_000 + 512 * 1024
            assert held < total
            near.close()
            assert len(read_all(far)) == total - held

    def test_a_slow_reader_gets_everything(self) -> None:
        data = pattern(1_500_000)
        with self.connected(read_buffer=20_000, write_buffer=20_000) as (near, far):
            t = flower.go(send_in_pieces, near, data)
            got = bytearray()
            while len(got) < len(data):
                got += far.read(100_000)
                rounds(1)
            assert bytes(got) == data
            t.join()

    @pytest.mark.slow
    def test_many_connections_leave_nothing(self) -> None:
        """One after the other and side by side; the leak checks around each test do the rest."""
        count = self.churn if "uvloop" in type(current_scheduler().poller.loop).__module__ else self.churn // 10
        for _ in range(max(count // 25, 1)):
            pairs = [self.connected() for _ in range(25)]
            ends = [pair.__enter__() for pair in pairs]
            for near, _far in ends:
                near.send(b"x")
            for near, far in ends:
                assert far.read(timeout=NEVER) == b"x"
                far.close()
                assert near.read(timeout=NEVER) == b""
            for pair in pairs:
                pair.__exit__(None, None, None)

    # -- What it looks like

    def test_what_it_looks_like(self) -> None:
        with self.connected() as (near, far):
            assert near and far
            assert near.status == far.status == "open"
            assert near.local_addr() == far.remote_addr() == near.local_address()
            assert near.remote_addr() == far.local_addr() == near.remote_address()
            assert near._stream.proto in repr(near)
            with near as same:
                assert same is near
            assert near.status == "closed"
