# cython: nonecheck=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""Where the values of a channel arrive through a connection: the other half of `Outbound`, which see.

Invariants

- The channel is not held here: when its last user lets go of it, the peer learns that. But one that goes on elsewhere
  is held by where it goes.
- Credit starts with what the settings say. It doubles when the sender had used all of it, and the receiver nevertheless
  had to wait; and when half of it was taken within SOON, twice in a row, since to tell of credit costs as much as some
  values do, and no burst that takes what is there does so. So neither a slow receiver nor a slow sender makes it grow.
  What it has grown by is counted in ``streams.spare``, of which all channels of a connection have a share: a call waits
  behind what is on the way.
- It stays in the table of `Streams` until the sender has said the last word, ``$/end`` or ``$/rst``; after ``$/stop``
  what arrives is counted and dropped, pieces when they are a value: there may be ends in it.
- ``streams.partial`` counts the bytes of the pieces that are held, of all channels, with PIECE_COST for each.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.channels._bomb import bomb
from flower.channels._channel import channel
from flower.channels._waiting import Alarm
from flower.errors import ChannelBroken, ChannelClosed, DeadlineExceeded, ProtocolError
from flower.rpc._faults import BRIEF, describe, fault, rebuild_abort, text_of
from flower.rpc._line import CREDIT, STOP, Line
from flower.rpc._outbound import ENDS
from flower.rpc._outbox import UNFINISHED
from flower.rpc._wire import Unmade

if TYPE_CHECKING:
    from flower.rpc._streams import Streams

if not cython.compiled:
    from flower.channels._elsewhere import overfill, pour
    from flower.rpc._wire import ROOMY

# Values in an unbounded channel, as a number.
MAX_HELD = 2**62

# How many times the settings' credit is given at most, where a receiver keeps up and the way is long: by default 1024
# small values, or a MiB. gRPC grows its windows likewise, and TCP its buffers. Of values, all the channels of a
# connection together have no more beyond the settings' than one alone.
MORE_ITEMS = 16
MORE_BYTES = 4
# Seconds: credit that is used up sooner is given by more at a time.
SOON = 0.001
# Characters of the reason that a receiver gives, and of an error that is kept for an end on its way home.
MAX_REASON = 1000
# Bytes that a piece takes beside its own, about.
PIECE_COST = 64
# How many of the longest messages the unfinished values of a connection may take, all together: twice what ours send.
MOST_PARTIAL = 2 * UNFINISHED


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
        self._looked = 0.0  # when credit was given last
        self._soon = False  # and that was soon after the time before
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
        self.told = 0  # what the peer knows to be taken
        self.granted = self.window
        self.granted_bytes = self._bytes_window
        self.stopped = False
        self._parts: list[bytes] | None = None
        self._parts_size = 0
        self._alarm: Alarm | None = None
        self._late = ""
        self._deadline = 0.0

    def watch(self, deadline: float, text: str) -> None:
        """The values are to end by then; what is missing is an error with this text."""
        if not self.stopped and (self._alarm is None or deadline < self._deadline):
            self._late = text
            self._deadline = deadline
            if self._alarm is None:
                self._alarm = Alarm(self._expire)
            self.session.scheduler.set_alarm(self._alarm, deadline)

    def _expire(self, now: float) -> None:
        self._alarm = None
        if not self.stopped:
            taken = self._taken()
            self._conclude(bomb(DeadlineExceeded(fault("deadline", self._late))))
            self.streams.post(STOP, [self.id, taken, "deadline", None])

    def _settle(self) -> None:
        """Nothing more of this is given to anybody."""
        self.stopped = True
        self._sizes.clear()
        if self._alarm is not None:
            self.session.scheduler.clear_alarm(self._alarm)
            self._alarm = None

    def drop_parts(self) -> None:
        if self._parts is not None:
            self.streams.partial -= self._parts_size + PIECE_COST * len(self._parts)
            self._parts = None

    def hand_out(self) -> channel[Any]:
        """The channel of a remote end, for its user: from now on it is his alone."""
        ch, self.hold = self.hold, None
        assert ch is not None
        return ch

    # -- Values

    def on_data(self, params: list[Any], size: int) -> None:
        """A value, or a piece of one. Raises ProtocolError for what no credit allowed."""
        first = self._parts is None
        over = self.received >= self.granted or (self._bytes >= self.granted_bytes and self.received > self.told)
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
            ch = self.ref()
            if ch is not None and ch.balance < 0:  # it waits for what came too late for want of credit
                self._widen()
        if self.received >= self.granted or self._bytes >= self.granted_bytes:
            self._used_up = True
        self.deliver(value)
        self.look()

    def _widen(self) -> None:
        """Give twice as much, from the next time on."""
        more: int = min(self.window, self.streams.spare)
        if more:
            self._used_up = False
            self.streams.spare -= more
            self.window += more
            self._bytes_window = min(2 * self._bytes_window, MORE_BYTES * self.session.settings.channel_bytes)

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
        most = session.settings.max_message
        self._parts_size += size
        if self._parts_size > 2 * most:
            raise ProtocolError(f"{session.name}: a value longer than {most} bytes")
        self._parts.append(piece)
        self.streams.partial += size + PIECE_COST
        if self.streams.partial > MOST_PARTIAL * most:
            text = f"pieces of many long values at a time, {self.streams.partial} bytes"
            raise ProtocolError(f"{session.name}: {text}")
        if more:
            return self
        data = b"".join(self._parts)
        self.drop_parts()
        return session.wire.unpack_value(data)  # a value that nobody wants, too: the ends in it are to be stopped

    def deliver(self, value: Any) -> None:
        """Put a value, or a failure, where the user will find it: there is always room for what had credit."""
        ch = self.ref()
        if ch is None:
            return
        try:
            overfill(ch, value)
        except ChannelClosed as error:
            self.stop(error.reason, None)
        except BaseException as error:  # it goes on through another connection, which can't carry it
            if isinstance(error, ENDS):
                raise
            self.stop(None, describe(error))
            if ch._outlet is not None:
                ch._outlet.fail(describe(error))

    # -- Credit

    def _taken(self) -> int:
        ch = self.ref()
        if ch is None:
            return self.received
        if not self.here:
            return self.received - len(ch)
        held = len(ch) if ch._outlet is not None else max(0, len(ch) - int(min(ch.capacity, MAX_HELD)))
        return max(self.told, self.received - min(self.received, held))

    def look(self, waiting: int = 0) -> None:
        """Give credit, if there is enough to give. ``waiting``: who is about to wait, beside those who do."""
        if self.stopped or self.session.fault is not None:
            return
        ch = self.ref()
        if ch is None:
            return
        taken = max(self.told, self._taken())
        sizes = self._sizes
        while len(sizes) > self.received - taken:
            self._taken_bytes += sizes.popleft()
        size = self._taken_bytes + self._bytes_window
        if (self.here or self.meets) and ch._outlet is not None:
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
            self.told = taken
            self.streams.post(CREDIT, [self.id, self.granted, self.granted_bytes, taken])
            if self._base and ch._outlet is None:  # else another connection's credit says how much is wanted
                before, self._looked = self._looked, self.session.scheduler.now()
                soon = 0.0 < self._looked - before < SOON  # (a virtual clock that stands still says nothing)
                if soon and self._soon:
                    self._widen()
                    soon = False  # the next is due to that
                self._soon = soon
        if not (self.here or self.stopped):  # look again when half is taken
            ch._low = self.window // 2 + 1
            if self._bytes >= self.granted_bytes:  # still: a long value has gone beyond it, and nothing more comes
                ch._low = max(1, len(ch))  # as soon as one is taken

    def on_low(self) -> None:
        """The user has taken much of what was here. In any thread."""
        self.session.here(lambda: self.look())

    def on_wait(self) -> None:
        """Somebody is about to wait for a value. In any thread."""
        self.session.here(lambda: self.look(1))

    # -- The way home of our receiving end

    def pack_up(self) -> channel[Any]:
        """It is in a message that is to leave: nobody receives here what it takes along, nor what still comes.

        That is put aside, in a channel which the caller keeps. Who receives meanwhile waits until the message has left.
        """
        ch: Any = self.ref()
        away: channel[Any] = channel(math.inf)
        pour(ch, away)
        self.ref = weakref.ref(away, self._dropped)
        return away

    def stay(self, ch: channel[Any], away: Any) -> None:
        """The message has not left."""
        self.ref = weakref.ref(ch, self._dropped)
        if self.stopped and not away.shut:  # by its user
            return
        pour(away, ch)
        if self.stopped:
            ch._feeder = ch._on_wait = None
            ch._low = 0
            ch.close()
        self.look()

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
        """The sender has failed. Without an error: nobody has it there any more, and it has come home before."""
        if self.stopped:
            return
        if error is None and self.here:
            self._settle()
            self._let_go(self.ref())
        elif self._alarm is not None and error == fault("deadline", "deadline"):
            self._conclude(bomb(DeadlineExceeded(fault("deadline", self._late))))  # the peer's clock was first
        else:
            self._conclude(bomb(self.session.at_once(rebuild_abort, error)))

    def broken(self, text: str) -> None:
        """The connection is lost."""
        if not self.stopped:
            self._conclude(bomb(ChannelBroken(text)))

    def _conclude(self, failure: bomb | None) -> None:
        self._settle()
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
            if len(ch) and ch._outlet is not None:
                ch._outlet.hold = ch
            self.streams.unbind(ch, self)

    def stop(self, reason: Any, error: Any) -> None:
        """Nobody wants more of this: the sender is told so."""
        if self.stopped:
            return
        taken = self._taken()
        self._settle()
        self._let_go(self.ref())
        self._say_stop(taken, reason, error)

    def _say_stop(self, taken: int, reason: Any, error: Any) -> None:
        if error is None and isinstance(reason, ChannelBroken):  # on the way, where it goes on: nobody has closed it
            error = describe(reason)
        if not (reason is None or isinstance(reason, int | float | bool)):
            reason = text_of(reason)[: MAX_REASON if self.session.wire.most_sent >= ROOMY else BRIEF]
        self.streams.post(STOP, [self.id, taken, reason, error])

    def on_close(self) -> None:
        """Nobody but us closes what we feed."""

    def on_stop(self, reason: Any, dropped: int) -> None:
        """The user's receiver gives up. In any thread."""
        self.session.here(lambda: self._stop_after(reason, dropped))

    def _stop_after(self, reason: Any, dropped: int) -> None:
        if not self.stopped:
            taken = max(self.told, self.received - dropped)
            self._settle()
            error = describe(reason) if isinstance(reason, BaseException) else None
            self._say_stop(taken, reason, error)

    def _dropped(self, _: Any) -> None:
        """Nobody has the channel any more. A finalizer: it may run anywhere."""
        if not self.stopped:
            self.session.scheduler.post(self._tell_dropped)

    def _tell_dropped(self) -> None:
        if not self.stopped:
            self._settle()
            self.streams.post(STOP, [self.id, self.told, "the receiving end was dropped, and not closed", None])
