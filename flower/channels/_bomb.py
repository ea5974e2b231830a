"""The bomb: an exception on its way through a channel."""

from __future__ import annotations

from types import TracebackType

from flower._typing import Any


class bomb:
    """bomb(type=None, value=None, traceback=None)

    An exception to be sent through a channel: it is raised at the receiver. The type, the value, or both, as
    in ``raise``; with none, the exception that is being handled.

    >>> from flower import channel
    >>> ch = channel(1); ch.send(bomb(KeyError("lost")))
    >>> ch.receive()
    Traceback (most recent call last):
    KeyError: 'lost'

    Raises TypeError when the arguments make no exception.
    """

    error: Any
    tb: Any

    def __init__(self, type: Any = None, value: Any = None, traceback: TracebackType | None = None) -> None:
        if type is None and value is None:
            import sys

            value = sys.exc_info()[1]
        self.error = exception_from(type, value)
        if traceback is not None and not isinstance(traceback, TracebackType):
            raise TypeError(f"an exception's traceback is a traceback or None, not {traceback!r}")
        self.tb = traceback if traceback is not None else self.error.__traceback__

    @staticmethod
    def of(cls: Any, args: tuple[Any, ...]) -> bomb:
        """A bomb of the exception class, called with the arguments."""
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise TypeError(f"an exception class is needed, not {cls!r}")
        return bomb(cls(*args))

    @property
    def type(self) -> Any:
        """The exception's class."""
        return self.error.__class__

    @property
    def value(self) -> Any:
        """The exception."""
        return self.error

    @property
    def traceback(self) -> TracebackType | None:
        """The traceback that the exception is raised with."""
        return self.tb

    def explode(self) -> None:
        """Raise the exception."""
        raise self.error.with_traceback(self.tb)

    def __repr__(self) -> str:
        return f"bomb({self.error!r})"


def exception_from(kind: Any, value: Any) -> BaseException:
    """The exception that ``raise kind, value`` would have raised in old Python."""
    if isinstance(kind, BaseException) and value is None:
        return kind
    if kind is None and isinstance(value, BaseException):
        return value
    if isinstance(kind, type) and issubclass(kind, BaseException):
        if isinstance(value, kind):
            return value
        made = kind() if value is None else kind(*value) if isinstance(value, tuple) else kind(value)
        if isinstance(made, BaseException):
            return made
    raise TypeError(f"an exception is needed: a class, an instance, or a class and a value, not {kind!r}, {value!r}")
