"""`Listen` and `Dial`: the way in, for every protocol."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, overload

from flower.channels._scheduler import current_scheduler
from flower.net._address import check_host_port
from flower.net._conn import Conn
from flower.net._given import dial_given, is_given, listen_given, listen_sockpipe, listen_socktcp
from flower.net._listener import Listener
from flower.net._options import Options, read_options
from flower.net._pipe import dial_pipe, listen_pipe
from flower.net._secure import secure
from flower.net._tcp import dial_tcp, listen_tcp
from flower.net._udp import Datagrams, dial_udp, listen_udp


def _listen_tls(address: Any, options: Options) -> Listener:
    o = options
    start = secure(o.context, True, None, o.ca, o.cert, o.key, o.alpn, o.handshake_timeout)
    if is_given(address):
        return listen_given("tls", address, o, start)
    return listen_tcp(address, o, "tls", start)


def _dial_tls(address: Any, options: Options) -> Conn:
    o = options
    name = o.server_name
    if not name and not is_given(address):
        host = check_host_port("tls", address)[0].partition("%")[0]  # no certificate knows a scope,
        name = host.removesuffix(".") or "127.0.0.1"  # nor the dot that may end a whole name (RFC 6066, section 3)
    start = secure(o.context, False, name, o.ca, o.cert, o.key, o.alpn, o.handshake_timeout)
    if is_given(address):
        return dial_given("tls", address, o, start)
    return dial_tcp(address, o, "tls", start)


# A protocol is a row in each table: the function that opens it, and the options that it has.
_HOLDS = " read_buffer write_buffer"
_TCP = " nodelay keepalive" + _HOLDS
_TLS = "cert key ca alpn context handshake_timeout "
_Row = tuple[Callable[[Any, Options], Any], str]
_LISTEN: dict[str, _Row] = {
    "tcp": (listen_tcp, "backlog reuse_port" + _TCP),
    "tls": (_listen_tls, _TLS + "backlog reuse_port" + _TCP),
    "pipe": (listen_pipe, "backlog" + _HOLDS),
    "socktcp": (listen_socktcp, "sock backlog" + _TCP),
    "sockpipe": (listen_sockpipe, "sock backlog" + _HOLDS),
    "udp": (listen_udp, "reuse_addr reuse_port broadcast read_buffer"),
}
_DIAL: dict[str, _Row] = {
    "tcp": (dial_tcp, "timeout local_addr" + _TCP),
    "tls": (_dial_tls, "timeout server_name " + _TLS + "local_addr" + _TCP),
    "pipe": (dial_pipe, "timeout" + _HOLDS),
    "socktcp": (partial(dial_given, "socktcp"), _TCP),
    "sockpipe": (partial(dial_given, "sockpipe"), _HOLDS),
    "udp": (dial_udp, "timeout local_addr broadcast read_buffer"),
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
    ``"tcp"``       ``(host, port)``; port 0 lets the system choose: ask ``listener.addr()``, whose
                    four items for IPv6 will do, too.
                    ``reuse_port``: several processes may listen on it.
    ``"tls"``       the same, or a TCP socket or its descriptor, as of socktcp. ``cert``, ``key``:
                    files with the certificate chain and its key, in PEM. ``ca``: a file with
                    authorities: clients must show a certificate of theirs. ``alpn``: names of
                    application protocols, the best first. ``handshake_timeout``: seconds (10);
                    1024 handshakes may be under way, and whoever comes then waits. Or
                    ``context``, an ssl.SSLContext.
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

    Raises ValueError for an unknown protocol, a port out of range, or a socket that was given before and is in use;
    TypeError for what is no address or an option that the protocol has not, and either for an option's bad value;
    OSError, with the address in its text, where it can't be listened on, and for a certificate that can't be read
    (ssl.SSLError: can't be used); RuntimeError where somebody else's event loop runs in this thread.

    >>> with Listen(("127.0.0.1", 0)) as listener:
    ...     for conn in listener:
    ...         flower.go(handle, conn)
    """
    return _open(_LISTEN, "Listen", proto, addr, options)


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
    ``"tls"``       the same, or a TCP socket or its descriptor, as of socktcp. The server's
                    certificate must be valid, for the host or for ``server_name``, by the
                    system's authorities or those of the file ``ca``. ``cert``, ``key``: files
                    with the client's own. ``alpn``, ``context`` and ``handshake_timeout`` as of
                    `Listen`.
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
    name that is not known, ssl.SSLCertVerificationError ...); Timeout; ValueError for an unknown protocol, a
    port out of range, or a socket that was given before and is in use; TypeError for what is no address, or an option
    that the protocol has not, and either for an option's bad value; RuntimeError where somebody else's event loop
    runs in this thread.

    >>> conn = Dial("tcp", ("127.0.0.1", 8000), timeout=5.0)
    """
    return _open(_DIAL, "Dial", proto, addr, options)


def _open(table: dict[str, _Row], function: str, proto: Any, address: Any, given: dict[str, Any]) -> Any:
    """By the protocol's function; or, inside of a `flower.testing.World`, by its simulated network."""
    try:
        opener, known = table[proto]
    except (KeyError, TypeError):
        raise ValueError(f"unknown protocol {proto!r}: give one of {', '.join(sorted(table))}") from None
    options = read_options(function, proto, known, given)
    network = getattr(current_scheduler().poller, "network", None)
    return opener(address, options) if network is None else network.open(function, proto, address, options)


listen = Listen
dial = Dial
