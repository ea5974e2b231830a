"""Every public exception of Flower.

====================  ===============================  ====================================================
Exception             is also a                        raised when
====================  ===============================  ====================================================
``ChannelClosed``     ValueError                       the channel is closed (receive: and drained)
``Timeout``           TimeoutError                     the time given to a call or a scope has passed
``Cancelled``         BaseException                    the scope around a blocking call was cancelled
``Deadlock``          RuntimeError                     nothing can ever wake the main tasklet again
``IncompleteRead``    EOFError                         a connection ended within what was to be read
``TooLong``           OSError                          what was to be read is longer than the limit
``TaskletExit``       SystemExit                       inside a tasklet that is killed
``TaskletKilled``     Exception                        at whoever joins a tasklet that was killed or cancelled
``RemoteError``       Exception                        a remote method failed
``UnknownMethod``     RemoteError, LookupError         the peer has no such method
``InvalidArguments``  RemoteError, TypeError           the remote method does not take these arguments
``Overloaded``        RemoteError                      the peer refused the call, which has not run
``RemoteCancelled``   RemoteError                      the remote method was cancelled
``DeadlineExceeded``  RemoteError, Timeout             the remote method had no more time
``RemoteAbort``       RemoteError                      the sender of a remote channel failed
``Disconnected``      ConnectionError                  the connection to a remote peer is lost or closed
``ChannelBroken``     Disconnected                     it was lost under a channel that goes through it
``ProtocolError``     Disconnected                     the remote peer broke the protocol
``AuthError``         Disconnected                     the peer does not take us for whom we say we are
====================  ===============================  ====================================================
"""

from __future__ import annotations

from flower._typing import Any

__all__ = [
    "AuthError",
    "Cancelled",
    "ChannelBroken",
    "ChannelClosed",
    "Deadlock",
    "DeadlineExceeded",
    "Disconnected",
    "IncompleteRead",
    "InvalidArguments",
    "Overloaded",
    "ProtocolError",
    "RemoteAbort",
    "RemoteCancelled",
    "RemoteError",
    "TaskletExit",
    "TaskletKilled",
    "Timeout",
    "TooLong",
    "UnknownMethod",
]


class ChannelClosed(ValueError):
    """The channel is closed: nothing can be sent, and nothing is left to receive.

    ``channel`` is the channel (or the object that stands for one, such as a connection), ``reason`` what
    the closing side said, or None.
    """

    def __init__(self, message: str = "the channel is closed", channel: Any = None, reason: Any = None) -> None:
        super().__init__(message)
        self.channel = channel
        self.reason = reason

    def __reduce__(self) -> Any:  # a channel stays in its process
        return type(self), self.args, {**self.__dict__, "channel": None}

    def __copy__(self) -> ChannelClosed:
        other = type(self)(*self.args)
        other.__dict__.update(self.__dict__)
        return other


class Timeout(TimeoutError):
    """The time given to a call, or to a ``with flower.timeout(...)`` block, has passed."""


class Cancelled(BaseException):
    """Raised at a blocking call inside a scope that has been cancelled or has expired.

    Let it pass: the scope it belongs to catches it. It is a BaseException, so that ``except Exception``
    does not swallow it; until the scope is left, each further blocking call raises it again.
    """

    def __init__(self, scope: Any = None) -> None:
        super().__init__("cancelled by its scope")
        self.scope = scope


class Deadlock(RuntimeError):
    """Everything is asleep for good. The message names each blocked tasklet, and what it waits for, and where."""


class TaskletExit(SystemExit):
    """Raised inside a tasklet that is killed; silent when it ends the tasklet."""


class TaskletKilled(Exception):
    """Raised by ``join`` of a tasklet that was killed, or that its group has cancelled."""


# -- Connections


class IncompleteRead(EOFError):
    """The peer closed the connection within what was to be read. The bytes that did come can still be read."""


class TooLong(OSError):
    """What was to be read is longer than the limit (``errno`` is EMSGSIZE). Nothing of it was consumed."""


# -- RPC


class RemoteError(Exception):
    """A call failed at the peer. Where it raised a built-in exception there, this is an instance of that class, too.

    ``error`` is what the peer sent: a map from Flower's own peers, from others mostly a string, from Neovim
    ``[kind, text]``. From Flower's peers there are also ``kind`` (``"failed"``, ``"overloaded"``, ``"disconnected"``,
    ``"unimplemented"``, ``"cancelled"``, ``"deadline"`` or ``"invalid"``), ``type`` (the class's name, such as
    ``"builtins.KeyError"``), ``message`` (its text), ``traceback`` (text, if the peer's policy allows, else None) and
    the cause. ``not_run`` says that the call has certainly not been carried out, and may be tried again.

    >>> try:
    ...     peer.call("get", "nothing")
    ... except KeyError as error:
    ...     print(error.type, error.traceback)
    """

    not_run = False

    def __init__(self, error: Any = None) -> None:
        self.error = error
        told = error if isinstance(error, dict) else {}
        self.kind: str = _text(told.get("k")) or "failed"
        self.type: str = _text(told.get("t"))
        self.traceback: str | None = _text(told.get("tb")) or None
        args = told.get("a")
        given = args if isinstance(args, list | tuple) else [error]
        try:
            super().__init__(*given)
        except Exception:  # of the class that it was there, which is made of other arguments than it keeps
            Exception.__init__(self, *given)

    @property
    def message(self) -> str:
        """The peer's text."""
        error = self.error
        if isinstance(error, dict):
            return _text(error.get("m"))
        if isinstance(error, list | tuple) and len(error) == 2 and isinstance(error[1], str | bytes):
            error = error[1]
        return error.decode("utf-8", "surrogateescape") if isinstance(error, bytes) else str(error)

    def __str__(self) -> str:
        name = self.type.rpartition(".")[2]
        return ": ".join(part for part in (name, self.message) if part)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


class UnknownMethod(RemoteError, LookupError):
    """The peer has no method of that name."""


class InvalidArguments(RemoteError, TypeError):
    """The remote method does not take these arguments; it has not run."""


class Overloaded(RemoteError):
    """The peer serves as many calls as it will, or is about to leave. The call has not run: another may succeed."""

    not_run = True


class RemoteCancelled(RemoteError):
    """The remote method was cancelled before it had ended."""


class DeadlineExceeded(RemoteError, Timeout):
    """The time that the caller had given was over while the remote method ran."""


class RemoteAbort(RemoteError):
    """The sender at the other end of a remote channel failed, after what was received already."""


class Disconnected(ConnectionError):
    """The connection to a peer is lost or closed.

    A call that was under way may have been carried out, or not, unless ``not_run`` says that it was never sent.
    """

    not_run = False


class ChannelBroken(Disconnected):
    """The connection was lost under a channel that goes through it.

    ``undelivered`` values were accepted by ``send`` and certainly not received; ``maybe`` were sent, and nobody has
    confirmed them. Both are counts, and 0 at the receiving end.
    """

    def __init__(self, message: str = "", undelivered: int = 0, maybe: int = 0) -> None:
        super().__init__(message)
        self.undelivered = undelivered
        self.maybe = maybe


class ProtocolError(Disconnected):
    """The peer broke the protocol, or sent what is no message or too long a one. The text says how.

    With RPC it has cost the peer its connection; what `flower.net.framed` made is still open, for a last word.
    """


class AuthError(Disconnected):
    """The peer does not take us for whom we say we are (a token, a certificate), and has closed the connection."""
