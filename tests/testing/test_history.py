"""Histories of calls, and whether they are linearizable."""

from __future__ import annotations

from typing import Any

import pytest

import flower
import flower.testing as ft
from tests.testing.support import found, holds


class Register:
    def __init__(self) -> None:
        self.value = 0

    def write(self, value: int) -> None:
        self.value = value

    def read(self) -> int:
        return self.value


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_linearizable(broken: bool) -> None:
    def test(w: ft.World) -> None:
        turn = flower.channel(20)
        copies = [0, 0]

        def write(value: int) -> None:
            copies[0] = value
            turn.send("between the copies")
            copies[1] = value

        def read() -> int:
            value = copies[turn.balance % 2 if broken else 1]
            turn.send("read")
            return value

        w.go(w.record, write, 1)
        for _ in range(2):
            w.go(lambda: [w.record(read) for _ in range(2)])
        w.settle()
        assert len(w.history()) == 5
        assert w.linearizable(Register)

    if broken:
        found(AssertionError, test)
    else:
        holds(test)


class Stack:
    """A model; what the others below hold shows neither in their attributes nor in their repr."""

    def __init__(self) -> None:
        self.values: Any = []

    def push(self, value: int) -> None:
        self.values.append(value)

    def take(self) -> int:
        return int(self.values.pop())


class StackWithSlots:
    __slots__ = ("values",)
    __init__, push, take = Stack.__init__, Stack.push, Stack.take


class StackThatIsAList(list[int]):
    push, take = list.append, list.pop


class StackInAnObject(Stack):
    def __init__(self) -> None:
        self.values = StackThatIsAList()


class StackThatHoldsItself(Stack):
    def __init__(self) -> None:
        super().__init__()
        self.me = self


@pytest.mark.parametrize(
    "model", [Stack, StackWithSlots, StackThatIsAList, StackInAnObject, StackThatHoldsItself], ids=lambda m: m.__name__
)
def test_states_of_a_model_are_told_apart_whatever_they_are(model: Any) -> None:
    def test(w: ft.World) -> None:
        pushed: list[int] = []

        def push(value: int) -> None:
            for _ in range(3 - value):
                flower.schedule()
            pushed.append(value)
            flower.schedule()

        for value in (1, 2):
            w.go(w.record, push, value)
        w.settle()

        def take() -> int:
            return pushed.pop()

        takes = [w.record(take), w.record(take)]
        assert sorted(takes) == [1, 2]
        assert w.linearizable(model)

    holds(test, max_examples=10)


def test_a_call_that_was_killed_or_cancelled_may_have_happened_or_not() -> None:
    class Box:
        full = False

        def put(self) -> str:
            self.full = True
            return "done"

        def is_full(self) -> bool:
            return self.full

    def test(w: ft.World) -> None:
        room = flower.channel()
        box = Box()

        def put() -> str:
            box.put()
            room.receive()
            return "done"

        def is_full() -> bool:
            return box.is_full()

        t = w.go(w.record, put)
        w.settle()
        t.kill()
        with flower.move_on(0.1):
            w.record(put)
        assert [op.ended for op in w.history()] == [None, None]
        assert w.record(is_full)
        assert w.linearizable(Box)

    holds(test, max_examples=10)


@pytest.mark.parametrize("error", [flower.Timeout, ConnectionResetError])
@pytest.mark.parametrize("done", [True, False])
def test_a_call_whose_answer_did_not_come_may_have_happened_or_not(error: type[OSError], done: bool) -> None:
    def test(w: ft.World) -> None:
        pushed: list[int] = []

        def push(value: int) -> None:
            if done or value == 1:
                pushed.append(value)
            if value == 2:
                raise error

        def take() -> int:
            return pushed.pop()

        w.record(push, 1)
        with pytest.raises(error):
            w.record(push, 2)
        assert w.history()[1].ended is None and error.__name__ in repr(w.history()[1])
        assert w.record(take) == (2 if done else 1)
        assert w.linearizable(Stack)
        pushed.append(3)
        w.record(take)
        assert not w.linearizable(Stack)

    holds(test, max_examples=2)


def test_results_that_are_not_equal_to_themselves() -> None:
    class Model:
        def nan(self) -> float:
            return NAN

    def nan() -> float:
        return NAN

    def test(w: ft.World) -> None:
        w.record(nan)
        assert w.linearizable(Model)

    holds(test, max_examples=2)


NAN = float("nan")


def test_a_model_without_what_was_recorded_is_refused() -> None:
    def test(w: ft.World) -> None:
        w.record(len, "")
        with pytest.raises(TypeError, match="the model, Stack, has no method 'len'"):
            w.linearizable(Stack)

    holds(test, max_examples=2)


def test_too_many_calls_are_refused() -> None:
    def test(w: ft.World) -> None:
        for _ in range(31):
            w.record(len, "")
        with pytest.raises(ValueError, match="30 calls at most, not 31"):
            w.linearizable(dict)

    holds(test, max_examples=2)
