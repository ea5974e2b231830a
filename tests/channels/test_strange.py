"""What users may do that nobody should, and what it costs: an error where it is done, and nothing elsewhere."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
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

NEVER = 10.0


def test_a_group_that_can_not_wait_says_so() -> None:
    done: list[str] = []
    getcurrent().block_trap = True
    try:
        with pytest.raises(BaseException) as caught:
            with flower.group() as g:
                g.go(done.append, "ran")
        assert "does not like to be blocked" in repr(caught.value) + repr(getattr(caught.value, "exceptions", ""))
    finally:
        getcurrent().block_trap = False
    schedule()
    assert done == ["ran"]


def in_a_callback(do: Any) -> BaseException | None:
    """Do it in a channel callback; what it raised there."""
    caught: list[BaseException | None] = []

    def callback(*_: Any) -> None:
        if not caught:
            caught.append(None)
            try:
                do()
            except BaseException as error:
                caught[0] = error

    before = flower.set_channel_callback(callback)
    try:
        channel(1).send(1)
    finally:
        flower.set_channel_callback(before)
    return caught[0]


def in_a_foreign_loop(do: Any) -> BaseException | None:
    """Do it in a coroutine of another loop than Flower's, in a thread that knows nothing of Flower."""
    caught: list[BaseException | None] = [None]

    async def run() -> None:
        try:
            do()
        except BaseException as error:
            caught[0] = error
        schedule()  # what was started has its turn

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join(NEVER)
    return caught[0]


@pytest.mark.parametrize("where", [in_a_callback, in_a_foreign_loop])
def test_a_group_where_there_is_no_waiting_says_so(where: Any) -> None:
    def use() -> None:
        with flower.group() as g:
            g.go(int)

    raised = repr(where(use))
    assert "block" in raised or "event loop" in raised
    schedule()


def test_an_error_group_is_joined_by_many() -> None:
    def fail() -> None:
        raise ExceptionGroup("several", [ValueError(1), KeyError(2)])

    t = go(fail)
    for _ in range(3):
        with pytest.raises(ExceptionGroup, match="several") as caught:
            t.join()
        assert len(caught.value.exceptions) == 2


def test_a_receiver_that_gives_up_with_an_error_group() -> None:
    ch: channel[int] = channel()
    ch.receiver.close(ExceptionGroup("several", [ValueError(1)]))
    for _ in range(2):
        with pytest.raises(ExceptionGroup, match="several"):
            ch.send(1)


def test_what_was_received_stands_whatever_is_done_to_the_receiver() -> None:
    ch: channel[str] = channel()
    ch.preference = 0
    got: list[str] = []
    t = go(lambda: got.append(ch.receive()))
    schedule()
    ch.send("v")
    t.remove()
    assert t.tempval is None
    t.tempval = "another"
    t.insert()
    t.kill(pending=True)
    schedule()
    schedule()
    assert got == ["v"]


def test_what_was_sent_stands_whatever_is_done_to_the_sender() -> None:
    ch: channel[str] = channel()
    ch.preference = 0
    sent: list[str] = []

    def send() -> None:
        ch.send("v")
        sent.append("v")

    t = go(send)
    schedule()
    assert ch.receive() == "v"
    t.remove()
    t.insert()
    t.kill(pending=True)
    schedule()
    schedule()
    assert sent == ["v"]


@pytest.mark.parametrize("how", ["kill", "throw"])
def test_what_comes_too_late_for_one_life_is_not_for_the_next(how: str) -> None:
    ch: channel[str] = channel()
    ch.preference = 0
    got: list[str] = []
    t = go(lambda: got.append(ch.receive()))
    schedule()
    ch.send("v")
    if how == "kill":
        t.kill(pending=True)
    else:
        t.throw(LookupError, pending=True)
    schedule()
    assert got == ["v"]
    assert not t.alive
    t.bind(lambda: got.append(ch.receive()))()
    schedule()
    ch.send("w")
    schedule()
    assert got == ["v", "w"]


def test_a_member_that_never_began_may_live_again() -> None:
    with flower.group() as g:
        t = g.go(schedule)
        g.cancel()
        t.kill()
    done: list[str] = []

    def again() -> None:
        flower.after(0).receive()
        done.append("ran")

    t.bind(again)()
    t.join()
    assert done == ["ran"]


def test_who_joins_a_tasklet_that_is_bound_anew_learns_that_it_is_over() -> None:
    t = tasklet().bind(schedule, ())
    joiner = go(t.join)
    schedule()
    t.bind(schedule)
    with pytest.raises(TaskletKilled):
        joiner.join()


def test_a_scope_that_was_left_out_of_order_strikes_nobody() -> None:
    def scoped() -> Any:
        with flower.move_on(0.001):
            yield

    outer = scoped()
    next(outer)
    with flower.move_on(NEVER):
        with pytest.raises(RuntimeError, match="reverse order"):
            outer.close()
    flower.after(0.01).receive()
    flower.after(0.01).receive()


def test_blocking_where_there_is_no_waiting_runs_nothing() -> None:
    ran: list[str] = []
    assert isinstance(in_a_callback(lambda: flower.blocking(ran.append, "ran")), RuntimeError)
    flower.blocking(int)
    assert ran == []


class Opaque(Exception):
    def __getattr__(self, name: str) -> Any:
        raise OSError(f"no {name}")


class NoNotes(Exception):
    __notes__ = ("a tuple",)


@pytest.mark.parametrize("cls", [Opaque, NoNotes])
def test_an_error_of_a_strange_class_reaches_main_as_it_is(cls: type[Exception]) -> None:
    def fail() -> None:
        raise cls("mine")

    go(fail)
    caught = ""
    try:  # pytest would look for the notes of what it raises
        flower.after(0.05).receive()
        schedule()
    except cls as error:
        caught = error.args[0]
    assert caught == "mine"


def test_errors_that_can_be_raised_nowhere_are_printed() -> None:
    code = """
        import flower
        def handler(t, error):
            raise KeyError("of the handler")
        def fail():
            raise ValueError("of the tasklet")
        flower.set_error_handler(handler)
        flower.go(fail)
        flower.after(0.01).receive()
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "Exception ignored in a callback of flower" in out.stderr
    assert "of the handler" in out.stderr
    assert "of the tasklet" in out.stderr


@pytest.mark.slow
def test_a_timer_that_threads_reset_at_once_is_armed_once() -> None:
    def switch(phase: str, info: Any) -> None:
        pass  # a Python callback lets other threads in

    gc.callbacks.append(switch)
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(50):
            timer = flower.time.Timer(60)
            threads = [threading.Thread(target=lambda: [timer.reset(0.002) for _ in range(20)]) for _ in range(3)]  # noqa: B023
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            timer.stop()
            with pytest.raises(flower.Timeout):
                timer.c.receive(0.005)
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(switch)


# -- select


@pytest.mark.parametrize("sends", [False, True])
def test_each_of_several_cases_on_one_channel_happens_as_often_to_a_select_that_waits(sends: bool) -> None:
    rounds = 1200
    ch: channel[Any] = channel()
    other: channel[Any] = channel()
    happened: Counter[int] = Counter()

    def choose() -> None:
        cases: list[Any] = [(ch, place) if sends else ch for place in range(3)]
        cases[1:1] = [other, other]
        for _ in range(rounds):
            happened[flower.select(*cases).index] += 1

    t = go(choose)
    ch.preference = 1 if sends else -1
    for _ in range(rounds):
        while not ch.balance:
            schedule()
        if sends:
            happened[ch.receive()] += 0
        else:
            ch.send(None)
    t.join()
    assert {place for place, count in happened.items() if count} == {0, 3, 4}
    assert all(count > rounds / 4 for count in happened.values() if count)


def test_of_several_sends_on_one_channel_the_one_that_is_told_is_the_one_that_happened() -> None:
    ch: channel[int] = channel()
    told: list[int] = []
    t = go(lambda: [told.append(flower.select((ch, 0), (ch, 1), (ch, 2)).index) for _ in range(100)])
    got = []
    for _ in range(100):
        while not ch.balance:
            schedule()
        got.append(ch.receive())
    t.join()
    assert told == got


def test_the_channel_callback_sees_what_a_select_does() -> None:
    ready: channel[int] = channel(1)
    empty: channel[int] = channel()
    seen: list[tuple[str, bool, bool]] = []
    names = {id(ready): "ready", id(empty): "empty"}

    def note(ch: Any, _task: Any, sending: bool, will_block: bool) -> None:
        if id(ch) in names:
            seen.append((names[id(ch)], sending, will_block))

    before = flower.set_channel_callback(note)
    try:
        flower.select(empty, (ready, 1))
        assert seen == [("ready", True, False)]
        seen.clear()
        assert flower.select(empty, (ready, 2), default="none")[1] == "none"
        assert seen == []
        t = go(lambda: flower.select(empty, (ready, 2), None))
        schedule()
        assert seen == [("empty", False, True), ("ready", True, True)]
        empty.send(3)
        t.join()
    finally:
        flower.set_channel_callback(before)


def test_a_callback_may_take_what_a_select_was_about_to_take() -> None:
    ch: channel[int] = channel(1)
    ch.send(1)

    def snatch(c: Any, _task: Any, sending: bool, _will_block: bool) -> None:
        if c is ch and not sending:
            flower.set_channel_callback(None)
            ch.receive()

    before = flower.set_channel_callback(snatch)
    try:
        with pytest.raises(flower.Timeout):
            flower.select(ch, timeout=0.001)
    finally:
        flower.set_channel_callback(before)


@pytest.mark.parametrize("waits", [False, True])
def test_the_error_of_a_select_says_which_end_was_closed(waits: bool) -> None:
    ends = [channel(label=f"number {n}").receiver for n in range(3)]
    caught: list[flower.ChannelClosed] = []

    def choose() -> None:
        try:
            flower.select(*ends)
        except flower.ChannelClosed as error:
            caught.append(error)

    if waits:
        t = go(choose)
        schedule()
        ends[1]._channel.close()
        t.join()
    else:
        ends[1]._channel.close()
        choose()
    assert caught[0].channel is ends[1]
    assert repr(ends[1]) in str(caught[0])


def test_a_select_of_a_channel_that_was_closed_with_an_error_that_can_not_be_changed() -> None:
    for waits in (False, True):
        ch: channel[int] = channel()
        t = go(flower.select, (ch, 1))
        if waits:
            schedule()
        ch.receiver.close(Frozen("enough"))
        with pytest.raises(Frozen, match="enough"):
            t.join()


# -- refused before anything happens


def refused_where_waiting_is_over(do: Any) -> None:
    with pytest.raises(TimeoutError), flower.timeout(0):
        do()


def refused_in_a_trapped_tasklet(do: Any) -> None:
    me = flower.getcurrent()
    me.block_trap = True
    try:
        with pytest.raises(RuntimeError, match="blocked"):
            do()
    finally:
        me.block_trap = False


def refused_in_a_callback(do: Any) -> None:
    assert isinstance(in_a_callback(do), RuntimeError)


@pytest.mark.parametrize(
    "refused", [refused_where_waiting_is_over, refused_in_a_trapped_tasklet, refused_in_a_callback]
)
@pytest.mark.parametrize("call", [flower.run, flower.blocking])
def test_what_may_not_wait_begins_nothing(refused: Any, call: Any) -> None:
    ran: list[str] = []
    refused(lambda: call(ran.append, "ran"))
    schedule()
    flower.blocking(int)
    assert ran == []


def test_the_error_of_a_closed_channel_can_be_pickled() -> None:
    ch: channel[int] = channel(label="jobs")
    ch.receiver.close("enough")
    with pytest.raises(flower.ChannelClosed) as caught:
        ch.send(1)
    caught.value.add_note("noted")
    there = pickle.loads(pickle.dumps(caught.value))
    assert (str(there), there.channel, there.reason) == (str(caught.value), None, "enough")
    assert there.__notes__ == ["noted"]
    assert caught.value.channel is ch


# -- Errors of their own kind


class Frozen(Exception):
    """Takes no attribute once it is made: no notes, no context, no traceback of another."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} can't be set")


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
