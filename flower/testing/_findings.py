"""What the kit can find wrong, each a type of its own, and what can be wrong with its use."""

from __future__ import annotations

from typing import Any

from flower import errors


class Finding(AssertionError):
    """Something that the kit has found wrong with a program. Its notes hold the schedule that leads there."""


class TaskletFailed(Finding):
    """A tasklet ended with an error that nobody collected. The error is the cause."""


class StepLimit(Finding):
    """The program was not done after ``max_steps`` steps. ``cycle`` is what it does over and over, as text lines."""

    def __init__(self, message: str, cycle: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.cycle = cycle


class Starvation(Finding):
    """A tasklet was blocked in one wait for more than the steps that ``starvation=`` allows, while others went on."""


class CapacityExceeded(Finding):
    """A channel holds more values than its capacity."""


class BalanceMismatch(Finding):
    """A channel's balance, or its length, is not what it really holds; or somebody waits who need not."""


class GhostWaiter(Finding):
    """A tasklet that no longer waits stands in a channel's queue."""


class FifoViolation(Finding):
    """Values, or those who wait for them, overtook one another."""


class SelectFiredTwice(Finding):
    """More than one case of a select happened."""


class ValueDuplicated(Finding):
    """A value was received twice, or was received although its sender was told that it was not sent."""


class ValueLost(Finding):
    """A value was sent, and is neither received nor held."""


class Deadlock(Finding, errors.Deadlock):
    """Everything is asleep for good. The message names each tasklet, what it waits in, the line, and the balance."""


class TaskletLeak(Finding):
    """The test and all that it started are done, and a tasklet that the program started is blocked for good."""


class BlockedOutside(Finding):
    """A tasklet called something that blocks the thread, or reaches the world outside: the kit can't steer that."""


class Nondeterministic(Finding):
    """The same choices did not give the same log: the program depends on something that the kit does not choose."""


class ScheduleError(ValueError):
    """A schedule string is damaged, or of another version, or belongs to another program."""


_kinds: dict[Any, type[Deadlock]] = {}


def deadlock_of(sites: Any) -> type[Deadlock]:
    """The class of the deadlocks at these call sites: two deadlocks in different places are two findings."""
    kind = _kinds.get(sites)
    if kind is None:
        kind = _kinds[sites] = type(
            "Deadlock", (Deadlock,), {"__module__": "flower.testing", "__doc__": Deadlock.__doc__}
        )
    return kind


for _each in [Finding, ScheduleError, *Finding.__subclasses__()]:
    _each.__module__ = "flower.testing"  # where users find them, and what tracebacks say
