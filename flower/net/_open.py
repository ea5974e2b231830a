"""`Listen` and `Dial`: the way in, for every protocol. A protocol is a row in each of two tables."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, overload

from flower.channels._scheduler import current_scheduler
from flower.net._conn import Conn
from flower.net._given import dial_sockpipe, dial_socktcp, listen_sockpipe, listen_socktcp
from flower.net._listener import Listener
from flower.net._pipe import dial_pipe, listen_pipe
from flower.net._tcp import dial_tcp, dial_tls, listen_tcp, listen_tls
from flower.net._udp import Datagrams, dial_udp, listen_udp

_LISTEN: dict[str, Callable[..., Any]] = {
    "tcp": listen_tcp,
    "tls": listen_tls,
    "pipe": listen_pipe,
    "socktcp": listen_socktcp,
    "sockpipe": listen_sockpipe,
    "udp": listen_udp,
}
_DIAL: dict[str, Callable[..., Any]] = {
    "tcp": dial_tcp,
    "tls": dial_tls,
    "pipe": dial_pipe,
    "socktcp": dial_socktcp,
    "sockpipe": dial_sockpipe,
    "udp": dial_udp,
}


@overload
def Listen(addr: Any, proto: Literal["udp"], **options: Any) -> Datagrams: ...
@overload
def Listen(addr: Any = ("0.0.0.0", 0), proto: str = "tcp", **options: Any) -> Listener: ...
def Listen(addr: Any = ("0.0.0.0", 0), proto: str = "tcp", **options: Any) -> Any:
    """Listen on an address, and give a `Listener`, a receive channel of connections; or for udp `Datagrams`.

    ==============  ===========================================================================
    ``proto``       ``addr``, and options of its own
    ==============  ===========================================================================
    ``"tcp"``       ``(host, port)``; port 0 lets the system choose: ask ``listener.addr()``.
                    ``reuse_port``: several processes may listen on it.
    ``"tls"``       the same. ``cert``, ``key``: files with the certificate chain and its key, in
                    PEM. ``ca``: a file with authorities: clients must show a certificate of
                    theirs. ``alpn``: names of application protocols, the best first.
                    ``handshake_timeout``: seconds. Or ``context``, an ssl.SSLContext.
    ``"pipe"``      the path of a Unix socket. A dead one that lies there is replaced; the file
                    is removed by `Listener.close`. A leading null: Linux's abstract names.
    ``"socktcp"``   a TCP socket that is bound, or its descriptor, which is the listener's from
                    now on; or an address as of tcp
    ``"sockpipe"``  the same of a Unix socket
    ``"udp"``       ``(host, port)``. ``broadcast``: may send to all of a network. ``reuse_addr``,
                    ``reuse_port``: several sockets on one port, as multicast needs them.
    ==============  ===========================================================================

    Options of all but udp: ``backlog``, the connections that the kernel queues (1024); ``read_buffer`` and
    ``write_buffer``, the bytes that a connection may hold (256 KiB and 64 KiB; udp has the first alone). Of tcp, tls
    and socktcp: ``nodelay`` and ``keepalive``, on unless they are False. Blocks only where the host is a name that
    has to be looked up.

    Raises ValueError for an unknown protocol or a port out of range; TypeError for what is no address or an
    option that the protocol has not; OSError, with the address in its text, where it can't be listened on, and
    for a certificate that can't be read (ssl.SSLError: can't be used); RuntimeError where somebody else's event
    loop runs in this thread.

    >>> with Listen(("127.0.0.1", 0)) as listener:
    ...     for conn in listener:
    ...         flower.go(handle, conn)
    """
    return _opener(_LISTEN, "Listen", proto, options)(addr, **options)


@overload
def Dial(proto: Literal["udp"], addr: Any, **options: Any) -> Datagrams: ...
@overload
def Dial(proto: str, addr: Any, **options: Any) -> Conn: ...
def Dial(proto: str, addr: Any, **options: Any) -> Any:
    """Connect to an address, and give the `Conn`; or for udp `Datagrams` that go there.

    ==============  ===========================================================================
    ``proto``       ``addr``, and options of its own
    ==============  ===========================================================================
    ``"tcp"``       ``(host, port)``. A host of several addresses: each is tried, the next after a
                    quarter of a second or a failure, and the first that answers is taken.
                    ``local_addr``: the ``(host, port)`` of this end.
    ``"tls"``       the same. The server's certificate must be valid, for the host or for
                    ``server_name``, by the system's authorities or those of the file ``ca``.
                    ``cert``, ``key``: files with the client's own. ``alpn``, ``context`` and
                    ``handshake_timeout`` as of `Listen`.
    ``"pipe"``      the path of a Unix socket
    ``"socktcp"``   a TCP socket that is connected, or its descriptor, which is the connection's
                    from now on
    ``"sockpipe"``  the same of a Unix socket, such as one of a ``socket.socketpair()``
    ``"udp"``       ``(host, port)``; ``local_addr``, ``broadcast``
    ==============  ===========================================================================

    Options of all: ``read_buffer`` and ``write_buffer``; of tcp, tls and socktcp ``nodelay`` and ``keepalive``, all
    as of `Listen`. Blocks until the connection stands, or ``timeout`` seconds where given (tcp, tls, pipe, udp).
    Cancelled or timed out, it leaves no connection behind.

    Raises OSError's own kinds, with the address in the text (ConnectionRefusedError, socket.gaierror for a
    name that is not known, ssl.SSLCertVerificationError ...); Timeout; ValueError for an unknown protocol or a
    port out of range; TypeError for what is no address, or an option that the protocol has not; RuntimeError
    where somebody else's event loop runs in this thread.

    >>> conn = Dial("tcp", ("127.0.0.1", 8000), timeout=5.0)
    """
    return _opener(_DIAL, "Dial", proto, options)(addr, **options)


def _opener(table: dict[str, Any], name: str, proto: Any, options: dict[str, Any]) -> Callable[..., Any]:
    """The protocol's function; or, inside of a `flower.testing.World`, its simulated network's."""
    function: Callable[..., Any] = _row(table, name, proto, options)
    network = getattr(current_scheduler().poller, "network", None)
    return function if network is None else functools.partial(network.open, name, proto)


def _row(table: dict[str, Any], name: str, proto: Any, options: dict[str, Any]) -> Any:
    try:
        function = table[proto]
    except (KeyError, TypeError):
        raise ValueError(f"unknown protocol {proto!r}: give one of {', '.join(sorted(table))}") from None
    known = function.__kwdefaults__ or {}
    for option in options:
        if option not in known:
            raise TypeError(f"{name} has no option {option!r} for {proto}: it has {', '.join(known)}")
    return function


listen = Listen
dial = Dial
