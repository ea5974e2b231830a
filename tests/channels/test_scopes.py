"""timeout, move_on, shield and group: scopes that end what blocks inside them."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

import flower
import flower.time
from flower import Cancelled, TaskletKilled, Timeout, channel, go

from .support import NEVER, SOON, in_thread, settle, spawn_parked


def test_cancel_from_another_tasklet_and_from_another_thread() -> None:
    scopes: list[Any] = []

    def body() -> None:
        with flower.move_on(NEVER) as scope:
            scopes.append(scope)
            channel().receive()
        scopes.append("left")

    t = spawn_parked(body)
    scopes[0].cancel()
    t.join()
    u = spawn_parked(body)
    thread = threading.Thread(target=scopes[2].cancel)
    thread.start()
    u.join()
    thread.join()
    assert [s for s in scopes if s == "left"] == ["left"] * 2


def test_a_scope_can_be_left_and_life_goes_on() -> None:
    ch = channel()
    for _ in range(3):
        with flower.move_on(0):
            ch.receive()
        with pytest.raises(Timeout), flower.timeout(0):
            ch.receive()
    go(ch.send, 1)
    assert ch.receive() == 1


def test_a_swallowed_cancelled_comes_again_at_the_next_park() -> None:
    count = 0
    with flower.move_on(0):
        for _ in range(5):
            try:
                channel().receive()
            except Cancelled:
                count += 1
    assert count == 5


def test_except_exception_does_not_swallow_cancelled() -> None:
    log = []
    with flower.move_on(0):
        try:
            channel().receive()
        except Exception:
            log.append("swallowed")
    assert log == []


def test_shield_holds_back_and_its_end_lets_through() -> None:
    ch, log = channel(), []
    go(ch.send, "shielded")
    with flower.move_on(NEVER) as scope:
        scope.cancel()
        with flower.shield():
            log.append(ch.receive())
            with flower.move_on(0):  # a scope inside is in force
                channel().receive()
            log.append("inner left")
        log.append("shield left")
        channel().receive()
        log.append("never")
    assert log == ["shielded", "inner left", "shield left"]


# -- Groups


@pytest.mark.parametrize("blocked", [True, False])
def test_a_shield_can_be_cancelled_itself(blocked: bool) -> None:
    log: list[str] = []

    def body() -> None:
        with flower.move_on() as outer, flower.shield() as shield:
            outer.cancel()
            if blocked:
                scopes.append(shield)
            else:
                shield.cancel()
            try:
                channel().receive(NEVER)
            finally:
                log.append("left")
        log.append("after")

    scopes: list[Any] = []
    t = go(body)
    settle()
    for scope in scopes:
        scope.cancel()
    t.join()
    assert log == ["left", "after"]


def test_a_group_waits_for_its_tasklets() -> None:
    log: list[int] = []

    def work(n: int) -> int:
        for _ in range(n):
            flower.schedule()
        log.append(n)
        return n

    with flower.group() as g:
        tasklets = [g.go(work, n) for n in (3, 1, 2)]
        assert log == []
    assert log == [1, 2, 3]
    assert [t.join() for t in tasklets] == [3, 1, 2]


def test_the_first_error_cancels_the_rest_and_is_raised() -> None:
    ended: list[str] = []

    def waits() -> None:
        try:
            channel().receive()
        except Cancelled:
            ended.append("cancelled")
            raise

    def fails() -> None:
        raise LookupError("first")

    with pytest.raises(LookupError, match="first"), flower.group() as g:
        g.go(waits)
        g.go(waits)
        g.go(fails)
    assert ended == ["cancelled"] * 2


def test_several_errors_make_an_exception_group() -> None:
    def fails() -> None:
        raise LookupError("first")

    def fails_when_cancelled() -> None:
        try:
            channel().receive()
        finally:
            raise KeyError("second")

    with pytest.raises(BaseExceptionGroup) as caught, flower.group() as g:
        g.go(fails_when_cancelled)
        g.go(fails)
    assert sorted(type(e).__name__ for e in caught.value.exceptions) == ["KeyError", "LookupError"]


@pytest.mark.parametrize("where", ["body", "member"])
def test_the_error_of_a_member_that_is_joined_in_its_group_is_raised_as_it_is(where: str) -> None:
    error = ValueError("the only one")

    def fail() -> None:
        raise error

    with pytest.raises(ValueError) as caught, flower.group() as g:
        member = g.go(fail)
        if where == "body":
            member.join()
        else:
            g.go(member.join)
    assert caught.value is error


@pytest.mark.parametrize("body_joins", [False, True])
def test_the_error_of_a_member_that_several_join_in_its_group_counts_once(body_joins: bool) -> None:
    def fail() -> None:
        raise ValueError("the only one")

    with pytest.raises(ValueError, match="the only one"), flower.group() as g:
        member = g.go(fail)
        for _ in range(2):
            g.go(member.join)
        if body_joins:
            flower.schedule()
            member.join()


def test_the_bodys_error_cancels_the_group_and_is_raised() -> None:
    with pytest.raises(LookupError), flower.group() as g:
        t = g.go(channel().receive)
        settle()
        raise LookupError("the body's")
    assert not t.alive


def test_a_groups_tasklets_can_start_more() -> None:
    log: list[int] = []

    def work(g: Any, n: int) -> None:
        log.append(n)
        if n:
            g.go(work, g, n - 1)

    with flower.group() as g:
        g.go(work, g, 5)
    assert log == [5, 4, 3, 2, 1, 0]


def test_a_cancelled_group_ends_quietly_in_its_scope() -> None:
    with flower.move_on(SOON) as scope, flower.group() as g:
        tasklets = [g.go(channel().receive) for _ in range(3)]
    assert scope.expired
    assert not any(t.alive for t in tasklets)


def test_nothing_can_join_a_group_that_has_ended() -> None:
    with flower.group() as g:
        pass
    with pytest.raises(RuntimeError):
        g.go(print)
    assert flower.getruncount() == 1


def test_the_error_of_a_body_whose_owner_is_killed_as_it_waits_is_reported() -> None:
    said: list[BaseException] = []
    awaited: channel[int] = channel()

    def shielded() -> None:
        with flower.shield():
            awaited.receive()
        raise LookupError("the member's")

    def own() -> None:
        with flower.group() as g:
            g.go(shielded)
            flower.schedule()
            raise ValueError("the body's")

    before = flower.set_error_handler(lambda t, error: said.append(error))
    try:
        owner = spawn_parked(own)
        owner.kill()
        awaited.send(1)
        with pytest.raises(TaskletKilled):
            owner.join()
        flower.time.sleep(SOON)
    finally:
        flower.set_error_handler(before)
    assert [str(error) for error in said] == ["the body's", "the member's"]


def limited_inside(seconds: float) -> Iterator[flower.move_on]:
    with flower.move_on(seconds) as scope:
        flower.move_on(NEVER).__enter__()
        yield scope


def limited(seconds: float | None = None) -> Iterator[flower.move_on]:
    """What it gives its scope, and leaves it where it is closed."""
    with flower.move_on(seconds) as scope:
        yield scope


@pytest.mark.parametrize("make", [limited, limited_inside])
@pytest.mark.parametrize("close", [lambda call: call(), in_thread])
def test_a_scope_that_is_left_elsewhere_says_so_and_is_left(make: Any, close: Any) -> None:
    around = make(5 * SOON)

    def wait() -> str:
        scope = next(around)
        flower.time.sleep(10 * SOON)
        scope.cancel()
        flower.time.sleep(SOON)
        return "not struck"

    t = spawn_parked(wait)
    with pytest.raises(RuntimeError, match="by the tasklet that entered"):
        close(around.close)
    assert t.join() == "not struck"


@pytest.mark.parametrize("make", [limited, limited_inside])
def test_a_scope_whose_tasklet_has_ended_is_left_quietly(make: Any) -> None:
    around = make(NEVER)

    def fail() -> None:
        for _ in around:
            raise LookupError

    with pytest.raises(LookupError):
        go(fail).join()
    around.close()


@pytest.mark.parametrize("fed", [True, False])
def test_who_waits_on_after_its_scope_was_left_elsewhere_waits_for_what_feeds_its_channel_now(fed: bool) -> None:
    timer = flower.time.Timer(math.inf if fed else NEVER)
    around = limited(10 * SOON)

    def wait() -> float:
        next(around)
        return timer.c.receive()

    t = spawn_parked(wait)
    if fed:
        timer.reset(20 * SOON)
    else:
        timer.stop()
    with pytest.raises(RuntimeError):
        around.close()
    flower.run()  # stays for what is fed by a timer, and for nothing else
    assert t.alive is not fed
    t.kill()


def test_a_group_whose_generator_is_closed_in_a_callback_says_that_it_can_not_wait_there() -> None:
    said: list[BaseException] = []
    tasklets: list[Any] = []

    def members() -> Iterator[Any]:
        with flower.group() as g:
            yield g.go(channel().receive)

    def close(*_: Any) -> None:
        try:
            around.close()
        except BaseException as error:
            said.append(error)

    def fail() -> None:
        tasklets.append(next(around))
        raise LookupError

    around = members()
    before = flower.set_error_handler(close)
    try:
        go(fail)
        flower.time.sleep(SOON)
    finally:
        flower.set_error_handler(before)
    assert "callback" in repr(said)
    assert not tasklets[0].alive


def test_a_member_that_another_thread_starts_as_the_group_is_cancelled_is_cancelled() -> None:
    left = threading.Event()
    owner = flower.getcurrent()
    tasklets: list[Any] = []

    def shielded() -> None:
        with flower.shield():
            flower.time.sleep(100 * SOON)

    def cancel(frame: Any, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code.co_name == "_enter":
            sys.setprofile(None)
            g.cancel()
            left.wait(NEVER)
            while not owner.blocked:  # until it waits for its members
                time.sleep(0.001)

    def start() -> None:
        sys.setprofile(cancel)
        tasklets.append(g.go(channel().receive, NEVER))
        with suppress(Cancelled):
            flower.run()

    with flower.group() as g:
        g.go(shielded)
        thread = threading.Thread(target=start)
        thread.start()
        try:
            flower.time.sleep(NEVER)
        finally:
            left.set()
    assert not tasklets[0].alive
    thread.join()


@pytest.mark.compiled  # uncompiled, nobody else can wait while a tasklet ends
def test_a_group_is_not_left_before_the_error_of_a_member_in_another_thread_is_noted() -> None:
    ending, left = threading.Event(), threading.Event()
    owner = flower.getcurrent()

    class Asked(Exception):
        def __getattr__(self, name: str) -> Any:  # called as the group looks at the error
            ending.set()
            while not (owner.blocked or left.is_set()):
                time.sleep(0.001)
            raise AttributeError(name)

    def fail() -> None:
        raise Asked

    def start() -> None:
        g.go(fail)
        with suppress(Asked):
            flower.run()

    with pytest.raises(Asked):
        try:
            with flower.group() as g:
                thread = threading.Thread(target=start)
                thread.start()
                assert ending.wait(NEVER)
        finally:
            left.set()
            thread.join()


def test_the_error_of_a_member_has_its_own_context_and_not_the_cancellation_of_the_body() -> None:
    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("then")

    with pytest.raises(ValueError) as raised, flower.group() as g:
        g.go(fail)
        channel().receive()
    assert isinstance(raised.value.__context__, KeyError)


def test_the_errors_of_members_are_raised_alone_where_a_generator_with_their_group_is_closed() -> None:
    def fail() -> None:
        raise LookupError

    def generator(members: int) -> Iterator[None]:
        with flower.group() as g:
            for _ in range(members):
                g.go(fail)
            yield

    for members, error in [(1, LookupError), (2, ExceptionGroup)]:
        opened = generator(members)
        next(opened)
        settle()
        with pytest.raises(error):
            opened.close()  # type: ignore[attr-defined]
    opened = generator(0)
    next(opened)
    opened.close()  # type: ignore[attr-defined]


def test_a_member_that_is_killed_before_it_began_under_a_channel_callback_that_raises() -> None:
    """The group's own channel is none of the callback's: the owner was not told of the member's end."""
    told: list[Any] = []

    def refuse(*what: Any) -> None:
        told.append(what)
        raise LookupError

    def kill(t: Any) -> None:
        before = flower.set_channel_callback(refuse)
        try:
            t.kill()
        finally:
            flower.set_channel_callback(before)

    with flower.group() as g:
        member = g.go(told.append, "ran").remove()
        killer = go(kill, member)
    killer.join()
    assert not told


@pytest.mark.parametrize("how", ["removed before it began", "removed", "switches"])
def test_a_member_of_a_group_that_is_cancelled_is_paused_no_more(how: str) -> None:
    """It has to end: nobody would have inserted it, and the group waited for it for good."""
    told: list[str] = []

    def works() -> None:
        told.append("began")
        if how == "switches":
            other.switch()
        flower.schedule()
        flower.schedule()
        try:
            channel().receive()
        except flower.Cancelled:
            told.append("cancelled")
            raise

    def removes() -> None:
        if how == "removed":
            flower.schedule()
        if how != "switches":
            assert member.remove().scheduled
        told.append("other")

    with flower.group() as g:
        other = flower.tasklet(removes)
        if how == "removed before it began":
            other()
        member = g.go(works)
        if how != "removed before it began":
            other()
        g.cancel()
    assert sorted(told) == ["began", "cancelled", "other"]
