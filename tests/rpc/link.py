"""Two ends of a connection that is in the hands of the test: it says when which bytes arrive, and when it is cut."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import flower
from flower import ChannelClosed, bomb, channel
from flower.rpc import Settings
from flower.rpc._service import exports
from flower.rpc._session import DEFAULTS, Session

ROOM = 4096  # bytes that an end takes before its senders wait


class End:
    """As much of a connection as a session needs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.peer: End
        self.sent = bytearray()  # and not delivered
        self.incoming: channel[Any] = channel(math.inf, f"incoming of {name}")
        self.incoming._external = True
        self.room: channel[None] = channel(0, f"room of {name}")
        self.room._external = True
        self.room.preference = 0
        self.closed = False

    def keep_alive(self) -> None:
        pass

    def remote_addr(self) -> Any:
        return self.peer.name

    def send(self, data: bytes, timeout: float | None = None) -> None:
        while len(self.sent) >= ROOM and not self.closed:
            self.room.receive(timeout)
        if self.closed:
            raise ChannelClosed("this end is closed")
        self.sent += data

    def deliver(self, count: int) -> int:
        """Let so many bytes arrive at the other side."""
        piece = bytes(self.sent[:count])
        del self.sent[:count]
        if piece and not self.peer.incoming.closing:
            self.peer.incoming.try_send(piece)
        if self.closed and not self.sent:
            self.peer.incoming.close()
        while len(self.sent) < ROOM and self.room.balance < 0:
            self.room.try_send(None)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.incoming._abandon(None)
            while self.room.balance < 0:
                self.room.try_send(None)

    def abort(self) -> None:
        self.sent.clear()
        self.close()

    def cut(self, error: Exception | None) -> None:
        """The network is gone."""
        self.closed = True
        self.sent.clear()
        if not self.incoming.closing:
            if error is not None:
                self.incoming.try_send(bomb(error))
            self.incoming.close()
        while self.room.balance < 0:
            self.room.try_send(None)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.incoming)


def linked(
    left: Any, right: Any, settings: Settings = DEFAULTS, theirs: Settings | None = None
) -> tuple[Session, Session]:
    """Two sessions over a link; the left one says hello."""
    one, other = End("left"), End("right")
    one.peer, other.peer = other, one
    a = Session(one, exports(left), _nothing, dialed=True, settings=settings)
    b = Session(other, exports(right), _nothing, settings=theirs or settings)
    for session in (a, b):
        session.start(daemon=True)
    return a, b


def settle() -> None:
    """Let everybody run until all wait, what finalizers have left to be done included."""
    flower.schedule()
    flower.schedule()
    while flower.getruncount() > 1:
        flower.schedule()


def deliver_all(*sessions: Session) -> None:
    """Let everything arrive, and what is said in answer, until nothing more is said."""
    moved = True
    while moved:
        settle()
        moved = sum(session.conn.deliver(1 << 30) for session in sessions) > 0
    settle()


def close_all(*sessions: Session) -> None:
    """Close them, and let that arrive."""
    for session in sessions:
        session.close()
    deliver_all(*sessions)


def _nothing(_: Session) -> None:
    pass
