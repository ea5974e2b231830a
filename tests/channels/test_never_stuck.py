"""What could leave a program waiting for good, or spinning: hasty timers, a main tasklet that left, locks, forks."""

from __future__ import annotations

import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

import flower
import flower.time
from flower import Deadlock, bomb, channel, go, group, schedule, shield, tasklet

from .support import NEVER, output, settle

# -- Timers that are always due


@pytest.mark.slow
@pytest.mark.parametrize(
    "hasty",
    [
        "while True: flower.time.sleep(1e-9)",
        "while True: flower.time.idle()",
        "while True: flower.after(1e-9).receive()",
        "ticks = flower.tick(1e-7); flower.never().receive()",
    ],
)
def test_timers_that_are_always_due_leave_the_network_its_turn(hasty: str) -> None:
    code = f"""
        import flower, flower.net, flower.time, os
        def hasty():
            {hasty}
        def serve(listener):
            conn = listener.receive()
            for data in conn:
                conn.send(data)
        listener = flower.net.Listen(("127.0.0.1", 0), "tcp")
        flower.go(serve, listener)
        flower.tasklet(hasty, daemon=True)()
        with flower.net.Dial("tcp", listener.addr()) as conn:
            for _ in range(20):
                conn.send(b"x")
                assert conn.receive() == b"x"
        print("ok", flush=True)
        os._exit(0)
    """
    assert output(code) == "ok\n"


@pytest.mark.slow
def test_timers_are_set_and_stopped_by_two_threads_at_once() -> None:
    code = """
        import flower, flower.time, os, threading
        timers = [flower.time.Timer(0.001) for _ in range(50)]
        rounds = 0
        def resets():
            global rounds
            while True:
                for t in timers:
                    t.reset(0.0003)
                rounds += 1
        threading.Thread(target=resets, daemon=True).start()
        end = flower.after(0.5)
        before = 0
        while end.try_receive() is None or rounds == before:
            flower.time.sleep(0.0001)
        print("ok", flush=True)
        os._exit(0)
    """
    assert output(code) == "ok\n"


# -- A main tasklet that has left the queue


def leave_by_switch(func: Callable[[], Any]) -> None:
    tasklet(func)().switch()


def leave_by_remove(func: Callable[[], Any]) -> None:
    def removes() -> None:
        flower.getmain().remove()
        func()

    go(removes)
    schedule()


@pytest.mark.parametrize("leave", [leave_by_switch, leave_by_remove])
def test_a_main_tasklet_that_nobody_inserts_gets_deadlock(leave: Any) -> None:
    with pytest.raises(Deadlock, match="waits to be inserted"):
        leave(lambda: None)


@pytest.mark.parametrize("leave", [leave_by_switch, leave_by_remove])
def test_a_main_tasklet_that_has_left_gets_errors(leave: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        leave(lambda: 1 // 0)


def test_ctrl_c_reaches_a_main_tasklet_that_has_left() -> None:
    def interrupted() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            flower.time.sleep(NEVER)

    t = tasklet(interrupted)()
    with pytest.raises(KeyboardInterrupt):
        t.switch()
    t.kill()


# -- Objects that do not say what they are


class Nothing:
    pass


@pytest.mark.parametrize("make", [lambda: weakref.proxy(Nothing()), lambda: Mock(spec=channel)])
def test_a_dead_proxy_or_a_mock_does_not_spoil_a_deadlock_report(make: Any) -> None:
    held = make()
    with pytest.raises(Deadlock, match="in receive on <channel 'silent'"):
        channel(label="silent").receive()
    del held


def test_a_dead_proxy_does_not_spoil_a_fork() -> None:
    code = """
        import flower, os, weakref
        class Nothing: pass
        proxy = weakref.proxy(Nothing())
        ch = flower.channel()
        flower.go(ch.receive)
        flower.schedule()
        child = os.fork()
        if child == 0:
            os._exit(5 if ch.balance == 0 else 6)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        os._exit(0)
    """
    assert output(code) == "5\n"


@pytest.mark.slow
def test_a_thread_that_threading_does_not_know_can_still_send() -> None:
    """Be it that it has not begun, or has not used Flower yet."""
    code = """
        import _thread, flower, time
        ch = flower.channel()
        for n in range(10):
            _thread.start_new_thread(ch.send, (n,))
            assert ch.receive() == n
        def sends():
            time.sleep(0.1)
            ch.send("late")
        _thread.start_new_thread(sends, ())
        print(ch.receive())
    """
    assert output(code, limit=20) == "late\n"


@pytest.mark.slow
def test_a_thread_from_before_flower_that_threading_does_not_know_hides_no_deadlock() -> None:
    """Such as that of a test runner's worker, which reads what it is to run."""
    code = """
        import _thread
        forever = _thread.allocate_lock()
        forever.acquire()
        _thread.start_new_thread(forever.acquire, ())
        while not _thread._count():
            pass
        import flower
        try:
            flower.channel().receive()
        except flower.Deadlock:
            print("Deadlock")
    """
    assert output(code, limit=20) == "Deadlock\n"


@pytest.mark.slow
def test_nor_is_a_later_thread_taken_for_one_from_before_flower_that_has_ended() -> None:
    """Which may have had the same number."""
    code = """
        import _thread, time
        def waits(begun, go_on, ended):
            begun.release()
            go_on.acquire()
            ended.release()
        locks = [_thread.allocate_lock() for _ in range(3)]
        for lock in locks:
            lock.acquire()
        begun, go_on, ended = locks
        _thread.start_new_thread(waits, (begun, go_on, ended))
        begun.acquire()
        import flower
        ch = flower.channel()
        try:
            ch.receive()
        except flower.Deadlock:
            print("Deadlock")
        go_on.release()
        ended.acquire()
        while _thread._count():
            pass
        def sends():
            go_on.acquire(timeout=0.1)
            ch.send("late")
        _thread.start_new_thread(sends, ())
        print(ch.receive())
    """
    assert output(code, limit=20) == "Deadlock\nlate\n"


@pytest.mark.slow
def test_the_threads_of_its_parent_hide_no_deadlock_in_a_forked_child() -> None:
    code = """
        import _thread, flower, os, time, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, from Python 3.12 on
        ch = flower.channel(1)
        def waits():
            ch.send("begun")
            time.sleep(60)
        _thread.start_new_thread(waits, ())
        ch.receive()
        child = os.fork()
        if child == 0:
            try:
                ch.receive()
            except flower.Deadlock:
                os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    """
    assert output(code, limit=20) == "7\n"


@pytest.mark.slow
def test_a_thread_that_threading_does_not_know_hides_no_deadlock_once_it_has_ended() -> None:
    code = """
        import _thread, flower
        ch = flower.channel()
        ended = _thread.allocate_lock()
        ended.acquire()
        def waits():
            ch.receive()  # and its hub looks whether anybody could send
            ended.release()
        _thread.start_new_thread(waits, ())
        flower.time.sleep(0.05)
        ch.send(1)
        ended.acquire()
        try:
            ch.receive()
        except flower.Deadlock:
            print("Deadlock")
    """
    assert output(code, limit=10) == "Deadlock\n"


# -- Forks and threads that have ended


@pytest.mark.parametrize("freeze", ["pass", "gc.freeze()"])
@pytest.mark.parametrize("forker", ["main", "a plain thread"])
def test_nobody_waits_in_a_forked_child(freeze: str, forker: str) -> None:
    code = """
        import flower, gc, os, sys, threading, time, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, from Python 3.12 on
        ch = flower.channel()
        def forks():
            child = os.fork()
            if child == 0:
                os._exit(5 if ch.balance == 0 and not ch.try_send(1) else 6)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            os._exit(0)
        def waits():
            flower.go(ch.receive)
            ch.receive()
        flower.go(ch.receive)
        flower.schedule()
        for waiter in (waits, ch.receive):
            threading.Thread(target=waiter, daemon=True).start()
        while ch.balance > -4:
            time.sleep(0.001)
        {freeze}
        if {main}:
            forks()
        threading.Thread(target=forks).start()
        flower.time.sleep(60)
    """
    assert output(code.replace("{freeze}", freeze).replace("{main}", str(forker == "main"))) == "5\n"


def test_a_forked_child_watches_no_signals() -> None:
    code = """
        import flower, os, signal
        watch = flower.signals(signal.SIGTERM)
        near, far = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                watch.receive()
            except flower.ChannelClosed:
                os.write(far, b"x")
            signal.pause()
        os.read(near, 1)
        os.kill(child, signal.SIGTERM)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        os.kill(os.getpid(), signal.SIGTERM)
        print(watch.receive() == signal.SIGTERM, flush=True)
        os._exit(0)
    """
    assert output(code) == "-15\nTrue\n"


def test_a_tasklet_of_a_thread_that_has_ended_can_not_be_started_there() -> None:
    made: list[Any] = []
    got: list[int] = []

    def makes() -> None:
        made.append(tasklet(got.append))
        made.append(tasklet(got.append).bind(None, (2,)))

    thread = threading.Thread(target=makes)
    thread.start()
    thread.join()
    with pytest.raises(RuntimeError, match="made this tasklet has ended"):
        made[0](1)
    with pytest.raises(RuntimeError, match="made this tasklet has ended"):
        made[1].insert()
    assert not made[0].alive and made[1].paused
    for t in made:
        t.bind_thread()
    made[0](1)
    made[1].insert()
    settle()
    assert got == [1, 2]


def test_a_tasklet_made_before_a_fork_can_not_be_started_in_the_child() -> None:
    code = """
        import flower, os
        t = flower.tasklet(print)
        child = os.fork()
        if child == 0:
            try:
                t("here")
            except RuntimeError:
                t.bind_thread()
                t("there")
                flower.run()
            os._exit(0)
        os.waitpid(child, 0)
    """
    assert output(code) == "there\n"


# -- Groups, worker threads, finalizers


def test_a_member_that_is_woken_after_its_group_gave_up_ends_as_any_tasklet() -> None:
    ch = channel()

    def member(then: Callable[[], Any]) -> None:
        with shield():
            ch.receive()
        then()

    with pytest.raises(Deadlock), group() as g:
        well = g.go(member, list)
        badly = g.go(member, lambda: 1 // 0)
    ch.send("late")
    settle()
    assert not well.alive
    with pytest.raises(ZeroDivisionError):
        ch.send("late")
        settle()
        flower.run()
    assert not badly.alive


def test_blocking_says_when_no_thread_can_be_started_and_then_goes_on() -> None:
    code = """
        import flower, os, threading
        ran = []
        threading.stack_size(1 << 46)
        for n in range(50):
            try:
                flower.blocking(ran.append, n)
            except RuntimeError:
                pass
        threading.stack_size(0)
        print(flower.blocking(lambda: "ran"), ran)
        try:
            flower.channel().receive()
        except flower.Deadlock:
            print("Deadlock", flush=True)
        os._exit(0)
    """
    assert output(code) == "ran []\nDeadlock\n"


def test_blocking_makes_do_with_the_threads_that_there_are() -> None:
    code = """
        import flower, os, threading
        go_on = threading.Event()
        first = flower.go(flower.blocking, go_on.wait)
        flower.schedule()
        threading.stack_size(1 << 46)
        second = flower.go(flower.blocking, lambda: "second")
        flower.schedule()
        go_on.set()
        print(first.join(), second.join(), flush=True)
        os._exit(0)
    """
    assert output(code) == "True second\n"


def test_the_error_of_a_tasklet_is_its_own_though_its_tempval_was_set_before_it_began() -> None:
    class Drops:
        def __del__(self) -> None:
            schedule()

    def fails(error: Exception) -> None:
        raise error

    t = tasklet(fails).bind(None, (ValueError("of the first"),))
    t.tempval = Drops()
    t.insert()
    other = go(fails, KeyError("of the other"))
    with pytest.raises(ValueError, match="of the first"):
        t.join()
    with pytest.raises(KeyError, match="of the other"):
        other.join()


# -- Bad input


def test_a_bind_that_is_refused_changes_nothing() -> None:
    got: list[int] = []
    t = tasklet(got.append).bind(None, (1,))
    with pytest.raises(TypeError):
        t.bind(len, 5)
    assert t.paused
    t.insert()
    settle()
    assert got == [1]


def test_a_time_too_large_for_a_float_is_no_limit() -> None:
    ch = channel(1)
    go(ch.send, "value")
    assert ch.receive(10**400) == "value"
    with flower.timeout(10**400):
        pass
    assert flower.select(flower.after(10**400), default=None).index == -1


@pytest.mark.parametrize(
    "call",
    [
        lambda: flower.run(None, 1),
        lambda: flower.ignore_thread(5),  # type: ignore[arg-type]
        lambda: bomb(type("Odd", (Exception,), {"__new__": lambda cls, *args: 5})),
    ],
)
def test_what_makes_no_sense_is_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="need"):
        call()


@pytest.mark.filterwarnings("ignore:a thread ended with:ResourceWarning")
def test_a_thread_ends_though_a_group_waits_for_its_tasklets() -> None:
    ended: list[str] = []

    def member() -> None:
        try:
            flower.never().receive()
        finally:
            ended.append("member")

    def owner() -> None:
        try:
            with group() as g:
                g.go(member)
        finally:
            ended.append("owner")

    def body() -> None:
        go(owner)
        settle()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(NEVER)
    assert not thread.is_alive()
    assert sorted(ended) == ["member", "owner"]
