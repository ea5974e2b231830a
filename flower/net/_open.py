"""`Listen` and `Dial`: the way in, for every protocol. A protocol is a row in each of two tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flower.net._conn import Conn
from flower.net._listener import Listener
from flower.net._tcp import dial_tcp, listen_tcp

_LISTEN: dict[str, Callable[..., Listener]] = {"tcp": listen_tcp}
_DIAL: dict[str, Callable[..., Conn]] = {"tcp": dial_tcp}


def Listen(addr: Any = ("0.0.0.0", 0), proto: str = "tcp", **options: Any) -> Listener:
    """Listen on an address, and give a `Listener`: a receive channel of connections.

    ``proto`` is ``"tcp"``, whose address is ``(host, port)``. Port 0 lets the system choose: ask
    ``listener.addr()``. Blocks only where the host is a name that has to be looked up.

    Raises ValueError for an unknown protocol or a port out of range; TypeError for what is no address;
    OSError, with the address in its text, where it can't be listened on; RuntimeError where somebody else's
    event loop runs in this thread.

    >>> with Listen(("127.0.0.1", 0)) as listener:
    ...     for conn in listener:
    ...         flower.go(handle, conn)
    """
    listener: Listener = _row(_LISTEN, proto)(addr, **options)
    return listener


def Dial(proto: str, addr: Any, **options: Any) -> Conn:
    """Connect to an address, and give the `Conn`.

    Blocks until the connection stands, or ``timeout`` seconds where given. Cancelled or timed out, it
    leaves no connection behind.

    Raises OSError's own kinds, with the address in the text (ConnectionRefusedError, socket.gaierror for a
    name that is not known ...); Timeout; ValueError for an unknown protocol or a port out of range;
    TypeError for what is no address; RuntimeError where somebody else's event loop runs in this thread.

    >>> conn = Dial("tcp", ("127.0.0.1", 8000), timeout=5.0)
    """
    conn: Conn = _row(_DIAL, proto)(addr, **options)
    return conn


def _row(table: dict[str, Any], proto: str) -> Any:
    try:
        return table[proto]
    except (KeyError, TypeError):
        raise ValueError(f"unknown protocol {proto!r}: give one of {', '.join(sorted(table))}") from None


listen = Listen
dial = Dial
