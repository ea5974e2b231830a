"""`Acceptor`: accepts connections from a listening socket into a channel, within bounds.

uvloop's server can't stop accepting, so the socket is ours: it is watched for readability, and accepted from
while there is room. The acceptor is what the event loop calls; it holds the socket and the channel, never the
`Listener`.

Invariants: ``_watching`` is set while the loop watches the socket. It does not when the channel holds HELD
connections or HANDSHAKES are under way (then ``_crowded`` is set), while it backs off from a lack of descriptors
(``_retry`` is set), or when it is closed. While it is crowded, ``connections._on_wait`` starts it again.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flower.channels import channel
from flower.errors import ChannelClosed, Timeout
from flower.net._address import format_address
from flower.net._bounds import Bounds
from flower.net._conn import Conn
from flower.net._stream import Stream
from flower.net._transport import disown

if TYPE_CHECKING:
    from flower.net._loop import LoopPoller
    from flower.net._tls import TlsLayer

HELD = 128  # connections accepted and not yet received; past that they stay in the kernel's queue
HANDSHAKES = 1024  # TLS handshakes under way, which a peer can draw out until their time limit; then others wait
ACCEPTS_PER_EVENT = 64  # so that a flood of connections does not keep the loop from the others
BACK_OFF = 0.1  # seconds until the next attempt when the process has no descriptor or memory left

REFUSALS = (
    10  # lines in the log a minute of connections that were lost in their handshake: a flood of them fills no disk
)
MINUTE = 60.0  # seconds

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_PEER_GONE = {errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.EPERM, errno.ECONNRESET}

log = logging.getLogger("flower.net")


class Acceptor:
    """Accepts connections from a listening socket into a channel, within a bound."""

    __slots__ = (
        "_bounds",
        "_crowded",
        "_exhaustions",
        "_kind",
        "_path",
        "_refusals",
        "_retry",
        "_secure",
        "_shaking",
        "_sock",
        "_watching",
        "address",
        "connections",
        "gone",
        "poller",
        "proto",
    )

    def __init__(
        self,
        poller: LoopPoller,
        sock: socket.socket,
        proto: str,
        bounds: Bounds,
        *,
        secure: Callable[[Stream], TlsLayer] | None = None,
        path: str = "",
    ) -> None:
        """``path`` is removed at the end."""
        self.poller = poller
        self.proto = proto
        self._bounds = bounds
        self._secure = secure
        self._path = _Path(path) if path else None
        self.address: Any = sock.getsockname()
        self.connections: channel[Conn] = channel(math.inf, f"listener {proto}")
        self.connections._external = True
        self.gone: channel[None] = channel(0, f"the end of listener {proto}")  # closed with the listener
        self.gone._external = True
        self._sock: socket.socket | None = sock
        self._kind = (int(sock.family), int(sock.type), sock.proto) if type(sock) is socket.socket else None
        self._shaking: set[TlsLayer] = set()  # in the handshake
        self._crowded = False
        self._watching = False
        self._retry: Any = None
        self._refusals = _Complaints(REFUSALS)
        self._exhaustions = _Complaints(1)
        self._watch()  # which may fail: then the socket is whoever gave it
        poller.resources.add(self)

    def _watch(self) -> None:
        self._retry = None
        self._crowded = False
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
            if len(self.connections) >= HELD or len(self._shaking) >= HANDSHAKES:
                self._unwatch()
                self._crowded = True
                self.connections._on_wait = self._drained
                self._look_again()
                return
            try:
                sock, peer = self._accept()
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
                self._open(sock, peer)

    def _accept(self) -> tuple[Any, Any]:
        sock: Any = self._sock
        if self._kind is None:
            return sock.accept()  # type: ignore[no-any-return]
        descriptor, peer = sock._accept()  # what socket.accept() itself calls
        return socket.SocketType(*self._kind, descriptor), peer  # without what Python's class adds to it

    def _open(self, sock: socket.socket, peer: Any) -> None:
        """Make a connection of an accepted socket, and put it into the channel; of TLS, when they have shaken hands."""
        stream = layer = None
        try:
            sock.setblocking(False)
            stream = Stream(self.poller, sock, self.proto, self._bounds)
            stream.remote = peer
            if stream.local == self.address:
                stream.local = self.address  # one for all of them
            layer = None if self._secure is None else self._secure(stream)
            self.poller.attach(sock, layer or stream)
        except OSError as error:
            sock.close()
            self._refuse(stream, error)
        except BaseException:
            sock.close()
            raise
        else:
            if layer is None:
                self.connections.try_send(Conn(stream))
            else:
                self._shaking.add(layer)
                self.poller.spawn(self._shake_hands(stream, layer))

    async def _shake_hands(self, stream: Stream, layer: TlsLayer) -> None:
        try:
            await layer.handshake()
        except (OSError, Timeout) as error:
            self._refuse(stream, error)
        else:
            if self.connections.closing:  # meanwhile
                stream.abort()
            else:
                self.connections.try_send(Conn(stream))
        finally:
            self._shaking.discard(layer)
            self._look_again()

    def _refuse(self, stream: Stream | None, error: BaseException) -> None:
        """The peer was gone before it began, or is no peer of ours."""
        level = logging.DEBUG if self._secure is None or self.closed else logging.WARNING
        who = "?" if stream is None else format_address(stream.remote)
        self._refusals.log(level, f"{self.describe()}: lost a connection while accepting it, of {who}: {error}")

    def _look_again(self) -> None:
        """Go on, if all were taken by receivers that waited already, or that are in another thread."""
        if self._crowded and not len(self.connections) and len(self._shaking) < HANDSHAKES:
            self._drained()

    def _drained(self) -> None:
        """A receiver looks for a connection, and all that were held are taken. May run in another thread."""
        self.connections._on_wait = None
        self.poller.call_here(self._watch)

    def _back_off(self, error: OSError) -> None:
        self._exhaustions.log(logging.WARNING, f"{self.describe()}: can't accept connections for now: {error}")
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
        if self._path is not None:
            self._path.remove()
        self._forget()
        self.poller.resources.discard(self)
        for layer in list(self._shaking):
            layer.abort()
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
        self.gone.close()

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
            disown(sock)
        self._forget()
        return sock, self._retry

    def describe(self) -> str:
        return f"listener {self.proto} {format_address(self.address)}"


class _Complaints:
    """Lines for the log that others may cause: so many a minute, and then how many there were beside."""

    __slots__ = ("_count", "_most", "_until")

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._until = -math.inf

    def log(self, level: int, text: str) -> None:
        if not log.isEnabledFor(level):
            return
        now = time.monotonic()
        if now >= self._until:
            unsaid = max(0, self._count - self._most)
            text += f" ({unsaid} more of this kind were not logged before)" if unsaid else ""
            self._until = now + MINUTE
            self._count = 0
        self._count += 1
        if self._count <= self._most:
            log.log(level, "%s", text)


class _Path:
    """The file of a Unix socket: to be removed, unless somebody has put another in its place."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._inode = self._look()

    def _look(self) -> Any:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def remove(self) -> None:
        if self._inode is not None and self._look() == self._inode:
            try:
                os.unlink(self._path)
            except OSError:
                pass
