"""A stream between the event loop and channels: what the loop calls, and what a `Conn` stands on.

Invariants

- ``incoming`` holds the chunks that nobody has received yet. Reading is paused (``_paused``) when they come
  to INCOMING_LIMIT bytes; then, and only then, ``incoming._on_wait`` is set. It resumes reading when all of
  them are taken and a receiver is about to wait, or looks in vain.
- ``ended`` is set when nothing can be written any more; ``_fault`` says why, or is None after a local close.
- ``full`` mirrors the transport's pause_writing. Whoever must wait for room waits in ``_room``, first in,
  first out; ``_waiting`` counts them until they have written, so that a newcomer can't overtake one that
  was woken.
- ``incoming`` is closed when no more will come. A failure is put into it as a bomb before that.

The methods that the loop calls (`connection_made` to `connection_lost`) run on the hub: they never block,
never switch, and raise nothing, since uvloop swallows what `data_received` raises.

No reference leads from here to the `Conn`: when the last user lets go of it, it can tell that it was dropped.
"""

from __future__ import annotations

import math
import os
import socket
import struct
from threading import get_ident
from typing import TYPE_CHECKING, Any

from flower.channels import bomb, channel
from flower.errors import ChannelClosed, Timeout

if TYPE_CHECKING:
    from flower.net._loop import LoopPoller

INCOMING_LIMIT = 256 * 1024  # bytes: what one read of uvloop's brings at most; the buffer can hold twice that
CHUNK_COST = 64  # bytes: what a held chunk costs beside its data, so that a flood of tiny ones is bounded too
HIGH_WATER = 64 * 1024  # bytes written and not yet sent, above which `send` waits; asyncio's own default
LINGER = 30.0  # seconds that the bytes written before a close have to leave; then the connection is cut
PARTING = 2.0  # seconds that the peer then has to close its side
RESET = struct.pack("ii", 1, 0)  # for SO_LINGER: end with a reset


class Stream:
    """One stream connection, as the event loop's protocol object."""

    __slots__ = (
        "__weakref__",
        "_fault",
        "_held",
        "_holding",
        "_linger",
        "_paused",
        "_room",
        "_sock",
        "_thread",
        "_transport",
        "_waiting",
        "at_eof",
        "ended",
        "full",
        "incoming",
        "local",
        "poller",
        "proto",
        "remote",
        "shut",
    )

    def __init__(self, poller: LoopPoller, sock: socket.socket, proto: str) -> None:
        self.poller = poller
        self._thread = poller.thread
        self.proto = proto
        self.local: Any = sock.getsockname()
        self.remote: Any = None
        self.incoming: channel[bytes] = channel(math.inf, "connection")
        self.incoming._external = True
        self.at_eof = False  # the peer has said that it sends no more
        self.shut = False  # closed here
        self.ended = False
        self.full = False
        self._sock = sock
        self._transport: Any = None
        self._fault: BaseException | None = None
        self._held = 0
        self._paused = False
        self._room: channel[None] = channel(0, "room to write")
        self._room._external = True
        self._room.preference = 0
        self._waiting = 0
        self._holding = False
        self._linger: Any = None

    def as_protocol(self) -> Any:
        """For the loop, which wants a function that makes its protocol object."""
        return self

    # -- Called by the loop

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        try:
            self.remote = self._sock.getpeername()
        except OSError:  # gone already: connection_lost follows
            pass
        self.poller.resources.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            incoming = self.incoming
            incoming.try_send(data)
            count = len(incoming)
            if count:  # nobody was waiting for it
                cost = len(data) + CHUNK_COST
                self._held = cost if count == 1 else self._held + cost
                if self._held >= INCOMING_LIMIT and not self._paused:
                    self._pause()
        except ChannelClosed:  # closed here; what still arrives has no reader
            pass
        except BaseException as error:
            self._break(error)

    def eof_received(self) -> bool:
        self.at_eof = True
        self._end_incoming()
        return not self.shut  # the other direction stays open, if it is

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self.shut:
            self._flushed()
        else:
            self._admit()

    def connection_lost(self, error: BaseException | None) -> None:
        self.poller.resources.discard(self)
        self._transport = None
        if not self.shut and self._fault is None:
            if error is None and not self.at_eof:
                error = ConnectionAbortedError(f"{self.describe()}: cut before its end")
            if error is not None:
                self._fault = _ours(error)
                if not self.at_eof:
                    self._try_bomb()
        self._end()
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._let_go()

    # -- Reading

    def reading_fault(self) -> BaseException | None:
        """What a reader gets after the channel's end: the failure, or None for a clean end."""
        return None if self.at_eof or self._fault is None else _again(self._fault)

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
            self._held = 0
            self.incoming._on_wait = None
            self._transport.resume_reading()

    def _try_bomb(self) -> None:
        try:
            self.incoming.try_send(bomb(_again(self._fault)))
        except ChannelClosed:
            pass

    def _end_incoming(self) -> None:
        self.incoming._on_wait = None
        self.incoming.close()

    # -- Writing

    def write(self, data: bytes, timeout: float | None) -> None:
        """Wait for room, then take all of the data. What is raised before that took nothing."""
        if get_ident() != self._thread:
            raise RuntimeError(f"{self.describe()} belongs to another thread: only that one may send")
        if self.full or self._waiting or self.ended or self._transport.is_closing():
            self._wait_for_room(timeout)  # a transport that closes by itself has failed, and is about to say why
        self._transport.write(data)
        if self._waiting and not self.full:
            self._admit()

    def _wait_for_room(self, timeout: float | None) -> None:
        if not self.ended:
            self._waiting += 1
            try:
                self._room.receive(timeout)
            except ChannelClosed:
                pass
            except Timeout:
                raise Timeout(f"{self.describe()}: no room to write within {timeout} s") from None
            finally:
                self._waiting -= 1
        if self.ended:
            raise self.writing_fault()

    def _admit(self) -> None:
        """There is room: wake the writer that has waited longest. It wakes the next, when it has written."""
        if self._room.balance < 0:
            self._room.try_send(None)

    def writing_fault(self) -> BaseException:
        if self._fault is not None:
            return _again(self._fault)
        if self.shut:
            return ChannelClosed(f"{self.describe()} was closed here", self.incoming)
        return _ours(BrokenPipeError(f"{self.describe()}: the connection is gone"))

    # -- The end

    def close(self) -> None:
        """Close here: what was written leaves, what was received and not taken is dropped."""
        if not self.shut:
            self.shut = True
            transport = self._transport
            if transport is not None and not self.ended:
                if transport.get_write_buffer_size():
                    self._close_slowly(transport)
                else:
                    transport.close()
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
            return
        transport.write_eof()
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
        self.shut = True
        self._cut()
        self._end()
        self._drain()

    def _cut(self) -> None:
        """Without SO_LINGER the peer would take what it has got for the whole."""
        if self._transport is not None:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            except OSError:  # it is gone
                pass
            self._transport.abort()

    def finish(self, late: bool) -> bool:
        """The loop is about to end. True while bytes are still to leave; ``late``: those of no `close` are cut."""
        transport = self._transport
        if transport is None:
            return False
        self._end()
        if not transport.get_write_buffer_size():
            transport.close()
        elif late and not self._holding:
            self._cut()
        elif not (self._holding or transport.is_closing()):
            transport.close()
        return self._transport is not None and bool(transport.get_write_buffer_size())

    def disown(self) -> Any:
        """In a forked child: the parent goes on with this connection; here it is over."""
        transport, self._transport = self._transport, None
        self._fault = _ours(ConnectionAbortedError(f"{self.describe()} belongs to the parent process, since a fork"))
        self.ended = True
        self._paused = False
        self._linger = None
        self._holding = False
        os.close(self._sock.detach())  # this process's own descriptor of it; no system call reaches the peer
        self._try_bomb()
        self._end_incoming()
        return transport, self._sock

    def _break(self, error: BaseException) -> None:
        """Something failed in a callback: the reader gets it, and the connection is cut."""
        self._fault = error
        self._try_bomb()
        self._cut()
        self._end()

    def _end(self) -> None:
        self.ended = True
        self._end_incoming()
        self._room.close()

    def _drain(self) -> None:
        try:
            while self.incoming.try_receive(None) is not None:
                pass
        except BaseException:  # its end, or the failure that was left in it
            pass

    def _let_go(self) -> None:
        if self._holding:
            self._holding = False
            self.poller.scheduler.release()

    def status(self) -> str:
        if self.ended:
            return "closed"
        return "writeonly" if self.at_eof else "open"

    def describe(self) -> str:
        return f"{self.proto} {format_address(self.local)} -> {format_address(self.remote)}"


def format_address(address: Any) -> str:
    """An address as people write it: 127.0.0.1:80, [::1]:80, /run/x.sock."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(address) if address else "?"


def _ours(error: BaseException) -> BaseException:
    """Mark an error as one of Flower's own connections: uncaught, it is reported, and ends no program."""
    error._flower_conn = True  # type: ignore[attr-defined]
    return error


def _again(error: BaseException | None) -> BaseException:
    """A new exception like this one, so that each raise has its own traceback."""
    assert error is not None
    try:
        copy = type(error)(*error.args)
    except Exception:  # an exception class of its own kind of arguments
        copy = error
    return _ours(copy)
