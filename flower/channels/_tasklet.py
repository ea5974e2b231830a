"""The tasklet as users see it: Stackless's surface, `go`, and `join`.

What a tasklet is doing, and how it is switched to, is the scheduler's business; this file is the door, where
arguments are checked and states told apart.
"""

from __future__ import annotations

from flower._typing import TYPE_CHECKING, Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.channels import _scheduler
from flower.channels._bomb import exception_from
from flower.channels._delivery import throw_into
from flower.channels._scheduler import Scheduler, wake
from flower.channels._task import Task, check_timeout
from flower.channels._waiting import WaitQueue
from flower.errors import TaskletExit

if TYPE_CHECKING:
    from types import FrameType, TracebackType

if not cython.compiled:
    from flower.channels import _nocython as cython  # Cython's own stand-in, if it is installed, is slow
    from flower.channels._scheduler import check_switch, here, park
    from flower.channels._task import BLOCKED, DEAD, JOIN, PAUSED, READY, REMOVED, RUNNING, SEND, TRAP
    from flower.channels._uncompiled import copy_context, copy_of, guarded, hold, track, untrack, zeroed

    def pin_memory(type: Any) -> None:
        """Uncompiled, memory is not looked after."""

    def unpin_memory() -> None:
        """See `pin_memory`."""

    def count_pins() -> int:
        """See `pin_memory`."""
        return 0


# Where so many tasklets wait for their first turn, the memory of each of the next so many is kept for a while.
CROWD = 4096
PINNED = 1024


def is_due(t: Task) -> bool:
    """Whether the task's group is cancelled, and waits for its end: it may not be paused any more."""
    return t.owner is not None and t.owner._scope.cancelled


class tasklet(Task):
    """tasklet(func=None, label="", daemon=False)

    A function that runs by itself, on this thread, whenever the others wait. Call it with the function's
    arguments to start it:

    >>> from flower import tasklet, run
    >>> t = tasklet(print, label="hello")("hello, world")
    >>> run()
    hello, world

    ``daemon`` tasklets do not keep ``run()`` waiting. A tasklet that has ended can be bound and run again.

    Raises TypeError for a func that is not callable.
    """

    def __init__(self, func: Any = None, label: str = "", daemon: bool = False) -> None:
        if func is not None and not callable(func):
            raise TypeError(f"a tasklet needs a function to run, not {func!r}")
        if self.state != DEAD:
            raise RuntimeError("a tasklet in use can't be initialised again")
        self.sched = here()
        self.func = func
        self.label = label
        self.daemon = daemon

    def __call__(self, *args: Any, **kwargs: Any) -> tasklet:
        """Bind the arguments and put the tasklet at the end of the queue; returns the tasklet."""
        self.launch(args, kwargs)
        return self

    def setup(self, *args: Any, **kwargs: Any) -> tasklet:
        """The same as calling the tasklet."""
        self.launch(args, kwargs)
        return self

    def launch(self, args: Any, kwargs: Any) -> int:
        """Bind arguments, and queue the tasklet.

        Until it begins, or leaves the queue again, its scheduler holds it, and the garbage collector need not look.
        """
        self.prime(args, kwargs)
        if self.state == PAUSED:  # unless a finalizer of what it held before has queued it, or ended it
            untrack(self)
            wake(self)
        return 0

    def prime(self, args: Any, kwargs: Any) -> int:
        """Bind arguments: the tasklet is alive from here on, in no queue yet, with a copy of the creator's context."""
        s = cython.cast(Scheduler, self.sched)
        if s.closing or (s.hub is None and s.ready.count == 0):  # the first one that is to run
            _scheduler.cold.before_start(s)
        context = copy_context()
        # Both may have run finalizers, or let another thread in: the state is looked at only now.
        if self.state != DEAD:
            raise RuntimeError("You cannot bind arguments to a tasklet that is alive already")
        if self.func is None:
            raise TypeError("this tasklet is bound to no function yet: bind(func) first")
        # Held until the state is set: to drop them may run finalizers, which may start this very task.
        _args, _kwargs, _context = self.args, self.kwargs, self.context
        _value, _failure, _traceback = self.value, self.failure, self.traceback
        self.args = args
        self.kwargs = kwargs if kwargs else None
        self.context = context
        self.value = self.failure = self.traceback = None
        self.collected = self.ended = False
        self.state = PAUSED
        return 0

    def bind(self, func: Any = None, args: Any = None, kwargs: Any = None) -> tasklet:
        """Bind a function (None keeps the present one); with arguments, the tasklet is alive and paused.

        Returns the tasklet. Raises TypeError for a func that is not callable, RuntimeError when it is alive.
        """
        if func is not None and not callable(func):
            raise TypeError(f"a tasklet needs a function to run, not {func!r}")
        primed = args is not None or kwargs is not None
        args, kwargs = tuple(args or ()), dict(kwargs or {})
        if func is None:
            func = self.func
        if self.state == PAUSED and self.carrier is None:
            if self.owner is not None or (self.joiners is not None and not primed):
                self.die(TaskletExit())  # whose arguments' finalizers may have started it again
                if self.state != DEAD:
                    raise RuntimeError("You cannot bind a tasklet that is alive")
            self.state = DEAD
        elif self.state != DEAD:
            raise RuntimeError("You cannot bind a tasklet that is alive")
        self.func = func
        if primed:
            self.prime(args, kwargs)
        return self

    # -- the queue

    def insert(self) -> tasklet:
        """Put a paused tasklet at the end of the queue; no effect on one that is queued. Returns the tasklet.

        Raises RuntimeError when it is blocked, or dead.
        """
        if self.state == DEAD:
            raise RuntimeError("You cannot run an unbound(dead) tasklet")
        if self.paused:
            _scheduler.cold.before_start(self.sched)
            if self.paused:  # still: another thread may have come between
                if self.state == BLOCKED:
                    self.decided = True  # it leaves schedule_remove; what was decided before a remove() stands
                wake(self)
        elif self.state == BLOCKED:
            raise RuntimeError("You cannot run a blocked tasklet")
        return self

    def remove(self) -> tasklet:
        """Take the tasklet out of the queue: it is paused until it is inserted again. Returns the tasklet.

        One of a group that is cancelled stays in the queue. Raises RuntimeError when it is blocked, or current.
        """
        if self.state == BLOCKED and not self.paused:
            raise RuntimeError("You cannot remove a blocked tasklet.")
        if self.state == RUNNING:
            raise RuntimeError("The current tasklet cannot be removed.")
        if self.state == READY and not is_due(self):
            self.leave()
            track(self)
            self.state = PAUSED
            if self.outside:
                cython.cast(Scheduler, self.sched).forget_wait(self)
        return self

    def run(self) -> None:
        """Run the tasklet now; the queue goes on from its place, so that the caller's turn comes last.

        Raises what was thrown into the caller meanwhile; RuntimeError when it is blocked, dead, or of another thread.
        """
        self.take_turn(READY)

    def switch(self) -> None:
        """Run the tasklet now; the caller leaves the queue, paused, as by ``remove``. Raises as ``run``."""
        self.take_turn(PAUSED)

    def take_turn(self, leave_as: int) -> int:
        """Make this tasklet the next one; the current one stays behind in the given state."""
        s = here()
        me = s.current
        if self.sched is not s:
            raise RuntimeError("You cannot run a tasklet of another thread")
        if me is self:
            return 0
        check_switch(s)
        if me.alert:
            _scheduler.cold.alerted(s, me, False)
        self.insert()
        if self.state != READY:  # to insert it may have let it run, or end
            return 0
        if leave_as == PAUSED and is_due(me):
            leave_as = READY
        me.state = leave_as
        if leave_as == READY:
            s.ready.append(me)
        s.ready.rotate(self)
        if s.chooser is not None:
            s.directed = self
        s.switch()
        return s.resumed(me)

    # -- exceptions

    def kill(self, pending: bool = False) -> None:
        """End the tasklet by raising TaskletExit in it, where it is blocked or queued.

        The victim runs at once, and kill returns when it waits again or has ended; with ``pending``, or for
        a tasklet of another thread, kill returns right away. One that has not started yet never does; a dead one
        is left alone. If what the victim waits for has already happened, it gets that first, and TaskletExit at
        its next blocking call; what is thrown meanwhile is not raised any more. Killing oneself raises at once.
        """
        self.throw(TaskletExit, None, None, pending)

    def raise_exception(self, cls: Any, *args: Any) -> None:
        """Raise an exception, made of the class and the arguments, in the tasklet. As ``throw``."""
        self.throw(cls(*args), None, None, False)

    def throw(self, exc: Any, val: Any = None, tb: TracebackType | None = None, pending: bool = False) -> None:
        """Raise an exception in the tasklet, which runs at once (``pending``: when its turn comes).

        Raises TypeError when the arguments make no exception, RuntimeError when the tasklet is dead (and the
        exception is no TaskletExit).
        """
        error = exception_from(exc, val)
        if tb is not None:
            error = error.with_traceback(tb)
        s = cython.cast(Scheduler, self.sched)
        mine = here()
        me = mine.current
        if me is self:
            raise error
        if s is mine and me is not None and not pending:
            check_switch(s)
        if self.state == DEAD:
            if not isinstance(error, TaskletExit):
                raise RuntimeError("You cannot throw an exception into a dead tasklet")
            return
        if self.carrier is None and self.state != RUNNING:
            if self.leave():
                track(self)
            self.die(error)
            return
        throw_into(self, error)
        if not pending and s is mine and me is not None and self.state == READY:
            s.ready.remove(self)
            me.state = READY
            me.decided = True
            s.ready.push(me)
            s.ready.push(self)
            if s.chooser is not None:
                s.directed = self
            s.switch()
            me.decided = False

    def die(self, error: object) -> int:
        """End a tasklet that never ran. As where one did, no channel callback is told of its group's own channel."""
        mine = here()
        self.state = DEAD
        self.ended = True
        self.failure = error
        func, _args, _kwargs = self.func, self.args, self.kwargs  # held until the end: see Scheduler.finish
        self.func = self.args = self.kwargs = self.context = self.scope = None
        mine.traps += 1
        try:
            _scheduler.cold.settle(self.sched, self, func)
        finally:
            mine.traps -= 1
        return 0

    # -- the end

    def join(self, timeout: Any = None) -> Any:
        """Wait until the tasklet has ended; returns its function's result, or raises its error.

        ``timeout``: seconds, at most. Blocks until the end; a join that is cancelled or timed out leaves the
        tasklet running. An error that is joined is not raised in the main tasklet.

        Raises what the function raised; TaskletKilled when it was killed, or cancelled by its group; Timeout;
        RuntimeError for a tasklet that was never started, or for joining oneself.

        >>> from flower import go
        >>> go(sum, [1, 2, 3]).join()
        6
        """
        timeout = check_timeout(timeout)
        if self.state != DEAD:
            s = here()
            if s.current is self:
                raise RuntimeError("a tasklet can't join itself: it would wait for good")
            t = s.prepare(timeout)
            if self.state != DEAD:
                if self.joiners is None:
                    self.joiners = WaitQueue()
                self.joiners.append(t)
                outcome: Any = park(t, JOIN, False)
                return _scheduler.cold.collect(self, *outcome)
        if self.failure is not None:
            _scheduler.cold.collect(self, self.failure, self.traceback, None)
        if not self.ended:
            raise RuntimeError("You cannot join a tasklet that was never started")
        return self.value

    # -- what it looks like

    @property
    def alive(self) -> bool:
        """Whether it has been given its arguments and has not ended."""
        return self.state != DEAD

    @property
    def paused(self) -> bool:
        """Whether it is alive, and neither queued, nor blocked, nor current."""
        return self.state == PAUSED or (self.state == BLOCKED and self.blocked_in == REMOVED)

    @property
    def blocked(self) -> int:
        """1: blocked in a send; -1: blocked in a receive or anything else; 0: not blocked."""
        if self.state != BLOCKED or self.blocked_in == REMOVED:
            return 0
        return 1 if self.blocked_in == SEND else -1

    @property
    def scheduled(self) -> bool:
        """Whether it is queued, current or blocked."""
        return self.state >= READY and not self.paused

    @property
    def is_current(self) -> bool:
        """Whether it is the one that runs now on its thread."""
        return self.state == RUNNING

    @property
    def is_main(self) -> bool:
        """Whether it is its thread's own code."""
        return self.sched.main is self

    @property
    def thread_id(self) -> int:
        """The thread it runs on, as ``threading.get_ident`` tells it."""
        return self.sched.thread_id

    @property
    def block_trap(self) -> bool:
        """Set it, and blocking raises RuntimeError in this tasklet instead."""
        return bool(self.alert & TRAP)

    @block_trap.setter
    def block_trap(self, value: bool) -> None:
        self.alert = (self.alert | TRAP) if value else (self.alert & ~TRAP)

    @property
    def tempval(self) -> Any:
        """What ``schedule_remove`` will return in this tasklet, if it is in there; a waker may set another value."""
        return self.value if self.paused and not self.decided else None

    @tempval.setter
    def tempval(self, value: Any) -> None:
        if self.paused and self.carrier is not None and not self.decided:
            self.value = value

    @property
    def next(self) -> Any:
        """The tasklet after this one in the ring of runnable tasklets, which includes the current one, or None."""
        s = cython.cast(Scheduler, self.sched)
        if self.state == RUNNING:
            return s.ready.head() or self
        return (self.after() or s.current) if self.state == READY else None

    @property
    def prev(self) -> Any:
        """The tasklet before this one in the ring of runnable tasklets, which includes the current one, or None."""
        s = cython.cast(Scheduler, self.sched)
        if self.state == RUNNING:
            return s.ready.tail() or self
        return (self.before() or s.current) if self.state == READY else None

    def set_atomic(self, flag: Any) -> bool:
        """Set ``atomic``, which Flower only keeps: it has no pre-emption to hold off. Returns the one before."""
        before = self.atomic
        self.atomic = bool(flag)
        return bool(before)

    def set_ignore_nesting(self, flag: Any) -> bool:
        """Kept for programs written for Stackless: no effect. Returns the flag before."""
        before = self.ignore_nesting
        self.ignore_nesting = bool(flag)
        return bool(before)

    @property
    def nesting_level(self) -> int:
        """0: no interpreter is nested in a tasklet's own, as each has a C stack."""
        return 0

    @property
    def recursion_depth(self) -> int:
        """The number of Python frames of a suspended tasklet."""
        depth = 0
        frame = self.frame
        while frame is not None:
            depth += 1
            frame = frame.f_back
        return depth

    def bind_thread(self, thread_id: int | None = None) -> None:
        """Move a tasklet that has not started, and is not queued, to this thread. Raises RuntimeError for another."""
        mine = here()
        if thread_id is not None and thread_id != mine.thread_id:
            raise RuntimeError("a tasklet can be bound only to the calling thread")
        if self.carrier is not None or self.state == READY:
            raise RuntimeError("a tasklet that has started, or is queued, stays in its thread")
        self.sched = mine

    @property
    def frame(self) -> FrameType | None:
        """The innermost Python frame while it is suspended; None when it is unstarted, current or dead."""
        if self.carrier is None or self.state == RUNNING:
            return None
        return self.carrier.gr_frame

    def __repr__(self) -> str:
        return _scheduler.cold.describe(self)

    def __reduce__(self) -> Any:
        raise TypeError("a tasklet can't be pickled")


def go(func: Any, /, *args: Any, **kwargs: Any) -> tasklet:
    """Start ``func(*args, **kwargs)`` as a tasklet, at the end of the queue; returns the tasklet.

    The same as ``tasklet(func)(*args, **kwargs)``. Does not block, and switches to nobody.

    Raises TypeError for a func that is not callable.

    >>> go(pow, 2, 10).join()
    1024
    """
    return start(func, args, kwargs)


def start(func: Any, args: Any, kwargs: Any) -> tasklet:
    """`go`, without the packing of arguments."""
    return begin(func, args, kwargs, copy_context())


def start_in(context: Any, func: Any, args: Any, kwargs: Any) -> tasklet:
    """`start`, with a copy of this context."""
    return begin(func, args, kwargs, copy_of(context))


def begin(func: Any, args: Any, kwargs: Any, context: Any) -> tasklet:
    """`launch` for a tasklet that nobody knows yet, and that holds nothing."""
    if not callable(func):
        raise TypeError(f"a tasklet needs a function to run, not {func!r}")
    s = here()
    if s.closing or (s.hub is None and s.ready.count == 0):
        _scheduler.cold.before_start(s)
    t = tasklet.__new__(tasklet)
    t.sched = s
    t.func = func
    t.args = args
    t.kwargs = kwargs if kwargs else None
    t.context = context
    t.label = ""
    untrack(t)
    if s.ready.count >= CROWD and s.ready.count % PINNED == 0:
        pin_memory(tasklet)
    wake(t)
    return t


def is_pinned() -> bool:
    """Whether memory of a crowd of tasklets is kept."""
    return count_pins() > 0


def unpin() -> int:
    """Give it back, if there was no such crowd since this was called last."""
    unpin_memory()
    return 0


_scheduler.task_class = tasklet

if cython.compiled:
    # Without keywords, as in nearly every call, there is no dict to be made.
    go = with_shortcut(go, start)  # type: ignore[name-defined]  # noqa: F821
else:
    zeroed(tasklet)
    guarded(tasklet, "__call__ setup bind insert remove run switch throw join")
    go = hold(go)
