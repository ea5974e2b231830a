"""Timers, tickers and sleeps, in virtual time."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

import flower
from flower.testing import World
from flower.time import Ticker, Timer, after_func, sleep
from tests.explored.support import Results, explored, explored_on_time


@explored
def test_no_stale_tick_after_stop_or_reset(w: World) -> None:
    """go#11513, go#37196."""
    timer = Timer(1)
    again = w.draw(st.booleans())
    if w.draw(st.booleans()):
        w.advance(1)
    stopped_at = w.now
    pending = timer.reset(5) if again else timer.stop()
    assert pending
    got: list[float] = []
    w.go(lambda: got.append(timer.c.receive(timeout=10)), name="receiver") if again else None
    w.advance(20)
    if again:
        assert got == [stopped_at + 5]
    else:
        assert timer.c.try_receive() is None and not timer.stop()


@explored
def test_a_ticker_drops_ticks_for_a_slow_receiver(w: World) -> None:
    ticker = Ticker(1)
    start = w.now
    w.advance(3.5)
    assert len(ticker.c) == 1
    assert ticker.c.receive() - start >= 1
    second = ticker.c.receive()
    assert second >= start + 3
    ticker.stop()
    w.advance(5)
    assert ticker.c.try_receive() is None


@explored
def test_sleepers_wake_in_the_order_of_their_deadlines(w: World) -> None:
    order: list[int] = []
    times = w.draw(st.permutations([1, 2, 3, 4]))

    def nap(seconds: int) -> None:
        before = w.now
        sleep(seconds)
        assert w.now >= before + seconds
        order.append(seconds)

    with flower.group() as g:
        for seconds in times:
            g.go(nap, seconds)
    assert sorted(order) == [1, 2, 3, 4]


@explored
def test_a_deadline_and_a_value_at_once(w: World) -> None:
    """Whichever comes first wins, and the other has no effect: a timer left behind would fire later."""
    ch = flower.channel(label="values")
    results = Results(w)
    for n in range(2):
        results.go(f"receiver-{n}", ch.receive, timeout=2)
        results.go(f"sender-{n}", ch.send, n, timeout=2)
    w.advance(2)
    w.settle()
    results.go("third", ch.receive)
    w.advance(3)
    assert results["third"] == "killed"
    ch.send("last")
    w.settle()
    assert results["third"] == ("done", "last")
    sent = [n for n in range(2) if results.sent(f"sender-{n}")]
    assert sorted(v for v in results.received() if v != "last") == sent


@explored
def test_after_func_runs_once_or_is_stopped(w: World) -> None:
    calls: list[int] = []
    deferred = after_func(2, calls.append, 1)
    stopped: list[bool] = []

    def stop() -> None:
        sleep(w.draw(st.sampled_from([1, 2, 3])))
        stopped.append(deferred.stop())

    w.go(stop, name="stopper")
    w.advance(10)
    assert len(calls) == (not stopped[0])


@explored
def test_a_timeout_catches_only_its_own(w: World) -> None:
    ch = flower.channel(label="nothing")
    log: list[str] = []
    inner, outer = w.draw(st.permutations([1, 2]))
    try:
        with flower.timeout(outer):
            try:
                with flower.timeout(inner):
                    ch.receive()
            except flower.Timeout:
                log.append("inner")
            ch.receive()
    except flower.Timeout:
        log.append("outer")
    assert log == (["inner", "outer"] if inner < outer else ["outer"])
    assert w.now >= min(inner, outer)


@explored
def test_join_with_a_timeout_leaves_the_tasklet_running(w: World) -> None:
    ch = flower.channel(label="go on")
    t = w.go(ch.receive, name="worker")
    results = Results(w)
    for n in range(2):
        results.go(f"joiner-{n}", t.join, timeout=1 + 2 * n)
    w.go(lambda: (sleep(2), ch.send("result")), name="sender")
    w.advance(9)
    assert results["joiner-0"] in ("Timeout", ("done", "result"))
    assert results["joiner-1"] in ("Timeout", ("done", "result"))
    assert t.join() == "result"


@explored
def test_after_in_a_select(w: World) -> None:
    ch = flower.channel(label="values")
    results = Results(w)
    got: list[Any] = []

    def choose() -> None:
        deadline = flower.after(2)
        source, value = flower.select(ch, deadline)
        got.append("late" if source is deadline else value)

    w.go(choose, name="selecting")
    results.go("sender", lambda: (sleep(1), ch.send("value", timeout=3)))
    w.advance(10)
    assert got == (["value"] if results.sent("sender") else ["late"])


@explored_on_time
def test_many_deadlines_of_which_some_are_taken_back(w: World) -> None:
    """Each of the others is met exactly, and in order: the heap is right after removals from its middle."""
    times = w.draw(st.lists(st.integers(1, 60), min_size=8, max_size=24))
    woken: list[tuple[int, float]] = []

    def nap(seconds: int) -> None:
        sleep(seconds)
        woken.append((seconds, w.now))

    sleepers = [w.go(nap, seconds, name="sleeper") for seconds in times]
    w.settle()
    victims = w.draw(st.sets(st.integers(0, len(times) - 1)))
    for n in sorted(victims):
        sleepers[n].kill()
    w.advance(100)
    kept = sorted(seconds for n, seconds in enumerate(times) if n not in victims)
    assert woken == [(seconds, float(seconds)) for seconds in kept]


@explored_on_time
def test_a_deadline_that_is_due_when_the_value_has_been_delivered(w: World) -> None:
    """The receiver has the value, and has not run since: its deadline comes too late."""
    ch = flower.channel(label="values")
    results = Results(w)
    results.go("receiver", ch.receive, timeout=2)
    w.settle()
    later = after_func(2, results.outcomes.setdefault, "later", ("done", None))
    ch.send("value")
    w.advance(w.draw(st.sampled_from([0, 1, 2, 3])))
    assert results["receiver"] == ("done", "value")
    later.stop()
