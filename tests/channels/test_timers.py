"""after, tick, never, Timer, Ticker, sleep, after_func, idle, blocking, and signals."""

from __future__ import annotations

import contextvars
import gc
import math
import threading
import time
import weakref
from typing import Any

import pytest

import flower
import flower.time
from flower import Deadlock, Timeout, channel, go, select
from flower.channels import _blocking
from flower.channels._scheduler import current_scheduler
from flower.time import Ticker, Timer, after_func, sleep

from .support import NEVER, SOON, drain, in_thread, output, settle, spawn_parked


def test_after_gives_one_value() -> None:
    ch = flower.after(SOON)
    ch.receive()
    sleep(SOON)
    assert select(ch, default="no more") == (None, "no more")


OVER = [
    "ch = flower.after(0); ch.receive()",
    "t = Timer(60); t.stop(); ch = t.c",
    "t = Ticker(60); t.stop(); ch = t.c",
]


@pytest.mark.parametrize("over", OVER)
def test_a_timer_that_is_over_could_wake_nobody(over: str) -> None:
    code = f"""
        import flower
        from flower.time import Ticker, Timer
        {over}
        t = flower.go(ch.receive)
        flower.run()
        try:
            ch.receive()
        except flower.Deadlock:
            print("deadlock")
    """
    assert output(code, limit=5) == "deadlock\n"


@pytest.mark.parametrize("make", [Timer, Ticker])
def test_a_timer_stopped_in_another_thread_just_as_it_fires_leaves_no_value(make: Any) -> None:
    timer = make(60)
    chime, here = timer.c._keep, current_scheduler()
    here.clear_alarm(chime)  # as the hub does just before it fires
    assert in_thread(timer.stop) is (True if make is Timer else None)
    chime.fire(here.now())
    assert timer.c.try_receive() is None
    assert here.deadline() == math.inf


def test_never_is_never_ready() -> None:
    assert select(flower.never(), default="d") == (None, "d")
    t = spawn_parked(flower.never().receive)
    assert t.alive
    t.kill()


def test_select_with_after_as_a_timeout() -> None:
    quiet, deadline = channel(), flower.after(SOON)
    assert select(quiet, deadline)[0] is deadline
    assert quiet.balance == 0


def test_tick_ticks() -> None:
    ticks = flower.tick(SOON)
    times = [ticks.receive() for _ in range(3)]
    assert times == sorted(times) and len(set(times)) == 3
    del ticks
    gc.collect()
    with pytest.raises(Deadlock):  # nothing is left of it
        channel().receive()


@pytest.mark.parametrize("make", [flower.tick, Ticker])
@pytest.mark.parametrize("seconds", [0, 0.0, -1, -0.5])
def test_a_ticker_of_zero_or_less_is_a_value_error(make: Any, seconds: float) -> None:
    with pytest.raises(ValueError):
        make(seconds)


def test_a_ticker_drops_ticks_for_a_slow_receiver() -> None:
    ticker = Ticker(0.001)
    sleep(0.02)
    assert len(drain(ticker.c)) == 1
    ticker.c.receive()
    ticker.stop()


def test_a_ticker_without_a_receiver_stalls_no_timer() -> None:
    ticker = Ticker(0.001)
    for _ in range(3):
        sleep(SOON)
    ticker.stop()
    with pytest.raises(Deadlock):
        channel().receive()


def test_a_stopped_ticker_gives_no_stale_tick() -> None:
    ticker = Ticker(0.001)
    sleep(0.005)
    ticker.stop()
    assert drain(ticker.c) == []
    sleep(0.003)
    assert drain(ticker.c) == []


def test_stop_says_whether_it_prevented_the_firing() -> None:
    timer = Timer(NEVER)
    assert timer.stop() is True
    assert timer.stop() is False
    fired = Timer(0.001)
    fired.c.receive()
    assert fired.stop() is False


def test_after_stop_or_reset_no_stale_value_is_received() -> None:
    timer = Timer(0.001)
    sleep(0.005)  # it has fired; nobody received
    timer.stop()
    assert drain(timer.c) == []
    timer.reset(0.001)
    sleep(0.005)
    timer.reset(NEVER)
    assert drain(timer.c) == []
    timer.reset(0.001)
    timer.c.receive()
    assert drain(timer.c) == []
    timer.stop()


@pytest.mark.parametrize("make", [Timer, Ticker, flower.tick, flower.after])
def test_an_unreferenced_timer_can_be_collected(make: Any) -> None:
    made = make(NEVER)
    ref = weakref.ref(made)
    del made
    gc.collect()
    assert ref() is None


@pytest.mark.parametrize("make", [Timer, Ticker])
def test_a_timer_that_is_reset_again_and_again_leaves_nothing_behind(make: Any) -> None:
    timer = make(NEVER)
    for _ in range(100):
        timer.reset(NEVER)
    assert weakref.getweakrefcount(timer.c) == 1
    timer.stop()
    assert weakref.getweakrefcount(timer.c) == 0
    timer.reset(0.001)
    timer.c.receive()
    timer.stop()
    assert weakref.getweakrefcount(timer.c) == 0


@pytest.mark.parametrize("how", ["pending", "stopped", "fired"])
def test_a_timer_keeps_no_thread_that_has_ended(how: str) -> None:
    schedulers = []

    def body() -> None:
        timer = Timer(0.001 if how == "fired" else NEVER)
        if how == "stopped":
            timer.stop()
        elif how == "fired":
            timer.c.receive()
        flower.set_schedule_callback(lambda before, after: timer)
        schedulers.append(weakref.ref(current_scheduler()))

    for _ in range(5):
        in_thread(body)
    gc.collect()
    assert sum(ref() is not None for ref in schedulers) <= 1  # the last one's greenlets may be yet to be freed


def test_a_call_that_is_pending_can_be_referred_to_weakly() -> None:
    later = after_func(NEVER, print)
    assert weakref.ref(later)() is later
    later.stop()


def test_a_call_that_was_stopped_can_be_collected_with_what_refers_to_it() -> None:
    class Owner:
        pass

    owner: Any = Owner()
    owner.later = after_func(NEVER, print, owner)
    gc.collect()
    ref = weakref.ref(owner)
    owner.later.stop()
    del owner
    gc.collect()
    assert ref() is None


def test_an_unreferenced_timer_wakes_whoever_waits_for_it() -> None:
    """The waiter's own reference is enough."""
    t = go(lambda: flower.after(SOON).receive())
    settle()
    gc.collect()
    assert t.join() is not None


def test_after_func_calls_with_its_arguments_once() -> None:
    log: list[Any] = []
    after_func(SOON, lambda *args, **kwargs: log.append((args, kwargs)), 1, x=2)
    flower.run()
    assert log == [((1,), {"x": 2})]


def test_after_func_can_be_stopped() -> None:
    log: list[int] = []
    timer = after_func(NEVER, log.append, 1)
    assert timer.stop() is True
    flower.run()  # nothing to wait for
    assert log == []


def test_an_error_in_after_func_reaches_main() -> None:
    def fails() -> None:
        raise LookupError("late")

    after_func(SOON, fails)
    with pytest.raises(LookupError):
        flower.run()


def test_sleep_lets_the_others_run() -> None:
    log: list[str] = []
    go(log.append, "other")
    sleep(SOON)
    assert log == ["other"]


def test_idle_lets_all_others_have_their_turn() -> None:
    log: list[str] = []

    def idler() -> None:
        flower.time.idle()
        log.append("idle")

    go(idler)
    for _ in range(3):
        go(log.append, "other")
    flower.run()
    assert log == ["other"] * 3 + ["idle"]


def test_timeout_zero_does_not_wait_but_takes_what_is_ready() -> None:
    ch = channel(1)
    with pytest.raises(Timeout):
        ch.receive(timeout=0)
    ch.send(1, timeout=0)
    with pytest.raises(Timeout):
        ch.send(2, timeout=0)
    assert ch.receive(timeout=0) == 1
    with pytest.raises(Timeout):
        select(ch, timeout=0)
    ch.send(3)
    assert select(ch, timeout=0) == (ch, 3)
    assert ch.balance == 0


def test_timeout_none_and_infinity_wait_for_good() -> None:
    ch = channel()
    for timeout in (None, float("inf")):
        t = spawn_parked(ch.receive, timeout=timeout)
        with pytest.raises(Deadlock):
            channel().receive()
        t.kill()


def test_timeout_is_a_timeout_error_and_loses_nothing() -> None:
    ch = channel()
    with pytest.raises(TimeoutError):
        ch.send("lost?", timeout=SOON)
    assert (ch.balance, ch.try_receive("nothing")) == (0, "nothing")
    with pytest.raises(TimeoutError):
        ch.receive(timeout=SOON)
    assert not ch.try_send("to nobody")


def test_tasklets_that_only_talk_to_each_other_do_not_starve_the_timers() -> None:
    a, b = channel(), channel()

    def pump(x: Any, y: Any) -> None:
        while True:
            x.send(y.receive())

    tasklets = [go(pump, a, b), go(pump, b, a), go(a.send, "ball")]
    sleep(SOON)
    flower.after(SOON).receive()
    for t in tasklets:
        t.kill()
    spinner = go(spin)
    sleep(SOON)
    spinner.kill()
    assert not spinner.alive


def spin() -> None:
    while True:
        flower.schedule()


# -- blocking


def test_blocking_parks_only_the_calling_tasklet() -> None:
    gate, ident = threading.Event(), threading.get_ident()
    log: list[str] = []

    def opens() -> None:
        log.append("others run")
        gate.set()

    def work(a: int, b: int) -> Any:
        assert gate.wait(NEVER)
        return a + b, threading.get_ident() != ident

    go(opens)
    assert flower.blocking(work, 2, 3) == (5, True)
    assert log == ["others run"]


def test_blocking_raises_the_functions_error() -> None:
    def fails() -> None:
        raise LookupError("in the worker")

    with pytest.raises(LookupError, match="in the worker") as caught:
        flower.blocking(fails)
    assert caught.traceback[-1].name == "fails"


def test_blocking_raises_the_error_of_a_channel_callback_in_its_worker() -> None:
    def refuse(_ch: Any, _t: Any, sending: bool, _willblock: bool) -> None:
        if sending:
            raise KeyError("refused")

    flower.set_channel_callback(refuse)
    try:
        with pytest.raises(KeyError, match="refused"), flower.timeout(5):
            flower.blocking(int)
    finally:
        flower.set_channel_callback(None)
    with pytest.raises(Deadlock):  # no call counts as one that has not ended
        channel().receive()


def test_blocking_calls_run_side_by_side() -> None:
    barrier = threading.Barrier(4)
    tasklets = [go(flower.blocking, barrier.wait, NEVER) for _ in range(4)]
    assert sorted(t.join() for t in tasklets) == [0, 1, 2, 3]


def test_at_most_forty_blocking_calls_run_at_a_time() -> None:
    begun, gate = channel(41), threading.Event()

    def waits() -> None:
        begun.send(None)
        gate.wait(NEVER)

    tasklets = [go(flower.blocking, waits) for _ in range(41)]
    for _ in range(40):
        begun.receive(NEVER)
    settle()
    assert begun.try_receive("none") == "none"
    assert _blocking._workers._count == 40
    gate.set()
    for t in tasklets:
        t.join(NEVER)
    assert len(begun) == 1


@pytest.mark.parametrize("make", [Timer, Ticker])
def test_a_timer_whose_channel_was_closed_when_its_time_came_is_stopped(make: Any) -> None:
    timer = make(SOON)
    timer.c.close()
    sleep(2 * SOON)
    timer.c.open()
    with pytest.raises(Deadlock):
        timer.c.receive()
    assert not timer.stop()
    timer.reset(SOON)
    assert timer.c.receive(NEVER)


def test_the_error_of_a_deferred_call_names_its_function_whatever_context_it_has() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")

    def fails() -> None:
        raise LookupError(variable.get())

    def defers() -> None:
        variable.set(5)
        flower.time.after_func(0, fails)

    go(defers)
    with pytest.raises(LookupError, match="5") as caught:
        flower.run()
    assert "fails" in caught.value.__notes__[0]


# -- signals


def test_signals_come_as_values() -> None:
    code = """
        import os, signal, flower, flower.time
        ch = flower.signals(signal.SIGUSR1, signal.SIGUSR2)
        def send():
            os.kill(os.getpid(), signal.SIGUSR1)
            flower.time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGUSR2)
        flower.go(send)
        print([signal.Signals(ch.receive()).name for _ in range(2)])
        ch.close()
        print(signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL)
    """
    assert output(code) == "['SIGUSR1', 'SIGUSR2']\nTrue\n"


@pytest.mark.parametrize("close", ["ch.close", "ch.receiver.close"])
def test_signals_that_another_thread_closes(close: str) -> None:
    code = """
        import signal, threading, flower, flower.time
        ch = flower.signals(signal.SIGUSR1, signal.SIGUSR2)
        threading.Thread(target=lambda: flower.time.sleep(0.01) or {close}()).start()
        print(list(ch))
        flower.time.sleep(0.01)
        print([signal.getsignal(n) is signal.SIG_DFL for n in (signal.SIGUSR1, signal.SIGUSR2)])
        try:
            flower.channel().receive()
        except flower.Deadlock:
            print("nothing is watched")
    """
    assert output(code.replace("{close}", close), limit=20) == "[]\n[True, True]\nnothing is watched\n"


def test_a_watch_that_was_closed_wakes_nobody_who_waits_on_its_channel_since() -> None:
    code = """
        import signal, flower
        ch = flower.signals(signal.SIGUSR1)
        ch.close()
        ch.open()
        t = flower.go(ch.receive)
        flower.run()
        print(t.blocked)
        try:
            ch.receive()
        except flower.Deadlock:
            print("Deadlock")
    """
    assert output(code, limit=10.0) == "-1\nDeadlock\n"


def test_signals_wake_a_process_that_sleeps() -> None:
    code = """
        import os, signal, threading, flower, flower.time
        ch = flower.signals(signal.SIGUSR1)
        main = threading.main_thread().ident
        parked = threading.Event()
        def other():
            parked.wait()
            signal.pthread_kill(main, signal.SIGUSR1)
        threading.Thread(target=other).start()
        flower.go(parked.set)
        print(ch.receive() == signal.SIGUSR1)
        ch.close()
    """
    assert output(code) == "True\n"


def test_signals_outside_of_the_main_thread_are_refused() -> None:
    caught: list[BaseException] = []

    def other() -> None:
        try:
            flower.signals(10)
        except BaseException as e:
            caught.append(e)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert [type(e) for e in caught] in ([RuntimeError], [ValueError])


def test_idle_costs_no_cpu() -> None:
    start = time.process_time()
    sleep(0.05)
    assert time.process_time() - start < 0.04
