"""Two threads, which a World can't steer: Hypothesis draws who does what in which order, and real threads do it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

import flower
from flower.channels import _deadlock
from flower.net._loop import io_poller
from tests.channels.support import settle
from tests.explored.support import CAPACITY, EXAMPLES

NEVER = 60.0  # seconds: what takes so long does not come

drawn = settings(max_examples=EXAMPLES, database=None, deadline=None)


def until_asleep(main: Any) -> None:
    """In another thread: wait until the main tasklet of the first is parked."""
    while not main.blocked:
        time.sleep(0)


@pytest.mark.slow
@seed(5)
@drawn
@given(capacity=CAPACITY, order=st.lists(st.booleans(), min_size=1, max_size=6), asleep=st.booleans())
def test_a_put_from_another_thread_wakes_the_getter(capacity: int, order: list[bool], asleep: bool) -> None:
    """gevent#2045. The order says who comes next, a getter or a put; the one after the other has come to rest."""
    io_poller()  # it sleeps until it is woken; what waits on a lock looks up ten times a second
    ch: flower.channel[int] = flower.channel(capacity)
    main = flower.getcurrent()
    puts = order.count(True)
    order = order + [True] * (len(order) - 2 * puts) + [False] * (2 * puts - len(order))
    getters: list[Any] = []
    threads: list[threading.Thread] = []

    def put(value: int, waits: bool) -> None:
        if waits:
            until_asleep(main)
        ch.send(value, NEVER)

    for is_put in order:
        if not is_put:
            getters.append(flower.go(ch.receive, NEVER))
            settle()
            continue
        before = ch.balance
        waits = asleep and before < 0
        number = len(threads)
        threads.append(threading.Thread(target=put, args=(number, waits)))
        threads[-1].start()
        if waits:
            assert getters[number].join(NEVER) == number  # this thread sleeps: the put has to wake it
        while threads[-1].is_alive() and ch.balance <= before:
            time.sleep(0)
    assert [getter.join(NEVER) for getter in getters] == list(range(len(threads)))
    for thread in threads:
        thread.join()
    assert ch.balance == 0


@pytest.mark.slow
@seed(5)
@drawn
@given(
    pauses=st.lists(st.integers(0, 100), min_size=1, max_size=3),
    last=st.sampled_from(["send", "close", "kill", "nothing"]),
)
def test_there_is_no_deadlock_while_another_thread_could_wake_somebody(pauses: list[int], last: str) -> None:
    """gevent#2124. Threads end one after the other while everything is asleep; the last may wake somebody, or not."""
    ch: flower.channel[str] = flower.channel()
    main = flower.getcurrent()
    waiter = flower.go(ch.receive)
    gates = [threading.Event() for _ in pauses]

    def end(number: int) -> None:
        gates[number].wait(NEVER)
        until_asleep(main)
        for _ in range(pauses[number]):
            time.sleep(0)
        if number + 1 < len(gates):
            gates[number + 1].set()
        elif last == "send":
            ch.send("woken", NEVER)
        elif last == "close":
            ch.close()
        elif last == "kill":
            waiter.kill()

    threads = [threading.Thread(target=end, args=(number,)) for number in range(len(pauses))]
    for thread in threads:
        thread.start()
    gates[0].set()
    expected = {"close": flower.ChannelClosed, "kill": flower.TaskletKilled, "nothing": flower.Deadlock}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_deadlock, "SECONDS_BETWEEN_LOOKS", 0.001)
        if last == "send":
            assert waiter.join() == "woken"
        else:
            with pytest.raises(expected[last]):
                waiter.join()
    for thread in threads:
        thread.join()
    waiter.kill()
