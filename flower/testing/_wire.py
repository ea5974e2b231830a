"""Both ends of a simulated connection, as an event loop would show them: sockets and transports.

What one end writes is in flight until it arrives at the other: in order, not before its time, not while the way is
blocked, and not while the reader has paused. What is in flight counts as the writer's buffer.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flower.net._transport import Link

if TYPE_CHECKING:
    from flower.testing._network import Handle, Network

DATA, EOF, RESET = "data", "eof", "reset"


def connect(network: Network, near: str, local: Any, far: str, remote: Any) -> tuple[Socket, Socket]:
    """A connected pair of sockets: one on the host ``near``, one on ``far``."""
    ours, theirs = Socket(local, remote), Socket(remote, local)
    one, two = Transport(network, near, far), Transport(network, far, near)
    one.peer, two.peer = two, one
    ours.transport, theirs.transport = one, two
    network.transports += [one, two]
    return ours, theirs


def shake_hands(client: ssl.SSLContext, name: str, server: ssl.SSLContext) -> tuple[Any, Any]:
    """Both ends' TLS, after a real handshake, of which the wire sees nothing: its bytes are others each time.

    Raises what the client finds wrong. The server's end is None if it finds something: the client has yet to learn it.
    """
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(back, there, False, name)
    theirs = server.wrap_bio(there, back, True)
    while True:
        done = _is_done(ours)
        try:
            if _is_done(theirs) and done:
                return ours, theirs
        except ssl.SSLError:
            if not done:
                _is_done(ours)  # raises what it has just been told, unless that came too late
            return ours, None


def _is_done(end: ssl.SSLObject) -> bool:
    """Go on with the handshake; says whether that was all."""
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


class Socket:
    """One end, as far as a stream looks at its socket."""

    tls: Any = None  # the ssl.SSLObject of a connection that is one of TLS
    family = socket.AF_UNSPEC  # there is no kernel to ask about the link

    def __init__(self, local: Any, remote: Any) -> None:
        self._local = local
        self._remote = remote
        self.transport: Transport

    def getsockname(self) -> Any:
        return self._local

    def getpeername(self) -> Any:
        return self._remote

    def setsockopt(self, *args: Any) -> None:
        pass

    def setblocking(self, flag: bool) -> None:
        pass

    def close(self) -> None:
        self.transport.abort()


class ListeningSocket:
    """A listening socket: connections arrive, and wait to be accepted."""

    def __init__(self, host: str, port: Any, address: Any) -> None:
        self.host = host
        self.port = port
        self._address = address
        self.pending: deque[Socket] = deque()
        self.reader: Callable[[], object] | None = None
        self.acceptor: Any = None
        self.tls: ssl.SSLContext | None = None

    def getsockname(self) -> Any:
        return self._address

    def arrive(self, sock: Socket) -> None:
        self.pending.append(sock)
        self.acceptor.poller.loop.call_soon(self.read)

    def read(self) -> None:
        """The loop has seen that there is something to accept."""
        if self.reader is not None and self.pending:
            self.reader()

    def accept(self) -> tuple[Socket, Any]:
        if not self.pending:
            raise BlockingIOError
        sock = self.pending.popleft()
        return sock, sock.getpeername()

    def close(self) -> None:
        while self.pending:
            self.pending.popleft().transport.abort()


class Transport(Link):
    """What asyncio calls a transport, for one end."""

    peer: Transport

    def __init__(self, network: Network, host: str, other: str) -> None:
        self._network = network
        self.host = host
        self.other = other
        self._way = f"{host} -> {other}"
        self._protocol: Any = None
        self._flight: deque[tuple[float, str, bytes]] = deque()
        self._early: deque[tuple[str, bytes]] = deque()  # arrived before the protocol was there
        self._size = 0
        self._high = 65_536
        self._full = False
        self._reading = True
        self._closing = False
        self._eof = False  # ours was written
        self._ended_by_fault = False
        self._lost = False
        self._last = 0.0  # when what was written last is to arrive
        self._timer: Handle | None = None

    # -- for the protocol

    def start(self, protocol: Any) -> None:
        """The end is taken up: the protocol is told of everything from now on."""
        self._protocol = protocol
        protocol.connection_made(self)
        incoming = getattr(protocol, "incoming", None)
        if incoming is not None:
            incoming.label = f"{self.other} -> {self.host}"
        while self._early:
            self._take(*self._early.popleft())

    def write(self, data: bytes) -> None:
        if self._ended_by_fault and not self._lost:
            self._network.loop.call_soon(lambda: self._lose(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))))
        if not data or self._closing or self._eof or self._lost:  # of no bytes, the peer sees nothing
            return
        network = self._network
        network.may_part(self.host, self.other)
        broken = network.reset_at(len(data))
        ended = network.half_close_at(len(data)) if broken is None else None
        if broken is not None or ended is not None:
            data = bytes(data[: broken if broken is not None else ended])
        at = 0
        for size in network.cuts(self._way, len(data)) if data else ():
            self._send(DATA, bytes(data[at : at + size]), network.delay(self._way))
            at += size
        if broken is not None:
            self._send(RESET, b"", 0.0)
            self._network.loop.call_soon(lambda: self._lose(_reset()))
            self.pump()
            return
        if ended is not None:
            self._eof = self._ended_by_fault = True
            self._send(EOF, b"", 0.0)
        if not self._full and (self._size > self._high or (self._size and network.fills(self.host, self.other))):
            self._full = True
            self._protocol.pause_writing()
        self.pump()

    def write_eof(self) -> None:
        if not (self._eof or self._closing or self._lost):
            self._eof = True
            self._send(EOF, b"", 0.0)
            self.pump()

    def close(self) -> None:
        """Everything that was written arrives, and then the end."""
        if self._closing or self._lost:
            return
        if not self._eof:
            self._send(EOF, b"", 0.0)
        self._closing = self._eof = True
        self.pump()
        self._look_for_the_end()

    def abort(self) -> None:
        """Nothing of what is in flight arrives, but a reset."""
        if self._lost:
            return
        self._flight.clear()
        self._size = 0
        self._closing = True
        self._send(RESET, b"", 0.0)
        self._network.loop.call_soon(lambda: self._lose(None))
        self.pump()

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 65_536 if high is None else high
        if self._protocol is not None and self._size > self._high and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return self._size

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self.peer.pump()

    # -- the flight

    def _send(self, kind: str, data: bytes, delay: float) -> None:
        when = self._network.world.now + self._network.latency(self.host, self.other) + delay
        self._last = max(self._last, when)
        self._flight.append((self._last, kind, data))
        self._size += len(data)

    def pump(self) -> None:
        """See to it that what is first in flight arrives when it can."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._flight or self._network.blocked(self.host, self.other):
            return
        when, kind, _ = self._flight[0]
        if kind == DATA and not self.peer._reading and not self.peer._lost:
            return
        self._timer = self._network.loop.call_later(max(when - self._network.world.now, 0.0), self._arrive)

    def _arrive(self) -> None:
        self._timer = None
        if not self._flight or self._network.blocked(self.host, self.other):
            return
        _, kind, data = self._flight.popleft()
        self._size -= len(data)
        if self.peer._lost:
            if kind == DATA:
                self._flight.clear()
                self._size = 0
                self._lose(_reset())
        elif self.peer._protocol is None:
            self.peer._early.append((kind, data))
        else:
            self.peer._take(kind, data)
        if self._size <= self._high // 4:
            self.relieve()
        self._look_for_the_end()
        self.pump()

    def relieve(self) -> None:
        """The write buffer, if it was full, takes bytes again, unless it has too many."""
        if self._full and self._size <= self._high and not self._lost:
            self._full = False
            self._protocol.resume_writing()

    def _take(self, kind: str, data: bytes) -> None:
        """Something has arrived here."""
        if kind == DATA:
            self._protocol.data_received(data)
        elif kind == RESET:
            self._flight.clear()
            self._size = 0
            self._lose(_reset())
        elif not self._protocol.eof_received():
            self.close()

    def _look_for_the_end(self) -> None:
        if self._closing and not self._flight and not self._lost:
            self._network.loop.call_soon(lambda: self._lose(None))

    def _lose(self, error: BaseException | None) -> None:
        if self._lost:
            return
        self._lost = True
        if self._protocol is not None:
            self._protocol.connection_lost(error)
        elif error is not None:
            self._early.append((RESET, b""))

    def crash(self) -> None:
        """The host is gone: the peer gets a reset, and this end nothing any more."""
        if not self._lost:
            self.abort()
            self._lose(_reset())

    def vanish(self) -> None:
        if not self._lost:
            self._lose(None)


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
