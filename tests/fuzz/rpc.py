"""A fuzz target for RPC: what a peer may send to a server.

The invariants: whatever the bytes, and however they are cut, no exception leaves wire or session; the same bytes
give the same events; what is decoded takes no more memory than the limits say; a session that was fed garbage ends, and
has closed its connection.

The first byte says how the rest is cut. `README.md` says how it is run; `tests/rpc/test_fuzz.py` runs the corpus and
mutations of it.
"""

from __future__ import annotations

import tracemalloc
from typing import Any

from flower.rpc import Settings
from flower.rpc._service import exports
from flower.rpc._session import READER_FAILED, Session
from flower.rpc._wire import MEMORY_FACTOR, OPEN, Wire
from tests.rpc.link import End, settle

MOST = 4096  # bytes in a message
LIMITS = Settings(max_message=MOST, max_inflight=4, max_channels=4, channel_items=2, channel_bytes=512, max_frame=256)
SLACK = 1_000_000  # bytes that Python itself may take meanwhile


class Service:
    """Something to call."""

    def __init__(self) -> None:
        self.kept: Any = None

    def methods(self) -> dict[str, Any]:
        return {"echo": lambda *args, **kwargs: args[0] if args else None, "keep": self.keep, "count": self.count}

    def keep(self, end: Any) -> Any:
        self.kept, old = end, self.kept
        return old

    def count(self, n: int) -> Any:
        yield from range(min(n, 1000))


def cut(data: bytes) -> list[bytes]:
    """The data in pieces, as its first byte says."""
    size = data[0] or len(data) if data else 1
    return [data[at : at + size] for at in range(1, len(data), size)]


def events(pieces: list[bytes], flower_peer: bool) -> str:
    wire = Wire(MOST)
    wire.codec.flower = flower_peer
    found: list[Any] = []
    for piece in pieces:
        if wire.state is OPEN:
            found += wire.feed(piece)
    return repr(found + wire.end())


def check(data: bytes) -> None:
    """Feed it to a wire and to a session, and look whether the invariants hold."""
    pieces = cut(data)
    assert events(pieces, True) == events([data[1:]], True)
    feed_session(pieces)


def feed_session(pieces: list[bytes]) -> None:
    ours, theirs = End("us"), End("them")
    ours.peer, theirs.peer = theirs, ours
    service = Service()
    ended: list[Session] = []
    session = Session(ours, exports(service.methods()), ended.append, settings=LIMITS)
    session.start(daemon=True)
    for piece in pieces:
        if not ours.incoming.closing:
            ours.incoming.try_send(piece)
        settle()
        ours.deliver(1 << 30)
    theirs.close()
    theirs.deliver(0)
    if not ours.incoming.closing:
        ours.incoming.close()
    while not ended:
        settle()
        ours.deliver(1 << 30)
    service.kept = None
    settle()
    assert session.fault is not None
    assert READER_FAILED not in str(session.fault)
    assert ours.closed
    assert not len(session.streams)
    assert session.inflight == 0


def check_memory(data: bytes) -> None:
    """What is decoded takes no more than the limits say."""
    tracemalloc.start()
    try:
        events([data[1:]], True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_FACTOR * MOST * 8 + 40 * len(data) + SLACK, f"{peak} bytes for {len(data)}"
