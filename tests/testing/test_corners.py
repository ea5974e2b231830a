"""Odd uses of a world: it ends, says what is wrong, and leaves the thread as it was."""

from __future__ import annotations

import gc
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, ClassVar

import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, run_state_machine_as_test

import flower
import flower.testing as ft
from tests.testing.support import found, holds, meeting, notes, schedule_of

NUMBER: Any = st.integers(0, 100)


STUBBORN = """
import flower, flower.testing as ft

@ft.explore(max_examples=3, database=None)
def test(w):
    ch = flower.channel()

    def stubborn():
        while True:
            try:
                ch.receive()
            except BaseException:
                pass

    w.go(stubborn)

try:
    test()
except ft.Deadlock:
    print("deadlock")
ch = flower.channel()
flower.go(ch.send, "alive")
print(ch.receive())
"""


def test_a_world_that_is_not_in_force() -> None:
    def test(w: ft.World) -> None:
        worlds.append(w)
        later.append(lambda: w.draw(st.none()))

    worlds: list[ft.World] = []
    later: list[Any] = []
    holds(test, max_examples=1)
    w = worlds[0]
    for use in (w.settle, lambda: w.advance(1), lambda: w.go(print), lambda: w.record(len, ""), *later):
        with pytest.raises(RuntimeError, match="not in force here"):
            use()
    with pytest.raises(RuntimeError, match="not in force here"):
        ft.virtual_clock().settle()


def test_an_error_without_a_text() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError

    def fails() -> None:
        raise Odd

    def test(w: ft.World) -> None:
        w.go(fails)

    assert "that nobody collected: Odd" in str(found(ft.TaskletFailed, test, max_examples=3))


def test_an_error_that_lets_no_attribute_be_looked_at() -> None:
    class Odd(Exception):
        def __getattr__(self, name: str) -> None:
            raise (AttributeError if name == "__notes__" else LookupError)(name)

    def fails() -> None:
        raise Odd("of its own")

    def test(w: ft.World) -> None:
        w.go(fails)

    assert "that nobody collected: Odd: of its own" in str(found(ft.TaskletFailed, test, max_examples=3))


@pytest.mark.slow
def test_an_error_that_is_the_same_object_in_each_example() -> None:
    error = ValueError("the only one")

    def test(w: ft.World, n: int = NUMBER) -> None:
        flower.channel(1).send(n)
        if n > 10:
            raise error

    text = notes(found(ValueError, test))
    assert text.count("The schedule (") == text.count("To run it again") == 1
    assert "send(11)" in text


@pytest.mark.slow
def test_the_report_of_an_error_that_takes_no_note_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    class Frozen(Exception):
        def add_note(self, note: str) -> None:
            raise AttributeError("it can't be changed")

    def test(w: ft.World) -> None:
        flower.channel(1).send(11)
        raise Frozen

    found(Frozen, test, max_examples=3)
    assert "send(11)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_machine_that_can_not_begin() -> None:
    class Idle(ft.machine):
        @ft.machine.rule()
        def nothing(self) -> None:
            pass

    class Misspelt(Idle):
        options: ClassVar[Any] = {"strategy": "gaps"}

    class Unknown(Idle):
        options: ClassVar[Any] = {"max_examples": 100}

    def run(kind: Any) -> None:
        run_state_machine_as_test(kind, settings=settings(max_examples=3, database=None))

    with ft.virtual_clock(), pytest.raises(RuntimeError, match="a World inside of a World"):
        run(Idle)
    with pytest.raises(ValueError, match="unknown strategy 'gaps'"):
        run(Misspelt)
    with pytest.raises(TypeError, match=r"schedules\(\) got an unexpected keyword argument 'max_examples'"):
        run(Unknown)


@pytest.mark.slow
def test_a_machine_is_set_up_in_begin() -> None:
    """Hypothesis runs ``initialize`` rules in any order, of which the world's own is one."""
    drawn = set()

    class Drawing(ft.machine):
        def begin(self) -> None:
            drawn.add(self.w.draw(st.integers(0, 9)))

        @ft.machine.rule()
        def nothing(self) -> None:
            pass

    class Early(Drawing):
        @initialize()
        def early(self) -> None:
            self.w.go(print)

    def run(kind: Any) -> None:
        run_state_machine_as_test(kind, settings=settings(max_examples=20, database=None))

    run(Drawing)
    assert len(drawn) > 1
    with pytest.raises(AttributeError, match=r"the World is not there yet.*: set up in begin\(\)"):
        run(Early)


def test_a_draw_in_a_callback_or_in_another_draw_is_refused() -> None:
    def draws(*args: Any) -> None:
        with pytest.raises(RuntimeError, match=r"draw\(\) inside a tasklet switch"):
            worlds[-1].draw(st.just(1))
        refused.append(len(args))

    def test(w: ft.World) -> None:
        worlds.append(w)
        w.go(int)
        flower.set_schedule_callback(draws)
        flower.schedule()
        flower.set_schedule_callback(None)
        flower.set_channel_callback(draws)
        flower.channel(1).send(1)
        flower.set_channel_callback(None)
        w.draw(st.builds(draws))

    worlds: list[ft.World] = []
    refused: list[int] = []
    holds(test, max_examples=5)
    assert set(refused) == {0, 2, 4}


def test_what_an_example_has_set_for_the_process_is_gone_in_the_next() -> None:
    handled: list[BaseException] = []

    def handle(t: Any, error: BaseException) -> None:
        handled.append(error)

    def test(w: ft.World) -> None:
        assert flower.get_channel_callback() is None
        flower.set_error_handler(handle)
        flower.set_channel_callback(lambda *args: None)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        w.go(flower.signals(signal.SIGUSR1).receive, daemon=True)
        w.go(lambda: {}["missing"])

    holds(test, max_examples=5)
    assert len(handled) >= 5
    assert flower.set_error_handler(None) is flower.get_channel_callback() is None
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_draw_in_an_invariant_is_refused_after_a_fault_too() -> None:
    def test(w: ft.World) -> None:
        @w.invariant
        def draws() -> None:
            ft.on_fault("here")
            drawn.append(w.draw(st.integers()))

        flower.schedule()

    drawn: list[int] = []
    assert "draw() inside a tasklet switch" in str(found(RuntimeError, test, max_examples=3))
    assert not drawn


@pytest.mark.slow
def test_a_tasklet_that_can_not_be_killed() -> None:
    """It is left as it is, for good, and the program ends."""
    done = subprocess.run([sys.executable, "-c", STUBBORN], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("deadlock\nalive\n", "", 0)


def test_a_livelock_that_swallows_everything_ends() -> None:
    def test(w: ft.World) -> None:
        ch = flower.channel(1)

        def greedy() -> None:
            while True:
                try:
                    ch.send(1)
                    ch.receive()
                except Exception:
                    pass

        w.go(greedy)
        w.go(greedy)
        w.settle()

    found(ft.StepLimit, test, max_steps=200, max_examples=3)


def test_a_body_that_swallows_the_finding_gets_it_nevertheless() -> None:
    def test(w: ft.World) -> None:
        @w.invariant
        def wrong() -> None:
            assert w.steps < 3

        ch = flower.channel(9)
        for n in range(9):
            try:
                ch.send(n)
            except AssertionError:
                pass

    found(AssertionError, test, max_examples=3)


@pytest.mark.slow
def test_assumptions_in_the_test_and_in_tasklets() -> None:
    seen = set()

    def test(w: ft.World, n: int = st.integers(0, 9)) -> None:  # type: ignore[assignment]
        assume(n != 3)

        def body() -> None:
            assume(n != 4)
            seen.add(n)

        w.go(body)

    holds(test, max_examples=60)
    assert seen.isdisjoint({3, 4}) and len(seen) > 3


def test_pytest_outcomes_in_a_tasklet() -> None:
    def test(w: ft.World) -> None:
        w.go(pytest.fail, "from inside")
        w.settle()

    with pytest.raises(pytest.fail.Exception, match="from inside"):
        ft.explore(max_examples=3, database=None)(test)()


def test_a_failure_of_pytest_is_reported_as_others_are() -> None:
    """What `pytest.raises` and `pytest.fail` raise is no Exception: its report has the schedule all the same."""

    def test(w: ft.World) -> None:
        ch = flower.channel[int](1)
        w.go(ch.send, 1)
        flower.schedule()
        with pytest.raises(flower.Timeout):
            ch.receive(timeout=1)

    error = found(pytest.fail.Exception, test)
    assert "receive on channel-1 -> 1" in notes(error)
    with pytest.raises(pytest.fail.Exception):
        ft.replay(ft.explore(test), schedule_of(error))

    def skipped(w: ft.World) -> None:
        pytest.skip("not here")

    assert not notes(found(pytest.skip.Exception, skipped))


@pytest.mark.slow
@pytest.mark.parametrize("inside", [True, False])
def test_a_program_that_exits_is_reported_as_other_failures_are(inside: bool) -> None:
    def test(w: ft.World) -> None:
        order: list[int] = []

        def add(n: int) -> None:
            order.append(n)
            if order == [2, 1]:
                raise SystemExit("too slow")

        w.go(add, 1)
        w.go(add, 2)
        if not inside:
            w.go(add, 3).join()
            if order[0] == 2:
                raise SystemExit("too slow")

    error = found(SystemExit, test)
    assert error.args == ("too slow",) and "add-2  runs out of turn" in notes(error)
    assert "failed: SystemExit: too slow" in notes(error)
    with pytest.raises(SystemExit, match="too slow"):
        ft.replay(ft.explore(test), schedule_of(error))


def test_ctrl_c_ends_the_search() -> None:
    def test(w: ft.World) -> None:
        signal.raise_signal(signal.SIGINT)
        flower.channel(1).send(1)
        flower.schedule()

    with pytest.raises(KeyboardInterrupt):
        ft.explore(max_examples=3, database=None)(test)()


def test_in_a_thread_of_its_own() -> None:
    errors: list[BaseException] = []

    def search() -> None:
        try:
            ft.explore(max_examples=20, database=None)(meeting)()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    thread.join(60)
    assert not thread.is_alive() and not errors


@pytest.mark.slow
def test_in_two_threads_at_once() -> None:
    """Each world is its own thread's; what is replaced for both is there again when both are over."""
    calls = time.sleep, threading.Thread.start, socket.socket.connect
    errors: list[BaseException] = []
    both = threading.Barrier(2)

    def slow(w: ft.World) -> None:
        meeting(w)
        for _ in range(300):
            flower.schedule()

    def search() -> None:
        both.wait()
        try:
            ft.explore(max_examples=30, database=None)(slow)()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert calls == (time.sleep, threading.Thread.start, socket.socket.connect)
    assert gc.isenabled()
