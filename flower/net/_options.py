"""The options of `Listen` and `Dial`: the default and the check of each. Which protocol has which says `_open`.

The options of TLS that need each other (a key and its certificate) are checked where they are used, in `_secure`.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flower.channels._task import check_timeout
from flower.net._bounds import HIGH_WATER, INCOMING_LIMIT, Bounds
from flower.net._tls import HANDSHAKE_TIMEOUT

BACKLOG = 1024  # connections that the kernel queues before it turns new ones away
MAX_BACKLOG = 2**31 - 1  # connections: the system takes a C int
MAX_BUFFER = sys.maxsize  # bytes: sizes are counted in a C ssize_t

Path = str | os.PathLike[str]


class Options(NamedTuple):
    """What one call of `Listen` or `Dial` was given, checked, and the defaults of the rest."""

    timeout: float | None = None
    local_addr: Any = None
    sock: Any = None
    backlog: int = BACKLOG
    reuse_addr: bool = False
    reuse_port: bool = False
    broadcast: bool = False
    nodelay: bool = True
    keepalive: bool = True
    read_buffer: int = INCOMING_LIMIT
    write_buffer: int = HIGH_WATER
    server_name: str | None = None
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    alpn: Sequence[str] = ()
    context: ssl.SSLContext | None = None
    handshake_timeout: float | None = HANDSHAKE_TIMEOUT

    @property
    def bounds(self) -> Bounds:
        """How much a connection may hold."""
        return Bounds(self.read_buffer, self.write_buffer)


def read_options(function: str, proto: str, known: str, given: dict[str, Any]) -> Options:
    """The options that were given to the function for the protocol, which has the ``known`` ones, in its own words."""
    names = known.split()
    for name, value in given.items():
        if name not in names:
            raise TypeError(f"{function} has no option {name!r} for {proto}: it has {', '.join(names)}")
        check = _CHECKS.get(name)
        if check is not None:
            try:
                check(value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{function}({proto!r}): {name}: {error}") from None
    return Options(**given)


def _whole(least: int, most: int, unit: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"a number of {unit} is needed, not {value!r}")
        if value < least:
            raise ValueError(f"at least {least} {unit}, not {value!r}")
        if value > most:
            raise ValueError(f"at most {most} {unit}, not {value!r}")

    return check


def _of(kind: Any, words: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not isinstance(value, kind):
            raise TypeError(f"{words} is needed, not {value!r}")

    return check


_flag = _of(bool, "True or False")
_file = _of(str | os.PathLike | None, "the path of a file")

_CHECKS: dict[str, Callable[[Any], object]] = {
    "timeout": check_timeout,
    "backlog": _whole(0, MAX_BACKLOG, "connections"),
    "reuse_addr": _flag,
    "reuse_port": _flag,
    "broadcast": _flag,
    "nodelay": _flag,
    "keepalive": _flag,
    "read_buffer": _whole(1, MAX_BUFFER, "bytes"),
    "write_buffer": _whole(1, MAX_BUFFER, "bytes"),
    "server_name": _of(str | None, "the name of a server"),
    "cert": _file,
    "key": _file,
    "ca": _file,
    "context": _of(ssl.SSLContext | None, "an ssl.SSLContext"),
    "handshake_timeout": check_timeout,
}
