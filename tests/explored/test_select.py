"""select: exactly one case happens, and the others leave no trace."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

import flower
from flower.testing import World
from tests.explored.support import CAPACITY, Results, drain, explored


@explored
def test_one_case_happens_and_the_losers_consume_nothing(w: World, capacity: int = CAPACITY) -> None:
    """kanal#50, flume#135."""
    channels = [flower.channel(capacity, label=name) for name in "abc"]
    results = Results(w)
    senders = [
        results.go(f"sender-{ch.label}", ch.send, ch.label, timeout=w.draw(st.sampled_from([1, 5, 9])))
        for ch in channels
    ]
    got: list[Any] = []
    timeout = w.draw(st.sampled_from([None, 1]))

    def choose() -> None:
        for _ in range(2):
            try:
                got.append(flower.select(*channels, timeout=timeout)[1])
            except flower.Timeout:
                pass

    chooser = w.go(choose, name="selecting")
    w.advance(10)
    chooser.kill()
    for t in senders:
        t.kill()
    left = [value for ch in channels for value in drain(ch)]
    assert sorted(got + left) == [name for name in "abc" if results.sent(f"sender-{name}")]


@explored
def test_a_select_that_sends_or_receives(w: World, capacity: int = CAPACITY) -> None:
    inbox, outbox = flower.channel(capacity, label="in"), flower.channel(capacity, label="out")
    results = Results(w)
    results.go("selecting", lambda: flower.select(inbox, (outbox, "offer")).index)
    results.go("sender", inbox.send, "mail", timeout=1)
    results.go("receiver", outbox.receive, timeout=1)
    w.advance(5)
    chosen = results["selecting"]
    if chosen == "killed":  # both had given up by then
        assert inbox.try_send("late")
        w.settle()
        assert results["selecting"] == ("done", 0)
        return
    _, index = chosen
    left = drain(outbox)
    assert (index == 1) == (("done", "offer") == results["receiver"] or left == ["offer"])
    assert (index == 0) == (results.sent("sender") == 1 and drain(inbox) == [])


@explored
def test_two_selects_meet(w: World) -> None:
    """goless#43, BurntSushi/chan#20."""
    a, b = flower.channel(label="a"), flower.channel(label="b")
    got: dict[str, Any] = {}

    def choose(name: str, *cases: Any) -> None:
        got[name] = flower.select(*cases)

    w.go(choose, "left", (a, 1), b, name="left")
    w.go(choose, "right", a, (b, 2), name="right")
    w.settle()
    (one, x), (two, y) = got["left"], got["right"]
    assert one is two
    assert {x, y} == {None, 1 if one is a else 2}


@explored
def test_many_selects_over_both_ends(w: World) -> None:
    """Nobody meets itself; a channel stands in several cases; whoever is left waits in all of them."""
    a, b = flower.channel(label="a"), flower.channel(label="b")
    moves: list[tuple[str, Any]] = []

    def choose(n: int) -> None:
        result = flower.select(a, (a, n), (b, n), b, a)
        moves.append(("got" if result.index in (0, 3, 4) else "sent", result[1]))

    everybody = [w.go(choose, n, name=f"peer-{n}") for n in range(w.draw(st.integers(2, 5)))]
    w.settle()
    left = [t for t in everybody if t.alive]
    assert len(left) == len(everybody) % 2
    assert [kind for kind, _ in moves].count("got") == [kind for kind, _ in moves].count("sent") == len(moves) // 2
    for t in left:
        t.kill()
    assert a.balance == b.balance == 0 and a.queue is None and b.queue is None


@explored
def test_the_same_channel_twice_in_one_select(w: World, capacity: int = CAPACITY) -> None:
    """crystal#3900."""
    ch = flower.channel(capacity, label="twice")
    got: list[Any] = []

    def choose() -> None:
        got.append(flower.select(ch, ch, None, ch)[1])

    for _ in range(2):
        w.go(choose, name="selecting")
    w.go(lambda: [ch.send(n) for n in range(3)], name="sender")
    w.settle()
    assert sorted(got) == [0, 1]
    assert drain(ch) == [2]


@explored
def test_the_default_only_when_nothing_is_ready(w: World, capacity: int = CAPACITY) -> None:
    ch, other = flower.channel(capacity, label="values"), flower.channel(label="other")
    sender = w.go(ch.send, 1, name="sender")
    if w.draw(st.booleans()):
        w.settle()
    ready = ch.balance > 0
    result = flower.select(other, ch, default="default")
    assert (result[1] == 1) == ready
    if not ready:
        assert result.index == -1 and ch.receive() == 1
    sender.join()
    assert other.balance == 0


@explored
def test_every_ready_case_can_be_chosen(w: World) -> None:
    channels = [flower.channel(1, label=name) for name in "abc"]
    for ch in channels:
        ch.send(ch.label)
    seen = [flower.select(*channels)[1] for _ in range(3)]
    assert sorted(seen) == ["a", "b", "c"]


@explored
def test_a_select_that_is_given_up_leaves_no_trace(w: World, capacity: int = CAPACITY) -> None:
    a, b = flower.channel(capacity, label="a"), flower.channel(capacity, label="b")
    how = w.draw(st.sampled_from(["kill", "timeout", "cancel"]))
    scopes: list[Any] = []
    got: list[Any] = []

    def choose() -> None:
        with flower.move_on() as scope:
            scopes.append(scope)
            try:
                got.append(flower.select(a, b, timeout=1 if how == "timeout" else None)[1])
            except flower.Timeout:
                pass

    t = w.go(choose, name="selecting")
    w.settle()
    results = Results(w)

    def give_up() -> None:
        if how == "kill":
            t.kill()
        elif how == "cancel":
            scopes[0].cancel()

    w.go(give_up, name="giving up")
    results.go("sender", a.send, "value", timeout=3)
    w.advance(9)
    assert not t.alive
    assert got + drain(a) == ["value"] * results.sent("sender")
    assert a.balance == b.balance == 0 and a.queue is None and b.queue is None
