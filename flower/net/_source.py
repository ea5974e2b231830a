"""What connections, listeners, datagrams, framed connections and watched descriptors have in common.

Compiled, since `Conn` is, and a compiled class has no other kind of base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from flower.channels._failures import is_foreign
from flower.errors import ChannelClosed, Timeout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

T_co = TypeVar("T_co", covariant=True)


class Receives(Protocol[T_co]):
    """What has the method that the iteration calls."""

    def receive(self, timeout: float | None = None) -> T_co: ...


class Source:
    """Something to receive from, until it is closed."""

    __slots__ = ()

    def __iter__(self: Receives[T_co]) -> Iterator[T_co]:
        """Receive again and again, until the end, or until it is closed here."""
        return self  # type: ignore[return-value]

    def __next__(self: Receives[T_co]) -> T_co:
        try:
            return self.receive()
        except ChannelClosed as error:
            if is_foreign(error):
                raise
            raise StopIteration from None
        except StopIteration as error:  # it would end the loop
            raise RuntimeError("a tasklet has ended with StopIteration") from error

    def _within(self, ch: Any, timeout: float | None) -> Any:
        """Receive from the channel; where nothing comes in time, the error says from whom."""
        try:
            return ch.receive(timeout)
        except Timeout as error:
            if is_foreign(error) or hasattr(error, "_flower_conn"):  # the latter: it is what the connection died of
                raise
            raise Timeout(f"{self!r}: nothing came within {timeout} s") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> Any:
        """Each has its own."""
        raise NotImplementedError

    def __bool__(self) -> bool:
        return True
