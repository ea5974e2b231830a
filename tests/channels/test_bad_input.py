"""Bad input raises a clear error at the call and changes nothing."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

import flower
import flower.time
from flower import channel, go, schedule, select, tasklet

from .support import output, settle, spawn_parked

NOT_CALLABLE = [1, "text", [], object()]


@pytest.mark.parametrize("bad", NOT_CALLABLE, ids=repr)
def test_a_tasklet_of_something_not_callable(bad: Any) -> None:
    for make in (tasklet, lambda f: tasklet().bind(f), go, flower.run):
        with pytest.raises(TypeError, match=r"callable|function"):
            make(bad)
    with flower.group() as g, pytest.raises(TypeError, match=r"callable|function"):
        g.go(bad)
    assert flower.getruncount() == 1


def test_go_with_nothing_to_run() -> None:
    with flower.group() as g:
        for start in go, g.go:
            with pytest.raises(TypeError, match="needs a function"):
                start(None)


def test_a_callback_that_is_not_callable() -> None:
    for setter, getter in (
        (flower.set_schedule_callback, flower.get_schedule_callback),
        (flower.set_channel_callback, flower.get_channel_callback),
    ):
        with pytest.raises(TypeError):
            setter(5)
        assert getter() is None
    with pytest.raises(TypeError):
        flower.set_error_handler(5)
    assert flower.set_error_handler(None) is None
    with pytest.raises(TypeError):
        flower.blocking(5)
    with pytest.raises(TypeError):
        flower.time.after_func(0.001, 5)
    flower.run()


@pytest.mark.parametrize("bad", [-1, -(1 << 80)], ids=repr)
def test_a_negative_capacity(bad: Any) -> None:
    with pytest.raises(ValueError, match="capacity"):
        channel(bad)


@pytest.mark.parametrize("bad", [True, False, 1.0, 1.5, "1", Decimal(1), Fraction(1), [], object()], ids=repr)
def test_a_capacity_that_is_no_integer(bad: Any) -> None:
    with pytest.raises(TypeError, match="capacity"):
        channel(bad)


@pytest.mark.parametrize("bad", [True, False, 1.0, -1.0, "1", None], ids=repr)
def test_a_preference_that_is_no_integer(bad: Any) -> None:
    ch: Any = channel()
    with pytest.raises(TypeError, match="preference"):
        ch.preference = bad
    with pytest.raises(ValueError, match="preference"):
        ch.preference = 2
    assert ch.preference == -1


def test_a_capacity_that_is_not_a_number() -> None:
    for bad in (math.nan, -math.inf):
        with pytest.raises((TypeError, ValueError), match="capacity"):
            channel(bad)


def test_a_capacity_of_any_size_is_only_a_limit() -> None:
    for capacity in (1 << 59, 1 << 62, 1 << 100):
        ch = channel(capacity)
        ch.send(1)
        assert ch.receive() == 1
        assert ch.capacity >= 1 << 59


@pytest.mark.parametrize("bad", [1, "text", object(), [], {}, 1.5, (1, 2, 3), (), ("x", 1), (5, 6)], ids=repr)
def test_a_select_case_of_another_type(bad: Any) -> None:
    ch = channel(1)
    ch.send("still there")
    for cases in ((bad,), (ch, bad), (bad, ch)):
        with pytest.raises(TypeError):
            select(*cases)
        with pytest.raises(TypeError):
            select(*cases, default=None)
    assert (len(ch), ch.balance) == (1, 1)
    empty = channel()
    with pytest.raises(TypeError):
        select(empty, (empty, 1), bad)
    assert (empty.balance, empty.queue) == (0, None)
    assert ch.receive() == "still there"


def test_a_channel_of_one_way_in_the_wrong_direction() -> None:
    ch = channel(1)
    with pytest.raises(TypeError):
        select((ch.receiver, 1))
    with pytest.raises(TypeError):
        select(ch.sender)
    assert ch.balance == 0


TIMED: dict[str, Any] = {
    "send": lambda ch, t, timeout: ch.send(1, timeout=timeout),
    "receive": lambda ch, t, timeout: ch.receive(timeout=timeout),
    "select": lambda ch, t, timeout: select(ch, (ch, 1), timeout=timeout),
    "join": lambda ch, t, timeout: t.join(timeout=timeout),
}
SECONDS: dict[str, Any] = {
    "sleep": flower.time.sleep,
    "after": flower.after,
    "tick": flower.tick,
    "timeout": flower.timeout,
    "move_on": flower.move_on,
    "Timer": flower.time.Timer,
    "Ticker": flower.time.Ticker,
    "after_func": lambda seconds: flower.time.after_func(seconds, print),
}


@pytest.mark.parametrize("what", TIMED)
@pytest.mark.parametrize("bad", [math.nan, -1, -0.001, -math.inf], ids=repr)
def test_nan_or_a_negative_timeout(what: str, bad: float) -> None:
    ch = channel()
    t = spawn_parked(channel().receive)
    with pytest.raises(ValueError):
        TIMED[what](ch, t, bad)
    assert (ch.balance, ch.queue) == (0, None)
    ready = channel(1)  # refused even where no wait would be needed
    ready.send(1)
    if what in ("receive", "select"):
        with pytest.raises(ValueError):
            TIMED[what](ready, t, bad)
        assert len(ready) == 1
    t.kill()


@pytest.mark.parametrize("what", TIMED)
@pytest.mark.parametrize("bad", ["1", True, [], object()], ids=repr)
def test_a_timeout_that_is_no_number(what: str, bad: Any) -> None:
    ch = channel()
    t = spawn_parked(channel().receive)
    with pytest.raises(TypeError):
        TIMED[what](ch, t, bad)
    assert (ch.balance, ch.queue) == (0, None)
    t.kill()


@pytest.mark.parametrize("what", SECONDS)
@pytest.mark.parametrize("bad", [math.nan, -1, -math.inf, "1", None], ids=repr)
def test_bad_seconds(what: str, bad: Any) -> None:
    if bad is None and what in ("timeout", "move_on"):
        with SECONDS[what](None) as scope:  # no limit: a scope that can only be cancelled
            flower.time.sleep(0)
        assert not scope.expired
        return
    with pytest.raises(TypeError if bad is None or isinstance(bad, str) else ValueError) as caught:
        SECONDS[what](bad)
    flower.run()  # nothing was started
    assert ("timeout" in str(caught.value)) == (what in ("timeout", "move_on")), "the others have none"


# -- Dead tasklets


def test_use_of_a_dead_tasklet() -> None:
    t = go(lambda: "result")
    flower.run()
    for use in (t.run, t.insert, t.switch, lambda: t.raise_exception(ValueError)):
        with pytest.raises(RuntimeError):
            use()
    t.kill()
    t.remove()
    assert (t.alive, t.scheduled, t.paused, t.blocked, t.frame) == (False, False, False, 0, None)
    assert t.join() == "result"
    assert flower.getruncount() == 1


def test_use_of_an_unbound_tasklet() -> None:
    t = tasklet()
    for use in (t.run, t.insert, t.switch, lambda: t.raise_exception(ValueError)):
        with pytest.raises(RuntimeError):
            use()
    with pytest.raises((RuntimeError, TypeError)):
        t()
    with pytest.raises(RuntimeError):
        t.join()
    assert not t.alive and flower.getruncount() == 1


def test_join_of_main() -> None:
    with pytest.raises(RuntimeError):
        flower.getmain().join()


def test_a_tasklet_of_another_thread_cannot_be_run_here() -> None:
    from .support import in_thread

    t = go(schedule)
    for use in (t.run, t.switch):
        with pytest.raises(RuntimeError, match="thread"):
            in_thread(use)
    assert t.scheduled
    settle()
    assert not t.alive


def test_raise_exception_of_what_is_no_exception() -> None:
    t = spawn_parked(channel().receive)
    for bad in (5, "text", int, None):
        with pytest.raises(TypeError):
            t.raise_exception(bad)
    assert t.blocked == -1
    t.kill()


def test_send_exception_of_what_is_no_exception() -> None:
    ch = channel(1)
    for bad in (5, "text", int, None):
        with pytest.raises(TypeError):
            ch.send_exception(bad)
        with pytest.raises(TypeError):
            ch.send_throw(bad)
        with pytest.raises(TypeError):
            flower.bomb(bad)
    assert ch.balance == 0


def test_send_throw_of_what_is_no_traceback() -> None:
    """It is refused at the sender, and not raised at the receiver."""
    ch = channel(1)
    for bad in (5, "text", ValueError()):
        with pytest.raises(TypeError, match="traceback"):
            ch.send_throw(ValueError, None, bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="traceback"):
            flower.bomb(ValueError, None, bad)  # type: ignore[arg-type]
    assert ch.balance == 0


# -- Blocking where it is not possible


def test_blocking_in_a_channel_callback() -> None:
    ch, seen = channel(1), []

    def callback(*args: Any) -> None:
        flower.set_channel_callback(None)
        for action in (channel().receive, lambda: channel().send(1), schedule):
            with pytest.raises(RuntimeError):
                action()
            seen.append(True)

    flower.set_channel_callback(callback)
    try:
        ch.send("held")
    finally:
        flower.set_channel_callback(None)
    assert seen == [True] * 3
    assert ch.receive() == "held"


def test_a_callback_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraisable.append(args.exc_type))

    def callback(*args: Any) -> None:
        raise LookupError

    ch = channel(1)
    t = go(schedule)
    flower.set_schedule_callback(callback)
    try:
        settle()
    finally:
        flower.set_schedule_callback(None)
    assert not t.alive
    assert unraisable and set(unraisable) == {LookupError}
    flower.set_channel_callback(callback)
    try:
        try:
            ch.send(1)
        except LookupError:
            assert len(ch) == 0
        else:
            assert len(ch) == 1
    finally:
        flower.set_channel_callback(None)
    assert ch.balance == len(ch)


def test_an_event_loop_already_running_in_the_thread() -> None:
    code = """
        import asyncio, flower.net, flower.time
        async def main():
            try:
                flower.net.Listen(("127.0.0.1", 0), "tcp").accept()
            except RuntimeError as e:
                print("refused:", e)
            try:
                flower.time.sleep(0.001)
            except RuntimeError as e:
                print("refused:", e)
        asyncio.run(main())
        flower.time.sleep(0.001)
        print("works afterwards")
    """
    lines = output(code).splitlines()
    assert lines[0].startswith("refused:") and "loop" in lines[0]
    assert lines[-1] == "works afterwards"


# -- Values that look special are values


@pytest.mark.parametrize("value", [None, False, 0, math.nan, (), Exception, NotImplemented, ...], ids=repr)
def test_any_value_can_be_sent(value: Any) -> None:
    for capacity in (0, 1):
        ch = channel(capacity)
        go(ch.send, value)
        assert ch.receive() is value
        go(select, (ch, value))
        assert select(ch)[1] is value
    settle()


def test_a_sent_channel_or_pair_is_a_value() -> None:
    ch, inner = channel(1), channel()
    ch.send((inner, 1))
    assert ch.receive() == (inner, 1)
    select((ch, inner))
    assert ch.receive() is inner


def test_an_exception_that_is_sent_as_a_value_is_a_value() -> None:
    ch, error = channel(1), ValueError("a value")
    ch.send(error)
    assert ch.receive() is error
    t = go(lambda: error)
    assert t.join() is error
