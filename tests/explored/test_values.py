"""Every value arrives exactly once, in order, or its sender learns that it did not.

Each property names where it was broken once, in some other library.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

import flower
from flower.testing import World
from tests.explored.support import CAPACITY, Results, drain, explored


@explored
def test_a_timed_out_receive_loses_no_value(w: World, capacity: int = CAPACITY) -> None:
    """asyncio's wait_for (python/asyncio#201)."""
    ch = flower.channel(capacity, label="values")
    results = Results(w)
    results.go("receiver", ch.receive, timeout=1)
    results.go("sender", ch.send, "value", timeout=2)
    w.advance(5)
    left = drain(ch)
    assert results.received() + left == ["value"] * results.sent("sender")


@explored
def test_a_receiver_that_is_killed_keeps_or_leaves_the_value(w: World, capacity: int = CAPACITY) -> None:
    """anyio#146, anyio#728."""
    ch = flower.channel(capacity, label="values")
    results = Results(w)
    first = results.go("first", ch.receive)
    results.go("second", ch.receive, timeout=5)
    results.go("sender", ch.send, "value", timeout=5)

    def kill() -> None:
        w.draw(st.booleans()) and flower.schedule()
        first.kill(pending=w.draw(st.booleans()))

    w.go(kill, name="killer")
    w.advance(10)
    assert results.received() + drain(ch) == ["value"] * results.sent("sender")


@explored
def test_a_cancelled_send_was_not_delivered(w: World, capacity: int = CAPACITY) -> None:
    """anyio#536."""
    ch = flower.channel(capacity, label="values")
    sent = []
    scopes: list[Any] = []

    def send(n: int) -> None:
        with flower.move_on(3) as scope:
            scopes.append(scope)
            ch.send(n)
            sent.append(n)

    for n in range(4):
        w.go(send, n, name=f"sender-{n}")
    got: list[int] = []

    def receive() -> None:
        for _ in range(2):
            try:
                got.append(ch.receive(timeout=9))
            except flower.Timeout:
                pass

    w.go(lambda: [scope.cancel() for scope in scopes[1:3]], name="canceller")
    t = w.go(receive, name="receiver")
    w.advance(20)
    t.join()
    assert sorted(got + drain(ch)) == sorted(sent)


@explored
def test_a_woken_waiter_that_dies_passes_the_wake_up_on(w: World) -> None:
    """python/asyncio#270, bpo-27585."""
    ch = flower.channel(label="values")
    results = Results(w)
    receivers = [results.go(f"receiver-{n}", ch.receive) for n in range(3)]
    victims = w.draw(st.sets(st.integers(0, 2), max_size=2))
    w.go(lambda: [receivers[n].kill() for n in sorted(victims)], name="killer")
    sent = 3 - len(victims)
    for n in range(sent):
        ch.send(n)
    w.settle()
    while ch.balance < 0:  # a victim that was killed when it had its value: another has waited in vain
        ch.send(sent)
        sent += 1
        w.settle()
    assert sorted(results.received()) == list(range(sent))


@explored
def test_a_killed_waiter_leaves_no_ghost(w: World, capacity: int = CAPACITY) -> None:
    """pypy#2595, in Stackless."""
    ch = flower.channel(capacity, label="values")
    waiting = [w.go(ch.receive, name=f"receiver-{n}") for n in range(2)]
    waiting += [w.go(flower.select, ch, flower.never(), name="selecting")]
    w.settle()
    for t in waiting:
        t.kill()
    assert ch.balance == 0 and ch.queue is None
    sender = w.go(ch.send, 1, name="sender")
    w.settle()
    assert ch.balance == 1 and ch.receive() == 1
    sender.join()


@explored
def test_a_receiver_that_has_timed_out_takes_nothing(w: World, capacity: int = CAPACITY) -> None:
    """eventlet#495: the put that followed blocked."""
    ch = flower.channel(capacity, label="values")
    results = Results(w)
    results.go("receiver", ch.receive, timeout=1)
    w.advance(2)
    assert results["receiver"] == "Timeout"
    assert ch.try_send(1) is (capacity > 0)
    assert len(ch) == min(1, capacity) == ch.balance


@explored
def test_first_in_first_out_among_waiters(w: World, capacity: int = CAPACITY) -> None:
    """Barging, in eventlet and gevent to this day."""
    ch = flower.channel(capacity, label="values")
    order: list[Any] = []

    def receive(n: int) -> None:
        order.append((n, ch.receive()))

    for n in range(3):
        w.go(receive, n, name=f"receiver-{n}")
        w.settle()
    for n in range(2):
        w.go(ch.send, n, name=f"sender-{n}")
        w.settle()
    ch.send(2)
    w.settle()
    assert sorted(order) == [(0, 0), (1, 1), (2, 2)]
    for n in range(3 + capacity):
        w.go(ch.send, n, name=f"late-{n}")
        w.settle()
    assert [ch.receive() for _ in range(3 + capacity)] == list(range(3 + capacity))


@explored
def test_a_channel_between_many(w: World, capacity: int = CAPACITY) -> None:
    """Never above capacity, every value once, each sender's values in order: the kit looks after each step."""
    ch = flower.channel(capacity, label="values")
    got: list[tuple[str, int]] = []
    ended = flower.channel(9, label="ended")

    def produce(name: str, count: int) -> None:
        for n in range(count):
            ch.send((name, n))
        ended.send(name)

    def consume() -> None:
        for value in ch:
            got.append(value)

    producers = w.draw(st.integers(1, 3))
    consumers = w.draw(st.integers(1, 2))
    for name in "abc"[:producers]:
        w.go(produce, name, 3, name=f"producer-{name}")
    for _ in range(consumers):
        w.go(consume, name="consumer")
    for _ in range(producers):
        ended.receive()
    ch.close()
    w.settle()
    assert sorted(got) == [(name, n) for name in "abc"[:producers] for n in range(3)]
    if consumers == 1:
        for name in "abc"[:producers]:
            assert [n for who, n in got if who == name] == [0, 1, 2]


@explored
def test_room_that_a_receive_makes_wakes_a_sender(w: World, capacity: int = st.integers(1, 2)) -> None:  # type: ignore[assignment]
    """anyio#143: try_receive and select free a place, too."""
    ch = flower.channel(capacity, label="values")
    for n in range(capacity):
        ch.send(n)
    senders = []
    for n in range(3):
        senders.append(w.go(ch.send, capacity + n, name=f"sender-{n}"))
        w.settle()
    assert len(ch) == capacity and ch.balance == capacity + 3
    how = w.draw(st.permutations(["receive", "try", "select"]))
    got = []
    for way in how:
        if way == "receive":
            got.append(ch.receive())
        elif way == "try":
            got.append(ch.try_receive())
        else:
            got.append(flower.select(ch, flower.never())[1])
    w.settle()
    assert not any(t.alive for t in senders)
    assert got + drain(ch) == list(range(capacity + 3))


@explored
def test_a_rendezvous_and_a_buffer_of_one(w: World) -> None:
    meet, held = flower.channel(label="meet"), flower.channel(1, label="held")
    done: list[str] = []
    w.go(lambda: (meet.send(1), done.append("met")), name="sender")
    w.go(lambda: (held.send(1), done.append("held")), name="holder")
    w.settle()
    assert done == ["held"]
    assert not meet.try_send(2) and not held.try_send(2)
    assert meet.receive() == held.receive() == 1
    w.settle()
    assert sorted(done) == ["held", "met"]


@explored
def test_what_need_not_wait_succeeds_at_timeout_0(w: World, capacity: int = CAPACITY) -> None:
    ch = flower.channel(capacity, label="values")
    if w.draw(st.booleans()):
        w.go(ch.receive, name="receiver")
        w.settle()
        ch.send(1, timeout=0)
    else:
        w.go(ch.send, 1, name="sender")
        w.settle()
        assert ch.receive(timeout=0) == 1
    results = Results(w)
    results.go("late", ch.receive, timeout=0)
    w.settle()
    assert results["late"] == "Timeout"


@explored
def test_an_operation_that_is_ready_succeeds_in_a_scope_that_is_over(w: World) -> None:
    ch = flower.channel(2, label="values")
    got = []
    with flower.move_on(1) as scope:
        scope.cancel()
        ch.send(1)
        got.append(ch.receive())
        ch.receive()
        got.append("never")
    assert got == [1] and scope.cancelled


class Oops(Exception):
    pass


@explored
def test_exceptions_arrive_whole_at_the_right_tasklet(w: World, capacity: int = CAPACITY) -> None:
    """eventlet#407."""
    ch = flower.channel(capacity, label="values")
    got: dict[int, Any] = {}

    def receive(n: int) -> None:
        try:
            got[n] = ch.receive()
        except Oops as error:
            got[n] = error

    for n in range(3):
        w.go(receive, n, name=f"receiver-{n}")
        w.settle()
    w.go(lambda: (ch.send("a"), ch.send_exception(Oops, "b", 2), ch.send("c")), name="sender")
    w.settle()
    assert got[0] == "a" and got[2] == "c"
    assert isinstance(got[1], Oops) and got[1].args == ("b", 2)


@explored
def test_kill_is_the_same_for_new_blocked_ready_and_dead_tasklets(w: World) -> None:
    """gevent#2016."""
    ch = flower.channel(1, label="values")
    ended: list[str] = []

    def body() -> None:
        try:
            ch.receive()
            flower.schedule()
            ch.receive()
        finally:
            ended.append("end")

    t = w.go(body, name="victim")
    when = w.draw(st.sampled_from(["new", "blocked", "ready", "dead"]))
    if when != "new":
        w.settle()
    if when in ("ready", "dead"):
        ch.send(1)
    if when == "dead":
        ch.send(2)
        w.settle()
        assert not t.alive
    t.kill()
    w.settle()
    assert not t.alive
    assert len(ended) == (when != "new" and 1) or ended == []
    assert ch.balance == len(ch)
