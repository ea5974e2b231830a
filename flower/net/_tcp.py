"""TCP: addresses, sockets, and how they are opened. `Listen` and `Dial` come here for the protocol "tcp"."""

from __future__ import annotations

import os
import socket
from typing import Any

from flower.channels import blocking
from flower.channels import timeout as time_limit
from flower.errors import Timeout
from flower.net._conn import Conn
from flower.net._listener import BACKLOG, Acceptor, Listener
from flower.net._loop import LoopPoller, io_poller, wait
from flower.net._stream import Stream, format_address

MAX_PORT = 65_535

# What getaddrinfo gives: family, type, protocol, canonical name, address.
_Info = tuple[Any, Any, int, str, Any]


def listen_tcp(address: Any) -> Listener:
    """Listen on the address."""
    host, port = check_address(address)
    poller = io_poller()
    family, kind, proto, _name, where = _resolve(host or "0.0.0.0", port, passive=True)[0]
    sock = None
    try:
        sock = socket.socket(family, kind, proto)
        sock.setblocking(False)
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, OSError):
            raise _explain(error, "can't listen on", host, port) from None
        raise
    return Listener(Acceptor(poller, sock, "tcp", _tune))


def dial_tcp(address: Any, *, timeout: float | None = None) -> Conn:
    """Connect to the address: to the first of the host's addresses that answers."""
    host, port = check_address(address)
    if timeout is None:
        return _dial(host, port)
    try:
        with time_limit(timeout):
            conn = _dial(host, port)
        return conn
    except Timeout:
        raise Timeout(f"tcp {format_address((host, port))}: not connected within {timeout} s") from None


def _dial(host: str, port: int) -> Conn:
    poller = io_poller()
    infos = _resolve(host or "127.0.0.1", port)
    return Conn(wait(_connect(poller, infos, host, port), Stream.abort))


async def _connect(poller: LoopPoller, infos: list[_Info], host: str, port: int) -> Stream:
    failures: list[OSError] = []
    for family, kind, proto, _name, where in infos:
        sock = None
        try:
            sock = socket.socket(family, kind, proto)  # fails too, where the system lacks the family
            sock.setblocking(False)
            _tune(sock)
            await poller.loop.sock_connect(sock, where)
            stream = Stream(poller, sock, "tcp")
            await poller.loop.create_connection(stream.as_protocol, sock=sock)
            return stream
        except BaseException as error:
            if sock is not None:
                sock.close()
            if not isinstance(error, OSError):
                raise
            failures.append(error)
    raise _explain(failures[0], "can't connect to", host, port)


def _tune(sock: socket.socket) -> None:
    """What every TCP connection has: no waiting to fill packets, and notice of a peer that is gone."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


# -- Addresses


def check_address(address: Any) -> tuple[str, int]:
    """The host and the port of a TCP address, or TypeError or ValueError with the address in its text."""
    if not isinstance(address, tuple | list) or len(address) < 2:
        raise TypeError(f"a tcp address is a pair (host, port), not {address!r}")
    host, port = address[0], address[1]
    if not isinstance(host, str):
        raise TypeError(f"the host of a tcp address is a str, not {host!r}, in {address!r}")
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"the port of a tcp address is an int, not {port!r}, in {address!r}")
    if not 0 <= port <= MAX_PORT:
        raise ValueError(f"the port of a tcp address is 0 to {MAX_PORT}, not {port}, in {address!r}")
    if "\0" in host:
        raise ValueError(f"a null character in the host of {address!r}")
    return host, port


def _resolve(host: str, port: int, *, passive: bool = False) -> list[_Info]:
    """The host's addresses: at once for a numeric one, else by the system's resolver, in a worker thread."""
    flags = socket.AI_PASSIVE if passive else 0
    kind = socket.SOCK_STREAM
    try:
        return socket.getaddrinfo(host, port, type=kind, flags=flags | socket.AI_NUMERICHOST)
    except OSError:
        pass  # a name, then
    except UnicodeError:
        raise ValueError(f"not a host name: {host!r}, in {(host, port)!r}") from None
    try:
        infos: list[_Info] = blocking(socket.getaddrinfo, host, port, type=kind, flags=flags)
    except OSError as error:
        raise _explain(error, "can't find", host, port) from None
    return infos


def _explain(error: OSError, what: str, host: str, port: int) -> OSError:
    """The same kind of error, with the address in its text."""
    if error.errno is not None and not isinstance(error, socket.gaierror):
        reason = os.strerror(error.errno)
    else:
        reason = error.strerror or str(error)
    return type(error)(error.errno, f"{reason}: {what} tcp {format_address((host, port))}")
