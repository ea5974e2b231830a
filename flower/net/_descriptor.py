"""Descriptors: how they are watched, and connections over one that is no socket, such as one end of a pipe.

The connections are `Conn`s that go one way. A `OneWay` behaves to `Stream` as the loop's transport, as a TLS layer
does, and as its socket. The loops' own transports for pipes are not used: uvloop's and the standard one differ in how
they tell of a reader that is gone, and neither takes a file or /dev/null, which standard input may well be.

Invariants of `OneWay`: ``_watched`` is set while the loop watches the descriptor for reading: at a reading end unless
it is paused or at its end, at a writing end always, since that is how the kernel tells that nobody reads any more.
``_buffer`` is what the kernel has not taken; the loop watches for room while it is not empty. ``_fd`` is -1 once it is
closed.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flower.net._bounds import Bounds
from flower.net._conn import Conn
from flower.net._stream import Stream
from flower.net._transport import Link

if TYPE_CHECKING:
    from flower.net._loop import LoopPoller

READABLE = 1
WRITABLE = 2

MAX_FD = 2**31 - 1  # the system takes a C int
CHUNK = 64 * 1024  # bytes read at a time: what a pipe holds on Linux

IN, OUT = 1, 4  # as epoll's EPOLLIN and EPOLLOUT

_NO_WAIT = getattr(os, "RWF_NOWAIT", None)  # Linux's
_epoll: Any = getattr(select, "epoll", None)


class Watched:
    """A descriptor that others use too, and that the loop watches.

    uvloop makes what it watches non-blocking, which is a flag of the open file: of all who have it, standard output
    beside standard input, the shell and the children. So the loop watches a set that the descriptor is in; where the
    system has none, the flag is put back at once, and a write of others may just have failed.
    """

    __slots__ = ("_events", "_fd", "_loop", "_set")

    def __init__(self, loop: Any, fd: int, events: int) -> None:
        self._loop = loop
        self._fd = fd
        self._events = events
        self._set: Any = None
        if _epoll is not None:
            self._set = _epoll()
            try:
                self._set.register(fd, (IN if events & READABLE else 0) | (OUT if events & WRITABLE else 0))
            except BaseException:
                self._set.close()
                raise
            self._fd = self._set.fileno()
            self._events = READABLE

    def begin(self, callback: Callable[[], object]) -> None:
        """Call this whenever it is ready. To begin again after a pause takes no descriptor more."""
        blocking = self._set is None and os.name == "posix" and os.get_blocking(self._fd)
        try:
            for event, add in ((READABLE, self._loop.add_reader), (WRITABLE, self._loop.add_writer)):
                if self._events & event:
                    add(self._fd, callback)
        finally:
            if blocking:
                os.set_blocking(self._fd, True)

    def pause(self) -> None:
        """Call nothing any more."""
        for event, remove in ((READABLE, self._loop.remove_reader), (WRITABLE, self._loop.remove_writer)):
            if self._events & event:
                remove(self._fd)

    def end(self) -> None:
        """Watch it no more."""
        self.pause()
        self.disown()

    def disown(self) -> None:
        """Close this process's own descriptor, without a call to the loop: paused, or in a forked child."""
        if self._set is not None:
            self._set.close()


def look(fd: int, events: int) -> int:
    """What the descriptor is ready for now."""
    if not hasattr(select, "poll"):  # Windows
        no: list[int] = []
        both = select.select([fd] if events & READABLE else no, [fd] if events & WRITABLE else no, no, 0)
        return (READABLE if both[0] else 0) | (WRITABLE if both[1] else 0)
    poll = select.poll()
    poll.register(fd, (select.POLLIN if events & READABLE else 0) | (select.POLLOUT if events & WRITABLE else 0))
    for _, found in poll.poll(0):
        if found & select.POLLNVAL:
            raise OSError(errno.EBADF, f"{os.strerror(errno.EBADF)}: {fd}")
        if found & (select.POLLERR | select.POLLHUP):
            return events
        return (READABLE if found & select.POLLIN else 0) | (WRITABLE if found & select.POLLOUT else 0)
    return 0


# -- Connections


def reading_end(poller: LoopPoller, fd: int, name: str, *, shared: bool = False) -> Conn:
    """A connection that only receives: what comes out of the descriptor, which it owns from now on. Does not block.

    ``shared``: others have it open, too, and it stays blocking if it is.
    """
    return _open(poller, fd, name, False, shared)


def writing_end(poller: LoopPoller, fd: int, name: str) -> Conn:
    """A connection that only sends: into the descriptor, which it owns from now on. Does not block."""
    return _open(poller, fd, name, True, False)


def _open(poller: LoopPoller, fd: int, name: str, writes: bool, shared: bool) -> Conn:
    if not shared:
        try:
            os.set_blocking(fd, False)
        except BaseException:
            os.close(fd)
            raise
    end = OneWay(poller, fd, name, writes, shared)
    stream = Stream(poller, end, "pipe", Bounds())  # type: ignore[arg-type]
    if writes:
        stream.eof_received()
    else:
        stream.half = True
    try:
        end.start(stream)
    except BaseException:  # a descriptor that the loop can't watch, or has in use already
        stream.abort()
        raise
    return Conn(stream)


class OneWay(Link):
    """One end of a pipe, as the transport of a `Stream`, and as what it takes for its socket."""

    family = None  # no socket's: there are no options to set

    def __init__(self, poller: LoopPoller, fd: int, name: str, writes: bool, shared: bool) -> None:
        self._loop: Any = poller.loop
        self._fd = fd
        self._name = name
        self._writes = writes
        self._shared = shared
        self._stream: Any = None
        self._watched = False
        self._watch_of_shared: Watched | None = None
        self._pollable = True
        self._buffer = bytearray()
        self._high = self._low = 0
        self._full = False
        self._closing = False

    def start(self, stream: Stream) -> None:
        self._stream = stream
        stream.connection_made(self)
        self._watch()

    def _watch(self) -> None:
        if self._watched or self._fd < 0 or self._closing:
            return
        if self._pollable:
            try:
                if self._shared:
                    if self._watch_of_shared is None:
                        self._watch_of_shared = Watched(self._loop, self._fd, READABLE)
                    self._watch_of_shared.begin(self._on_readable)
                else:
                    self._loop.add_reader(self._fd, self._on_readable)
                self._watched = True
                return
            except OSError as error:
                if error.errno != errno.EPERM:
                    raise
            self._pollable = False  # a file, or /dev/null: it is always ready
        self._watched = True
        if not self._writes:
            self._loop.call_soon(self._on_readable)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            if self._watch_of_shared is not None:
                self._watch_of_shared.pause()
            elif self._pollable:
                self._loop.remove_reader(self._fd)

    # -- Reading

    def _on_readable(self) -> None:
        if not self._watched:
            return
        if self._writes:  # it is never readable: the other end is closed
            self._lose(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
            return
        try:
            data = self._read_shared() if self._shared and self._pollable else os.read(self._fd, CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if error.errno != errno.EIO:  # what a terminal says when its other side is gone
                self._lose(error)
                return
            data = b""
        if data:
            self._stream.data_received(data)
            if self._watched and not self._pollable:
                self._loop.call_soon(self._on_readable)
        else:
            self._unwatch()
            self._stream.eof_received()
            self.close()

    def _read_shared(self) -> bytes:
        """Another may have read it: then a descriptor that blocks would block the loop."""
        if _NO_WAIT is not None:
            buffer = bytearray(CHUNK)
            try:
                count = os.preadv(self._fd, [buffer], -1, _NO_WAIT)
                return bytes(memoryview(buffer)[:count])
            except BlockingIOError:
                raise
            except OSError:  # terminals and some devices have no such reading; another failure comes again
                pass
        if not look(self._fd, READABLE):
            raise BlockingIOError
        return os.read(self._fd, CHUNK)

    def pause_reading(self) -> None:
        self._unwatch()

    def resume_reading(self) -> None:
        self._watch()

    # -- Writing

    def write(self, data: bytes) -> None:
        if self._closing or self._fd < 0:
            return
        count = 0
        if not self._buffer:
            count = self._give(data)
            if count < 0 or count == len(data):
                return
            if self._pollable:
                self._loop.add_writer(self._fd, self._on_writable)
            else:
                self._loop.call_soon(self._on_writable)
        self._buffer += memoryview(data)[count:]
        self._pause_if_full()

    def _give(self, data: Any) -> int:
        """Write what the kernel takes: so many bytes; -1 when it failed, for good."""
        try:
            return os.write(self._fd, data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._lose(error)
            return -1

    def _on_writable(self) -> None:
        if self._fd < 0 or not self._buffer:
            return
        count = self._give(self._buffer)
        if count < 0:
            return
        del self._buffer[:count]
        if not self._buffer:
            if self._pollable:
                self._loop.remove_writer(self._fd)
        elif not self._pollable:
            self._loop.call_soon(self._on_writable)
        if self._full and len(self._buffer) <= self._low:
            self._full = False
            self._stream.resume_writing()
        if self._closing and not self._buffer:
            self._lose(None)

    def write_eof(self) -> None:
        self.close()

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def set_write_buffer_limits(self, high: int) -> None:
        self._high = high
        self._low = high // 4  # as asyncio's transports
        if self._full and 0 < len(self._buffer) <= self._low:
            self._full = False
            self._stream.resume_writing()
        self._pause_if_full()

    def _pause_if_full(self) -> None:
        if not self._full and len(self._buffer) > self._high:
            self._full = True
            self._stream.pause_writing()

    # -- The end

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            if not self._writes:
                self._unwatch()
            self._closing = True
            if not self._buffer:
                self._lose(None)

    def abort(self) -> None:
        self._lose(None)

    def _lose(self, error: BaseException | None) -> None:
        """Close the descriptor now, and tell the stream soon, as the loop's own transports do."""
        if self._fd < 0:
            return
        self._unwatch()
        if self._buffer:
            if self._pollable:
                self._loop.remove_writer(self._fd)
            self._buffer.clear()
        self._closing = True
        os.close(self.detach())
        self._loop.call_soon(self._stream.connection_lost, error)

    # -- What a stream asks of its socket

    def getsockname(self) -> str:
        return "here"

    def getpeername(self) -> str:
        return self._name

    def setsockopt(self, *option: object) -> None:
        """There is no reset in a pipe: who is at the other end sees it closed."""

    def detach(self) -> int:
        if self._watch_of_shared is not None:  # paused; or this is a forked child
            self._watch_of_shared.disown()
        fd, self._fd = self._fd, -1
        return fd
