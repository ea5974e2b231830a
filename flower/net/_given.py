"""Sockets that somebody else has opened: "socktcp" and "sockpipe", over a Python socket or a descriptor.

They serve programs that are handed their sockets: by systemd, by a parent process, over another socket.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from flower.net._acceptor import BACKLOG, Acceptor
from flower.net._address import explain
from flower.net._bounds import HIGH_WATER, INCOMING_LIMIT, check_bounds
from flower.net._conn import Conn
from flower.net._listener import Listener
from flower.net._loop import io_poller, wait
from flower.net._opening import open_stream
from flower.net._pipe import listen_pipe
from flower.net._stream import Stream
from flower.net._tcp import Settings, check_backlog, listen_tcp


def listen_socktcp(
    address: Any,
    *,
    sock: Any = None,
    backlog: int = BACKLOG,
    nodelay: bool = True,
    keepalive: bool = True,
    read_buffer: int = INCOMING_LIMIT,
    write_buffer: int = HIGH_WATER,
) -> Listener:
    """Listen on a socket that is bound to a TCP address; or, as the seed has it, on the address."""
    bounds = check_bounds(read_buffer, write_buffer)
    check_backlog(backlog)
    if sock is None and isinstance(address, tuple | list):
        return listen_tcp(
            address,
            backlog=backlog,
            nodelay=nodelay,
            keepalive=keepalive,
            read_buffer=read_buffer,
            write_buffer=write_buffer,
        )
    poller = io_poller()
    given = _listening("socktcp", address if sock is None else sock, _INET, backlog)
    settings = Settings(nodelay, keepalive)
    settings.apply(given)
    return Listener(Acceptor(poller, given, "socktcp", bounds, setup=settings.setup))


def listen_sockpipe(
    address: Any,
    *,
    sock: Any = None,
    backlog: int = BACKLOG,
    read_buffer: int = INCOMING_LIMIT,
    write_buffer: int = HIGH_WATER,
) -> Listener:
    """Listen on a Unix socket that is bound to a path; or, as the seed has it, on the path."""
    bounds = check_bounds(read_buffer, write_buffer)
    check_backlog(backlog)
    if sock is None and isinstance(address, str | bytes | os.PathLike):
        return listen_pipe(address, backlog=backlog, read_buffer=read_buffer, write_buffer=write_buffer)
    poller = io_poller()
    given = _listening("sockpipe", address if sock is None else sock, _UNIX, backlog)
    return Listener(Acceptor(poller, given, "sockpipe", bounds))  # whoever has made the path removes it


def dial_socktcp(
    address: Any,
    *,
    nodelay: bool = True,
    keepalive: bool = True,
    read_buffer: int = INCOMING_LIMIT,
    write_buffer: int = HIGH_WATER,
) -> Conn:
    """A connection of a TCP socket that is connected."""
    bounds = check_bounds(read_buffer, write_buffer)
    return _dial("socktcp", address, _INET, bounds, Settings(nodelay, keepalive))


def dial_sockpipe(address: Any, *, read_buffer: int = INCOMING_LIMIT, write_buffer: int = HIGH_WATER) -> Conn:
    """A connection of a Unix socket that is connected, such as one of a ``socket.socketpair()``."""
    return _dial("sockpipe", address, _UNIX, check_bounds(read_buffer, write_buffer), None)


_INET = {socket.AF_INET, socket.AF_INET6}
_UNIX = {getattr(socket, "AF_UNIX", None)}


def _dial(proto: str, given: Any, families: set[Any], bounds: Any, settings: Settings | None) -> Conn:
    poller = io_poller()
    sock = _adopt(proto, given, families)
    try:
        sock.getpeername()
        if settings is not None:
            settings.apply(sock)
    except OSError as error:
        _give_back(sock, given)
        raise explain(error, "can't use", proto, f"socket {given!r}") from None
    sock.setblocking(False)
    setup = None if settings is None else settings.setup
    return Conn(wait(open_stream(poller, sock, proto, bounds, None, setup), Stream.abort))


def _listening(proto: str, given: Any, families: set[Any], backlog: int) -> socket.socket:
    sock = _adopt(proto, given, families)
    try:
        sock.listen(backlog)
    except OSError as error:
        where = sock.getsockname()
        _give_back(sock, given)
        raise explain(error, "can't listen on", proto, where) from None
    sock.setblocking(False)
    return sock


def _adopt(proto: str, given: Any, families: set[Any]) -> socket.socket:
    """The socket or the descriptor as a socket that is ours: it is closed with what is made of it.

    Where it is refused, it is left as it was.
    """
    if isinstance(given, bool) or not isinstance(given, socket.socket | int):
        raise TypeError(f"{proto} takes a socket or a descriptor's number, not {given!r}")
    if isinstance(given, int) and given < 0:
        raise ValueError(f"{proto} takes a descriptor's number, which {given} is none")
    if isinstance(given, socket.socket) and given.fileno() < 0:
        raise OSError(errno.EBADF, f"{os.strerror(errno.EBADF)}: the {proto} socket {given!r} is closed")
    try:
        sock = given if isinstance(given, socket.socket) else socket.socket(fileno=given)
    except OSError as error:
        raise explain(error, "can't use", proto, f"descriptor {given}") from None
    if sock.family not in families or sock.type != socket.SOCK_STREAM:
        wrong = f"{proto} takes a stream socket of another kind than {given!r}: {sock.family.name}, {sock.type.name}"
        _give_back(sock, given)
        raise ValueError(wrong)
    return sock


def _give_back(sock: socket.socket, given: Any) -> None:
    if sock is not given:
        sock.detach()
