"""Each automatic check finds what it is there for, and says it well."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import pytest

import flower
import flower.testing as ft
from flower.channels._scheduler import current_scheduler
from tests.testing.support import found, holds, notes


def behind_the_books(operation: Any, *args: Any) -> Any:
    """Carry an operation out unseen, as a fault in the core would."""
    current_scheduler().passing = True
    return operation(*args)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("n", "n", "n-2", "n"), ["n", "n-2", "n-2-2", "n-3"]),
        (("n-2", "n", "n"), ["n-2", "n", "n-3"]),
        (("test", "test"), ["test-2", "test-3"]),
    ],
)
def test_no_two_tasklets_have_one_name_in_a_report(labels: tuple[str, ...], names: list[str]) -> None:
    def test(w: ft.World) -> None:
        for label in labels:
            w.go(flower.channel().receive, name=label)

    error = found(ft.Deadlock, test)
    assert re.findall(r"(\S+) waits in receive", str(error)) == names


@pytest.mark.slow
def test_deadlock_names_who_waits_where() -> None:
    def test(w: ft.World) -> None:
        left, right = flower.channel(1, label="left"), flower.channel(1, label="right")
        left.send("fork")
        right.send("fork")

        def eat(first: Any, second: Any) -> None:
            first.receive()
            second.receive()
            first.send("fork")
            second.send("fork")

        w.go(eat, left, right, name="ann")
        w.go(eat, right, left, name="bob")

    error = found(ft.Deadlock, test)
    text = str(error)
    assert isinstance(error, flower.Deadlock)
    assert "ann waits in receive on 'right' (balance -1), at " in text
    assert "bob waits in receive on 'left' (balance -1), at " in text
    assert "test_findings.py" in text and "in eat" in text
    assert "is pre-empted" in notes(error)


def test_deadlock_where_the_test_itself_waits() -> None:
    def test(w: ft.World) -> None:
        flower.channel(label="nobody").receive()

    error = found(ft.Deadlock, test)
    assert "test waits in receive on 'nobody'" in str(error)
    assert "receive on 'nobody': waits" in notes(error)  # the last to wait is in the log, too


def test_two_deadlocks_in_different_places_are_two_findings() -> None:
    def one(w: ft.World) -> None:
        flower.channel().receive()

    def two(w: ft.World) -> None:
        flower.channel().send(1)

    assert type(found(ft.Deadlock, one)) is not type(found(ft.Deadlock, two))
    assert type(found(ft.Deadlock, one)) is type(found(ft.Deadlock, one))


@pytest.mark.slow
def test_a_program_may_catch_its_deadlock() -> None:
    def test(w: ft.World) -> None:
        with pytest.raises(flower.Deadlock):
            flower.channel().receive()

    holds(test)


@pytest.mark.slow
def test_daemons_may_be_left() -> None:
    def test(w: ft.World) -> None:
        w.go(flower.channel().receive, daemon=True)
        flower.tasklet(flower.channel().receive, daemon=True)()

    holds(test)


def test_tasklet_leak() -> None:
    def test(w: ft.World) -> None:
        def program() -> None:
            flower.go(flower.channel(label="forgotten").receive)

        w.go(program)

    error = found(ft.TaskletLeak, test)
    assert "waits in receive on 'forgotten'" in str(error)


def test_step_limit_shows_the_cycle() -> None:
    def test(w: ft.World) -> None:
        ping, pong = flower.channel(label="ping"), flower.channel(label="pong")

        def player(mine: Any, theirs: Any) -> None:
            while True:
                theirs.send("ball")
                mine.receive()

        w.go(player, ping, pong)

        def answer() -> None:
            while True:
                pong.receive()
                ping.send("ball")

        w.go(answer)

    error = found(ft.StepLimit, test, max_steps=300, max_examples=10)
    assert any("send('ball') on 'pong'" in line for line in error.cycle)
    assert "goes round in this cycle" in str(error)


def test_the_log_says_who_goes_on_after_a_sleep_or_a_join() -> None:
    """What follows, a cancellation perhaps, need not be an operation."""

    def test(w: ft.World) -> None:
        def rest(seconds: float) -> None:
            with flower.move_on(2):
                flower.time.sleep(seconds)

        one, two = w.go(rest, 1, name="one"), w.go(rest, 3, name="two")
        one.join()
        two.join()
        raise AssertionError

    log = re.findall(r"(\S+) s  (\S+ +\S+: goes on)", notes(found(AssertionError, test, max_examples=1)))
    assert log == [
        ("1.000", "one   sleep: goes on"),
        ("1.000", "test  join: goes on"),
        ("2.000", "two   sleep: goes on"),
        ("2.000", "test  join: goes on"),
    ]


def test_a_ticker_that_goes_on_for_good_is_a_cycle() -> None:
    """Although it sends another time with each tick."""

    def test(w: ft.World) -> None:
        def work() -> None:
            for _ in flower.tick(0.5):
                pass

        flower.go(work)

    error = found(ft.StepLimit, test, max_steps=300, max_examples=5)
    assert len(error.cycle) == 3 and "work: receive on 'tick 0.5 s': waits" in error.cycle


def test_a_livelock_of_yields_ends_and_shows_its_cycle() -> None:
    def test(w: ft.World) -> None:
        while True:
            flower.schedule()

    error = found(ft.StepLimit, test, max_steps=300, max_examples=5)
    assert error.cycle == ("test: gives way",)


@pytest.mark.slow
def test_a_poll_is_no_livelock() -> None:
    """Who gives way goes to the end of the queue, whatever is chosen."""

    def test(w: ft.World) -> None:
        done = []
        ch = flower.channel()
        w.go(lambda: (ch.receive(), done.append(1)))
        w.go(ch.send, 1)
        while not done:
            flower.schedule()

    holds(test, max_examples=300)


def test_tasklet_failed() -> None:
    def test(w: ft.World) -> None:
        def fail() -> None:
            raise KeyError("lost")

        w.go(fail)
        flower.channel(label="answer").receive()

    error = found(ft.TaskletFailed, test)
    assert isinstance(error.__cause__, KeyError)
    assert "fail ended with an error that nobody collected: KeyError: 'lost'" in str(error)


@pytest.mark.slow
def test_an_error_that_is_joined_is_collected() -> None:
    def test(w: ft.World) -> None:
        t = flower.go(lambda: {}["missing"])
        with pytest.raises(KeyError):
            t.join()
        with pytest.raises(KeyError), flower.group() as g:
            g.go(lambda: {}["missing"])

    holds(test)


def test_a_program_with_an_error_handler() -> None:
    """One that is set in the world is the program's, and what it takes is collected; one from outside is not."""
    errors: list[BaseException] = []

    def test(w: ft.World) -> None:
        if inside:
            flower.set_error_handler(lambda t, error: errors.append(error))
        w.go(lambda: {}["missing"])

    before = flower.set_error_handler(lambda t, error: errors.append(error))
    try:
        inside = False
        found(ft.TaskletFailed, test, max_examples=2)
        assert errors == []
        inside = True
        holds(test, max_examples=2)
        assert all(isinstance(error, KeyError) for error in errors) and errors
    finally:
        flower.set_error_handler(before)


def test_a_failed_assertion_in_a_tasklet() -> None:
    def test(w: ft.World) -> None:
        def check() -> None:
            assert w.now == 1

        w.go(check)

    assert isinstance(found(ft.TaskletFailed, test).__cause__, AssertionError)


def test_value_lost() -> None:
    def test(w: ft.World) -> None:
        ch = flower.channel(2, label="box")
        ch.send("letter")
        behind_the_books(ch.try_receive)
        w.keep = ch  # type: ignore[attr-defined]

    assert "'box': 'letter', sent by test, was not received" in str(found(ft.ValueLost, test))


def test_value_duplicated() -> None:
    def test(w: ft.World) -> None:
        ch = flower.channel(2, label="box")
        value = object()
        ch.send(value)
        behind_the_books(ch.try_send, value)
        ch.receive()
        ch.receive()

    assert "received" in str(found(ft.ValueDuplicated, test))


def test_a_value_whose_sender_was_told_that_it_was_not_sent() -> None:
    def test(w: ft.World) -> None:
        ch = flower.channel(label="box")
        value = object()
        with pytest.raises(flower.Timeout):
            ch.send(value, timeout=1)
        w.go(lambda: behind_the_books(ch.send, value))
        w.settle()
        ch.receive()

    assert "told that it was not sent" in str(found(ft.ValueDuplicated, test, early_timers=0))


def test_select_fired_twice() -> None:
    def test(w: ft.World) -> None:
        a, b = flower.channel(1, label="a"), flower.channel(1, label="b")
        one, two = object(), object()
        chosen, _ = flower.select((a, one), (b, two))
        other, value = (b, two) if chosen is a else (a, one)
        behind_the_books(other.try_send, value)
        other.receive()

    assert "another case of that select happened" in str(found(ft.SelectFiredTwice, test))


def test_fifo_violation() -> None:
    def test(w: ft.World) -> None:
        ch = flower.channel(3, label="queue")
        ch.send(1)
        ch.send(2)
        first = behind_the_books(ch.try_receive)
        ch.receive()
        behind_the_books(ch.try_send, first)
        ch.receive()

    assert "a later value was received before 1" in str(found(ft.FifoViolation, test))


def test_barging() -> None:
    """Not the tasklet that had waited longest is served."""

    def test(w: ft.World) -> None:
        ch = flower.channel(label="queue")
        for _ in range(2):
            w.go(ch.receive, daemon=True)
        w.settle()
        first, second = ch._waiting()[1]
        book = w.tap.book(ch)
        assert book.served("receive", [first, second], [second], None) is None
        wrong = book.served("receive", [first, second], [first], None)
        assert wrong is not None
        raise wrong

    assert "had waited longest to receive" in str(found(ft.FifoViolation, test))


class Lying(flower.channel[Any]):
    """A channel that says something else than what is."""

    lie: ClassVar[dict[str, Any]] = {}

    @property
    def balance(self) -> int:
        return int(self.lie.get("balance", super().balance))

    @property
    def capacity(self) -> float:
        return float(self.lie.get("capacity", super().capacity))

    def _waiting(self) -> Any:
        return self.lie.get("waiting", super()._waiting())


@pytest.mark.parametrize(
    ("kind", "what"),
    [(ft.CapacityExceeded, "capacity"), (ft.BalanceMismatch, "balance"), (ft.GhostWaiter, "waiting")],
)
def test_a_channel_that_is_not_as_it_says(kind: type[ft.Finding], what: str) -> None:
    def test(w: ft.World) -> None:
        ch = Lying(2, label="liar")
        Lying.lie = {"waiting": ([flower.getcurrent()], []), "balance": 7, "capacity": 0}
        Lying.lie = {what: Lying.lie[what]}
        try:
            ch.send(1)
        finally:
            Lying.lie = {}

    assert "'liar'" in str(found(kind, test))


@pytest.mark.slow
def test_starvation_when_asked_for() -> None:
    def test(w: ft.World) -> None:
        left, busy = flower.channel(label="left out"), flower.channel(label="busy")

        def chat() -> None:
            for _ in range(40):
                busy.send(1)

        w.go(left.receive)
        w.go(chat)
        for _ in range(40):
            busy.receive()
        left.send(1)

    holds(test)
    assert "receive waits in receive on 'left out'" in str(found(ft.Starvation, test, starvation=50))
