"""`serve`: a service for everybody who connects."""

from __future__ import annotations

from typing import Any

from flower.channels import tasklet
from flower.net import Conn, Listen, Listener
from flower.rpc._hello import Settings
from flower.rpc._peer import Peer
from flower.rpc._service import exports
from flower.rpc._session import DEFAULTS, Session
from flower.rpc._url import parse, split, unparse


class Server:
    """A service that is being served. Made by `serve`; closed by `close`, or as a context manager."""

    def __init__(self, listener: Listener, proto: str, service: object, settings: Settings = DEFAULTS) -> None:
        self._listener = listener
        self._proto = proto
        self._exports = exports(service)
        self._settings = settings
        self._sessions: set[Session] = set()
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
        """Who is connected now: each can be called. They stay the server's; closing one disconnects it."""
        return tuple(Peer._of(session) for session in self._sessions)

    def close(self) -> None:
        """Stop listening, and close every connection; never blocks. Methods that run then run to their end.

        Callers that wait for an answer learn that the connection is gone. Closing twice is allowed.
        """
        self._listener.close()
        for session in list(self._sessions):
            session.close()

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._listener.closed

    def _accept(self) -> None:
        for conn in self._listener:
            self._begin(conn)
            del conn  # the session's alone

    def _begin(self, conn: Conn) -> None:
        session = Session(conn, self._exports, self._sessions.discard, settings=self._settings)
        session.face = Peer._of(session)
        self._sessions.add(session)
        session.start(daemon=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Server {self.url}, {'closed' if self.closed else f'{len(self._sessions)} peers'}>"


def serve(url: str, service: object, *, settings: Settings = DEFAULTS, **tls: Any) -> Server:
    """Serve an object's methods over MessagePack-RPC, and give the `Server`, which listens already.

    ``url`` is ``tcp://host:port``, where port 0 lets the system choose: ask ``server.url``; ``unix:/path``; or
    ``tls://host:port``, with the options of `flower.net.Listen`: ``cert``, ``key``, ``ca``, ``context``. Each call
    runs in a tasklet of its own; notifications of one peer run one after the other. What a method raises is told to
    its caller. A peer that breaks the protocol loses its connection, and the log ``flower.rpc`` says why.
    The server keeps `flower.run` going until it is closed.

    Raises ValueError for a URL that is none, TypeError for a class in place of an object, OSError where the
    address can't be listened on.

    >>> class Calc:
    ...     def add(self, a, b): return a + b
    >>> server = rpc.serve("tcp://127.0.0.1:9000", Calc())
    >>> flower.run()
    """
    proto, address = parse(url)
    options, unknown = split(url, tls)
    if unknown:
        raise TypeError(f"serve has no option {', '.join(unknown)}")
    exports(service)  # a bad one is told of before the address is taken
    return Server(Listen(address, proto, **options), proto, service, settings)
