"""Groups and scopes, cancelled at every step."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

import flower
from flower.testing import World
from flower.time import sleep
from tests.explored.support import drain, explored


class Oops(Exception):
    pass


@explored
def test_a_group_ends_with_all_of_its_tasklets(w: World) -> None:
    ch = flower.channel(1, label="work")
    alive: list[Any] = []
    cleaned: list[int] = []

    def member(n: int, fails: bool) -> None:
        try:
            ch.send(n)
            ch.receive()
            if fails:
                raise Oops(n)
            sleep(1)
        finally:
            with flower.shield():
                sleep(1)
                cleaned.append(n)

    failing = w.draw(st.sets(st.integers(0, 2)))
    error: BaseException | None = None
    try:
        with flower.group() as g:
            for n in range(3):
                alive.append(g.go(member, n, n in failing))
    except* Oops as errors:
        error = errors
    assert not any(t.alive for t in alive)
    assert bool(failing) == (error is not None)
    if not failing:
        assert sorted(cleaned) == [0, 1, 2]
    drain(ch)


@explored
def test_a_group_that_is_cancelled_or_killed_at_any_step(w: World) -> None:
    ch, gate = flower.channel(label="work"), flower.channel(3, label="gate")
    members: list[Any] = []
    state: dict[str, Any] = {}

    def pair(g: Any) -> None:
        members.append(g.go(lambda: [ch.send(n) for n in range(2)]))
        members.append(g.go(lambda: [ch.receive() for _ in range(2)]))

    def owner() -> None:
        with flower.move_on() as scope:
            state["scope"] = scope
            with flower.group() as g:
                state["group"] = g
                gate.send(1)
                pair(g)
                gate.send(2)
                sleep(1)
        state["ended"] = True

    t = w.go(owner, name="owner")
    how = w.draw(st.sampled_from(["scope", "group", "kill", "member"]))

    def interfere() -> None:
        for _ in range(w.draw(st.integers(1, 2))):
            gate.receive()
        if how == "kill":
            t.kill()
        elif how == "member":
            members and members[0].kill()
        else:
            state[how].cancel()

    w.go(interfere, name="interfering")
    if how == "member":
        w.go(lambda: (sleep(2), state["scope"].cancel()), name="ending")
    w.advance(5)
    assert not t.alive and not any(m.alive for m in members)
    assert ("ended" in state) == (how != "kill") or how == "kill"
    assert ch.balance == 0 and ch.queue is None


@explored
def test_cancellation_comes_where_it_waits_and_again(w: World) -> None:
    ch = flower.channel(label="never")
    seen: list[str] = []

    def stubborn() -> None:
        with flower.move_on() as scope:
            scopes.append(scope)
            for n in range(3):
                try:
                    ch.receive()
                except flower.Cancelled:
                    seen.append(f"cancelled {n}")
            with flower.shield():
                sleep(1)
                seen.append("shielded")
            ch.receive()
            seen.append("never")
        seen.append("left")

    scopes: list[Any] = []
    w.go(stubborn, name="stubborn")
    w.settle()
    w.go(scopes[0].cancel, name="canceller")
    w.advance(3)
    assert seen == ["cancelled 0", "cancelled 1", "cancelled 2", "shielded", "left"]


@explored
def test_a_scope_that_expires_while_a_value_is_on_its_way(w: World) -> None:
    """The value arrives, or stays with its sender; never both, never neither."""
    ch = flower.channel(label="values")
    got: list[int] = []
    sent: list[int] = []

    def receive() -> None:
        with flower.move_on(1):
            while True:
                got.append(ch.receive())

    def send() -> None:
        for n in range(3):
            try:
                ch.send(n, timeout=2)
            except flower.Timeout:
                return
            sent.append(n)

    w.go(receive, name="receiver")
    w.go(send, name="sender")
    w.advance(9)
    assert got == sent


@explored
def test_the_error_of_a_member_cancels_the_rest(w: World) -> None:
    ch = flower.channel(label="never")
    cancelled: list[int] = []

    def wait(n: int) -> None:
        try:
            ch.receive()
        except flower.Cancelled:
            cancelled.append(n)
            raise

    def fail() -> None:
        sleep(1)
        raise Oops

    with pytest.raises(Oops), flower.group() as g:
        g.go(wait, 1)
        g.go(fail)
        g.go(wait, 2)
        ch.receive()
    assert sorted(cancelled) == [1, 2] and ch.balance == 0


@explored
def test_a_blocked_tasklet_on_an_unreachable_channel_is_reported(w: World) -> None:
    with pytest.raises(flower.Deadlock, match=r"receive on 'unreachable'"):
        flower.channel(label="unreachable").receive()
