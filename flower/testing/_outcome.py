"""What an example ends with: the checks at its end, the words for who waits where, and the report."""

from __future__ import annotations

import os
import sys
import sysconfig
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from flower.channels._deadlock import REASONS
from flower.channels._failures import note
from flower.channels._task import BLOCKED
from flower.errors import Cancelled, TaskletExit
from flower.testing._choices import UNKNOWN
from flower.testing._findings import BlockedOutside, Finding, StepLimit, TaskletFailed, TaskletLeak, deadlock_of

if TYPE_CHECKING:
    from flower.testing._world import World

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # Flower's own files
_LIBRARY = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib"))  # Python's own


NOTES = ("The schedule (", "Also, ", "To run it again: ")  # what the notes of a report begin with


def is_control(error: BaseException) -> bool:
    """Whether it belongs to the test's machinery (Hypothesis's, pytest's, Ctrl-C), and is no error of the program."""
    module = type(error).__module__
    if module.partition(".")[0] in ("hypothesis", "_pytest"):
        return True
    if isinstance(error, (Exception, SystemExit, Cancelled, TaskletExit, BlockedOutside, BaseExceptionGroup)):
        return False
    pytest = sys.modules.get("pytest")  # what pytest.fail() and pytest.raises() raise is no Exception, and a failure
    return pytest is None or type(error) is not pytest.fail.Exception


def plain(error: Finding) -> Finding:
    """Without the place where it happened to be raised: to Hypothesis, that would make it another finding."""
    error.__traceback__ = None
    error.__context__ = error.__cause__
    return error


def show_error(error: BaseException) -> str:
    """An error in one line."""
    try:
        text = str(error).partition("\n")[0]
    except Exception:  # it is of a program's own kind
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_inside(file: str) -> bool:
    """Whether a line of this file is Flower's or Python's own: the program's line is further out."""
    return file.startswith((PACKAGE, "<frozen ")) or (file.startswith(_LIBRARY) and "-packages" not in file)


def site_of(frame: Any) -> tuple[str, int, str] | None:
    """The line of the program that has led to this frame: file, line, function."""
    while frame is not None and _is_inside(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return None
    file = frame.f_code.co_filename
    try:
        file = os.path.relpath(file)
    except (OSError, ValueError):  # on another drive, or there is no working directory any more
        pass
    return file, frame.f_lineno, frame.f_code.co_name


def line_of(frame: Any) -> str:
    """The program's line that has led to this frame."""
    site = site_of(frame)
    return "?" if site is None else f"{site[0]}:{site[1]} in {site[2]}"


def examine(world: World) -> Finding | None:
    """The checks at the end, in a fixed order: a shrinker slips from one finding to another."""
    if world._failed:
        return tasklet_failed(world)
    for ch, book in world.tap.live():
        finding = book.check(ch)
        if finding is not None:
            return finding
    for ch, book in world.tap.live():
        finding = book.check_rest(ch)
        if finding is not None:
            return finding
    left = [t for t in world._names if t.state != 0 and not t.daemon and t is not world._main]
    if any(t in world._actors for t in left):
        return deadlock(world, left, "the test has ended, and these wait for good")
    left = [t for t in left if not _waits_outside(world, t)]
    if left:
        lines = "\n".join(f"  {describe(world, t)}" for t in left)
        return TaskletLeak(f"everything else is done, and these are left, blocked for good:\n{lines}")
    return None


def describe(world: World, t: Any) -> str:
    """What a tasklet does, and where."""
    if t.state != BLOCKED:
        return f"{world.name_of(t)} is {('dead', 'paused', 'ready', 'running')[t.state]}"
    what = REASONS[t.blocked_in]
    if t.blocked_in in (1, 2, 3):
        what = world.tap.doing.get(t, what)
        owners = [ch for ch, _ in world.tap.live() if any(t in queue for queue in ch._waiting())]
        balances = ", ".join(f"{ch.balance}" for ch in owners)
        if balances:
            what += f" (balance {balances})"
    site = site_of(t.frame)
    return f"{world.name_of(t)} waits in {what}" + (f", at {site[0]}:{site[1]} in {site[2]}" if site else "")


def _waits_outside(world: World, t: Any) -> bool:
    """Whether the tasklet waits for the network, as a server's does: that is not for good."""
    return any(ch._external and t in ch._waiting()[1] for ch, _ in world.tap.live())


def deadlock(world: World, blocked: list[Any], what: str) -> Finding:
    """The finding that these are blocked for good."""
    sites = frozenset((t.blocked_in, site_of(t.frame)) for t in blocked if t.state == BLOCKED)
    lines = "\n".join(f"  {describe(world, t)}" for t in blocked)
    return deadlock_of(sites)(f"{what}:\n{lines}")


def all_asleep(world: World) -> Finding:
    """The finding that nobody can run, and that nothing will come; of the daemons, those count that have a value."""
    blocked = [
        t
        for t in world._names
        if t.state == BLOCKED and (t is world._main or not t.daemon or REASONS[t.blocked_in] == "send")
    ]
    return deadlock(world, blocked, "all tasklets are asleep, and nothing can wake one of them")


def step_limit(world: World) -> Finding:
    """The finding that the program is not done, and goes round perhaps."""
    cycle = world._log.cycle()
    if cycle:
        why = "; it goes round in this cycle:\n" + "\n".join(f"  {line}" for line in cycle)
    else:
        why = ", and no cycle shows in its log"
    return StepLimit(f"the program was not done after {world._max_steps} steps{why}", cycle)


def tasklet_failed(world: World) -> Finding:
    """The finding that a tasklet ended with an error; the first that did."""
    t, error = world._failed[0]
    finding = TaskletFailed(f"{world.name_of(t)} ended with an error that nobody collected: {show_error(error)}")
    finding.__cause__ = error
    return finding


def annotate(world: World, error: BaseException) -> None:
    """Put the report into the error's notes."""
    with suppress(Exception):  # one that can't be changed
        if hasattr(error, "__notes__"):  # a program may raise the same object in each example
            error.__notes__ = [each for each in error.__notes__ if not each.startswith(NOTES)]
    moved = world.choices.out_of_order()
    times = {0: "nobody ran out of turn", 1: "one switch out of turn"}.get(moved, f"{moved} switches out of turn")
    _note(error, f"The schedule ({times}, {world._steps} steps):\n{world._log.text()}")
    others = [pair for pair in world._failed if pair[1] is not error.__cause__ and pair[1] is not error]
    for t, other in others:
        _note(error, f"Also, {world.name_of(t)} ended with {show_error(other)}")
    if UNKNOWN in world.choices.values:
        _note(error, "To run it again: by Hypothesis only, as values were drawn that no schedule string can hold")
    elif world.choices.program:  # else only Hypothesis knows what test it was
        _note(error, f"To run it again: --flower-schedule={world.choices.schedule()}")


def _note(error: BaseException, text: str) -> None:
    if not note(error, lambda: text):
        print(text, file=sys.stderr)


def keep_for_good(what: Any) -> None:
    """A tasklet that goes on after every kill would go round for good in its greenlet's finalizer, too."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(what))
