"""Addresses: what is one, how it is looked up, and how it is written in the texts of errors."""

from __future__ import annotations

import os
import socket
from typing import Any

from flower.channels import blocking

MAX_PORT = 65_535

# What getaddrinfo gives: family, type, protocol, canonical name, address.
Info = tuple[Any, Any, int, str, Any]


def format_address(address: Any) -> str:
    """An address as people write it: 127.0.0.1:80, [::1]:80, /run/x.sock, @abstract; "?" where there is none."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    if isinstance(address, bytes):
        address = os.fsdecode(address)
    if isinstance(address, str) and address.startswith("\0"):  # Linux's abstract names
        return "@" + address[1:]
    return str(address) if address else "?"


def check_host_port(proto: str, address: Any, what: str = "address") -> tuple[str, int]:
    """The host and the port of an address, or TypeError or ValueError with the address in its text.

    Of four items, as the system gives an IPv6 address, the last is its scope, which the host then has behind a ``%``.
    """
    if not isinstance(address, tuple | list) or len(address) < 2:
        raise TypeError(f"a {proto} {what} is a pair (host, port), not {address!r}")
    host, port = address[0], address[1]
    if not isinstance(host, str):
        raise TypeError(f"the host of a {proto} {what} is a str, not {host!r}, in {address!r}")
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"the port of a {proto} {what} is an int, not {port!r}, in {address!r}")
    if not 0 <= port <= MAX_PORT:
        raise ValueError(f"the port of a {proto} {what} is 0 to {MAX_PORT}, not {port}, in {address!r}")
    if "\0" in host:
        raise ValueError(f"a null character in the host of {address!r}")
    if len(address) == 4 and (scope := address[3]):
        if isinstance(scope, bool) or not isinstance(scope, int):
            raise TypeError(f"the scope of a {proto} {what} is an int, not {scope!r}, in {address!r}")
        if ":" in host and "%" not in host:  # a name has no scope
            host = f"{host}%{scope}"
    return host, port


def check_path(address: Any) -> str:
    """The path of a Unix socket as a str, or TypeError or ValueError. A leading null: a name of Linux's own space."""
    try:
        path = os.fsdecode(address)
    except TypeError:
        raise TypeError(f"a pipe address is the path of a Unix socket, not {address!r}") from None
    if not path:
        raise ValueError(f"a pipe address is the path of a Unix socket, not {address!r}")
    if "\0" in path[1:] or path == "\0":
        raise ValueError(f"a null character in the path {address!r}")
    return path


def resolve(
    proto: str, host: str, port: int, *, kind: int = socket.SOCK_STREAM, passive: bool = False, what: str = "can't find"
) -> list[Info]:
    """The host's addresses: at once for a numeric one, else by the system's resolver, in a worker thread."""
    flags = socket.AI_PASSIVE if passive else 0
    try:
        return socket.getaddrinfo(host, port, type=kind, flags=flags | socket.AI_NUMERICHOST)
    except OSError:
        pass  # a name, then
    except UnicodeError:
        raise ValueError(f"not a host name: {host!r}, in {(host, port)!r}") from None

    def look_up() -> list[Info]:
        try:
            return socket.getaddrinfo(host, port, type=kind, flags=flags)
        except OSError as error:
            raise explain(error, what, proto, (host, port)) from None

    infos: list[Info] = blocking(look_up)
    return infos


def explain(error: OSError, what: str, proto: str, address: Any, more: str = "") -> OSError:
    """The same kind of error, with the address in its text."""
    where = f"{what} {proto} {format_address(address)}{more}"
    if error.errno is None:  # Python's own, of a path that is too long, say
        return type(error)(f"{error}: {where}")
    reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno)
    return type(error)(error.errno, f"{reason}: {where}")
