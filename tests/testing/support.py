"""Helpers of the kit's own tests: run a search that must find something, and look at what it found."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from flower import channel
from flower.channels import _scheduler
from flower.testing import Finding, World, explore

COMPILED: bool = _scheduler.COMPILED
SCHEDULE = re.compile(r"--flower-schedule=(\S+)")


def found(kind: type[BaseException], test: Callable[..., Any], /, **options: Any) -> Any:
    """Explore the test, which must fail in this way; gives the error."""
    options = {"max_examples": 300, "database": None, "seed": 1, **options}
    try:
        explore(**options)(test)()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not found")


def holds(test: Callable[..., Any], /, **options: Any) -> None:
    """Explore the test, which must pass."""
    explore(**{"max_examples": 100, "database": None, "seed": 1, **options})(test)()


def meeting(w: World, n: int = 1) -> None:
    """A test that holds: so many values from a tasklet to main."""
    ch = channel()
    w.go(ch.send_sequence, range(n))
    assert [ch.receive() for _ in range(n)] == list(range(n))


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


def schedule_of(error: BaseException) -> str:
    """The schedule string of a report."""
    match = SCHEDULE.search(notes(error))
    assert match, notes(error)
    return match[1]


def out_of_turn(error: BaseException) -> int:
    """How many switches out of turn the report's schedule has."""
    choices = schedule_of(error).split(":")[3]
    return len(re.findall("[pr]", choices))


def kind_of(error: BaseException) -> str:
    assert isinstance(error, Finding)
    return type(error).__name__
