"""Operations that rarely meet: removed and killed, removed in a scope, copied, forked in a group, in a greenlet."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
from greenlet import greenlet

import flower
import flower.time
from flower import Timeout, channel, go, schedule, schedule_remove

from .support import NEVER, SOON, output, python, settle

# -- A tasklet that is taken out of the queue


def test_a_receiver_removed_and_killed_keeps_the_value_that_it_was_given() -> None:
    ch = channel()
    ch.preference = 0
    got: list[Any] = []

    def receives() -> None:
        got.append(ch.receive())
        channel(1).send("a park, at which it is killed")
        schedule()
        got.append("not here")

    t = go(receives)
    schedule()
    ch.send("value")
    t.remove()
    t.kill()
    settle()
    assert (got, ch.balance, t.alive) == (["value"], 0, False)


@pytest.mark.slow
def test_run_ends_though_a_tasklet_was_removed_after_a_timed_wait() -> None:
    code = """
        import flower
        ch = flower.channel()
        ch.preference = 0
        t = flower.go(ch.receive, 0.01)
        flower.schedule()
        ch.send("value")
        t.remove()
        flower.run()
        print(t.paused, t.insert() and None, flower.run(), t.alive)
    """
    assert output(code, limit=20) == "True None None False\n"


def test_the_deadline_of_a_scope_comes_though_main_removed_itself() -> None:
    with pytest.raises(Timeout), flower.timeout(SOON):
        schedule_remove()


def test_the_deadline_of_a_scope_comes_though_its_tasklet_removed_itself() -> None:
    def removes() -> None:
        with pytest.raises(Timeout), flower.timeout(SOON):
            schedule_remove()
        got.append("Timeout")

    got: list[str] = []
    t = go(removes)
    schedule()
    assert t.paused
    flower.time.sleep(10 * SOON)
    assert (got, t.alive) == (["Timeout"], False)


def test_a_scope_is_cancelled_though_its_tasklet_removed_itself() -> None:
    scopes: list[Any] = []

    def removes() -> str:
        with flower.move_on() as scope:
            scopes.append(scope)
            schedule_remove()
        return "left"

    t = go(removes)
    schedule()
    scopes[0].cancel()
    assert t.join() == "left"


# -- Several who join


class Ours(Exception):
    def __new__(cls, what: int) -> Ours:
        return super().__new__(cls)

    def __init__(self, what: int) -> None:
        super().__init__("a text")
        self.what = what


def raises_ours() -> None:
    raise Ours(1)


ERRORS: list[Callable[[], object]] = [
    lambda: exit_with(3),
    lambda: b"\xff".decode("utf-8"),
    lambda: compile("a b", "file", "exec"),
    lambda: __import__("no_such_module"),
    lambda: open("/no/such/file"),
    lambda: getattr(None, "attribute"),  # noqa: B009
    raises_ours,
]


def exit_with(code: int) -> None:
    raise SystemExit(code)


@pytest.mark.parametrize("func", ERRORS)
def test_all_who_join_get_the_whole_error(func: Callable[[], object]) -> None:
    def fails() -> None:
        schedule()
        func()

    def facts() -> Any:
        try:
            t.join()
        except BaseException as e:
            names = ("code", "name", "path", "filename", "errno", "lineno", "msg", "object", "start", "reason", "what")
            return type(e), str(e), e.args, [getattr(e, name, None) for name in names]

    t = go(fails)
    first, second = [go(facts) for _ in range(2)]
    settle()
    assert first.join() is not None
    assert first.join() == second.join()


# -- Groups


@pytest.mark.slow
def test_a_group_whose_member_sleeps_for_good_in_a_shield_raises_deadlock() -> None:
    code = """
        import flower
        def member():
            with flower.shield():
                flower.channel().receive()
        try:
            with flower.group() as g:
                g.go(member)
        except flower.Deadlock:
            print("Deadlock")
    """
    assert output(code, limit=20) == "Deadlock\n"


@pytest.mark.slow
@pytest.mark.parametrize("end", ["pass", "sys.exit(7)", "g.go(int)", "g.cancel(); g.go(ch.receive); ch.receive()"])
def test_a_child_forked_in_a_group_does_not_wait_for_the_parent_s_members(end: str) -> None:
    """It leaves the group as its own body, and what that starts, ends."""
    code = f"""
        import os, sys, flower
        ch, child = flower.channel(), None
        with flower.group():
            with flower.group() as g:
                g.go(ch.receive)
                flower.schedule()
                child = os.fork()
                if child:
                    ch.send("value")
                else:
                    {end}
        if not child:
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert output(code, limit=20) == "7\n"


# -- The rest


@pytest.mark.slow
@pytest.mark.parametrize("interval", [1e-300, 1e-12])
def test_a_tick_shorter_than_the_clock_s_step_lets_others_run(interval: float) -> None:
    code = f"""
        import flower, flower.time
        ticks = flower.tick({interval}), flower.time.Ticker({interval})
        try:
            flower.channel().receive(timeout=0.002)
        except flower.Timeout:
            print("Timeout")
    """
    assert output(code, limit=20) == "Timeout\n"


@pytest.mark.parametrize("operation", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("capacity", [0, 3])
def test_a_channel_is_neither_copied_nor_pickled(operation: Callable[[Any], Any], capacity: int) -> None:
    with pytest.raises(TypeError):
        operation(channel(capacity))


@pytest.mark.slow
@pytest.mark.parametrize("assignment", ["func = 'x'", "args = [1]", "cases = ['a', 'b']", "sched = 'nightly'"])
def test_a_subclass_s_own_attribute_crashes_nothing(assignment: str) -> None:
    """A name that the core uses, too, may be refused or fail with an error, as it likes."""
    code = f"""
        import flower, flower.time
        class Named(flower.tasklet):
            def __init__(self, func):
                super().__init__(func)
                self.{assignment}
        ch = flower.channel(1)
        ch.send(1)
        def work(x):
            flower.select(ch, flower.never())
            flower.time.sleep(0.001)
            return x
        t = Named(work)(5)
        try:
            print(t.join(1))
        except BaseException as e:
            print(type(e).__name__)
    """
    assert python(code, limit=20).returncode in (0, 1)


@pytest.mark.parametrize("parked", [False, True])
def test_a_selects_channel_closed_names_what_the_caller_wrote(parked: bool) -> None:
    ch = channel()
    end = ch.receiver
    if parked:
        flower.go(ch.close)
    else:
        ch.close()
    with pytest.raises(flower.ChannelClosed) as caught:
        flower.select(channel(), end)
    assert caught.value.channel is end


def test_a_busy_worker_counts_as_no_free_one() -> None:
    """Several calls of blocking that need each other, given at once while a worker is idle, all get a thread."""
    assert flower.blocking(int) == 0  # leaves an idle worker
    for _ in range(20):
        barrier = threading.Barrier(3)
        calls = [flower.go(flower.blocking, barrier.wait, NEVER) for _ in range(3)]
        assert sorted(t.join() for t in calls) == [0, 1, 2]


# -- Classes of users' own


def test_a_subclass_that_forgets_to_call_init_gets_an_error() -> None:
    class Jobs(channel[int]):
        def __init__(self) -> None:
            pass

    for use in (lambda ch: ch.try_send(1), lambda ch: ch.receive(), lambda ch: ch.close(), flower.select):
        with pytest.raises(AttributeError):
            use(Jobs())


def test_a_reason_that_cannot_be_copied_is_given_as_it_is() -> None:
    class Lost(Exception):
        def __init__(self, host: str, port: int) -> None:
            super().__init__(f"lost {host}:{port}")

    ch = channel()
    ch.receiver.close(Lost("host", 1))
    for use in (lambda: ch.send(1), lambda: flower.select(ch)):
        with pytest.raises(Lost, match="lost host:1"):
            use()


def test_a_pair_that_cannot_be_indexed_is_a_case_like_any_other() -> None:
    class Case(tuple[Any, ...]):
        def __iter__(self) -> Any:
            raise KeyError("no")

    ch = channel(1)
    assert flower.select(Case((ch, 3))).index == 0
    assert ch.receive() == 3


@pytest.mark.compiled  # uncompiled, the recursion limit holds inside of the core, too
def test_a_send_to_another_thread_just_below_the_recursion_limit_is_made_or_refused() -> None:
    code = """
        import os, sys, threading, time, flower
        ch, answers = flower.channel(), flower.channel(100)
        def answer():
            for value in ch:
                answers.send(value)
        threading.Thread(target=answer, daemon=True).start()
        def at(depth, f):
            return f() if depth == 0 else at(depth - 1, f)
        sys.setrecursionlimit(300)
        for depth in range(300, 270, -1):
            while ch.balance >= 0:
                time.sleep(0.001)
            try:
                at(depth, lambda: ch.send(depth))
            except RecursionError:
                ch.send("again")
                assert answers.receive(timeout=30) == "again", depth
            else:
                assert answers.receive(timeout=30) == depth
        print("ok", flush=True)
        os._exit(0)
    """
    assert output(code) == "ok\n"


# -- A greenlet of the program's own


@pytest.mark.parametrize("then", ["a wait", "a timed wait", "its end"])
def test_a_tasklet_in_whose_place_a_greenlet_has_waited_is_told(then: str) -> None:
    """What that got was lost; and no timeout and no kill reached the tasklet, where it waited next."""
    ch: channel[str] = channel()
    waits = {"a wait": lambda: channel().receive(), "a timed wait": lambda: channel().receive(SOON), "its end": int}

    def switches() -> object:
        greenlet(lambda: ch.receive(NEVER)).switch()
        return waits[then]()

    t = go(switches)
    schedule()
    ch.send("value")
    with pytest.raises(RuntimeError, match="a greenlet of the program's own has waited in this tasklet's place"):
        t.join(NEVER)
    flower.run()


def test_a_greenlet_that_is_gone_on_with_until_it_ends_gets_what_it_has_waited_for() -> None:
    ch: channel[str] = channel()
    got: list[str] = []

    def switches() -> None:
        g = greenlet(lambda: got.append(ch.receive()))
        while not g.dead:
            g.switch()
        ch.receive()

    t = go(switches)
    schedule()
    ch.send("value")
    ch.send("another")
    assert (t.join(), got) == (None, ["value"])
