"""The rules that settle the corner cases of the scheduler: deadlock, run, threads, fork, error handler."""

from __future__ import annotations

import math
import sys
import threading
import warnings
from typing import Any

import pytest

import flower
import flower.time
from flower import (
    Deadlock,
    Timeout,
    channel,
    go,
    schedule,
    tasklet,
)

from .support import NEVER, SOON, in_thread, output, python, settle


class Boom(Exception):
    pass


def boom(*args: Any) -> None:
    raise Boom(*args)


# -- Deadlock


@pytest.mark.compiled  # uncompiled, the hub holds the guard while it looks: nobody can send
def test_a_thread_that_sends_and_ends_as_the_deadlock_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is gone when the hub looks which threads there are, and what it sent is in the queue already."""
    ch: channel[int] = channel()
    enumerate_threads = threading.enumerate
    looks: list[int] = []

    def send_and_look() -> list[threading.Thread]:
        looks.append(1)
        if len(looks) == 1:
            thread = threading.Thread(target=ch.send, args=(5,))
            thread.start()
            thread.join(NEVER)
        return enumerate_threads()

    monkeypatch.setattr("flower.channels._deadlock.threading.enumerate", send_and_look)
    t = go(ch.receive)
    assert t.join() == 5  # the thread wakes the tasklet, and main not yet
    assert looks


def test_a_timer_could_still_wake_someone() -> None:
    ch = channel()
    flower.time.after_func(SOON, lambda: ch.try_send("by the timer") or ch.close())
    assert ch.receive() == "by the timer"


def test_a_sleeping_tasklet_could_still_wake_someone() -> None:
    ch = channel()

    def later() -> None:
        flower.time.sleep(SOON)
        ch.send("later")

    go(later)
    assert ch.receive() == "later"


def test_another_thread_could_still_wake_someone() -> None:
    ch, gate = channel(), threading.Event()

    def other() -> None:
        gate.wait(NEVER)
        ch.send("from a thread")

    thread = threading.Thread(target=other)
    thread.start()
    go(gate.set)
    assert ch.receive() == "from a thread"
    thread.join()


def test_a_thread_that_is_ignored_does_not_count() -> None:
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait, args=(NEVER,))
    thread.start()
    flower.ignore_thread(thread)
    try:
        with pytest.raises(Deadlock):
            channel().receive()
    finally:
        gate.set()
        thread.join()


def test_idle_workers_do_not_count() -> None:
    assert flower.blocking(lambda: 5) == 5
    with pytest.raises(Deadlock):
        channel().receive()


@pytest.mark.slow
def test_threads_are_looked_at_again() -> None:
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait, args=(NEVER,))
    thread.start()
    go(gate.set)  # the thread ends while main already waits
    with pytest.raises(Deadlock):
        channel().receive()
    thread.join()


def test_a_signal_watch_could_still_wake_someone() -> None:
    code = """
        import os, signal, flower, flower.time
        ch = flower.signals(signal.SIGUSR1)
        flower.go(os.kill, os.getpid(), signal.SIGUSR1)
        print(ch.receive() == signal.SIGUSR1)
        ch.close()
        try:
            flower.channel().receive()
        except flower.Deadlock:
            print("deadlock")
    """
    assert output(code) == "True\ndeadlock\n"


def test_a_test_that_forbids_time_sleep_gets_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower waits a moment before it says so, by the true one: main got the error of the test's."""

    def forbidden(seconds: float) -> None:
        raise AssertionError("no test sleeps")

    monkeypatch.setattr("time.sleep", forbidden)
    with pytest.raises(Deadlock):
        channel().receive()


def test_deadlock_can_be_caught_and_life_goes_on() -> None:
    ch = channel()
    for _ in range(3):
        with pytest.raises(Deadlock):
            ch.receive()
        with pytest.raises(Deadlock):
            ch.send(1)
        with pytest.raises(Deadlock):
            flower.select(ch, (ch, 2))
    assert (ch.balance, ch.queue) == (0, None)
    go(ch.send, 3)
    assert ch.receive() == 3


# -- run


def test_run_of_a_function_returns_its_result_when_it_ends() -> None:
    forever = channel()

    def main(a: int, b: int) -> int:
        go(forever.receive)
        schedule()
        return a + b

    assert flower.run(main, 1, 2) == 3
    assert forever.balance == -1
    forever.send(None)
    settle()


def test_run_of_a_function_raises_its_error() -> None:
    with pytest.raises(Boom):
        flower.run(boom)


def test_deadlock_is_thrown_into_what_one_run_runs_when_another_that_began_before_has_ended() -> None:
    def sleeps_for_good() -> str:
        with pytest.raises(Deadlock):
            channel().receive()
        return "thrown"

    first = go(flower.run, schedule)
    second = go(flower.run, sleeps_for_good)
    first.join()
    assert second.join() == "thrown"


def test_deadlock_is_thrown_into_the_function_that_run_runs_at_its_park() -> None:
    def main() -> str:
        try:
            channel().receive()
        except Deadlock:
            return "deadlock"
        return "woken"

    assert flower.run(main) == "deadlock"


def test_run_waits_for_what_waits_for_the_outside() -> None:
    log: list[str] = []

    def sleeper() -> None:
        flower.time.sleep(SOON)
        log.append("slept")

    def scoped() -> None:
        with flower.move_on(SOON):
            channel().receive()
        log.append("moved on")

    def worker() -> None:
        log.append(flower.blocking(lambda: "blocking"))

    go(sleeper)
    go(scoped)
    go(worker)
    flower.time.after_func(SOON, log.append, "after_func")
    flower.run()
    assert sorted(log) == ["after_func", "blocking", "moved on", "slept"]


def test_run_does_not_wait_for_daemons() -> None:
    t = flower.tasklet(flower.time.sleep, daemon=True)(NEVER)
    flower.run()
    assert t.alive
    t.kill()


# -- Threads


def test_thread_end_takes_its_waiters_off_their_channels() -> None:
    ch, ran = channel(), []

    def other() -> None:
        go(ch.receive)
        go(ch.receive)
        schedule()
        assert ch.balance == -2
        go(ran.append, "unstarted")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        in_thread(other)
    assert (ch.balance, ch.queue) == (0, None)
    assert ran == []
    assert [w.category for w in caught] == [ResourceWarning]
    assert not ch.try_send("to nobody")


def test_the_daemons_of_a_thread_that_ends_are_nobodys_mistake() -> None:
    def work() -> None:
        for _ in range(2):
            tasklet(channel().receive, daemon=True)()
            schedule()
        tasklet(print, daemon=True)("unstarted")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        in_thread(work)
    assert caught == []


def test_a_plain_thread_sends_and_receives_without_a_scheduler() -> None:
    there, back, end = channel(), channel(), channel()

    def plain() -> None:
        back.send(there.receive() + 1)
        end.receive()

    thread = threading.Thread(target=plain)
    thread.start()
    there.send(1)
    assert back.receive() == 2
    assert thread.ident not in flower.getthreads()
    end.send(None)
    thread.join()


def test_a_plain_threads_receive_times_out() -> None:
    end = channel()

    def plain() -> None:
        with pytest.raises(Timeout):
            channel().receive(timeout=SOON)
        with pytest.raises(Timeout):
            channel().send(1, timeout=SOON)
        end.receive()

    thread = threading.Thread(target=plain)
    thread.start()
    end.send(None)
    assert thread.ident not in flower.getthreads()
    thread.join()


# -- Fork

FORK = """
    import os, flower, flower.time
    log = []
    ch = flower.channel()
    flower.go(ch.receive)
    flower.go(log.append, "must not run in the child")
    def forks():
        flower.getcurrent().label = "forker"
        return os.fork()
    def child_view():
        assert flower.getcurrent() is flower.getmain()
        assert flower.getruncount() == 1
        assert ch.balance == 0, ch.balance
        flower.run()
        assert log == before
        again = flower.channel()
        flower.go(again.send, "the child works")
        assert again.receive() == "the child works"
        flower.time.sleep(0.001)
        try:
            again.receive()
        except flower.Deadlock:
            return 7
        return 1
    {fork}
    before = list(log)
    if pid == 0:
        try:
            code = child_view()
        except BaseException:
            import traceback; traceback.print_exc()
            code = 1
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), ch.balance)
    flower.run()
    print(log, ch.balance)
"""


@pytest.mark.parametrize("fork", ["pid = os.fork()", "flower.time.sleep(0.001); pid = os.fork()"])
def test_a_forked_child_starts_with_an_empty_scheduler(fork: str) -> None:
    lines = output(FORK.replace("{fork}", fork)).splitlines()
    assert lines[0].startswith("7 ")
    assert lines[1] == "['must not run in the child'] -1"


def test_the_forking_tasklet_is_the_childs_main() -> None:
    code = """
        import os, flower, flower.time
        def forks():
            pid = os.fork()
            if pid == 0:
                me = flower.getcurrent()
                ok = me.is_main and me is flower.getmain() and flower.getruncount() == 1
                t = flower.go(lambda: 3)
                os._exit(7 if ok and t.join() == 3 else 1)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        t = flower.go(forks)
        print(t.join(), flower.getcurrent().is_main)
    """
    assert output(code) == "7 True\n"


FORK_IN = {
    "an error handler": "flower.set_error_handler(lambda t, error: forks()); flower.go(fails)",
    "a schedule callback": "flower.set_schedule_callback(lambda before, after: forks()); flower.go(int)",
    "a finalizer": "flower.go(lambda finalized: None, Finalized())",
    "a signal handler": "strikes(lambda number, frame: forks())",
    "a coroutine": "flower.wait(coroutine())",
    "a callback of the event loop": "flower.wait(calls_soon())",
}
# (The interpreter lets nothing out of a finalizer; and uvloop keeps the SystemExit of what it calls until its own end,
# which such a child does not see.)
FORK_ENDS = [
    *[(where, "pass", 0, loop) for where in FORK_IN for loop in (False, True)],
    *[(where, "raise ValueError", 1, True) for where in FORK_IN if where != "a finalizer"],
    ("an error handler", "sys.exit(7)", 7, True),
    ("a schedule callback", "sys.exit(7)", 7, False),
    ("a signal handler", "sys.exit(7)", 7, False),
    ("a coroutine", "sys.exit(7)", 7, True),
]


@pytest.mark.slow
@pytest.mark.parametrize(("where", "end", "status", "loop"), FORK_ENDS)
def test_a_child_that_is_forked_in_a_callback_ends_with_it(where: str, end: str, status: int, loop: bool) -> None:
    """It is no tasklet that has forked, and the parent's run in the parent alone."""
    code = f"""
        import asyncio, os, signal, sys, flower
        parent, children = os.getpid(), []
        def forks():
            if not children:
                children.append(os.fork())
                if os.getpid() != parent:
                    {end}
        async def coroutine():
            forks()
        async def calls_soon():
            asyncio.get_running_loop().call_soon(forks)
        if {loop}:
            flower.wait(asyncio.sleep(0))
        def strikes(handler):
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.002)
        class Finalized:
            def __del__(self):
                forks()
        def fails():
            raise ValueError
        {FORK_IN[where]}
        try:
            print("received", flower.channel().receive(timeout=0.05))
        except flower.Timeout:
            print("Timeout", flush=True)
        if os.getpid() == parent:
            print(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
    """
    done = python(code, limit=20)
    assert (done.returncode, done.stdout) == (0, f"Timeout\n{status}\n")
    assert ("ValueError" in done.stderr) == (end == "raise ValueError")


@pytest.mark.slow
@pytest.mark.parametrize("switches", ["ch.send(1)", "t.kill()"])
def test_a_child_that_is_forked_in_a_schedule_callback_may_wait(switches: str) -> None:
    """Not in the place of who was switched from, whose send or kill was done already: it waited for good."""
    code = f"""
        import os, signal, sys, flower, flower.time
        ch, children = flower.channel(), []
        def forks(before, after):
            flower.set_schedule_callback(None)
            children.append(os.fork())
            if not children[0]:
                signal.alarm(10)
                flower.time.sleep(0.001)
                sys.exit(flower.go(lambda: 7).join())
        t = flower.go(lambda: [each for each in ch])
        flower.schedule()
        flower.set_schedule_callback(forks)
        {switches}
        print(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
    """
    assert output(code, limit=20) == "7\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("pass", 0),
        ("sys.stdout = None", 0),
        ("sys.stdout.close()", 0),
        ("sys.exit(7)", 7),
        ("sys.exit(2**32 - 1)", 255),
    ],
)
def test_a_child_that_is_forked_in_a_tasklet_has_the_exit_status_of_a_program_that_ends_so(
    end: str, status: int
) -> None:
    """A standard output that is closed is none to flush; of a great number the system takes the last eight bits."""
    code = f"""
        import os, sys, flower
        def forks():
            child = os.fork()
            if child == 0:
                {end}
            return child
        print(os.waitstatus_to_exitcode(os.waitpid(flower.go(forks).join(), 0)[1]))
    """
    assert output(code) == f"{status}\n"


@pytest.mark.slow
@pytest.mark.parametrize(("end", "status"), [("pass", 0), ("sys.exit(7)", 7)])
def test_a_child_that_is_forked_in_a_worker_of_blocking_ends_with_the_call(end: str, status: int) -> None:
    """It waited for ten seconds for another call."""
    code = f"""
        import os, sys, time, warnings, flower
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, from Python 3.12 on
        def forks():
            child = os.fork()
            if child == 0:
                print("in the child")
                {end}
            return child
        before = time.monotonic()
        child = flower.blocking(forks)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), time.monotonic() - before < 9)
    """
    assert output(code, limit=20) == f"in the child\n{status} True\n"


@pytest.mark.parametrize(
    "broken",
    [
        "sys.excepthook = lambda *error: 1 / 0",
        "r, w = os.pipe(); os.close(r); kept = sys.stdout = open(w, 'w')",
    ],
)
def test_a_child_that_can_not_report_ends_all_the_same(broken: str) -> None:
    code = f"""
        import os, sys, flower
        out, parent, children = sys.stdout, os.getpid(), []
        {broken}
        def forks():
            children.append(os.fork())
            if os.getpid() != parent:
                print("something")
                raise ValueError
        flower.go(forks)
        try:
            flower.run()
        except BaseException as error:
            print("raised in main", repr(error), file=out)
        if os.getpid() != parent:
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]), file=out)
    """
    assert python(code).stdout.splitlines()[-1] == "1"


def test_a_fork_in_a_channel_callback_is_the_tasklet_s() -> None:
    code = """
        import os, flower
        children = []
        def forks(*_):
            flower.set_channel_callback(None)
            children.append(os.fork())
        flower.set_channel_callback(forks)
        ch = flower.channel(1)
        ch.send("sent")
        value = ch.receive()
        if children[0] == 0:
            os._exit(7 if value == "sent" else 1)
        print(value, os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
    """
    assert output(code) == "sent 7\n"


# -- The error handler


def test_the_error_handler_may_not_block() -> None:
    seen: list[BaseException] = []

    def handler(*what: Any) -> None:
        for action in (channel().receive, schedule, lambda: flower.time.sleep(1)):
            try:
                action()
            except RuntimeError as e:
                seen.append(e)

    flower.set_error_handler(handler)
    try:
        go(boom)
        flower.run()
    finally:
        flower.set_error_handler(None)
    assert len(seen) == 3
    assert flower.getruncount() == 1


def test_the_error_handlers_own_error_goes_to_unraisablehook(monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraisable.append((args.exc_type, str(args.exc_value))))

    def handler(*what: Any) -> None:
        raise KeyError("the handler's own")

    flower.set_error_handler(handler)
    try:
        go(boom)
        flower.run()
    finally:
        flower.set_error_handler(None)
    assert unraisable == [(KeyError, '"the handler\'s own"')]


def test_the_error_handler_may_send_without_blocking() -> None:
    reports = channel(math.inf)
    flower.set_error_handler(lambda t, error: reports.try_send(error.args))
    try:
        go(boom, 1)
        go(boom, 2)
        flower.run()
    finally:
        flower.set_error_handler(None)
    assert [reports.receive() for _ in range(2)] == [(1,), (2,)]
