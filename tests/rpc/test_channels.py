"""Channels in messages: generators, and ends as arguments, as results, as values of other channels."""

from __future__ import annotations

import gc
import itertools
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import flower
from flower import ChannelClosed, Timeout, channel, rpc
from flower.errors import ChannelBroken, DeadlineExceeded, RemoteAbort
from tests.net.support import NEVER, in_thread, rounds, until
from tests.rpc.support import (
    PLAIN,
    URL,
    Streams,
    quiet,
    raw_client,
    served,
    streaming,
)

pytestmark = pytest.mark.usefixtures("loop")


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
