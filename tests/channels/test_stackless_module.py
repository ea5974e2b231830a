"""Stackless's module functions."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import flower
from flower import channel, go, schedule, tasklet

from .support import in_thread, settle, spawn_parked


@contextmanager
def switch_trapped() -> Iterator[None]:
    flower.switch_trap(1)
    try:
        yield
    finally:
        flower.switch_trap(-1)


# -- Module


def test_getcurrent_and_getmain() -> None:
    main = flower.getmain()
    assert flower.getcurrent() is main
    assert main.is_main and main.is_current and main.alive and not main.blocked
    seen = []
    t = go(lambda: seen.append((flower.getcurrent(), flower.getmain())))
    assert not t.is_main and not t.is_current
    schedule()
    assert seen == [(t, main)]


def test_getruncount_counts_the_current_one() -> None:
    assert flower.getruncount() == 1
    a, b = go(schedule), go(lambda: None)
    assert flower.getruncount() == 3
    a.remove()
    assert flower.getruncount() == 2
    a.insert()
    settle()
    assert flower.getruncount() == 1
    assert not a.alive and not b.alive


def test_getcurrentid() -> None:
    ids = [flower.getcurrentid()]
    go(lambda: ids.append(flower.getcurrentid()))
    schedule()
    assert ids[0] == flower.getcurrentid()
    assert ids[0] != ids[1]


def test_getthreads_and_get_thread_info() -> None:
    ident = threading.get_ident()
    flower.getmain()
    assert ident in flower.getthreads()
    t = go(schedule)
    assert flower.get_thread_info(ident) == (flower.getmain(), flower.getcurrent(), 2)
    assert flower.get_thread_info() == flower.get_thread_info(ident)
    settle()
    assert not t.alive

    def other() -> int:
        flower.getmain()
        assert {ident, threading.get_ident()} <= set(flower.getthreads())
        assert flower.get_thread_info(ident)[0].is_main
        return threading.get_ident()

    assert in_thread(other) not in flower.getthreads()


def test_schedule_returns_its_argument() -> None:
    assert schedule() is flower.getcurrent()
    assert schedule(5) == 5
    go(schedule)
    assert schedule(None) is None
    settle()


def test_schedule_puts_the_current_tasklet_at_the_end() -> None:
    log: list[str] = []
    go(lambda: (go(log.append, "second"), schedule(), log.append("third")))
    go(log.append, "first")
    flower.run()
    assert log == ["first", "second", "third"]


def test_schedule_remove_leaves_the_queue_and_returns_tempval() -> None:
    results: list[Any] = []
    t = go(lambda: results.append(flower.schedule_remove(1)))
    schedule()
    assert t.alive and t.paused and not t.scheduled and not t.blocked
    assert t.tempval == 1
    t.insert()
    schedule()
    u = go(lambda: results.append(flower.schedule_remove()))
    schedule()
    u.tempval = "from the waker"
    u.insert()
    schedule()
    assert results == [1, "from the waker"]


def test_schedule_remove_of_main() -> None:
    main = flower.getmain()
    seen = []

    def wake() -> None:
        seen.append(main.paused)
        main.tempval = "woken"
        main.insert()

    go(wake)
    assert flower.schedule_remove() == "woken"
    assert seen == [True]


def test_callbacks_return_the_previous_one() -> None:
    def one(*args: Any) -> None: ...

    def two(*args: Any) -> None: ...

    for setter, getter in (
        (flower.set_schedule_callback, flower.get_schedule_callback),
        (flower.set_channel_callback, flower.get_channel_callback),
    ):
        assert getter() is None
        assert setter(one) is None
        try:
            assert getter() is one
            assert setter(two) is one
        finally:
            assert setter(None) is two
        assert getter() is None


def test_error_handler_gets_what_would_be_raised_in_main() -> None:
    seen: list[tuple[Any, ...]] = []

    def handler(*what: Any) -> None:
        seen.append(what)

    def broken() -> None:
        raise KeyError("x")

    assert flower.set_error_handler(handler) is None
    try:
        tasklet(broken, label="breaker")()
        flower.run()
    finally:
        assert flower.set_error_handler(None) is handler
    ((t, error),) = seen
    assert t.label == "breaker" and not t.alive
    assert type(error) is KeyError and error.args == ("x",)
    assert traceback.extract_tb(error.__traceback__)[-1].name == "broken"


def test_get_scheduler_is_the_threads_own() -> None:
    scheduler = flower.get_scheduler()
    assert flower.get_scheduler() is scheduler
    assert in_thread(flower.get_scheduler) is not scheduler


@pytest.mark.parametrize(
    "action",
    "schedule schedule_remove run t.run t.switch t.kill t.raise_exception send receive".split(),
)
def test_switch_trap(action: str) -> None:
    ch = channel()
    parked = spawn_parked(ch.receive)
    t = go(schedule)
    actions: dict[str, Any] = {
        "schedule": flower.schedule,
        "schedule_remove": flower.schedule_remove,
        "run": flower.run,
        "t.run": t.run,
        "t.switch": t.switch,
        "t.kill": parked.kill,
        "t.raise_exception": lambda: parked.raise_exception(IndexError),
        "send": lambda: channel().send(1),
        "receive": channel().receive,
    }
    with switch_trapped(), pytest.raises(RuntimeError, match=r"switch.trap"):
        actions[action]()
    assert (parked.blocked, ch.balance, t.scheduled) == (-1, -1, True)  # nothing changed
    assert flower.switch_trap(0) == 0
    parked.kill()
    settle()


def test_under_a_switch_trap_a_rendezvous_is_done_and_its_partner_runs_later() -> None:
    ch = channel()
    got: list[int] = []
    receiver = spawn_parked(lambda: got.append(ch.receive()))
    with switch_trapped():
        ch.send(1)
        assert not got
    receiver.join()
    assert got == [1]


def test_switch_trap_returns_its_previous_value() -> None:
    assert flower.switch_trap(2) == 0
    assert flower.switch_trap(-1) == 2
    assert flower.switch_trap(-1) == 1
    assert flower.switch_trap(0) == 0


def test_atomic() -> None:
    current = flower.getcurrent()
    assert not current.atomic
    with flower.atomic():
        assert current.atomic
        with flower.atomic():
            assert current.atomic
        assert current.atomic
    assert not current.atomic
    assert current.set_atomic(True) is False
    assert current.set_atomic(False) is True
