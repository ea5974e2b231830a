"""The testing kit: Hypothesis chooses the schedule, the clock and the network, and a failure shrinks to a short one.

Tasklets meet only at channels, and the scheduler is Flower's own: so a test can be run under many schedules, with
virtual time and a simulated network, and a failing one can be replayed.

>>> @explore(max_examples=300)
... def test_transfer(w):
...     w.go(teller, accounts)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flower.testing._choices import Replay
from flower.testing._explore import explore, replay, schedules
from flower.testing._findings import (
    BalanceMismatch,
    BlockedOutside,
    CapacityExceeded,
    Deadlock,
    FifoViolation,
    Finding,
    GhostWaiter,
    Nondeterministic,
    ScheduleError,
    SelectFiredTwice,
    Starvation,
    StepLimit,
    TaskletFailed,
    TaskletLeak,
    ValueDuplicated,
    ValueLost,
)
from flower.testing._history import Operation
from flower.testing._outside import on_fault
from flower.testing._world import World

if TYPE_CHECKING:
    from flower.testing._conformance import ChannelConformance, ConnectionConformance
    from flower.testing._machine import machine
    from flower.testing._network import Host, Network
    from flower.testing._plain import connection_pair, no_leaks, virtual_clock, wait_until_parked

# Loaded when they are asked for: a subclass of Hypothesis's, which is not needed to replay a schedule; and the
# network, without which most tests do, and what needs it.
_LATE = {
    "machine": "_machine",
    "Host": "_network",
    "Network": "_network",
    "ChannelConformance": "_conformance",
    "ConnectionConformance": "_conformance",
    "connection_pair": "_plain",
    "no_leaks": "_plain",
    "virtual_clock": "_plain",
    "wait_until_parked": "_plain",
}

__all__ = [
    "BalanceMismatch",
    "BlockedOutside",
    "CapacityExceeded",
    "ChannelConformance",
    "ConnectionConformance",
    "Deadlock",
    "FifoViolation",
    "Finding",
    "GhostWaiter",
    "Host",
    "Network",
    "Nondeterministic",
    "Operation",
    "Replay",
    "ScheduleError",
    "SelectFiredTwice",
    "Starvation",
    "StepLimit",
    "TaskletFailed",
    "TaskletLeak",
    "ValueDuplicated",
    "ValueLost",
    "World",
    "connection_pair",
    "explore",
    "machine",
    "no_leaks",
    "on_fault",
    "replay",
    "schedules",
    "virtual_clock",
    "wait_until_parked",
]


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(importlib.import_module(f"flower.testing.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
