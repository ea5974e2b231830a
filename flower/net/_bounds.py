"""How much a connection may hold."""

from __future__ import annotations

from typing import NamedTuple

INCOMING_LIMIT = 256 * 1024  # bytes; the buffer can hold one read more, of 64 KiB at most
HIGH_WATER = 64 * 1024  # bytes written and not yet sent, above which `send` waits; asyncio's own default


class Bounds(NamedTuple):
    """How much a connection may hold, in bytes."""

    incoming: int = INCOMING_LIMIT
    outgoing: int = HIGH_WATER
