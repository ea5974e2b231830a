"""The choices of one example: who makes them, and how they are written down.

Everything that is not the program's own doing is one numbered choice among ``size`` alternatives, of a *kind*:

====  ==============================================================================================
p     an operation is done: go on (0), or let one of the other runnable tasklets go first
r     the running tasklet waits or has ended: which of the runnable ones is next, the oldest being 0
s     which of a select's ready cases happens
t     whether time jumps to the next timer although somebody can run
f     whether a fault happens (`flower.testing.on_fault`)
n     whether the simulated network does something out of the ordinary
v     which of several things it is
====  ==============================================================================================

Alternative 0 is the plain one, which costs nothing to choose: a schedule is written down as its other choices.

PCT: Burckhardt, Kothari, Musuvathi, Nagarakatte, "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs"
(2010). Here a change point sends the tasklet to the back until nobody else can run, and the rest is first in first
out, so that the guarantee holds only roughly, and a schedule without change points costs no draw.
"""

from __future__ import annotations

import ast
import base64
import zlib
from collections.abc import Callable
from typing import Any

from flower.testing._findings import ScheduleError

VERSION = "flower1"
UNKNOWN = "!"  # in the place of a value that no text gives back
HORIZONS = (8, 32, 128)  # decisions, among which PCT's change points are spread
CHANGE_POINTS = 3  # at most; most bugs need one or two (Burckhardt et al., section 2)
OTHERS = 120  # among which a change point draws who goes first: about even, however many can
MOST_DRAWS = 2_000  # an example; Hypothesis gives up after some 4,000 small integers
PATIENCE = 200  # decisions that a tasklet which was sent to the back is kept waiting, at most

Draw = Callable[[int], int]  # a number from 0 to n - 1, 0 being the simplest


class Strategy:
    """Chooses; the base always takes the plain alternative."""

    def choose(self, kind: str, size: int, tasks: Any) -> int:
        """An alternative from 0 to size - 1. ``tasks`` are the tasklets among which p and r choose, else None."""
        return 0


class _Drawing(Strategy):
    """What the strategies that draw have in common: select's cases evenly, rare events after drawn gaps."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._draws = 0
        self._gaps: dict[str, int] = {}

    def draw(self, size: int) -> int:
        if size < 2 or self._draws >= MOST_DRAWS:
            return 0
        self._draws += 1
        return self._draw(size)

    def gap(self, scales: int) -> int:
        """How many decisions until the next event, log-uniform; 0: there is none any more."""
        scale = self.draw(scales + 1)
        return scale and (1 << (scale - 1)) + self.draw(1 << (scale - 1))

    def due(self, stream: str, scales: int) -> bool:
        """Whether an event of the stream happens now."""
        left = self._gaps.get(stream)
        if left is None:
            left = self.gap(scales)
        if left > 1 or left == 0:
            self._gaps[stream] = left and left - 1
            return False
        self._gaps[stream] = self.gap(scales)
        return True

    def choose(self, kind: str, size: int, tasks: Any) -> int:
        if kind == "s":
            return self.draw(size)
        if kind in ("p", "r"):
            return self.schedule(kind, size, tasks)
        if kind == "v":
            return self.draw(size)
        return 1 + self.draw(size - 1) if self.due(kind, 5) else 0

    def schedule(self, kind: str, size: int, tasks: Any) -> int:
        raise NotImplementedError


class Gap(_Drawing):
    """Pre-empts after log-uniform gaps."""

    def schedule(self, kind: str, size: int, tasks: Any) -> int:
        if not self.due("p", 7):
            return 0
        return 1 + self.draw(size - 1) if kind == "p" else self.draw(size)


class Pct(_Drawing):
    """A few change points, each of which sends the running tasklet to the back until nobody else can run."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(draw)
        self._points: dict[int, int] = {}  # decisions, and who goes first there
        for _ in range(CHANGE_POINTS):  # each has its draws side by side, and no count: so it is shrunk away by itself
            horizon = self.draw(len(HORIZONS) + 1)
            if not horizon:
                break
            decision = self.draw(HORIZONS[horizon - 1])
            self._points[decision] = self.draw(OTHERS)
        self._decisions = -1
        self._delayed: dict[Any, int] = {}

    def schedule(self, kind: str, size: int, tasks: Any) -> int:
        self._decisions += 1
        other = self._points.get(self._decisions)
        if kind == "p":
            if other is None:
                return 0
            self._delayed[tasks[0]] = self._decisions + PATIENCE
            return 1 + other % (size - 1)
        chosen = self._first_in_line(tasks) if other is None else other % size
        self._delayed.pop(tasks[chosen], None)
        return chosen

    def _first_in_line(self, tasks: Any) -> int:
        if self._delayed:
            for i, t in enumerate(tasks):
                until = self._delayed.get(t)
                if until is None or until < self._decisions:
                    return i
        return 0


class Auto(Strategy):
    """PCT or Gap: each finds what the other misses."""

    def __init__(self, draw: Draw) -> None:
        self._chosen = Gap(draw) if draw(2) else Pct(draw)

    def choose(self, kind: str, size: int, tasks: Any) -> int:
        return self._chosen.choose(kind, size, tasks)


class Walk(_Drawing):
    """Every choice evenly: finds small bugs soon, in schedules that are long to read."""

    def schedule(self, kind: str, size: int, tasks: Any) -> int:
        return self.draw(size)


class All(_Drawing):
    """Every choice by one draw, without any waste: Hypothesis then runs through all schedules of a tiny program."""

    def choose(self, kind: str, size: int, tasks: Any) -> int:
        return self.draw(size)


class Replay(Strategy):
    """Replay(schedule)

    Makes the choices that a schedule string holds. As a ``strategy=`` of `explore`, it runs that one schedule.

    Raises ScheduleError for a string that is damaged or of another version.
    """

    def __init__(self, schedule: str) -> None:
        self.schedule = schedule
        self.program, self.count, self.taken, self.values = _parse(schedule)
        self._number = -1
        self._value = -1

    def fresh(self) -> Replay:
        """The same once more, from its start."""
        return Replay(self.schedule)

    def choose(self, kind: str, size: int, tasks: Any) -> int:
        self._number += 1
        found = self.taken.get(self._number)
        if found is None:
            return 0
        if found[0] != kind or found[2] != size:
            raise ScheduleError(
                f"the schedule is of another program, or this one has changed: its choice {self._number} is of kind "
                f"{found[0]!r} among {found[2]}, here it is of kind {kind!r} among {size}"
            )
        return found[1]

    def value(self) -> Any:
        """The next drawn value."""
        if self.values is None:
            raise ScheduleError("this schedule has drawn values that no string can hold: use Hypothesis's own blob")
        self._value += 1
        if self._value >= len(self.values):
            raise ScheduleError("the schedule is of another program, or this one has changed: it draws more values")
        return self.values[self._value]

    def skip(self, count: int) -> None:
        """Pass over the first drawn values."""
        self._value += count

    def unused(self) -> int:
        """How many of the choices and the drawn values have not been asked for."""
        return sum(number > self._number for number in self.taken) + len(self.values or ()) - self._value - 1


KINDS: dict[str, Callable[[Draw], Strategy]] = {"auto": Auto, "pct": Pct, "gap": Gap, "walk": Walk, "all": All}


class Choices:
    """The choices of one example, as they are made."""

    def __init__(self, strategy: Strategy, program: str = "") -> None:
        self.strategy = strategy
        self.program = program
        self.count = 0
        self.taken: list[tuple[int, str, int, int]] = []
        self.values: list[str] = []  # what was drawn, as `literal` gives it
        self.stopped = False

    def choose(self, kind: str, size: int, tasks: Any = None) -> int:
        if self.stopped:
            return 0
        number = self.count
        self.count += 1
        chosen = self.strategy.choose(kind, size, tasks)
        if chosen:
            self.taken.append((number, kind, chosen, size))
        return chosen

    def stop(self) -> None:
        """From here on only the plain alternatives, and no draws."""
        self.stopped = True

    def out_of_order(self) -> int:
        """How many times a tasklet ran out of its turn."""
        return sum(kind in "pr" for _, kind, _, _ in self.taken)

    def schedule(self) -> str:
        """The schedule string."""
        taken = ",".join(f"{number}{kind}{chosen}/{size}" for number, kind, chosen, size in self.taken)
        return f"{VERSION}:{fingerprint(self.program)}:{self.count}:{taken}:{_pack(self.values)}"


def literal(value: Any) -> str:
    """The value as Python text, or UNKNOWN if it is none that a text gives back."""
    try:
        text = repr(value)
        back = ast.literal_eval(text)
        return text if back == value and type(back) is type(value) else UNKNOWN
    except Exception:  # it is of a program's own kind
        return UNKNOWN


def fingerprint(program: str) -> str:
    """What a schedule string says of its program; of a test with parameters, also for which ones it is: ``test[1]``."""
    return "-".join(f"{zlib.crc32(part.encode()):08x}" for part in program.split("[", 1))


def _pack(values: list[str]) -> str:
    """The drawn values as text; UNKNOWN where that would not give them back."""
    if not values or UNKNOWN in values:
        return UNKNOWN if values else ""
    text = f"[{', '.join(values)}]"
    return base64.urlsafe_b64encode(zlib.compress(text.encode())).decode().rstrip("=")


def _unpack(text: str) -> list[Any] | None:
    if not text:
        return []
    if text == UNKNOWN:
        return None
    data = zlib.decompress(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    values = ast.literal_eval(data.decode())
    if not isinstance(values, list):
        raise ValueError(values)
    return values


def _parse(schedule: str) -> tuple[str, int, dict[int, tuple[str, int, int]], list[Any] | None]:
    if not isinstance(schedule, str):
        raise TypeError(f"a schedule is a str, as a report shows it, not {schedule!r}")
    parts = schedule.strip().split(":")
    if not parts[0].startswith("flower"):
        raise ScheduleError(f"this is no schedule string: {schedule!r}")
    if parts[0] != VERSION:
        raise ScheduleError(
            f"the schedule is of version {parts[0]}, and this Flower replays {VERSION} only: {schedule!r}"
        )
    try:
        _, program, count, choices, values = parts
        taken = {}
        for item in filter(None, choices.split(",")):
            left, _, size = item.partition("/")
            kind = next(c for c in left if not c.isdigit())
            number, _, chosen = left.partition(kind)
            if not 0 < int(chosen) < int(size):
                raise ValueError(item)
            taken[int(number)] = (kind, int(chosen), int(size))
        return program, int(count), taken, _unpack(values)
    except (ValueError, TypeError, StopIteration, SyntaxError, RecursionError, MemoryError, zlib.error) as error:
        raise ScheduleError(f"the schedule string is damaged ({error}): {schedule!r}") from None
