"""What a benchmark is made of: subjects, their competitors, the targets, and the stopwatch.

A subject is one kind of work. Each competitor does that work once, with one library, in one spelling (its
``variant``). A competitor is a function ``f(n, watch)`` that does the work ``n`` times and runs the watch
around the part that counts; the rest (imports, building the channels, starting the loop) is not timed.

Nothing in this file, and nothing at the top of a subject's file, imports a library that is measured: the
runner reads the registry in its own process, and a worker imports only what its one competitor needs.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

PURE = "flower, uncompiled"
"""The name under which the uncompiled core competes."""


class Stopwatch:
    """Wall and CPU time of one ``with`` block. CPU time is the whole process's, all threads together."""

    def __init__(self) -> None:
        self.wall = 0.0
        self.cpu = 0.0
        self.value: float | None = None  # set instead of running the watch, by subjects that measure no time

    def __enter__(self) -> Stopwatch:
        self.cpu = time.process_time()
        self.wall = time.perf_counter()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.wall = time.perf_counter() - self.wall
        self.cpu = time.process_time() - self.cpu


Function = Callable[[int, Stopwatch], object]


@dataclass(frozen=True)
class Competitor:
    """One library doing a subject's work in one spelling."""

    library: str  # "flower", PURE, "gevent", "go", ...
    variant: str  # which spelling of the work; "" where there is only one
    function: Function | None  # None: the Go program does it
    n: int  # how many times the work is done in one timing
    env: dict[str, str] = field(default_factory=dict)
    repeats: int = 3  # timings in one process; the best one counts

    @property
    def key(self) -> tuple[str, str]:
        return (self.library, self.variant)

    def __str__(self) -> str:
        return f"{self.library}: {self.variant}" if self.variant else self.library


@dataclass(frozen=True)
class Target:
    """A promise about one ratio, or about one figure where ``peer`` is None.

    The ratio is cost of ``ours`` over cost of ``peer``; ``times_faster`` is the same the other way round,
    which is how "n times faster than" is promised.
    """

    text: str
    ours: tuple[str, str]
    peer: tuple[str, str] | None
    limit: float
    kind: Literal["at most", "times faster"]
    origin: Literal["design", "extra"] = "design"  # "design": a row of the design's speed table


@dataclass
class Subject:
    """One kind of work, and everyone who does it."""

    name: str  # what --only takes; also the Go program's first argument
    title: str
    unit: str  # "ns" (a time per unit of work), "bytes" or "ms"
    per: str  # the unit of work: "value", "tasklet", ...
    rounds: int | None = None  # overrides the run's number of rounds, for subjects that cost seconds
    competitors: list[Competitor] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)  # library -> why it has no counterpart
    prepare: Callable[[], object] | None = None  # called once before the subject is run, in the runner's process

    def add(
        self,
        library: str,
        function: Function | None,
        n: int,
        variant: str = "",
        env: dict[str, str] | None = None,
        repeats: int = 3,
    ) -> None:
        competitor = Competitor(library, variant, function, n, env or {}, repeats)
        if any(other.key == competitor.key for other in self.competitors):
            raise ValueError(f"{self.name}: {competitor} is there already")
        self.competitors.append(competitor)

    def by(self, library: str, n: int, variant: str = "", repeats: int = 3) -> Callable[[Function], Function]:
        """Decorator: this function is how ``library`` does the work."""

        def register(function: Function) -> Function:
            self.add(library, function, n, variant, repeats=repeats)
            return function

        return register

    def flower(
        self, n: int, pure_n: int | None = None, variant: str = "", repeats: int = 3
    ) -> Callable[[Function], Function]:
        """Decorator: Flower's way, run compiled and, ``pure_n`` times (by default n / 3), uncompiled."""

        def register(function: Function) -> Function:
            self.add("flower", function, n, variant, repeats=repeats)
            self.add(PURE, function, pure_n or n // 3, variant, {"FLOWER_PURE": "1"}, repeats)
            return function

        return register

    def go(self, n: int, variant: str = "", repeats: int = 3, procs: int = 1) -> None:
        """Go's way, in the Go program under this subject's name and this variant."""
        self.add("go", None, n, variant, {"GOMAXPROCS": str(procs)}, repeats)

    def no(self, library: str, why: str) -> None:
        """``library`` has nothing to compare; the report says why."""
        self.absent[library] = why

    def at_most(
        self,
        text: str,
        ours: tuple[str, str],
        peer: tuple[str, str] | None,
        limit: float,
        origin: Literal["design", "extra"] = "design",
    ) -> None:
        self.targets.append(Target(text, ours, peer, limit, "at most", origin))

    def faster(
        self,
        text: str,
        ours: tuple[str, str],
        peer: tuple[str, str],
        times: float,
        origin: Literal["design", "extra"] = "design",
    ) -> None:
        self.targets.append(Target(text, ours, peer, times, "times faster", origin))


ORDER = [
    *("handover", "buffered", "spawn", "select", "timers", "memory", "threads"),
    *(
        "rpc_calls",
        "rpc_turns",
        "rpc_notify",
        "rpc_stream",
        "rpc_blocks",
        "rpc_outstanding",
        "rpc_latency",
        "rpc_memory",
    ),
    "net_echo",
    "net_accept",
    "net_tls",
    "net_latency",
    "net_memory",
    "startup",
]
"""The order in which the subjects run and are printed; a new file need not stand here."""


def load(name: str) -> Subject:
    """The subject of one file, and of no other: a worker must not import its neighbours' code."""
    subject = importlib.import_module(f"benchmarks.subjects.{name}").SUBJECT
    if not isinstance(subject, Subject) or subject.name != name:
        raise TypeError(f"benchmarks/subjects/{name}.py must define SUBJECT, a Subject named {name!r}")
    return subject


def names() -> list[str]:
    """The names of all subjects, in the order in which they run."""
    from benchmarks import subjects

    found = {module.name for module in pkgutil.iter_modules(subjects.__path__) if module.name[0] != "_"}
    return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
