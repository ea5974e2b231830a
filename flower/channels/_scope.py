"""Limits on what runs inside a ``with``: timeout, move_on, shield, and group.

A scope that is cancelled, or whose time is over, raises Cancelled in its tasklet at the next call that would
park, and again at each one until the scope is left. Scopes nest; when several are over, the outermost is the
one that raises, and only the scope that an exception belongs to catches it. A shield hides the scopes around
it from what runs inside. The scheduler asks the innermost scope each time the tasklet is about to park.

A scope is the tasklet's that entered it. To leave it elsewhere (where a generator is closed, for instance), or before
those inside of it, is a RuntimeError; it is left all the same. Once the tasklet has ended, it is none.
"""

from __future__ import annotations

from math import inf as NEVER

from flower._typing import TYPE_CHECKING, Any, Literal
from flower.channels._channel import channel
from flower.channels._deadlock import refusal
from flower.channels._delivery import cancel, report, spare_main
from flower.channels._failures import raise_as_it_is, same_as, was_passed_on, was_refused
from flower.channels._forks import after_fork
from flower.channels._scheduler import current_scheduler, present
from flower.channels._task import PAUSED, check_timeout
from flower.channels._tasklet import tasklet
from flower.errors import Cancelled, Deadlock, TaskletExit, Timeout

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Scope:
    """What ``with flower.move_on(...)`` and ``flower.timeout(...)`` give: a part of a tasklet that can be cancelled."""

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = check_timeout(seconds)
        self._task: Any = None
        self._parent: Scope | None = None
        self._deadline = NEVER
        self._shield = False
        self._used = False
        self._members: dict[Any, Scope] | None = None  # of the group whose body it is around
        self.expired = False
        """Whether the time was over before the scope was left, and something was cancelled for that."""
        self.cancelled = False
        """Whether the scope was cancelled, by ``cancel`` or because its time was over."""

    def cancel(self) -> None:
        """Cancel what runs inside: now if it is blocked, else where it next blocks. From any tasklet or thread."""
        self.cancelled = True
        task = self._task
        inner = None if task is None else task.scope
        culprit = None if inner is None else inner._culprit(None)
        if culprit is not None:
            cancel(task, inner, Cancelled(culprit))

    def _culprit(self, now: float | None) -> Scope | None:
        """The outermost scope that is over (by its deadline too, if given the time), as seen from inside this one."""
        found = None
        scope: Scope | None = self
        while scope is not None:
            if now is not None and scope._deadline <= now:
                scope.expired = scope.cancelled = True
            if scope.cancelled:
                found = scope
            scope = None if scope._shield else scope._parent
        return found

    def deadline(self, scheduler: Any, when: float) -> float:
        """The tasklet is about to park until ``when``: until when at most? Raises Cancelled if a scope is over."""
        limit = self.limit()
        culprit = self._culprit(None if limit == NEVER else scheduler.now())
        if culprit is not None:
            raise Cancelled(culprit)
        return min(when, limit)

    def limit(self) -> float:
        """The earliest deadline of a scope around."""
        limit = NEVER
        scope: Scope | None = self
        while scope is not None and not scope._shield:
            limit = min(limit, scope._deadline)
            scope = scope._parent
        return limit

    def cancellation(self, now: float) -> Cancelled | None:
        """A deadline has passed while the tasklet was parked: the exception, if it was that of a scope."""
        culprit = self._culprit(now)
        return None if culprit is None else Cancelled(culprit)

    def __enter__(self) -> Scope:
        scheduler = current_scheduler()
        task = scheduler.current
        if task is None:
            raise refusal("a scope can't be entered in a callback", None)
        if self._used:
            raise RuntimeError("a scope can be entered only once")
        self._used = True
        self._enter(task)
        if self._seconds is not None:
            self._deadline = scheduler.now() + self._seconds
        return self

    def _enter(self, task: Any) -> None:
        self._task = task
        self._parent = task.scope
        task.scope = self

    def __exit__(self, kind: Any, error: BaseException | None, tb: TracebackType | None) -> bool:
        self._leave()
        return isinstance(error, Cancelled) and error.scope is self

    def _leave(self) -> None:
        task, self._task = self._task, None
        if task is None:
            raise RuntimeError("the scope is not entered, or left already")
        inner = task.scope
        if inner is self:
            task.scope = self._parent
            if task is current_scheduler().current:
                return
        else:
            while inner is not None and inner._parent is not self:
                inner = inner._parent
            if inner is None:  # the tasklet has ended
                return
            inner._parent = self._parent  # it may strike nobody any more
        raise RuntimeError("scopes are left in the reverse order of entering, by the tasklet that entered")

    def __repr__(self) -> str:
        state = "expired" if self.expired else "cancelled" if self.cancelled else "open"
        return f"<{type(self).__name__.lower()} {state}>"


class move_on(Scope):
    """move_on(seconds=None)

    ``with move_on(seconds) as scope:`` leaves its body quietly when the time is over, or on ``scope.cancel()``.

    ``seconds`` is a number of seconds from the entry; None has no deadline. ``scope.expired`` tells afterwards
    whether the time was over. Values are not lost: what the body had received is received.

    >>> from flower import channel
    >>> with move_on(0.001) as scope:
    ...     channel().receive()
    >>> scope.expired
    True
    """


class timeout(Scope):
    """timeout(seconds)

    ``with timeout(seconds) as scope:`` raises Timeout when the body is not done within the seconds from the entry.

    It raises only if it stopped the body at a blocking call; another error of the body goes before.

    >>> from flower import channel
    >>> with timeout(0.001):
    ...     channel().receive()
    Traceback (most recent call last):
    flower.errors.Timeout: the block was not done within 0.001 seconds
    """

    def __init__(self, seconds: float | None) -> None:
        super().__init__(seconds)

    def __exit__(self, kind: Any, error: BaseException | None, tb: TracebackType | None) -> Literal[False]:
        if super().__exit__(kind, error, tb):
            if self.expired:
                raise Timeout(f"the block was not done within {self._seconds} seconds") from None
            raise Timeout("the block was cancelled") from None
        return False


class shield(Scope):
    """shield()

    ``with shield():`` lets what runs inside finish, though scopes around it are over. A kill is not held back, nor is
    the shield's own ``cancel()``.

    >>> with shield():
    ...     pass
    """

    def __init__(self) -> None:
        super().__init__(None)
        self._shield = True


class group:
    """group()

    ``with group() as g:`` runs tasklets, started with ``g.go(func, *args)``, and waits for all of them at its end.

    The first error cancels the others (and the body), and is raised when all have ended; several are raised together as
    an ExceptionGroup. A member that is killed is no error. An owner that is killed or cancelled while it waits
    cancels its members and awaits them. ``g.cancel()`` cancels body and members, which is no error either.

    >>> from flower import channel
    >>> ch = channel(3)
    >>> with group() as g:
    ...     for n in range(3):
    ...         _ = g.go(ch.send, n)
    >>> len(ch)
    3
    """

    def __init__(self) -> None:
        self._scope = Scope()
        self._members: dict[Any, Scope] = {}
        self._scope._members = self._members
        self._errors: list[BaseException] = []
        self._for_main: BaseException | None = None  # of a member: main is told of it by other means
        self._ended: channel[None] = channel(1, label="the tasklets of a group")
        self._open = False

    def go(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> tasklet:
        """Start ``func(*args, **kwargs)`` as a tasklet of the group; returns the tasklet. Does not block.

        Raises RuntimeError when the group is not entered, or left; TypeError for a func that is not callable.
        """
        if not self._open:
            raise RuntimeError("a group takes tasklets only inside of its with block")
        if func is None:  # which makes a tasklet that can't begin
            raise TypeError("a tasklet needs a function to run, not None")
        t = tasklet(func)
        scope = Scope()
        scope._enter(t)
        t.owner = self
        self._members[t] = scope
        if self._scope.cancelled:  # looked at last: another thread may cancel meanwhile
            scope.cancelled = True
        t(*args, **kwargs)
        return t

    def cancel(self) -> None:
        """Cancel the body and all the members, at their blocking calls."""
        self._scope.cancel()
        for t, scope in list(self._members.items()):
            scope.cancel()
            if t.state == PAUSED:  # who took it out of the queue is perhaps cancelled, too
                try:
                    t.insert()
                except RuntimeError:  # its thread has ended, so that it never begins
                    if t.state == PAUSED:
                        t.kill()

    def _child_ended(self, t: Any, error: BaseException | None) -> bool:
        """A member has ended. Called by the scheduler; may not block. Says whether its error is seen to."""
        scope = self._members[t]
        scope._task = None  # whose Cancelled names the scope
        kind = type(error)
        own = issubclass(kind, Cancelled) and error.scope is scope  # type: ignore[union-attr]
        for_main = issubclass(kind, KeyboardInterrupt) or (error is not None and was_passed_on(error))
        awaited = self._open
        if awaited and error is not None and not (own or for_main or issubclass(kind, TaskletExit)):
            self._errors.append(error)
        if awaited and for_main:
            self._for_main = error
        del self._members[t]  # now that its error is noted: the owner may be in another thread, and go on
        if not awaited:
            return own
        if (for_main or self._errors) and not self._scope.cancelled:
            self.cancel()
        if not self._members:
            self._ended.try_send(None)
        return True

    def __enter__(self) -> group:
        self._scope.__enter__()
        self._open = True
        return self

    def __exit__(self, kind: Any, error: BaseException | None, tb: TracebackType | None) -> bool:
        try:
            while error is None and self._members:
                self._ended.receive()
        except BaseException as interruption:
            error = interruption
        try:
            if error is not None:
                self.cancel()
                error = self._await_members(error)
        finally:
            self._open = False
            try:
                self._scope._leave()
            except RuntimeError as disorder:
                self._errors.append(disorder)
        own = isinstance(error, Cancelled) and error.scope is self._scope
        for_main, self._for_main = self._for_main, None
        if for_main is not None and (own or error is None):
            scheduler = current_scheduler()
            if scheduler.current is scheduler.main and spare_main(scheduler, for_main):
                error, own = for_main, False
        result = self._conclude(None if own else error)
        try:
            if result is not None and result is error:
                raise result
            if result is not None:
                raise_as_it_is(result)  # and not in the context of the body's cancellation
            return own
        finally:
            del error, for_main, result  # whose tracebacks name this frame

    def _await_members(self, error: BaseException) -> BaseException:
        """Wait for the cancelled members, whatever is raised meanwhile; returns the exception to go on with."""
        while self._members:
            try:
                with shield():
                    self._ended.receive()
            except BaseException as another:
                if current_scheduler().closing or isinstance(another, Deadlock):  # each is ended by that alone
                    return another
                if was_refused(another):  # there is no waiting: a callback, a trap
                    if not was_refused(error):
                        self._errors.append(another)
                    return error
                if isinstance(another, Exception):
                    self._errors.append(another)
                else:  # a kill or Ctrl-C
                    if isinstance(error, Exception):
                        self._errors.insert(0, error)
                    error = another
        return error

    def _conclude(self, error: BaseException | None) -> BaseException | None:
        """What is to be raised, if anything is."""
        # (One that the body, or a member, has from a join of a member is the same, or a copy, and counts once.)
        distinct: dict[int, BaseException] = {}
        for each in self._errors:
            distinct.setdefault(id(same_as(each)), each)
        if error is not None:
            distinct.pop(id(same_as(error)), None)
        errors = list(distinct.values())
        self._errors = []
        if error is None or (errors and isinstance(error, GeneratorExit)):  # which is none, and has done its part
            if len(errors) < 2:
                return errors[0] if errors else None
        elif isinstance(error, (TaskletExit, KeyboardInterrupt, Cancelled)):
            for other in errors:
                report(current_scheduler(), other, None)
            return error
        elif not errors:
            return error
        else:
            errors.insert(0, error)
        several = BaseExceptionGroup("several tasklets of a group failed", errors)
        several.__suppress_context__ = True
        return several


@after_fork
def _after_fork() -> None:
    """In the child: the members of the groups that it is in the body of are the parent's, and nobody waits for them."""
    scheduler = present()
    scope = None if scheduler is None else scheduler.main.scope
    while scope is not None:
        if scope._members is not None:
            scope._members.clear()
        scope = scope._parent
