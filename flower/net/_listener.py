"""`Listener`: a receive channel of connections, over a listening socket of our own.

uvloop's server can't stop accepting, so the socket is ours: it is watched for readability, and accepted from
while there is room. The parts:

- `Acceptor` is what the event loop calls. It holds the socket and the channel, never the `Listener`.
- `Listener` is the public face. Dropping it closes the acceptor.

Invariants of the acceptor: ``_watching`` is set while the loop watches the socket. It does not when the
channel holds HELD connections (then ``channel._on_wait`` is set, and starts it again), while it backs
off from a lack of descriptors (``_retry`` is set), or when it is closed.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from flower.channels import channel, getcurrent, tasklet
from flower.channels._scheduler import current_scheduler
from flower.errors import ChannelClosed
from flower.net._conn import Conn, look
from flower.net._stream import Stream, format_address

if TYPE_CHECKING:
    from flower.net._loop import LoopPoller

BACKLOG = 1024  # connections that the kernel queues before it turns new ones away
HELD = 128  # connections accepted and not yet received; past that they stay in the kernel's queue
ACCEPTS_PER_EVENT = 64  # so that a flood of connections does not keep the loop from the others
BACK_OFF = 0.1  # seconds until the next attempt when the process has no descriptor or memory left

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_PEER_GONE = {errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.EPERM, errno.ECONNRESET}

log = logging.getLogger("flower.net")


class Acceptor:
    """Accepts connections from a listening socket into a channel, within a bound."""

    __slots__ = (
        "_complained",
        "_opening",
        "_retry",
        "_sock",
        "_watching",
        "address",
        "connections",
        "poller",
        "proto",
        "setup",
    )

    def __init__(
        self, poller: LoopPoller, sock: socket.socket, proto: str, setup: Callable[[socket.socket], object]
    ) -> None:
        self.poller = poller
        self.proto = proto
        self.setup = setup
        self.address: Any = sock.getsockname()
        self.connections: channel[Conn] = channel(math.inf, f"listener {proto}")
        self.connections._external = True
        self._sock: socket.socket | None = sock
        self._opening = 0  # accepted, and not yet in the channel
        self._watching = False
        self._retry: Any = None
        self._complained = False
        poller.resources.add(self)
        self._watch()

    def _watch(self) -> None:
        self._retry = None
        if not self._watching and self._sock is not None:
            self._watching = True
            self.poller.loop.add_reader(self._sock, self._on_readable)

    def _unwatch(self) -> None:
        if self._watching and self._sock is not None:
            self._watching = False
            self.poller.loop.remove_reader(self._sock)

    def _on_readable(self) -> None:
        for _ in range(ACCEPTS_PER_EVENT):
            if self._sock is None:
                return
            if len(self.connections) + self._opening >= HELD:
                self._unwatch()
                self.connections._on_wait = self._drained
                self._look_again()
                return
            try:
                sock, _peer = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._back_off(error)
                    return
                if error.errno not in _PEER_GONE:
                    self._fail(error)
                    return
            else:
                self._complained = False
                self._opening += 1
                self.poller.spawn(self._open(sock))

    async def _open(self, sock: socket.socket) -> None:
        """Make a connection of an accepted socket, and put it into the channel."""
        try:
            try:
                sock.setblocking(False)
                self.setup(sock)
                stream = Stream(self.poller, sock, self.proto)
                await self.poller.loop.connect_accepted_socket(stream.as_protocol, sock)
            finally:
                self._opening -= 1
        except OSError as error:  # it was gone before it began
            log.debug("%s: a connection was lost while it was accepted: %s", self.describe(), error)
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        try:
            self.connections.try_send(Conn(stream))
        except ChannelClosed:  # closed meanwhile
            stream.abort()
        self._look_again()

    def _look_again(self) -> None:
        """Go on, if all were taken by receivers that waited already, or that are in another thread."""
        if self.connections._on_wait is not None and not self._opening and not len(self.connections):
            self._drained()

    def _drained(self) -> None:
        """A receiver looks for a connection, and all that were held are taken. May run in another thread."""
        self.connections._on_wait = None
        self.poller.call_here(self._watch)

    def _back_off(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            log.warning("%s: can't accept connections for now: %s", self.describe(), error)
        self._unwatch()
        self._retry = self.poller.loop.call_later(BACK_OFF, self._watch)

    def _fail(self, error: OSError) -> None:
        log.error("%s: stopped: %s", self.describe(), error)
        self.close()

    def close(self) -> None:
        """Stop listening. Connections that nobody has received are cut."""
        if self._sock is None:
            return
        self._unwatch()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._sock.close()
        self._forget()
        self.poller.resources.discard(self)
        try:
            while (conn := self.connections.try_receive(None)) is not None:
                conn._stream.abort()
        except ChannelClosed:
            pass

    def _forget(self) -> None:
        self._sock = None
        self._watching = False
        self.connections._on_wait = None
        self.connections.close()

    @property
    def closed(self) -> bool:
        return self._sock is None

    def finish(self, late: bool) -> bool:
        self.close()
        return False

    def disown(self) -> Any:
        """In a forked child: the parent goes on listening; here it is over."""
        sock = self._sock
        if sock is not None:
            os.close(sock.detach())
        self._forget()
        return sock, self._retry

    def describe(self) -> str:
        return f"listener {self.proto} {format_address(self.address)}"


class Listener:
    """A receive channel of connections.

    ``for conn in listener``, `receive`, ``flower.select(listener, quit)``; the seed's spelling is `accept`.
    Up to 128 accepted connections wait here to be received, more wait in the kernel. A lack of descriptors
    is waited out. A listener belongs to the thread that made it. One that is dropped without `close` gives
    a ResourceWarning, and is closed.

    >>> listener = Listen(("127.0.0.1", 0), "tcp")
    >>> listener.addr()
    ('127.0.0.1', 40123)
    >>> listener.serve(handle_connection)
    """

    __slots__ = ("__weakref__", "_acceptor", "_connections")

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor
        self._connections: channel[Conn] = acceptor.connections

    @property
    def _receive_channel(self) -> channel[Conn]:
        """What `flower.select` receives from, asked for at each select."""
        return look(self._connections, self._end)

    def _end(self) -> ChannelClosed:
        return ChannelClosed(f"{self._acceptor.describe()} is closed", self)

    def receive(self, timeout: float | None = None) -> Conn:
        """The next connection.

        Blocks until there is one. When it is cancelled or times out, the connection stays for the next.

        Raises ChannelClosed when the listener is closed (blocked receivers get it too); Timeout after
        ``timeout`` seconds.
        """
        try:
            connections = self._connections if timeout is None else self._receive_channel
            conn: Conn = connections.receive(timeout)
        except ChannelClosed:
            raise self._end() from None
        return conn

    def accept(self, *, timeout: float | None = None) -> tuple[Conn, None]:
        """The next connection, in the seed's spelling: ``conn, err = listener.accept()``.

        ``err`` is always None: a lack of descriptors and peers that are gone again are dealt with inside.
        Otherwise as `receive`.
        """
        return self.receive(timeout), None

    def __iter__(self) -> Iterator[Conn]:
        """Connection after connection, until the listener is closed."""
        while True:
            try:
                conn = self.receive()
            except ChannelClosed:
                return
            yield conn

    def serve(self, handler: Callable[[Conn], object]) -> None:
        """Run ``handler(conn)`` in a tasklet of its own for each connection, and close it afterwards.

        Blocks until the listener is closed; handlers that run then go on. An Exception of one is handed to
        the error handler (standard error by default) and does not touch the others. Cancelled, it has lost
        no connection, and may be called again.
        """
        if not callable(handler):
            raise TypeError(f"serve() needs a function to call with each connection, not {handler!r}")
        for conn in self:
            tasklet(_serve_one, label=getattr(handler, "__name__", ""))(handler, conn)
            del conn  # the handler's alone

    def addr(self) -> Any:
        """The address it listens on, with the port that the system chose where 0 was asked for."""
        return self._acceptor.address

    def close(self) -> None:
        """Stop listening; never blocks. Connections that nobody has received are cut.

        Blocked receivers, and all later ones, get ChannelClosed. Closing twice is allowed.
        """
        self._acceptor.poller.call_here(self._acceptor.close)

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._acceptor.closed

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        state = "closed" if self._acceptor.closed else "open"
        return f"<Listener {self._acceptor.proto} {format_address(self._acceptor.address)}, {state}>"

    def __del__(self) -> None:
        try:
            acceptor = self._acceptor
        except AttributeError:  # __init__ failed
            return
        if acceptor.closed:
            return
        acceptor.poller.call_here(acceptor.close)
        warnings.warn(f"{acceptor.describe()} was dropped, and not closed", ResourceWarning, stacklevel=2, source=self)


def _serve_one(handler: Callable[[Conn], object], conn: Conn) -> None:
    """Run one connection's handler, with its errors kept to itself."""
    try:
        handler(conn)
    except Exception as error:
        error.add_note(f"This ended the handler of {conn!r}; the listener goes on.")
        current_scheduler().report(error, getcurrent())
    finally:
        conn.close()
