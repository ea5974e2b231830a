"""`Peer`: the other side of a connection, as one calls it; and `connect`, which makes one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from flower.channels import channel
from flower.net import Conn, Dial
from flower.rpc._hello import Settings
from flower.rpc._service import exports
from flower.rpc._session import DEFAULTS, Session
from flower.rpc._url import parse, split


class Peer:
    """The other side of a MessagePack-RPC connection.

    ``Peer(conn, service)`` begins to speak over a connection that stands; `connect` opens one. Both sides may
    call: with a ``service``, the peer may call its methods (see `rpc.method`), and the connection keeps
    `flower.run` going until it ends; without one it does not, and dropping the last reference closes it.
    A peer belongs to the thread that made it: a call from another raises RuntimeError.

    >>> with rpc.connect("tcp://127.0.0.1:9000") as peer:
    ...     peer.call("add", 1, 2, timeout=1.0)
    3
    """

    def __init__(
        self, conn: Conn, service: object = None, *, settings: Settings = DEFAULTS, dialed: bool = False
    ) -> None:
        if not isinstance(conn, Conn):
            raise TypeError(f"a peer is at the end of a connection, not of {conn!r}")
        self._owner = service is None
        self._session = Session(conn, exports(service), _nothing, dialed=dialed, settings=settings)
        self._session.face = Peer._of(self._session)
        self._session.start(daemon=service is None)

    @classmethod
    def _of(cls, session: Session) -> Peer:
        """A face of a session that somebody else owns."""
        peer = cls.__new__(cls)
        peer._owner = False
        peer._session = session
        return peer

    def call(self, method: str, *params: Any, timeout: float | None = None) -> Any:
        """Call a method of the peer and wait for its result.

        Blocks until the answer is there; other tasklets run meanwhile. When it is cancelled or times out, the
        call may still be carried out; its answer is dropped when it comes.

        Raises RemoteError when the method failed, or is not known there; Disconnected (a ConnectionError)
        when the connection was lost or closed, at once also for calls that wait; Timeout after ``timeout``
        seconds; TypeError or ValueError, before anything is sent, for values that MessagePack can't carry.
        """
        return self._session.call(method, params, None, timeout)

    def start(self, method: str, *params: Any) -> channel[Any]:
        """Call a method of the peer, and give the channel on which its one answer comes.

        A receive from it, a select's too, gives the result or raises as `call` does; the channel then closes.
        Blocks only while the connection has no room for the request.

        >>> reply = peer.start("add", 1, 2)
        >>> flower.select(reply, flower.after(1.0))
        """
        reply: channel[Any] = self._session.begin(method, params)
        return reply

    def notify(self, method: str, *params: Any) -> None:
        """Call a method of the peer and want no answer.

        Blocks only while the connection has no room for the message. Raises Disconnected; TypeError or
        ValueError for values that MessagePack can't carry.
        """
        self._session.notify(method, params)

    @property
    def proxy(self) -> Proxy:
        """The peer's methods as methods: ``peer.proxy.add(1, 2)``."""
        return Proxy(self)

    def close(self) -> None:
        """Close the connection; never blocks. Calls that wait raise Disconnected. May be called twice."""
        self._session.close()

    @property
    def closed(self) -> bool:
        """Whether the connection is closed, by either side, or lost."""
        return self._session.fault is not None

    def remote_addr(self) -> Any:
        """The address of the peer."""
        return self._session.conn.remote_addr()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Peer {self._session.name.removeprefix('peer ')}, {'closed' if self.closed else 'open'}>"

    def __del__(self) -> None:
        if getattr(self, "_owner", False) and hasattr(self, "_session") and not self.closed:
            name = self._session.name
            self._session.close()
            warnings.warn(f"{name} was dropped, and not closed", ResourceWarning, stacklevel=2, source=self)


class Proxy:
    """The methods of a peer as attributes. Names that begin with an underscore are not sent."""

    __slots__ = ("_peer",)

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(f"{name!r} is private: a peer exports no such method")
        peer = self._peer

        def call(*params: Any, timeout: float | None = None) -> Any:
            return peer.call(name, *params, timeout=timeout)

        call.__name__ = call.__qualname__ = name
        return call

    def __repr__(self) -> str:
        return f"<Proxy of {self._peer!r}>"


def connect(
    url: str, service: object = None, *, timeout: float | None = None, settings: Settings = DEFAULTS, **tls: Any
) -> Peer:
    """Connect to a MessagePack-RPC server, such as `serve` makes, or Neovim, and give the `Peer`.

    ``url`` is ``tcp://host:port``, ``unix:/path`` or ``tls://host:port``; for the last there are the options of
    `flower.net.Dial`: ``ca``, ``cert``, ``key``, ``server_name``, ``context``.

    Blocks until the connection stands, or ``timeout`` seconds. With a ``service`` the peer may call us, too.

    Raises ValueError for a URL that is none; OSError, with the address in its text, where nobody answers.

    >>> peer = rpc.connect("tcp://127.0.0.1:9000")
    """
    proto, address = parse(url)
    options, unknown = split(url, tls)
    if unknown:
        raise TypeError(f"connect has no option {', '.join(unknown)}")
    exports(service)  # a bad one is told of before the connection is made
    return Peer(Dial(proto, address, timeout=timeout, **options), service, settings=settings, dialed=True)


def _nothing(_: Session) -> None:
    pass
