"""Every public exception of Flower.

==================  ===============================  ==================================================
Exception           is also a                        raised when
==================  ===============================  ==================================================
``ChannelClosed``   ValueError                       the channel is closed (receive: and drained)
``Timeout``         TimeoutError                     the time given to a call or a scope has passed
``Cancelled``       BaseException                    the scope around a blocking call was cancelled
``Deadlock``        RuntimeError                     nothing can ever wake the main tasklet again
``IncompleteRead``  EOFError                         a connection ended within what was to be read
``TooLong``         OSError                          what was to be read is longer than the limit
``TaskletExit``     SystemExit                       inside a tasklet that is killed
``TaskletKilled``   Exception                        at whoever joins a tasklet that was killed
``RemoteError``     Exception                        a remote method failed, or is not known there
``Disconnected``    ConnectionError                  the connection to a remote peer is lost or closed
``ProtocolError``   Disconnected                     the remote peer broke the protocol, or its messages' format
==================  ===============================  ==================================================
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "Cancelled",
    "ChannelClosed",
    "Deadlock",
    "Disconnected",
    "IncompleteRead",
    "ProtocolError",
    "RemoteError",
    "TaskletExit",
    "TaskletKilled",
    "Timeout",
    "TooLong",
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
    """Raised by ``join`` of a tasklet that was killed."""


# -- Connections


class IncompleteRead(EOFError):
    """The peer closed the connection within what was to be read. The bytes that did come can still be read."""


class TooLong(OSError):
    """What was to be read is longer than the limit (``errno`` is EMSGSIZE). Nothing of it was consumed."""


# -- RPC


class RemoteError(Exception):
    """A call failed at the peer. The text is what the peer said; ``error`` is that as it came.

    Flower's own peers, and most others, send a string; Neovim sends ``[kind, text]``.
    """

    def __init__(self, error: Any) -> None:
        super().__init__(error)
        self.error = error

    @property
    def message(self) -> str:
        """The peer's text."""
        error = self.error
        if isinstance(error, list | tuple) and len(error) == 2 and isinstance(error[1], str | bytes):
            error = error[1]
        return error.decode("utf-8", "surrogateescape") if isinstance(error, bytes) else str(error)

    def __str__(self) -> str:
        return self.message


class Disconnected(ConnectionError):
    """The connection to a peer is lost or closed. A call that was under way may have been carried out, or not."""


class ProtocolError(Disconnected):
    """The peer broke the protocol, or sent what is no message or too long a one. The text says how.

    With RPC it has cost the peer its connection; what `flower.net.framed` made is still open, for a last word.
    """
