"""Programs in a world that do what few do: odd names and values, channels from outside, callbacks, garbage."""

from __future__ import annotations

import gc
import re
from typing import Any

import pytest

import flower
import flower.testing as ft
from flower.testing._outside import world_here
from tests.testing.support import found, holds, meeting, notes


def test_in_a_tasklet_and_the_others_go_on_afterwards() -> None:
    ch = flower.channel()
    other = flower.go(ch.receive)
    t = flower.go(ft.explore(max_examples=20, database=None)(meeting))
    t.join()
    ch.send("still here")
    assert other.join() == "still here"


@pytest.mark.slow
def test_stackless_spellings_in_a_world() -> None:
    def test(w: ft.World) -> None:
        order: list[str] = []

        def worker(name: str) -> None:
            order.append(name)
            got = flower.schedule_remove("mine")
            order.append(f"{name} {got}")

        one = flower.tasklet(worker)("one")
        one.run()
        assert order == ["one"] and one.paused
        one.tempval = "yours"
        one.insert()
        flower.run()
        assert order == ["one", "one yours"]
        assert flower.run(lambda: "result") == "result"

    holds(test)


def test_a_run_inside_and_a_deadlock_in_its_main() -> None:
    def test(w: ft.World) -> None:
        with pytest.raises(flower.Deadlock):
            flower.run(flower.channel().receive)

    holds(test, max_examples=5)


@pytest.mark.slow
def test_odd_labels_values_and_functions() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("no words")

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no comparison")

        __hash__ = None  # type: ignore[assignment]

    class Callable:
        def __call__(self) -> None:
            ch.send(Odd())

    ch: Any = flower.channel(2)

    def test(w: ft.World) -> None:
        nonlocal ch
        ch = flower.channel(2, label=5)  # type: ignore[arg-type]
        flower.tasklet(Callable(), label=7)()  # type: ignore[arg-type]
        w.go(Callable())
        w.settle()
        assert type(ch.receive()) is type(ch.receive()) is Odd
        flower.select((ch, Odd()), default=Odd())
        w.settle()

    holds(test)


def test_a_channel_with_another_label_is_called_so() -> None:
    """As that for the answer of an RPC, which is used again for the next call."""

    def test(w: ft.World) -> None:
        ch = flower.channel[int](1)
        for label in ("get", "put", "put", "get"):
            ch.label = label
            ch.send(1)
            ch.receive()
        ch.label = "list"
        ch.receive()

    error = found(ft.Deadlock, test)
    assert "test waits in receive on 'list'" in str(error)
    names = re.findall(r"send\(1\) on (\S+)", notes(error))
    assert names == ["'get'", "'put'", "'put'", "'get'#2"]


def test_two_worlds_one_after_the_other_are_alike() -> None:
    logs = []

    def test(w: ft.World) -> None:
        meeting(w)
        logs.append(w.log())

    holds(test, max_examples=1)
    holds(test, max_examples=1)
    assert len(logs) == 2 and logs[0] == logs[1]


def test_a_channel_from_outside_the_world() -> None:
    ch: flower.channel[int] = flower.channel(5, label="from outside")
    ch.send(1)

    def test(w: ft.World) -> None:
        assert ch.receive() == 1
        ch.send(1)

    holds(test, max_examples=5)
    assert ch.receive() == 1


def test_an_exception_that_a_channel_from_outside_holds() -> None:
    def test(w: ft.World) -> None:
        with pytest.raises(KeyError):
            ch.receive()
        with pytest.raises(flower.Timeout):
            ch.receive(timeout=1)

    ch: flower.channel[int] = flower.channel(5)
    ch.send_exception(KeyError, "from outside")
    holds(test, max_examples=1)


def test_garbage_of_other_examples_is_finalized_in_no_world() -> None:
    """Its finalizers may use channels: that would be in the log of a program that has nothing to do with them."""
    inside: list[bool] = []

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            inside.append(world_here() is not None)

    def test(w: ft.World) -> None:
        for _ in range(20):
            Cycle()
        flower.schedule()

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        holds(test, max_examples=20)
    finally:
        gc.set_threshold(*before)
    assert inside and not any(inside)


def test_the_callbacks_of_a_program_work() -> None:
    def test(w: ft.World) -> None:
        seen: list[Any] = []
        flower.set_channel_callback(lambda *args: seen.append(args[2:]))
        switches: list[Any] = []
        flower.set_schedule_callback(lambda *args: switches.append(args))
        try:
            meeting(w)
        finally:
            flower.set_channel_callback(None)
            flower.set_schedule_callback(None)
        assert (True, False) in seen or (True, True) in seen
        assert switches

    holds(test, max_examples=20)


def test_a_long_log_is_cut_in_its_middle() -> None:
    def test(w: ft.World) -> None:
        ch = flower.channel(1)
        for n in range(500):
            ch.send(n)
            ch.receive()
        raise AssertionError

    text = notes(found(AssertionError, test, max_examples=2))
    assert "lines left out" in text and text.count("\n") < 200


def test_timers_signals_and_after_func_at_the_end() -> None:
    def test(w: ft.World) -> None:
        calls: list[int] = []
        flower.time.after_func(5, calls.append, 1)
        flower.tick(1)
        w.invariant(lambda: None)
        flower.run()
        assert calls == [1]

    holds(test, max_examples=10)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["timeout", "select"])
def test_like_values_are_told_apart_by_who_sent_them(how: str) -> None:
    """No false alarm: of two senders of one object, that one whose value was received need not be the first."""

    def test(w: ft.World) -> None:
        a, b = flower.channel(label="a"), flower.channel(label="b")

        def offer() -> None:
            if how == "select":
                flower.select((a, None), (b, None))
            else:
                try:
                    a.send(None, timeout=1)
                except flower.Timeout:
                    b.send(None)

        w.go(offer)
        w.go(a.send, None)
        w.go(b.send, None)
        for _ in range(3):
            w.go(flower.select, a, b)
        flower.time.sleep(1)

    holds(test, max_examples=300)


def test_a_receiver_that_was_served_before_the_receiving_end_was_given_up() -> None:
    """It has its value, and so has who sent it; what a blocked sender had put into the buffer is gone."""

    def test(w: ft.World) -> None:
        ch: flower.channel[int] = flower.channel(1)
        w.go(ch.receive)
        w.settle()
        ch.try_send(1)
        ch.try_send(2)
        w.go(ch.send, 3)
        w.settle()
        assert ch.try_receive() == 2
        ch.receiver.close()
        w.settle()
        w.keep = ch  # type: ignore[attr-defined]

    holds(test, max_examples=20)


def test_like_values_one_of_which_is_under_way_to_a_receiver() -> None:
    """No false alarm: which of the two a later receiver has got can't be told."""

    def test(w: ft.World) -> None:
        ch: flower.channel[str] = flower.channel(5)
        w.go(ch.receive)
        w.settle()
        ch.try_send("like")  # to the one who waits, and has not run yet
        ch.try_send("other")
        assert ch.try_receive() == "other"
        ch.try_send("like")
        assert ch.try_receive() == "like"
        w.settle()

    holds(test, max_examples=20)


@pytest.mark.slow
def test_time_does_not_jump_when_all_is_done() -> None:
    """What it would bring about, for a daemon say, would be looked at half done."""

    def test(w: ft.World) -> None:
        ch: flower.channel[None] = flower.channel()
        w.go(ch.receive, daemon=True)
        w.net.loop.call_later(10, lambda: ch.try_send(None))

    holds(test, max_examples=100)


def test_a_tasklet_in_run_is_not_left_there() -> None:
    """The test's own run, at its end, is the innermost, and returns first."""

    def test(w: ft.World) -> None:
        def runs() -> None:
            flower.run()
            done.append(1)

        w.go(runs)
        w.go(runs)
        w.go(runs, daemon=True)

    done: list[int] = []
    holds(test, max_examples=1)
    assert len(done) == 3
