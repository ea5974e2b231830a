"""Everything is asleep: is it for good, and what is said then."""

from __future__ import annotations

import _thread
import gc
import math
import sys
import threading
import time
import weakref

from flower._typing import TYPE_CHECKING, Any
from flower.channels import _hub, _scheduler
from flower.channels._channel import channel
from flower.channels._delivery import raise_in_main
from flower.channels._forks import after_fork
from flower.channels._scheduler import fail
from flower.channels._task import BLOCKED, PAUSED, SELECT, Task, case_channels, place
from flower.errors import Deadlock

if TYPE_CHECKING:
    from types import FrameType

# Other threads are looked at again after so many seconds: one may have ended, which wakes nobody.
SECONDS_BETWEEN_LOOKS = 1.0

# A thread that was just started is one only when it has had its first turn, for which it is given so many seconds.
SECONDS_TO_START = 0.01
_sleep = time.sleep  # a test may put another into its place

# More tasklets than this are counted in a report, not listed.
LONGEST_REPORT = 50

# Calls of `blocking` that have not ended: their worker threads, ignored otherwise, could wake somebody.
jobs_given = 0

# Task.blocked_in, in words.
REASONS = ("", "send", "receive", "select", "join", "sleep", "run", "schedule_remove")

# The schedulers of all threads, by number, plain threads' too: one is gone from `threading.enumerate` before its
# scheduler has ended.
adopted: dict[int, Any] = {}

_ignored: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def ignore_thread(thread: threading.Thread | None = None) -> None:
    """Say that a thread (by default this one) never wakes a tasklet, so that it does not hide a Deadlock.

    >>> import threading
    >>> ignore_thread(threading.Thread(target=print, daemon=True))
    """
    if thread is None:
        thread = threading.current_thread()
    elif not isinstance(thread, threading.Thread):
        raise TypeError(f"ignore_thread needs a threading.Thread or None, not {thread!r}")
    _ignored.add(thread)


def asleep_for_good(s: Any) -> float:
    """Nothing is ready and nothing outside is awaited: seconds until the next look, or 0.0 after raising Deadlock."""
    if others_live(s):
        return SECONDS_BETWEEN_LOOKS
    if s.clock is None:
        _sleep(SECONDS_TO_START)
        if others_live(s):
            return SECONDS_BETWEEN_LOOKS
    if s.queued() or s.posts or s.deadline() < math.inf:  # the last of the other threads has seen to that, and ended
        return 0.0
    victim = victim_of(s)
    error = Deadlock(report(s, victim))
    if not fail(victim, error):  # main has left the queue for a tasklet that it switched to
        raise_in_main(s, error)
    return 0.0


def others_live(s: Any) -> bool:
    """Whether there is another thread that could wake somebody."""
    # (Of a thread that `threading` has not made, current_thread() would make one that never ends.)
    others = [t for t in threading.enumerate() if t.ident != s.thread_id]
    ending = adopted.keys() - {s.thread_id, *[t.ident for t in others]}
    unknown = _since_flower(s.thread_id) > 0
    return bool(jobs_given or ending or unknown or any(t not in _ignored for t in others))


def _unknown_threads(mine: int) -> int:
    """How many others there are that `threading` has not made. (The count is without the main thread.)"""
    return max(0, _thread._count() - len([t for t in threading.enumerate() if t.ident != mine]))


def _outermost_frames(mine: int) -> set[FrameType]:
    """The frame that each of those began with, if it runs Python code. (A thread's number is used again after it.)"""
    known = {mine, *[t.ident for t in threading.enumerate()]}
    found = set()
    for number, frame in sys._current_frames().items():
        if number not in known:
            while frame.f_back is not None:
                frame = frame.f_back
            found.add(frame)
    return found


def _since_flower(mine: int) -> int:
    """How many have begun after Flower: the others know nothing of its channels (as those of a test runner)."""
    _before.intersection_update(_outermost_frames(mine))
    return _unknown_threads(mine) - _unseen_before - len(_before)


_before: set[FrameType]
_unseen_before: int


@after_fork
def _note_threads() -> None:
    """At the start; and in a child, where the parent's threads are still counted."""
    global _before, _unseen_before
    mine = threading.get_ident()
    _before = _outermost_frames(mine)
    _unseen_before = max(0, _unknown_threads(mine) - len(_before))


_note_threads()


def victim_of(s: Any) -> Any:
    """Who gets a Deadlock: the last of what `run` runs that waits, or else main."""
    return next((t for t in reversed(s.victims) if t.state == BLOCKED), s.main)


def refusal(text: str, t: Any) -> RuntimeError:
    """The error of a task that can't wait where it is; see `_failures.was_refused`."""
    error = RuntimeError(text)
    error._flower_refused = id(t)  # type: ignore[attr-defined]
    return error


def refuse_foreign_loop() -> None:
    """Raise RuntimeError if an event loop of somebody else runs in this thread."""
    if _hub.foreign_loop_runs():
        raise refusal(_FOREIGN, _scheduler.current_scheduler().current)


def refuse_in_main(s: Any) -> bool:
    """Raise that error in main, unless it is about to run anyway; says whether it was raised."""
    if s.main.decided:
        return False
    raise_in_main(s, refusal(_FOREIGN, s.main))
    return True


_FOREIGN = (
    "an asyncio event loop is running in this thread, and waiting here would stop it: "
    "use flower in a thread of its own, or make flower the outermost of the two"
)


def parked_tasks() -> list[Any]:
    """The blocked tasks of all threads, the main ones included."""
    tasks = [t for s in list(adopted.values()) for t in (s.main, *_hub.begun(s))]
    return [t for t in tasks if t.state == BLOCKED and not t.decided]


def _objects(kind: type[Any]) -> list[Any]:
    """All objects of the type. By their true types: to ask a proxy or a mock for its class runs its code, or fails."""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]


def report(s: Any, victim: Any) -> str:
    """Who is blocked, in what, on which object, and where."""
    blocked = [t for t in [s.main, *_hub.begun(s)] if t.state in (BLOCKED, PAUSED)]
    blocked.sort(key=lambda t: t is not victim)
    owners = _owners_of_queues()
    lines = ["all tasklets are asleep, and nothing can wake one of them:"]
    lines += [f"  {t!r} waits {_what_for(t, owners)}{_where(t)}" for t in blocked[:LONGEST_REPORT]]
    if len(blocked) > LONGEST_REPORT:
        lines.append(f"  and {len(blocked) - LONGEST_REPORT} more")
    return "\n".join(lines)


def _owners_of_queues() -> dict[int, Any]:
    """What each queue belongs to. No way back is kept, as it would make a cycle of each channel."""
    owners: dict[int, Any] = {}
    for ch in _objects(channel):
        owners.update((id(queue), ch) for queue in ch._queues())
    for t in _objects(Task):
        if t.joiners is not None:
            owners[id(t.joiners)] = t
    return owners


def _what_for(t: Any, owners: dict[int, Any]) -> str:
    if t.state == PAUSED:
        return "to be inserted"
    what = f"in {REASONS[t.blocked_in]}"
    if t.blocked_in == SELECT:
        return f"{what} on {', '.join(repr(ch) for ch in case_channels(t)) or 'no channel'}"
    owner = owners.get(id(place(t)))
    return what if owner is None else f"{what} on {owner!r}"


def _where(t: Any) -> str:
    frame: FrameType | None = t.carrier.gr_frame if t.carrier is not None else None
    while frame is not None and frame.f_globals.get("__name__", "").startswith("flower.channels."):
        frame = frame.f_back
    if frame is None:
        return ""
    return f", at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
