"""The functions that ask the scheduler of this thread for something: run, schedule, getcurrent, and their like."""

from __future__ import annotations

from contextlib import contextmanager

from flower._typing import TYPE_CHECKING, Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.channels import _scheduler, _watch
from flower.channels._scheduler import Scheduler
from flower.channels._tasklet import tasklet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

if not cython.compiled:
    from flower.channels import _nocython as cython  # Cython's own stand-in, if it is installed, is slow
    from flower.channels._scheduler import check_switch, here, park
    from flower.channels._task import REMOVED, RUN
    from flower.channels._uncompiled import hold

_UNSET: Any = object()


def run(main: Any = None, /, *args: Any, **kwargs: Any) -> Any:
    """Run the other tasklets; with ``main``, run it as a tasklet and return its result.

    Without arguments, returns None once nothing that matters can run again: no tasklet is queued, none that is no
    daemon waits for something outside (a connection, a deadline, a worker thread), and no ``after_func``, serving
    listener or child process is pending. Tasklets that are blocked on channels stay so. Runs nest: the innermost
    returns first.

    With ``main``, blocks until ``main(*args, **kwargs)`` ends, and raises what it raises. If everything is asleep for
    good, Deadlock is raised in it, where it waits. What ends the wait early, such as KeyboardInterrupt, kills it.

    Raises errors of tasklets that nobody joins, with a note that names the tasklet.

    >>> run(sum, [1, 2, 3])
    6
    """
    s = here()
    if main is not None:
        t = tasklet(main)
        s.prepare(None)  # what would keep the caller from waiting is raised before the tasklet begins
        t(*args, **kwargs)
        s.victims.append(t)
        try:
            return t.join()
        except BaseException:
            if t.alive:
                t.kill()
            raise
        finally:
            s.victims.remove(t)
    if args or kwargs:
        raise TypeError("run needs a function to call with the arguments")
    me = s.prepare(None)
    s.runs.append(me)
    park(me, RUN, False)
    return None


def schedule(retval: Any = _UNSET) -> Any:
    """schedule(retval=...)

    Let the others run: the current tasklet goes to the end of the queue. Returns ``retval``, or the tasklet.

    Raises what was thrown into the tasklet meanwhile; RuntimeError in a callback.
    """
    s = here()
    check_switch(s)
    me = s.current
    if me.alert:
        _scheduler.cold.alerted(s, me, False)
    s.yield_now()
    return me if retval is _UNSET else retval


def schedule_remove(retval: Any = _UNSET) -> Any:
    """schedule_remove(retval=...)

    Leave the queue, and let the others run, until somebody inserts this tasklet again.

    Returns the tasklet's ``tempval``: ``retval`` (the tasklet, by default), unless the waker has set another.

    Raises what was thrown into the tasklet meanwhile; Deadlock in the main tasklet when nobody is left to insert it.
    """
    s = here()
    me = s.prepare(None)
    me.value = me if retval is _UNSET else retval
    return park(me, REMOVED, False)


def getcurrent() -> Any:
    """The tasklet that is running. In a callback of the event loop, where none is: the main tasklet."""
    s = here()
    return s.main if s.current is None else s.current


def getmain() -> Any:
    """This thread's main tasklet: its own code."""
    return here().main


def getcurrentid() -> int:
    """A number that tells the running tasklet from all others alive."""
    return id(getcurrent())


def getruncount() -> int:
    """How many tasklets of this thread can run, the current one counted."""
    s = here()
    return int(s.ready.count + 1)


def get_scheduler() -> Scheduler:
    """The scheduler of this thread."""
    return here()


def getthreads() -> list[int]:
    """The ids of the threads that have a scheduler, this one first."""
    mine = here().thread_id
    return [mine] + [key for key in _scheduler.cold.schedulers() if key != mine]


def get_thread_info(thread_id: int | None = None) -> tuple[Any, Any, int]:
    """A thread's main tasklet, its current one, and its number of runnable ones; RuntimeError for a thread without."""
    if thread_id is None:
        s = here()
    else:
        found = _scheduler.cold.schedulers().get(thread_id)
        if found is None:
            raise RuntimeError(f"the thread {thread_id!r} has no tasklets")
        s = cython.cast(Scheduler, found)
    return s.main, s.current, int(s.ready.count + 1)


def set_schedule_callback(callback: Callable[[Any, Any], object] | None) -> Any:
    """Have ``callback(previous, next)`` called at each switch between tasklets of this thread; None ends that.

    The callback may not block. Its errors go to ``sys.unraisablehook``. Returns the callback before.
    """
    check_callback(callback)
    s = here()
    before = s.on_switch
    s.on_switch = callback
    return before


def get_schedule_callback() -> Any:
    """The schedule callback of this thread, or None."""
    return here().on_switch


def set_channel_callback(callback: Callable[[Any, Any, bool, bool], object] | None) -> Any:
    """Have ``callback(channel, tasklet, sending, willblock)`` called before each send and receive; None ends that.

    For all threads. The callback may not block; its errors are raised in the tasklet that sends or receives. Returns
    the callback before.
    """
    check_callback(callback)
    return _watch.set_watcher(callback)


def get_channel_callback() -> Any:
    """The channel callback, or None."""
    return _watch.get_watcher()


def check_callback(callback: Any) -> None:
    """Refuse what can't be called."""
    if callback is not None and not callable(callback):
        raise TypeError(f"a callback must be callable or None, not {callback!r}")


def switch_trap(change: int = 0) -> int:
    """Raise (1), lower (-1) or read (0) the trap: above zero, no other tasklet of the thread runs.

    What would have to wait, or to give way, raises RuntimeError. What a waiting partner allows is done, and the
    partner runs when the trap is lowered. Returns the count before the change. Raises RuntimeError when it would fall
    below zero.
    """
    s = here()
    before = s.traps
    if before + change < 0:
        raise RuntimeError("the switch trap is not set")
    s.traps = before + change
    return int(before)


@contextmanager
def atomic() -> Iterator[None]:
    """For programs written for Stackless's pre-emption: sets the tasklet's ``atomic``. Flower never pre-empts."""
    me = getcurrent()
    before = me.set_atomic(True)
    try:
        yield
    finally:
        me.set_atomic(before)


if not cython.compiled:
    run = hold(run)
    schedule = hold(schedule)
    schedule_remove = hold(schedule_remove)
