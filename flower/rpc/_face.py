# cython: nonecheck=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""What a `Peer` calls through: a call is so short that what lies between it and the session's `Calls` must be, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.rpc._calls import Calls
from flower.rpc._middleware import Call, Proceed
from flower.rpc._session import Session

if TYPE_CHECKING:
    from flower.rpc._pool import Pool


class Face:
    """A session, or a pool of them, and the middleware around its calls."""

    _session: Any
    _calls: Calls | None  # the session's; a pool has several
    _chain: Proceed | None

    def _set_up(self, session: Session | Pool, chain: Proceed | None) -> None:
        self._session = session
        self._calls = session.calls if isinstance(session, Session) else None
        self._chain = chain

    def call(self, method: str, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Call a method of the peer and wait for its result.

        Blocks until the answer is there; other tasklets run meanwhile. When it is cancelled or times out, a
        Flower peer is told, and cancels the method; its answer is dropped when it comes. Keyword arguments, other
        than ``timeout`` in seconds (see `using`), go to the method: to Flower's peers only.

        Raises RemoteError when the method failed, which is also an error of the builtin class that it failed with;
        its kinds UnknownMethod, InvalidArguments, Overloaded; Disconnected (a ConnectionError) when the connection
        was lost or closed, at once also for calls that wait; Timeout after ``timeout`` seconds; TypeError or
        ValueError, before anything is sent, for values that can't be carried.
        """
        return self._call(method, args, kwargs, timeout)

    def _call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any] | None, timeout: float | None) -> Any:
        if self._chain is not None:
            return self._chain(Call(method, args, kwargs or {}, "call", timeout))
        if self._calls is not None:
            return self._calls.call(method, args, kwargs, timeout)
        return self._session.call(method, args, kwargs, timeout=timeout)


if cython.compiled:
    # Without keywords, as nearly every call is, there is no dict to be made.
    add_shortcut(Face.call, Face._call)  # type: ignore[name-defined]  # noqa: F821
else:
    Face.call.__qualname__ = "Peer.call"  # what tasklets and logs are to show, as compiled
