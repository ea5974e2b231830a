"""Worlds for tests of Hypothesis's own kinds: `given`, and state machines."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from hypothesis import given, settings, stateful
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes

import flower
import flower.testing as ft
from tests.testing.support import meeting, notes

NUMBER: Any = st.integers(0, 9)


@pytest.mark.slow
def test_worlds_for_given() -> None:
    @settings(database=None, deadline=None)
    @given(w=ft.schedules(), n=st.integers(1, 3))
    def test(w: ft.World, n: int) -> None:
        with w:
            meeting(w, n)
            assert w.draw(st.integers(0, 3)) <= 3

    test()


@pytest.mark.slow
def test_a_finding_leaves_the_with_block_and_is_shrunk() -> None:
    """Raised anew where it leaves: without a place in the test, Hypothesis takes it for a failure of its own."""

    class Rules(ft.machine):
        @stateful.rule(n=NUMBER)
        def wait(self, n: int) -> None:
            if n > 3:
                flower.channel().receive()

    @settings(database=None, deadline=None, report_multiple_bugs=False)
    @given(w=ft.schedules(), n=NUMBER)
    def test(w: ft.World, n: int) -> None:
        with w:
            if n > 3:
                flower.channel().receive()

    machine = Rules.TestCase
    machine.settings = settings(database=None, deadline=None, report_multiple_bugs=False)
    for run in (test, machine().runTest):
        with pytest.raises(ft.Deadlock) as caught:
            run()  # type: ignore[operator]
        assert "n=4" in notes(caught.value)


@pytest.mark.slow
def test_a_report_shows_the_world_of_given_as_a_world() -> None:
    @settings(database=None, deadline=None)
    @given(w=ft.schedules())
    def test(w: ft.World) -> None:
        with w:
            assert not flower.getcurrent()

    with pytest.raises(AssertionError) as caught:
        test()
    assert "    w=<World>," in notes(caught.value)


@pytest.mark.slow
def test_a_state_machine_whose_rules_block() -> None:
    class Queue(ft.machine):
        def begin(self) -> None:
            self.ch: flower.channel[int] = flower.channel(1)
            self.sent = self.got = 0

        @ft.machine.rule(n=st.integers(1, 3))
        def put(self, n: int) -> None:
            for _ in range(n):
                self.ch.send(self.sent)
                self.sent += 1

        @ft.machine.rule()
        def get(self) -> None:
            self.ch.receive()
            self.got += 1

        def end(self) -> None:
            for t in self.blocked():
                t.kill()

    machine = Queue.TestCase
    machine.settings = settings(max_examples=20, deadline=None, database=None)
    machine("runTest").runTest()


@pytest.mark.slow
def test_the_rules_of_a_state_machine_feed_bundles() -> None:
    """What a rule gives goes into its bundle, unless it is blocked; arguments go by name, in whatever order."""
    given_back: list[str] = []
    pairs = set()

    class Pool(ft.machine):
        options: ClassVar[dict[str, Any]] = {"strategy": "gap", "early_timers": 0}
        taken: ClassVar[Any] = Bundle("taken")

        def begin(self) -> None:
            self.idle: flower.channel[str] = flower.channel(2)
            self.idle.send("one")
            self.idle.send("two")
            assert self.w._early_timers == 0

        @ft.machine.rule(target=taken)
        def take(self) -> str:
            return self.idle.receive()

        @ft.machine.rule(what=consumes(taken))
        def give_back(self, what: str) -> None:
            self.idle.send(what)
            given_back.append(what)

        @ft.machine.rule(z=st.just("z"), a=st.just("a"))
        def two(self, a: str, z: str) -> None:
            pairs.add((a, z))

        def end(self) -> None:
            for t in self.blocked():
                t.kill()

    machine = Pool.TestCase
    machine.settings = settings(max_examples=30, deadline=None, database=None)
    machine("runTest").runTest()
    assert set(given_back) == {"one", "two"}
    assert pairs == {("a", "z")}


@pytest.mark.slow
def test_a_state_machine_that_leaves_somebody_blocked() -> None:
    class Queue(ft.machine):
        @ft.machine.rule()
        def get(self) -> None:
            flower.channel().receive()

    machine = Queue.TestCase
    machine.settings = settings(max_examples=20, deadline=None, database=None)
    with pytest.raises(ft.Deadlock):
        machine("runTest").runTest()
