"""Closing: who is woken, what is still delivered, what fails."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

import flower
from flower.testing import World
from tests.explored.support import CAPACITY, Results, drain, explored, outcome


@explored
def test_close_wakes_all_who_wait_to_receive(w: World, capacity: int = CAPACITY) -> None:
    """cpython#117531, stackless#53."""
    ch = flower.channel(capacity, label="closing")
    results = Results(w)
    for n in range(3):
        results.go(f"receiver-{n}", ch.receive)
    results.go("selecting", flower.select, ch, flower.never())
    w.go(ch.close, name="closer")
    w.settle()
    assert list(results.outcomes.values()) == ["ChannelClosed"] * 4
    assert ch.closed and ch.balance == 0


@explored
def test_what_was_sent_before_the_close_arrives(w: World, capacity: int = CAPACITY) -> None:
    """Held values survive the close, and those of blocked senders; in order; and are dropped once."""
    ch = flower.channel(capacity, label="closing")
    results = Results(w)
    for n in range(capacity + 2):
        results.go(f"sender-{n}", ch.send, n)
        w.settle()
    ch.close()
    assert ch.closing and not ch.closed
    results.go("late", ch.send, "late")
    w.settle()
    assert results["late"] == "ChannelClosed"
    assert list(ch) == list(range(capacity + 2))
    w.settle()
    assert results.sent(*(f"sender-{n}" for n in range(capacity + 2))) == capacity + 2
    assert ch.closed and outcome(ch.receive) == outcome(ch.try_receive) == "ChannelClosed"


@explored
def test_a_close_at_any_moment_loses_nothing_that_was_sent(w: World, capacity: int = CAPACITY) -> None:
    ch = flower.channel(capacity, label="closing")
    results = Results(w)
    got: list[Any] = []
    for n in range(3):
        results.go(f"sender-{n}", ch.send, n)
    w.go(lambda: got.extend(ch), name="receiver")
    w.go(ch.close, name="closer")
    w.settle()
    sent = [n for n in range(3) if isinstance(results[f"sender-{n}"], tuple)]
    assert sorted(got) == sent
    assert all(results[f"sender-{n}"] == "ChannelClosed" for n in range(3) if n not in sent)


@explored
def test_operations_on_a_closed_channel_fail_through_select_too(w: World, capacity: int = CAPACITY) -> None:
    """crystal#8938."""
    ch = flower.channel(capacity, label="closing")
    ch.close()
    calls = [
        (ch.send, 1),
        (ch.receive,),
        (ch.try_send, 1),
        (ch.try_receive,),
        (flower.select, ch),
        (flower.select, (ch, 1)),
    ]
    for function, *args in calls:
        assert outcome(function, *args) == "ChannelClosed"
    assert outcome(lambda: flower.select((ch, 1), default=None)) == "ChannelClosed"
    ch.open()
    w.go(ch.send, 2, name="sender")
    assert ch.receive() == 2


@explored
def test_a_close_ends_a_select_once(w: World, capacity: int = CAPACITY) -> None:
    """crystal#8300."""
    a, b = flower.channel(capacity, label="a"), flower.channel(capacity, label="b")
    ends: list[Any] = []
    met: list[Any] = []

    def choose() -> None:
        cases: list[Any] = [a, b, a]
        if not capacity:
            cases.append((b, "offer"))
        try:
            met.append(flower.select(*cases))
        except flower.ChannelClosed as error:
            ends.append(error.channel)

    for _ in range(2):
        w.go(choose, name="selecting")
    if w.draw(st.booleans()):
        w.settle()
    w.go(a.close, name="closer-a")
    w.go(b.close, name="closer-b")
    w.settle()
    assert len(ends) + len(met) == 2 and len(met) != 1
    assert a.balance == b.balance == 0


@explored
def test_a_receiver_that_gives_up_tells_the_senders(w: World, capacity: int = CAPACITY) -> None:
    ch = flower.channel(capacity, label="given up")
    reasons: list[Any] = []

    def send(n: int) -> None:
        try:
            ch.send(n)
        except flower.ChannelClosed as error:
            reasons.append(error.reason)

    for n in range(capacity + 2):
        w.go(send, n, name=f"sender-{n}")
    w.settle()
    ch.receiver.close("enough")
    w.settle()
    assert reasons == ["enough"] * 2
    assert drain(ch) == [] and ch.closed


@explored
def test_a_close_ends_an_offer_of_a_select(w: World, capacity: int = CAPACITY) -> None:
    """An offer is no commitment, while a plain blocked sender's value is still delivered."""
    ch = flower.channel(capacity, label="closing")
    results = Results(w)
    for n in range(capacity):
        ch.send(n)
    results.go("selecting", flower.select, (ch, "offer"), flower.never())
    w.settle()
    results.go("sending", ch.send, "sent")
    w.settle()
    w.go(ch.close, name="closer")
    w.settle()
    assert results["selecting"] == "ChannelClosed"
    assert drain(ch) == [*range(capacity), "sent"]
    w.settle()
    assert results.sent("sending") == 1
