"""1,045 generated programs of one channel operation each, after Go's select5: a plain operation or a select,
with the default first, last or absent, each way to take the result, and beside it cases that must not happen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flower import channel, select

Program = Callable[[], Any]

TARGETS = [
    "_, x = {}",
    "x = {}[1]",
    "(c, y) = {}; x = y",
    "box.x = {}[1]; x = box.x",
    "m[13] = {}[1]; x = m[13]",
]
DEFAULTS = ["first", "last", "none"]
IDLE = ["(dummy, 1)", "dummy", "(None, 1)", "None"]
IDLE_ORDERED = ["(at(dummy, {}), at(1, {}))", "at(dummy, {})", "(at(None, {}), at(1, {}))", "at(None, {})"]
NOTHING = [
    "(dummy, 1)",
    "(None, 1)",
    "dummy",
    "*[dummy]",
    "dummy.receiver",
    "None",
    "*[None]",
    "*(None, None)",
]


class Fixed:
    """What the programs work on. Each channel is buffered, so that one tasklet is enough."""

    def __init__(self) -> None:
        self.n = 0
        self.order = 0
        self.names: dict[str, Any] = {
            "ch": channel(1),
            "dummy": channel(),
            "select": select,
            "at": self.at,
            "box": type("Box", (), {})(),
            "m": {},
        }

    def at(self, value: Any, order: int) -> Any:
        """value; the calls' orders must increase."""
        assert order > self.order, f"invalid order {order} after {self.order}"
        self.order = order
        return value

    def run(self, source: str) -> None:
        self.n += 1
        self.order = 0
        names = {**self.names, "n": self.n, "x": None}
        exec(source, names)
        assert names["x"] == self.n, source
        assert (len(self.names["ch"]), self.names["ch"].balance) == (0, 0), source
        assert (len(self.names["dummy"]), self.names["dummy"].balance) == (0, 0), source


def subsets(cases: list[str]) -> Iterator[list[str]]:
    for chosen in itertools.product([True, False], repeat=len(cases)):
        yield list(itertools.compress(cases, chosen))


def numbered(cases: list[str], order: int) -> list[str]:
    """The cases with their evaluations numbered from order."""
    done = []
    for case in cases:
        places = case.count("{}")
        done.append(case.format(*range(order, order + places)))
        order += places
    return done


def call(default: str, cases: list[str]) -> str:
    given = "default='nonblock'"
    if default == "first":
        return f"select({given}, *[{', '.join(cases)}])"
    return f"select({', '.join([*cases, given] if default == 'last' else cases)})"


def receives() -> Iterator[str]:
    yield "ch.send(n); x = ch.receive()"
    for default, target, idle in itertools.product(DEFAULTS, TARGETS, subsets(IDLE)):
        yield "ch.send(n); " + target.format(call(default, ["ch", *idle]))


def ordered_receives() -> Iterator[str]:
    yield "ch.send(n); x = at(ch, 2).receive()"
    yield "ch.send(n); m[at(13, 3)] = at(ch, 2).receive(); x = m[13]"
    for default, target, idle in itertools.product(DEFAULTS, TARGETS[:4], subsets(IDLE_ORDERED)):
        yield "ch.send(n); " + target.format(call(default, ["at(ch, 1)", *numbered(idle, 2)]))


def sends() -> Iterator[str]:
    yield "ch.send(n); x = ch.receive()"
    for default, idle in itertools.product(DEFAULTS, subsets(IDLE)):
        yield call(default, ["(ch, n)", *idle]) + "; x = ch.receive()"


def ordered_sends() -> Iterator[str]:
    yield "at(ch, 1).send(at(n, 2)); x = ch.receive()"
    for default, idle in itertools.product(DEFAULTS, subsets(IDLE_ORDERED)):
        yield call(default, ["(at(ch, 1), at(n, 2))", *numbered(idle, 3)]) + "; x = ch.receive()"


def defaults() -> Iterator[str]:
    for default, cases in itertools.product(["first", "last"], subsets(NOTHING)):
        yield f"assert {call(default, cases)} == (None, 'nonblock'); x = n"


FAMILIES: dict[str, tuple[Callable[[], Iterator[str]], int]] = {
    "receives": (receives, 241),
    "ordered receives": (ordered_receives, 194),
    "sends": (sends, 49),
    "ordered sends": (ordered_sends, 49),
    "defaults": (defaults, 512),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_select5(family: str) -> None:
    programs, count = FAMILIES[family]
    fixed, done = Fixed(), 0
    for source in programs():
        fixed.run(source)
        done += 1
    assert done == count


def test_select5_has_1045_programs() -> None:
    assert sum(count for _, count in FAMILIES.values()) == 1045
