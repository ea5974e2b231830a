# cython: nonecheck=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""The hub of a thread, which waits for the outside, and the carriers, which run the tasklets.

The hub lives inside the poller's ``run``, which calls `turn` again and again. Carriers start from it alone, so that
none inherits a deep stack. It ends by a flag, ``closing``, never by an exception thrown into it: that would leave a
poller's event loop for good.
"""

from __future__ import annotations

import functools
import sys

from flower._typing import Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from greenlet import GreenletExit, getcurrent, greenlet

from flower.channels import _scheduler
from flower.channels._delivery import raise_in_main, stray
from flower.channels._scheduler import Scheduler, fail
from flower.channels._task import Task, members, withdraw
from flower.channels._tasklet import is_pinned, unpin
from flower.channels._waiting import Alarm
from flower.errors import TaskletExit

if cython.compiled:
    import_greenlet()  # type: ignore[name-defined]  # noqa: F821  (from the .pxd)
else:
    from flower.channels._scheduler import SECONDS_PER_TURN, SWITCHES_PER_TURN, here
    from flower.channels._task import BLOCKED, DEAD, KILL, READY, RUNNING, take_context
    from flower.channels._uncompiled import call, coarse, hold, set_context, switch_to, take_caught, track
    from flower.channels._waiting import NEVER

    def start_below(carrier: Any, down: int) -> None:
        switch_to(carrier)

    def stack_left() -> int:
        return 0


# Carriers start at depths of the C stack that are so many bytes apart, in turn: a parked tasklet uses about 2 KiB, and
# what does not overlap need not be copied at a switch. With ROOM it takes 84 KiB of the thread's stack, and at most a
# quarter of that: where it is small, there are fewer lanes, or none.
LANES = 16
LANE_BYTES = 4096
# The hub switches from where a poller calls it: now from here, now from so much further down, as inside libuv's poll,
# which has 12 KiB of events on the stack. The lanes are below all of it, so that nothing of the hub need be copied.
ROOM = 20 * 1024

# Idle carriers that are kept for good. Each holds an interpreter stack chunk of 16 KiB.
IDLE_CARRIERS = 512
# Seconds that others are kept, too, if they are not needed: to make one and to end it takes longer than all the rest of
# a short tasklet's life, and where there were many at a time, there will be again.
KEPT = 1.0
# With so many carriers in use, no idle one is ended: each is a memory map of its own once its neighbours are gone,
# and a process has 65,530 by default; beyond that, what is freed is lost.
CROWD = 16_384
# Idle carriers that are ended in one turn: a few milliseconds.
TRIMMED_PER_TURN = 256

_modules: dict[str, Any] = sys.modules
_running_loop: Any = None  # asyncio's function, once it has been imported


# -- the hub


def live(s: Scheduler) -> object:
    """What the hub runs: one poller after the other."""
    turn_of_s = functools.partial(turn, s)
    raised: list[Any] = []  # by signal handlers of the program's own, while nobody ran
    while not s.closing:
        try:
            while raised:
                raise_in_main(s, raised.pop())
            s.entered = s.poller
            s.entered.run(turn_of_s)
            if s.entered is not s.poller:
                s.entered.close()
        except GreenletExit:
            raise
        except BaseException as error:  # no call here: another handler could raise in it, and end the hub
            raised.append(error)
    _scheduler.cold.leave_if_forked(s, raised.pop() if raised else None)  # by a signal handler, which has raised this
    s.polling = False  # nobody is to be roused any more
    if s.bury:
        _scheduler.cold.bury(s)
        while s.idle:  # each returns from its last switch, and ends
            switch_to(s.idle.pop())
    s.poller.close()  # which may take a while: nobody waits any more, to be told of its ends, or to lose a value
    s.current = s.main
    return None


def turn(s: Scheduler) -> float:
    """Run all that can run; then say how long the outside may be waited for (negative: come back)."""
    s.polling = False
    s.budget = SWITCHES_PER_TURN
    seconds = -1.0
    while not s.closing:
        if s.attentive:
            s.attentive = s.io
            fire_due(s)
            s.due = coarse() + SECONDS_PER_TURN
        while s.posts:
            s.posts.popleft()()
        run_ready(s)
        if s.closing:
            seconds = -1.0
            break
        if s.entered is not s.poller:  # the next turn is to be had from the new one, however much there is to do
            seconds = -1.0
            break
        if s.ready.count:
            seconds = 0.0
            break
        seconds = idle_for(s)
        if seconds != 0.0 or s.budget == 0:
            break
        s.budget = SWITCHES_PER_TURN
    if s.closing:
        _scheduler.cold.leave_if_forked(s, None)
    if seconds > 0.0 and ((len(s.idle) > IDLE_CARRIERS and s.started < CROWD) or is_pinned()):
        seconds = trim(s, seconds)
    s.polling = True
    if seconds > 0.0 and (s.posts or s.ready.count):  # from another thread or a signal handler, meanwhile
        s.polling = False
        return 0.0
    return seconds


def run_ready(s: Scheduler) -> int:
    """Switch to task after task, until none is ready or the outside is due."""
    while not s.closing:
        t = s.starting
        if t is not None:
            s.starting = None
        else:
            t = s.choose()
            if t is None:
                return 0
            t.state = RUNNING
            if s.on_switch is not None and t is not s.last:
                s.tell(s.last, t)
                s.last = None
        down = 0
        if t.carrier is None:
            if s.idle:
                s.employ(t)
            else:
                s.starting = t  # should this raise, the next turn goes on with t
                carrier = make_carrier(s)  # may run finalizers: t is not current yet, so that they can't block
                s.starting = None
                down = ROOM + s.lane * LANE_BYTES if s.lanes else 0
                t.carrier = carrier
                s.enlist(t)
        s.current = t
        carrier = t.carrier
        t = None
        if down:
            start_below(carrier, down)
        else:
            switch_to(carrier)
    return 0


def fire_due(s: Scheduler) -> int:
    """Fire every timer whose moment has come."""
    item = s.timers.first()
    if item is not None:
        s.attentive = True
        now = s.now()
        while item is not None and item.when <= now:
            s.timers.remove(item)
            item.fire(now)
            item = s.timers.first()
    return 0


def idle_for(s: Scheduler) -> float:
    """Nothing is ready. How long may the outside be waited for? 0.0 if something became ready after all."""
    if s.posts:
        return 0.0
    seconds = NEVER
    first = s.timers.first()
    if first is not None:
        seconds = first.when - s.now()
        if seconds <= 0.0:
            s.attentive = True
            s.budget = 0  # the outside gets its look first: timers as quick as this would keep it from it for good
            return 0.0
    if foreign_loop_runs() and _scheduler.cold.refuse_in_main(s):
        return 0.0
    if s.runs.count and s.outside_live == 0 and s.holds == 0:
        fail(cython.cast(Task, s.runs.last), None)
        return 0.0
    if seconds == NEVER and s.outside == 0 and s.holds == 0 and s.watches == 0:
        return _scheduler.cold.asleep_for_good(s)
    return seconds


def foreign_loop_runs() -> bool:
    """Whether an event loop of somebody else runs in this thread: to wait here would stop that loop."""
    global _running_loop
    if _running_loop is None:
        events = _modules.get("asyncio.events")
        if events is None:
            return False
        _running_loop = events._get_running_loop
    return _running_loop() is not None


# -- the carriers


def carry() -> object:
    """What a carrier runs: one task after the other, each from its start to its end."""
    s = here()
    me = getcurrent()
    t = s.current
    while t is not None:
        set_context(take_context(t))
        t.value = call(t.func, t.args, t.kwargs)
        s.ending = t
        t = None  # an idle carrier keeps nothing alive
        t = retire(s, me)
    return None


def retire(s: Scheduler, me: object) -> Task | None:
    """The task ``ending`` has, on this carrier. Returns the next one to start here, or None: this carrier ends."""
    t = s.ending
    s.ending = None
    t.failure = take_caught()
    if t.sched is not s:
        _scheduler.cold.leave_fork(t.failure)
    if t.decided:
        error = stray(t)
        t.failure = error if t.failure is None else t.failure
    finish(s, t)
    t = None
    if s.closing:
        return None
    t = s.choose()
    if t is not None:
        t.state = RUNNING
        if s.on_switch is not None:
            s.tell(s.last, t)
            s.last = None
        if t.carrier is None:
            t.carrier = me
            s.enlist(t)
            s.current = t
            return t
    set_context(None)
    s.idle.append(me)
    if t is None:
        switch_to(s.hub)
    else:
        s.current = t
        carrier = t.carrier
        t = None
        switch_to(carrier)
    return s.current


def finish(s: Scheduler, t: Task) -> int:
    """The task's function has returned or raised (``failure``)."""
    if s.on_switch is not None:
        s.last = t
    s.current = None
    s.strike(t)
    # Held until the end of this function: to drop them may run finalizers, which may start this very task again.
    func, _args, _kwargs, _cases, _pending = t.func, t.args, t.kwargs, t.cases, t.pending
    t.func = None
    t.args = None
    t.kwargs = None
    t.cases = None
    t.scope = None
    t.carrier = None
    if t.alert & KILL:  # it came too late
        t.alert &= ~KILL
        t.pending = None
    t.ended = True
    t.state = DEAD
    if t.failure is not None or t.joiners is not None or t.owner is not None:
        _scheduler.cold.settle(s, t, func)
    return 0


def make_carrier(s: Scheduler) -> Any:
    """A carrier that is still to be started, on the next lane."""
    if s.lanes < 0:
        _scheduler.cold.register(s)
        s.lanes = max(0, min(LANES, (stack_left() // 4 - ROOM) // LANE_BYTES))
    if s.lanes:
        s.lane = s.lane % s.lanes + 1
    return greenlet(carry, s.hub)


def trim(s: Scheduler, seconds: float) -> float:
    """Nothing is to be done for so long. Give back some of what nobody needed for a while; how long, then?

    Carriers go in the order of their making, so that neighbours go together.
    """
    now = s.now()
    if now >= s.look:
        surplus = min(s.spare, len(s.idle)) - IDLE_CARRIERS
        if s.look and surplus > 0 and s.started < CROWD:
            if not s.trimming:
                s.idle.sort(key=id)
            s.trimming = surplus > TRIMMED_PER_TURN
            for _ in range(min(TRIMMED_PER_TURN, surplus)):
                switch_to(s.idle.pop())
            s.spare = min(s.spare, len(s.idle))
            return 0.0
        unpin()
        s.look = now + KEPT
        s.spare = len(s.idle)
    return min(seconds, s.look - now)


# -- the end of a thread


def end(s: Scheduler, bury: bool) -> None:
    """Make the hub leave its poller for good; with ``bury``, end the tasks that are left. For main's own code."""
    s.closing = True
    s.bury = bury
    s.traps += 1  # who is woken from now on can't park any more, nor can main
    hub = s.hub
    if hub is None:
        s.poller.close()
        drop_ready(s)
    elif not hub.dead and getcurrent() is not hub:
        s.current = None
        switch_to(hub)
    if bury:
        drop_alarms(s)
        drop_ready(s)  # what the last of the tasks have started
        s.main.carrier = None  # greenlet frees a thread's main greenlet with the thread, whoever refers to it
        s.hub = None
        end_main(s)


def end_main(s: Scheduler) -> None:
    """The thread's own code has ended: who has joined its main task is told."""
    s.main.state = DEAD
    s.main.ended = True
    _scheduler.cold.settle(s, s.main, None)


def disown(s: Scheduler) -> None:
    """In a forked child: of the parent's tasks none runs here, and none of its timers goes off."""
    s.closing = True
    if s.polling:  # it is the hub that has called who forked: the next turn ends the process
        s.rouse()
    drop_alarms(s)


def drop_alarms(s: Scheduler) -> None:
    """No alarm of the thread will go off any more."""
    item = s.timers.first()
    while item is not None:
        s.timers.remove(item)
        if isinstance(item, Alarm):
            cython.cast(Alarm, item).end()
        item = s.timers.first()


def unfinished(s: Scheduler) -> int:
    """How many tasks that no daemon is have begun, or wait for their turn to, and have not ended."""
    return len([t for t in begun(s) + unstarted(s) if not t.daemon])


def unstarted(s: Scheduler) -> list[Any]:
    """The tasks that wait for their first turn. The garbage collector may not know them: see `tasklet.launch`."""
    return [t for t in members(s.ready) if t.carrier is None]


def drop_ready(s: Scheduler) -> None:
    """Let go of the tasks that have never run."""
    for t in unstarted(s):
        t.leave()
        track(t)
        t.state = DEAD
        t.ended = True
        t.failure = TaskletExit()
        _scheduler.cold.settle(s, t, None)


def begun(s: Scheduler) -> list[Any]:
    """The tasks that have begun and not ended, the oldest first; without the main one."""
    found = []
    t = s.newest
    while t is not None:
        found.append(t)
        t = t.older
    found.reverse()
    return found


def queued(s: Scheduler) -> list[Any]:
    """The tasks that wait for their turn, the next one first."""
    return members(s.ready)


def give_up(s: Scheduler, t: Task) -> None:
    """Let go of a task of a thread that is gone: it can't run any more, not even to clean up."""
    if t.state == BLOCKED and not t.decided:
        withdraw(t)
    elif t.state == READY:
        s.ready.remove(t)
    s.strike(t)
    t.state = DEAD
    t.ended = True
    t.failure = TaskletExit()
    _scheduler.cold.settle(s, t, None)


def finish_off(s: Scheduler, t: Task, error: BaseException) -> None:
    """On the hub, while closing: raise the error in a task, which can't park any more.

    One whose outcome is written has that instead: what was sent to it is not lost. It ends where it would next park.
    """
    if not t.decided:
        t.error = error
    if t.state == BLOCKED:
        withdraw(t)
    elif t.state == READY:
        s.ready.remove(t)
    t.state = RUNNING
    s.current = t
    switch_to(t.carrier)
    s.current = None


_scheduler.live = live

if not cython.compiled:
    from flower.channels import _nocython as cython  # Cython's own stand-in, if it is installed, is slow

    turn = hold(turn)
    retire = hold(retire)
    finish = hold(finish)
    end_main = hold(end_main)
    finish_off = hold(finish_off)
