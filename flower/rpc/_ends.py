# cython: nonecheck=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""The two halves of a channel that goes through a connection: where its values leave, and where they arrive.

One id is one direction. `Outbound` is the side whose values leave: it is the *outlet* of a local channel, which hands
it a value whenever it has credit. `Inbound` is the side where they arrive: it puts them into a local channel, at once,
and gives credit as they are taken. Neither ever blocks, and neither has a tasklet.

====================  ===============================================  =========================================
the local channel     at an `Outbound`                                 at an `Inbound`
====================  ===============================================  =========================================
came from the peer    a proxy without capacity; its sender is what     holds what has arrived; its receiver is
(``here`` is false)   the user has                                     what the user has
is our user's own     the receiving end was passed: it moves           the sending end was passed: others may
(``here`` is true)                                                     send too; it is overfilled if need be
====================  ===============================================  =========================================

Credit is given in absolute totals since the channel was opened. A value may be begun while fewer values than the total
are sent, and fewer bytes; so one value may go beyond the bytes, of any size, and no second one.

Invariants

- ``ch._credit`` is above 0 only while the peer's credit allows a value. ``taken <= sent``.
- The channel is not held here: when its last user lets go of it, the peer learns that. But an `Outbound` holds it while
  what was left in it when it was closed waits for credit; and one that is fed from elsewhere, or goes on elsewhere, is
  held by where it goes.
- Credit starts with what the settings say. It doubles when the sender had used all of it, and the receiver nevertheless
  had to wait: neither a slow receiver nor a slow sender makes it grow. What it has grown by is counted in
  ``streams.spare``, of which all channels of a connection have a share: a call waits behind what is on the way.
- An `Inbound` stays in the table until the sender has said the last word, ``$/end`` or ``$/rst``; after ``$/stop`` what
  arrives is counted and dropped. An `Outbound` leaves it with its own last word.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.channels._bomb import bomb
from flower.channels._channel import channel
from flower.errors import ChannelBroken, ChannelClosed, ProtocolError
from flower.rpc._faults import describe, fault, rebuild, rebuild_abort
from flower.rpc._line import DATA, Line
from flower.rpc._outbox import Source
from flower.rpc._wire import Unmade

if TYPE_CHECKING:
    from flower.rpc._streams import Streams

if not cython.compiled:
    from threading import get_ident

CREDIT = "$/w"
END = "$/end"
RESET = "$/rst"
STOP = "$/stop"

# Values in an unbounded channel, as a number.
MAX_HELD = 2**62

# What says that a message is a value of this channel, before its id.
_VALUE_HEAD = b"\x93\x02\xa3$/d\x92"
_PIECE_HEAD = b"\x93\x02\xa3$/d\x93"
_MORE = b"\xc3"  # the end of a piece that is not the last

# Bytes that a message has beside a value of ``max_frame`` bytes, or a piece of one.
FRAME_HEAD = 32
# Bytes of a value that is worth to be packed without the general packer, and to leave at once, while it is in the
# caches, rather than in a batch.
LONG = 4 * 1024

# How many times the settings' credit is given at most, where a receiver keeps up and the way is long: by default 1024
# small values, or a MiB. gRPC grows its windows likewise, and TCP its buffers. Of values, all the channels of a
# connection together have no more beyond the settings' than one alone.
MORE_ITEMS = 16
MORE_BYTES = 4


class Follower(Protocol):
    """Who goes by what becomes of a channel's values elsewhere."""

    def look(self) -> None:
        """There may be more credit."""

    def stop(self, reason: Any, error: Any) -> None:
        """The channel is over there."""


class Outbound(Source):
    """Where the values of a local channel leave. Also a source of the `Outbox`."""

    def __init__(self, streams: Streams, number: int, ch: channel[Any], here: bool) -> None:
        Source.__init__(self)
        self.streams = streams
        self.session: Line = streams.session
        self.id = number
        self._packed_id: bytes | None = None
        self._taking = False
        self.here = here
        self.ref = weakref.ref(ch, self._dropped)
        self.hold: channel[Any] | None = None
        self.max_items = self.max_bytes = 0
        self.sent = self.sent_bytes = self.taken = 0
        self.over = False
        self.kept: deque[Any] = deque()  # of a user's own channel: what was sent and is not known to be taken
        self.followers: list[Follower] = []  # who puts values into this channel as its credit allows
        self._later: deque[Any] = deque()
        ch._credit = 0
        ch._outlet = self
        if not here:
            ch._external = True

    def start(self, items: int, size: int) -> None:
        """There is credit; what waits already may go."""
        self.max_items, self.max_bytes = items, size
        self._go_on()

    # -- Called by the channel

    def take(self, value: Any) -> None:
        """Send a value. There is credit. Raises what says that it can't be sent; then nothing has changed."""
        session = self.session
        if get_ident() != session.thread:
            self._take_later(value)
            return
        if type(value) is bomb:
            self.fail(describe(value.value, tracebacks=session.settings.tracebacks))
            return
        self._taking = True  # a finalizer that runs meanwhile may close the channel: its end comes behind this value
        try:
            self._take(session, value)
        finally:
            self._taking = False
            if self.hold is not None:
                self._end_if_drained()

    def _take(self, session: Line, value: Any) -> None:
        if type(value) is bytes and LONG <= len(value) <= min(session.max_frame, session.wire.most_sent - FRAME_HEAD):
            data = self._frame(_VALUE_HEAD, value, b"")
        else:
            data = session.wire.notify(DATA, [self.id, value])
        fresh = session.take_fresh() if session.fresh else None
        if self.over:  # such a finalizer has closed the session, perhaps
            self.streams.roll_back(fresh)
            raise ChannelClosed("the channel was closed as the value was packed")
        if len(data) > session.max_frame + FRAME_HEAD:
            self._cut(data, fresh)
        else:
            self.sent_bytes += len(data)
            if len(data) < LONG or fresh is not None or not session.outbox.send_now(data):
                self.queue.append((data, fresh))
        self.sent += 1
        if self.here:
            self.kept.append(value)
        if self.queue and not self.listed:
            session.outbox.offer(self)
        self._set_credit()

    def on_close(self) -> None:
        """The channel was closed. What it holds, and what blocked senders offer, still goes."""
        self.hold = self.ref()
        self.session.here(self._end_if_drained)

    def _cut(self, data: bytes, fresh: Any) -> None:
        """A value longer than a frame: it goes in pieces, between which others may go."""
        session = self.session
        value = memoryview(data)[len(_VALUE_HEAD) + len(self._number()) :]
        step = session.max_frame
        for at in range(0, len(value), step):
            more = at + step < len(value)
            frame = self._frame(_PIECE_HEAD, value[at : at + step], _MORE if more else b"\xc2")
            self.sent_bytes += len(frame)
            self.queue.append((frame, None if more else fresh))

    def _frame(self, head: bytes, value: Any, tail: bytes) -> bytes:
        """A message with bytes in it, which are copied once: msgpack's packer does so three times."""
        return b"".join((head, self._number(), b"\xc6", len(value).to_bytes(4, "big"), value, tail))

    def _number(self) -> bytes:
        if self._packed_id is None:
            self._packed_id = self.session.wire.pack_value(self.id)
        return self._packed_id

    def _take_later(self, value: Any) -> None:
        """From another thread: there is no saying here whether the value can be sent, and the credit may be gone."""
        self._later.append(value)
        ch = self.ref()
        if ch is not None and ch._credit > 0:
            ch._credit -= 1
        self.session.scheduler.post(self._take_now)

    def _take_now(self) -> None:
        while self._later and not self.over and self._room() > 0:
            try:
                self.take(self._later.popleft())
            except Exception as error:
                self.fail(describe(error))

    # -- Credit

    def _room(self) -> int:
        """How many values may be sent now."""
        if self.over or (self.sent_bytes >= self.max_bytes and self.sent > self.taken):
            return 0
        return self.max_items - self.sent

    def _set_credit(self) -> None:
        ch = self.ref()
        if ch is None:
            return
        room = 0 if self._later else self._room()
        ch._credit = room
        if self.here:
            self.hold = ch if (ch._feeder is not None or ch.closing) and not self.over else None

    def _go_on(self) -> None:
        """Credit has come: send what waits for it."""
        ch = self.ref()  # held until the end: with credit it is not
        if self._later:
            self._take_now()
        self._set_credit()
        if ch is None or self.over:
            return
        try:
            ch._pump()
        except Exception as error:  # a value that was held can't be sent, and its sender has gone
            self.fail(describe(error))
            return
        self._end_if_drained()
        self._set_credit()
        for follower in list(self.followers):
            follower.look()

    def on_credit(self, items: int, size: int, taken: int) -> None:
        """The peer takes more. Raises ValueError for a credit that can't be."""
        if items < self.max_items or size < self.max_bytes:
            raise ValueError("credit that shrinks")
        if not self.taken <= taken <= self.sent:
            raise ValueError(f"{taken} values are taken, of {self.sent} that were sent")
        if self.here:
            for _ in range(taken - self.taken):
                self.kept.popleft()
        self.taken = taken
        self.max_items, self.max_bytes = items, size
        if not self.over:
            self._go_on()

    # -- The end

    def _end_if_drained(self) -> None:
        ch = self.ref()
        if ch is not None and ch.closed and not self._later and not self.over and not self._taking:
            self._last_word(END, [self.id, self.sent])

    def fail(self, told: Any) -> None:
        """The sender has failed: the receiver gets the error after what was sent. Senders that wait are refused."""
        if not self.over:
            ch = self.ref()  # it may be held by us alone
            self.over = True
            _refuse(ch, "the channel has failed")
            self._last_word(RESET, [self.id, told])

    def on_stop(self, reason: Any, error: Any) -> None:
        """The receiver is done."""
        if not self.over:
            ch = self.ref()
            self.over = True
            _refuse(ch, rebuild(error) if error is not None else reason)  # who sends learns this before all else
            self._last_word(END, [self.id, self.sent])

    def come_home(self, taken: int) -> channel[Any]:
        """The receiving end comes back: what the peer has not taken is received here, before all that follows."""
        ch = self.ref()
        if ch is None or self.over or not self.taken <= taken <= self.sent:
            raise ValueError("an end that comes home and is none")
        for _ in range(taken - self.taken):
            self.kept.popleft()
        values = list(self.kept) + list(self._later)
        self._last_word(END, [self.id, self.sent])
        ch._put_back(values)
        return ch

    def broken(self, text: str) -> None:
        """The connection is lost."""
        if self.over:
            return
        ch = self.ref()
        waiting = len(self._later) + (len(ch) if ch is not None else 0)
        unwritten = sum(1 for data, _ in self.queue if not (data.startswith(_PIECE_HEAD) and data.endswith(_MORE)))
        self.over = True
        if ch is not None:
            maybe = max(0, self.sent - self.taken - unwritten)
            ch._abandon(ChannelBroken(text, waiting + min(unwritten, self.sent - self.taken), maybe))
        self._let_go()

    def _last_word(self, kind: str, params: list[Any]) -> None:
        self.over = True
        session = self.session
        self.queue.append((session.wire.notify(kind, params), None))
        session.outbox.offer(self)
        self.streams.outbound.pop(self.id, None)
        self._let_go()

    def _let_go(self) -> None:
        ch = self.ref()
        if ch is not None:
            ch._outlet = None
            ch._credit = 0
        self.hold = None
        followers, self.followers = self.followers, []
        for follower in followers:
            follower.stop("the channel is over", None)

    def _dropped(self, _: Any) -> None:
        """Nobody has the channel any more, and it was not closed. A finalizer: it may run anywhere."""
        if not self.over:
            self.session.scheduler.post(self._tell_dropped)

    def _tell_dropped(self) -> None:
        if not self.over:
            self._last_word(RESET, [self.id, fault("failed", "the sending end was dropped, and not closed")])


class Inbound:
    """Where values of the peer's arrive."""

    def __init__(self, streams: Streams, number: int, ch: channel[Any] | None, meets: bool) -> None:
        self.streams = streams
        self.session: Line = streams.session
        self.id = number
        self.meets = meets
        self.here = ch is not None
        settings = streams.session.settings
        self.window = 0 if meets else settings.channel_items
        self._bytes_window: int = settings.channel_bytes
        self._base = 0 if meets or ch is not None else self.window  # where credit begins that may grow
        self._used_up = False
        if ch is None:
            most = math.inf if meets else MORE_ITEMS * self._base + 1
            ch = channel(most, f"channel {number} of {streams.session.name}")
            ch._external = True
            ch._feeder = self
            ch._low = self.window // 2 + 1
            if meets:
                ch._on_wait = self.on_wait
        elif ch.capacity:
            self.window = int(min(self.window, ch.capacity))
        self.ref = weakref.ref(ch, self._dropped)
        self.hold: channel[Any] | None = ch
        self.received = self._bytes = 0
        self._sizes: deque[int] = deque()  # of the values that are not known to be taken
        self._taken_bytes = 0
        self._told = 0  # what the peer knows to be taken
        self.granted = self.window
        self.granted_bytes = self._bytes_window
        self.stopped = False
        self._parts: list[bytes] | None = None
        self._parts_size = 0

    def hand_out(self) -> channel[Any]:
        """The channel of a remote end, for its user: from now on it is his alone."""
        ch, self.hold = self.hold, None
        assert ch is not None
        return ch

    # -- Values

    def on_data(self, params: list[Any], size: int) -> None:
        """A value, or a piece of one. Raises ProtocolError for what no credit allowed."""
        first = self._parts is None
        over = self.received >= self.granted or (self._bytes >= self.granted_bytes and self.received > self._told)
        if first and over:
            raise ProtocolError(f"{self.session.name}: more on channel {self.id} than it has credit for")
        self._bytes += size
        value = params[1]
        if len(params) == 3:
            value = self._join(params, size)
            if value is self:
                return
            size = self._parts_size
            self._parts_size = 0
        elif not first:
            raise ProtocolError(f"{self.session.name}: a value within another on channel {self.id}")
        self.received += 1
        if self.stopped:
            return
        self._sizes.append(size)
        if type(value) is Unmade:
            value = bomb(value.error)
        if self._used_up and self._base:
            self._widen()
        if self.received >= self.granted or self._bytes >= self.granted_bytes:
            self._used_up = True
        self.deliver(value)
        self.look()

    def _widen(self) -> None:
        """There was no credit left before this value. If the receiver waits for it, there should have been more."""
        ch = self.ref()
        if ch is not None and ch.balance < 0:
            self._used_up = False
            more: int = min(self.window, self.streams.spare)
            if more:
                self.streams.spare -= more
                self.window += more
                self._bytes_window = min(2 * self._bytes_window, MORE_BYTES * self.session.settings.channel_bytes)
                ch._low = self.window // 2 + 1

    def narrow(self) -> None:
        """The channel has ended: others may have what it had beyond the settings' credit."""
        if self._base:
            self.streams.spare += self.window - self._base
            self._base = self.window

    def _join(self, params: list[Any], size: int) -> Any:
        """The value whose last piece this is; this object itself while it is not."""
        _, piece, more = params
        if type(piece) is not bytes or type(more) is not bool:
            raise ValueError("a piece of a value is bytes, and whether there is more")
        if self._parts is None:
            self._parts = []
        session = self.session
        self._parts_size += size
        if self._parts_size > 2 * session.settings.max_message:
            raise ProtocolError(f"{session.name}: a value longer than {session.settings.max_message} bytes")
        if not self.stopped:
            self._parts.append(piece)
        if more:
            return self
        data = b"".join(self._parts)
        self._parts = None
        return None if self.stopped else session.wire.unpack_value(data)

    def deliver(self, value: Any) -> None:
        """Put a value, or a failure, where the user will find it: there is always room for what had credit."""
        ch = self.ref()
        if ch is None:
            return
        try:
            ch._overfill(value)
        except ChannelClosed as error:
            self.stop(error.reason, None)
        except Exception as error:  # it goes on through another connection, which can't carry it
            self.stop(None, describe(error))
            if ch._outlet is not None:
                ch._outlet.fail(describe(error))

    # -- Credit

    def _taken(self) -> int:
        ch = self.ref()
        if ch is None:
            return self.received
        if not self.here or ch._outlet is not None:
            return self.received - len(ch)
        return self.received - min(self.received, max(0, len(ch) - int(min(ch.capacity, MAX_HELD))))

    def look(self, waiting: int = 0) -> None:
        """Give credit, if there is enough to give. ``waiting``: who is about to wait, beside those who do."""
        if self.stopped or self.session.fault is not None:
            return
        ch = self.ref()
        if ch is None:
            return
        taken = self._taken()
        sizes = self._sizes
        while len(sizes) > self.received - taken:
            self._taken_bytes += sizes.popleft()
        size = self._taken_bytes + self._bytes_window
        if self.here and ch._outlet is not None:
            items = taken + ch._credit  # as much as the next one takes
            due = items > self.granted
        elif self.meets:
            items = self.received + max(0, waiting - ch.balance)
            due = items > self.granted
        else:
            items = taken + self.window
            due = 2 * (items - self.granted) >= self.window
        if due or 2 * (size - self.granted_bytes) >= self._bytes_window:
            self.granted = max(self.granted, items)
            self.granted_bytes = max(self.granted_bytes, size)
            self._told = taken
            self.streams.post(CREDIT, [self.id, self.granted, self.granted_bytes, taken])
        if not self.here and self._bytes >= self.granted_bytes:  # still: a long value has gone beyond it
            ch._low = max(1, len(ch))  # nothing more comes before this: look again as soon as one is taken

    def on_low(self) -> None:
        """The user has taken much of what was here. In any thread."""
        self.session.here(lambda: self.look())

    def on_wait(self) -> None:
        """Somebody is about to wait for a value. In any thread."""
        self.session.here(lambda: self.look(1))

    # -- The end

    def on_end(self, count: int) -> None:
        """The sender has closed, after so many values."""
        if self._parts is not None:
            raise ProtocolError(f"{self.session.name}: channel {self.id} ends within a value")
        if self.stopped:
            return
        if count == self.received:
            self._conclude(None)
        else:
            text = f"{self.session.name}: {self.received} values came on a channel, and {count} were sent"
            self._conclude(bomb(ChannelBroken(text)))

    def on_reset(self, error: Any) -> None:
        """The sender has failed."""
        if not self.stopped:
            self._conclude(bomb(rebuild_abort(error)))

    def broken(self, text: str) -> None:
        """The connection is lost."""
        if not self.stopped:
            self._conclude(bomb(ChannelBroken(text)))

    def _conclude(self, failure: bomb | None) -> None:
        self.stopped = True
        ch = self.ref()
        if ch is None:
            return
        if self.here:
            if failure is not None:
                self.deliver(failure)
            self._let_go(ch)
            if failure is None:
                ch.close()
            return
        ch._feeder = None
        ch._low = 0
        ch._on_wait = None
        try:
            if failure is not None:
                ch.try_send(failure)
        except ChannelClosed:
            pass
        ch.close()

    def _let_go(self, ch: channel[Any] | None) -> None:
        self.hold = None
        if self.here and ch is not None:
            self.streams.unbind(ch, self)

    def stop(self, reason: Any, error: Any) -> None:
        """Nobody wants more of this: the sender is told so."""
        if self.stopped:
            return
        taken = self._taken()
        self.stopped = True
        self._sizes.clear()
        self._let_go(self.ref())
        self.streams.post(STOP, [self.id, taken, _plain_reason(reason), error])

    def on_stop(self, reason: Any, dropped: int) -> None:
        """The user's receiver gives up. In any thread."""
        self.session.here(lambda: self._stop_after(reason, dropped))

    def _stop_after(self, reason: Any, dropped: int) -> None:
        if not self.stopped:
            taken = max(self._told, self.received - dropped)
            self.stopped = True
            self._sizes.clear()
            error = describe(reason) if isinstance(reason, BaseException) else None
            self.streams.post(STOP, [self.id, taken, _plain_reason(reason), error])

    def _dropped(self, _: Any) -> None:
        """Nobody has the channel any more. A finalizer: it may run anywhere."""
        if not self.stopped:
            self.session.scheduler.post(self._tell_dropped)

    def _tell_dropped(self) -> None:
        if not self.stopped:
            self.stopped = True
            told = fault("failed", "the receiving end was dropped, and not closed")
            self.streams.post(STOP, [self.id, self._told, told["m"], None])


def _refuse(ch: channel[Any] | None, reason: Any) -> None:
    """Nobody takes the channel's values any more: its senders learn it."""
    if ch is not None and not ch.closed:
        ch._abandon(reason if reason is not None else "the receiver is done")


def _plain_reason(reason: Any) -> Any:
    return reason if reason is None or isinstance(reason, str | int | float | bool) else str(reason)[:1000]
