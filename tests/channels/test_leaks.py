"""Rounds of everything leave object counts, memory and descriptors where they were; masses of tasklets."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from greenlet import greenlet

import flower
import flower.time
from flower import Cancelled, ChannelClosed, TaskletExit, Timeout, channel, go, schedule, select
from flower.channels._tasklet import is_pinned

from .support import COMPILED, NEVER, in_thread, scaled, settle

MAPS = Path("/proc/self/maps")


def resident() -> int:
    """Bytes of memory that the process has in use."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def spawn_and_finish() -> None:
    assert go(lambda: 1).join() == 1


def spawn_and_fail() -> None:
    def fails() -> None:
        raise LookupError

    flower.set_error_handler(lambda *what: None)
    go(fails)
    schedule()
    flower.set_error_handler(None)


def kill_unstarted() -> None:
    go(channel().receive).kill()


def kill_receiver() -> None:
    t = go(channel().receive)
    schedule()
    t.kill()


def kill_sender() -> None:
    t = go(channel().send, [])
    schedule()
    t.kill()


def kill_select() -> None:
    ch = channel()
    t = go(select, ch, (ch, []), channel())
    schedule()
    t.kill()


def time_out() -> None:
    for action in (lambda: channel().receive(timeout=0), lambda: channel().send([], timeout=0)):
        try:
            action()
        except Timeout:
            pass


def expire() -> None:
    with flower.move_on(0):
        channel().receive()


def lose_a_timeout() -> None:
    ch = channel()
    go(ch.send, [])
    ch.receive(timeout=NEVER)


def lose_a_select() -> None:
    ch, other = channel(), channel()
    go(ch.send, [])
    select(ch, other, (other, []), timeout=NEVER)
    schedule()


def close_with_waiters() -> None:
    ch = channel()

    def receives() -> None:
        try:
            ch.receive()
        except ChannelClosed:
            pass

    go(receives)
    schedule()
    ch.close()
    schedule()


def held_values() -> None:
    ch = channel(3)
    ch.send(ch)
    ch.send([])


def group() -> None:
    with flower.group() as g:
        g.go(lambda: None)
        g.go(lambda: None)


def failed_group() -> None:
    def fails() -> None:
        raise LookupError

    try:
        with flower.group() as g:
            g.go(channel().receive)
            g.go(fails)
    except LookupError:
        pass


def errors_through_channels() -> None:
    ch = channel(1)
    ch.send_exception(LookupError, "x")
    try:
        ch.receive()
    except LookupError:
        pass


def timers() -> None:
    assert flower.time.Timer(NEVER).stop()
    flower.after(NEVER)
    flower.tick(NEVER)
    assert flower.time.after_func(NEVER, print).stop()


ROUNDS = [
    spawn_and_finish,
    spawn_and_fail,
    kill_unstarted,
    kill_receiver,
    kill_sender,
    kill_select,
    time_out,
    expire,
    lose_a_timeout,
    lose_a_select,
    close_with_waiters,
    held_values,
    group,
    failed_group,
    errors_through_channels,
    timers,
]


def objects() -> int:
    gc.collect()
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.parametrize("one_round", ROUNDS)
def test_a_round_leaves_no_object(one_round: Any) -> None:
    """A hundred rounds leave as many objects as ten did."""
    for _ in range(10):
        one_round()
    settle()
    before = objects()
    for _ in range(100):
        one_round()
    settle()
    assert abs(objects() - before) < 50


@pytest.mark.slow
def test_ten_thousand_rounds_leave_no_object_memory_or_descriptor() -> None:
    def rounds(n: int) -> None:
        for i in range(n):
            ROUNDS[i % len(ROUNDS)]()
        settle()

    rounds(2000)
    before = objects(), resident(), descriptors()
    rounds(10_000)
    after = objects(), resident(), descriptors()
    assert after[0] - before[0] < 100
    assert after[1] - before[1] < 4_000_000
    assert after[2] == before[2]


def test_reference_counts_of_what_is_sent_stay() -> None:
    value = object()
    before = sys.getrefcount(value)
    for capacity in (0, 1):
        ch = channel(capacity)
        for _ in range(100):
            t = go(ch.send, value)
            schedule()
            assert ch.receive() is value
            t.join()
            t = go(select, (ch, value), channel())
            schedule()
            assert select(ch, channel())[1] is value
            t.join()
            t = go(ch.send, value)
            schedule()
            t.kill()
            ch.try_receive(None)
            del t
    gc.collect()
    assert sys.getrefcount(value) == before


def test_none_true_and_small_numbers_keep_their_reference_counts() -> None:
    """Borrowed references that were given away would show here first."""
    probes: list[Any] = [(), LookupError, flower.channel]

    def count() -> list[int]:
        return [sys.getrefcount(p) for p in probes]

    for one_round in ROUNDS:
        one_round()
    settle()
    gc.collect()
    before = count()
    for _ in range(50):
        for one_round in ROUNDS:
            one_round()
    settle()
    gc.collect()
    assert all(abs(now - then) < 25 for now, then in zip(count(), before, strict=True))


# -- Masses


def masses(n: int) -> int:
    return n if COMPILED else n // 10


@pytest.mark.slow
def test_100_000_parked_tasklets_all_run_their_finally_blocks_when_killed() -> None:
    count = masses(100_000)
    ch = channel()
    ended = [0]

    def waits() -> None:
        try:
            ch.receive()
        except TaskletExit:
            ended[0] += 1
            raise
        finally:
            ended[0] += 1

    def park_and_kill() -> None:
        tasklets = [go(waits) for _ in range(count)]
        settle()
        assert ch.balance == -count
        for t in tasklets:
            t.kill()
        assert not any(t.alive for t in tasklets)

    park_and_kill()
    assert ended == [2 * count]
    assert (ch.balance, flower.getruncount()) == (0, 1)
    rest()
    before = resident()
    park_and_kill()
    rest()
    assert resident() - before < 20_000_000, "memory does not come back"


@pytest.mark.slow
@pytest.mark.compiled  # uncompiled it takes too long
@pytest.mark.skipif(not MAPS.exists(), reason="the system does not tell a process its memory maps")
def test_a_crowd_of_which_every_other_is_killed_needs_few_memory_maps() -> None:
    """A process may have 65,530; a parked tasklet's stack becomes one of its own when its neighbours are freed."""
    ch = channel()
    tasklets = [go(ch.receive) for _ in range(40_000)]
    settle()
    before = memory_maps()
    for t in tasklets[::2]:
        t.kill()
    assert memory_maps() - before < 1000
    for t in tasklets:
        t.kill()
    del tasklets, t
    rest()
    assert memory_maps() - before < 1000


@pytest.mark.slow
def test_the_carriers_of_a_crowd_are_kept_for_the_next_and_ended_when_none_comes() -> None:
    def crowd() -> None:
        ch = channel()
        tasklets = [go(ch.receive) for _ in range(3000)]
        settle()
        for _ in tasklets:
            ch.send(None)
        settle()

    crowd()
    kept = greenlets()
    assert kept >= 3000
    flower.time.sleep(0.001)  # nothing is to be done for a moment
    crowd()
    assert greenlets() == kept
    rest()


def greenlets() -> int:
    return sum(type(o) is greenlet for o in gc.get_objects())


def rest() -> None:
    """Give way until no more idle carriers are kept than usual: the rest are ended while nothing is to be done."""
    for _ in range(1000):
        gc.collect()
        if greenlets() < 1000:
            with contextlib.suppress(AttributeError):  # another C library than glibc
                ctypes.CDLL(None).malloc_trim(0)  # what glibc itself has kept
            return
        flower.time.sleep(0.02)
    raise AssertionError("idle carriers are not ended")


def memory_maps() -> int:
    return len(MAPS.read_text().splitlines())


@pytest.mark.slow
def test_100_000_tasklets_that_each_start_the_next() -> None:
    count = masses(100_000)
    done = channel(1)

    def link(n: int) -> None:
        if n:
            go(link, n - 1)
        else:
            done.send("end of the chain")

    go(link, count)
    assert done.receive() == "end of the chain"


def test_a_chain_of_tasklets_that_each_run_the_next_at_once() -> None:
    """Each link is alive, and has switched to the next, until the last has run."""
    count = scaled(5000)
    log: list[int] = []

    def link(n: int) -> None:
        if n:
            flower.tasklet().bind(link, (n - 1,)).run()
        log.append(n)

    go(link, count)
    flower.run()
    assert sorted(log) == list(range(count + 1))


@pytest.mark.slow
def test_100_000_pending_timers_are_all_cancelled() -> None:
    count = masses(100_000)
    caught = [0]

    def sleeps() -> None:
        try:
            flower.time.sleep(NEVER)
        except Cancelled:
            caught[0] += 1
            raise

    with flower.move_on(NEVER) as scope, flower.group() as g:
        for _ in range(count):
            g.go(sleeps)
        settle()
        scope.cancel()
    assert caught == [count]
    with pytest.raises(flower.Deadlock):
        channel().receive()


@pytest.mark.slow
def test_more_carriers_than_are_kept_come_and_go() -> None:
    """Bursts of parked tasklets, each larger than the pool of idle greenlets."""

    def burst() -> None:
        ch = channel()
        tasklets = [go(ch.receive) for _ in range(3000)]
        settle()
        for i in range(3000):
            ch.send(i)
        assert [t.join() for t in tasklets] == list(range(3000))

    for _ in range(2):
        burst()
    gc.collect()
    before = resident()
    for _ in range(5):
        burst()
    gc.collect()
    assert resident() - before < 10_000_000


class Burden:
    """What a frame of a tasklet that has failed keeps."""


def fail(watches: list[Any], wait: bool = False) -> None:
    burden = Burden()
    watches.append(weakref.ref(burden))
    if wait:
        channel().receive()
    raise LookupError


def in_a_group(watches: list[Any]) -> None:
    with flower.group() as g:
        g.go(fail, watches)


def in_a_cancelled_group(watches: list[Any]) -> None:
    with flower.group() as g:
        g.go(fail, watches, True)
        schedule()
        g.cancel()


FAILING: dict[str, Any] = {
    "join": lambda watches: go(fail, watches).join(),
    "run": lambda watches: flower.run(fail, watches),
    "blocking": lambda watches: flower.blocking(fail, watches),
    "a group": in_a_group,
    "a cancelled group": in_a_cancelled_group,
}


@pytest.mark.compiled  # uncompiled, the frame of join is one more that the error names
@pytest.mark.parametrize("what", FAILING)
def test_an_error_that_was_dealt_with_is_freed_without_the_collector(what: str) -> None:
    """With its frames, and what they hold: no frame of Flower's that it has come through keeps it."""
    watches: list[Any] = []
    gc.disable()
    try:
        with contextlib.suppress(LookupError, ExceptionGroup):
            FAILING[what](watches)
        for _ in range(1000):  # a worker of blocking lets go of its call in its own time
            if not any(watch() for watch in watches):
                break
            time.sleep(0.001)
        assert watches
        assert not any(watch() for watch in watches)
    finally:
        gc.enable()


def test_threads_leave_no_descriptor_or_object() -> None:
    def one() -> None:
        ch = channel()
        go(ch.send, 1)
        assert ch.receive() == 1
        flower.time.sleep(0.0001)

    for _ in range(5):
        in_thread(one)
    before = objects(), descriptors()
    for _ in range(30):
        in_thread(one)
    after = objects(), descriptors()
    assert after[0] - before[0] < 50
    assert after[1] == before[1]


@pytest.mark.slow
@pytest.mark.compiled  # uncompiled nothing of the kind is kept
@pytest.mark.skipif(not MAPS.exists(), reason="the system does not tell a process its memory")
def test_the_memory_of_a_crowd_of_tasklets_is_kept_and_given_back_later() -> None:
    def end(count: int) -> None:
        tasklets = [go(int) for _ in range(count)]
        flower.run()
        assert not any(t.alive for t in tasklets)

    end(100_000)
    gc.collect()
    assert is_pinned()
    kept = resident()
    end(100_000)
    assert resident() - kept < 5_000_000
    while is_pinned():  # a second or two
        flower.time.sleep(0.1)
    assert kept - resident() > 10_000_000
