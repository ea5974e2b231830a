"""What a service exports: the only methods that a peer can call.

The table is made once, from the class; a peer's string is looked up in it and never used as an attribute's
name.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__flower_rpc_method__"
_KINDS = (types.FunctionType, staticmethod, classmethod)


def method(function: F) -> F:
    """Mark a method of a service as one that peers may call.

    Needed for methods that the service's class inherits: of its own, all that have a public name are
    exported anyway. A name that begins with an underscore is never exported: ValueError.

    >>> class Base:
    ...     @rpc.method
    ...     def ping(self): return "pong"
    """
    inner = getattr(function, "__func__", function)
    name = getattr(inner, "__name__", None)
    if not callable(inner) or name is None or not hasattr(function, "__get__"):
        raise TypeError(f"rpc.method marks a method, not {function!r}")
    if name.startswith("_"):
        raise ValueError(f"{name!r} is private, and can't be exported")
    setattr(inner, _MARK, True)
    return function


def exports(service: object) -> dict[str, Callable[..., Any]]:
    """The methods of a service that peers may call, bound to it, by name.

    These are the functions (and static and class methods) with public names that its own class defines, and
    the marked ones that this inherits. Attributes of the object itself, properties and nested classes are
    none.
    """
    if service is None:
        return {}
    if isinstance(service, type):
        raise TypeError(f"a service is an object, not a class: give {service.__name__}()")
    own = type(service)
    if own.__module__ == "builtins" and own is not object:  # a number, a dict, a module, a function ...
        raise TypeError(f"a service is an object of a class with methods to call, not {service!r}")
    found: dict[str, Callable[..., Any]] = {}
    for cls in reversed(own.__mro__):
        for name, member in vars(cls).items():
            inner = getattr(member, "__func__", member)
            marked = getattr(inner, _MARK, False) and hasattr(member, "__get__")
            if not name.startswith("_") and (marked or (cls is own and isinstance(member, _KINDS))):
                found[name] = member.__get__(service, own)
            else:
                found.pop(name, None)  # something else of that name hides it
    return found
