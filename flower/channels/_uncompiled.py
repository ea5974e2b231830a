"""What the core needs when it runs uncompiled: the guard, fields that start at zero, and what `_greenlet.pxd` is in C.

Compiled, a method of the core runs from its start to its next switch without letting another thread in:
that is the whole of its thread safety. Uncompiled, another thread could run between any two bytecodes, so
each entry to the core holds one process-wide lock, and a switch lets go of it. Compiled code never uses
this file.
"""

from __future__ import annotations

import contextvars
import functools
import gc
import os
import threading
import time

from greenlet import getcurrent

from flower._typing import Any

_guard: Any = threading.RLock()


class _Held:
    """``depth``: how often the one thread that has the guard holds it; 0 while nobody does."""

    depth = 0


_held = _Held()

_ZERO = {"int": 0, "float": 0.0, "bool": False}


def zeroed(*classes: type, own: str = "") -> None:
    """Let the fields that the classes declare start as C would start them: 0, 0.0, False, or None.

    They are the class's until they are set, but for its ``own`` ones, each object's: these are found at once.
    """
    for cls in classes:
        for name, kind in cls.__annotations__.items():
            setattr(cls, name, _ZERO.get(kind))
    if own:
        names = own.split()

        def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
            made = object.__new__(cls)
            for name in names:
                setattr(made, name, getattr(cls, name))
            return made

        classes[0].__new__ = new  # type: ignore[method-assign, assignment]


def guarded(owner: type, names: str) -> None:
    """Make the named methods and properties of the class hold the guard."""
    for name in names.split():
        member = owner.__dict__[name]
        if isinstance(member, property):
            setter = member.fset and hold(member.fset)
            setattr(owner, name, property(hold(member.fget), setter, doc=member.__doc__))
        else:
            setattr(owner, name, hold(member))


def hold(function: Any) -> Any:
    """The function, holding the guard."""

    @functools.wraps(function)
    def holding(*args: Any, **kwargs: Any) -> Any:
        with _guard:
            _held.depth += 1
            try:
                return function(*args, **kwargs)
            finally:
                _held.depth -= 1

    return holding


def switch_to(carrier: Any) -> None:
    """Switch to a greenlet, with the guard let go of meanwhile, however often this thread holds it."""
    if _guard._is_owned():
        depth, _held.depth = _held.depth, 0
        held = _guard._release_save()
        try:
            carrier.switch()
        finally:
            _guard._acquire_restore(held)
            _held.depth = depth
    else:
        carrier.switch()


# In a child there is no other thread to let go of it: so whoever forks holds it, and what it guards is whole there.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_guard.release)


# -- as in _greenlet.pxd


class _Here(threading.local):
    scheduler: Any = None
    caught: Any = None


_here = _Here()
coarse = time.monotonic


def get_here() -> Any:
    """The scheduler of this thread, or None."""
    return _here.scheduler


def is_here(scheduler: Any) -> bool:
    """Whether this is the scheduler of this thread."""
    return _here.scheduler is scheduler


def set_here(scheduler: Any) -> None:
    """Make this the thread's scheduler."""
    _here.scheduler = scheduler


def touch_greenlet() -> None:
    """Have greenlet make what it keeps for this thread, with no finalizer in between that would have it made twice."""
    collects = gc.isenabled()
    gc.disable()
    getcurrent()
    if collects:
        gc.enable()


def deepen(calls: int) -> None:
    """Uncompiled, the recursion limit holds everywhere."""


def track(thing: Any) -> None:
    """Uncompiled, the collector is told nothing."""


untrack = track


def call(func: Any, args: Any, kwargs: Any) -> Any:
    """Call a tasklet's function; what it raises is put aside, for `take_caught`."""
    try:
        return func(*args, **(kwargs or {}))
    except BaseException as error:
        _here.caught = error
    return None


def take_caught() -> Any:
    """What the last `call` raised, or None."""
    error, _here.caught = _here.caught, None
    return error


take_last = list.pop


def copy_context() -> Any:
    """A context for a new tasklet: None where the creator's is empty."""
    context = contextvars.copy_context()
    return context if len(context) else None


def copy_of(context: Any) -> Any:
    """The same, of a context that is not the present one."""
    return context.copy() if context is not None and len(context) else None


def set_context(context: Any) -> None:
    """Go on in this context."""
    getcurrent().gr_context = context
