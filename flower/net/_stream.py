"""A stream between the event loop and channels: what the loop calls, and what a `Conn` stands on.

Invariants

- ``incoming`` holds the chunks that nobody has received yet. Reading is paused (``_paused``) when they come
  to INCOMING_LIMIT bytes; then, and only then, ``incoming._on_wait`` is set. It resumes reading when all of
  them are taken and a receiver is about to wait, or looks in vain.
- ``ended`` is set when the connection is over, and nothing can be written any more; ``_fault`` says why, or is None
  after a local close. ``half`` is set when only this direction was ended (`close_write`).
- ``full`` is set while there is no room: after the transport's pause_writing (``_choked``), and while TLS is begun in
  the middle of the connection (``_shaking``). Whoever must wait for room, in a `Conn.send` or a select, offers his
  data in ``outbox``, a channel whose outlet is this stream: it takes values while there is room (``_credit``), first
  in, first out. While somebody waits there, there is no room; and nobody does when there is.
- ``_gathered`` holds what was written in this turn, less than GATHERED bytes, or is None: a transport makes a system
  call of each write, so what the tasklets of a turn write leaves in one. The stream is then among its poller's
  ``gathered`` (``_listed``), which are let out when the turn is over, before main goes on. What main writes leaves at
  once, since it may be about to block its thread, and so does the first that the last tasklet which can run writes,
  since others may be about to wait for it. Whatever else is done with the transport, this is let out before.
- ``_prompt`` is set when something has come: the answer, which is what is written next, leaves at once, and is not
  gathered. But it is not set after a turn in which more was written (``_busy``): the answer (``_answered``) and more,
  or several pieces that were gathered.
- ``incoming`` is closed when no more will come. A failure is put into it as bombs before that, one for each who waits.
- ``tap``, where there is one, is offered what comes while its reader is the first who waits; what the tap has not dealt
  with is then the reader's business, which is woken with nothing.
- ``_transport`` is a `Transport`, or a `TlsLayer` around one, which behaves like it. None once it is gone.

The methods that the loop calls (`connection_made` to `connection_lost`) run on the hub: they never block,
never switch, and raise nothing, since a transport has nobody to tell.

No reference leads from here to the `Conn`: when the last user lets go of it, it can tell that it was dropped.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.channels import bomb, channel
from flower.channels._failures import copy_error, is_foreign
from flower.errors import ChannelClosed, Timeout
from flower.net._address import format_address
from flower.net._transport import Link, Tap, disown

if not cython.compiled:
    from threading import get_ident

    from flower.channels._elsewhere import pump

if TYPE_CHECKING:
    from flower.net._bounds import Bounds
    from flower.net._loop import LoopPoller

CHUNK_COST = 64  # bytes: what a held chunk costs beside its data, so that a flood of tiny ones is bounded too
GATHERED = 16 * 1024  # bytes written in one turn that leave together; more leave at once, and what is longer alone
PIECES = 16  # and so many pieces: of 64 calls under way, the peer serves the first while we make the next
LINGER = 30.0  # seconds that the bytes written before a close have to leave; then the connection is cut
PARTING = 2.0  # seconds that the peer then has to close its side; nginx's lingering_timeout is 5, Apache's 2
PLENTY = 1 << 62  # the outbox's credit while there is room: there is no counting, `pause_writing` ends it
RESET = struct.pack("ii", 1, 0)  # for SO_LINGER: end with a reset


class Stream(Link):
    """One stream connection, as the event loop's protocol object."""

    def __init__(self, poller: LoopPoller, sock: socket.socket, proto: str, bounds: Bounds) -> None:
        self.poller = poller
        self.bounds = bounds
        self._limit = bounds.incoming
        self._thread = poller.thread
        self.proto = proto
        self.local: Any = sock.getsockname()
        self.remote: Any = None
        self.incoming: channel[bytes] = channel(math.inf, "connection")
        self.incoming._external = True
        self.tap: Tap | None = None
        self.tls: Any = None  # the ssl.SSLObject, which knows what was agreed on
        self.at_eof = False  # the peer has said that it sends no more
        self.shut = False  # closed here
        self.half = False  # the end of what we send was said
        self.ended = False
        self.full = False
        self._choked = False
        self._shaking = False
        self._sock = sock
        self._transport: Any = None
        self._gathered: list[bytes] | None = None
        self._gathered_size = 0
        self._listed = False
        self._gathering: list[Stream] | None = poller.gathered
        self._scheduler = poller.scheduler
        self._fault: BaseException | None = None
        self._held = 0
        self._paused = False
        self.outbox: channel[Any] | None = None  # made when it is first needed, as _emptied is
        self._sent = False  # something was written,
        self._said_last = False  # and nothing has come since: the peer may not have read it yet
        self._busy = self._prompt = self._answered = False
        self._emptied: channel[None] | None = None
        self._flushing = 0
        self._holding = False
        self._linger: Any = None

    # -- Called by the loop

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=self.bounds.outgoing)
        if self.remote is None:
            try:
                self.remote = self._sock.getpeername()
            except OSError:  # gone already: connection_lost follows
                pass
        self.poller.resources.add(self)

    def data_received(self, data: bytes) -> None:
        self._prompt = not self._busy
        self._answered = False
        self._said_last = self._said_last and self.shut
        try:
            incoming, tap = self.incoming, self.tap
            if tap is not None and incoming.receivers.count and not self._scheduler.closing:
                if incoming.receivers.head() is tap.reader:
                    if tap.take(data):
                        return
                    data = b""
            incoming.try_send(data)
            count = incoming.held
            if count:  # nobody was waiting for it
                cost = len(data) + CHUNK_COST
                self._held = cost if count == 1 else self._held + cost
                if self._held >= self._limit and not self._paused:
                    self._pause()
        except ChannelClosed:  # closed here; what still arrives has no reader
            pass
        except BaseException as error:
            self._break(error)

    def eof_received(self) -> bool:
        self.at_eof = True
        self._end_incoming()
        return not (self.shut or self.half)  # the other direction stays open, if it is

    def pause_writing(self) -> None:
        self._choked = self.full = True
        if self.outbox is not None:
            self.outbox._credit = 0

    def resume_writing(self) -> None:
        self._choked = False
        if self.shut:
            self._flushed()
        else:
            if self._flushing:
                self._tell_flushed()
            self._look_for_room()

    def connection_lost(self, error: BaseException | None) -> None:
        self.poller.resources.discard(self)
        if not self.shut and self._fault is None:
            if error is None and not self.at_eof:
                error = ConnectionAbortedError(f"{self.describe()}: cut before its end")
            if error is not None:
                self._fault = _ours(self._located(error))
                if not self.at_eof:
                    self._try_bomb()
        self._end()
        self._transport = None
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._let_go()

    # -- Reading

    def reading_fault(self) -> BaseException | None:
        """What a reader gets after the channel's end: the failure, or None for a clean end."""
        return None if self.at_eof or self._fault is None else copy_error(self._fault)

    def _pause(self) -> None:
        self._paused = True
        self._transport.pause_reading()
        self.incoming._on_wait = self._drained
        if not len(self.incoming):  # a receiver in another thread took all in between, and may wait already
            self._resume()

    def _drained(self) -> None:
        """A receiver looks for more, and all that was held is taken. May run in another thread."""
        self.incoming._on_wait = None
        self.poller.call_here(self._resume)

    def _resume(self) -> None:
        if self._paused and self._transport is not None and not len(self.incoming):
            self._paused = False
            self.incoming._on_wait = None
            self._transport.resume_reading()

    def _try_bomb(self) -> None:
        """Leave the failure for the next reader; and give it to each who waits, in a select too."""
        assert self._fault is not None
        try:
            while True:
                waited = self.incoming.balance < 0
                self.incoming.try_send(bomb(copy_error(self._fault)))
                if not waited:
                    break
        except ChannelClosed:
            pass

    def _located(self, error: BaseException) -> BaseException:
        """The loop's error, with this connection's addresses in its text."""
        if isinstance(error, OSError) and error.errno is not None and type(error).__module__ == "builtins":
            return type(error)(error.errno, f"{os.strerror(error.errno)}: {self.describe()}")
        return error

    def _end_incoming(self) -> None:
        self.incoming._on_wait = None
        self.incoming.close()

    # -- Writing

    def send(self, data: bytes, timeout: float | None) -> None:
        """Wait for room, then take all of the data. What is raised before that took nothing."""
        self._check_thread("send")
        if self.full or self.half or self.ended or self._transport.is_closing():
            try:
                self.open_outbox().send(data, timeout)
            except Timeout as error:
                if is_foreign(error):
                    raise
                if self.ended:  # it may be what the connection died of
                    raise self.writing_fault() from None
                raise Timeout(f"{self.describe()}: no room to write within {timeout} s") from None
        elif data:  # nothing is what somebody sends who only waits for room
            self._send(data)

    def offer(self, data: bytes, urgent: bool = False) -> bool:
        """Take the data if there is room for it now, or if it is urgent; says whether it did."""
        closed = get_ident() != self._thread or self.half or self.ended or self._transport.is_closing()
        if closed or (self.full and (self._shaking or not urgent)):
            return False
        self._send(data)
        return True

    def open_outbox(self) -> channel[Any]:
        """Where all who can't send at once wait, with what they offer; what has no room, or none any more, refuses."""
        self._check_thread("send")
        if self.outbox is None:
            self.outbox = channel(0, "room to write")
            self.outbox._external = True
            if self.ended or self.half:
                self._refuse_more()
            else:
                self.outbox._outlet = self
                self.outbox._credit = 0 if self.full else PLENTY
        if self._transport is not None and self._transport.is_closing():
            self.outbox._credit = 0  # a transport that closes by itself has failed, and is about to say why
        return self.outbox

    def _look_for_room(self) -> None:
        self.full = self._choked or self._shaking
        if self.outbox is not None and not (self.full or self.half or self.ended):
            self.outbox._credit = PLENTY
            pump(self.outbox)

    def take(self, data: Any) -> None:
        """For the outbox: there is room, and this is what was offered."""
        self._send(as_bytes(data))

    def _refuse_more(self) -> None:
        """Nothing can be written any more: whoever waits for room, or comes, learns why."""
        outbox = self.outbox
        if outbox is not None:
            outbox._credit = 0
            outbox._outlet = None
            outbox._abandon(self.writing_fault())

    def _send(self, data: bytes) -> None:
        self._sent = self._said_last = True
        scheduler = self._scheduler
        writer = scheduler.current  # None: the hub
        in_main = writer is scheduler.main
        gathering = self._gathering
        pieces = self._gathered
        if gathering is None or (pieces is None and (self._prompt or in_main)):
            self._prompt = False
            self._answered = True
            self._transport.write(data)
            return
        if pieces is None:
            if scheduler.ready.count == 0 and (writer is None or not self._listed):
                if writer is not None:
                    self._listed = True
                    gathering.append(self)
                self._transport.write(data)
                return
            fresh: list[bytes] = []
            pieces = self._gathered
            if pieces is None:  # to allocate may have run finalizers that write here
                self._gathered = pieces = fresh
        if not self._listed:
            self._listed = True
            gathering.append(self)
        pieces.append(data)
        self._gathered_size += len(data)
        if in_main or self._gathered_size >= GATHERED or len(pieces) >= PIECES:
            self.let_out()

    def end_turn(self) -> None:
        """All have had their turn."""
        self._listed = False
        self.let_out()

    def let_out(self) -> None:
        """Hand to the transport what was written in this turn."""
        pieces = self._gathered
        if pieces is not None:
            self._gathered = None
            self._gathered_size = 0
            self._busy = self._answered or len(pieces) > 1
            self._answered = False
            if self._transport is not None:
                try:
                    self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
                except BaseException as error:
                    self._break(error)

    def flush(self, timeout: float | None) -> None:
        """Wait until all that was written is with the kernel."""
        self._check_thread("flush")
        if self.ended:
            raise self.writing_fault()
        self.let_out()
        transport = self._transport
        if transport is None:
            return
        failed = transport.is_closing() and not (self.half and self.at_eof)  # and is about to say why
        if not (failed or transport.get_write_buffer_size()):
            return
        if self._emptied is None:
            self._emptied = channel(0, "what was written to leave")
            self._emptied._external = True
            self._emptied.preference = 0
        self._flushing += 1
        transport.set_write_buffer_limits(high=0)  # so that resume_writing says when all have left
        try:
            self._emptied.receive(timeout)
        except (ChannelClosed, Timeout) as error:
            if is_foreign(error):
                raise
            if isinstance(error, ChannelClosed):
                raise self.writing_fault() from None
            raise Timeout(f"{self.describe()}: what was written has not left within {timeout} s") from None
        finally:
            self._flushing -= 1
            if not (self._flushing or self.shut or self._transport is None):
                self._transport.set_write_buffer_limits(high=self.bounds.outgoing)

    def _tell_flushed(self) -> None:
        assert self._emptied is not None
        while self._emptied.balance < 0:
            self._emptied.try_send(None)

    def close_write(self) -> None:
        """What was written leaves, and then the peer is told that no more comes. Reading goes on."""
        self._check_thread("close it for writing")
        if self.ended:
            raise self.writing_fault()
        if not self.half:
            self.half = True
            self.let_out()
            self._refuse_more()
            if not self._shaking:
                self._end_writing()

    def _end_writing(self) -> None:
        if self.at_eof:
            self._transport.close()
        else:
            self._write_eof(self._transport)

    def _write_eof(self, transport: Any) -> None:
        try:
            transport.write_eof()
        except OSError:  # the standard loop tells at once of a connection that is gone
            transport.abort()

    def writing_fault(self) -> BaseException:
        if self._fault is not None:
            return copy_error(self._fault)
        if self.shut:
            return ChannelClosed(f"{self.describe()} was closed here", self.incoming)
        if self.half:
            return ChannelClosed(f"{self.describe()} was closed here for writing", self.incoming)
        return _ours(BrokenPipeError(errno.EPIPE, f"{self.describe()}: the connection is gone"))

    def refuse_tls(self) -> None:
        """Raise what keeps TLS from beginning, if anything does."""
        self._check_thread("start TLS")
        if self.tls is not None:
            raise RuntimeError(f"{self.describe()}: it speaks TLS already")
        if self.ended or self.half or self.at_eof:
            raise self.writing_fault()

    def shake_hands(self, begin: bool) -> None:
        """TLS begins in the middle of the connection, or stands: in between, whoever sends waits."""
        self._shaking = begin
        if begin:
            self.full = True
            if self.outbox is not None:
                self.outbox._credit = 0
        elif self.half:  # said meanwhile
            self._end_writing()
        else:
            self._look_for_room()

    def give_up_tls(self) -> None:
        """TLS has failed, or whoever began it was interrupted, perhaps before there was anything of it."""
        transport = self._transport
        if self._shaking and not self.ended and transport is not None and not transport.is_closing():
            self._break(self.given_up())

    def given_up(self) -> BaseException:
        return ConnectionAbortedError(f"{self.describe()}: TLS was begun here, and given up")

    def take_early(self) -> bytes:
        """What came before TLS and was not received yet; what was written before it leaves."""
        self.let_out()
        early = []
        while len(self.incoming):
            early.append(self.incoming.try_receive(b""))
        return b"".join(early)

    def replace_transport(self, transport: Any) -> None:
        """From now on the bytes go through this one: TLS begins in the middle of a connection."""
        self._transport = transport
        self.proto = "tls"
        self._resume()

    # -- The end

    def close(self) -> None:
        """Close here: what was written leaves, what was received and not taken is dropped."""
        if not self.shut:
            self.shut = True
            self.let_out()
            transport = self._transport
            if transport is not None and not self.ended:
                if self._shaking:  # there is nothing yet that could be ended in good order
                    transport.abort()
                elif transport.get_write_buffer_size():
                    self._close_slowly(transport)
                elif self.at_eof or not self._sent or transport.is_closing():
                    transport.close()
                else:
                    self._part(transport)
            self._end()
            self._drain()

    def _close_slowly(self, transport: Any) -> None:
        """Let the bytes leave. We go on reading: were it closed with unread data, the kernel would reset it."""
        self._holding = True
        self.poller.scheduler.hold()
        self._linger = self.poller.loop.call_later(LINGER, self._cut)
        transport.set_write_buffer_limits(high=0)  # so that resume_writing says when all have left
        if self.at_eof:
            transport.close()
        else:
            self._say_goodbye(transport)

    def _part(self, transport: Any) -> None:
        """All has left; but a peer that still sends would be reset, and lose what it has not read of ours."""
        self._linger = self.poller.loop.call_later(PARTING, transport.close)
        self._say_goodbye(transport)

    def _say_goodbye(self, transport: Any) -> None:
        self._write_eof(transport)
        if self._paused:
            self._paused = False
            transport.resume_reading()

    def _flushed(self) -> None:
        """Closed, and now the last byte is with the kernel: the peer has a little while to close, too."""
        self._let_go()
        if self._linger is not None and self._transport is not None:
            self._linger.cancel()
            self._linger = self.poller.loop.call_later(PARTING, self._transport.close)

    def abort(self) -> None:
        """Cut the connection: what was written and not yet sent is dropped, and the peer gets a reset."""
        if not self.shut and self._fault is None:
            self._fault = _ours(ConnectionAbortedError(f"{self.describe()} was aborted here"))
            self._try_bomb()
        self.shut = True
        self.at_eof = False  # what has come and was not taken is dropped, its end with it
        self._cut()
        self._end()
        self._drain()

    def _cut(self) -> None:
        """Without SO_LINGER the peer would take what it has got for the whole."""
        self._gathered = None
        if self._transport is not None:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            except OSError:  # it is gone
                pass
            self._transport.abort()

    def finish(self, late: bool) -> bool:
        """The loop is about to end. True while there is something to wait for; ``late``, only what was closed."""
        self.let_out()
        transport = self._transport
        if transport is None:
            return False
        if not self.shut and self._fault is None:  # a reader in another thread must not take it for the peer's end
            self._fault = _ours(ConnectionAbortedError(f"{self.describe()}: its thread has ended"))
            if not self.at_eof:
                self._try_bomb()
        self._end()
        is_parting = self._linger is not None and self._said_last
        if not transport.get_write_buffer_size():
            if not is_parting:
                transport.close()
        elif late and not self._holding:
            self._cut()
        elif not (self._holding or transport.is_closing()):
            transport.close()
        return self._transport is not None and (is_parting or bool(transport.get_write_buffer_size()))

    def disown(self) -> Any:
        """In a forked child: the parent goes on with this connection; here it is over."""
        transport = self._transport
        self._transport = None
        self._gathered = None
        self._fault = _ours(ConnectionAbortedError(f"{self.describe()} belongs to the parent process, since a fork"))
        self.ended = True
        self.outbox = None
        self._paused = False
        self._linger = None
        self._holding = False
        disown(self._sock)
        self._try_bomb()
        self._end_incoming()
        return transport, self._sock

    def _break(self, error: BaseException) -> None:
        """Something failed in a callback: the reader gets it, and the connection is cut."""
        self._fault = _ours(error)
        self._try_bomb()
        self._cut()
        self._end()

    def _end(self) -> None:
        self.ended = True
        self._end_incoming()
        self._refuse_more()
        if self._emptied is not None:
            self._emptied.close()

    def _drain(self) -> None:
        while len(self.incoming):
            try:
                self.incoming.try_receive(b"")
            except BaseException:  # the failure that was left in it
                pass

    def _let_go(self) -> None:
        if self._holding:
            self._holding = False
            self.poller.scheduler.release()

    def _check_thread(self, what: str) -> None:
        if get_ident() != self._thread:
            raise RuntimeError(f"{self.describe()} belongs to another thread: only that one may {what}")

    def describe(self) -> str:
        return f"{self.proto} {format_address(self.local)} -> {format_address(self.remote)}"


def _ours(error: BaseException) -> BaseException:
    """Mark an error as one of Flower's own connections: uncaught, it is reported, and ends no program."""
    error._flower_conn = True  # type: ignore[attr-defined]
    return error


def as_bytes(data: Any) -> bytes:
    """A copy, since the caller may change its buffer before the bytes have left."""
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"a connection takes bytes, not {type(data).__name__}")
