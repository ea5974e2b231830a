"""The two ends of a channel, as views that can do only their half."""

from __future__ import annotations

from flower._typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from flower.channels._channel import channel


T = TypeVar("T")


class _End(Generic[T]):
    __slots__ = ("_channel",)

    def __init__(self, ch: channel[T]) -> None:
        if not hasattr(ch, "_abandon"):
            raise TypeError(f"a {type(self).__name__} is an end of a channel, not of {ch!r}")
        self._channel = ch

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _End) and type(other) is type(self) and self._channel is other._channel

    def __hash__(self) -> int:
        return hash((type(self), id(self._channel)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} of {self._channel!r}>"

    @property
    def label(self) -> str:
        """The channel's label."""
        return self._channel.label

    @property
    def closed(self) -> bool:
        """Whether the channel is closed and drained."""
        return self._channel.closed

    @property
    def closing(self) -> bool:
        """Whether the channel has been closed."""
        return self._channel.closing


class Sender(_End[T]):
    """The sending end of a channel, ``ch.sender``. In ``select``, the channel of a pair ``(sender, value)``.

    It has what sends and nothing that receives, for functions whose signature is to say so; in annotations it is
    generic, ``Sender[int]``. Two of one channel are equal.

    >>> import flower
    >>> def greet(out: flower.Sender[str]) -> None:
    ...     out.send("hello")
    >>> ch = flower.channel(1); greet(ch.sender); ch.receive()
    'hello'
    """

    __slots__ = ()

    @property
    def _send_channel(self) -> channel[T]:
        return self._channel

    def send(self, value: T, timeout: float | None = None) -> None:
        """As ``channel.send``."""
        self._channel.send(value, timeout)

    def try_send(self, value: T) -> bool:
        """As ``channel.try_send``."""
        return self._channel.try_send(value)

    def send_exception(self, cls: type[BaseException], *args: Any) -> None:
        """As ``channel.send_exception``."""
        self._channel.send_exception(cls, *args)

    def send_throw(self, exc: Any, val: Any = None, tb: TracebackType | None = None) -> None:
        """As ``channel.send_throw``."""
        self._channel.send_throw(exc, val, tb)

    def send_sequence(self, iterable: Iterable[T]) -> int:
        """As ``channel.send_sequence``."""
        return self._channel.send_sequence(iterable)

    def close(self) -> None:
        """As ``channel.close``: what was sent is still received."""
        self._channel.close()


class Receiver(_End[T]):
    """The receiving end of a channel, ``ch.receiver``. In ``select``, a receive case.

    It has what receives and nothing that sends, and iteration; in annotations it is generic, ``Receiver[int]``. Two of
    one channel are equal.

    >>> import flower
    >>> def total(numbers: flower.Receiver[int]) -> int:
    ...     return sum(numbers)
    >>> ch = flower.channel(2); ch.send_sequence([1, 2]); ch.close(); total(ch.receiver)
    2
    3
    """

    __slots__ = ()

    @property
    def _receive_channel(self) -> channel[T]:
        return self._channel

    def receive(self, timeout: float | None = None) -> T:
        """As ``channel.receive``."""
        return self._channel.receive(timeout)

    def try_receive(self, default: Any = None) -> Any:
        """As ``channel.try_receive``."""
        return self._channel.try_receive(default)

    def __iter__(self) -> Receiver[T]:
        return self

    def __next__(self) -> T:
        return self._channel.__next__()

    def close(self, reason: Any = None) -> None:
        """Give up receiving: values that are held are dropped; blocked and later sends raise ChannelClosed.

        ``reason`` is what they learn: the exception's ``reason``. Where it is an exception itself, a copy of that is
        raised in place of ChannelClosed, at receivers too.
        """
        self._channel._abandon(reason)
