"""The scheduler's rare paths: errors of tasklets, refusals, and words about tasklets.

The error of a tasklet goes to whoever collects it: its group, or those who join it. If nobody does, it is
raised in the main tasklet, with a note, unless an error handler is set. The loss of a peer is the exception:
an error of one of Flower's own connections is only reported, since it must not end a server.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from types import MemberDescriptorType

from greenlet import GreenletExit

from flower._typing import TYPE_CHECKING, Any
from flower.channels import _deadlock, _delivery, _lifecycle, _scheduler
from flower.channels._deadlock import refusal
from flower.channels._delivery import dict_of, raise_in_main, report, spare_main, tell_joiners
from flower.channels._task import BLOCKED, ERRORS, KILL, TRAP
from flower.errors import Cancelled, TaskletExit, TaskletKilled

if TYPE_CHECKING:
    from collections.abc import Callable

REASONS = _deadlock.REASONS
_handler: Any = None

adopt_thread = _lifecycle.adopt_thread
before_hub = _lifecycle.before_hub
before_start = _lifecycle.before_start
take_over_interrupts = _lifecycle.take_over_interrupts
schedulers = _lifecycle.schedulers
bury = _lifecycle.bury
register = _lifecycle.register
leave_fork = _lifecycle.leave_fork
leave_if_forked = _lifecycle.leave_if_forked
asleep_for_good = _deadlock.asleep_for_good
refuse_in_main = _deadlock.refuse_in_main
stray = _delivery.stray


def set_error_handler(handler: Callable[[Any, BaseException], object] | None) -> Any:
    """Have ``handler(tasklet, error)`` called with each error of a tasklet that nobody collects.

    Without a handler (None) such an error is raised in the main tasklet. The handler runs in no tasklet and may not
    block; what it raises goes to ``sys.unraisablehook``. Returns the handler before.
    """
    global _handler
    if handler is not None and not callable(handler):
        raise TypeError(f"an error handler must be callable or None, not {handler!r}")
    before = _handler
    _handler = handler
    return before


def settle(s: Any, t: Any, func: Any) -> None:
    """A tasklet of the function has ended, with an error or with somebody waiting for its end."""
    error = t.failure
    if error is not None and type(t.label) is str and not t.label:
        t.label = _attribute(func, "__qualname__")  # reports name it when the function is gone
    owner = t.owner
    if error is not None:
        t.traceback = _traceback_of(error)
    collected = t.joiners is not None and tell_joiners(t)
    if owner is not None:
        t.owner = None
        collected = owner._child_ended(t, error) or collected
    if error is None or issubclass(type(error), (TaskletExit, GreenletExit)) or was_passed_on(error):
        return
    if issubclass(type(error), KeyboardInterrupt):
        pass_on(error)  # once, however many end with it
        raise_in_main(s, error)
    elif not collected:
        if _handler is not None or s.interposer is not None or _attribute(error, "_flower_conn"):
            report(s, error, t)
        else:
            note(error, lambda: f"This ended {describe(t)}, which nobody joined.")
            raise_in_main(s, error)


def note(error: BaseException, text: Callable[[], str]) -> bool:
    """Add a note, unless the error takes none, or what it names has no words; says whether it did."""
    try:
        error.add_note(text())
    except Exception:  # the error is what matters
        return False
    return True


def is_foreign(error: BaseException) -> bool:
    """Whether it is not of what the tasklet waits for: thrown into it, or raised in main where nobody else gets it."""
    return "_flower_foreign" in dict_of(error)


def pass_on(error: BaseException) -> None:
    """Main is told of the error by other means: that a tasklet ends with it as well is nobody's failure."""
    with suppress(Exception):  # one that can't be changed
        error._flower_passed_on = True  # type: ignore[attr-defined]


def was_passed_on(error: BaseException) -> bool:
    return _attribute(error, "_flower_passed_on") is True


# As they are, whatever a class makes of these names.
_traceback_of, _cause_of, _context_of = (
    vars(BaseException)[name].__get__ for name in ("__traceback__", "__cause__", "__context__")
)
_set_context: Any = vars(BaseException)["__context__"].__set__


def _attribute(thing: Any, name: str) -> Any:
    try:
        return getattr(thing, name, None)
    except Exception:  # a __getattr__ of its own kind
        return None


def handle(t: Any, error: BaseException) -> None:
    """Hand an error to the error handler, or print it. Called on the hub."""
    scheduler = _scheduler.current_scheduler()
    interposer = scheduler.interposer
    try:
        if interposer is not None:
            interposer.failed(t, error, _handler)
        elif _handler is not None:
            _handler(t, error)
        else:
            print_error(t, error)
    except BaseException as failure:
        leave_if_forked(scheduler, failure)
        with suppress(Exception):  # one that can't be changed
            if _context_of(failure) is None and not _leads_to(error, failure):
                failure.__context__ = error  # or nobody would see that
        unraisable(failure, _handler)


def _leads_to(error: BaseException, other: BaseException) -> bool:
    """Whether the other is the error, or among its causes and contexts."""
    seen: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        found = left.pop()
        if found is other:
            return True
        if found is not None and not any(found is each for each in seen):
            seen.append(found)
            left += [_cause_of(found), _context_of(found)]
    return False


def print_error(t: Any, error: BaseException) -> None:
    """What is done with a reported error when there is no handler."""
    import traceback  # not at the top: it takes a third of the time of importing flower

    where = "" if t is None else f" in {describe(t)}"
    lines = "".join(traceback.format_exception(error))
    print(f"Error{where}, which nobody joined:\n{lines}", end="", file=sys.stderr, flush=True)


def unraisable(error: BaseException, where: Any) -> None:
    """Hand an error that can be raised nowhere to ``sys.unraisablehook``."""
    try:
        if sys.unraisablehook is sys.__unraisablehook__:  # which takes nothing but what the interpreter makes
            import traceback

            lines = "".join(traceback.format_exception(error))
            print(f"Exception ignored in a callback of flower: {where!r}\n{lines}", end="", file=sys.stderr, flush=True)
        else:
            sys.unraisablehook(_Unraisable(error, where))  # type: ignore[arg-type]
    except BaseException as failure:  # the last resort has failed: a line is all that is left
        with suppress(BaseException):  # even that: there is no standard error
            print(f"Error in sys.unraisablehook, called by flower: {failure!r}", file=sys.stderr)


class _Unraisable:
    """What ``sys.unraisablehook`` is given."""

    def __init__(self, error: BaseException, where: Any) -> None:
        self.exc_type = type(error)
        self.exc_value = error
        self.exc_traceback = error.__traceback__
        self.err_msg = "Exception ignored in a callback of flower"
        self.object = where


def collect(t: Any, error: BaseException | None, traceback: Any, value: Any) -> Any:
    """What a life of the tasklet came to, for one who joins it: its error is raised, to each with its own traceback."""
    if error is None:
        return value
    if issubclass(type(error), (TaskletExit, GreenletExit)):
        raise TaskletKilled(f"{describe(t)} was killed") from None
    if not was_passed_on(error) or _scheduler.current_scheduler().current is t.sched.main:
        spare_main(t.sched, error)
    if issubclass(type(error), Cancelled):  # of a scope in there, which is none of the joiner's
        check_scopes()
        raise TaskletKilled(f"{describe(t)} was cancelled") from None
    if t.collected or t.failure is not error:
        dict_of(error).setdefault("_flower_same", object())
        error = copy_error(error)
    else:
        t.collected = True
    try:
        raise BaseException.with_traceback(error, traceback)
    finally:
        del t, error, traceback  # which name this frame


def check_scopes() -> None:
    """Raise Cancelled if the current tasklet is in a scope that is over, as where it is about to park."""
    scheduler = _scheduler.current_scheduler()
    if scheduler.current is not None and scheduler.current.scope is not None:
        scheduler.current.scope.deadline(scheduler, 0.0)


def raise_as_it_is(error: BaseException) -> None:
    """Raise the error with the context that it has, whatever is being handled here."""
    context = _context_of(error)
    try:
        raise error
    finally:
        _set_context(error, context)
        del error, context


def same_as(error: BaseException) -> object:
    """What an error and its copies have in common."""
    return dict_of(error).get("_flower_same", error)


def copy_error(error: BaseException) -> BaseException:
    """The same error once more, so that two can raise it without mixing their tracebacks."""
    try:
        return _copied(error)
    except Exception:  # a class with a constructor of its own kind, or one that can't be changed: the one must do
        return error


def _copied(error: BaseException) -> BaseException:
    cls = type(error)
    other = cls.__new__(cls, *error.args)
    if type(other) is not cls:
        return error
    for base in cls.__mro__:  # what built-in constructors keep beside the arguments, such as SystemExit.code
        for name, member in vars(base).items():
            if isinstance(member, MemberDescriptorType) and getattr(error, name, None) is not None:
                try:
                    setattr(other, name, getattr(error, name))
                except AttributeError:  # one that only the constructor sets
                    pass
    other.__dict__.update(error.__dict__)
    if hasattr(error, "__notes__"):
        other.__notes__ = list(error.__notes__)
    other.args = error.args
    other.__cause__ = error.__cause__
    other.__context__ = error.__context__
    other.__suppress_context__ = error.__suppress_context__
    return other


def take_error(t: Any) -> BaseException:
    """What is to be raised in the task: an exception, or that of the channel which was closed.

    Whoever raises it keeps no name for it: a frame that names the exception whose traceback holds the frame is a cycle.
    """
    error, t.error = t.error, None
    return error if isinstance(error, BaseException) else error._refusal()


def refuse_to_block(s: Any) -> None:
    """Raise the RuntimeError of a blocking call where none is possible."""
    if s.closing:
        raise TaskletExit("this thread is at its end: nothing is waited for any more")
    if s.current is None:
        where = "a callback of the event loop, or a signal handler in it: let a tasklet do it"
        raise refusal(f"blocking is not possible in {where}; in a coroutine, await what flower.aio has", None)
    raise refusal("blocking is not possible here: this is a callback, or a switch trap is set", s.current)


def was_refused(error: BaseException) -> bool:
    """Whether it says that the present tasklet can't wait where it is."""
    return bool(_attribute(error, "_flower_refused") == id(_scheduler.current_scheduler().current))


def alerted(s: Any, t: Any, parking: bool = True) -> None:
    """Before the task parks or gives way: raise what is waiting for it."""
    if t.alert & KILL:
        t.alert &= ~KILL
        t.error, t.pending = t.pending, None
        raise take_error(t)
    if t.alert & ERRORS:
        if len(s.main_errors) < 2:  # first, as a signal handler of the program's own may raise after it
            t.alert &= ~ERRORS
        if s.main_errors:
            raise s.main_errors.pop(0)
    if t.alert & TRAP and parking:
        raise refusal("this tasklet does not like to be blocked.", t)


def describe(t: Any) -> str:
    """The tasklet in words, as repr shows it."""
    name = t.label or getattr(t.func, "__qualname__", None)
    words = ["main tasklet" if t.sched is not None and t.sched.main is t else "tasklet"]
    if name:
        words.append(repr(name))
    words.append(("dead", "paused", "ready", "running", "blocked")[t.state])
    if t.state == BLOCKED:
        words.append(f"in {REASONS[t.blocked_in]}")
    return f"<{' '.join(words)} at {id(t):#x}>"


_scheduler.cold = sys.modules[__name__]
