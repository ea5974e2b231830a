# cython: nonecheck=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""What leaves without its maker waiting: control frames first, then the channels in turn.

Requests and answers are sent by the tasklets that make them, each waiting for room in its turn. What must not wait
(credit, ends, refusals, all that the reader or a finalizer has to say) is put here, and so are the values of channels,
of which many go in one write. A tasklet, started when there is something, sends it; it asks for room first, and
chooses then, so that a control frame that came meanwhile goes before values that came earlier.

Invariants: a source is in ``sources`` at most once, and is while its ``queue`` has frames. ``writing`` is true
while the tasklet lives. ``queued`` is the bytes in the sources' queues, and those that `hurry` has sent and that may
still wait in the connection (``_hurried``), FRAME_COST added for each frame. While that is too much no channel has
credit, and who had is in ``choked``.
All the pieces of a value are in its source's queue at once. ``unfinished`` is the number of sources that are ``within``
a value: there is a way on for all of them, and the others wait in ``sources``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from flower.channels import tasklet
from flower.errors import ChannelClosed, Timeout
from flower.net._conn import Conn

# Bytes in one write: the connection takes as many at a time before it makes senders wait.
BATCH = 64 * 1024
# Bytes of values that wait here: above that a channel that has sent takes no more, whatever credit the peer has given.
MOST_QUEUED = 4 * 1024 * 1024
# Bytes that a frame takes beside its own, with a share of what its channel takes, which may send no other.
FRAME_COST = 256
# Values in pieces that are on the way at a time, of all channels. The receiver has to hold what of them has come.
UNFINISHED = 4
# In place of the ends in a frame: it is a piece of a value, and not the last one.
PIECE: Any = object()


class Source:
    """A channel whose values leave by here: their bytes, and the ends of channels in them, or None."""

    def __init__(self) -> None:
        self.queue: deque[tuple[bytes, Any]] = deque()
        self.listed = False
        self.within = False  # a piece of a value has left, and not yet the last one

    def relieve(self) -> None:
        """Less waits than before."""


class Outbox:
    """The frames of one connection that wait to be sent. Nothing here blocks, but the tasklet."""

    def __init__(
        self,
        conn: Any,
        commit: Callable[[Any], object],
        on_sent: Callable[[], object],
        on_full: Callable[[], object],
    ) -> None:
        self._conn = conn
        self._direct: Conn | None = conn if type(conn) is Conn else None  # the same, which takes what it has room for
        self._commit = commit  # told of the ends, and the last words, that have left
        self._on_sent = on_sent
        self._on_full = on_full
        self._sent: deque[Any] = deque()  # what is told of the batch that has left just now
        # Frames, what is told when they have left, or None, and whether they are about a channel.
        self._control: deque[tuple[bytes, Any, bool]] = deque()
        self.daemon = True
        self.sources: deque[Source] = deque()
        self.bytes = 0  # of control frames that are not about channels, with what they take beside,
        self.words = 0  # and of those that are: both may be very many, and short
        self.queued = 0  # bytes of values
        self._hurried = 0
        self.choked: dict[Source, None] = {}
        self.unfinished = 0
        self.writing = False
        self.closed = False

    def post(self, data: bytes, told: Any = None, is_word: bool = False) -> None:
        """Send a control frame as soon as there is room. In the connection's own thread."""
        if self.closed:
            return
        if self.send_now(data):
            if told is not None:
                self._commit(told)
        else:
            self._control.append((data, told, is_word))
            if is_word:
                self.words += len(data) + FRAME_COST
            else:
                self.bytes += len(data) + FRAME_COST
            self._wake()

    def send_now(self, data: bytes) -> bool:
        """Send it if nothing waits, and there is room; says whether that was so."""
        return self._direct is not None and not self.writing and self._direct._stream.offer(data)

    def put(self, source: Source, data: bytes, fresh: Any) -> None:
        """Let the source have one frame more; `offer` is next."""
        source.queue.append((data, fresh))
        before = self.queued
        self.queued += len(data) + FRAME_COST
        if self.queued >= MOST_QUEUED > before:
            self._on_full()

    def is_full(self, source: Source) -> bool:
        """Whether so much waits that no source should have more; then this one is told when that is over."""
        if self.queued < MOST_QUEUED:
            return False
        self.choked[source] = None
        return True

    def hurry(self, source: Source) -> None:
        """Send what the source has before all that comes later, whether there is room or not."""
        queue = source.queue
        while queue:
            data, fresh = queue.popleft()
            if self._direct is not None and self._direct._stream.offer(data, True):
                self._hurried += len(data) + FRAME_COST
            else:
                self.queued -= len(data) + FRAME_COST
                self.post(data)
            if fresh is not None and fresh is not PIECE:
                self._commit(fresh)
        if source.within:
            source.within = False
            self.unfinished -= 1
        if self._hurried:
            self._wake()

    def offer(self, source: Source) -> None:
        """The source has frames to send."""
        if not source.listed and not self.closed:
            source.listed = True
            self.sources.append(source)
            self._wake()

    def _wake(self) -> None:
        if not self.writing:
            self.writing = True
            tasklet(self._write, label="rpc writer", daemon=self.daemon)()

    def close(self) -> None:
        """Nothing more leaves."""
        self.closed = True
        self._control.clear()
        self.bytes = self.words = 0
        self.choked.clear()
        self.sources.clear()
        self._sent.clear()

    def flush(self) -> None:
        """Hand to the connection what it takes without waiting."""
        try:
            while self._has_more():
                self._conn.send(b"", 0)
                self._send_batch()
        except Timeout:
            pass  # no room; what was not chosen is sent by the tasklet
        except (OSError, ChannelClosed):
            self.close()

    def _write(self) -> None:
        try:
            while self._has_more():
                self._conn.send(b"")  # waits for room
                self._send_batch()
                self._on_sent()
        except (OSError, ChannelClosed):
            self.close()  # the reader learns of it, and tells everybody
        finally:
            self.writing = False
            if self._has_more():  # this tasklet was killed, or interrupted
                self._wake()
            else:
                self._on_sent()

    def _has_more(self) -> bool:
        if self.closed:
            return False
        if self._control or self.sources or self._hurried or self._sent:
            return True
        return bool(self.choked) and self.queued < MOST_QUEUED

    def _send_batch(self) -> None:
        """There was room, and it was our turn: send what is first now, and then let happen what that brings about.

        Others may have taken the room in between. To wait again, with a batch, would let `hurry` overtake it, and who
        kills the tasklet would take it along: so it leaves nevertheless.
        """
        self.queued -= self._hurried
        self._hurried = 0
        batch = self._next_batch()
        if batch and (self._direct is None or not self._direct._stream.offer(batch, True)):
            self._conn.send(batch)
        while self._sent:
            self._commit(self._sent.popleft())
        while self.choked and self.queued < MOST_QUEUED:
            source = next(iter(self.choked))  # in turn: the first may take all the room that there is
            del self.choked[source]
            source.relieve()

    def _next_batch(self) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while self._control and size < BATCH:
            data, told, is_word = self._control.popleft()
            if told is not None:
                self._sent.append(told)
            if is_word:
                self.words -= len(data) + FRAME_COST
            else:
                self.bytes -= len(data) + FRAME_COST
            pieces.append(data)
            size += len(data)
        while self.sources and size < BATCH:
            source = self.sources.popleft()
            queue = source.queue
            mine = 0
            while queue and mine < BATCH:
                data, fresh = queue[0]
                if fresh is PIECE:
                    if not source.within:
                        if self.unfinished >= UNFINISHED:
                            break
                        source.within = True
                        self.unfinished += 1
                    fresh = None
                elif source.within:
                    source.within = False
                    self.unfinished -= 1
                queue.popleft()
                self.queued -= len(data) + FRAME_COST
                pieces.append(data)
                mine += len(data)
                if fresh is not None:
                    self._sent.append(fresh)
                    size = BATCH  # what it brings about comes behind this batch
            size += mine
            if queue:
                self.sources.append(source)
            else:
                source.listed = False
        return b"".join(pieces)
