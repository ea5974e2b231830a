"""The order in which tasklets run: pinned, since programs depend on it."""

from __future__ import annotations

from typing import Any

import pytest

import flower
from flower import channel, go, schedule, tasklet

from .support import settle

SENDER_FIRST_10 = {
    -1: "s0 r0 s1 r1 s2 r2 s3 r3 s4 r4 s5 r5 s6 r6 s7 r7 s8 r8 s9 r9",
    0: "s0 r0 s1 s2 r1 r2 s3 s4 r3 r4 s5 s6 r5 r6 s7 s8 r7 r8 s9 r9",
    1: "s0 s1 r0 s2 r1 s3 r2 s4 r3 s5 r4 s6 r5 s7 r6 s8 r7 s9 r8 r9",
}
RECEIVER_FIRST_3 = {-1: "s0 r0 s1 r1 s2 r2", 0: "s0 s1 r0 r1 s2 r2", 1: "s0 s1 r0 s2 r1 r2"}


def exchange(ch: Any, count: int, sender_first: bool, way: str = "plain") -> str:
    """`s` before each send, `r` after each receive, of a sender and a receiver under run()."""
    log: list[str] = []

    def sender() -> None:
        for i in range(count):
            log.append(f"s{i}")
            if way == "plain":
                ch.send(i)
            else:
                flower.select((ch, i))

    def receiver() -> None:
        for _ in range(count):
            i = ch.receive() if way == "plain" else flower.select(ch)[1]
            log.append(f"r{i}")

    for func in (sender, receiver) if sender_first else (receiver, sender):
        tasklet(func)()
    assert flower.run() is None
    return " ".join(log)


@pytest.mark.parametrize("way", ["plain", "select"])
@pytest.mark.parametrize("preference", SENDER_FIRST_10)
def test_sender_created_first(preference: int, way: str) -> None:
    ch = channel()
    ch.preference = preference
    assert exchange(ch, 10, True, way) == SENDER_FIRST_10[preference]


@pytest.mark.parametrize("way", ["plain", "select"])
@pytest.mark.parametrize("preference", RECEIVER_FIRST_3)
def test_receiver_created_first(preference: int, way: str) -> None:
    ch = channel()
    ch.preference = preference
    assert exchange(ch, 3, False, way) == RECEIVER_FIRST_3[preference]


@pytest.mark.parametrize("preference", [-1, 0, 1])
def test_schedule_all(preference: int) -> None:
    ch = channel()
    ch.preference = preference
    ch.schedule_all = True
    assert exchange(ch, 3, True) == "s0 s1 r0 s2 r1 r2"


def test_the_default_preference_is_the_receiver() -> None:
    assert channel().preference == -1
    assert channel().schedule_all is False
    assert exchange(channel(), 10, True) == SENDER_FIRST_10[-1]


@pytest.mark.parametrize("preference", [-1, 0, 1])
@pytest.mark.parametrize("capacity", [1, 2, 100])
def test_a_buffered_channel_never_switches_unless_it_must_block(capacity: int, preference: int) -> None:
    ch = channel(capacity)
    ch.preference = preference
    log: list[Any] = []
    t = go(lambda: [log.append(v) for v in ch])
    settle()
    ch.send("first")  # there is a receiver; it is queued, and main goes on
    for i in range(capacity - 1):
        ch.send(i)
    assert log == []
    settle()
    assert log == ["first", *range(capacity - 1)]
    ch.close()
    settle()
    assert not t.alive


def test_creation_order_is_running_order() -> None:
    log: list[str] = []
    for name in "gfh":
        tasklet(log.append)(name)
    flower.run()
    assert log == ["g", "f", "h"]


def test_creating_a_tasklet_does_not_run_it() -> None:
    log: list[int] = []
    t = go(log.append, 1)
    assert log == [] and t.alive and t.scheduled and not t.blocked
    schedule()
    assert log == [1]


def test_schedule_runs_the_whole_queue_once() -> None:
    log: list[str] = []

    def steps(name: str) -> None:
        for i in range(3):
            log.append(f"{name}{i}")
            schedule()

    for name in "ab":
        go(steps, name)
    schedule()
    assert log == ["a0", "b0"]
    schedule()
    assert log == ["a0", "b0", "a1", "b1"]
    flower.run()
    assert log[4:] == ["a2", "b2"]


def test_run_leaves_blocked_tasklets_blocked() -> None:
    ch = channel()
    t = go(ch.receive)
    assert flower.run() is None
    assert (t.blocked, t.alive, ch.balance) == (-1, True, -1)
    assert flower.run() is None
    assert (t.blocked, t.alive, ch.balance) == (-1, True, -1)
    ch.send("late")
    assert t.join() == "late"


def test_schedule_callback_sees_each_switch() -> None:
    seen: list[tuple[Any, Any]] = []
    main = flower.getcurrent()
    t1, t2 = go(schedule), go(schedule)
    assert flower.set_schedule_callback(lambda before, after: seen.append((before, after))) is None
    try:
        flower.run()
    finally:
        flower.set_schedule_callback(None)
    assert seen == [(main, t1), (t1, t2), (t2, t1), (t1, t2), (t2, main)]


def test_channel_callback_is_called_before_the_action() -> None:
    ch = channel()
    seen: list[tuple[Any, ...]] = []
    main = flower.getcurrent()

    def callback(c: Any, t: Any, sending: Any, willblock: Any) -> None:
        seen.append((c, t, bool(sending), bool(willblock), c.balance))

    assert flower.set_channel_callback(callback) is None
    try:
        t = go(ch.send, 1)
        schedule()
        ch.receive()
        r = go(ch.receive)
        schedule()
        ch.send(2)
    finally:
        assert flower.set_channel_callback(None) is callback
    assert seen == [
        (ch, t, True, True, 0),
        (ch, main, False, False, 1),
        (ch, r, False, True, 0),
        (ch, main, True, False, -1),
    ]
    assert r.join() == 2


def test_runs_nest_and_the_innermost_wakes_first() -> None:
    log: list[str] = []

    def inner() -> None:
        log.append("inner starts")
        go(log.append, "work")
        flower.run()
        log.append("inner ends")

    go(inner)
    go(log.append, "other")
    flower.run()
    log.append("outer ends")
    assert log == ["inner starts", "other", "work", "inner ends", "outer ends"]


def test_the_queue_goes_on_from_the_position_of_a_tasklet_that_is_run() -> None:
    log: list[str] = []
    a, b, c = (go(log.append, name) for name in "abc")
    b.run()
    assert log[0] == "b"
    flower.run()
    assert sorted(log) == ["a", "b", "c"]
    assert log == ["b", "c", "a"]
    assert not (a.alive or b.alive or c.alive)


def test_waiters_are_served_in_order() -> None:
    ch = channel()
    log: list[tuple[int, Any]] = []

    def receive(i: int) -> None:
        log.append((i, ch.receive()))

    for i in range(5):
        go(receive, i)
    settle()
    for i in range(5):
        ch.send(i)
    settle()
    assert log == [(i, i) for i in range(5)]


def test_nobody_barges_past_a_waiter() -> None:
    """A value that came for a waiter is its own, though another tasklet asks before the waiter runs."""
    ch = channel(1)
    waiter = go(ch.receive)
    settle()
    ch.send("for the waiter")
    assert ch.try_receive("nothing") == "nothing"
    assert waiter.join() == "for the waiter"
    for i in range(2):
        go(ch.send, i)
    settle()
    assert ch.receive() == 0  # frees room, which the blocked sender has
    assert not ch.try_send("barging")
    assert ch.receive() == 1
