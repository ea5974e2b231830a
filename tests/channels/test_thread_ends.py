"""Threads that end with work left, and threads that meet in the core at the same moment."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import flower
import flower.time
from flower import TaskletKilled, Timeout, channel, go, schedule
from flower.channels._poller import ThreadPoller

from .support import NEVER, in_thread, output, scaled


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def ends_early(func: Callable[[], Any]) -> Any:
    """func's result, from a thread that ends with tasklets left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        return in_thread(func)


@contextmanager
def beside(*funcs: Callable[[], Any]) -> Iterator[None]:
    """Runs each function in a thread of its own; all are to end soon after the block."""
    threads = [threading.Thread(target=func) for func in funcs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join(NEVER)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"


# -- Tasklets that their thread leaves behind


def test_who_joins_a_thread_s_main_tasklet_hears_of_the_thread_s_end() -> None:
    mains: channel[Any] = channel(1)
    go_on: channel[None] = channel(1)

    def works() -> None:
        mains.send(flower.getmain())
        go_on.receive()

    with beside(works):
        main = mains.receive()
        joins = [go(main.join, NEVER) for _ in range(2)]
        schedule()
        go_on.send(None)
        assert [t.join() for t in joins] == [None, None]
    assert main.join() is None
    assert not main.alive
    with pytest.raises(RuntimeError, match="dead"):
        main.throw(KeyError)


@pytest.mark.slow
@pytest.mark.parametrize(
    "receives", [channel.receive, lambda ch: flower.select(channel(), ch)[1]], ids=["receive", "select"]
)
def test_what_was_sent_to_a_tasklet_whose_thread_then_ends_is_received(receives: Any) -> None:
    """And what it has sent it knows to be sent: it ends where it would next wait."""
    ch: channel[Any] = channel()
    back: channel[Any] = channel()
    told: list[Any] = []
    parked, go_on = threading.Event(), threading.Event()

    def answers() -> None:
        try:
            told.append(receives(ch))
            ch.receive()
        except BaseException as error:
            told.append(type(error))
            raise

    def sends() -> None:
        back.send("sent")
        told.append("sent")
        ch.receive()

    def starts() -> None:
        go(answers)
        go(sends)
        schedule()
        parked.set()
        assert go_on.wait(NEVER)

    def meets() -> None:
        assert parked.wait(NEVER)
        ch.send("value")
        assert back.receive() == "sent"
        go_on.set()

    with beside(meets):
        ends_early(starts)
    assert told == ["value", flower.TaskletExit, "sent"]
    assert (ch.balance, back.balance) == (0, 0)


def test_who_waits_in_a_thread_that_ends_has_ended_before_the_outside_is_closed() -> None:
    """Which may take seconds, with a network: what was sent meanwhile was lost, and what was received not sent."""
    ch: channel[Any] = channel()
    back: channel[Any] = channel()
    outside: channel[Any] = channel()
    told: list[Any] = []

    class Closes(ThreadPoller):
        def close(self) -> None:
            outside.close()
            told.append((ch.try_send("late"), back.try_receive()))  # as another thread may

    def waits(operation: Callable[..., Any], *args: Any) -> None:
        try:
            told.append(operation(*args))
        except BaseException as error:
            told.append(type(error))
            raise

    def ends() -> None:
        flower.get_scheduler().set_poller(Closes())
        go(waits, ch.receive)
        go(waits, back.send, "value")
        go(waits, outside.receive)
        schedule()

    ends_early(ends)
    assert told == [*[flower.TaskletExit] * 3, (False, None)]


def test_a_daemon_is_ended_after_those_it_serves() -> None:
    """An RPC connection's reader is one: who waited for an answer was told that the connection is lost."""
    requests: channel[Any] = channel()
    told: list[Any] = []

    def serves() -> None:
        try:
            for request in requests:
                told.append(request)
        finally:
            told.append("served")

    def asks() -> None:
        try:
            channel().receive()
        finally:
            requests.send("the last")

    def ends() -> None:
        flower.tasklet(serves, daemon=True)()
        go(asks)
        schedule()

    ends_early(ends)
    assert told == ["the last", "served"]


def test_a_group_with_a_member_that_its_thread_has_left_unstarted_can_be_cancelled() -> None:
    """It never begins, be it inserted: the group waited for it for good, with another thread about."""
    members: list[Any] = []
    with flower.group() as g:
        ends_early(lambda: members.append(g.go(members.append, "ran").remove()))
        g.cancel()
    assert [member.alive for member in members] == [False]


def test_clean_up_that_blocks_at_the_thread_s_end_leaves_no_ghost() -> None:
    code = """
        import threading, warnings, flower
        warnings.simplefilter("ignore")
        ch = flower.channel()
        def victim():
            try:
                ch.receive()
            finally:
                ch.receive()
        def ends():
            flower.go(victim)
            flower.schedule()
        thread = threading.Thread(target=ends)
        thread.start()
        thread.join()
        print(ch.balance, ch.try_send("nobody is there"))
    """
    assert output(code, limit=20) == "0 False\n"


@pytest.mark.parametrize("network", ["", "from flower.net._loop import io_poller; io_poller()"])
def test_clean_up_at_the_thread_s_end_may_send(network: str) -> None:
    never, news, log = channel(), channel(2), []

    def cleans_up() -> None:
        try:
            never.receive()
        finally:
            news.send("to one who waits")
            log.append("went on")

    def ends() -> None:
        exec(network)
        go(cleans_up)
        go(news.receive)
        schedule()

    ends_early(ends)
    assert log == ["went on"]


@pytest.mark.slow
def test_clean_up_that_fails_at_the_thread_s_end_is_told_to_the_error_handler() -> None:
    told: list[tuple[str, str]] = []

    def fails() -> None:
        try:
            channel().receive()
        finally:
            raise ValueError("the clean-up failed")

    def handler(t: Any, error: BaseException) -> None:
        with pytest.raises(flower.TaskletExit, match="this thread is at its end"):
            schedule()
        told.append((t.label, str(error)))

    def works() -> None:
        go(fails).label = "the cleaner"
        schedule()

    flower.set_error_handler(handler)
    try:
        ends_early(works)
    finally:
        flower.set_error_handler(None)
    assert told == [("the cleaner", "the clean-up failed")]


def test_clean_up_that_sleeps_at_the_thread_s_end_does_not_hang() -> None:
    code = """
        import threading, warnings, flower, flower.time
        warnings.simplefilter("ignore")
        ch, log = flower.channel(), []
        def victim(n):
            try:
                ch.receive()
            finally:
                log.append(n)
                flower.time.sleep(0.01)
        def ends():
            for n in range(3):
                flower.go(victim, n)
            flower.schedule()
        thread = threading.Thread(target=ends)
        thread.start()
        thread.join()
        print(sorted(log), ch.balance)
    """
    assert output(code, limit=20) == "[0, 1, 2] 0\n"


def test_who_joins_an_unstarted_tasklet_from_another_thread_hears_of_its_thread_s_end() -> None:
    made, waited = threading.Event(), threading.Event()
    left: list[Any] = []
    heard: list[BaseException] = []

    def ends() -> None:
        left.append(go(int))
        made.set()
        waited.wait(NEVER)

    def joins() -> None:
        made.wait(NEVER)
        t = go(left[0].join, NEVER)
        schedule()  # now it waits
        waited.set()
        try:
            t.join()
        except TaskletKilled as e:
            heard.append(e)

    with beside(joins):
        ends_early(ends)
    assert [type(e) for e in heard] == [TaskletKilled]
    assert not left[0].alive


# -- Who can still wake somebody


def test_a_thread_at_the_address_of_one_that_was_ignored_counts() -> None:
    ch = channel()
    addresses = set()
    for _ in range(50):
        gone = threading.Thread(target=int)
        flower.ignore_thread(gone)
        gone.start()
        gone.join()
        addresses.add(id(gone))
        del gone
    pause = threading.Event()

    def late() -> None:
        pause.wait(0.01)
        ch.send("value")

    others = [threading.Thread(target=late)]
    while id(others[-1]) not in addresses and len(others) < 1000:
        others.append(threading.Thread(target=late))
    thread = others.pop()
    thread.start()
    try:
        assert ch.receive() == "value"
    finally:
        ch.close()
        thread.join()


def test_a_worker_with_a_job_counts_before_it_has_woken_up() -> None:
    ch = channel(1)
    for _ in range(20):
        flower.blocking(int)  # leaves an idle worker
        t = go(flower.blocking, lambda: ch.send("done"))
        schedule()
        t.kill()  # nobody waits for the job any more, but it goes on, and will send
        assert ch.receive() == "done"


# -- Races


def test_tasklets_of_several_threads_fail_each_with_its_own_error(switching: None) -> None:
    wrong: list[Any] = []

    def works() -> None:
        me = threading.get_ident()

        def fails() -> None:
            raise ValueError(me)

        for _ in range(scaled(2000)):
            try:
                go(fails).join()
            except ValueError as e:
                if e.args != (me,):
                    wrong.append(e)
            else:
                wrong.append("nothing was raised")

    with beside(works, works, works):
        pass
    assert wrong == []


@pytest.mark.slow
def test_a_join_from_another_thread_times_out_while_the_tasklet_ends(switching: None) -> None:
    current: list[Any] = [None]
    done = threading.Event()
    wrong: list[Any] = []

    def joins() -> None:
        while not done.is_set():
            if (t := current[0]) is None:
                continue
            try:
                if (value := t.join(timeout=0.0003)) != 5:
                    wrong.append(value)
            except Timeout:
                pass
            except BaseException as e:
                wrong.append(e)
            if flower.getruncount() != 1:
                wrong.append("it runs and is in the queue, too")
            if wrong:
                return

    def works() -> int:
        flower.time.sleep(0.0003)
        return 5

    with beside(joins, joins, joins):
        try:
            for _ in range(scaled(1500)):
                t = current[0] = go(works)
                assert t.join() == 5
                if wrong:
                    break
        finally:
            done.set()
    assert wrong == []


@pytest.mark.slow
def test_a_scope_cancelled_from_another_thread_loses_no_value(switching: None) -> None:
    ch = channel()
    current: list[Any] = [None]
    done = threading.Event()
    sent: list[int] = []

    def cancels() -> None:
        while not done.is_set():
            if (scope := current[0]) is not None:
                scope.cancel()

    def sends() -> None:
        while not done.is_set():
            if ch.try_send(1):
                sent.append(1)

    got = 0
    with beside(cancels, cancels, sends, sends):
        try:
            for _ in range(200):
                with flower.move_on() as current[0]:
                    ch.receive()
                    got += 1
                current[0] = None
                assert flower.getruncount() == 1
        finally:
            done.set()
    assert (len(sent), ch.balance) == (got, 0)


@pytest.mark.parametrize("make", ["flower.after(60)", "flower.tick(60)", "flower.time.Timer(60).c"])
def test_a_receiver_elsewhere_learns_that_the_thread_of_a_timer_has_ended(make: str) -> None:
    ch = in_thread(lambda: eval(make))
    with pytest.raises(flower.ChannelClosed):
        ch.receive()
    made: list[Any] = []
    waiting = threading.Event()

    def owner() -> None:
        made.append(eval(make))
        waiting.set()
        held.wait()

    held = threading.Event()
    with beside(owner):
        waiting.wait()
        waiter = go(made[0].receive)
        schedule()
        held.set()
        with pytest.raises(flower.ChannelClosed):
            waiter.join()


def test_a_thread_that_is_about_to_end_may_still_wake_somebody() -> None:
    """Python does not list it any more; but what it holds goes a moment later."""
    ch: channel[str] = channel()
    main = flower.getmain()

    def owner() -> None:
        flower.getcurrent()
        with threading._active_limbo_lock:  # type: ignore[attr-defined]
            me = threading._active.pop(threading.get_ident())  # type: ignore[attr-defined]
        unlisted.set()
        until = time.monotonic() + 1
        while not main.blocked and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.02)  # by then main has looked round
        threading._active[threading.get_ident()] = me  # type: ignore[attr-defined]
        ch.close()

    unlisted = threading.Event()
    with beside(owner):
        unlisted.wait()
        with pytest.raises(flower.ChannelClosed):
            ch.receive()


def test_a_timer_of_a_thread_that_has_ended_says_so() -> None:
    fired, pending, ticker = in_thread(lambda: [flower.time.Timer(0), flower.time.Timer(60), flower.time.Ticker(60)])
    assert pending.stop() is False
    ticker.stop()
    for timer in (fired, pending, ticker):
        with pytest.raises(RuntimeError, match="has ended"):
            timer.reset(0.001)


def test_a_timer_of_before_a_fork_is_none_in_the_child() -> None:
    code = """
        import os, flower, flower.time
        timer = flower.time.Timer(0.1)
        if os.fork() == 0:
            for use in (timer.c.receive, lambda: timer.reset(0.1)):
                try:
                    use()
                except (flower.ChannelClosed, RuntimeError) as error:
                    print(type(error).__name__, flush=True)
            os._exit(0)
        os.wait()
        timer.c.receive()
        print("the parent's goes on")
    """
    assert output(code) == "ChannelClosed\nRuntimeError\nthe parent's goes on\n"


@pytest.mark.slow
def test_a_thread_whose_end_is_noticed_elsewhere_leaves_no_waiters(switching: None) -> None:
    """Whoever calls gc.get_objects() holds all that the ending thread lets go of, for a moment."""
    ch = channel()

    def works() -> None:
        for _ in range(5):
            go(ch.receive)
        flower.time.sleep(0.001)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(scaled(30)):
            threads = [threading.Thread(target=works) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for _ in range(1000):
            if ch.balance == 0:
                break
            flower.time.sleep(0.01)
    assert ch.balance == 0


@pytest.mark.slow
def test_a_fork_waits_for_who_is_in_the_uncompiled_core() -> None:
    """In the child nobody would ever let go of that, and the parent's threads are cleared there before all else."""
    code = """
        import os, signal, threading, time, flower
        from flower.channels._uncompiled import _guard
        inside = threading.Event()
        def other():
            g.go(flower.channel().receive)
            flower.schedule()
            with _guard:
                inside.set()
                time.sleep(0.1)  # by then, main forks
            g.cancel()
            flower.run()
        with flower.group() as g:
            thread = threading.Thread(target=other)
            thread.start()
            inside.wait()
            if not (pid := os.fork()):
                os._exit(7)
            signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
            signal.alarm(10)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        os._exit(0)
    """
    assert output(code, env={"FLOWER_PURE": "1"}, limit=20) == "7\n"


@pytest.mark.slow
def test_uncompiled_nothing_is_sent_to_a_tasklet_that_is_being_ended() -> None:
    """Between the look whether it has its outcome and its end, another thread gave it one, which was lost."""
    code = """
        import threading, warnings, flower
        from flower.channels import _hub
        warnings.simplefilter("ignore")
        ch = flower.channel()
        told = []
        sender = threading.Thread(target=lambda: told.append(ch.try_send("value")))
        withdraw = _hub.withdraw
        def slowly(t):
            sender.start()
            sender.join(0.1)
            return withdraw(t)
        _hub.withdraw = slowly
        def receives():
            told.append(ch.receive())
        def ends():
            flower.go(receives)
            flower.schedule()
        thread = threading.Thread(target=ends)
        thread.start()
        thread.join()
        sender.join()
        print(told)
    """
    assert output(code, env={"FLOWER_PURE": "1"}, limit=20) == "[False]\n"
