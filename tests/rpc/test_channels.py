"""Channels in messages: as arguments, as results, as values of other channels; credit, and how they end."""

from __future__ import annotations

import gc
import itertools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import flower
from flower import ChannelClosed, Timeout, channel, rpc
from flower.errors import ChannelBroken, DeadlineExceeded, RemoteAbort, RemoteError
from flower.rpc import Settings
from tests.net.support import NEVER, in_thread, rounds, until
from tests.rpc import link
from tests.rpc.support import PLAIN, URL, Calc, raw_client, served

pytestmark = pytest.mark.usefixtures("loop")


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


def quiet(*sessions: Any) -> None:
    """Wait until no channel is open any more."""
    until(lambda: not any(len(session.streams) for session in sessions))


# -- Generators


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 1000])
def test_a_generator_streams(n: int) -> None:
    with streaming() as (_, session, other):
        assert list(session.stream("count", (n,))) == list(range(n))
        quiet(session, other)


def test_a_stream_is_the_first_call() -> None:
    with served(Streams()) as (_, peer):
        assert list(peer._session.stream("count", (5,))) == list(range(5))


def test_a_generator_runs_no_further_ahead_than_its_credit() -> None:
    with streaming(channel_items=8) as (service, session, _):
        stream = session.stream("endless")
        until(lambda: service.made >= 10)
        rounds(10)
        assert service.made == 10  # one is held, and one waits for its place
        assert [stream.receive() for _ in range(4)] == [0, 1, 2, 3]
        until(lambda: service.made == 14)
        stream.close("enough")
        until(lambda: service.log == ["closed"])


def test_credit_does_not_grow_for_who_takes_in_bursts() -> None:
    with streaming(channel_items=8) as (service, session, _):
        stream = session.stream("endless")
        for burst in range(1, 10):
            flower.time.sleep(0.01)
            assert service.made <= 8 * burst + 2
            assert [stream.receive(NEVER) for _ in range(8)] == list(range(8 * burst - 8, 8 * burst))
        stream.close("enough")
        until(lambda: service.log == ["closed"])


def ahead(stream: Any, service: Streams) -> int:
    """By how many values the generator is ahead of one who took a thousand as they came, and then stops."""
    for _ in range(1000):
        stream.receive(NEVER)
    rounds(20)
    return service.made - 1000


def test_credit_grows_for_who_waits_and_all_streams_share_what_it_grows_by() -> None:
    with streaming(channel_items=8) as (service, session, other):
        first = session.stream("endless")
        # One is held, and one waits for its place. Of the credit, less than half is taken and not yet given back.
        assert 8 * 16 // 2 <= ahead(first, service) <= 8 * 16 + 2
        second = session.stream("endless")
        assert ahead(second, service) <= 8 + 2
        first.close()
        until(lambda: len(service.log) == 1)
        third = session.stream("endless")
        assert 8 * 16 // 2 <= ahead(third, service) <= 8 * 16 + 2
        second.close()
        third.close()
        quiet(session, other)


@pytest.mark.parametrize(
    ("tick", "least", "most"), [(1e-6, 8 * 16 // 2, 8 * 16 + 2), (0.01, 4, 8 + 2)], ids=["fast", "slow"]
)
def test_credit_grows_for_who_takes_it_fast_also_where_nobody_waits(tick: float, least: int, most: int) -> None:
    with streaming(channel_items=8) as (service, session, other):
        stream = session.stream("endless")
        until(lambda: service.made == 10)
        now = session.scheduler.now()
        ticks = itertools.count()
        session.scheduler.clock = lambda: now + tick * next(ticks)  # each look at it takes so long
        try:
            for _ in range(1000):
                assert stream.try_receive() is not None
                rounds(3)
        finally:
            session.scheduler.clock = None
        assert least <= service.made - 1000 <= most
        stream.close()
        quiet(session, other)


def test_a_stream_that_is_dropped_ends_the_generator() -> None:
    with streaming() as (service, session, other):
        stream = session.stream("endless")
        assert stream.receive() == 0
        del stream
        until(lambda: service.log == ["closed"])
        quiet(session, other)


@pytest.mark.parametrize("how", ["stop", "drop", "lost"])
def test_a_generator_that_waits_for_something_else_learns_that_nobody_wants_more(how: str) -> None:
    with streaming() as (service, session, other):
        stream = session.stream("waiting")
        assert stream.receive() == 0
        until(lambda: service.gate.balance == -1)
        if how == "stop":
            stream.close()
        elif how == "drop":
            del stream
        else:
            session.close()
        until(lambda: service.gate.balance == 0)
        until(lambda: other.inflight == 0)


def test_a_generator_may_wait_while_it_cleans_up() -> None:
    with streaming(channel_items=1) as (service, session, other):
        stream = session.stream("careful")
        assert stream.receive() == 0
        rounds(5)
        stream.close()
        until(lambda: service.gate.balance == -1)
        service.gate.send(None, NEVER)
        until(lambda: service.log == ["cleaned"])
        until(lambda: other.inflight == 0)


@pytest.mark.parametrize("count", [3, 64, 65, 200])
def test_an_error_of_a_generator_comes_after_its_values(count: int) -> None:
    """The last one, if it had to wait for credit, was lost."""
    with streaming() as (_, session, other):
        stream = session.stream("failing", (count,))
        assert [stream.receive() for _ in range(count)] == list(range(count))
        with pytest.raises(KeyError, match="no more") as caught:
            stream.receive()
        assert isinstance(caught.value, RemoteAbort)
        with pytest.raises(ChannelClosed):
            stream.receive()
        quiet(session, other)


def test_a_close_that_a_generator_met_elsewhere_is_no_end_of_its_stream() -> None:
    def values() -> Iterator[int]:
        yield 1
        other: channel[int] = channel()
        other.close()
        yield other.receive()

    with served({"values": values}) as (_, peer):
        stream = peer.stream("values")
        assert stream.receive(NEVER) == 1
        with pytest.raises(RemoteAbort, match="ChannelClosed"):
            stream.receive(NEVER)


def test_a_value_that_cant_be_sent_fails_the_stream() -> None:
    with streaming() as (_, session, other):
        stream = session.stream("unpackable_stream")
        assert stream.receive() == 1
        with pytest.raises(TypeError, match="object can't be sent"):
            stream.receive()
        quiet(session, other)


def test_the_deadline_of_a_stream() -> None:
    with streaming() as (_, session, other):
        stream = session.stream("waiting", (), None, 0.02)
        assert stream.receive() == 0
        with pytest.raises(DeadlineExceeded, match=r"within 0\.02 s") as caught:
            stream.receive(NEVER)
        assert caught.value.kind == "deadline"
        assert isinstance(caught.value, Timeout)
        quiet(session, other)
        assert other.inflight == 0


@pytest.mark.parametrize("way", ["passed on", "as a generator"])
def test_the_deadline_of_a_stream_over_a_node_in_the_middle(way: str) -> None:
    with streaming() as (_, far, _):

        def passed_on() -> Any:
            return far.stream("waiting", (), None, 0.02)

        def generator() -> Iterator[int]:
            yield from passed_on()

        with served({"get": passed_on if way == "passed on" else generator}) as (_, peer):
            stream = peer.stream("get", timeout=NEVER)
            assert stream.receive(NEVER) == 0
            with pytest.raises(DeadlineExceeded, match=r"waiting did not end within 0\.02 s"):
                stream.receive(NEVER)


def test_a_plain_peer_gets_an_array() -> None:
    with served(Streams(), ours=PLAIN) as (_, peer):
        assert peer.call("count", 5) == [0, 1, 2, 3, 4]
        assert list(peer._session.stream("count", (3,))) == [0, 1, 2]
        with pytest.raises(TypeError, match="gives no stream"):
            peer._session.stream("add", (1, 2))


# -- Ends as arguments and results


@pytest.mark.parametrize("capacity", [0, 1, 5, math.inf])
@pytest.mark.parametrize("n", [0, 1, 3, 200])
def test_a_sending_end_as_an_argument(capacity: float, n: int) -> None:
    with streaming() as (_, session, other):
        ch = channel(capacity)
        t = flower.go(session.call, "fill", (ch.sender, n))
        assert list(ch) == list(range(n))
        t.join(NEVER)
        quiet(session, other)


@pytest.mark.parametrize("capacity", [0, 1, 5, math.inf])
@pytest.mark.parametrize("n", [0, 1, 3, 200])
def test_a_receiving_end_as_an_argument(capacity: float, n: int) -> None:
    with streaming() as (_, session, other):
        ch = channel(capacity)
        reply = session.begin("total", (ch.receiver,))
        ch.send_sequence(range(n))
        ch.close()
        assert reply.receive(NEVER) == sum(range(n))
        quiet(session, other)


def test_values_held_before_the_end_was_passed_go_too() -> None:
    with streaming() as (_, session, other):
        ch = channel(10)
        ch.send_sequence(range(10))
        blocked = flower.go(ch.send, 10)
        rounds(1)
        ch.close()
        assert session.call("total", (ch.receiver,)) == 55
        blocked.join(NEVER)
        quiet(session, other)


def test_both_directions_in_one_call() -> None:
    with streaming() as (_, session, other):
        there, back = channel(4), channel(4)
        session.begin("double", (there.receiver, back.sender))
        flower.go(lambda: (there.send_sequence(range(100)), there.close()))
        assert list(back) == [2 * i for i in range(100)]
        quiet(session, other)


def test_a_caller_streams_into_a_channel_in_the_same_flight() -> None:
    with streaming() as (_, session, _):
        ch = channel(10)
        reply = session.begin("total", (ch.receiver,))
        ch.send_sequence(range(5))
        ch.close()
        assert session.calls.pending  # nothing has come back yet
        assert reply.receive(NEVER) == 10


def test_ends_as_results_and_in_containers() -> None:
    with streaming() as (service, session, other):
        ch = channel(3)
        service.kept = {"ends": [ch.receiver, (1, ch.sender)]}
        found = session.call("give_back")
        receiver, (one, sender) = found["ends"]
        assert one == 1
        sender.send("round")
        assert receiver.receive(NEVER) == "round"
        sender.close()
        assert list(receiver) == []
        del found, receiver, sender, service.kept
        quiet(session, other)


def test_ends_as_values_of_other_channels() -> None:
    with streaming() as (service, session, other):
        requests = channel(5)
        session.call("keep", (requests.receiver,))
        for i in range(3):
            answer = channel(1)
            requests.send((i, answer.sender))
            n, sender = service.kept.receive(NEVER)
            sender.send(10 * n)
            assert answer.receive(NEVER) == 10 * i
            sender.close()
        requests.close()
        assert list(service.kept) == []
        quiet(session, other)


def test_ends_in_notifications() -> None:
    with streaming() as (service, session, _):
        ch = channel(3)
        session.notify("keep", (ch.sender,))
        until(lambda: service.kept)
        service.kept.send("hello")
        assert ch.receive(NEVER) == "hello"
        service.kept.close()


# -- Edge cases, by their number in the protocol's description


def test_1_a_channel_for_a_plain_peer() -> None:
    with served(Streams(), ours=PLAIN) as (_, peer):
        ch = channel(1)
        for end in (ch, ch.sender, ch.receiver):
            with pytest.raises(TypeError, match="Flower peer only"):
                peer.call("keep", end)
        ch.send(1)
        assert ch.receive() == 1
        assert peer.call("add", 1, 2) == 3


def test_2_encoding_fails_half_way() -> None:
    with streaming() as (_, session, _):
        ch = channel(2)
        for bad in (object(), ch):
            with pytest.raises(TypeError):
                session.call("keep", ([ch.sender, ch.receiver, bad],))
        assert len(session.streams) == 0
        ch.send("still here")
        assert ch.receive() == "still here"
        outer = channel(2)
        session.call("keep", (outer.receiver,))
        with pytest.raises(TypeError):
            outer.send([ch.receiver, object()])
        ch.send("and here")
        assert ch.receive() == "and here"
        assert len(session.streams) == 1


def test_2_a_message_that_finds_no_room_leaves_its_ends_here() -> None:
    """A request, a notification and an answer."""
    ch: channel[Any] = channel(2)
    answering: list[Any] = []

    def give() -> Any:
        answering.append(flower.getcurrent())
        return [ch.sender, ch.receiver]

    a, b = link.linked({"give": give}, {})
    link.deliver_all(a, b)
    a.conn.sent += bytes(link.ROOM)
    for do in (a.call, a.begin):
        with pytest.raises(Timeout):
            do("m", ([ch.sender, ch.receiver],), None, 0)
    with flower.move_on(0):
        a.notify("m", (ch.sender, ch.receiver))
    b.begin("give")
    b.conn.deliver(1 << 30)
    link.settle()
    assert len(a.streams) == 2
    answering[0].kill()
    link.settle()
    assert not len(a.streams)
    ch.send("still here")
    assert ch.receive() == "still here"
    a.close()
    b.close()
    link.settle()


def test_3_a_sending_end_twice_a_receiving_end_once() -> None:
    with streaming() as (_, session, other):
        ch = channel(2)
        for _ in range(2):
            session.begin("fill", (ch.sender, 1))
        got = [ch.receive(NEVER)]
        got += list(ch)
        assert sorted(got) in ([0], [0, 0])  # the first that closes it closes it for both
        moved = channel(2)
        session.call("keep", (moved.receiver,))
        with pytest.raises(ValueError, match="passed on already"):
            session.call("keep", (moved.receiver,))
        with pytest.raises(ValueError, match="passed on already"):
            session.call("keep", ([channel(1).receiver, moved.receiver],))
        moved.close()
        until(lambda: len(session.streams) == 0 or True)
        taken = channel()
        t = flower.go(taken.receive)
        rounds(1)
        with pytest.raises(ValueError, match="a tasklet waits"):
            session.call("keep", (taken.receiver,))
        taken.send(1)
        assert t.join() == 1
        assert other.fault is None


def test_4_a_sending_end_comes_home() -> None:
    with streaming() as (service, session, other):
        ch = channel(10)
        session.call("keep", (ch.sender,))
        for i in range(3):
            service.kept.send(i)
        home = session.call("give_back")
        assert home == ch.sender
        home.send(3)
        assert [ch.receive(NEVER) for _ in range(4)] == [0, 1, 2, 3]
        service.kept.close()
        assert list(ch) == []
        quiet(session, other)


def test_4_a_receiving_end_comes_home_with_what_nobody_took() -> None:
    with streaming() as (service, session, other):
        ch = channel(10)
        session.call("keep", (ch.receiver,))
        for i in range(5):
            ch.send(i)
        assert service.kept.receive(NEVER) == 0
        home = session.call("give_back")
        assert home == ch.receiver
        ch.send(5)
        ch.close()
        assert list(home) == [1, 2, 3, 4, 5]
        with pytest.raises(ChannelClosed):
            service.kept.receive()
        with pytest.raises(ValueError, match="passed on already"):
            session.call("give_back")
        quiet(session, other)


@pytest.mark.parametrize("end", ["close", "fail", "stop", "lost at the source", "lost at the sink"])
def test_5_three_nodes_values_that_are_received(end: str) -> None:
    with streaming() as (b, ab, ba), streaming() as (c, bc, cb):  # we are A for `ab`, and B for `bc`
        ch = channel(5)
        ab.call("keep", (ch.receiver,))
        bc.call("keep", (b.kept,))  # B passes on what it got from A
        b.kept = None
        for i in range(5):
            ch.send(i)
        assert [c.kept.receive(NEVER) for _ in range(5)] == list(range(5))
        if end == "close":
            ch.close()
            assert list(c.kept) == []
        elif end == "fail":
            ch.send_exception(KeyError, "why")
            with pytest.raises(KeyError, match="why"):
                c.kept.receive(NEVER)
            with pytest.raises(ChannelClosed):
                ch.send(1)
        elif end == "stop":
            c.kept.close("enough")
            with pytest.raises(ChannelClosed, match="enough") as caught:
                for _ in range(1000):
                    ch.send(1, NEVER)
            assert caught.value.reason == "enough"
        elif end == "lost at the source":
            ab.close()
            with pytest.raises(RemoteAbort) as lost:
                c.kept.receive(NEVER)
            assert lost.value.kind == "disconnected"
            with pytest.raises(ChannelBroken):
                ch.send(1)
        else:
            bc.close()
            with pytest.raises(ChannelBroken):
                c.kept.receive(NEVER)
            with pytest.raises(RemoteError):
                for _ in range(1000):
                    ch.send(1, NEVER)
        c.kept = None
        quiet(ab, ba, bc, cb)


@pytest.mark.parametrize("end", ["close", "fail", "stop"])
def test_5_three_nodes_values_that_are_sent(end: str) -> None:
    with streaming() as (b, ab, ba), streaming() as (c, bc, cb):
        ch = channel(5)
        ab.call("keep", (ch.sender,))
        bc.call("keep", (b.kept,))
        for i in range(20):
            if i >= 5:
                assert ch.receive(NEVER) == i - 5
            c.kept.send(i, NEVER)
        assert [ch.receive(NEVER) for _ in range(5)] == [15, 16, 17, 18, 19]
        if end == "close":
            c.kept.close()
            assert list(ch) == []
        elif end == "fail":
            c.kept.send_exception(KeyError, "why")
            with pytest.raises(KeyError, match="why"):
                ch.receive(NEVER)
        else:
            ch.receiver.close("enough")
            for sender in (c.kept, b.kept):
                with pytest.raises(ChannelClosed):
                    for _ in range(100):
                        sender.send(1, NEVER)
        b.kept = c.kept = None
        gc.collect()
        quiet(ab, ba, bc, cb)


def test_5_a_value_that_the_second_connection_does_not_carry_fails_on_both() -> None:
    last, ch = Streams(), channel(2)
    with served(last, Settings(max_message=4096)) as (_, onwards):
        onwards.call("add", 1, 2)
        with served({"pass_on": lambda receiver: onwards.call("keep", receiver)}) as (_, peer):
            peer.call("pass_on", ch.receiver)
            ch.send("x" * 10_000)
            with pytest.raises(RemoteAbort, match="4096 is the most"):
                last.kept.receive(NEVER)
            until(lambda: ch.closed)
            with pytest.raises(RemoteError, match="4096 is the most"):
                ch.send("more")
        last.kept = None


def test_5_only_the_credit_that_the_last_one_gave_is_passed_on() -> None:
    with streaming(channel_items=4) as (b, ab, _), streaming(channel_items=4) as (c, bc, _):
        sent = []
        ch = channel(1)
        ab.call("keep", (ch.receiver,))
        bc.call("keep", (b.kept,))
        b.kept = None

        def send() -> None:
            for i in range(100):
                ch.send(i)
                sent.append(i)
            ch.close()

        flower.go(send)
        rounds(50)
        assert len(sent) <= 10  # four at C, four at B, one held, one that waits
        assert list(c.kept) == list(range(100))


def test_6_ends_that_nobody_takes_are_stopped() -> None:
    with streaming() as (service, session, other):
        ch = channel(5)
        with pytest.raises(RemoteError, match="unknown method"):
            session.call("no such method", ([{"deep": ch.receiver}],))
        with pytest.raises(ChannelClosed, match="unknown method: no such method"):
            for _ in range(100):
                ch.send(1, NEVER)
        ch = channel(5)
        with pytest.raises(RemoteError, match="unknown method"):
            session.call("no such method", (ch.sender,))
        with pytest.raises(RemoteAbort, match="unknown method: no such method"):
            ch.receive(NEVER)
        ch = channel(5)
        session.call("drop", (ch.sender,))
        with pytest.raises(RemoteAbort, match="dropped"):
            ch.receive(NEVER)
        service.kept = channel(5).receiver
        t = flower.go(session.call, "slow_drop", (channel(1).sender,))
        until(lambda: service.gate.balance == -1)
        t.kill()
        quiet(session, other)
        inner, outer = channel(5), channel(5)
        session.call("keep", (outer.receiver,))
        outer.send([inner.receiver])
        outer.close()
        rounds(5)
        service.kept = None  # with a value that nobody has received
        with pytest.raises(ChannelClosed, match="dropped"):
            for _ in range(100):
                inner.send(1, NEVER)
        quiet(session, other)


def test_8_an_end_and_a_stop_that_cross() -> None:
    with streaming() as (service, session, other):
        ch = channel(5)
        session.call("keep", (ch.receiver,))
        ch.send(1)
        ch.close()
        service.kept.close("no more")
        quiet(session, other)
        assert session.call("add", (1, 1)) == 2


def test_9_large_values_go_in_pieces_and_one_may_go_beyond_the_credit() -> None:
    with streaming(channel_bytes=10_000, max_frame=1000) as (service, session, other):
        ch = channel(5)
        session.call("keep", (ch.receiver,))
        large = ["x" * 50_000, b"y" * 999, "z" * 100_000, 1]
        flower.go(lambda: (ch.send_sequence(large), ch.close()))
        rounds(5)
        assert session.call("add", (1, 1)) == 2
        assert list(service.kept) == large
        quiet(session, other)


@pytest.mark.parametrize(("size", "messages"), [(4096, 1), (65_536, 1), (65_636, 2), (300_000, 5)])
def test_9_bytes_of_a_whole_frame_go_in_one_message(size: int, messages: int) -> None:
    with streaming() as (service, session, _):
        ch = channel(1)
        session.call("keep", (ch.receiver,))
        (outbound,) = session.streams.outbound.values()
        until(lambda: not outbound.listed)
        ch.send(bytes(size))
        assert (outbound.sent_bytes - size) // 13 == messages  # each has 13 bytes beside the value, or 14
        assert size < outbound.sent_bytes <= size + 32 * messages
        assert service.kept.receive(NEVER) == bytes(size)
        ch.close()


@pytest.mark.parametrize("size", [9960, 9970, 9980, 9990, 10_000])
def test_9_bytes_that_are_about_as_long_as_a_message_may_be(size: int) -> None:
    with streaming(max_message=10_000) as (service, session, _):
        ch = channel(1)
        session.call("keep", (ch.receiver,))
        try:
            ch.send(bytes(size))
        except ValueError:
            assert size > 9960
            ch.send(b"")
        assert service.kept.receive(NEVER) in (bytes(size), b"")
        ch.close()


def test_9_a_value_that_is_too_long_is_a_local_error_and_the_channel_lives() -> None:
    with streaming(max_message=10_000) as (service, session, _):
        ch = channel(5)
        session.call("keep", (ch.receiver,))
        with pytest.raises(ValueError, match="10000 is the most"):
            ch.send("x" * 20_000)
        ch.send("short")
        assert service.kept.receive(NEVER) == "short"
        ch.close()


def test_11_credit_comes_back_for_those_who_only_look() -> None:
    with streaming(channel_items=1) as (service, session, _):
        ch = channel(5)
        session.call("keep", (ch.receiver,))
        flower.go(lambda: (ch.send_sequence(range(20)), ch.close()))
        got: list[int] = []

        def look() -> bool:
            value = service.kept.try_receive(None)
            if value is not None:
                got.append(value)
            return len(got) == 20

        until(look)
        assert got == list(range(20))


def test_12_a_cancelled_receive_leaves_the_value_and_a_cancelled_send_was_not_sent() -> None:
    with streaming(channel_items=1) as (service, session, _):
        ch = channel()
        session.call("keep", (ch.receiver,))
        with pytest.raises(Timeout):
            ch.send("no credit", 0.005)
        with pytest.raises(Timeout):
            service.kept.receive(0.005)
        ch.send("second", NEVER)  # the credit of the receiver that has given up
        with pytest.raises(Timeout):
            ch.send("third", 0.005)
        assert service.kept.receive(NEVER) == "second"
        t = flower.go(service.kept.receive, NEVER)
        ch.send("fourth", NEVER)
        assert t.join(NEVER) == "fourth"
        ch.close()


def test_13_select_over_remote_ends() -> None:
    with streaming() as (service, session, _):
        left, right = channel(3), channel(3)
        session.call("keep", ([left.receiver, right.receiver],))
        ends = service.kept
        left.send(1)
        right.send(2)
        rounds(5)
        got = sorted(flower.select(*ends, timeout=NEVER)[1] for _ in range(2))
        assert got == [1, 2]
        back = channel(1)
        session.call("keep", (back.sender,))
        assert flower.select((service.kept, "x"), timeout=NEVER)[0] == service.kept
        assert back.receive(NEVER) == "x"
        service.kept.close()
        left.close()
        right.close()
        for end in ends:
            with pytest.raises(ChannelClosed) as caught:
                flower.select(end, timeout=NEVER)
            assert caught.value.channel is end


def test_15_no_channel_survives_its_connection() -> None:
    with streaming() as (service, session, other):
        ch, home = channel(2), channel(5)
        session.call("keep", ([ch.receiver, home.sender],))
        receiver, sender = service.kept
        ch.send(1)
        until(lambda: len(receiver._channel) == 1)
        other.close()
        assert receiver.receive() == 1
        with pytest.raises(ChannelBroken):
            receiver.receive()
        with pytest.raises(ChannelBroken):
            sender.send(1)
        with pytest.raises(ChannelBroken):
            home.receive(NEVER)
        until(lambda: session.fault)
        with pytest.raises(ChannelBroken) as caught:
            ch.send(2)
        assert (caught.value.undelivered, caught.value.maybe) == (0, 1)


def test_15_what_is_known_of_the_values_when_the_link_is_lost() -> None:
    with streaming(channel_items=2) as (service, session, other):
        ch = channel(3)
        session.call("keep", (ch.receiver,))
        ch.send_sequence(range(5))  # two are there, three are held
        blocked = flower.go(ch.send, 5)
        rounds(5)
        service.kept.receive()
        blocked.join(NEVER)
        last = flower.go(ch.send, 6)
        rounds(5)
        other.conn.abort()
        for lost in (last.join, lambda: ch.send(7)):
            with pytest.raises(ChannelBroken) as caught:
                lost()
            assert (caught.value.undelivered, caught.value.maybe) == (3, 2)


# -- The rest


def test_many_channels_share_a_connection_fairly() -> None:
    with streaming() as (_, session, _):
        streams = [session.stream("count", (50,)) for _ in range(40)]
        assert [list(stream) for stream in streams] == [list(range(50))] * 40


def test_a_slow_channel_stalls_only_itself() -> None:
    with streaming() as (_, session, _):
        slow = session.stream("endless")
        assert slow.receive() == 0
        assert list(session.stream("count", (1000,))) == list(range(1000))
        slow.close()


def test_more_channels_than_the_peer_takes() -> None:
    with streaming(max_channels=2) as (service, session, _):
        ends = [channel(1) for _ in range(3)]
        session.call("keep", ([ends[0].sender, ends[1].sender],))
        with pytest.raises(ValueError, match="2 channels are open"):
            session.call("drop", (ends[2].sender,))
        service.kept[0].close()
        list(ends[0])
        until(lambda: len(session.streams) == 1)
        session.call("drop", (ends[2].sender,))


def test_a_remote_end_in_another_thread() -> None:
    with streaming() as (_, session, other):
        stream = session.stream("count", (1000,))
        finish = in_thread(list, stream)
        assert finish() == list(range(1000))
        ch = channel(3)
        reply = session.begin("total", (ch.receiver,))

        def feed() -> None:
            ch.send_sequence(range(1000))
            ch.close()

        in_thread(feed)()
        assert reply.receive(NEVER) == sum(range(1000))
        quiet(session, other)
        assert threading.active_count() >= 1


def test_what_a_failure_looks_like_is_never_a_close() -> None:
    for error in (ChannelBroken, RemoteAbort):
        assert not issubclass(error, ChannelClosed)


def test_a_long_value_that_uses_up_the_credit_of_its_own_grant() -> None:
    """The receiver takes what came before it slowly; what comes after it must have credit, too."""
    step: channel[Any] = channel()
    got: list[int] = []

    def keep(values: Any) -> None:
        def take() -> None:
            for value in values:
                got.append(len(value))
                step.receive(NEVER)
            got.append(-1)

        flower.go(take)

    with served({"keep": keep}) as (_, peer):
        values: channel[bytes] = channel(1)
        peer.call("keep", values.receiver)
        for count, size in enumerate((1, 140_000, 300_000), 1):
            values.send(bytes(size), NEVER)
            rounds(20)
            if count > 1:
                step.send(None, NEVER)
            until(lambda count=count: len(got) == count)  # type: ignore[misc]
        step.send(None, NEVER)
        for count in range(4, 7):
            values.send(b"next", NEVER)
            until(lambda count=count: len(got) == count)  # type: ignore[misc]
            step.send(None, NEVER)
        values.close()
        until(lambda: got[-1] == -1)


def test_short_values_that_come_behind_long_ones() -> None:
    """While these were beyond the credit, credit was looked at only as one more of many was taken: no longer."""
    with streaming() as (service, session, _):
        values: channel[bytes] = channel(math.inf)
        session.call("keep", (values.receiver,))
        sizes = [200_000, *45 * [1], 70_000, *200 * [1]]
        for size in sizes:
            values.send(bytes(size))
        values.close()
        got, service.kept = service.kept, None
        until(lambda: len(got._channel) == 47)  # the bytes are used up
        first = got.receive()
        until(lambda: len(got._channel) == 64)  # and now the items
        found = [first]
        with flower.timeout(NEVER):
            found.extend(got)
        assert [len(value) for value in found] == sizes


def test_what_was_not_sent_is_counted_in_values() -> None:
    """A value that goes in pieces is one value, and what was read before it may have been received."""
    out: channel[Any] = channel(10)
    with rpc.serve(URL, {"open": lambda: out.receiver}) as server, raw_client(server) as raw:
        limits = {"max_chans": 100, "chan_items": 64, "chan_bytes": 1 << 18}
        raw.send([0, 1, "$/hello", [{"v": 1, "feat": ["channels"], "ext": 70, **limits}]])
        assert raw.receive()[2] is None
        raw.send([0, 2, "open", []])
        assert raw.receive()[1:3] == [2, None]
        for value in ("first", "second"):
            out.send(value)
            assert raw.receive()[2][1] == value
        until(lambda: out._credit > 0)
        with pytest.raises(ChannelBroken) as caught:
            out.send(bytes(12_000_000), NEVER)
            for _ in range(10):
                out.send("later", NEVER)
            until(lambda: out._outlet is not None and len(out._outlet.queue) > 50)
            raw.conn.abort()
            out.send("last", NEVER)
            out.send("last", NEVER)
        assert caught.value.undelivered <= 13
        assert caught.value.maybe >= 2


class Closes:
    """Garbage in a circle, which closes the channel when it is collected."""

    def __init__(self, ch: channel[Any]) -> None:
        self.me = self
        self.ch = ch

    def __del__(self) -> None:
        self.ch.close()


def test_a_channel_that_is_closed_by_a_value_that_cant_be_packed() -> None:
    class Bad(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            ch.close()
            raise ValueError("not to be had")

    with streaming() as (service, session, _):
        ch: channel[Any] = channel(2)
        session.call("keep", (ch.receiver,))
        with pytest.raises(ValueError, match="not to be had"):
            ch.send(Bad())
        with pytest.raises(ChannelClosed):
            service.kept.receive(NEVER)
        service.kept = None


@pytest.mark.slow
@pytest.mark.parametrize("size", [20, 5000])
def test_a_channel_that_a_finalizer_closes_as_a_value_is_packed(size: int) -> None:
    def take(values: Any) -> None:
        def run() -> None:
            for value in values:
                got.append(len(value))
            got.append(-1)

        flower.go(run)

    before = gc.get_threshold()
    for threshold in range(1, 60):
        got: list[int] = []
        with served({"take": take}) as (_, peer):
            ch: channel[Any] = channel()
            peer.call("take", ch.receiver)
            sent = 0
            gc.collect()
            gc.disable()
            Closes(ch)
            try:
                gc.set_threshold(threshold, 1000, 1000)
                gc.enable()
                while sent < 100:
                    ch.send(bytes(size), NEVER)
                    sent += 1
            except ChannelClosed:
                pass
            finally:
                gc.set_threshold(*before)
                gc.enable()
            ch.close()
            until(lambda: -1 in got)  # noqa: B023
            assert got == [size] * sent + [-1]
            assert not peer.closed
