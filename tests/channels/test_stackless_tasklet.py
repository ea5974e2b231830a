"""Stackless's tasklet: each method, each attribute, each error text."""

from __future__ import annotations

import sys
import threading
import traceback
import types
from typing import Any

import pytest

import flower
from flower import TaskletExit, channel, go, schedule, tasklet

from .support import in_thread, settle, spawn_parked

# -- Tasklet: making, binding, queueing


def test_tasklet_with_and_without_a_function() -> None:
    t = tasklet()
    assert not t.alive and not t.scheduled and not t.paused and t.frame is None
    log: list[Any] = []
    assert t.bind(log.append) is t
    assert not t.alive
    assert t.setup(1) is t
    assert t.alive and t.scheduled
    flower.run()
    assert log == [1] and not t.alive


def test_bind_with_arguments_is_alive_and_paused() -> None:
    log: list[Any] = []

    def func(*args: Any, **kwargs: Any) -> None:
        log.append((args, kwargs))

    t = tasklet().bind(func, (1, 2), {"x": 3})
    assert t.alive and t.paused and not t.scheduled
    flower.run()
    assert log == []
    t.insert()
    assert not t.paused and t.scheduled
    flower.run()
    u = tasklet(func)
    assert u.bind(None, (4,)) is u  # keeps the function
    assert u.paused
    u.run()
    u.bind(func, kwargs={"y": 5}).run()
    assert log == [((1, 2), {"x": 3}), ((4,), {}), ((), {"y": 5})]


def test_calling_is_setup() -> None:
    log: list[Any] = []
    t = tasklet(lambda *args, **kwargs: log.append((args, kwargs)))(1, x=2)
    assert isinstance(t, tasklet)
    flower.run()
    assert log == [((1,), {"x": 2})]


def test_a_finished_tasklet_can_be_bound_and_run_again() -> None:
    log: list[int] = []
    t = tasklet(log.append)(1)
    flower.run()
    assert not t.alive
    t.bind(log.append)(2)
    flower.run()
    t.bind(log.append, (3,)).run()
    assert log == [1, 2, 3]


def test_a_bound_again_tasklet_forgets_its_result() -> None:
    t = tasklet(lambda: 1)()
    assert t.join() == 1
    t.bind(lambda: 2)()
    assert t.join() == 2


def test_bind_of_an_alive_tasklet_is_refused() -> None:
    with pytest.raises(RuntimeError):
        flower.getcurrent().bind(None)
    t = spawn_parked(channel().receive)
    with pytest.raises(RuntimeError):
        t.bind(print)
    with pytest.raises(RuntimeError):
        t.setup()
    assert t.blocked == -1
    t.kill()


def test_insert_of_a_queued_tasklet_has_no_effect() -> None:
    log: list[int] = []
    t = go(log.append, 1)
    t.insert()
    t.insert()
    assert flower.getruncount() == 2
    flower.run()
    assert log == [1]


def test_insert_errors() -> None:
    t = spawn_parked(channel().receive)
    with pytest.raises(RuntimeError, match="You cannot run a blocked tasklet"):
        t.insert()
    t.kill()
    with pytest.raises(RuntimeError, match=r"You cannot run an unbound\(dead\) tasklet"):
        t.insert()
    with pytest.raises(RuntimeError, match=r"You cannot run an unbound\(dead\) tasklet"):
        tasklet(print).insert()


def test_remove() -> None:
    log: list[int] = []
    t = go(log.append, 1)
    t.remove()
    assert t.paused and not t.scheduled
    t.remove()
    flower.run()
    assert log == []
    t.insert()
    flower.run()
    assert log == [1]


def test_remove_errors() -> None:
    t = spawn_parked(channel().receive)
    with pytest.raises(RuntimeError, match=r"You cannot remove a blocked tasklet\."):
        t.remove()
    with pytest.raises(RuntimeError, match=r"The current tasklet cannot be removed\."):
        flower.getcurrent().remove()
    assert t.blocked == -1
    t.kill()


def test_run_of_a_tasklet_switches_now() -> None:
    log: list[str] = []
    go(log.append, "queued before")
    t = tasklet().bind(log.append, ("run",))
    t.run()
    assert log[0] == "run"
    flower.run()
    assert log == ["run", "queued before"]


def test_run_of_a_blocked_or_dead_tasklet_is_an_error() -> None:
    t = spawn_parked(channel().receive)
    for call in (t.run, t.switch):
        with pytest.raises(RuntimeError, match="blocked"):
            call()
    t.kill()
    for call in (t.run, t.switch):
        with pytest.raises(RuntimeError, match="dead"):
            call()


def test_run_twice_does_not_queue_twice() -> None:
    log: list[int] = []

    def steps() -> None:
        log.append(1)
        schedule()
        log.append(2)

    t = go(steps)
    t.run()
    t.run()
    flower.run()
    assert log == [1, 2]
    assert flower.getruncount() == 1


def test_switch_takes_the_caller_off_the_queue() -> None:
    main, seen = flower.getcurrent(), []

    def target() -> None:
        seen.append(main.paused)
        main.insert()

    t = tasklet(target)()
    t.switch()
    assert seen == [True]
    flower.getcurrent().switch()  # to oneself: no effect
    assert not t.alive


# -- Tasklet: exceptions


def test_raise_exception_unblocks() -> None:
    ch, caught = channel(), []

    def victim() -> None:
        try:
            ch.receive()
        except IndexError as e:
            caught.append(e.args)

    t = spawn_parked(victim)
    t.raise_exception(IndexError, 1, 2)
    assert caught == [(1, 2)] and not t.alive and ch.balance == 0


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("form", ["class", "class and args", "instance", "exc_info"])
def test_throw(form: str, pending: bool) -> None:
    ch, caught = channel(), []

    def victim() -> None:
        try:
            ch.receive()
        except LookupError as e:
            caught.append(e)

    def source() -> None:
        raise IndexError(1, 2)

    t = spawn_parked(victim)
    if form == "exc_info":
        try:
            source()
        except IndexError:
            t.throw(*sys.exc_info(), pending=pending)
    else:
        arguments: dict[str, tuple[Any, ...]] = {
            "class": (IndexError,),
            "class and args": (IndexError, (1, 2)),
            "instance": (IndexError(1, 2),),
        }
        t.throw(*arguments[form], pending=pending)
    if pending:
        assert t.alive and t.scheduled and not caught
        t.run()
    assert not t.alive and ch.balance == 0
    (error,) = caught
    assert type(error) is IndexError
    assert error.args == (() if form == "class" else (1, 2))
    if form == "exc_info":
        assert "source" in [f.name for f in traceback.extract_tb(error.__traceback__)]


def test_throw_of_what_is_no_exception() -> None:
    t = spawn_parked(channel().receive)
    for bad in ((), (int,), ("text",), (IndexError(1), (1, 2))):
        with pytest.raises(TypeError):
            t.throw(*bad)
    assert t.blocked == -1
    t.kill()


def test_throwing_at_oneself_raises_at_once() -> None:
    with pytest.raises(IndexError):
        flower.getcurrent().raise_exception(IndexError)
    with pytest.raises(KeyError):
        flower.getcurrent().throw(KeyError, "x", None)


def test_throw_at_an_unstarted_tasklet_is_its_error() -> None:
    ran: list[int] = []
    t = go(ran.append, 1)
    with pytest.raises(IndexError):
        t.throw(IndexError)
        flower.run()
    assert not t.alive and ran == []


def test_throw_at_a_dead_tasklet() -> None:
    t = go(lambda: None)
    flower.run()
    with pytest.raises(RuntimeError):
        t.throw(IndexError)
    t.throw(TaskletExit)  # it is dead already
    t.kill()
    assert not t.alive


def test_tasklet_exit_is_a_system_exit_and_silent() -> None:
    assert issubclass(TaskletExit, SystemExit)

    def leaves() -> None:
        raise TaskletExit

    t = go(leaves)
    flower.run()
    assert not t.alive


# -- kill


def test_kill_unblocks_and_leaves_no_trace_on_the_channel() -> None:
    for func in ("receive", "send"):
        ch = channel()
        t = spawn_parked(getattr(ch, func), *([1] if func == "send" else []))
        t.kill()
        assert not t.alive and not t.blocked
        assert (ch.balance, ch.queue) == (0, None)
        assert ch.try_receive("nothing") == "nothing"
        assert not ch.try_send(1)


def test_kill_of_an_unstarted_tasklet_never_runs_it() -> None:
    ran: list[int] = []
    t = go(ran.append, 1)
    t.kill()
    assert not t.alive and flower.getruncount() == 1
    flower.run()
    assert ran == []
    u = tasklet().bind(ran.append, (1,))
    u.kill()
    assert not u.alive and ran == []


def test_kill_pending() -> None:
    log: list[str] = []

    def victim() -> None:
        try:
            schedule()
        except TaskletExit:
            log.append("killed")
            raise

    t = go(victim)
    t.run()
    t.kill(pending=True)
    assert log == []
    flower.run()
    assert log == ["killed"] and not t.alive


def test_kill_of_the_current_tasklet() -> None:
    log: list[str] = []

    def victim() -> None:
        try:
            flower.getcurrent().kill()
        finally:
            log.append("left")

    t = go(victim)
    flower.run()
    assert log == ["left"] and not t.alive


def test_kill_of_a_paused_tasklet() -> None:
    log: list[str] = []

    def victim() -> None:
        try:
            flower.schedule_remove()
        finally:
            log.append("left")

    t = go(victim)
    schedule()
    t.kill()
    assert log == ["left"] and not t.alive


def test_a_kill_that_is_caught_lets_the_tasklet_live_on() -> None:
    ch = channel()

    def survivor() -> Any:
        try:
            ch.receive()
        except TaskletExit:
            return ch.receive()

    t = spawn_parked(survivor)
    t.kill()
    assert t.alive and t.blocked == -1
    ch.send("later")
    assert t.join() == "later"


# -- Attributes


def test_blocked_tells_the_direction() -> None:
    ch = channel()
    r = spawn_parked(ch.receive)
    assert (r.blocked, r.scheduled, r.paused) == (-1, True, False)
    r.kill()
    s = spawn_parked(ch.send, 1)
    assert (s.blocked, s.scheduled, s.paused) == (1, True, False)
    assert ch.queue is s
    ch.receive()
    assert s.blocked == 0
    settle()
    assert (s.alive, s.scheduled, s.paused) == (False, False, False)


def test_block_trap() -> None:
    ch, seen = channel(), []

    def trapped() -> None:
        flower.getcurrent().block_trap = True
        for action in (ch.receive, lambda: ch.send(1), lambda: flower.select(ch)):
            with pytest.raises(RuntimeError, match=r"this tasklet does not like to be blocked\."):
                action()
            seen.append(ch.balance)

    t = go(trapped)
    assert t.block_trap is False
    t.join()
    assert seen == [0, 0, 0]


def test_block_trap_allows_what_does_not_block() -> None:
    ch = channel(1)

    def trapped() -> Any:
        flower.getcurrent().block_trap = True
        ch.send(1)
        return ch.receive()

    assert go(trapped).join() == 1


def test_next_and_prev_walk_the_run_queue() -> None:
    a, b = go(lambda: None), go(lambda: None)
    main = flower.getcurrent()
    assert (main.next, a.next, b.next) == (a, b, main)
    assert (main.prev, a.prev, b.prev) == (b, main, a)
    flower.run()
    assert a.next is None and a.prev is None


def test_frame() -> None:
    ch = channel()

    def named() -> None:
        ch.receive()

    t = go(named)
    assert t.frame is None
    settle()
    frame = t.frame
    assert isinstance(frame, types.FrameType)
    names = []
    walk: Any = frame
    while walk is not None:
        names.append(walk.f_code.co_name)
        walk = walk.f_back
    del frame, walk
    assert "named" in names
    t.kill()
    assert t.frame is None


def test_thread_id() -> None:
    ident = threading.get_ident()
    t = go(lambda: None)
    assert t.thread_id == flower.getmain().thread_id == ident
    assert in_thread(lambda: flower.getmain().thread_id) != ident
    flower.run()


def test_remaining_attributes() -> None:
    t = spawn_parked(channel().receive)
    assert isinstance(t.nesting_level, int)
    assert isinstance(t.recursion_depth, int)
    assert t.set_ignore_nesting(1) in (0, False)
    assert t.set_ignore_nesting(0) in (1, True)
    assert t.atomic is False
    t.kill()


def test_label_and_repr() -> None:
    t = tasklet(channel().receive, label="clerk")()
    assert t.label == "clerk"
    assert "clerk" in repr(t)
    settle()
    assert "receive" in repr(t)
    t.label = "porter"
    assert "porter" in repr(t)
    t.kill()
    assert "porter" in repr(t)
    assert "wages" in repr(channel(label="wages"))


def test_bind_thread_moves_a_tasklet() -> None:
    """A tasklet that has not started runs in the thread that it is bound to."""
    ran: list[int] = []
    t = tasklet().bind(lambda: ran.append(threading.get_ident()), ())

    def other() -> int:
        t.bind_thread()
        t.insert()
        flower.run()
        return threading.get_ident()

    assert ran == [in_thread(other)]


def test_subclasses_of_tasklet_and_channel() -> None:
    class Job(tasklet):
        def __init__(self, func: Any, name: str) -> None:
            super().__init__(func)
            self.name = name

    class Box(channel):  # type: ignore[type-arg]
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    box = Box("b")
    job = Job(box.receive, "j")
    assert (box.name, box.capacity, job.name) == ("b", 0, "j")
    job()
    settle()
    box.send(5)
    assert job.join() == 5
