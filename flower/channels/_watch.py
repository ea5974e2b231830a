"""Who looks on at channel operations: the channel callback, and the testing kit, which takes them over.

Each operation looks at ``watched`` alone, unless there is somebody.
"""

from __future__ import annotations

from flower._typing import Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.channels._scheduler import Scheduler

if not cython.compiled:
    from flower.channels._scheduler import here, present

watcher: Any = None
# How many schedulers have an interposer; and whether there is either.
interposed: int = 0
watched: bool = False


def set_watcher(callback: Any) -> Any:
    """Have the callback called before each operation of any channel; returns the one before."""
    global watcher, watched
    before = watcher
    watcher = callback
    watched = callback is not None or interposed > 0
    return before


def set_interposer(s: Scheduler, interposer: Any) -> None:
    """Have the object's methods called for each operation of the scheduler's thread, instead; None ends that.

    They are named as the operations, and take the channel first; `select` has one too. The object carries the
    operation out by calling it again with ``s.passing`` set.
    """
    global interposed, watched
    interposed += (interposer is not None) - (s.interposer is not None)
    s.interposer = interposer
    watched = watcher is not None or interposed > 0


def interposer_here() -> Any:
    """The interposer of this thread, unless this is its own call of an operation."""
    s = present()
    if s is None or s.interposer is None:
        return None
    if s.passing:
        s.passing = False
        return None
    return s.interposer


def get_watcher() -> Any:
    """The callback that `set_watcher` was given last."""
    return watcher


def announce(channel: Any, direction: int, will_block: bool) -> int:
    """Call the channel callback, which may not block."""
    s = here()
    me = s.current
    if watcher is None or me is None or s.traps:
        return 0
    s.traps += 1
    try:
        watcher(channel, me, direction > 0, bool(will_block))
    finally:
        s.traps -= 1
    return 0
