"""Channels between threads: nothing lost or doubled, in order, and a wake-up always arrives."""

from __future__ import annotations

import math
import subprocess
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
from flower import ChannelClosed, Timeout, channel, go, select

from .support import NEVER, in_thread, scaled, settle


@contextmanager
def threads(*funcs: Callable[[], Any]) -> Iterator[list[Any]]:
    """Runs each function in a thread of its own; raises the first error of theirs at the end."""
    errors: list[BaseException] = []
    results: list[Any] = []

    def body(func: Callable[[], Any]) -> None:
        try:
            results.append(func())
        except BaseException as e:
            errors.append(e)

    started = [threading.Thread(target=body, args=(func,)) for func in funcs]
    for thread in started:
        thread.start()
    try:
        yield results
    finally:
        for thread in started:
            thread.join(NEVER)
    assert not any(thread.is_alive() for thread in started), "a thread hangs"
    if errors:
        raise errors[0]


def until(condition: Callable[[], bool]) -> None:
    """Lets the other threads run until the condition holds."""
    deadline = time.monotonic() + NEVER
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0)


# -- A million values

SHARES = [(math.inf, 500_000), (1000, 300_000), (2, 100_000), (0, 100_000)]


@pytest.mark.slow
@pytest.mark.parametrize(("capacity", "count"), SHARES)
def test_several_schedulers_exchange_a_million_values(capacity: float, count: int) -> None:
    """Two threads send and two receive, with two tasklets each; a million in total over the capacities."""
    each = scaled(count) // 4
    ch = channel(capacity)

    def produces() -> None:
        def produce(start: int) -> None:
            for i in range(start, start + each):
                ch.send(i)

        with flower.group() as g:
            for _ in range(2):
                with lock:
                    starts.append(len(starts) * each)
                    start = starts[-1]
                g.go(produce, start)

    def consumes() -> list[list[int]]:
        with flower.group() as g:
            tasklets = [g.go(list, ch) for _ in range(2)]
        return [t.join() for t in tasklets]

    starts: list[int] = []
    lock = threading.Lock()
    with threads(consumes, consumes) as results:
        try:
            with threads(produces, produces):
                pass
        finally:
            ch.close()
    got = [values for result in results for values in result]
    assert sum(len(values) for values in got) == 4 * each
    seen = bytearray(4 * each)
    for values in got:
        last = [-1] * 4
        for value in values:
            assert not seen[value], f"{value} came twice"
            seen[value] = 1
            producer = value // each
            assert last[producer] < value, "out of order"
            last[producer] = value
    assert (ch.balance, len(ch)) == (0, 0)


@pytest.mark.parametrize("capacity", [0, 1, 100])
def test_every_way_to_send_and_receive_across_threads(capacity: int) -> None:
    """Sends and selects against receives, selects and tries, all at once."""
    count = scaled(1000)
    ch, quiet, silent = channel(capacity), channel(), channel()

    def by_send() -> None:
        for i in range(count):
            ch.send(("send", i))

    def by_select() -> None:
        for i in range(count):
            assert select((quiet, None), (ch, ("select", i)))[0] is ch

    def by_try() -> None:
        for i in range(count):
            while not ch.try_send(("try", i)):
                time.sleep(0)

    def by_timeout() -> None:
        for i in range(count):
            while True:
                try:
                    ch.send(("timeout", i), timeout=0.0001)
                    break
                except Timeout:
                    pass

    def receives() -> list[Any]:
        return list(ch)

    def selects() -> list[Any]:
        got = []
        while True:
            try:
                got.append(select(silent, ch)[1])
            except ChannelClosed:
                return got

    def receives_with_timeouts() -> list[Any]:
        got = []
        while True:
            try:
                got.append(ch.receive(timeout=0.0001))
            except Timeout:
                pass
            except ChannelClosed:
                return got

    with threads(receives, selects, receives_with_timeouts) as results:
        try:
            with threads(by_send, by_select, by_try, by_timeout):
                pass
        finally:
            ch.close()
    everything = sorted(value for got in results for value in got)
    assert everything == sorted((way, i) for way in ("send", "select", "try", "timeout") for i in range(count))
    assert (ch.balance, quiet.balance, silent.balance) == (0, 0, 0)


def test_selects_of_two_threads_meet() -> None:
    count = scaled(1000)
    a, b = channel(), channel()

    def one() -> list[Any]:
        return [select((a, i), b)[1] for i in range(count)]

    def two() -> list[Any]:
        return [select(a, (b, i))[1] for i in range(count)]

    with threads(one, two) as results:
        pass
    received = [value for result in results for value in result if value is not None]
    assert len(received) == count
    assert (a.balance, b.balance) == (0, 0)


# -- Wake-ups


def test_a_send_wakes_a_thread_that_sleeps_on_the_lock() -> None:
    ch = channel()
    for i in range(20):
        with threads(ch.receive) as results:
            until(lambda: ch.balance == -1)
            ch.send(i)
        assert results == [i]


def test_a_receive_wakes_a_thread_that_sleeps_on_the_lock() -> None:
    ch = channel()
    for i in range(20):
        with threads(lambda i=i: ch.send(i)):
            until(lambda: ch.balance == 1)
            assert ch.receive() == i


def test_a_send_wakes_a_scheduler_that_sleeps_on_the_lock_with_timers() -> None:
    ch = channel()

    def other() -> Any:
        sleeper = go(flower.time.sleep, NEVER)
        value = ch.receive()
        assert sleeper.blocked
        sleeper.kill()
        return value

    with threads(other) as results:
        until(lambda: ch.balance == -1)
        ch.send("woken")
    assert results == ["woken"]


def test_a_send_wakes_a_thread_that_sleeps_in_libuv() -> None:
    from flower import net

    ch = channel()

    def other() -> Any:
        listener = net.Listen(("127.0.0.1", 0), "tcp")
        acceptor = go(listener.accept)
        try:
            return [ch.receive() for _ in range(20)]
        finally:
            acceptor.kill()
            listener.close()

    with threads(other) as results:
        for i in range(20):
            until(lambda: ch.balance == -1)
            ch.send(i)
    assert results == [list(range(20))]


def test_close_and_kill_reach_a_thread_that_sleeps() -> None:
    ch = channel()
    tasklets: list[Any] = []

    def closed() -> str:
        with pytest.raises(ChannelClosed):
            ch.receive()
        return "closed"

    def killed() -> str:
        tasklets.append(go(channel().receive))
        with pytest.raises(flower.TaskletKilled):
            tasklets[0].join()
        return "killed"

    with threads(closed) as results:
        until(lambda: ch.balance == -1)
        ch.close()
    assert results == ["closed"]
    with threads(killed) as results:
        until(lambda: bool(tasklets) and bool(tasklets[0].blocked))
        tasklets[0].kill()
    assert results == ["killed"]


def test_join_across_threads() -> None:
    ch = channel()
    t = go(ch.receive)
    with threads(t.join, t.join) as results:
        go(ch.send, "result")
        until(lambda: not settle() and not t.alive)
    assert results == ["result"] * 2


def test_a_raised_exception_is_pending_across_threads() -> None:
    ch, caught = channel(), []

    def victim() -> None:
        try:
            ch.receive()
        except LookupError as e:
            caught.append((threading.get_ident(), e.args))

    t = go(victim)
    settle()
    in_thread(t.raise_exception, LookupError, "from afar")
    t.join()
    assert caught == [(threading.get_ident(), ("from afar",))]


def test_waiters_of_several_threads_are_served_in_order() -> None:
    ch = channel()
    order: list[tuple[int, Any]] = []

    def waits(i: int) -> Callable[[], None]:
        return lambda: order.append((i, ch.receive()))

    with threads(waits(0)):
        until(lambda: ch.balance == -1)
        with threads(waits(1)):
            until(lambda: ch.balance == -2)
            with threads(waits(2)):
                until(lambda: ch.balance == -3)
                for i in range(3):
                    ch.send(i)
                    until(lambda i=i: len(order) == i + 1)
    assert order == [(0, 0), (1, 1), (2, 2)]


def test_errors_in_several_threads_stay_apart() -> None:
    """A tasklet's error is its own, whatever ends in another thread between two bytecodes."""
    count = scaled(2000)

    def fails() -> None:
        raise LookupError

    def failing() -> int:
        seen = 0
        for _ in range(count):
            with pytest.raises(LookupError), flower.group() as g:
                g.go(fails)
            seen += 1
        return seen

    def healthy() -> int:
        seen = 0
        for _ in range(count):
            with flower.group() as g:
                t = g.go(lambda: 1)
            seen += t.join()
        return seen

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with threads(failing, healthy, failing, healthy) as results:
            pass
    finally:
        sys.setswitchinterval(interval)
    assert results == [count] * 4


# -- Ends


def test_threads_that_end_with_blocked_tasklets_leave_nothing() -> None:
    ch = channel()

    def ends(finals: list[str]) -> None:
        def blocked() -> None:
            try:
                ch.receive()
            finally:
                finals.append("finally")

        go(blocked)
        go(ch.receive)
        go(select, ch, (channel(), 1))
        settle()
        assert ch.balance

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(10):
            in_thread(ends, [])
            assert (ch.balance, ch.queue) == (0, None)
    assert [w.category for w in caught] == [ResourceWarning] * 10
    assert "3" in str(caught[0].message)  # it says how many


def test_a_thread_that_ends_in_order_warns_of_nothing() -> None:
    def ends() -> str:
        ch = channel()
        t = go(ch.send, "value")
        value = ch.receive()
        t.join()
        return str(value)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [in_thread(ends) for _ in range(10)] == ["value"] * 10


def test_many_threads_one_after_the_other() -> None:
    counts = []
    for _ in range(3):
        for _ in range(20):
            in_thread(lambda: go(lambda: 1).join())
        counts.append(len(flower.getthreads()))
    assert counts[0] == counts[-1] <= 3


def test_a_value_for_a_thread_that_has_ended_stays_with_the_sender() -> None:
    ch = channel()

    def ends() -> None:
        go(ch.receive)
        settle()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        in_thread(ends)
    assert not ch.try_send("nobody is there")
    assert ch.balance == 0


SMALL_STACK = """
import threading, flower

def main():
    ch = flower.channel()
    for n in range(100):
        flower.go(ch.send, n)
    print(sum(ch.receive(timeout=60) for _ in range(100)))

threading.stack_size(64 * 1024)
thread = threading.Thread(target=main)
thread.start()
thread.join()
"""


def test_a_thread_with_a_small_stack_has_tasklets() -> None:
    """It has no room for carriers at depths of their own: the process crashed."""
    done = subprocess.run([sys.executable, "-c", SMALL_STACK], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "4950\n", "")
