# cython: nonecheck=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""What the parts of a session all look at: its connection, its wire, and how things stand with the peer.

`Session` is a `Line`, and writes what is here; `Calls`, `Serving` and the ends of channels read it. Compiled, they do
so without a look into a dict, which is why it is a class of its own.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.channels import switch_trap
from flower.channels._scheduler import current_scheduler
from flower.net._conn import Conn
from flower.net._transport import Tap

if TYPE_CHECKING:
    from flower.rpc._hello import Hello, Settings
    from flower.rpc._outbox import Outbox
    from flower.rpc._service import Method
    from flower.rpc._wire import Wire

if not cython.compiled:
    from threading import get_ident

# The protocol's own methods, of which all know.
CALL = "$/call"
CAST = "$/cast"
CANCEL = "$/cancel"
DATA = "$/d"
CREDIT = "$/w"
END = "$/end"
RESET = "$/rst"
STOP = "$/stop"


class Line(Tap):
    """One connection, as the parts of its session see it."""

    wire: Wire
    outbox: Outbox

    def __init__(self, conn: Any, exports: dict[str, Method], settings: Settings) -> None:
        self.conn = conn
        self.direct: Conn | None = conn if type(conn) is Conn else None  # the same, for those who are compiled
        self.name = _name(conn)
        self.exports = exports
        self.settings = settings
        self.max_inflight = settings.max_inflight
        self.daemon = True
        self.is_locked = False  # the peer has still to prove who it is
        self.fault: BaseException | None = None
        self.early = False
        self.draining = False  # we have said bye
        self.leaving = False  # the peer has
        self.mute = False  # nothing can be sent any more; the reader, which may be held back, has still to see the end
        self.theirs: Hello | None = None
        self.awaited = False  # somebody waits for the end of the calls that are served
        self.max_frame = 64 * 1024  # of the peer's
        self.reader = None
        self.context: Any = None  # the reader's, for the methods that are called
        self.fresh: dict[int, Any] = {}  # messages that were packed, by identity, and the ends of channels in them
        self.scheduler = current_scheduler()
        self.thread = get_ident()

    def is_free(self) -> bool:
        """Whether nothing keeps the present tasklet from a call. If something does, `Session.check` says what."""
        return self.fault is None and not self.early and not self.leaving and get_ident() == self.thread

    def is_at_end(self) -> bool:
        """Whether nothing more comes than what is still to be read, be it with the system."""
        if self.direct is None:
            return False
        stream = self.direct._stream
        if stream.ended or stream.at_eof:
            return True
        if not hasattr(select, "POLLRDHUP"):
            return False
        look = select.poll()
        look.register(stream._sock, select.POLLRDHUP)
        return bool(look.poll(0))

    def left(self, deadline: float | None) -> float | None:
        """The seconds until then."""
        if deadline is None:
            return None
        seconds = deadline - self.scheduler.now()
        return seconds if seconds > 0.0 else 0.0

    def put(self, data: bytes, timeout: float | None = None) -> None:
        """Hand bytes to the connection. Blocks while there is no room, and raises what says that they did not leave."""
        if self.direct is not None:
            self.direct.send(data, timeout)
        else:
            self.conn.send(data, timeout)

    def offer(self, data: bytes) -> bool:
        """Hand bytes to the connection, where it has room for them; says whether it did.

        Not without a reader on the tap: in a World, each send is one of those that it orders, and logs.
        """
        return self.reader is not None and self.direct is not None and self.direct._stream.offer(data)

    def take_fresh(self, data: bytes) -> Any:
        """The ends of channels in a message that was packed, if there are any: `Streams.commit` or `roll_back` is next.

        Whoever packs asks for them, if there are ``fresh`` ones at all. (A finalizer may pack others in between.)
        """
        found = self.fresh.pop(id(data), None)
        return None if found is None else found[1]

    def at_once(self, function: Callable[[Any], Any], value: Any) -> Any:
        """Call what may run a user's code, which must not wait, for who waits may be the one who reads."""
        switch_trap(1)
        try:
            return function(value)
        finally:
            switch_trap(-1)

    def here(self, callback: Callable[[], object]) -> None:
        """Run it in this session's thread: now, if that is the present one."""
        if get_ident() == self.thread:
            callback()
        else:
            self.scheduler.post(callback)


def _name(conn: Any) -> str:
    address = conn.remote_addr()
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
        return f"peer {host}:{address[1]}"
    return f"peer {address or '?'}"
