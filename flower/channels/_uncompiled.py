"""What the core needs when it runs uncompiled: the guard, and fields that start at zero.

Compiled, a method of the core runs from its start to its next switch without letting another thread in:
that is the whole of its thread safety. Uncompiled, another thread could run between any two bytecodes, so
each entry to the core holds one process-wide lock, and a switch lets go of it. Compiled code never uses
this file.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

_guard: Any = threading.RLock()

_ZERO = {"int": 0, "float": 0.0, "bool": False}


def zeroed(*classes: type) -> None:
    """Let the fields that the classes declare start as C would start them: 0, 0.0, False, or None."""
    for cls in classes:
        for name, kind in cls.__annotations__.items():
            setattr(cls, name, _ZERO.get(kind))


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
            return function(*args, **kwargs)

    return holding


def switch_to(carrier: Any) -> None:
    """Switch to a greenlet, with the guard let go of meanwhile, however often this thread holds it."""
    if _guard._is_owned():
        held = _guard._release_save()
        try:
            carrier.switch()
        finally:
            _guard._acquire_restore(held)
    else:
        carrier.switch()


def reset_after_fork() -> None:
    """In the child: another thread of the parent may have held the guard."""
    _guard._at_fork_reinit()
