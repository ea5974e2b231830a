"""`serve`: a service for everybody who connects."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from flower.channels import group, tasklet
from flower.channels import move_on as limit
from flower.net import Conn, Listen, Listener
from flower.rpc._hello import Settings
from flower.rpc._middleware import Middleware
from flower.rpc._peer import Peer, configure
from flower.rpc._service import Method, exports
from flower.rpc._session import DEFAULTS, NO_ANSWER, Session
from flower.rpc._url import parse, unparse


class Server:
    """A service that is being served. Made by `serve`; closed by `close`, or as a context manager."""

    def __init__(self, listener: Listener, proto: str, table: dict[str, Method], settings: Settings) -> None:
        self._listener = listener
        self._proto = proto
        self._table = table
        self._settings = settings
        self._sessions: dict[Session, None] = {}  # in the order in which they came
        tasklet(self._accept, label=f"rpc server {self.url}")()

    @property
    def address(self) -> Any:
        """The address that it listens on, with the port that the system chose where 0 was asked for."""
        return self._listener.addr()

    @property
    def url(self) -> str:
        """The same as a URL, as `connect` takes it."""
        return unparse(self._proto, self.address)

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Who is connected, and was let in: each can be called. They stay the server's; closing one disconnects it."""
        sessions = (s for s in self._sessions if s.fault is None and not s.is_locked)
        return tuple(Peer._of(session) for session in sessions)

    def close(self, grace: float = 0) -> None:
        """Stop listening, and close every connection.

        With ``grace``, tells all peers that no more calls are taken, and waits up to so many seconds for those that
        run; those that come are refused, and their callers know that they did not run. Without, never blocks.
        Methods that still run are cancelled, and their callers learn that the connection is gone.
        Closing twice is allowed. Cancelled while it waits, it closes at once. A grace that is no number of seconds
        raises TypeError or ValueError, and closes nothing.
        """
        limited = limit(grace) if grace else None
        self._listener.close()
        try:
            if limited is not None:
                with limited, group() as draining:
                    for session in list(self._sessions):
                        draining.go(_leave, session, grace)
        finally:
            with ExitStack() as closing:  # all of them, though what one sends at its end may end the program
                for session in list(self._sessions):
                    closing.callback(session.close)

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._listener.closed

    def _accept(self) -> None:
        for conn in self._listener:
            if self.closed:  # in the turn in which it came
                conn.abort()
            else:
                self._begin(conn)
            del conn  # the session's alone

    def _begin(self, conn: Conn) -> None:
        sessions = self._sessions

        def ended(session: Session) -> None:
            if not session.serving.noticing:
                sessions.pop(session, None)

        session = Session(
            conn,
            self._table,
            ended,
            settings=self._settings,
            authenticated=bool(conn.certificate),  # empty, if it was not verified
        )
        session.face = Peer._of(session)
        self._sessions[session] = None
        session.start(daemon=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Server {self.url}, {'closed' if self.closed else f'{len(self.peers)} peers'}>"


def _leave(session: Session, grace: float) -> None:
    """Let the calls that run end. What the peer sent before it knew of this is here once it answers a ping, refused."""
    session.drain("the server stops", grace)
    if session.peer_is == "flower":
        try:
            session.ping(grace)
        except NO_ANSWER:
            pass  # it has gone


def serve(
    url: str,
    service: object,
    *,
    middleware: Sequence[Middleware] = (),
    settings: Settings = DEFAULTS,
    **options: Any,
) -> Server:
    """Serve methods over MessagePack-RPC, and give the `Server`, which listens already.

    ``url`` is ``tcp://host:port``, ``tls://host:port`` or ``unix:/path``; port 0 lets the system choose: ask
    ``server.url``. What is exported of the ``service``, and nothing else can be called:

    - of an object, the methods with public names that its own class defines, and those marked by `method` that
      this inherits;
    - of a module, the functions with public names that it defines;
    - of a dict, its functions, under their keys.

    Each call runs in a tasklet of its own; notifications of one peer run one after the other. A generator streams.
    What a method raises is told to its caller. A method may ask for its `context`, and call its caller back.
    A peer that breaks the protocol loses its connection, and the log ``flower.rpc`` says why. The server keeps
    `flower.run` going until it is closed.

    ``middleware`` are functions ``f(call, proceed)`` around each call, the first outermost. Further options are, for
    a tls URL, those of `flower.net.Listen`: ``cert``, ``key``, ``ca``, ``context``; and each of the `Settings`, such
    as ``token="..."``, which is then demanded of each peer before anything is served to it. A peer with a
    certificate of the authorities in ``ca`` needs no token, unless ``verify`` is given: that decides on everybody.

    Raises ValueError for a URL that is none, TypeError for a class or None in place of an object, OSError where the
    address can't be listened on.

    >>> class Calc:
    ...     def add(self, a, b): return a + b
    >>> server = rpc.serve("tcp://127.0.0.1:9000", Calc())
    >>> flower.run()
    """
    proto, address = parse(url)
    settings, tls = configure(url, settings, options)
    if service is None:  # of who connects it says that the peer may call nothing
        raise TypeError("a service is an object, a module, or a dict of functions, not None: to serve nothing, give {}")
    table = exports(service, middleware)  # a bad one is told of before the address is taken
    return Server(Listen(address, proto, **tls), proto, table, settings)
