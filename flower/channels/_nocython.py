"""What the sources of the core use of the ``cython`` module, for when Cython is not installed."""

from __future__ import annotations

from flower._typing import Any

compiled = False


def cast(kind: Any, value: Any) -> Any:
    """The value itself: types are checked by nobody when the core runs uncompiled."""
    return value


def final(method: Any) -> Any:
    """No subclass overrides the method."""
    return method


def nonecheck(on: bool) -> Any:
    """Attributes of None are an error everywhere."""
    return final
