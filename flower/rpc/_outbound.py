# cython: nonecheck=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""Where the values of a channel leave, when it goes on through a connection: the one half of such a channel.

One id is one direction. `Outbound` is the side whose values leave: it is the *outlet* of a local channel, which hands
it a value whenever it has credit. `Inbound` (in `_inbound`) is the side where they arrive: it puts them into a local
channel, at once, and gives credit as they are taken. Neither ever blocks, and neither has a tasklet.

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

- ``ch._credit`` is above 0 only while the peer's credit allows a value, and the `Outbox` has room. ``taken <= sent``.
- The channel is not held here: when its last user lets go of it, the peer learns that. But an `Outbound` holds it while
  what was left in it when it was closed, or failed elsewhere, waits for credit; and one that is fed from elsewhere is
  held by where it goes.
- It leaves the table of `Streams` with its own last word, ``$/end`` or ``$/rst``.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from greenlet import GreenletExit

from flower.channels._bomb import bomb
from flower.channels._channel import channel
from flower.errors import ChannelBroken, ChannelClosed, TaskletExit
from flower.rpc._faults import describe, describe_abort, fault, rebuild
from flower.rpc._line import DATA, END, RESET, Line
from flower.rpc._outbox import PIECE, Source

if TYPE_CHECKING:
    from flower.rpc._streams import Streams

if not cython.compiled:
    from threading import get_ident

    from flower.channels._elsewhere import pump, put_back

# What says that a message is a value of this channel, before its id.
_VALUE_HEAD = b"\x93\x02\xa3$/d\x92"
_PIECE_HEAD = b"\x93\x02\xa3$/d\x93"

# Bytes that a message has beside a value of ``max_frame`` bytes, or a piece of one.
FRAME_HEAD = 32
# What ends a tasklet, and is nobody's failure.
ENDS = (TaskletExit, GreenletExit, KeyboardInterrupt)
# Bytes of a value that is worth to be packed without the general packer, and to leave at once, while it is in the
# caches, rather than in a batch.
LONG = 4 * 1024
# Bytes of values that all the channels of a connection keep in case that they come home, and those that one of them has
# kept whatever the others do: more than the settings let be under way, unless they are other ones than ours.
MOST_KEPT = 64 * 1024 * 1024
ALWAYS_KEPT = 2 * 1024 * 1024
# Bytes that a value takes beside those of its message, about.
VALUE_COST = 128
# What a channel has failed with that was left, and not closed.
DROPPED = fault("failed", "the sending end was dropped, and not closed")


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
        self._started = False  # the message that opens the channel has left: nothing is said of it before
        self._taking = 0  # values that are being packed; a finalizer, or another tasklet, may send one meanwhile
        self.home = False  # the sending end has gone back: who has it there goes on, when nobody has it here
        self.here = here
        self.ref = weakref.ref(ch, self._dropped)
        self.hold: channel[Any] | None = None
        self.max_items = self.max_bytes = 0
        self.sent = self.sent_bytes = self.taken = 0
        self.over = False
        self.kept: deque[Any] = deque()  # of a user's own channel: what was sent and is not known to be taken, ...
        self._kept_bytes = 0  # ... with its bytes, and all of these
        self.followers: list[Follower] = []  # who puts values into this channel as its credit allows
        self._later: deque[Any] = deque()
        ch._credit = 0
        ch._outlet = self
        if not here:
            ch._external = True

    def start(self, items: int, size: int) -> None:
        """There is credit; what waits already may go."""
        self._started = True
        self.hold = None
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
            self.fail(describe_abort(value.value, session.settings.tracebacks))
            return
        self._taking += 1  # a finalizer that closes the channel meanwhile: its end comes behind
        self.sent += 1  # one that sends has the credit that is left
        ch = self.ref()
        if ch is not None:
            ch._credit -= 1
        try:
            self._take(session, value)
        except BaseException:
            self.sent -= 1
            session.scheduler.post(self._end_if_drained)  # later: of a value that was held, the channel fails first
            raise
        finally:
            self._taking -= 1
            if not self.over:
                self.set_credit()
        if self.hold is not None:
            self._end_if_drained()

    def _take(self, session: Line, value: Any) -> None:
        if type(value) is bytes and LONG <= len(value) <= min(session.max_frame, session.wire.most_sent - FRAME_HEAD):
            data = self._frame(_VALUE_HEAD, value, b"")
        else:
            data = session.wire.notify(DATA, [self.id, value])
        fresh = session.take_fresh(data) if session.fresh else None
        if self.over:  # such a finalizer has closed the session, perhaps
            self.streams.roll_back(fresh)
            raise ChannelClosed("the channel was closed as the value was packed")
        if len(data) > session.max_frame + FRAME_HEAD:
            self._cut(data, fresh)
        else:
            self.sent_bytes += len(data)
            if len(data) < LONG or fresh is not None or not session.outbox.send_now(data):
                session.outbox.put(self, data, fresh)
        if self.here:
            self._keep(value, len(data) + VALUE_COST)
        if self.queue and not self.listed:
            session.outbox.offer(self)

    def _keep(self, value: Any, size: int) -> None:
        """It may come home. Of what a peer takes without end, and never says so, the oldest is forgotten."""
        while self._kept_bytes > ALWAYS_KEPT and self.streams.kept > MOST_KEPT:
            self._forget()
        self.kept.append((value, size))
        self._kept_bytes += size
        self.streams.kept += size

    def _forget(self) -> None:
        size = self.kept.popleft()[1]
        self._kept_bytes -= size
        self.streams.kept -= size

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
            frame = self._frame(_PIECE_HEAD, value[at : at + step], b"\xc3" if more else b"\xc2")
            self.sent_bytes += len(frame)
            session.outbox.put(self, frame, PIECE if more else fresh)

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

    def _take_now(self) -> bool:
        """Send what other threads have sent, as far as there is room; says whether some of it is left."""
        while self._later and not self.over and self._room() > 0:
            try:
                self.take(self._later.popleft())
            except BaseException as error:
                self.fail_with(error)
        return bool(self._later)

    # -- Credit

    def _room(self) -> int:
        """How many values may be sent now."""
        room = self.max_items - self.sent
        if room <= 0 or self.over or (self.sent_bytes >= self.max_bytes and self.sent > self.taken):
            return 0
        return 0 if self.session.outbox.is_full(self) else room

    def set_credit(self) -> None:
        """Let the channel send what there is room for, and be held if it has to be."""
        ch = self.ref()
        if ch is None:
            return
        room = 0 if self._later else self._room()
        ch._credit = room
        if self.here and not self.over and (ch._feeder is not None or ch.closing):
            self.hold = ch
        elif self.hold is not None and not len(ch) and not ch.closing:
            self.hold = None

    def _go_on(self) -> None:
        """Credit has come: send what waits for it."""
        ch = self.ref()  # held until the end: with credit it is not
        if self._later:
            self._take_now()
        self.set_credit()
        if ch is None:
            self._tell_dropped()
        if ch is None or self.over:
            return
        try:
            pump(ch)
        except BaseException as error:  # a value that was held can't be sent, and its sender has gone
            self.fail_with(error)
            return
        self._end_if_drained()
        self.set_credit()
        for follower in list(self.followers):
            follower.look()

    def choke(self) -> None:
        """So much waits to be sent that nobody has room."""
        ch = self.ref()
        if ch is not None and ch._credit > 0 and self.session.outbox.is_full(self):
            ch._credit = 0

    def relieve(self) -> None:
        if not self.over:
            self._go_on()

    def on_credit(self, items: int, size: int, taken: int) -> None:
        """The peer takes more. Raises ValueError for a credit that can't be."""
        if items < self.max_items or size < self.max_bytes:
            raise ValueError("credit that shrinks")
        if not self.taken <= taken <= self.sent:
            raise ValueError(f"{taken} values are taken, of {self.sent} that were sent")
        while len(self.kept) > self.sent - taken:
            self._forget()
        self.taken = taken
        self.max_items, self.max_bytes = items, size
        if not self.over:
            self._go_on()

    # -- The end

    def _end_if_drained(self) -> None:
        ch: Any = self.ref()
        if ch is not None and ch.closed and self._started and not (self._later or self.over or self._taking):
            if isinstance(ch.reason, BaseException):  # it was over with a failure before its end was passed
                self.fail(describe_abort(ch.reason, self.session.settings.tracebacks))
            else:
                self._last_word(END, [self.id, self.sent])

    def fail(self, told: Any) -> None:
        """The sender has failed: the receiver gets the error after what was sent. Senders that wait are refused."""
        if not self.over:
            ch = self.ref()  # it may be held by us alone
            self.over = True
            _refuse(ch, "the channel has failed")
            self._last_word(RESET, [self.id, told])

    def fail_with(self, error: BaseException) -> None:
        """A value can't be sent, and who made it can't be told: its receiver is, of SystemExit too."""
        if isinstance(error, ENDS):
            raise error
        self.fail(describe(error))

    def on_stop(self, reason: Any, error: Any) -> None:
        """The receiver is done."""
        if not self.over:
            ch = self.ref()
            self.over = True
            told = reason if error is None else self.session.at_once(rebuild, error)
            _refuse(ch, told)  # who sends learns this before all else
            self._last_word(END, [self.id, self.sent], reason, error)

    def come_home(self, taken: int) -> channel[Any]:
        """The receiving end comes back: what the peer has not taken is received here, before all that follows."""
        ch = self.ref()
        if ch is None or self.over or not self.taken <= taken <= self.sent:
            raise ValueError("an end that comes home and is none")
        while len(self.kept) > self.sent - taken:
            self._forget()
        are_whole = len(self.kept) == self.sent - taken
        values = [value for value, _ in self.kept] + list(self._later)
        followers = self.leave()
        self._last_word(END, [self.id, self.sent])
        if are_whole:
            put_back(ch, values)
        else:
            lost = self.sent - taken + len(self._later) + len(ch)
            ch._abandon(
                ChannelBroken(f"{self.session.name}: {lost} values are lost, which were too many to keep", lost)
            )
        self.streams.stay(ch, followers)
        return ch

    def broken(self, text: str) -> None:
        """The connection is lost."""
        if self.over:
            return
        ch = self.ref()
        waiting = len(self._later) + (len(ch) if ch is not None else 0)
        unwritten = sum(1 for _, fresh in self.queue if fresh is not PIECE)
        self.over = True
        if ch is not None:
            maybe = max(0, self.sent - self.taken - unwritten)
            ch._abandon(ChannelBroken(text, waiting + min(unwritten, self.sent - self.taken), maybe))
        self._let_go(ChannelBroken(text))

    def _last_word(self, kind: str, params: list[Any], reason: Any = None, error: Any = None) -> None:
        self.over = True
        left = self.streams.last_word(self.id)
        if self.queue:
            outbox = self.session.outbox
            outbox.put(self, self.streams.telling(kind, params), left)
            outbox.offer(self)
        else:  # as a control frame, of which a peer that does not read gets no more than it is held back for
            self.streams.post(kind, params, left)
        self.streams.outbound.pop(self.id, None)
        if self.here:
            self.streams.note_end(self.id, params[1])
        while self.kept:
            self._forget()
        self._let_go(reason, error)

    def leave(self) -> list[Follower]:
        """Let the channel be; its followers are the caller's to deal with."""
        ch = self.ref()
        if ch is not None:
            ch._outlet = None
            ch._credit = 0
        self.hold = None
        followers, self.followers = self.followers, []
        return followers

    def _let_go(self, reason: Any = None, error: Any = None) -> None:
        for follower in self.leave():
            follower.stop("the channel is over" if reason is None else reason, error)

    def _dropped(self, _: Any) -> None:
        """Nobody has the channel any more, and it was not closed. A finalizer: it may run anywhere."""
        if not self.over:
            self.session.scheduler.post(self._tell_dropped)

    def _tell_dropped(self) -> None:
        if not (self.over or self._later):  # what other threads have sent goes before it
            self._last_word(RESET, [self.id, None if self.home else DROPPED])


def _refuse(ch: channel[Any] | None, reason: Any) -> None:
    """Nobody takes the channel's values any more: its senders learn it."""
    if ch is not None and not ch.closed:
        ch._abandon(reason if reason is not None else "the receiver is done")
