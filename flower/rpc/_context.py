# cython: nonecheck=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""The call that is being served, as its method sees it: `context`."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.channels import move_on
from flower.channels._scheduler import current_scheduler

if TYPE_CHECKING:
    from flower.rpc._session import Session


class Context:
    """One call that is being served. A method gets its own from `rpc.context`; tasklets that it starts see it, too.

    ``method`` is the name that was called, `meta` a dict of what the caller sent along with it, ``deadline`` the
    time on the scheduler's clock (`time.monotonic`, if no test has replaced it) when the caller stops waiting, or
    None. Calls that the method makes in turn inherit the deadline.
    """

    session: Session
    method: str
    deadline: float | None
    _meta: dict[str, Any] | None
    _reason: str | None  # "cancelled" or "deadline", once it is that
    _ended: bool
    _scope: Any
    _task: Any
    _alarm: Any
    # The request that it is for, and who serves it.
    _serving: Any
    _msgid: Any
    _function: Any
    _args: Any
    _kwargs: Any
    _cost: int

    @property
    def meta(self) -> dict[str, Any]:
        """What the caller sent along with the call."""
        if self._meta is None:
            self._meta = {}
        return self._meta

    @property
    def peer(self) -> Any:
        """Who called: a `Peer`, which can be called in turn."""
        return self.session.face

    @property
    def address(self) -> Any:
        """The caller's address."""
        return self.session.conn.remote_addr()

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The caller's certificate, as `flower.net.Conn.certificate` gives it; None where it has shown none."""
        return getattr(self.session.conn, "certificate", None)

    @property
    def node(self) -> str:
        """The name that the caller gave itself in the handshake; empty for a plain peer."""
        return self.session.theirs.node if self.session.theirs is not None else ""

    @property
    def metadata(self) -> dict[str, Any]:
        """What the caller said of itself in the handshake. It is what it claims, and proves nothing."""
        return self.session.theirs.metadata if self.session.theirs is not None else {}

    @property
    def identity(self) -> Any:
        """What `Settings.verify` gave when it let the caller in, or None."""
        return self.session.handshake.identity

    def remaining(self) -> float | None:
        """Seconds that the caller will still wait, 0.0 if it does no longer; None if it waits for good."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - current_scheduler().now())

    def _cancel(self, reason: str) -> None:
        """Raise Cancelled in the method where it waits, or where it next would. The caller is still answered.

        The scope for it is put around all that the tasklet is in only now: most calls never need one.
        """
        if self._ended or self._reason is not None:
            return
        self._reason = reason
        task = self._task
        if task is None or task.carrier is None:  # it has not begun, and will not
            return
        scope = self._scope = move_on()
        scope._task = task
        if task.scope is None:
            task.scope = scope
        else:
            outermost = task.scope
            while outermost._parent is not None:
                outermost = outermost._parent
            outermost._parent = scope
        scope.cancel()

    def _expire(self, now: float) -> None:
        """The deadline has passed."""
        self._cancel("deadline")

    def _child_ended(self, t: Any, error: BaseException | None) -> bool:
        """For the scheduler: the request's tasklet has ended before it began."""
        self._serving.killed(self)
        return True

    def _calm(self) -> None:
        """What was cancelled has noticed it by other means: its clean-up may wait."""
        if self._scope is not None:
            self._scope.cancelled = False

    def __repr__(self) -> str:
        return f"<Context of {self.method}, called by {self.session.name}>"


def new_context(session: Any, method: Any, meta: Any) -> Context:
    """The context of a call. (To make one by its class costs as much as to serve it.)"""
    context = Context.__new__(Context)
    context.session = session
    context.method = method
    context._meta = meta
    return context


_current: ContextVar[Context | None] = ContextVar("flower.rpc.context", default=None)


def serves(context: Context) -> int:
    """The present tasklet serves this call from now on: it sees it, and those that it starts do."""
    set_value(_current, context)
    return 0


def present_context() -> Context | None:
    """`context`, for compiled callers."""
    return get_value(_current)


def context() -> Context | None:
    """The call that is being served by this tasklet, or by one that started it; None where there is none.

    >>> class Service:
    ...     def whoami(self):
    ...         return rpc.context().address
    """
    return present_context()


if not cython.compiled:
    get_value, set_value = ContextVar.get, ContextVar.set

    for _field in Context.__annotations__:
        setattr(Context, _field, None)
    Context._ended = False
    Context._cost = 0
