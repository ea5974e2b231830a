"""How a thread's scheduler begins and ends: threads, forks, Ctrl-C, and the end of the program."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import warnings

from greenlet import getcurrent

from flower._typing import TYPE_CHECKING, Any
from flower.channels import _deadlock, _hub, _scheduler
from flower.channels._delivery import interrupt_main
from flower.channels._forks import after_fork
from flower.channels._scheduler import Scheduler
from flower.channels._task import BLOCKED, RUNNING, withdraw
from flower.errors import TaskletExit

if TYPE_CHECKING:
    from types import FrameType

_of_thread = threading.local()
_schedulers: dict[int, Scheduler] = {}
_kept: list[Any] = []  # what must never be freed: see in_child and at_exit


class _Owner:
    """Lives in a thread's local storage, and ends the thread's scheduler with it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler: Scheduler | None = scheduler

    def __del__(self) -> None:
        s, self.scheduler = self.scheduler, None
        if s is None or sys.is_finalizing():  # at_exit has seen to it
            return
        root = getcurrent()  # not the thread's number: that may be another thread's by now
        while root.parent is not None:
            root = root.parent
        here = root is s.main.carrier
        try:
            if here:
                end_thread(s)
            else:  # somebody's gc.get_objects() has kept this, as the thread ended
                abandon(s)
        finally:
            if here or _deadlock.adopted.get(s.thread_id) is s:
                _deadlock.adopted.pop(s.thread_id, None)


def adopt_thread(s: Scheduler) -> Scheduler:
    """A scheduler was made: tie it to its thread."""
    _of_thread.owner = _Owner(s)
    _deadlock.adopted[s.thread_id] = s
    if threading.get_ident() == threading.main_thread().ident:
        register(s)
    return s


def register(s: Scheduler) -> None:
    """The thread has tasklets: from here on it is one of those that `schedulers` lists. A plain thread never is."""
    _schedulers[s.thread_id] = s


def schedulers() -> dict[int, Scheduler]:
    """The schedulers of all threads that have one, by thread id."""
    return dict(_schedulers)


def end_thread(s: Scheduler) -> None:
    """The thread's code has ended: its tasklets can never run again."""
    _scheduler.set_current_scheduler(s)  # thread-local storage goes in no particular order
    left = _hub.unfinished(s)
    _hub.end(s, True)
    _schedulers.pop(s.thread_id, None)
    _scheduler.set_current_scheduler(None)
    for error in s.main_errors:
        print_left(error)
    if left:
        warnings.warn(
            f"a thread ended with {left} tasklets that had not: run() or join them before it returns",
            ResourceWarning,
            stacklevel=2,
        )


def abandon(s: Scheduler) -> None:
    """The thread is gone already: its tasklets leave what they wait in, and can't clean up."""
    s.closing = True
    if _schedulers.get(s.thread_id) is s:
        del _schedulers[s.thread_id]
    _hub.drop_ready(s)
    for t in _hub.begun(s):
        _hub.give_up(s, t)
    if s.main.state == BLOCKED and not s.main.decided:  # in a forked child
        withdraw(s.main)
    _hub.end_main(s)
    _hub.drop_alarms(s)


def bury(s: Scheduler) -> None:
    """On the hub, for the last time: the tasklets that are left leave what they wait in, and end."""
    _hub.drop_ready(s)
    for t in sorted(_hub.begun(s), key=lambda t: t.daemon):  # of who serves others, none is told that it is gone
        _hub.finish_off(s, t, TaskletExit())


def print_left(error: BaseException) -> None:
    """An error that no later park of main can raise any more."""
    import traceback

    text = "".join(traceback.format_exception(error))
    print(f"Error of a tasklet, raised when the main tasklet no longer waited:\n{text}", end="", file=sys.stderr)


# -- Ctrl-C


def before_hub(s: Scheduler) -> None:
    """This thread is about to wait for the first time."""
    _deadlock.refuse_foreign_loop()
    take_over_interrupts()


def before_start(s: Scheduler) -> None:
    """A tasklet of this scheduler is about to be queued."""
    if s.closing and s is not _scheduler.present():
        raise RuntimeError(
            "the thread (before a fork: the process) that made this tasklet has ended: bind_thread() moves it here"
        )
    take_over_interrupts()


def take_over_interrupts() -> None:
    """Install Flower's handler of Ctrl-C, unless the program has one of its own. Before anything can be half done."""
    # (Of a thread that is about to end, current_thread() would make one more that is never told of its end.)
    if threading.get_ident() == threading.main_thread().ident:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, on_sigint)


def on_sigint(signum: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt at once in users' code; elsewhere hold it until main's park."""
    s = _scheduler.current_scheduler()
    current = s.current
    free = not s.traps or s.closing  # at the end of the program no park of main follows
    if current is not None and free and not _in_flower(frame, current.func):
        error = KeyboardInterrupt()
        if current is not s.main:
            _scheduler.cold.pass_on(error)
            interrupt_main(s, error)
        raise error
    interrupt_main(s)


def _in_flower(frame: FrameType | None, func: Any) -> bool:
    """Whether the frame is Flower's own, what Flower has called of the standard library, or what the core has called.

    Users' code begins in `call`. Compiled code has no frame: without any, the tasklet's function says whose it is.
    """
    if frame is None:
        return type(getattr(func, "__self__", None)).__module__.startswith("flower.")
    inner: FrameType | None = frame
    outer: FrameType | None = frame
    while outer is not None:
        name = outer.f_globals.get("__name__", "")
        if name.startswith("flower.channels."):
            return outer is frame or outer.f_code.co_name != "call"
        if name.startswith("flower.") and outer is inner:
            return True
        if outer is inner and name.partition(".")[0] in sys.stdlib_module_names:  # it may have a program half started
            inner = outer.f_back
        outer = outer.f_back
    return False


# -- fork


@after_fork
def in_child() -> None:
    """After a fork: the forking tasklet is the child's main, with an empty scheduler and a poller of its own.

    In a callback it is that alone: the child ends with it.
    """
    _schedulers.clear()
    for t in _deadlock.parked_tasks():  # a ghost: what it waits in is the parent's
        withdraw(t)
        _kept.append(t)
    _deadlock.adopted.clear()
    old = _scheduler.present()
    if old is None:
        return
    _kept.append((old, old.poller))  # what the parent still uses is neither used nor closed here
    owner = getattr(_of_thread, "owner", None)
    if owner is not None:
        owner.scheduler = None
    forker = old.current
    if forker is None or forker.state != RUNNING:  # on the hub, or in a schedule callback
        forker = _scheduler.task_class.__new__(_scheduler.task_class)
    forker.joiners = forker.owner = None
    _hub.disown(old)
    new = Scheduler(forker)
    _scheduler.set_current_scheduler(new)
    adopt_thread(new)


def leave_if_forked(s: Scheduler, error: BaseException | None) -> None:
    """A callback of the scheduler's has ended, with an error or without. If it has forked, and this is the child, so
    does the process.
    """
    if _scheduler.current_scheduler() is not s:
        leave_fork(error)


def leave_fork(error: BaseException | None) -> None:
    """In a child, the tasklet or callback that forked has ended, and it was the child's main: the process ends."""
    status = 0
    try:
        if isinstance(error, SystemExit) and not isinstance(error, TaskletExit):
            code = error.code
            status = code if isinstance(code, int) else 0 if code is None else 1
            if code is not None and not isinstance(code, int):
                print(code, file=sys.stderr)
        elif error is not None and not isinstance(error, TaskletExit):
            status = 1
            sys.excepthook(type(error), error, error.__traceback__)
        for stream in (sys.stdout, sys.stderr):
            if not getattr(stream, "closed", stream is None):
                stream.flush()
    except BaseException as failure:  # of what is printed to, or of the program's own hook
        status = status or 1
        sys.__excepthook__(type(failure), failure, failure.__traceback__)
    finally:  # or the child would go on in the parent's code
        os._exit(status & 0xFF)  # what the system takes of it


# -- the end of the program


def at_exit() -> None:
    """Main has ended. Close the loop; what is blocked stays so, and nothing else is run."""
    s = _scheduler.present()
    if s is None:
        return
    _kept.append(s)
    owner = getattr(_of_thread, "owner", None)
    if owner is not None:
        owner.scheduler = None
    _hub.end(s, False)
    for error in s.main_errors:
        print_left(error)
    s.main_errors.clear()


atexit.register(at_exit)
