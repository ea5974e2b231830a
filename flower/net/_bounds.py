"""How much a connection may hold, as options of `Listen` and `Dial`."""

from __future__ import annotations

from typing import NamedTuple

INCOMING_LIMIT = 256 * 1024  # bytes: what one read of uvloop's brings at most; the buffer can hold twice that
HIGH_WATER = 64 * 1024  # bytes written and not yet sent, above which `send` waits; asyncio's own default


class Bounds(NamedTuple):
    """How much a connection may hold, in bytes."""

    incoming: int = INCOMING_LIMIT
    outgoing: int = HIGH_WATER


def check_bounds(read_buffer: int, write_buffer: int) -> Bounds:
    """The options of that name, or TypeError or ValueError."""
    for name, value in (("read_buffer", read_buffer), ("write_buffer", write_buffer)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} is a number of bytes, not {value!r}")
        if value < 1:
            raise ValueError(f"{name} is at least 1 byte, not {value!r}")
    return Bounds(read_buffer, write_buffer)
