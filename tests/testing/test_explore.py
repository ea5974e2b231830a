"""explore, the strategies, schedules and their replay."""

from __future__ import annotations

import functools
import math
import os
import random
import re
import subprocess
import sys
import unittest
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import flower
import flower.testing as ft
from flower.testing._choices import Pct
from tests.testing.support import SCHEDULE, found, holds, meeting, notes, out_of_turn, schedule_of

ROOT = Path(__file__).resolve().parent.parent.parent


NUMBER: Any = st.integers(0, 9)


TYPED = """
import flower.testing as ft

@ft.explore(max_examples=3)
def test(w: ft.World) -> None: ...

@ft.explore
def bare(w: ft.World, n: int = 3) -> None: ...
"""


def lost_update(w: ft.World) -> None:
    """Two tasklets read, let others run, and write."""
    state = {"sum": 0}
    ledger = flower.channel(10, label="ledger")

    def add() -> None:
        before = state["sum"]
        ledger.send("adding")
        state["sum"] = before + 1

    w.go(add)
    w.go(add)
    w.settle()
    assert state["sum"] == 2


@pytest.mark.slow
@ft.explore(max_examples=50)
def test_it_decorates_a_test(w: ft.World, n: int = st.integers(0, 3)) -> None:  # type: ignore[assignment]
    meeting(w, n)


class TestMethods:
    @ft.explore(max_examples=10)
    def test_it_decorates_a_method(self, w: ft.World) -> None:
        assert isinstance(self, TestMethods)
        meeting(w, 2)


@ft.explore(max_examples=5)
def test_fixtures_pass_through(w: ft.World, tmp_path: Any) -> None:
    assert tmp_path.is_dir()


def test_a_subtest_of_unittest_fails_its_example() -> None:
    """It is raised where it fails, and shrunk: unittest would keep one failure for each example."""

    class Case(unittest.TestCase):
        @ft.explore(max_examples=50, database=None, seed=1)
        def test(self, w: ft.World, n: int = NUMBER) -> None:
            with self.subTest("small", n=n):
                self.assertLess(n, 4)

    result = unittest.TestResult()
    case = Case("test")
    case.run(result)
    assert not result.errors and len(result.failures) == 1
    text = result.failures[0][1]
    schedule = SCHEDULE.search(text)
    assert schedule and "4 not less than 4" in text
    with pytest.raises(AssertionError, match="4 not less than 4"):
        ft.replay(Case.test, schedule[1], case)
    assert "subTest" not in vars(case)


@pytest.mark.parametrize("strategy", ["auto", "pct", "gap", "walk", "all"])
def test_every_strategy_finds_a_lost_update(strategy: str) -> None:
    error = found(AssertionError, lost_update, strategy=strategy)
    assert out_of_turn(error) == 1
    assert "is pre-empted" in notes(error)


def test_a_change_point_of_pct_is_drawn_at_once_so_that_it_is_shrunk_away_by_itself() -> None:
    def preempted_at(*draws: int) -> list[int]:
        left = list(draws)
        pct = Pct(lambda size: left.pop(0))
        assert not left  # what the program draws later stands where it stood, whichever points there are
        return [number for number in range(8) if pct.choose("p", 3, ("first",))]

    one, two = (1, 2, 0), (2, 5, 1)
    assert preempted_at(0) == []
    assert preempted_at(*one, *two, 0) == [2, 5]
    assert preempted_at(*one, 0) == [2]
    assert preempted_at(*two, 0) == [5]
    assert preempted_at(*one, *two, 3, 7, 2) == [2, 5, 7]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_found_is_shrunk_and_replays(seed: int) -> None:
    error = found(AssertionError, lost_update, seed=seed)
    assert out_of_turn(error) == 1
    test = ft.explore()(lost_update)
    with pytest.raises(AssertionError) as again:
        ft.replay(test, schedule_of(error))
    assert notes(again.value).split("To run")[0] == notes(error).split("To run")[0]
    with pytest.raises(AssertionError):
        ft.explore(strategy=ft.Replay(schedule_of(error)))(lost_update)()


def test_all_runs_through_every_schedule() -> None:
    seen = set()

    def test(w: ft.World) -> None:
        order: list[str] = []
        ch = flower.channel(10)

        def twice(name: str) -> None:
            order.append(name)
            ch.send(name)
            order.append(name)

        w.go(twice, "a")
        w.go(twice, "b")
        w.settle()
        seen.add("".join(order))

    holds(test, strategy="all", max_examples=1000)
    assert seen == {"aabb", "abab", "abba", "baab", "baba", "bbaa"}


@pytest.mark.slow
def test_drawn_values_are_in_the_schedule_string() -> None:
    def test(w: ft.World, n: int = st.integers(0, 100)) -> None:  # type: ignore[assignment]
        text = w.draw(st.text(min_size=1, max_size=2))
        assert n < 7 or not text

    error = found(AssertionError, test)
    with pytest.raises(AssertionError):
        ft.replay(ft.explore()(test), schedule_of(error))


class Text(str):
    """Its repr is that of another type."""


@pytest.mark.parametrize("value", [st.builds(object), st.builds(Text)], ids=["object", "str"])
def test_values_that_no_string_holds(value: Any) -> None:
    def test(w: ft.World) -> None:
        w.draw(value)
        schedules.append(w.schedule())
        raise AssertionError

    schedules: list[str] = []
    error = found(AssertionError, test)
    assert "--flower-schedule" not in notes(error)
    assert "To run it again: by Hypothesis only" in notes(error)
    with pytest.raises(ft.ScheduleError, match="no string can hold"):
        ft.replay(ft.explore()(test), schedules[-1])


DATA = st.data()


def test_the_draws_of_data_are_the_worlds() -> None:
    def broken(w: ft.World, data: Any = DATA) -> None:
        assert data.draw(st.integers(0, 9), label="number") < 5

    error = found(AssertionError, broken)
    with pytest.raises(AssertionError):
        ft.replay(ft.explore()(broken), schedule_of(error))

    def switches(w: ft.World, data: Any = DATA) -> None:
        with pytest.raises(RuntimeError, match="a switch trap is set"):
            data.draw(st.builds(flower.time.sleep, st.just(1)))

    holds(switches, max_examples=3)


@pytest.mark.slow
def test_a_world_tells_its_time() -> None:
    def test(w: ft.World) -> None:
        assert w.now == 0.0
        w.advance(3.5)
        assert w.now == 3.5
        started = []
        w.go(lambda: (flower.time.sleep(1), started.append(w.now)))
        w.settle()
        assert started == []
        w.advance(2)
        assert started == [4.5]

    holds(test, early_timers=0)


@pytest.mark.slow
def test_time_may_jump_while_others_can_run() -> None:
    """A deadline that passes while the value is on its way."""

    def test(w: ft.World) -> None:
        ch, done = flower.channel(), flower.channel(5)

        def work() -> None:
            done.send("half")
            ch.send("result")

        w.go(work, daemon=True)
        assert ch.receive(timeout=10) == "result"

    with pytest.raises(flower.Timeout):
        ft.explore(max_examples=300, database=None, seed=1)(test)()
    holds(test, early_timers=0)


def test_invariants_are_looked_at_after_each_step() -> None:
    def test(w: ft.World) -> None:
        seats = [2]
        door = flower.channel(5)

        @w.invariant
        def never_negative() -> None:
            assert seats[0] >= 0, "overbooked"

        def book() -> None:
            if seats[0] > 0:
                door.send("looked")
                seats[0] -= 1
                door.send("booked")

        for _ in range(3):
            w.go(book, daemon=True)
        w.settle()

    error = found(AssertionError, test)
    assert "overbooked" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["invariant", "tasklet"])
def test_a_draw_belongs_into_a_tasklets_own_code(where: str) -> None:
    def test(w: ft.World) -> None:
        if where == "invariant":
            w.invariant(lambda: w.draw(st.integers()))
            w.settle()
            flower.channel(1).send(1)
        else:
            ch = flower.channel(2)
            w.go(lambda: ch.send(w.draw(st.integers(1, 3))))
            assert 1 <= ch.receive() <= 3

    if where == "tasklet":
        holds(test)
    else:
        found(RuntimeError, test)


def test_a_draw_may_not_switch() -> None:
    def test(w: ft.World) -> None:
        ch = flower.channel()
        w.go(ch.send, 1, daemon=True)
        w.draw(st.builds(ch.receive, st.none()))
        w.draw(st.builds(flower.schedule))

    error = found(RuntimeError, test)
    assert "not possible here" in str(error)


@pytest.mark.slow
def test_worlds_do_not_nest() -> None:
    def test(w: ft.World) -> None:
        meeting_test()

    @ft.explore(max_examples=2, database=None)
    def meeting_test(w: ft.World) -> None:
        meeting(w, 1)

    assert "a World inside of a World" in str(found(RuntimeError, test))


def test_faults_happen_in_a_world_only() -> None:
    assert ft.on_fault("the disk is full") is False
    outcomes = set()

    def test(w: ft.World) -> None:
        ch = flower.channel(3)
        for _ in range(3):
            ch.send(ft.on_fault("the disk is full"))
        outcomes.add(tuple(ch.receive() for _ in range(3)))

    holds(test, max_examples=200)
    assert (False, False, False) in outcomes
    assert len(outcomes) > 3


def test_random_numbers_are_the_same_without_hypothesis() -> None:
    """Hypothesis seeds them in each example; a replay does as well."""

    def test(w: ft.World) -> None:
        ch = flower.channel(5)
        ch.send(random.randrange(10**9))
        raise AssertionError

    error = found(AssertionError, test, max_examples=3)
    before = random.getstate()
    with pytest.raises(AssertionError) as again:
        ft.replay(ft.explore()(test), schedule_of(error))
    assert notes(again.value).split("To run")[0] == notes(error).split("To run")[0]
    assert random.getstate() == before


def test_the_same_choices_must_give_the_same_log() -> None:
    runs = []

    def test(w: ft.World) -> None:
        runs.append(1)
        ch = flower.channel(2)
        ch.send(len(runs))

    error = found(ft.Nondeterministic, test, max_examples=10)
    assert "two logs" in str(error)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("flower2:00000000:3::", "version flower2"),
        ("nonsense", "no schedule string"),
        ("flower1:xyz", "damaged"),
        ("flower1:00000000:3:1p5/2:", "damaged"),
        ("flower1:00000000:3::%%%", "damaged"),
        ("flower1:00000000:3::eJyLro6OtVIwrI0FAA9LAvQ", "damaged"),
        ("flower1:00000000:0::eJyLNjQwMIgFAAUqAXo>,", "damaged"),
        ("flower1:00000000:3::", "another program"),
    ],
)
def test_a_schedule_string_that_does_not_fit(schedule: str, message: str) -> None:
    with pytest.raises(ft.ScheduleError, match=message):
        ft.replay(ft.explore()(lost_update), schedule)


def test_a_schedule_of_a_program_that_has_changed() -> None:
    string = schedule_of(found(AssertionError, lost_update))
    for wrong in (re.sub(r"(\d+)p1/2", r"\1p2/3", string), string.replace("p", "s"), re.sub(r"\d+p", "99p", string)):
        with pytest.raises(ft.ScheduleError, match="has changed"):
            ft.replay(ft.explore()(lost_update), wrong)


def test_a_schedule_of_a_program_that_drew_more() -> None:
    def test(w: ft.World) -> None:
        for _ in range(times):
            w.draw(st.integers())
        strings.append(w.schedule())

    strings: list[str] = []
    explored = ft.explore(max_examples=1, database=None)(test)
    times = 2
    explored()
    assert ft.replay(explored, strings[0]).schedule() == strings[0]
    times = 1
    with pytest.raises(ft.ScheduleError, match="has more"):
        ft.replay(explored, strings[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps is at least 1, not 0"),
        ({"max_steps": "many"}, "max_steps is a number of steps"),
        ({"early_timers": -1}, "early_timers is at least 0"),
        ({"early_timers": None}, "early_timers is a number"),
        ({"starvation": 0}, "starvation is at least 1"),
    ],
)
def test_options_that_can_not_be_meant(options: dict[str, Any], message: str) -> None:
    for door in (ft.explore, ft.schedules):
        with pytest.raises((TypeError, ValueError), match=message):
            door(**options)


def test_a_schedule_is_replayed_by_explore_alone() -> None:
    strategy: Any = ft.Replay("flower1:00000000:0::")
    with pytest.raises(ValueError, match=r"give one of auto, pct, gap, walk, all, or to explore\(\) a Replay"):
        ft.schedules(strategy=strategy)


def test_wrong_arguments_in_a_world_are_refused() -> None:
    def test(w: ft.World) -> None:
        for wrong in (w.go, w.invariant):
            with pytest.raises(TypeError, match="needs a function to call, not None"):
                wrong(None)  # type: ignore[arg-type]
        for seconds in (-1, math.nan, "1"):
            with pytest.raises((TypeError, ValueError), match="seconds"):
                w.advance(seconds)  # type: ignore[arg-type]

    holds(test, max_examples=2)


@pytest.mark.slow
def test_hypothesis_decorators_that_explore_takes_the_place_of() -> None:
    with pytest.raises(TypeError, match="takes the place of @given: give its strategies as defaults"):
        ft.explore()(given(n=st.integers())(meeting))
    with pytest.raises(TypeError, match="takes the place of @settings: give it max_examples"):
        ft.explore()(settings(max_examples=3)(lambda w: None))
    with pytest.raises(TypeError, match="takes the place of @settings: give it max_examples"):
        settings(max_examples=3)(ft.explore()(lambda w: None))()
    with pytest.raises(TypeError, match="takes no @example"):
        ft.explore()(example(n=3)(lambda w, n=NUMBER: None))
    with pytest.raises(TypeError, match=r"takes no @example.* draw the value, as in n=st.just"):
        example(n=3)(ft.explore()(lambda w, n=NUMBER: None))()

    @settings(max_examples=2, database=None)
    @given(n=st.integers())
    def outer(n: int) -> None:
        ft.explore()(lambda w: None)()

    with pytest.raises(RuntimeError, match=r"inside of Hypothesis's @given: a search in each example"):
        outer()

    async def coroutine(w: ft.World) -> None:
        pass

    def generator(w: ft.World) -> Any:
        yield

    for wrong in (coroutine, generator):
        with pytest.raises(TypeError, match="is no plain function"):
            ft.explore()(wrong)


def test_values_of_a_kind_with_odd_methods_can_be_drawn() -> None:
    class Odd:
        def __init__(self, how: str) -> None:
            self.how = how

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no comparison")

        __hash__ = None  # type: ignore[assignment]

        def __repr__(self) -> str:
            if self.how == "repr":
                raise RuntimeError("no words")
            return "3"

    def test(w: ft.World) -> None:
        assert w.draw(st.sampled_from(["repr", "eq"]).map(Odd)).how

    holds(test, max_examples=10)


@pytest.mark.slow
def test_a_typed_test_stays_typed(tmp_path: Path) -> None:
    """mypy's strict mode takes no untyped decorator."""
    (tmp_path / "test_typed.py").write_text(TYPED, "utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path / "cache"]
    env = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run([*command, "test_typed.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown strategy 'random'"):
        ft.explore(strategy="random")
    with pytest.raises(TypeError, match="no option"):
        ft.explore(max_exmaples=3)
    for no_function in (300, "walk", functools.partial(lost_update)):
        with pytest.raises(TypeError, match=r"makes a test of a function, not of .*; its options are given by name"):
            ft.explore(no_function)
    for test in (lambda: None, lambda *args: None, lambda **more: None, lambda w, /: None):
        with pytest.raises(TypeError, match="takes no World"):
            ft.explore()(test)
    with pytest.raises(TypeError, match="decorated with explore"):
        ft.replay(lost_update, "flower1:0:0::")
    with pytest.raises(TypeError, match="a schedule is a str"):
        ft.replay(ft.explore()(lost_update), 3)


@pytest.mark.slow
def test_a_schedule_replays_without_hypothesis() -> None:
    code = """
import sys, zlib
sys.modules["hypothesis"] = None
import flower, flower.testing as ft

@ft.explore()
def test(w):
    ch = flower.channel()
    w.go(ch.send, 1)
    assert ch.receive() == 2


try:
    ft.replay(test, f"flower1:{zlib.crc32(b'<string>.test'):08x}:0::")
except AssertionError as error:
    print(error.__notes__[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "receive on channel-1 -> 1" in done.stdout


ALIKE = """
import hashlib, random, flower, flower.testing as ft
from flower.testing._choices import Auto, Choices
from flower.testing._explore import run_in

logs = []
for seed in range(20):
    w = ft.World(Choices(Auto(random.Random(seed).randrange)))

    def body():
        channels = {name: flower.channel(1, label=name) for name in "abc"}

        def work(name):
            for n in range(5):
                flower.select(*channels.values(), *((ch, n) for ch in channels.values()), timeout=1)
                flower.time.sleep(n)

        for name in channels:
            w.go(work, name)

    run_in(w, body)
    logs.append(w.log())
print(len(logs), hashlib.sha256("".join(logs).encode()).hexdigest())
"""


@pytest.mark.slow
def test_the_log_is_the_same_in_each_process_compiled_and_not() -> None:
    said = set()
    for pure, seed in (("", "1"), ("", "2"), ("1", "3")):
        env = {**os.environ, "FLOWER_PURE": pure, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", ALIKE], capture_output=True, text=True, timeout=60, env=env)
        assert done.stderr == ""
        said.add(done.stdout)
    assert len(said) == 1 and said.pop().startswith("20 ")
