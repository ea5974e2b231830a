"""`Listener`: a receive channel of connections, as its users see it. The work is `_acceptor.Acceptor`'s.

Dropping the last reference to a listener closes it.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flower.channels import channel, getcurrent, move_on, schedule, select, tasklet
from flower.channels._delivery import report
from flower.channels._failures import is_foreign, note
from flower.channels._scheduler import current_scheduler
from flower.channels._task import check_timeout
from flower.errors import ChannelClosed
from flower.net._address import format_address
from flower.net._conn import Conn, look
from flower.net._loop import FAILURES
from flower.net._source import Source

if TYPE_CHECKING:
    from flower.net._acceptor import Acceptor

GRACE = 30.0  # seconds that `Listener.stop` leaves to the handlers, unless it is told otherwise; Kubernetes' own


class Listener(Source):
    """A receive channel of connections.

    ``for conn in listener``, `receive`, ``flower.select(listener, quit)``, or `accept`.
    Up to 128 accepted connections wait here to be received, more wait in the kernel. A lack of descriptors
    is waited out. A listener belongs to the thread that made it. One that is dropped without `close` gives
    a ResourceWarning, and is closed.

    >>> listener = Listen(("127.0.0.1", 0), "tcp")
    >>> listener.addr()
    ('127.0.0.1', 40123)
    >>> listener.serve(handle_connection)
    """

    __slots__ = ("__weakref__", "_acceptor", "_connections", "_handlers", "_left")

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor
        self._connections: channel[Conn] = acceptor.connections
        self._handlers = _Handlers()
        self._left = False  # it was closed, perhaps in another thread, and its own has yet to do so

    @property
    def _receive_channel(self) -> channel[Conn]:
        """What `flower.select` receives from, asked for at each select."""
        return look(self._connections, self._end)

    def _end(self) -> ChannelClosed:
        return ChannelClosed(f"{self._acceptor.describe()} is closed", self)

    def receive(self, timeout: float | None = None) -> Conn:
        """The next connection.

        Blocks until there is one. When it is cancelled or times out, the connection stays for the next.

        Raises ChannelClosed when the listener is closed (blocked receivers get it too); Timeout after
        ``timeout`` seconds.
        """
        try:
            if timeout is None:
                conn: Conn = self._connections.receive()
            else:
                conn = self._within(self._receive_channel, timeout)
        except ChannelClosed as error:
            if is_foreign(error):
                raise
            raise self._end() from None
        return conn

    def accept(self, *, timeout: float | None = None) -> tuple[Conn, None]:
        """The next connection, in a pair as Go has it: ``conn, err = listener.accept()``.

        ``err`` is always None: a lack of descriptors and peers that are gone again are dealt with inside.
        Otherwise as `receive`.
        """
        return self.receive(timeout), None

    def serve(self, handler: Callable[[Conn], object], *, limit: int | None = None) -> None:
        """Run ``handler(conn)`` in a tasklet of its own for each connection, and close it afterwards.

        Blocks until the listener is closed; handlers that run then go on (see `stop`). An Exception of one (or the
        ``asyncio.CancelledError`` of a coroutine) is handed to the error handler (standard error by default) and does
        not touch the others. With ``limit``, at most so many run at a time; more connections wait in the listener and
        in the kernel. Cancelled, it has lost no connection, and may be called again.

        Raises TypeError for a handler that can't be called, or is a coroutine function, ValueError for a limit below 1.

        >>> listener.serve(handle_connection, limit=1000)
        """
        if not callable(handler):
            raise TypeError(f"serve() needs a function to call with each connection, not {handler!r}")
        if inspect.iscoroutinefunction(handler):
            raise TypeError(
                f"serve() needs a plain function, which may call flower.wait, not the coroutine {handler!r}"
            )
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise TypeError(f"the limit is a number of connections, not {limit!r}")
        if limit is not None and limit < 1:
            raise ValueError(f"the limit is at least 1 connection, not {limit}")
        places: channel[None] | None = None if limit is None else channel(limit, "handlers at the limit")
        label = getattr(handler, "__name__", "")
        while True:
            try:
                if places is not None and not places.try_send(None):
                    select((places, None), self._acceptor.gone)
                conn = self.receive()
            except ChannelClosed as error:
                if is_foreign(error):
                    raise
                return
            self._handlers.start(handler, conn, label, places)
            del conn  # the handler's alone

    def stop(self, grace: float = GRACE) -> int:
        """Stop gracefully: take no new connection, and give the handlers that `serve` runs time to end.

        Blocks until they have ended, at most ``grace`` seconds; those that run then are cut: their connections are
        aborted and their tasklets killed. Returns how many that were. A handler may call it, and is not waited for;
        nor is, by a handler, another that calls it, or has.
        When it is cancelled, the listener is closed, and the handlers go on. So it is where nothing may wait and this
        raises RuntimeError, as in a signal handler: let a tasklet receive from `flower.signals`, and call it.
        """
        seconds = check_timeout(grace)
        self.close()
        schedule()  # a connection that `serve` was handed in this turn has its handler then, which is one of them
        return self._handlers.finish(seconds)

    def addr(self) -> Any:
        """The address it listens on, with the port that the system chose where 0 was asked for."""
        return self._acceptor.address

    def close(self) -> None:
        """Stop listening; never blocks. Connections that nobody has received are cut.

        Blocked receivers, and all later ones, get ChannelClosed. Closing twice is allowed.
        """
        self._left = True
        self._acceptor.poller.call_here(self._acceptor.close)

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._acceptor.closed

    def __repr__(self) -> str:
        state = "closed" if self._acceptor.closed else "open"
        return f"<Listener {self._acceptor.proto} {format_address(self._acceptor.address)}, {state}>"

    def __del__(self) -> None:
        try:
            acceptor = self._acceptor
        except AttributeError:  # __init__ failed
            return
        if acceptor.closed or self._left:
            return
        acceptor.poller.call_here(acceptor.close)
        warnings.warn(f"{acceptor.describe()} was dropped, and not closed", ResourceWarning, stacklevel=2, source=self)


class _Handlers:
    """The handlers that a listener's `serve` runs. They know nothing of the listener, which may be dropped."""

    __slots__ = ("_ended", "_running", "_stopping")

    def __init__(self) -> None:
        self._running: dict[tasklet, Conn] = {}
        self._stopping: set[tasklet] = set()  # those that stop the listener, or have: no other of them waits for it
        self._ended: channel[None] | None = None  # somebody waits for the last

    def start(self, handler: Callable[[Conn], object], conn: Conn, label: str, places: channel[None] | None) -> None:
        t = tasklet(self._run, label=label)
        self._running[t] = conn
        t(handler, conn, places)

    def _run(self, handler: Callable[[Conn], object], conn: Conn, places: channel[None] | None) -> None:
        """Run one connection's handler, with its errors kept to itself."""
        try:
            handler(conn)
        except FAILURES as error:
            note(error, lambda: f"This ended the handler of {conn!r}; the listener goes on.")
            report(current_scheduler(), error, getcurrent())
        finally:
            conn.close()
            self._running.pop(getcurrent(), None)
            self._stopping.discard(getcurrent())
            if places is not None:
                places.try_receive()
            self._look_again()

    def _look_again(self) -> None:
        while self._ended is not None and self._ended.balance < 0:
            self._ended.try_send(None)

    def finish(self, grace: float | None) -> int:
        me = getcurrent()
        if self._ended is None:
            self._ended = channel(0, "handlers to end")
            self._ended.preference = 0
        spared: set[Any] = set()
        if me in self._running:
            spared = self._stopping
            spared.add(me)
            self._look_again()
        with move_on(grace) as scope:
            while self._running.keys() - spared:
                self._ended.receive()
        if not scope.expired:
            return 0
        late = [(t, conn) for t, conn in self._running.items() if t not in spared]
        for t, conn in late:
            t.kill()  # first: it would fail with the connection, and that be reported
            conn.abort()
            self._running.pop(t, None)  # one that had not begun did not do so itself
        return len(late)
