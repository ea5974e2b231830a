"""`Peer`: the other side of a connection, as one calls it; and `connect`, which makes one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from flower.channels import channel, move_on
from flower.channels._ends import Receiver
from flower.channels._failures import is_foreign
from flower.channels._scheduler import current_scheduler
from flower.channels._task import LONGEST_TIMEOUT, check_timeout
from flower.errors import Timeout
from flower.net import Conn, Dial
from flower.rpc._face import Face
from flower.rpc._hello import Settings
from flower.rpc._middleware import Call, Middleware, Proceed, chain, check
from flower.rpc._pool import Link, Pool
from flower.rpc._service import Method, exports
from flower.rpc._session import DEFAULTS, Session
from flower.rpc._url import parse, split

# Seconds that one attempt to connect may take, where others follow: the system would try for two minutes.
ATTEMPT = 10.0


class Peer(Face):
    """The other side of a MessagePack-RPC connection.

    `connect` makes one; ``Peer(conn, service)`` begins to speak over a connection that stands (``dialed=True``
    where it is the side that connected: that side introduces itself). Both sides may call: with a ``service``,
    the peer may call its methods (see `serve`), and the connection keeps `flower.run` going until it ends;
    without one it does not, and dropping the last reference closes it. ``middleware`` is put around each call
    of the peer's methods, ``settings`` are limits and the like: see `connect`. A peer belongs to the thread
    that made it, as its connection must: a call from another raises RuntimeError, and so does ``Peer(conn)``.

    Peers are equal when they are faces of the same connection, and may be keys of a dict.

    >>> with rpc.connect("tcp://127.0.0.1:9000") as peer:
    ...     peer.call("add", 1, 2, timeout=1.0)
    3
    """

    def __init__(
        self,
        conn: Conn,
        service: object = None,
        *,
        dialed: bool = False,
        middleware: Sequence[Middleware] = (),
        settings: Settings = DEFAULTS,
    ) -> None:
        if not isinstance(conn, Conn):
            raise TypeError(f"a peer is at the end of a connection, not of {conn!r}")
        _check_settings(settings)
        self._owner = False  # until all that can fail is over
        session = Session(conn, exports(service), _nothing, dialed=dialed, settings=settings)
        session.face = Peer._of(session)
        self._set_up(session, chain(middleware, _performer(session)) if middleware else None)
        session.start(daemon=service is None)
        self._owner = service is None

    @classmethod
    def _of(cls, session: Session | Pool, owner: bool = False, middleware: Sequence[Middleware] = ()) -> Peer:
        """A face of a session, or of a pool of them."""
        peer = cls.__new__(cls)
        peer._owner = owner
        peer._set_up(session, chain(middleware, _performer(session)) if middleware else None)
        return peer

    # -- Calling

    call = Face.call

    def start(self, method: str, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> channel[Any]:
        """Call a method of the peer, and give the channel on which its one answer comes.

        A receive from it, a select's too, gives the result or raises as `call` does; the channel then closes.
        ``reply.receiver.close()`` gives the call up, and cancels it at the peer. Blocks while the connection
        has no room for the request, and, with ``reconnect`` or several URLs, while none stands; raises Timeout when
        ``timeout`` seconds, which count from here, are over before it could be sent, and Disconnected.

        >>> reply = peer.start("add", 1, 2)
        >>> flower.select(reply, flower.after(1.0))
        """
        if self._chain is not None:
            reply: channel[Any] = self._chain(Call(method, args, kwargs, "start", timeout))
        else:
            reply = self._session.begin(method, args, kwargs, timeout=timeout)
        return reply

    def notify(self, method: str, /, *args: Any, **kwargs: Any) -> None:
        """Call a method of the peer and want no answer.

        Blocks while the connection has no room for the message, and, with ``reconnect`` or several URLs, while none
        stands; `using` bounds that. Raises Disconnected; TypeError or ValueError for values that can't be carried.
        """
        if self._chain is not None:
            self._chain(Call(method, args, kwargs, "notify"))
        else:
            self._session.notify(method, args, kwargs)

    def stream(self, method: str, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> Receiver[Any]:
        """Call a method of a Flower peer that is a generator, and give the channel on which its values come.

        The peer makes no more values than this side has room for, or takes. ``stream.close()`` stops it there.
        Iteration ends with the generator; what fails it, or the connection, is raised after the values before that.
        ``timeout`` bounds the whole, not the wait for each value.

        >>> for number in peer.stream("count", 3): print(number)
        """
        if self._chain is not None:
            values: Receiver[Any] = self._chain(Call(method, args, kwargs, "stream", timeout))
        else:
            values = self._session.stream(method, args, kwargs, timeout=timeout)
        return values

    @property
    def proxy(self) -> Proxy:
        """The peer's methods as methods: ``peer.proxy.add(1, 2)``."""
        return Proxy(self)

    def using(self, *, timeout: float | None = None, meta: Mapping[str, Any] | None = None) -> Caller:
        """The same peer, for calls that all have this ``timeout``, and this ``meta`` sent along with them.

        Every keyword argument of such a call goes to the method, one that is named ``timeout`` too. The method finds
        ``meta``, a dict of plain data, as `Context.meta`: a ``tp`` for W3C's traceparent, an ``idem`` by which it knows
        a call that it has had before, or whatever the two sides agree on. It goes to Flower's peers only.

        Raises TypeError for a ``meta`` that is no dict, ValueError where it has a ``dl``, which is the protocol's.

        >>> peer.using(timeout=5.0).call("wait", timeout=3)
        >>> peer.using(meta={"tp": traceparent}).stream("events")
        """
        _check_meta(meta)
        return Caller(self, timeout, dict(meta) if meta else None)

    def _make(self, call: Call) -> Any:
        return self._chain(call) if self._chain is not None else _perform(self._session, call)

    def ping(self, timeout: float | None = None) -> float:
        """Ask whether the peer answers; the seconds that it took. Blocks, and raises, as `call` does."""
        seconds: float = self._session.ping(timeout)
        return seconds

    # -- The connection

    def close(self) -> None:
        """Close the connection; never blocks. Calls that wait raise Disconnected. May be called twice."""
        self._session.close()

    @property
    def closed(self) -> bool:
        """Whether the connection is closed, by either side, or lost; of several, each one.

        With ``reconnect``, whether it is closed by this side, or no place takes our token any more.
        """
        return self._session.fault is not None

    def remote_addr(self) -> Any:
        """The address of the peer; with several, of the one that has the next call."""
        return self._session.conn.remote_addr()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Peer) and self._session is other._session

    def __hash__(self) -> int:
        return hash(self._session)

    def __repr__(self) -> str:
        return f"<Peer {self._session.name.removeprefix('peer ')}, {'closed' if self.closed else 'open'}>"

    def __del__(self) -> None:
        if getattr(self, "_owner", False) and not self.closed:
            name = self._session.name
            self._session.here(self._session.close)  # this may be another thread
            warnings.warn(f"{name} was dropped, and not closed", ResourceWarning, stacklevel=2, source=self)


class Caller:
    """A peer, and what its calls have in common. `Peer.using` makes one; `Peer` says what the methods do."""

    __slots__ = ("_meta", "_peer", "_timeout")

    def __init__(self, peer: Peer, timeout: float | None, meta: dict[str, Any] | None) -> None:
        self._peer = peer
        self._timeout = timeout
        self._meta = meta

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """As `Peer.call`."""
        return self._make("call", method, args, kwargs)

    def start(self, method: str, /, *args: Any, **kwargs: Any) -> channel[Any]:
        """As `Peer.start`."""
        reply: channel[Any] = self._make("start", method, args, kwargs)
        return reply

    def notify(self, method: str, /, *args: Any, **kwargs: Any) -> None:
        """As `Peer.notify`; raises Timeout where it could not be sent in time."""
        self._make("notify", method, args, kwargs)

    def stream(self, method: str, /, *args: Any, **kwargs: Any) -> Receiver[Any]:
        """As `Peer.stream`."""
        values: Receiver[Any] = self._make("stream", method, args, kwargs)
        return values

    def _make(self, way: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._peer._make(Call(method, args, kwargs, way, self._timeout, self._meta))

    def __repr__(self) -> str:
        return f"<Caller of {self._peer!r}>"


class Proxy:
    """The methods of a peer as attributes. Names that begin with an underscore are not sent."""

    __slots__ = ("_peer",)

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(f"{name!r} is private: a peer exports no such method")
        peer = self._peer

        def call(*args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
            return peer.call(name, *args, timeout=timeout, **kwargs)

        call.__name__ = call.__qualname__ = name
        return call

    def __repr__(self) -> str:
        return f"<Proxy of {self._peer!r}>"


def connect(
    url: str | list[str],
    service: object = None,
    *,
    timeout: float | None = None,
    reconnect: bool = False,
    middleware: Sequence[Middleware] = (),
    settings: Settings = DEFAULTS,
    **options: Any,
) -> Peer:
    """Connect to a MessagePack-RPC server, such as `serve` makes, or Neovim, and give the `Peer`.

    ``url`` is ``tcp://host:port``, ``tls://host:port`` or ``unix:/path``. With a ``service`` the peer may call us,
    too. ``middleware`` are functions ``f(call, proceed)`` around each call that is made with the peer.

    Further options are, for a tls URL, those of `flower.net.Dial`: ``ca``, ``cert``, ``key``, ``server_name``,
    ``context``; and each of the `Settings`, such as ``token="..."``, or ``plain=True`` for a peer that is known to be
    none of Flower's.

    Several URLs are connections to the same service at several places: each call goes to the one with the fewest
    calls under way. With ``reconnect``, a connection that is lost, or that could not be made, is made again,
    after a pause that grows from 50 ms to 5 s with each failure; a call waits up to 30 s for a connection. A place that
    does not take our ``token`` is not tried again. Calls that were under way on a lost connection fail with
    Disconnected, since they may have run: only those that provably did not (nothing of them had left, or the peer
    refused them as overloaded or about to stop) are made again, elsewhere. Of `Peer.start` and `Peer.notify`, which
    don't wait, only what has not left at all.

    Blocks until a connection stands, and with a ``token`` until the peer has taken it. Without ``timeout``, each URL
    is tried once; with it, and ``reconnect``, until ``timeout`` seconds have passed.

    Raises ValueError for a URL that is none; OSError, with the address in its text, where nobody answers;
    AuthError where the peer does not take our ``token``; Timeout.

    >>> peer = rpc.connect("tcp://127.0.0.1:9000")
    >>> peer = rpc.connect(["tcp://10.0.0.1:9000", "tcp://10.0.0.2:9000"], reconnect=True, token="secret")
    """
    urls = url if isinstance(url, list) else [url]
    if not urls:
        raise ValueError("no URL to connect to: the list is empty")
    table = exports(service)  # a bad one is told of before a connection is made, as is all else that is wrong
    settings, _ = configure(urls[0], settings, options)
    check(middleware)
    if timeout is not None:
        check_timeout(timeout)
        timeout = min(timeout, LONGEST_TIMEOUT)  # and not None, which for several places means another thing
    daemon = service is None
    openers = [_opener(one, table, settings, configure(one, settings, options)[1], daemon) for one in urls]
    if len(urls) == 1 and not reconnect:
        began = current_scheduler().now()
        session = openers[0](_nothing, timeout)
        if settings.token is not None:
            _await_admission(session, timeout, began)
        return Peer._of(session, daemon, middleware)
    links = [Link(one, opener) for one, opener in zip(urls, openers, strict=True)]
    pool = Pool(links, reconnect=reconnect, daemon=daemon)
    pool.wait(timeout)
    return Peer._of(pool, daemon, middleware)


def _await_admission(session: Session, timeout: float | None, began: float) -> None:
    """That a token is not taken is better told here than at the first call."""
    try:
        session.ready(session.left(None if timeout is None else began + timeout))
    except Timeout as error:
        session.close()
        if is_foreign(error):
            raise
        raise Timeout(f"{session.name}: no answer to our hello within {timeout} s") from None
    except BaseException:
        session.close()
        raise


def configure(url: str, settings: Settings, options: dict[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """The settings with what the options change in them, and the options that are for TLS."""
    tls, others = split(url, options)
    _check_settings(settings)
    try:
        return (replace(settings, **others) if others else settings), tls
    except TypeError as error:
        unknown = [name for name in others if name not in Settings.__dataclass_fields__]
        if unknown:
            raise TypeError(f"no such option: {', '.join(unknown)}") from None
        raise error


def _check_settings(settings: Settings) -> None:
    if not isinstance(settings, Settings):
        raise TypeError(f"settings are made by rpc.Settings, and {settings!r} are none")


def _opener(
    url: str, table: dict[str, Method], settings: Settings, tls: dict[str, Any], daemon: bool
) -> Callable[..., Session]:
    """A function that connects, and gives the session, which has begun."""
    proto, address = parse(url)

    def open(on_end: Callable[[Session], object], timeout: float | None = ATTEMPT) -> Session:
        conn = Dial(proto, address, timeout=timeout, **tls)
        session = Session(conn, table, on_end, dialed=True, settings=settings)
        session.face = Peer._of(session)
        session.start(daemon=daemon)
        return session

    return open


def _nothing(_: Session) -> None:
    pass


def _performer(session: Session | Pool) -> Proceed:
    """The last step of a call that goes through middleware: it is made."""

    return lambda call: _perform(session, call)


def _check_meta(meta: Mapping[str, Any] | None) -> None:
    if meta is not None and not isinstance(meta, Mapping):
        raise TypeError(f"meta is a dict of plain data, not {meta!r}")
    if meta and "dl" in meta:
        raise ValueError("'dl' in meta is the protocol's own, the milliseconds that a call has left: give a timeout")


def _perform(session: Session | Pool, call: Call) -> Any:
    _check_meta(call.meta)  # a layer may have put it there
    if call.way == "notify":
        with nullcontext() if call.timeout is None else move_on(call.timeout) as scope:
            session.notify(call.method, call.args, call.kwargs, meta=call.meta)
        if scope is not None and scope.expired:
            raise Timeout(f"{session.name}: {call.method} could not be sent within {call.timeout} s")
        return None
    do = {"call": session.call, "start": session.begin, "stream": session.stream}.get(call.way)
    if do is None:
        raise ValueError(f"the way of a call to a peer is call, start, stream or notify, not {call.way!r}")
    return do(call.method, call.args, call.kwargs, timeout=call.timeout, meta=call.meta)
