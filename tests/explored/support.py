"""What the explored tests of the core share.

A World is one thread. The two properties that concern others are explored with real ones, in test_threads.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st

import flower
from flower.channels import _scheduler
from flower.testing import explore

COMPILED: bool = _scheduler.COMPILED
EXAMPLES = 100 if COMPILED else 60

CAPACITY: Any = st.integers(0, 2)


def explored(test: Callable[..., Any]) -> Any:
    """Explore the test of the core as often as the whole suite has time for; the same schedules each time."""
    return pytest.mark.slow(explore(max_examples=EXAMPLES, database=None, seed=5)(test))


def explored_on_time(test: Callable[..., Any]) -> Any:
    """The same, where time passes only when nobody can run: a deadline is met exactly."""
    return pytest.mark.slow(explore(max_examples=EXAMPLES, database=None, seed=5, early_timers=0)(test))


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a call gives: ``("done", result)``, or the name of the exception's class."""
    try:
        return "done", function(*args, **kwargs)
    except (flower.Timeout, flower.ChannelClosed, flower.Cancelled, flower.TaskletExit) as error:
        return type(error).__name__


class Results:
    """Starts tasklets, and keeps what their calls gave: ``results["name"]``."""

    def __init__(self, w: Any) -> None:
        self._w = w
        self.outcomes: dict[str, Any] = {}

    def go(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def body() -> None:
            self.outcomes[name] = "killed"
            self.outcomes[name] = outcome(function, *args, **kwargs)

        body = functools.wraps(function)(body) if hasattr(function, "__name__") else body
        return self._w.go(body, name=name)

    def __getitem__(self, name: str) -> Any:
        return self.outcomes.get(name)

    def received(self) -> list[Any]:
        """What was received, by whoever: of the calls that gave a value."""
        return [result[1] for result in self.outcomes.values() if isinstance(result, tuple) and result[1] is not None]

    def sent(self, *names: str) -> int:
        """How many of the named sends were done."""
        return sum(isinstance(self.outcomes.get(name), tuple) for name in names)


def drain(ch: Any) -> list[Any]:
    """What is held or offered, taken out without waiting."""
    found = []
    while True:
        try:
            value = ch.try_receive(drain)
        except flower.ChannelClosed:
            return found
        if value is drain:
            return found
        found.append(value)
