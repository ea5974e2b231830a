# cython: nonecheck=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""A tasklet as the scheduler sees it: its state, what it waits in, and how its wait is decided.

Invariants
    A task's ``state`` says where it is. READY: in its scheduler's ``ready``. RUNNING: it is ``current``. BLOCKED: it
    is in the queues that its waiters name (none for a sleep), and in ``timers`` when ``when`` is finite.
    PAUSED and DEAD: nowhere.
    ``decided`` is set exactly while a task's outcome is written and the task has not run since. Whoever
    sets it has taken all the task's waiters out of their queues; after that, a timeout, a cancellation or a
    kill comes too late, and waits for the next park.

Nothing here switches or runs code of the user's. To queue a task that has been decided is for the scheduler.
"""

from __future__ import annotations

from flower._typing import Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.channels._waiting import Waiter, WaitQueue

# Task.state
DEAD = 0
PAUSED = 1
READY = 2
RUNNING = 3
BLOCKED = 4

# Task.blocked_in: what a BLOCKED task waits in. Each place that parks has its own.
SEND = 1
RECEIVE = 2
SELECT = 3
JOIN = 4
SLEEP = 5
RUN = 6
REMOVED = 7  # by schedule_remove: to users it is paused

# Task.alert: why a look is needed before the task may park
KILL = 1  # ``pending`` holds an exception that is to be raised there
ERRORS = 2  # main only: ``main_errors`` has some
TRAP = 4  # ``block_trap`` is set

# Seconds; what is longer, an int too large for a float included, is no limit.
LONGEST_TIMEOUT = 1e300

# C constants in the compiled core: this makes them visible to the modules that are not compiled.
globals().update(
    DEAD=DEAD, PAUSED=PAUSED, READY=READY, RUNNING=RUNNING, BLOCKED=BLOCKED, KILL=KILL, ERRORS=ERRORS, TRAP=TRAP
)
globals().update(SEND=SEND, RECEIVE=RECEIVE, SELECT=SELECT, JOIN=JOIN, SLEEP=SLEEP, RUN=RUN, REMOVED=REMOVED)


class Task(Waiter):
    """A tasklet as the scheduler sees it. `flower.tasklet` adds the public surface."""

    sched: Any
    carrier: Any
    func: Any
    args: Any
    kwargs: Any
    state: int
    decided: bool
    alert: int
    blocked_in: int
    until: float  # its own deadline, where ``when`` may be that of a scope
    outside: int  # 1: it waits for something outside (a deadline, a connection); 2: and flower.run() stays for it
    external: bool  # that is not its deadline alone
    daemon: bool
    error: Any  # to be raised when it next runs
    pending: Any  # to be raised when it next parks
    cases: Any  # the waiters of its select
    chosen: int
    scope: Any  # the innermost cancel scope
    context: Any  # until it begins
    label: Any
    joiners: Any
    older: Any  # its neighbours among those of its scheduler that have begun
    newer: Any
    owner: Any  # the group that is told of its end
    failure: Any
    traceback: Any
    collected: bool
    ended: bool  # it ran to its end, or was killed before
    atomic: bool  # Stackless's two flags; nothing here looks at them
    ignore_nesting: bool

    def fire(self, now: float) -> object:
        """The task's deadline has passed while it was parked."""
        if self.state == BLOCKED and not self.decided:
            self.sched.expire(self, now)
        return None


def withdraw(t: Task) -> int:
    """Take a blocked task, whose outcome is not written, out of whatever it waits in."""
    if not t.leave() and t.cases is not None:
        for i in range(len(t.cases)):
            cython.cast(Waiter, t.cases[i]).leave()
    t.decided = True
    return 0


def take_context(t: Task) -> Any:
    """The context that a task begins in, which it refers to no more: to set it may run finalizers, in that task."""
    context, t.context = t.context, None
    return context


def members(queue: WaitQueue) -> list[Any]:
    """The waiters of a queue."""
    found = []
    w = queue.head()
    while w is not None:
        found.append(w)
        w = w.after()
    return found


def place(w: Waiter) -> WaitQueue | None:
    """The queue that the waiter is in, or None."""
    return w.place()


def tasks_in(queue: WaitQueue) -> list[Any]:
    """Whose waiters are in the queue, in order."""
    found = []
    w = queue.head()
    while w is not None:
        found.append(w if w.task is None else w.task)
        w = w.after()
    return found


def case_channels(t: Task) -> list[Any]:
    """The channels that a task's select waits on."""
    found: list[Any] = []
    if t.cases is None:
        return found
    for i in range(len(t.cases)):
        w = cython.cast(Waiter, t.cases[i])
        if w.channel is not None:
            found.append(w.channel)
    return found


def check_timeout(timeout: Any) -> float | None:
    """The timeout as a number of seconds, or None for no limit. Refuses what is none."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"a timeout is a number of seconds or None, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"a timeout is at least 0 seconds, not {timeout!r}")
    return None if timeout > LONGEST_TIMEOUT else timeout


if not cython.compiled:
    from flower.channels import _nocython as cython  # Cython's own stand-in, if it is installed, is slow
    from flower.channels._uncompiled import zeroed

    zeroed(Task, own="left right queue task value when state decided blocked_in alert outside scope error")
