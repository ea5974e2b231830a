"""Programs that pin down what channels and select do, after those of Go's own test suite."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

import flower
from flower import ChannelClosed, channel, go, select

from .support import CAPACITIES, SOON, drain, scaled, settle

over_capacities = pytest.mark.parametrize("capacity", CAPACITIES)

# -- doubleselect: a waiter that is in several channels is woken once


@over_capacities
def test_doubleselect(capacity: int) -> None:
    count = scaled(2000)
    ways = [channel(capacity) for _ in range(4)]
    out, done = channel(capacity), channel(capacity)

    def offer() -> None:
        for i in range(count):
            select(*[(c, i) for c in ways])
        for c in ways:
            c.close()

    def forward(c: Any) -> None:
        for value in c:
            out.send(value)
        done.send(True)

    def finish() -> None:
        for _ in ways:
            done.receive()
        out.close()

    go(offer)
    for c in ways:
        go(forward, c)
    go(finish)
    assert sorted(out) == list(range(count))


# -- fifo: values and waiters are served in order


@over_capacities
def test_fifo_asynchronous(capacity: int) -> None:
    ch = channel(max(1, capacity))
    for i in range(ch.capacity):
        ch.send(i)
    assert [ch.receive() for _ in range(ch.capacity)] == list(range(ch.capacity))


@over_capacities
def test_fifo_synchronous_chain(capacity: int) -> None:
    ch = channel(capacity)
    order = []

    def link(i: int, before: Any, after: Any) -> None:
        before.receive()
        order.append(ch.receive())
        after.send(True)

    first = before = channel()
    for i in range(50):
        after = channel(1)
        go(link, i, before, after)
        before = after
    go(lambda: [ch.send(i) for i in range(50)])
    first.send(True)
    before.receive()
    assert order == list(range(50))


# -- goroutines: a daisy chain of many tasklets


@over_capacities
def test_goroutines_daisy_chain(capacity: int) -> None:
    length = scaled(5000)

    def link(left: Any, right: Any) -> None:
        left.send(right.receive() + 1)

    leftmost = right = left = channel(capacity)
    for _ in range(length):
        right = channel(capacity)
        go(link, left, right)
        left = right
    go(right.send, 0)
    assert leftmost.receive() == length


# -- nonblock: try forms and defaults, against a receiver or sender that is or is not there


@pytest.mark.parametrize("capacity", [0, 1])
@pytest.mark.parametrize("value", [123, 1 << 80, True, "hello", None, ("a", 1)], ids=repr)
@pytest.mark.parametrize("form", ["try", "select"])
def test_nonblock(capacity: int, value: Any, form: str) -> None:
    nothing = object()
    if form == "try":

        def send(ch: Any) -> bool:
            return bool(ch.try_send(value))

        def receive(ch: Any) -> Any:
            return ch.try_receive(nothing)
    else:

        def send(ch: Any) -> bool:
            return select((ch, value), default=None)[0] is ch

        def receive(ch: Any) -> Any:
            return select(ch, default=nothing)[1]

    ch, strobe = channel(capacity), channel()
    assert receive(ch) is nothing
    if capacity == 0:
        assert not send(ch)

    def receiver() -> None:
        strobe.send(ch.receive())

    def sender() -> None:
        ch.send(value)
        strobe.send("sent")

    go(receiver)
    settle()
    assert send(ch)
    assert strobe.receive() == value
    go(sender)
    settle()
    assert receive(ch) == value
    assert strobe.receive() == "sent"
    assert receive(ch) is nothing
    assert (len(ch), ch.balance) == (0, 0)


# -- select2: selects that lose leave nothing behind


def test_select2_memory_does_not_grow() -> None:
    ch, other = channel(), channel()

    def sender(n: int) -> None:
        for _ in range(n):
            ch.send(1)

    def receiver(n: int) -> None:
        for _ in range(n):
            assert select(ch, other) == (ch, 1)

    def rounds(n: int) -> None:
        go(sender, n)
        go(receiver, n).join()

    rounds(500)
    gc.collect()
    tracemalloc.start()
    try:
        rounds(500)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        rounds(scaled(5000))
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20_000, f"{grown} bytes"
    assert other.balance == 0


# -- select3: what blocks, what does not, what raises


def closed() -> Any:
    ch = channel()
    ch.close()
    return ch


def held(*values: Any) -> Any:
    ch = channel(len(values))
    for value in values:
        ch.send(value)
    return ch


def both_ends_of_one() -> Any:
    ch = channel()
    return select((ch, 1), ch)


BLOCKS: dict[str, Callable[[], Any]] = {
    "receive from a channel with nothing": lambda: channel().receive(),
    "send to a channel without a receiver": lambda: channel().send(7),
    "send to a full channel": lambda: held(1).send(2),
    "receive from never": lambda: flower.never().receive(),
    "select of nothing": lambda: select(),
    "select of None, receiving": lambda: select(None),
    "select of None, sending": lambda: select((None, 7)),
    "select of None, both": lambda: select(None, (None, 7)),
    "select of a channel that is not ready": lambda: select(channel()),
    "select of a full channel": lambda: select((held(1), 2)),
    "select that sees itself": both_ends_of_one,
}
NEVER_BLOCKS: dict[str, tuple[Callable[[], Any], Any]] = {
    "send with room": (lambda: channel(1).send(7), None),
    "receive of what is held": (lambda: held(7).receive(), 7),
    "default of nothing": (lambda: select(default=5), (None, 5)),
    "default of None, receiving": (lambda: select(None, default=5), (None, 5)),
    "default of None, sending": (lambda: select((None, 7), default=5), (None, 5)),
    "select with room": (lambda: select((channel(1), 7), default=5)[1], None),
    "select of what is held": (lambda: select(held(7), default=5)[1], 7),
}
RAISES: dict[str, Callable[[], Any]] = {
    "receive from a closed channel": lambda: closed().receive(),
    "try_receive from a closed channel": lambda: closed().try_receive(None),
    "send to a closed channel": lambda: closed().send(7),
    "try_send to a closed channel": lambda: closed().try_send(7),
    "select, receiving": lambda: select(closed()),
    "select, sending": lambda: select((closed(), 7)),
    "select, receiving, with a default": lambda: select(closed(), default=5),
    "select, sending, with a default": lambda: select((closed(), 7), default=5),
}


@pytest.mark.parametrize("case", BLOCKS)
@pytest.mark.leaves("tasklets")
def test_select3_blocks(case: str) -> None:
    t = go(BLOCKS[case])
    settle()
    assert t.alive and t.blocked


@pytest.mark.parametrize("case", NEVER_BLOCKS)
def test_select3_never_blocks(case: str) -> None:
    func, result = NEVER_BLOCKS[case]
    t = go(func)
    settle()
    assert not t.alive
    assert t.join() == result


@pytest.mark.parametrize("case", RAISES)
def test_select3_raises(case: str) -> None:
    for _ in range(10):
        with pytest.raises(ChannelClosed):
            RAISES[case]()


# -- select6: a losing case is unlinked from the middle of its queue


@over_capacities
def test_select6_loser_leaves_the_middle_of_the_queue(capacity: int) -> None:
    c1, c2, c3 = channel(capacity), channel(capacity), channel(capacity)
    got = []

    def choose() -> None:
        got.append(select(c1, c2))
        c3.send(True)
        got.append(c1.receive())

    go(lambda: got.append(c1.receive()))
    t = go(choose)
    settle()
    c2.send("two")
    c3.receive()
    c1.send("a")
    c1.send("b")
    t.join()
    settle()
    assert got == [(c2, "two"), "a", "b"]
    assert [c.balance for c in (c1, c2, c3)] == [0, 0, 0]


# -- select7: every way to send meets every way to receive


@pytest.mark.parametrize("sending", ["send", "select", "select of two", "select with a default"])
@pytest.mark.parametrize("receiving", ["receive", "select", "select of two"])
@over_capacities
def test_select7_parked_receiver_meets_sender(capacity: int, sending: str, receiving: str) -> None:
    ch = channel(capacity)
    receive = {
        "receive": lambda: ch.receive(),
        "select": lambda: select(ch)[1],
        "select of two": lambda: select(ch, channel())[1],
    }[receiving]
    send = {
        "send": lambda: ch.send(1),
        "select": lambda: select((ch, 1)),
        "select of two": lambda: select((ch, 1), (channel(), 1)),
        "select with a default": lambda: select((ch, 1), default=None),
    }[sending]
    t = go(receive)
    settle()
    assert t.blocked == -1
    send()
    assert t.join() == 1


# -- sieve1 and sieve2: primes through a chain of filters

PRIMES = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97]


@over_capacities
@pytest.mark.leaves("tasklets")
def test_sieve1(capacity: int) -> None:
    def numbers(out: Any) -> None:
        i = 2
        while True:
            out.send(i)
            i += 1

    def without(prime: int, source: Any, out: Any) -> None:
        for i in source:
            if i % prime:
                out.send(i)

    source = channel(capacity)
    go(numbers, source)
    found = []
    for _ in PRIMES:
        found.append(source.receive())
        out = channel(capacity)
        go(without, found[-1], source, out)
        source = out
    assert found == PRIMES


@over_capacities
@pytest.mark.leaves("tasklets")
def test_sieve2_merges_streams_of_multiples(capacity: int) -> None:
    """Candidates that are no multiple of a prime so far; each stream of multiples is a tasklet."""

    def multiples(prime: int, out: Any) -> None:
        n = prime * prime
        while True:
            out.send(n)
            n += prime

    found: list[int] = []
    heads: list[list[Any]] = []
    candidates = channel(capacity)

    def candidate_numbers() -> None:
        n = 2
        while True:
            candidates.send(n)
            n += 1

    go(candidate_numbers)
    while len(found) < len(PRIMES):
        n = candidates.receive()
        composite = False
        for head in heads:
            while head[0] < n:
                head[0] = head[1].receive()
            composite |= head[0] == n
        if not composite:
            found.append(n)
            stream = channel(capacity)
            go(multiples, n, stream)
            heads.append([stream.receive(), stream])
    assert found == PRIMES


# -- closedchan: a closed channel, three ways to use it


class Plain:
    def __init__(self, ch: Any) -> None:
        self.ch = ch

    def send(self, value: Any) -> None:
        self.ch.send(value)

    def try_send(self, value: Any) -> Any:
        return self.ch.try_send(value)

    def receive(self) -> Any:
        return self.ch.receive()

    def try_receive(self) -> Any:
        return self.ch.try_receive(None)


class BySelect(Plain):
    others: tuple[Any, ...] = ()

    def send(self, value: Any) -> None:
        select((self.ch, value), *self.others)

    def try_send(self, value: Any) -> Any:
        return select((self.ch, value), *self.others, default=None)[0] is not None

    def receive(self) -> Any:
        return select(*self.others, self.ch)[1]

    def try_receive(self) -> Any:
        return select(*self.others, self.ch, default=None)[1]


class BySelectOfTwo(BySelect):
    others = (channel(),)


@pytest.mark.parametrize("use", [Plain, BySelect, BySelectOfTwo])
@pytest.mark.parametrize("holds", [0, 1, 2, 100])
def test_closedchan(use: type[Plain], holds: int) -> None:
    values = list(range(holds))
    ch = held(*values) if holds else channel()
    ch.close()
    c = use(ch)
    got = []
    for i in values:
        with pytest.raises(ChannelClosed):
            c.send("late")
        with pytest.raises(ChannelClosed):
            c.try_send("late")
        got.append(c.receive() if i % 2 else c.try_receive())
    assert got == values
    for _ in range(3):
        with pytest.raises(ChannelClosed):
            c.receive()
        with pytest.raises(ChannelClosed):
            c.try_receive()
        with pytest.raises(ChannelClosed):
            c.send("late")
        with pytest.raises(ChannelClosed):
            c.try_send("late")
    ch.close()  # again: no effect
    assert ch.closed


# -- chancap


@over_capacities
def test_chancap(capacity: int) -> None:
    ch = channel(capacity)
    assert (len(ch), ch.capacity) == (0, capacity)
    for i in range(capacity):
        assert len(ch) == i
        ch.send(i)
    assert (len(ch), ch.capacity) == (capacity, capacity)
    assert not ch.try_send("one more")
    assert drain(ch) == list(range(capacity))


def test_chancap_without_a_capacity_is_a_rendezvous() -> None:
    assert channel().capacity == channel(0).capacity == 0


# -- chanlinear: selects on a shared, quiet channel cost what they cost alone


def select_rounds(n: int) -> float:
    """Seconds of CPU for n tasklets that each lose a case on one shared channel ten times."""
    shared = channel()
    own = [channel() for _ in range(n)]

    def choose(mine: Any) -> None:
        for _ in range(10):
            select(shared, mine)

    tasklets = [go(choose, c) for c in own]
    settle()
    assert shared.balance == -n
    start = time.process_time()
    for _ in range(10):
        for c in own:
            c.send(True)
    took = time.process_time() - start
    for t in tasklets:
        t.join()
    assert shared.balance == 0
    return took


@pytest.mark.slow
def test_chanlinear() -> None:
    n = scaled(1000)
    ratios = []
    for _ in range(8):  # the machine's own noise gets several tries; a quadratic cost would fail each
        gc.collect()
        ratios.append(select_rounds(4 * n) / max(select_rounds(n), 1e-9))
        if ratios[-1] < 8:
            return
    pytest.fail(f"four times the channels took {ratios} times as long")


# -- The timer of a select that did not need it


def test_timeout_that_lost_leaves_no_timer() -> None:
    ch = channel(1)
    for _ in range(100):
        ch.send(1)
        assert select(ch, timeout=1000.0) == (ch, 1)
    go(ch.send, 2)
    assert select(ch, timeout=1000.0) == (ch, 2)
    with pytest.raises(flower.Deadlock):  # a timer that was left would let main wait for it
        ch.receive()


def test_timeout_of_a_select_that_nobody_answers() -> None:
    ch = channel()
    with pytest.raises(flower.Timeout):
        select(ch, (channel(), 1), timeout=SOON)
    assert ch.balance == 0
