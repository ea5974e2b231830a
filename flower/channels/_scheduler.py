# cython: nonecheck=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""The scheduler of a thread: who runs next, on which greenlet, and how a tasklet waits.

Invariants
    ``ready`` holds the tasks in the state READY, ``timers`` the blocked ones that have a deadline.
    ``current`` is None while the hub runs, and only then.
    Main runs only while nothing is ``gathered``: the poller lets that out when the turn is over, and main, which may be
    about to block its thread, goes on after that.
    ``carrier`` is set from a task's first switch until its end; a carrier that has no task is in ``idle``.

Who runs on what
    A *carrier* is a greenlet that runs one task after the other: one that finishes takes the next unstarted
    task without a switch. All carriers are started by the *hub*, from its turn, so that none inherits a
    deep stack. The hub is a greenlet that waits for the outside: see `_hub`.

Who may touch what
    Everything here may be called by any thread that holds the GIL (uncompiled: the guard), except `switch`,
    `park` and `carry`, which are the own thread's. No Python code runs between two lines that leave
    the links half made: values are dropped, and callbacks called, when the links are whole again.

Four things are done in one place each, so that the testing kit can take them over: the next task is chosen
in `choose`, the clock is read in `now`, the outside is waited on by the poller, and channel operations go through
the ``interposer``, which carries each one out by calling it again with ``passing`` set.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque

from flower._typing import TYPE_CHECKING, Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from greenlet import getcurrent, greenlet

from flower.channels._poller import ThreadPoller
from flower.channels._task import Task, members, withdraw
from flower.channels._waiting import Alarm, Timers, WaitQueue
from flower.errors import Timeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from flower.channels._poller import Poller

COMPILED: bool = cython.compiled

if cython.compiled:
    import_greenlet()  # type: ignore[name-defined]  # noqa: F821  (from the .pxd)
else:
    from flower.channels._task import BLOCKED, ERRORS, KILL, READY, RUN, RUNNING, SLEEP
    from flower.channels._uncompiled import (
        coarse,
        deepen,
        get_here,
        guarded,
        is_here,
        set_here,
        switch_to,
        take_last,
        touch_greenlet,
        track,
    )
    from flower.channels._waiting import NEVER

# The outside gets a look after this many switches at the latest, or after this many seconds, whichever is first:
# often enough that tasklets which only talk to each other do not starve the network (Go's sysmon uses 10 ms), and
# seldom enough that the look (a few microseconds) costs little.
SWITCHES_PER_TURN = 512
SECONDS_PER_TURN = 0.004

# Frames that waking another thread may take beyond the recursion limit.
DEPTH_TO_WAKE = 50

_monotonic = time.monotonic

# The module of the rare paths (failures, deadlock, thread start), which needs this one: it puts itself here.
cold: Any = None
# The hub's function, which `_hub` puts here.
live: Any = None


def wake(t: Task) -> int:
    """Queue a task that waits in nothing, its outcome written, in its own scheduler."""
    s = cython.cast(Scheduler, t.sched)
    t.state = READY
    s.ready.append(t)
    if s.polling:
        s.rouse()
    return 0


def fail(t: Task, error: object) -> bool:
    """Wake a task with an exception (None: with nothing) if it is blocked and undecided; says whether it was."""
    if t.state != BLOCKED or t.decided:
        return False
    withdraw(t)
    t.error = error
    wake(t)
    return True


class Scheduler:
    """The tasks of one OS thread."""

    def __init__(self, main: Task) -> None:
        self.ready = WaitQueue()
        self.timers = Timers()
        self.runs = WaitQueue()
        self.main = main
        self.current: Task | None = main
        self.last: Task | None = None  # who ran before the hub, for the schedule callback
        self.ending: Task | None = None
        self.thread_id = threading.get_ident()
        self.poller: Any = ThreadPoller()
        self.entered: Any = None
        self.hub: Any = None
        self.idle: list[Any] = []
        self.spare: int = 0  # of the idle carriers, so many were not needed since a while before ``look``
        self.look: float = 0.0
        self.trimming: bool = False
        self.lane: int = 0  # that of the newest carrier, of so many:
        self.lanes: int = -1  # not known yet
        self.starting: Task | None = None
        self.victims: list[Any] = []  # what `run` runs: the last one gets a Deadlock
        self.budget: int = SWITCHES_PER_TURN
        self.due: float = 0.0
        self.attentive: bool = False
        self.io: bool = False
        self.polling: bool = False
        self.closing: bool = False
        self.outside: int = 0
        self.outside_live: int = 0
        self.holds: int = 0
        self.watches: int = 0
        self.gathered: list[Any] = []
        self.traps: int = 0
        self.main_errors: list[BaseException] = []
        self.posts: Any = deque()
        self.started: int = 0  # how many have begun and not ended; they are linked, from the ``newest`` on
        self.newest: Task | None = None
        self.bury: bool = False
        self.on_switch: Any = None
        self.clock: Any = None
        self.chooser: Any = None
        self.directed: Task | None = None  # under a chooser: who is to run next, if it agrees
        self.interposer: Any = None
        self.passing: bool = False
        self.adopt(main)

    def adopt(self, main: Task) -> int:
        """Make the task the one of this thread's own code, which is running."""
        main.sched = self
        main.state = RUNNING
        main.carrier = getcurrent()
        return 0

    # -- what the testing kit can take over here

    def choose(self) -> Task | None:
        """Take the next task out of the queue; None when the hub must have its turn first."""
        if self.chooser is not None:
            return self.consult()
        if self.ready.count == 0:
            return None
        self.budget -= 1
        if self.budget < 0 or (self.attentive and coarse() > self.due):
            if self.attentive:
                return None
            self.budget = SWITCHES_PER_TURN
        t = cython.cast(Task, self.ready.first)
        if t is self.main and self.gathered:
            return None
        self.ready.remove(t)
        return t

    def consult(self) -> Task | None:
        """`choose`, by the chooser, which alone says when the hub has its turn: by no clock and no count."""
        if self.ready.count == 0 and self.current is None:
            return None
        t = self.directed
        self.directed = None
        if t is not None and t.state != READY:
            t = None
        t = self.chooser(members(self.ready), t)
        if t is not None:
            self.ready.remove(t)
        return t

    def now(self) -> float:
        """Seconds on the monotonic clock."""
        if self.clock is not None:
            return self.clock()
        return _monotonic()

    # -- switching

    def switch(self) -> int:
        """Leave the current task, which is queued or parked, for the next; return when it is current again."""
        t = self.choose()
        if t is None:
            if self.on_switch is not None:
                self.last = self.current
            self.current = None
            self.enter_hub()
            return 0
        t.state = RUNNING
        if t is self.current:
            return 0
        if self.on_switch is not None:
            self.tell(self.current, t)
        if t.carrier is None:
            if not self.idle:
                self.starting = t
                self.current = None
                self.enter_hub()
                return 0
            self.employ(t)
        self.current = t
        carrier = t.carrier
        t = None  # who is switched away from keeps nobody else alive
        switch_to(carrier)
        return 0

    def employ(self, t: Task) -> int:
        """Give the task an idle carrier, of which there is one."""
        t.carrier = take_last(self.idle)
        self.spare = min(self.spare, len(self.idle))
        self.enlist(t)
        return 0

    def enter_hub(self) -> int:
        """Switch to the hub, made now if this is the first time."""
        if self.hub is None:
            self.hub = greenlet(functools.partial(live, self), self.main.carrier)
        switch_to(self.hub)
        return 0

    def enlist(self, t: Task) -> int:
        """The task begins."""
        track(t)
        before = self.newest
        if before is not None:
            before.newer = t
            t.older = before
        self.newest = t
        self.started += 1
        return 0

    def strike(self, t: Task) -> int:
        """The task, which has begun, is at its end."""
        if t.newer is None:
            self.newest = t.older
        else:
            t.newer.older = t.older
        if t.older is not None:
            t.older.newer = t.newer
        t.older = None
        t.newer = None
        self.started -= 1
        return 0

    # -- parking

    def prepare(self, timeout: float | None) -> Task:
        """The current task is about to park: raise what keeps it from that, and set its deadline.

        Nothing has been changed when this raises. ``timeout`` is None or a checked number of seconds.
        """
        t = self.current
        if t is None or self.traps:
            cold.refuse_to_block(self)
        if t.alert:
            cold.alerted(self, t)
        if t.decided:
            raise cold.stray(t)
        if self.hub is None:
            cold.before_hub(self)
        t.when = NEVER
        if timeout is not None:
            seconds: float = timeout
            if seconds == 0.0:
                raise Timeout("not ready, and the time given is 0 seconds")
            t.when = self.now() + seconds
        t.until = t.when
        if t.scope is not None:
            t.when = t.scope.deadline(self, t.when)
        return t

    def forget_wait(self, t: Task) -> int:
        """The task no longer waits for the outside."""
        self.outside -= 1
        if t.outside == 2:
            self.outside_live -= 1
        t.outside = 0
        if t.slot:
            self.timers.remove(t)
        return 0

    def yield_now(self) -> int:
        """The current task goes to the end of the queue, and the next one runs."""
        me = self.current
        me.state = READY
        self.ready.append(me)
        self.switch()
        return self.resumed(me)

    def resumed(self, me: Task) -> int:
        """After a switch that was no park: an exception may have been left for the task."""
        if me.error is not None:
            raise cold.take_error(me)
        return 0

    def rouse(self) -> int:
        """Something became ready while the hub waits for the outside."""
        self.polling = False
        deepen(DEPTH_TO_WAKE)  # what is done is done: no RecursionError may come now, and nobody wait for good
        try:
            if is_here(self):
                self.poller.ready()
            else:
                self.poller.wake()
        finally:
            deepen(-DEPTH_TO_WAKE)
        return 0

    def tell(self, before: Task, after: Task) -> int:
        """Call the schedule callback, which may not block. Its error goes to sys.unraisablehook."""
        failure = None
        self.traps += 1
        try:
            self.on_switch(before, after)
        except BaseException as error:
            failure = error
        self.traps -= 1
        if not is_here(self):
            cold.leave_if_forked(self, failure)
        if failure is not None:
            try:
                cold.unraisable(failure, self.on_switch)
            except RecursionError:  # the callback has used up the stack; the switch must go on
                pass
        return 0

    # -- for the modules of Flower that are not compiled

    def give_way(self) -> None:
        """Let the chooser say who goes on: the current task, whose operation is done, or another."""
        me = self.current
        me.state = READY
        me.decided = True
        self.ready.append(me)
        self.switch()
        me.decided = False

    def queued(self) -> int:
        """How many tasks are ready to run."""
        return self.ready.count

    def deadline(self) -> float:
        """When the earliest timer is due, on the scheduler's clock; infinite if there is none."""
        first = self.timers.first()
        return NEVER if first is None else first.when

    def expire(self, t: Task, now: float) -> None:
        """The deadline of a task, parked and undecided, has passed."""
        error = None
        if t.scope is not None:
            error = t.scope.cancellation(now)
        if error is None and t.until > now:  # it was that of a scope that has been left meanwhile
            t.when = t.until if t.scope is None else min(t.until, t.scope.limit())
            if t.when != NEVER:
                self.timers.add(t)
            elif not t.external:
                self.recount(t, False)
            return
        if error is None and t.blocked_in != SLEEP:
            error = Timeout(f"{cold.REASONS[t.blocked_in]}: nothing happened within the time given")
        fail(t, error)

    def set_poller(self, poller: Poller) -> None:
        """Use this poller from the next time that the thread waits."""
        self.poller = poller
        self.io = self.attentive = True

    def hold(self) -> None:
        """Something is pending that keeps `flower.run` going and could wake tasklets, such as a serving listener."""
        self.holds += 1

    def release(self) -> None:
        """What `hold` was called for is over."""
        self.holds -= 1
        if self.polling:
            self.rouse()

    def post(self, callback: Callable[[], object]) -> None:
        """Have the hub call the function in its next turn; it may neither block nor raise.

        From any thread, and from a signal handler: whatever it interrupts, nothing but plain fields is touched here.
        """
        self.posts.append(callback)
        self.budget = 0
        self.attentive = True
        if self.polling:
            self.rouse()

    def recount(self, t: Task, outside: bool) -> None:
        """What a parked task waits on has become, or has ceased to be, fed from the outside."""
        t.external = outside
        if outside and not t.outside:
            t.outside = 1 if t.daemon else 2
            self.outside += 1
            self.outside_live += t.outside - 1
        elif not outside and t.outside and t.when == NEVER:
            self.outside -= 1
            self.outside_live -= t.outside - 1
            t.outside = 0
        if self.polling:
            self.rouse()

    def set_alarm(self, alarm: Alarm, when: float) -> None:
        """Have the alarm go off at the time (on the scheduler's clock), and at no other."""
        if alarm.slot:
            self.timers.remove(alarm)
        alarm.when = when
        self.timers.add(alarm)
        self.attentive = True
        if self.polling:
            self.rouse()

    def clear_alarm(self, alarm: Alarm) -> bool:
        """Take the alarm back; says whether it was still to go off."""
        if alarm.slot == 0:
            return False
        self.timers.remove(alarm)
        return True

    def check_wait(self) -> None:
        """Raise what would keep the current task from waiting."""
        self.prepare(None)

    def pause(self) -> None:
        """Let the others run once; a cancellation or a kill is delivered here."""
        self.prepare(None)
        self.yield_now()

    def sleep_until(self, when: float) -> None:
        """Park the current task until the time, or until its scope's end."""
        t = self.prepare(None)
        t.until = when
        if when < t.when:
            t.when = when
        park(t, SLEEP, False)


def may_park(timeout: float | None) -> Task | None:
    """The thread's current task, if it may park at once, for as long as it takes. None: `prepare` must look closer."""
    s = get_here()
    if s is None or timeout is not None or s.current is None or s.traps or s.hub is None:
        return None
    if s.current.alert or s.current.decided or s.current.scope is not None:
        return None
    s.current.when = NEVER
    return s.current


def is_struck(t: Task) -> bool:
    """Whether a kill, a cancellation or an error for main came since `prepare` looked: what ran then let others in."""
    if t.alert & (KILL | ERRORS):
        return True
    scope = t.scope
    while scope is not None:
        if scope.cancelled:
            return True
        scope = None if scope._shield else scope._parent
    return False


def park(t: Task, blocked_in: int, outside: bool) -> object:
    """`wait`, and raise what the waker left in ``error``."""
    value = wait(t, blocked_in, outside)
    if t.error is not None:
        raise cold.take_error(t)
    return value


def wait(t: Task, blocked_in: int, outside: bool) -> object:
    """Leave the current, prepared task, whose waiters are linked, until it is woken; give what is in ``value`` then."""
    if (t.alert or t.scope is not None) and is_struck(t):
        withdraw(t)
        t.decided = False
        t.value = None
        cython.cast(Scheduler, t.sched).prepare(None)  # which raises it
    t.state = BLOCKED
    t.blocked_in = blocked_in
    if outside or t.when != NEVER:
        t.external = outside
        s = cython.cast(Scheduler, t.sched)
        s.outside += 1
        t.outside = 1
        if not t.daemon and blocked_in != RUN:
            t.outside = 2
            s.outside_live += 1
        if t.when != NEVER:
            s.timers.add(t)
            s.attentive = True
    cython.cast(Scheduler, t.sched).switch()
    t.decided = False
    if t.outside:
        cython.cast(Scheduler, t.sched).forget_wait(t)
    value = t.value
    t.value = None
    return value


def meet(t: Task, direction: int, preference: int, all_switch: bool) -> int:
    """Wake the partner of a rendezvous, and switch as the channel's preference says.

    ``direction`` is what the current task does: 1 it sends, -1 it receives.
    """
    s = cython.cast(Scheduler, t.sched)
    if not is_here(s) or s.current is None or s.traps or s.chooser is not None:
        wake(t)
        return 0
    t.state = READY
    if not all_switch and preference != -direction:
        s.ready.append(t)
        return 0
    me = s.current
    me.state = READY
    me.decided = True  # its own half is done: a kill or a cancellation is for its next park
    if all_switch:
        s.ready.append(t)
        s.ready.append(me)
        s.switch()
    else:
        s.ready.append(me)
        if s.budget > 0 and s.on_switch is None and not (s.attentive and (coarse() > s.due or t is s.main)):
            s.budget -= 1  # as `switch` would, without the way through the queue
            t.state = RUNNING
            s.current = t
            carrier = t.carrier
            switch_to(carrier)
        else:
            s.ready.push(t)
            s.switch()
    me.decided = False
    return 0


def check_switch(s: Scheduler) -> int:
    """Raise RuntimeError where no tasklet may be switched away from: on the hub, in a callback, under a switch trap."""
    if s.current is None or s.traps:
        cold.refuse_to_block(s)
    if s.hub is None:
        cold.take_over_interrupts()
    return 0


task_class: Any = Task


def here() -> Scheduler:
    """The scheduler of this thread, made on first use."""
    s = get_here()
    if s is None:
        touch_greenlet()
        made = Scheduler(task_class.__new__(task_class))
        s = get_here()
        if s is not None:  # to make it has run finalizers, and they have made one
            made.main.carrier = None
            return s
        s = made
        set_here(s)
        cold.adopt_thread(s)
    return s


current_scheduler = here  # for modules that are not compiled


def present() -> Any:
    """The scheduler of this thread, or None."""
    return get_here()


def set_current_scheduler(scheduler: Scheduler | None) -> None:
    """Make this the thread's scheduler. For the start and the end of threads and forks alone."""
    set_here(scheduler)


if not cython.compiled:
    from flower.channels import _nocython as cython  # Cython's own stand-in, if it is installed, is slow

    guarded(Scheduler, "recount set_poller hold release set_alarm clear_alarm check_wait pause sleep_until")
