"""Sockets that somebody else has opened: "socktcp", "sockpipe" and "tls", over a Python socket or a descriptor.

They serve programs that are handed their sockets: by systemd, by a parent process, over another socket.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
import weakref
from typing import Any

from flower.channels._forks import after_fork
from flower.net._acceptor import Acceptor
from flower.net._address import explain
from flower.net._conn import Conn
from flower.net._descriptor import MAX_FD
from flower.net._listener import Listener
from flower.net._loop import io_poller, wait
from flower.net._opening import Secure, open_stream
from flower.net._options import Options
from flower.net._pipe import listen_pipe
from flower.net._stream import Stream
from flower.net._tcp import Settings, listen_tcp, within

_INET = {socket.AF_INET, socket.AF_INET6}
_UNIX = {getattr(socket, "AF_UNIX", None)}

# What was given, by its descriptor: two that used one socket would cut each other off. To look and to take is one step.
_taken: weakref.WeakValueDictionary[int, socket.socket] = weakref.WeakValueDictionary()
_taking: Any = threading.Lock()
after_fork(_taking._at_fork_reinit)


def listen_socktcp(address: Any, options: Options) -> Listener:
    """Listen on a socket that is bound to a TCP address; or, where there is none yet, on the address."""
    if options.sock is None and isinstance(address, tuple | list):
        return listen_tcp(address, options)
    return listen_given("socktcp", address, options)


def listen_sockpipe(address: Any, options: Options) -> Listener:
    """Listen on a Unix socket that is bound to a path; or, where there is none yet, on the path."""
    if options.sock is None and isinstance(address, str | bytes | os.PathLike):
        return listen_pipe(address, options)
    return listen_given("sockpipe", address, options)


def listen_given(proto: str, given: Any, options: Options, secure: Secure | None = None) -> Listener:
    """Listen on the socket, or on the option ``sock``. A Unix socket's path is removed by whoever has made it."""
    poller = io_poller()
    settings = _settings(proto, options)
    given = given if options.sock is None else options.sock
    sock = _adopt(proto, given)
    try:
        sock.listen(options.backlog)
        if settings is not None:
            settings.apply(sock)
        acceptor = Acceptor(poller, sock, proto, options.bounds, secure=secure)
    except BaseException as error:
        where = sock.getsockname()
        _give_back(sock)
        if isinstance(error, OSError):
            raise explain(error, "can't listen on", proto, where) from None
        raise
    sock.setblocking(False)
    return Listener(acceptor)


def dial_given(proto: str, given: Any, options: Options, secure: Secure | None = None) -> Conn:
    """A connection of a socket that is connected."""
    poller = io_poller()
    settings = _settings(proto, options)
    sock = _adopt(proto, given)
    try:
        sock.getpeername()
        if settings is not None:
            settings.apply(sock)
    except BaseException as error:
        _give_back(sock)
        if isinstance(error, OSError):
            raise explain(error, "can't use", proto, f"socket {given!r}") from None
        raise
    sock.setblocking(False)

    begun = False

    async def connect() -> Stream:
        nonlocal begun
        begun = True  # now it is the stream's
        return await open_stream(poller, sock, proto, options.bounds, secure)

    def dial() -> Conn:
        try:
            return Conn(wait(connect(), Stream.abort))
        finally:
            if not begun:  # cancelled before that
                sock.close()

    return within(options.timeout, dial, f"{proto} socket {given!r}")


def is_given(address: Any) -> bool:
    """Whether it is a socket or a descriptor, and no address."""
    return isinstance(address, socket.socket) or (isinstance(address, int) and not isinstance(address, bool))


def _settings(proto: str, options: Options) -> Settings | None:
    return None if proto == "sockpipe" else Settings.of(options)


def _adopt(proto: str, given: Any) -> socket.socket:
    """The socket or the descriptor as a socket that is ours: it is closed with what is made of it.

    Where it is refused, it is left as it was.
    """
    if not is_given(given):
        raise TypeError(f"{proto} takes a socket or a descriptor's number, not {given!r}")
    if isinstance(given, ssl.SSLSocket):  # what we read and write would pass by its TLS
        raise TypeError(f"{proto} takes no socket that speaks TLS already: give a plain one to tls, not {given!r}")
    fd = given if isinstance(given, int) else given.fileno()
    if isinstance(given, int) and not 0 <= fd <= MAX_FD:
        raise ValueError(f"{proto} takes a descriptor's number, which {given} is none")
    if fd < 0:
        raise OSError(errno.EBADF, f"{os.strerror(errno.EBADF)}: the {proto} socket {given!r} is closed")
    with _taking:
        before = _taken.get(fd)
        if before is not None and before.fileno() == fd:
            raise ValueError(f"{proto} can't take {given!r}: it was given before, and is in use")
        try:
            sock = _Own.of(given) if isinstance(given, socket.socket) else socket.socket(fileno=given)
        except OSError as error:
            raise explain(error, "can't use", proto, f"socket {given!r}") from None
        _taken[fd] = sock.given if isinstance(sock, _Own) else sock
    if sock.family not in (_UNIX if proto == "sockpipe" else _INET) or sock.type != socket.SOCK_STREAM:
        wrong = f"{proto} takes a stream socket of another kind than {given!r}: {sock.family.name}, {sock.type.name}"
        _give_back(sock)
        raise ValueError(wrong)
    return sock


class _Own(socket.socket):
    """A second descriptor of a socket that was given: whoever gave it may close it, and harms nobody.

    Else it is closed along with this one, whatever files were made of it: through them the peer would learn of no end.
    """

    given: socket.socket

    @classmethod
    def of(cls, given: socket.socket) -> _Own:
        own = cls(given.family, given.type, given.proto, socket.dup(given.fileno()))
        own.given = given
        return own

    def close(self) -> None:
        super().close()
        self._close_given()

    def detach(self) -> int:
        self._close_given()
        return super().detach()

    def _close_given(self) -> None:
        fd = self.given.detach()
        if fd >= 0:
            socket.close(fd)


def _give_back(sock: socket.socket) -> None:
    if isinstance(sock, _Own):
        _taken.pop(sock.given.fileno(), None)
        socket.socket.close(sock)
    else:
        sock.detach()
