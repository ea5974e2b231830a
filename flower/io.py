"""Descriptors and files: waiting for any descriptor, its bytes as a channel, and files that stall nobody.

>>> import flower.io
>>> with flower.io.open("notes.txt", "w") as file:
...     file.write("Remember the milk\\n")
18
>>> with flower.io.open("notes.txt") as file:
...     for line in file:
...         print(line, end="")
Remember the milk
"""

from __future__ import annotations

import builtins
import errno
import os
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from io import TextIOBase
from typing import Any

from flower.channels import blocking, bomb, channel, select, shield
from flower.channels._blocking import begin, collect
from flower.channels._failures import copy_error, is_foreign
from flower.channels._forks import after_fork
from flower.errors import ChannelClosed, Timeout
from flower.net import Conn
from flower.net._descriptor import MAX_FD, READABLE, WRITABLE, Watched, look, reading_end
from flower.net._loop import LoopPoller, io_poller
from flower.net._source import Source

__all__ = ["READABLE", "WRITABLE", "File", "IOChannel", "open", "reader", "wait_read", "wait_write"]

# Characters or bytes that are read ahead for an iteration over a file: a trip to a worker thread costs some 50 us.
READ_AHEAD = 256 * 1024
SOON = 0.001  # seconds


# -- Readiness


class IOChannel(Source):
    """IOChannel(io, events=READABLE | WRITABLE, label="")

    A channel of what a descriptor is ready for: `receive` gives READABLE, WRITABLE, or both.

    ``io`` is a descriptor's number, or what has a ``fileno`` (a socket, a pipe, a device). `receive` and
    ``flower.select`` look at it each time, and wait until it is ready; nothing is read or written. A descriptor that
    failed, or whose other end is gone, is ready for all that was asked: to use it says why. While somebody waits the
    file stays open, whoever closes the descriptor: close the channel before.

    Raises TypeError or ValueError for what is no descriptor or no events, OSError for one that is not open.

    >>> import os
    >>> near, far = os.pipe()
    >>> readable = IOChannel(near, READABLE)
    >>> os.write(far, b"hello")
    5
    >>> readable.receive() == READABLE
    True
    >>> readable.close()
    """

    __slots__ = ("__weakref__", "_ready", "_watch")

    def __init__(self, io: Any, events: int = READABLE | WRITABLE, label: str = "") -> None:
        fd = _fileno(io)
        if isinstance(events, bool) or events not in (READABLE, WRITABLE, READABLE | WRITABLE):
            raise ValueError(f"the events are READABLE, WRITABLE or both, not {events!r}")
        look(fd, events)
        self._ready: channel[int] = channel(0, label=label or f"descriptor {fd}")
        self._ready._external = True
        self._ready.preference = 0
        self._watch = _Watch(io_poller(), fd, events, self._ready)
        self._ready._on_wait = self._watch.begin
        self._ready._on_left = self._watch.leave

    @property
    def _receive_channel(self) -> channel[int]:
        """What `flower.select` receives from, asked for at each select."""
        if not self._ready.closing:
            if found := look(self._watch.fd, self._watch.events):
                now: channel[int] = channel(1)
                now.try_send(found)
                return now
        return self._ready

    def receive(self, timeout: float | None = None) -> int:
        """Wait until the descriptor is ready; for what it is.

        Blocks until then. It may have ceased to be by the time that you use it, if others use it too. Raises
        ChannelClosed when the channel is closed here, meanwhile too; Timeout; OSError when the descriptor was closed.
        """
        try:
            found: int = select(self, timeout=timeout)[1]
        except Timeout as error:
            if is_foreign(error):
                raise
            raise Timeout(f"descriptor {self._watch.fd} was not ready within {timeout} s") from None
        return found

    def close(self) -> None:
        """Watch no more; the descriptor stays open. Blocked receivers get ChannelClosed. Never blocks."""
        self._ready.receiver.close()
        self._watch.end()

    stop = close

    def __repr__(self) -> str:
        return f"<IOChannel of descriptor {self._watch.fd}, {'closed' if self._ready.closing else 'open'}>"

    def __del__(self) -> None:
        watch = getattr(self, "_watch", None)
        if watch is not None:
            watch.end()


def wait_read(io: Any, timeout: float | None = None) -> None:
    """Wait until there is something to read from a descriptor, or from what has a ``fileno``.

    The end of file is something, too. Blocks only the tasklet; cancelled, it has changed nothing. Several may wait for
    one descriptor: all of them wake. To close it wakes nobody, since the file stays open while somebody waits: cancel
    them. Raises Timeout; TypeError or ValueError for what is no descriptor, OSError for one that is not open.

    >>> import socket
    >>> near, far = socket.socketpair()
    >>> far.send(b"hello")
    5
    >>> wait_read(near)
    >>> near.recv(100)
    b'hello'
    """
    with IOChannel(io, READABLE) as ready:
        ready.receive(timeout)


def wait_write(io: Any, timeout: float | None = None) -> None:
    """Wait until a descriptor has room to be written to. Otherwise as `wait_read`.

    >>> import socket
    >>> near, far = socket.socketpair()
    >>> wait_write(near)
    """
    with IOChannel(io, WRITABLE) as ready:
        ready.receive(timeout)


class _Watch:
    """One `IOChannel`'s interest in its descriptor, while somebody waits. It does not know the `IOChannel`.

    The loop watches a duplicate: whoever closes the descriptor meanwhile leaves its number to others, in this process
    to Flower's own connections, and those are not to be taken for it.
    """

    __slots__ = ("channel", "events", "fd", "own", "poller", "waiting", "watched")

    def __init__(self, poller: LoopPoller, fd: int, events: int, ready: channel[int]) -> None:
        self.poller = poller
        self.fd = fd
        self.events = events
        self.channel = ready
        self.own = -1  # the duplicate, while it is watched ...
        self.watched: Watched | None = None  # ... and the watch
        self.waiting = 0  # how many have begun to wait and have not left; counted in the loop's thread alone

    def begin(self) -> None:
        """Somebody is about to wait. May run in another thread."""
        if not self.poller.is_live():  # its thread has ended, or this is a forked child
            self.poller = io_poller()
        self.poller.call_here(self._begin)

    def _begin(self) -> None:
        self.waiting += 1
        self._watch()

    def _watch(self) -> None:
        if self.own >= 0 or self.waiting == 0 or self.channel.closing:
            return
        try:
            self.own = os.dup(self.fd)
            self.poller.resources.add(self)
            self.watched = Watched(self.poller.loop, self.own, self.events)
            self.watched.begin(self.ready)
        except BaseException as error:  # it is closed, there are no more, or the loop can't watch it
            self._end()
            self._tell(0, error)

    def leave(self) -> None:
        """Who has begun to wait waits no more."""
        self.poller.call_here(self._leave)

    def _leave(self) -> None:
        self.waiting -= 1
        if self.waiting == 0:
            self._end()

    def end(self) -> None:
        """Watch no more."""
        self.poller.call_here(self._end)

    def _end(self) -> None:
        if self.own < 0:
            return
        own, self.own = self.own, -1
        watched, self.watched = self.watched, None
        self.poller.resources.discard(self)
        try:
            if watched is not None:
                watched.end()
        finally:
            os.close(own)

    def ready(self) -> None:
        """On the hub: the descriptor is ready, if nobody was quicker."""
        found = look(self.own, self.events)
        if not found:
            return
        self._end()
        self._tell(found)

    def _tell(self, found: int, error: BaseException | None = None) -> None:
        """Tell all who wait. In other threads some may be between look and wait: for them it is watched again, soon."""
        told = 0
        with suppress(ChannelClosed):
            while self.channel.balance < 0:
                value: Any = found if error is None else bomb(copy_error(error))
                if not self.channel.try_send(value):
                    break
                told += 1
        if self.waiting > told and not self.channel.closing:
            self.poller.loop.call_later(SOON, self._watch)

    def finish(self, late: bool) -> bool:
        self._end()
        self.channel._abandon("the thread that watches the descriptor has ended")
        return False

    def disown(self) -> Any:
        """In a forked child: whoever waited, waits in the parent."""
        os.close(self.own)
        self.own = -1
        if self.watched is not None:
            self.watched.disown()
            self.watched = None
        self.channel._on_wait = None
        self.channel.close()
        return None


def _fileno(io: Any) -> int:
    fd = io if isinstance(io, int) else getattr(io, "fileno", None)
    if callable(fd):
        fd = fd()
    if isinstance(fd, bool) or not isinstance(fd, int):
        raise TypeError(f"a descriptor's number is needed, or what has a fileno, not {io!r}")
    if not 0 <= fd <= MAX_FD:
        raise ValueError(f"{io!r} is no open descriptor")
    return fd


# -- Bytes


def reader(io: Any) -> Conn:
    """The bytes that come on a descriptor: a `Conn` that only receives.

    ``io`` is a pipe, a terminal, a device, or a file; it stays open, and blocking if it is so. What is read here is
    read by nobody else. ``reader(sys.stdin)`` is what is typed, for a ``flower.select`` or for `flower.net.framed`.
    A file is read as well, though in the loop's own thread: `open` is better for large ones. Does not block.

    Raises TypeError or ValueError for what is no descriptor, OSError for one that is not open, or not for reading.

    >>> import os
    >>> near, far = os.pipe()
    >>> os.write(far, b"hello")
    5
    >>> conn = reader(near)
    >>> conn.read()
    b'hello'
    >>> conn.close()
    """
    poller = io_poller()
    fd = _fileno(io)
    if os.name == "posix":
        import fcntl

        if fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_WRONLY | os.O_RDWR) == os.O_WRONLY:  # it would be silent for good
            raise OSError(errno.EBADF, f"descriptor {fd} is open for writing alone")
    return reading_end(poller, os.dup(fd), f"descriptor {fd}", shared=True)


# -- Files


def open(path: Any, mode: str = "r", **options: Any) -> File:
    """Open a file as ``open`` does, with the same options, and give it as a `File`.

    Blocks only the tasklet: what may wait for a disk is done in a worker thread. Raises what the built-in raises.
    """
    opened: list[Any] = []
    given_up = False

    def job() -> None:
        opened.append(builtins.open(path, mode, **options))
        if given_up:
            _close_all(opened)

    try:
        blocking(job)
    except BaseException:
        given_up = True
        _close_all(opened)
        raise
    return File(opened.pop())


def _close_all(files: list[Any]) -> None:
    """Of a file that nobody wants any more; the worker and the tasklet may both come here."""
    while files:
        try:
            files.pop().close()
        except IndexError:
            pass


class File:
    """A file whose methods block only the calling tasklet; `open` gives it, and ``File(file)`` makes one of any file.

    The methods do what the built-in file's do, each in a worker thread, one after the other in the order of their
    calls. Iteration gives lines, and reads many of them at a time; the other methods know nothing of that, and go on
    behind the last line that was given. An operation that has begun can't be cancelled: it goes on to its end, and the
    cancellation comes at the next call that waits. A kill does not wait for it; its result is dropped. A child that is
    forked meanwhile can't use the file: each method raises RuntimeError there.

    For files, that is. A pipe or a terminal may keep a worker thread for ever: see `reader`.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        """The built-in file."""
        self._turn: channel[None] = channel(1, label=f"turn at {getattr(file, 'name', file)!r}")
        self._turn._external = True
        self._turn.send(None)
        self._ahead: deque[Any] = deque()  # lines read and not given
        self._mark: Any = None  # where they began ...
        self._given = 0  # ... and how many since then were given
        self._fault: Exception | None = None  # what comes behind them
        _files.add(self)

    def read(self, size: int = -1) -> Any:
        """At most ``size`` characters or bytes; by default all that is left."""
        return self._do(self.file.read, size)

    def readline(self) -> Any:
        """The next line, with its end; empty at the end of the file."""
        return next(self, "" if isinstance(self.file, TextIOBase) else b"")

    def write(self, data: Any) -> int:
        """Write the str or bytes; their number. They may be in the file's buffer yet: see `flush`."""
        count: int = self._do(self.file.write, data)
        return count

    def writelines(self, lines: Any) -> None:
        """Write each of them."""
        self._do(self.file.writelines, list(lines))

    def flush(self) -> None:
        """Hand what was written to the system."""
        self._do(self.file.flush)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; which one."""
        place: int = self._do(self.file.seek, offset, whence)
        return place

    def tell(self) -> int:
        """The place where it stands."""
        place: int = self._do(self.file.tell)
        return place

    def truncate(self, size: int | None = None) -> int:
        """Cut the file to so many bytes; by default at the place where it stands."""
        length: int = self._do(self.file.truncate, size)
        return length

    def close(self) -> None:
        """Write what is left and close the file. To close it twice is allowed. A cancellation comes after it."""
        with shield():  # another operation may still have its turn
            self._do(self._close, rewind=False)

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return bool(self.file.closed)

    def fileno(self) -> int:
        """The descriptor's number."""
        number: int = self.file.fileno()
        return number

    def __enter__(self) -> File:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> File:
        return self

    def __next__(self) -> Any:
        if self._ahead and self._turn.try_receive(False) is None:  # it is there, and nobody is at it
            try:
                if self._ahead:
                    return self._give()
            finally:
                self._turn.send(None)
        try:
            line = self._do(self._next_line, rewind=False)
        except StopIteration as error:  # it would end the loop
            raise RuntimeError("a tasklet has ended with StopIteration") from error
        if line is None:
            raise StopIteration
        return line

    def __repr__(self) -> str:
        return f"<File {self.file!r}>"

    def _do(self, func: Callable[..., Any], *args: Any, rewind: bool = True) -> Any:
        """Call the function in a worker, in its turn."""
        self._turn.receive()

        def job() -> Any:
            try:
                if rewind and self._mark is not None:
                    self._rewind()
                return func(*args)
            finally:
                self._turn.send(None)

        answer = None
        try:
            with shield():
                answer = begin(job)
                return collect(answer)
        finally:
            if answer is None:  # refused, in a callback or without a thread: the job will not give the turn back
                self._turn.try_send(None)

    def _give(self) -> Any:
        self._given += 1
        return self._ahead.popleft()

    # In a worker:

    def _next_line(self) -> Any:
        if not self._ahead:
            if self._fault is not None:
                fault, self._fault, self._mark = self._fault, None, None
                try:
                    raise fault
                finally:
                    del fault  # its traceback holds this frame
            most = READ_AHEAD
            if self.file.seekable():
                self._mark = self.file.tell()
            else:
                most = 1
            self._given = 0
            try:
                while most > 0 and (line := self.file.readline()):
                    self._ahead.append(line)
                    most -= len(line)
            except Exception as error:
                if not self._ahead:
                    raise
                self._fault = error
        return self._give() if self._ahead else None

    def _rewind(self) -> None:
        """Go back to the line behind the last that was given."""
        if self._ahead or self._fault is not None:
            self._ahead.clear()
            self._fault = None
            self.file.seek(self._mark)
            for _ in range(self._given):
                self.file.readline()
        self._mark = None

    def _close(self) -> None:
        self._ahead.clear()
        self._fault = None
        self.file.close()


_files: weakref.WeakSet[File] = weakref.WeakSet()


@after_fork
def _after_fork() -> None:
    """In the child: a worker is the parent's, and gives back neither the turn here nor the file's own lock."""
    for file in _files:
        if not len(file._turn):
            file._turn._abandon(RuntimeError(f"{file!r} was in use as the process forked: it is the parent's"))
