"""Errors on their way through the wire: an exception becomes a map (for plain peers a string), and a map an exception.

A map has ``k`` (its kind, of `_OF_KIND`), ``t`` (the class, by name), ``b`` (the built-in class that it is based on),
``m`` (its text), ``a`` (its arguments, when they are plain data), ``tb`` (its traceback as text, if that may be told)
and ``c`` (its cause, another map). No class is ever looked up by a name from the wire, but in the table of the
built-in exceptions and in that of the registered ones.
"""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Callable
from typing import Any

from flower.errors import (
    Cancelled,
    DeadlineExceeded,
    Disconnected,
    InvalidArguments,
    Overloaded,
    RemoteAbort,
    RemoteCancelled,
    RemoteError,
    UnknownMethod,
)
from flower.rpc._types import registered_class, registered_name

# Characters of an error's text that are sent, and of its traceback (its end, which says most).
MAX_TEXT = 8 * 1024
MAX_TRACEBACK = 32 * 1024
# Causes of causes.
MAX_CAUSES = 4
# Characters of a text for a peer that takes no more: the least message has room for it.
BRIEF = 100
# What an error's own arguments are sent as.
_PLAIN = (type(None), bool, int, float, str, bytes)

_OF_KIND: dict[str, type[RemoteError]] = {
    "failed": RemoteError,
    "disconnected": RemoteError,
    "overloaded": Overloaded,
    "unimplemented": UnknownMethod,
    "invalid": InvalidArguments,
    "cancelled": RemoteCancelled,
    "deadline": DeadlineExceeded,
}

# Exceptions that end something where they are raised are told of, but not raised under their own class.
_NOT_AGAIN = (StopIteration, StopAsyncIteration)
_BUILTIN: dict[str, type[Exception]] = {
    f"builtins.{name}": cls
    for name, cls in vars(builtins).items()
    if isinstance(cls, type) and issubclass(cls, Exception) and not issubclass(cls, _NOT_AGAIN)
}
_rebuilt: dict[tuple[type, type], type] = {}  # (a class of ours, the class it was): both in one


def fault(kind: str, text: str) -> dict[str, Any]:
    """The map of an error that no exception stands for."""
    return {"k": kind, "t": "", "m": text}


def describe(error: BaseException, kind: str = "failed", tracebacks: bool = False, causes: int = MAX_CAUSES) -> Any:
    """The map of an exception. What can't be told of it is left out; it raises nothing."""
    if isinstance(error, RemoteError) and isinstance(error.error, dict) and kind == "failed":
        told = {**error.error, "k": "failed"}  # from another node: as it came, its traceback too
        if not tracebacks:
            told.pop("tb", None)
        return told
    if isinstance(error, Disconnected) and kind == "failed":
        kind = "disconnected"
    told = {"k": kind, "t": _class_name(type(error)), "m": text_of(error)}
    base = next((c for c in type(error).__mro__ if _BUILTIN.get(f"builtins.{c.__name__}") is c), None)
    if base is not None and base is not Exception:
        told["b"] = f"builtins.{base.__name__}"
    try:
        args = error.args
        if len(args) <= 8 and all(type(arg) in _PLAIN and _is_short(arg) for arg in args):
            told["a"] = list(args)
        if tracebacks:
            told["tb"] = _encodable("".join(traceback.format_exception(error, chain=False)))[-MAX_TRACEBACK:]
    except Exception:  # a class that is strange, or a SyntaxError with something else than text in it
        pass
    cause = error.__cause__
    if cause is not None and causes > 1:
        told["c"] = describe(cause, tracebacks=tracebacks, causes=causes - 1)
    return told


def describe_abort(error: BaseException, tracebacks: bool = False) -> Any:
    """The map of what a sender failed with, for the receiver: where its time was over, that says so at each node."""
    told = describe(error, tracebacks=tracebacks)
    return {**told, "k": "deadline"} if isinstance(error, DeadlineExceeded) else told


def describe_plain(error: BaseException) -> str:
    """An error as a plain peer gets it: a string that is never empty, not long, and can be encoded."""
    name, text = type(error).__name__, text_of(error)
    return f"{name}: {text}" if text else name


def packed(pack: Callable[[Any], bytes], told: Any) -> bytes:
    """``pack(told)``; of the little that any peer takes, where an error can't be packed or is too long for the peer."""
    try:
        return pack(told)
    except (TypeError, ValueError):
        return pack(brief(told) if isinstance(told, dict) else _brief(told))


def brief(told: dict[str, Any], most: int = BRIEF) -> dict[str, Any]:
    """The little of a map that any peer takes: its kind, its class, and ``most`` characters of its text."""
    kind, cls, base = (_str(told.get(key)) for key in ("k", "t", "b"))
    found = fault(kind if kind in _OF_KIND else "failed", _brief(told.get("m"), most))
    found["t"] = _encodable(cls[:BRIEF])
    return {**found, "b": base} if base in _BUILTIN else found


def _brief(value: Any, most: int = BRIEF) -> str:
    return _encodable(_str(value)[:most]) or "failed"


def rebuild(told: Any, kind: type[RemoteError] | None = None) -> RemoteError:
    """The exception of what a peer sent as an error: a map, or anything else."""
    if not isinstance(told, dict):
        return (kind or RemoteError)(told)
    ours = kind or _OF_KIND.get(_str(told.get("k")), RemoteError)
    cls, base = _str(told.get("t")), _str(told.get("b"))
    its = registered_class(cls) or _BUILTIN.get(cls) or _BUILTIN.get(base)
    found = _both(ours, its, told) if its is not None and not issubclass(ours, its) else ours(told)
    cause = told.get("c")
    if isinstance(cause, dict):
        found.__cause__ = rebuild({**cause, "c": None})
    return found


def rebuild_abort(told: Any) -> RemoteError:
    """The exception for the receiver of a channel whose sender failed."""
    late = isinstance(told, dict) and told.get("k") == "deadline"
    return rebuild(told, DeadlineExceeded if late else RemoteAbort)


def _both(ours: type[RemoteError], its: type[BaseException], told: dict[str, Any]) -> RemoteError:
    """An instance of both classes, that of ours made as ours is; one of ours where they don't go together."""
    cls: Any = _rebuilt.get((ours, its))
    try:
        if cls is None:
            cls = type(its.__name__, (ours, its), {"__module__": its.__module__, "__init__": ours.__init__})
            _rebuilt[ours, its] = cls
        args = told.get("a")
        found: RemoteError = cls.__new__(cls, *(args if isinstance(args, list) else ()))
        ours.__init__(found, told)
    except Exception:  # classes whose layouts conflict, or a __new__ of its own
        return ours(told)
    return found


def _class_name(cls: type) -> str:
    return registered_name(cls) or f"{cls.__module__}.{cls.__qualname__}"


def text_of(error: BaseException) -> str:
    """The error's text, however strange its class."""
    try:
        text = str(error)[:MAX_TEXT]
    except Exception as second:  # its __str__ fails
        return f"(its text can't be had: {type(second).__name__})"
    if isinstance(error, Cancelled):
        return "cancelled"
    return _encodable(text)


def _encodable(text: str) -> str:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        text = text.encode("utf-8", "backslashreplace").decode()
    return text


def _is_short(arg: Any) -> bool:
    if type(arg) is int:
        return -(2**63) <= arg < 2**63
    if isinstance(arg, str):
        return len(arg) <= MAX_TEXT and _encodable(arg) == arg
    return not isinstance(arg, bytes) or len(arg) <= MAX_TEXT


def _str(value: Any) -> str:
    return value if isinstance(value, str) else ""
