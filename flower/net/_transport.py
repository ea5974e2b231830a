"""Connected sockets and the event loop: the transports that streams stand on.

asyncio has transports of its own, and so has uvloop; these do the same with less. The loop says that there is something
to do; the sockets are read and written here, with no detour over its handles, futures, contexts and copies, so that
accepting takes half the time, a large read is copied once, and an idle connection holds a kilobyte less.

Where the system has epoll, the sockets of a loop share an epoll set of ours, and the loop watches that: an epoll set is
itself readable when one of its sockets is ready. Elsewhere the loop watches each socket. (libuv's handles for foreign
sockets would not do: after a reset they report once, and then never more, though bytes may be left to read before it.)

Invariants

- ``_interest`` is what the socket is watched for: IN while it is read, OUT while ``_unsent`` holds what the kernel
  has not taken yet. Of 0 it is not watched, since a reset would wake the loop for ever.
- ``_closing`` is set when nothing more will be read, nor written but what is in ``_unsent``; ``_lost`` when the
  end is certain, and connection_lost, in the loop's next round, will close the socket. Until then its descriptor is
  nobody else's, so that no event can be taken for another's.
- A transport is in ``Sockets.watched`` while ``_interest`` is not 0. ``_latest`` is the one that came last, or None
  when that has gone. Where it is the only one, and is only read, it is what is ready: the system is not asked.
- At most AT_A_TIME sockets are served, or so many that SERVING bytes have come, and then the tasklets run: what came
  for them is still in the caches. Where others were found ready, too, `Sockets.serve` says that there are more; if one
  of them is not ready any more when it is its turn, nothing happens.

The methods that the loop calls raise nothing but what a protocol raises, and the protocols here raise nothing.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

LAST_READS = 4  # of LARGE bytes, from a socket that has failed: as much as a stream may hold by default
# What writing fails with where the peer's end came before that; after a reset, which may look like an end then, a write
# that is the first to fail names it.
GONE = {errno.EPIPE, errno.ENOTCONN}
# So many reads in a row that brought LARGE bytes each are a transfer of many: from then on BULK is read at a time, as
# much as a reader is let fall behind by default, for as long as more than LARGE comes.
FULL_READS = 8
LONGEST_REST = 255  # waits between two that linger, where that never pays: then it costs a few hundred nanoseconds each

if not cython.compiled:
    IN, OUT = 1, 4  # as epoll's EPOLLIN and EPOLLOUT
    AT_A_TIME = 32
    SERVING = 64 * 1024
    LINGER = 50_000  # nanoseconds
    SMALL = 32 * 1024
    LARGE = 64 * 1024
    BULK = 256 * 1024

    def receive(sockets: Sockets, sock: socket.socket, fd: int, size: int) -> bytes | None:
        """The next bytes, so many at most; none at the end, and None where there are none yet."""
        try:
            return sock.recv(size)
        except (BlockingIOError, InterruptedError):
            return None

    def give(sock: socket.socket, fd: int, data: bytes | bytearray) -> int:
        """Have the kernel take what it can; how many bytes that were."""
        try:
            return sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    def behind(data: bytes, count: int) -> bytearray:
        """What comes after so many bytes. Runs no finalizers, which could write or cut the connection."""
        return bytearray(data[count:])

    def poll(sockets: Sockets) -> int:
        """See which are ready, AT_A_TIME at most; how many there are."""
        sockets.ready = sockets._set.poll(0, AT_A_TIME)
        return len(sockets.ready)

    def poll_on(sockets: Sockets) -> int:
        """The same, again and again for LINGER nanoseconds, until some are or another thread wants something.

        Those that are ready at once are told as a negative number.
        """
        if poll(sockets):
            return -len(sockets.ready)
        until = time.monotonic_ns() + LINGER
        while not poll(sockets) and time.monotonic_ns() < until and not sockets.wanted:
            pass
        return len(sockets.ready)

    def descriptor(sockets: Sockets, i: int) -> int:
        """Of one that is ready, the descriptor."""
        fd: int = sockets.ready[i][0]
        return fd

    def events(sockets: Sockets, i: int) -> int:
        """Of one that is ready, what for."""
        happened: int = sockets.ready[i][1]
        return happened


class Link:
    """What stands between a socket and those who read and write: a transport, a stream, or TLS, which is both.

    What each message calls is declared here, so that to call it costs no search for a method.
    """

    def data_received(self, data: bytes) -> None:
        """Something has arrived."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Send it, or hold it until it can be sent."""
        raise NotImplementedError

    def is_closing(self) -> bool:
        """Whether nothing is sent any more but what was written before."""
        raise NotImplementedError


class Tap:
    """Takes what comes on the hub, which saves a switch to the reader, the tasklet that waits for it."""

    reader: Any  # None before it has begun, and after its end

    def take(self, data: bytes) -> bool:
        """Deal with it. False: there is more to do, and the reader must do it. Never blocks, nor runs users' code."""
        raise NotImplementedError


class Sockets:
    """The connected sockets of one event loop."""

    def __init__(self, loop: Any, context: Any, on_ready: Callable[[], object]) -> None:
        """``on_ready`` is called when some are ready, and calls `serve`."""
        self.loop = loop
        self.context = context
        self.watched: list[Transport | None] = []  # by their descriptors
        self.ready: Any = None  # what poll() has found,
        self._found = 0  # so many,
        self._served = 0  # and so many of them were served
        self.brought = 0  # bytes that have come since `serve` was called
        self.wanted = False  # by another thread
        self._patience = 0  # after how many waits lingering is to be tried again when it has been in vain
        self._rest = 0  # how many of these are left
        self._count = 0  # of those that are watched
        self._latest: Transport | None = None
        self._large: list[bytes] = []  # what was read into, LARGE bytes or BULK, to be used again
        self._bulk: list[bytes] = []
        self._set: Any = None
        self._set_fd = -1
        if _epoll is not None:  # now, and not for the first connection, which a lack of descriptors would cost
            self._set = _epoll()
            self._set_fd = self._set.fileno()
            context.run(loop.add_reader, self._set_fd, on_ready)

    def watch(self, transport: Transport, interest: int) -> None:
        """Watch the transport's socket for this, and for nothing else."""
        before = transport._interest
        if interest == before:
            return
        fd = transport._fd
        if before and self.watched[fd] is not transport:
            pass  # somebody has closed the descriptor, and it is another's by now
        elif self._set is None:
            self._watch_alone(transport, interest)
        elif interest == 0:
            self.watched[fd] = None
            try:
                self._set.unregister(fd)
            except OSError:  # somebody has closed it
                pass
        elif before:
            self._set.modify(fd, interest)
        else:
            self._set.register(fd, interest)
        transport._interest = interest
        if before == 0:
            while len(self.watched) <= fd:
                self.watched.append(None)
            self.watched[fd] = self._latest = transport
            self._count += 1
        elif interest == 0:
            self._count -= 1
            if self._latest is transport:
                self._latest = None

    def serve(self) -> bool:
        """Have those that are ready read and written. Says whether there are more, after SERVING bytes."""
        self.brought = 0
        if self._served == self._found:
            transport = self._latest
            if self._count == 1 and transport is not None and transport._interest == IN:
                transport.on_ready(IN)
                return False
            self._served = self._found = 0  # before a signal handler raises: what was found last is no more
            self._found = poll(self)
        while self._served < self._found:
            i = self._served
            self._served += 1
            transport = self.watched[descriptor(self, i)]
            if transport is not None:
                transport.on_ready(events(self, i))
                if self.brought >= SERVING:
                    break
        return self._served < self._found

    def linger(self) -> bool:
        """Nothing is left to do: wait a moment without sleeping. Says whether some have become ready, for `serve`.

        To be put to sleep and woken costs a processor far more than this: where answers come at once, as from a peer on
        the same machine, they take a fifth of the time. Where they don't, it is tried ever more rarely.
        """
        if self._set is None or self._count == 0 or self.brought > SMALL // 4:  # much is read in larger pieces later
            return False
        if self._rest > 0:
            self._rest -= 1
            return False
        self.wanted = False
        self._served = self._found = 0
        found = poll_on(self)
        if found < 0:  # it has not been waited for: whether that pays is not known
            self._found = -found
            return True
        if found > 0:
            self._found = found
            self._patience >>= 1
            return True
        self._patience = min(2 * self._patience + 1, LONGEST_REST)
        self._rest = self._patience
        return False

    def _watch_alone(self, transport: Transport, interest: int) -> None:
        fd = transport._fd
        if interest == 0:
            self.watched[fd] = None
        change = transport._interest ^ interest
        if change & IN:
            if interest & IN:
                self.loop.add_reader(fd, transport.on_ready, IN)
            else:
                self.loop.remove_reader(fd)
        if change & OUT:
            if interest & OUT:
                self.loop.add_writer(fd, transport.on_ready, OUT)
            else:
                self.loop.remove_writer(fd)

    def close(self) -> None:
        """The loop is about to be closed."""
        if self._set is not None:
            self.loop.remove_reader(self._set_fd)
            self._set.close()
            self._set = None


class Transport(Link):
    """One connected socket, which does not block and is the transport's from now on."""

    def __init__(self, sockets: Sockets, sock: socket.socket) -> None:
        self._sockets = sockets
        self._sock = sock
        self._fd = sock.fileno()
        self._protocol: Any = None
        self._unsent: bytearray | None = None
        self._interest = 0
        self._high = self._low = 0
        self._size = SMALL  # bytes of the next read
        self._full_reads = 0  # reads in a row that brought LARGE bytes, or more
        self._full = False  # the protocol was told to pause
        self._half = False  # the end of what we send was said, or will be when all has left
        self._closing = False
        self._lost = False

    def start(self, protocol: Any) -> None:
        """Begin to read. Raises OSError where the system can't watch one more socket."""
        self._protocol = protocol
        self._sockets.watch(self, IN)
        try:
            protocol.connection_made(self)
        except BaseException:
            self._sockets.watch(self, 0)
            raise

    def set_protocol(self, protocol: Any) -> None:
        """From now on this one is told of what happens."""
        self._protocol = protocol

    def on_ready(self, events: int) -> None:
        """There is something to read, or room to write, or the connection is broken, which both of these find out."""
        if events & ~OUT and self._interest & IN:
            self._read()
        if events & ~IN and self._interest & OUT:
            self._write()

    # -- Reading

    def _read(self) -> None:
        try:
            data = receive(self._sockets, self._sock, self._fd, self._size)
        except OSError as error:
            self._lose(error)
            return
        if data is None:
            return
        count = len(data)
        if count:
            self._sockets.brought += count
            self._choose_size(count)
            self._protocol.data_received(data)
            return
        self.pause_reading()
        if not self._protocol.eof_received():
            self.close()

    def _choose_size(self, count: int) -> None:
        """So many bytes came: how many are to be asked for the next time?"""
        if count < LARGE or (count == LARGE and self._size == BULK):
            self._full_reads = 0
            self._size = LARGE if count >= LARGE // 4 else SMALL
        else:
            self._full_reads += 1
            self._size = LARGE if self._full_reads < FULL_READS else BULK

    def pause_reading(self) -> None:
        self._sockets.watch(self, self._interest & ~IN)

    def resume_reading(self) -> None:
        if not self._closing:
            self._watch(self._interest | IN)

    def _watch(self, interest: int) -> None:
        """Watch the socket for more; where the system has no place left to note that, the connection is lost."""
        try:
            self._sockets.watch(self, interest)
        except OSError as error:
            self._lose(error)

    # -- Writing

    def write(self, data: bytes) -> None:
        """Hand the bytes to the kernel; what it does not take leaves when it has room."""
        if self._closing or self._half:
            return
        if self._unsent is None:
            count = self._give(data)
            if count < 0 or count == len(data):
                return
            self._unsent = behind(data, count)
            self._watch(self._interest | OUT)
        else:
            self._unsent += data
        self._pause_if_full()

    def _give(self, data: bytes | bytearray) -> int:
        """How many bytes the kernel has taken; -1 when it failed, for good."""
        try:
            return give(self._sock, self._fd, data)
        except OSError as error:
            self._lose(error)
            return -1

    def _write(self) -> None:
        unsent = self._unsent
        assert unsent is not None
        count = self._give(unsent)
        if count < 0:
            return
        del unsent[:count]
        if not unsent:
            self._unsent = None
            self._sockets.watch(self, self._interest & ~OUT)
        if self._full and len(unsent) <= self._low:
            self._full = False
            self._protocol.resume_writing()
        if self._unsent is None:
            if self._closing:
                self._lose(None)
            elif self._half:
                self._shut_down()

    def write_eof(self) -> None:
        """Say that no more comes, when all that was written has left."""
        if not (self._half or self._closing):
            self._half = True
            if self._unsent is None:
                self._shut_down()

    def _shut_down(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:  # it is gone
            self._lose(error)

    def get_write_buffer_size(self) -> int:
        """How many bytes the kernel has not taken yet."""
        return 0 if self._unsent is None else len(self._unsent)

    def set_write_buffer_limits(self, high: int) -> None:
        """The protocol is told to pause above so many bytes, and to go on at a fourth of them, as asyncio has it."""
        self._high = high
        self._low = high // 4
        if self._full and self._unsent is not None and len(self._unsent) <= self._low:
            self._full = False
            self._protocol.resume_writing()
        self._pause_if_full()

    def _pause_if_full(self) -> None:
        if not self._full and self._unsent is not None and len(self._unsent) > self._high:
            self._full = True
            self._protocol.pause_writing()

    # -- The end

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """End when all that was written has left."""
        if not self._closing:
            self._closing = True
            if self._unsent is None:
                self._lose(None)
            else:
                self.pause_reading()

    def abort(self) -> None:
        """End now."""
        self._lose(None)

    def _lose(self, error: BaseException | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._unsent = None
            self._sockets.watch(self, 0)
            self._sockets.loop.call_soon(self._end, error, context=self._sockets.context)

    def _end(self, error: BaseException | None) -> None:
        protocol, self._protocol = self._protocol, None
        if error is not None:  # what came before the failure comes first; a writer may have been the first to see it
            try:
                for _ in range(LAST_READS):
                    data = receive(self._sockets, self._sock, self._fd, LARGE)
                    if not data:
                        if data is not None and error.errno in GONE:  # type: ignore[attr-defined]
                            protocol.eof_received()
                        break
                    protocol.data_received(data)
            except OSError as reason:  # a shutdown that failed has hidden it
                error = reason
        protocol.connection_lost(error)
        self._sock.close()


def disown(sock: Any) -> None:
    """In a forked child: close this process's own descriptor; no system call reaches the peer. It may be closed."""
    with suppress(OSError):
        os.close(sock.detach())


_epoll: Any = getattr(select, "epoll", None)
