"""Errors of any kind, and scopes and groups used as they should not be: each is told as what it is."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

import flower
import flower.testing as ft
from flower import channel, getcurrent, go, schedule, tasklet
from flower.errors import TaskletExit, TaskletKilled

from .support import Frozen

NEVER = 10.0


# -- Errors of their own kind


class Wordless(Exception):
    def __str__(self) -> str:
        raise KeyError("no text")


class Unreadable(Exception):
    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise OSError("no traceback")


def raising(error: Any) -> Any:
    def fail() -> None:
        flower.after(0).receive()
        raise error

    return fail


@pytest.mark.parametrize("cls", [Frozen, Unreadable])
def test_errors_that_can_not_be_copied_are_joined_by_many(cls: type[Exception]) -> None:
    joiners = []
    t = go(raising(cls))

    def join() -> Any:
        try:
            t.join()
        except Exception as caught:
            return type(caught)

    for _ in range(3):
        joiners.append(go(join))
    assert [joiner.join() for joiner in joiners] == [cls] * 3


def test_the_same_error_of_others_three_times_is_no_reason_to_leave_a_member() -> None:
    ended: list[str] = []
    gate: channel[None] = channel()

    def slow() -> None:
        with flower.shield():
            gate.receive()
        ended.append("member")

    def boom(n: int) -> None:
        for _ in range(n):
            schedule()
        raise Wordless

    with pytest.raises(ExceptionGroup) as caught, flower.group() as g:
        g.go(slow)
        for n in range(4):
            go(boom, n + 1)
        go(lambda: [schedule() for _ in range(20)] and gate.send(None))
    assert ended == ["member"]
    assert [type(error) for error in caught.value.exceptions] == [Wordless] * 4
    flower.after(0).receive()  # the group's scope is left


def test_a_member_that_was_not_waited_for_is_cancelled_and_nobody_is_told() -> None:
    me = getcurrent()
    with pytest.raises(RuntimeError, match="does not like to be blocked") as caught, flower.group() as g:
        t = g.go(channel().receive)
        schedule()
        me.block_trap = True
    me.block_trap = False
    assert type(caught.value) is RuntimeError
    flower.after(0.001).receive()
    assert not t.alive


def test_an_error_handler_that_raises_what_it_was_told_of_makes_no_circle() -> None:
    seen: list[BaseException] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: seen.append(unraisable.exc_value)

    def handler(_: Any, error: BaseException) -> None:
        raise error.__cause__ or error

    before = flower.set_error_handler(handler)
    try:
        cause = KeyError("the cause")
        caused = ValueError("caused")
        caused.__cause__ = cause
        for error in (LookupError("alone"), caused, Frozen()):
            go(raising(error))
        flower.after(0.001).receive()
    finally:
        flower.set_error_handler(before)
        sys.unraisablehook = hook
    assert [type(error) for error in seen] == [LookupError, KeyError, Frozen]
    assert [error.__context__ for error in seen] == [None] * 3


def test_an_error_of_a_handler_that_takes_no_context() -> None:
    seen: list[BaseException] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: seen.append(unraisable.exc_value)
    before = flower.set_error_handler(lambda *_: raising(Frozen())())
    try:
        go(raising(ValueError()))
        flower.after(0.001).receive()
    finally:
        flower.set_error_handler(before)
        sys.unraisablehook = hook
    assert [type(error) for error in seen] == [RuntimeError]  # it may not wait there; and is no news for main


@pytest.mark.slow
def test_a_reported_error_without_a_standard_error() -> None:
    code = """
        import os, sys, flower
        def fail():
            error = ConnectionResetError()
            error._flower_conn = True
            raise error
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 2)
        sys.stderr = open(2, "w")
        flower.go(fail)
        flower.after(0.01).receive()
        sys.stderr = open(os.devnull, "w")
        print("goes on")
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "goes on\n"


# -- Scopes and groups, used as they should not be


def test_a_scope_and_a_group_are_entered_once() -> None:
    ran: list[str] = []
    scope = flower.move_on()
    g = flower.group()
    with scope, g:
        g.go(ran.append, "member")
    for again in (scope, g):
        with pytest.raises(RuntimeError, match="entered only once"), again:  # type: ignore[attr-defined]
            ran.append("again")
    with pytest.raises(RuntimeError, match="left already"):
        scope.__exit__(None, None, None)
    assert ran == ["member"]


def test_errors_of_members_are_told_of_where_scopes_are_left_out_of_order() -> None:
    with pytest.raises(ExceptionGroup) as caught, flower.group() as g:
        flower.move_on(NEVER).__enter__()
        g.go(raising(ValueError("a member's")))
    getcurrent().scope = None
    assert sorted(type(error).__name__ for error in caught.value.exceptions) == ["RuntimeError", "ValueError"]


@pytest.mark.parametrize("how", ["receive", "sleep"])
def test_the_time_of_a_scope_that_another_tasklet_has_left_ends_no_wait(how: str) -> None:
    ch: channel[str] = channel()
    got: list[Any] = []

    def wait() -> None:
        outer.__enter__()
        with flower.move_on(1000):
            if how == "receive":
                got.append(ch.receive())
            else:
                flower.time.sleep(100)
                got.append("slept")

    with ft.virtual_clock():
        outer = flower.move_on(1)
        t = go(wait)
        schedule()
        with pytest.raises(RuntimeError, match="reverse order"):
            outer.__exit__(None, None, None)
        flower.after(10).receive()
        assert not got
        if how == "receive":
            ch.send("sent")
        t.join()
    assert got == ["sent" if how == "receive" else "slept"]


def test_a_removed_member_is_no_reason_to_wait_for_good() -> None:
    def member() -> None:
        while True:
            schedule()

    with pytest.raises(ValueError, match="the body's"), flower.group() as g:
        t = g.go(member)
        schedule()
        t.remove()
        go(lambda: [schedule() for _ in range(3)] and t.kill())
        raise ValueError("the body's")
    ran: list[str] = []
    with flower.group() as g:
        t = g.go(ran.append, "first")
        t.remove()
        t.bind(ran.append)
    assert not t.alive
    t("second")
    schedule()
    assert ran == ["second"]


def test_what_is_raised_too_late_for_one_life_harms_no_other() -> None:
    class Late(Exception):
        def __del__(self) -> None:
            try:
                t.throw(ValueError, pending=True)
            except RuntimeError as refused:
                said.append(str(refused))

    said: list[str] = []

    def first() -> str:
        me = getcurrent()
        thread = threading.Thread(target=lambda: me.throw(Late, pending=True))
        thread.start()
        thread.join()
        return "first"

    t = go(first)
    assert t.join() == "first"
    gc.collect()
    assert len(said) == 1
    assert t.bind(lambda: flower.after(0).receive() and "second")().join() == "second"


def test_scopes_that_others_have_left_strike_only_whom_they_are_around() -> None:
    """Some deadlines come between the clock's two readings."""
    ended: Counter[str] = Counter()

    def wait(n: int) -> None:
        outer, inner = flower.move_on(0.001), flower.move_on(0.001 + n * 1e-6)
        outer.__enter__()
        with inner:
            scopes.append(outer)
            with suppress(flower.Cancelled):
                channel().receive()
            ended["cancelled"] += 1

    scopes: list[Any] = []
    tasks = [go(wait, n) for n in range(300)]
    schedule()
    for scope in scopes:
        with suppress(RuntimeError):
            scope.__exit__(None, None, None)
    flower.after(0.005).receive()
    for t in tasks:
        with suppress(TaskletKilled):
            t.join()
    assert ended["cancelled"] == 300


@pytest.mark.slow
def test_who_waits_for_good_when_its_scope_was_left_is_in_a_deadlock() -> None:
    code = """
        import flower
        outer = flower.move_on(0.1)
        def wait():
            outer.__enter__()
            with flower.move_on(60) as inner:
                inner._deadline = float("inf")
                flower.channel().receive()
        t = flower.go(wait)
        flower.schedule()
        try:
            outer.__exit__(None, None, None)
        except RuntimeError:
            pass
        try:
            t.join()
        except flower.Deadlock:
            print("Deadlock")
            t.kill()
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "Deadlock\n"


@pytest.mark.parametrize("how", ["kill", "cancel"])
@pytest.mark.parametrize("wait", [lambda ch: ch.receive(), flower.select])
def test_what_strikes_between_the_look_and_the_wait_is_not_lost(how: str, wait: Any) -> None:
    ch: channel[int] = channel()
    log: list[str] = []

    def strike() -> None:
        if how == "kill":
            t.throw(TaskletExit, pending=True)
        else:
            scope.cancel()

    def work() -> None:
        with scope:
            try:
                wait(ch)
            finally:
                log.append("left")

    scope = flower.move_on()
    ch._on_wait = strike
    t = go(work)
    with suppress(TaskletKilled):
        t.join(NEVER)
    assert log == ["left"]
    assert ch.balance == 0


def test_an_error_for_main_that_comes_between_the_look_and_the_wait_is_not_late() -> None:
    ch: channel[int] = channel()
    t = tasklet(print).bind(args=())
    ch._on_wait = lambda: t.throw(LookupError) if t.alive else None
    with pytest.raises(LookupError):
        ch.receive(NEVER)
    assert ch.balance == 0


def test_a_callback_that_cancels_who_selects() -> None:
    scope = flower.move_on()
    before = flower.set_channel_callback(lambda *_: scope.cancel())
    try:
        with scope:
            flower.select(channel())
            raise AssertionError
    finally:
        flower.set_channel_callback(before)


def test_the_cancellation_of_a_group_wakes_no_member_from_under_its_shield() -> None:
    log: list[Any] = []

    def member() -> None:
        with flower.shield():
            log.append(flower.schedule_remove())

    with suppress(ValueError), flower.group() as g:
        t = g.go(member)
        schedule()
        go(lambda: [schedule() for _ in range(3)] and (log.append("its waker"), t.insert()))
        raise ValueError
    assert log[0] == "its waker"


def test_a_member_that_is_started_again_as_it_is_bound_anew() -> None:
    class Again:
        def __del__(self) -> None:
            if not started:
                started.append(True)
                t.bind(ran.append, ("again",)).insert()

    started: list[bool] = []
    ran: list[str] = []
    with flower.group() as g:
        t = g.go(print, Again())
        t.remove()
        with pytest.raises(RuntimeError, match="alive"):
            t.bind(print, ("never",))
        schedule()
    assert ran == ["again"]


class Speechless:
    """Stands for a channel, and has no words for itself."""

    def __init__(self, ch: channel[Any]) -> None:
        self._receive_channel = ch

    def __repr__(self) -> str:
        raise ZeroDivisionError


def test_the_error_of_a_select_of_something_without_words() -> None:
    ch: channel[int] = channel()
    ch.close()
    thing = Speechless(ch)
    with pytest.raises(flower.ChannelClosed) as caught:
        flower.select(thing)
    assert caught.value.channel is thing


def test_copies_of_an_error_have_notes_of_their_own() -> None:
    t = go(raising(ValueError("noted")))
    notes = []
    for n in range(3):
        with pytest.raises(ValueError, match="noted") as caught:
            t.join()
        caught.value.add_note(f"joiner {n}")
        notes.append(list(caught.value.__notes__))
    assert notes == [["joiner 0"], ["joiner 0", "joiner 1"], ["joiner 0", "joiner 2"]]


def test_a_copy_of_the_error_of_a_closed_channel_keeps_the_channel() -> None:
    ch: channel[int] = channel()
    ch.close()
    with pytest.raises(flower.ChannelClosed) as caught:
        ch.receive()
    assert copy.copy(caught.value).channel is ch
    assert copy.deepcopy(caught.value).channel is None


class NoContext(Exception):
    @property
    def __context__(self) -> Any:  # type: ignore[override]
        raise OSError("no context")

    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise OSError("no cause")


def test_an_error_handler_that_raises_what_can_not_be_read() -> None:
    seen: list[BaseException] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: seen.append(unraisable.exc_value)

    def handler(*_: Any) -> None:
        raise NoContext

    before = flower.set_error_handler(handler)
    try:
        for error in (ValueError(), NoContext()):
            go(raising(error))
        flower.after(0.001).receive()
    finally:
        flower.set_error_handler(before)
        sys.unraisablehook = hook
    assert [type(error) for error in seen] == [NoContext] * 2


class Talkative(Exception):
    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError(name)


@pytest.mark.parametrize("waits", [True, False])
def test_a_select_raises_what_was_sent_whatever_it_makes_of_attributes(waits: bool) -> None:
    ch: channel[int] = channel(1)
    if waits:
        go(ch.send_exception, Talkative)
    else:
        ch.send_exception(Talkative)
    with pytest.raises(Talkative):
        flower.select(ch)
