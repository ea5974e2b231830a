"""TCP: sockets, and how they are opened. `Listen` and `Dial` come here for "tcp", and for "tls" over it."""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from flower.channels import timeout as time_limit
from flower.errors import Timeout
from flower.net._acceptor import Acceptor
from flower.net._address import Info, check_host_port, explain, format_address, resolve
from flower.net._conn import Conn
from flower.net._listener import Listener
from flower.net._loop import LoopPoller, io_poller, wait
from flower.net._opening import Secure, open_stream
from flower.net._options import Options
from flower.net._stream import RESET, Stream

T = TypeVar("T")

STAGGER = 0.25  # seconds until the next address is tried beside one that has not answered (RFC 8305, section 5)


class Settings(NamedTuple):
    """What a TCP socket is told."""

    nodelay: bool
    keepalive: bool

    @classmethod
    def of(cls, options: Options) -> Settings:
        """As the options say."""
        return cls(options.nodelay, options.keepalive)

    def apply(self, sock: socket.socket) -> None:
        """Small writes leave at once, and a peer that is gone is noticed, unless the user does not want it.

        Accepted sockets inherit both of the one that listens.
        """
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(self.nodelay))
        if self.keepalive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


# -- Listening


def listen_tcp(address: Any, options: Options, proto: str = "tcp", secure: Secure | None = None) -> Listener:
    """Listen on the address; ``secure``: and speak TLS as the server."""
    host, port = check_host_port(proto, address)
    poller = io_poller()
    settings = Settings.of(options)
    where = resolve(proto, host or "0.0.0.0", port, passive=True)
    sock = bound_socket(proto, where[0], (host, port), reuse_port=options.reuse_port)
    try:
        settings.apply(sock)
        sock.listen(options.backlog)
        return Listener(Acceptor(poller, sock, proto, options.bounds, secure=secure))
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise explain(error, "can't listen on", proto, (host, port)) from None
        raise


def bound_socket(
    proto: str, info: Info, address: Any, *, reuse_port: bool, reuse_addr: bool = os.name == "posix"
) -> socket.socket:
    """A socket that does not block, bound to the address of the info; errors name the ``address``."""
    family, kind, number, _name, where = info
    sock = None
    try:
        sock = socket.socket(family, kind, number)
        sock.setblocking(False)
        if reuse_addr:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(where)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, OSError):
            raise explain(error, "can't listen on", proto, address) from None
        raise
    return sock


# -- Connecting


def dial_tcp(address: Any, options: Options, proto: str = "tcp", secure: Secure | None = None) -> Conn:
    """Connect to the first of the host's addresses that answers; ``secure``: and speak TLS as the client."""
    host, port = check_host_port(proto, address)
    local = None if options.local_addr is None else check_host_port(proto, options.local_addr, "local_addr")
    settings = Settings.of(options)

    def dial() -> Conn:
        poller = io_poller()
        ours = [] if local is None else resolve(proto, *local, passive=True)
        theirs = resolve(proto, host or "127.0.0.1", port)

        async def connect() -> Stream:
            more = "" if local is None else f" from {format_address(local)}"
            sock = await connect_first(poller, proto, theirs, ours, settings, (host, port), more)
            return await open_stream(poller, sock, proto, options.bounds, secure)

        return Conn(wait(connect(), Stream.abort))

    return within(options.timeout, dial, f"{proto} {format_address((host, port))}")


def within(timeout: float | None, dial: Callable[[], T], name: str) -> T:
    """Dial, for at most ``timeout`` seconds."""
    if timeout is None:
        return dial()
    try:
        with time_limit(timeout) as scope:
            return dial()
    except Timeout:
        if not scope.expired:  # its own, of a handshake say
            raise
        raise Timeout(f"{name}: not connected within {timeout} s") from None


async def connect_first(
    poller: LoopPoller,
    proto: str,
    theirs: list[Info],
    ours: list[Info],
    settings: Settings,
    address: Any,
    more: str = "",
) -> socket.socket:
    """A connected socket: to the first of the addresses that answers, in the manner of RFC 8305.

    One after the other is tried, the families in turn: the next when one has failed, or has not answered for
    STAGGER seconds. The first to answer wins; the others are given up.
    """
    failures: list[OSError] = []

    async def attempt(info: Info) -> socket.socket:
        family, kind, number, _name, where = info
        sock = None
        try:
            sock = socket.socket(family, kind, number)  # fails too, where the system lacks the family
            sock.setblocking(False)
            settings.apply(sock)
            if ours:
                bind_like(sock, ours)
            await connected(poller.loop, sock, where)
            if not ours:
                refuse_itself(sock)
        except BaseException as error:
            if sock is not None:
                sock.close()
            if isinstance(error, OSError):
                failures.append(error)
            raise
        return sock

    infos = in_turn(theirs)
    try:
        if len(infos) == 1:  # nobody to race with
            return await attempt(infos[0])
        return await _Race(poller, [lambda info=info: attempt(info) for info in infos]).run()  # type: ignore[misc]
    except OSError:
        tried = ", ".join(format_address(info[4]) for info in infos)
        more += f" (tried {tried})" if len(infos) > 1 else ""
        raise explain(failures[0], "can't connect to", proto, address, more) from None


async def connected(loop: Any, sock: socket.socket, where: Any) -> None:
    """Connect the socket. (The loop's own sock_connect has the address resolved once more, by uvloop in a thread.)"""
    error = sock.connect_ex(where)
    if error in (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR):
        try:
            sock.getpeername()  # on the same machine it is connected by now
            return
        except OSError:
            pass
        answered = loop.create_future()
        loop.add_writer(sock, lambda: answered.done() or answered.set_result(None))
        try:
            await answered
        finally:
            loop.remove_writer(sock)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def refuse_itself(sock: socket.socket) -> None:
    """Where nobody listens at a port of this machine, and the system gives this end the same: nobody else is there."""
    try:
        if sock.getsockname() != sock.getpeername():
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)  # else who is to listen there finds it in use
    except OSError:  # gone already
        return
    raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def in_turn(infos: list[Info]) -> list[Info]:
    """The addresses with the families in turn, beginning with the first's (RFC 8305, section 4)."""
    first = [info for info in infos if info[0] == infos[0][0]]
    other = [info for info in infos if info[0] != infos[0][0]]
    mixed = [info for pair in zip(first, other, strict=False) for info in pair]
    return mixed + first[len(other) :] + other[len(first) :]


def bind_like(sock: socket.socket, ours: list[Info]) -> None:
    """Bind to the first of our addresses that is of the socket's family."""
    for family, _kind, _number, _name, where in ours:
        if family == sock.family:
            sock.bind(where)
            return
    raise OSError(errno.EADDRNOTAVAIL, "local_addr is of the other address family")


class _Race:
    """Attempts that are started one after the other, until the first succeeds."""

    def __init__(self, poller: LoopPoller, attempts: list[Callable[[], Coroutine[Any, Any, socket.socket]]]) -> None:
        self._poller = poller
        self._waiting = deque(attempts)
        self._running: set[Any] = set()
        self._outcome = poller.loop.create_future()
        self._timer: Any = None

    async def run(self) -> socket.socket:
        """The winner's result, or the last error."""
        try:
            self._start()
            winner: socket.socket = await self._outcome
            return winner
        except BaseException:
            if self._outcome.done() and not self._outcome.cancelled() and self._outcome.exception() is None:
                self._outcome.result().close()  # cancelled when somebody had won
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for task in self._running:
                task.cancel()

    def _start(self) -> None:
        task = self._poller.spawn(self._waiting.popleft()())
        self._running.add(task)
        task.add_done_callback(self._finished)
        self._timer = self._poller.loop.call_later(STAGGER, self._start) if self._waiting else None

    def _finished(self, task: Any) -> None:
        self._running.discard(task)
        if self._outcome.done():
            if not task.cancelled() and task.exception() is None:
                task.result().close()  # it came second
        elif task.cancelled():
            self._outcome.cancel()
        elif (error := task.exception()) is None:
            self._outcome.set_result(task.result())
        elif not isinstance(error, OSError):
            self._outcome.set_exception(error)
        elif self._waiting:
            self._timer.cancel()
            self._start()
        elif not self._running:
            self._outcome.set_exception(error)
