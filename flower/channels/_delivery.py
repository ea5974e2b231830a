# cython: nonecheck=False
"""How an error from elsewhere, or an end, reaches a task: thrown, cancelled, joined, or raised in main.

Each is whole before anybody else runs, from any thread; see the scheduler's invariants. Who is to have an
error, where nobody has asked for it, is decided in `_failures`.
"""

from __future__ import annotations

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower._typing import Any
from flower.channels import _scheduler
from flower.channels._scheduler import Scheduler, fail, wake
from flower.channels._task import Task, withdraw
from flower.errors import TaskletExit

if not cython.compiled:
    from flower.channels._task import BLOCKED, ERRORS, KILL, PAUSED, READY
    from flower.channels._uncompiled import hold


# As it is, whatever a class makes of that name, and of setting attributes.
dict_of: Any = vars(BaseException)["__dict__"].__get__


def mark_foreign(error: BaseException) -> None:
    """It comes from elsewhere than what a task waits for: see `is_foreign`."""
    dict_of(error)["_flower_foreign"] = True


def throw_into(t: Task, error: BaseException) -> None:
    """Raise an error in a live task that is not current: where it is parked or queued, or else at its next park."""
    mark_foreign(error)
    if fail(t, error):
        return
    if t.state in (READY, PAUSED) and not t.decided and t.carrier is not None and t.error is None:
        t.error = error
    elif not (t.alert & KILL and isinstance(t.pending, TaskletExit)):  # a kill stands, whatever is thrown after it
        t.pending = error
        t.alert |= KILL
    if t.state == PAUSED:
        wake(t)


def cancel(t: Task, scope: object, error: object) -> bool:
    """`fail`, if the scope is still the task's innermost one: another thread may have seen it and come late."""
    return t.scope is scope and fail(t, error)


def stray(t: Task) -> BaseException:
    """A task that runs has an outcome that it has not taken: it was waited for in a greenlet that is not the task's.

    That is let go of. Returns the error of it.
    """
    t.decided = False
    if t.outside:
        cython.cast(Scheduler, t.sched).forget_wait(t)
    t.value = t.error = None
    return RuntimeError(
        "a greenlet of the program's own has waited in this tasklet's place, and what it has waited for is lost: "
        "Flower can wait in tasklets alone"
    )


def tell_joiners(t: Task) -> bool:
    """Wake those who wait for the task's end with how it ended: by the time they run, it may have another life.

    Says whether there were any: who has joined before, and given up, is none.
    """
    outcome = (t.failure, t.traceback, t.value)  # first: to allocate may run finalizers, and let a joiner give up
    joiners, t.joiners = t.joiners, None
    told: bool = joiners.count > 0
    while joiners.count:
        joiner = cython.cast(Task, joiners.first)
        joiner.value = outcome
        fail(joiner, None)
    return told


def raise_in_main(s: Scheduler, error: BaseException) -> None:
    """Raise an error in the main task: now if it is parked, undecided; else when it next parks."""
    mark_foreign(error)
    main = s.main
    if main.state == PAUSED:  # there may be nobody left to insert it
        wake(main)
    if main.state == BLOCKED and not main.decided:
        withdraw(main)
    elif main.state != READY or main.decided or main.error is not None:
        s.main_errors.append(error)
        main.alert |= ERRORS
        return
    else:
        s.ready.remove(main)
    main.error = error
    main.state = READY
    s.ready.push(main)
    if s.polling:
        s.rouse()


def spare_main(s: Scheduler, error: BaseException) -> bool:
    """Somebody has collected an error; says whether it was yet to be raised in main."""
    main = s.main
    errors = s.main_errors
    for i in range(len(errors)):
        if errors[i] is error:  # mostly the first, where there are many: those who join come in the same order
            del errors[i]
            if not errors:
                main.alert &= ~ERRORS
            return True
    if main.error is error and main.state == READY and not main.decided:
        main.error = None
        return True
    return False


def interrupt_main(s: Scheduler, error: BaseException | None = None) -> None:
    """Ctrl-C: KeyboardInterrupt is raised in the main task where it waits, or when it next parks.

    ``error`` is the one that a tasklet has, too: who collects it there spares main.
    """
    s.post(lambda: raise_in_main(s, error or KeyboardInterrupt()))


def report(s: Scheduler, error: BaseException, t: Task | None) -> None:
    """Hand an error that nobody collects to the error handler, on the hub; now if that has had its last turn."""
    if s.closing:
        _scheduler.cold.handle(t, error)
    else:
        s.post(lambda: _scheduler.cold.handle(t, error))


if not cython.compiled:
    from flower.channels import _nocython as cython  # Cython's own stand-in, if it is installed, is slow

    cancel = hold(cancel)
    throw_into = hold(throw_into)
    raise_in_main = hold(raise_in_main)
