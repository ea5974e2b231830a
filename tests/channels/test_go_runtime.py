"""The races and stresses of Go's runtime tests, and its power series, as tasklet programs."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

import flower
from flower import ChannelClosed, channel, go, schedule, select

from .support import CAPACITIES, scaled, settle

over_capacities = pytest.mark.parametrize("capacity", CAPACITIES)

# -- What every capacity must do


@over_capacities
def test_receive_of_an_empty_channel_waits(capacity: int) -> None:
    ch = channel(capacity)
    receivers = [go(ch.receive), go(lambda: select(ch)[1])]
    settle()
    assert all(t.blocked for t in receivers)
    nothing = object()
    assert ch.try_receive(nothing) is nothing
    ch.send(1)
    ch.send(2)
    assert [t.join() for t in receivers] == [1, 2]


@over_capacities
def test_send_to_a_full_channel_waits(capacity: int) -> None:
    ch = channel(capacity)
    for i in range(capacity):
        ch.send(i)
    sender = go(ch.send, capacity)
    settle()
    assert sender.blocked == 1
    assert not ch.try_send("no room")
    assert select((ch, "no room"), default="full") == (None, "full")
    assert [ch.receive() for _ in range(capacity + 1)] == list(range(capacity + 1))
    sender.join()


@over_capacities
def test_close_unblocks_receivers(capacity: int) -> None:
    ch = channel(capacity)
    receivers = [go(ch.receive), go(select, ch), go(select, ch, channel())]
    settle()
    ch.close()
    for t in receivers:
        with pytest.raises(ChannelClosed):
            t.join()
    assert ch.balance == 0


@over_capacities
def test_all_values_of_several_senders_arrive_at_several_receivers(capacity: int) -> None:
    ch, results = channel(capacity), channel(4)
    count = scaled(500)

    def send() -> None:
        for i in range(count):
            ch.send(i)

    def receive() -> None:
        results.send([ch.receive() for _ in range(count)])

    for _ in range(4):
        go(send)
        go(receive)
    got = [value for _ in range(4) for value in results.receive()]
    assert sorted(got) == sorted(list(range(count)) * 4)


# -- NonblockRecvRace, NonblockSelectRace: select sees one moment, not several


def test_nonblock_receive_race() -> None:
    for _ in range(200):
        ch = channel(1)
        ch.send(1)
        t = go(lambda ch=ch: select(ch, default="not ready"))
        ch.close()
        schedule()
        assert t.join() == (ch, 1)
        with pytest.raises(ChannelClosed):
            ch.receive()


@pytest.mark.parametrize("how", ["send", "close"])
def test_nonblock_select_race(how: str) -> None:
    """At each moment c1 or c2 is ready, so that the default is never taken."""
    done = channel(1)

    def choose(c1: Any, c2: Any) -> None:
        try:
            done.send(select(c1, c2, default=None)[0])
        except ChannelClosed as e:
            done.send(e.channel)

    for i in range(scaled(1000)):
        c1, c2 = channel(1), channel(1)
        c1.send(1)
        go(choose, c1, c2)
        if i % 2:
            schedule()
        if how == "send":
            c2.send(1)
        else:
            c2.close()
        c1.try_receive(None)
        assert done.receive() in (c1, c2)


# -- SelfSelect


@pytest.mark.parametrize("capacity", [0, 1, 10])
def test_self_select(capacity: int) -> None:
    """Both ends of one channel in one select: two such selects meet each other, none meets itself."""
    ch = channel(capacity)
    seen: list[tuple[int, Any]] = []

    def work(me: int) -> None:
        for i in range(scaled(1000)):
            if me == 0 or i % 2 == 0:
                result = select((ch, me), ch)
                received = result.index == 1
            else:
                result = select(ch, (ch, me))
                received = result.index == 0
            if received:
                seen.append((me, result[1]))
            if capacity:
                schedule()

    tasklets = [go(work, me) for me in range(2)]
    settle()
    for t in tasklets:
        if capacity == 0:
            assert all(me != value for me, value in seen)
        t.join(10)
    assert seen


# -- SelectStress


@pytest.mark.slow
def test_select_stress() -> None:
    ways = [channel(), channel(), channel(2), channel(3)]
    count = scaled(2000)

    def send(c: Any) -> None:
        for _ in range(count):
            c.send(0)

    def receive(c: Any) -> None:
        for _ in range(count):
            c.receive()

    def choose(sending: bool, order: list[int]) -> None:
        left = [count] * 4
        while any(left):
            cases: list[Any] = [ways[k] if left[k] else None for k in order]
            result = select(*[(c, 0) for c in cases] if sending else cases)
            k = order[result.index]
            assert ways[k] is result[0]
            left[k] -= 1

    tasklets = [go(f, c) for c in ways for f in (send, receive)]
    tasklets += [go(choose, True, [3, 2, 0, 1]), go(choose, False, [0, 1, 2, 3])]
    for t in tasklets:
        t.join()
    assert [(c.balance, len(c)) for c in ways] == [(0, 0)] * 4


# -- SelectFairness


def test_select_fairness() -> None:
    """Of two channels that are always ready each is taken about as often; a third and fourth never are."""
    trials = 10_000
    c1, c2 = channel(trials + 1), channel(trials + 1)
    c1.send_sequence([1] * (trials + 1))
    c2.send_sequence([2] * (trials + 1))
    c3, c4 = channel(), channel()
    count = {1: 0, 2: 0}
    for _ in range(trials):
        count[select(c3, c4, c1, c2)[1]] += 1
    assert abs(count[1] / trials - 0.5) < 4.891676 / (2 * trials**0.5), count  # six nines


def test_select_fairness_among_parked_peers() -> None:
    """The same, when what makes the cases ready are tasklets that wait on the other side."""
    trials, done = scaled(5000), [False]
    c1, c2 = channel(), channel()
    count = {c1: 0, c2: 0}

    def feed(c: Any) -> None:
        while not done[0]:
            c.send(None)

    feeders = [go(feed, c1), go(feed, c2)]
    for _ in range(trials):
        settle()
        count[select(c1, c2)[0]] += 1
    done[0] = True
    for t in feeders:
        t.kill()
    assert abs(count[c1] / trials - 0.5) < 4.891676 / (2 * trials**0.5), count


# -- PseudoRandomSend


@pytest.mark.parametrize("capacity", [0, 100])
def test_pseudo_random_send(capacity: int) -> None:
    n = 100
    ch = channel(capacity)

    def receive() -> list[int]:
        got = []
        for _ in range(n):
            schedule()
            got.append(ch.receive())
        return got

    t = go(receive)
    for _ in range(n):
        select((ch, 1), (ch, 0))
    got = t.join()
    assert n // 10 < sum(got) < n - n // 10


# -- MultiConsumer


@pytest.mark.slow
def test_multi_consumer() -> None:
    workers, count = 23, scaled(20_000)
    numbers = [2, 3, 7, 11, 13, 17, 19, 23, 27, 31]
    queue, results = channel(workers * 3), channel(workers * 3)
    expected = sum(numbers[i % 10] for i in range(count))

    def work(w: int) -> None:
        for v in queue:
            if numbers[w % 10] == v:  # disturb the order
                schedule()
            results.send(v)

    def feed() -> None:
        with flower.group() as g:
            for w in range(workers):
                g.go(work, w)
            for i in range(count):
                queue.send(numbers[i % 10])
            queue.close()
        results.close()

    go(feed)
    got = list(results)
    assert (len(got), sum(got)) == (count, expected)


# -- SelectDuplicateChannel


@over_capacities
def test_select_duplicate_channel(capacity: int) -> None:
    c, d, e = channel(capacity), channel(capacity), channel(capacity)

    def a() -> None:
        assert select(c, c, d) == (d, 7)
        e.send(9)

    first = go(a)
    settle()
    second = go(c.receive)
    settle()
    d.send(7)
    assert e.receive() == 9
    c.send(8)
    assert second.join() == 8
    first.join()
    assert [x.balance for x in (c, d, e)] == [0, 0, 0]


def test_each_of_a_duplicate_channels_cases_is_as_likely() -> None:
    ch = channel(1)
    count = [0, 0, 0]
    for _ in range(3000):
        ch.send(None)
        count[select(ch, ch, ch).index] += 1
    assert all(800 < n < 1200 for n in count), count


# -- powser1: power series whose coefficients are streams, computed on demand


class Series:
    """A stream of coefficients: who wants one sends on `ask`, and gets it on `give`; None ends the series."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.ask, self.give = channel(capacity), channel(capacity)

    def get(self) -> Any:
        self.ask.send(True)
        return self.give.receive()

    def put(self, value: Any) -> None:
        self.ask.receive()
        self.give.send(value)

    def new(self, producer: Any, *args: Any) -> Series:
        out = Series(self.capacity)
        go(producer, out, *args)
        return out

    def feed(self, out: Series) -> None:
        """Passes the rest of this series on to out, for good."""
        while True:
            out.ask.receive()
            out.give.send(self.get())


def get_both(u: Series, v: Series) -> list[Any]:
    """The next coefficient of each, in whichever order the two want to be asked and give."""
    ask, give, got = [u.ask, v.ask], [None, None], [None, None]
    for _ in range(4):
        result = select((ask[0], True), (ask[1], True), give[0], give[1])
        k = result.index % 2
        if result.index < 2:
            ask[k], give[k] = None, (u, v)[k].give
        else:
            give[k], got[k] = None, result[1]
    return got


def split(u: Series) -> tuple[Series, Series]:
    """Two series equal to u, each to be read at its own pace."""
    outs = (Series(u.capacity), Series(u.capacity))
    release = channel()
    go(split_step, u, outs, release)
    release.send(None)
    return outs


def split_into(u: Series, outs: tuple[Series, Series]) -> None:
    release = channel()
    go(split_step, u, outs, release)
    release.send(None)


def split_step(u: Series, outs: tuple[Series, Series], wait: Any) -> None:
    ahead, behind = outs
    both = False
    if select(ahead.ask, wait)[0] is wait:
        both = True
        if select(ahead.ask, behind.ask)[0] is behind.ask:
            ahead, behind = behind, ahead
    u.ask.send(True)
    release = channel()
    go(split_step, u, (ahead, behind), release)
    value = u.give.receive()
    ahead.give.send(value)
    if not both:
        wait.receive()
    behind.put(value)
    release.send(None)


def constant(out: Series, value: Fraction) -> None:
    while True:
        out.put(value)


def scale(out: Series, c: Fraction, u: Series) -> None:
    while True:
        out.ask.receive()
        out.give.send(c * u.get())


def add(out: Series, u: Series, v: Series) -> None:
    while True:
        out.ask.receive()
        a, b = get_both(u, v)
        out.give.send(a + b)


def multiply(out: Series, u: Series, v: Series) -> None:
    out.ask.receive()
    a, b = get_both(u, v)
    out.give.send(a * b)
    u1, u2 = split(u)
    v1, v2 = split(v)
    w = u.new(add, u.new(scale, a, v1), u.new(scale, b, u1))
    out.ask.receive()
    out.give.send(w.get())
    u.new(add, w, u.new(multiply, u2, v2)).feed(out)


def differentiate(out: Series, u: Series) -> None:
    out.ask.receive()
    u.get()
    n = 1
    while True:
        out.give.send(n * u.get())
        out.ask.receive()
        n += 1


def integrate(out: Series, c: Fraction, u: Series) -> None:
    out.put(c)
    n = 1
    while True:
        out.ask.receive()
        out.give.send(u.get() / n)
        n += 1


def alternate(out: Series, u: Series) -> None:
    """u(-x*x)."""
    sign = 1
    while True:
        out.ask.receive()
        out.give.send(sign * u.get())
        sign = -sign
        out.put(Fraction(0))


def exponential(u: Series) -> Series:
    loops = (Series(u.capacity), Series(u.capacity))
    product = u.new(multiply, loops[0], u.new(differentiate, u))
    split_into(u.new(integrate, Fraction(1), product), loops)
    return loops[1]


EXPONENTIAL = "1 1 3/2 13/6 73/24 167/40 4051/720 37633/5040 43817/4480 4596553/362880"


@pytest.mark.parametrize("capacity", [0, 1])
@pytest.mark.leaves("tasklets")
def test_powser1(capacity: int) -> None:
    base = Series(capacity)

    def ones() -> Series:
        return base.new(constant, Fraction(1))

    def first(u: Series, n: int = 10) -> list[Fraction]:
        return [u.get() for _ in range(n)]

    assert first(ones(), 5) == [1] * 5
    assert first(base.new(add, ones(), base.new(constant, Fraction(2)))) == [3] * 10
    assert first(base.new(scale, Fraction(-1), ones())) == [-1] * 10
    assert first(base.new(differentiate, ones())) == list(range(1, 11))
    assert first(base.new(integrate, Fraction(0), ones())) == [0, *(Fraction(1, i) for i in range(1, 10))]
    assert first(base.new(multiply, ones(), ones())) == list(range(1, 11))
    assert first(exponential(ones())) == [Fraction(s) for s in EXPONENTIAL.split()]
    arctangent = base.new(integrate, Fraction(0), base.new(alternate, ones()))
    assert first(arctangent) == [Fraction(s) for s in "0 1 0 -1/3 0 1/5 0 -1/7 0 1/9".split()]
