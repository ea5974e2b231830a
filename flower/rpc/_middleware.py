"""Middleware: functions around each call, those that are served and those that are made.

A layer is ``f(call, proceed)``. It looks at the call, may change it, and gives what ``proceed(call)`` gives,
or something else, or raises. Layers are nested in the order in which they are given, the first outermost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Call:
    """One call on its way, as middleware sees it.

    ``method`` is its name, ``args`` and ``kwargs`` are its arguments, ``timeout`` the seconds that it may take at
    a peer, or None, ``meta`` a dict that is sent along (see `Peer.using`), or None. A layer may assign to each of them
    before it proceeds. ``way`` says how it was made: ``"call"``, ``"start"``, ``"stream"`` or ``"notify"`` where a
    peer is called, and proceeding gives what the `Peer`'s method of that name gives; ``"serve"`` where it is served
    here. Of that one, only the arguments can be changed: the method has been chosen, and its ``timeout`` and ``meta``
    are None (`context` has the caller's).

    >>> def log(call, proceed):
    ...     began = time.monotonic()
    ...     try:
    ...         return proceed(call)
    ...     finally:
    ...         print(call.method, time.monotonic() - began)
    >>> rpc.serve(url, service, middleware=[log])
    """

    __slots__ = ("args", "kwargs", "meta", "method", "timeout", "way")

    def __init__(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        way: str = "serve",
        timeout: float | None = None,
        meta: dict[str, Any] | None = None,
    ) -> None:
        self.method = method
        self.args = args
        self.kwargs = kwargs
        self.way = way
        self.timeout = timeout
        self.meta = meta

    def __repr__(self) -> str:
        given = [repr(arg) for arg in self.args] + [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"<Call {self.method}({', '.join(given)}), {self.way}>"


Proceed = Callable[[Call], Any]
Middleware = Callable[[Call, Proceed], Any]


def chain(middleware: Sequence[Middleware], last: Proceed) -> Proceed:
    """All layers around the last step, as one function."""
    for layer in reversed(check(middleware)):
        last = _around(layer, last)
    return last


def check(middleware: Sequence[Middleware]) -> tuple[Middleware, ...]:
    """The layers as a tuple; TypeError where one is no function."""
    if callable(middleware):
        raise TypeError(f"middleware is a list of functions: give [{getattr(middleware, '__name__', middleware)}]")
    layers = tuple(middleware)
    for layer in layers:
        if not callable(layer):
            raise TypeError(f"a layer of middleware is a function of a call and what comes next, not {layer!r}")
    return layers


def _around(layer: Middleware, inner: Proceed) -> Proceed:
    def proceed(call: Call) -> Any:
        return layer(call, inner)

    return proceed
