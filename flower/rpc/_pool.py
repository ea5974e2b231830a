"""A pool: connections to one service at several addresses, each made again when it is lost.

A `Pool` looks to `Peer` as a session does. Each address has a *link*, which one tasklet keeps: it connects, waits
until the session ends or its peer says that it leaves, and connects again after a pause that grows with each failure.

What is never done: a call that may have run is not made again. One that provably did not (its session was lost
before a byte of it left, or the peer refused it as overloaded or because it is leaving) goes to another link.

Invariants

- A link's session takes new calls as long as it has no fault, can send, and its peer is not leaving; ``down`` is closed
  when that ends. Only the link's tasklet sets the two.
- Whoever waits for a session waits in ``_news``: each change wakes all of them, and they look again.
- No reference leads from here to the `Peer`, so that dropping it closes all this.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from threading import get_ident
from typing import Any, TypeVar

from flower.channels import channel, move_on, tasklet
from flower.channels._failures import is_foreign
from flower.channels._scheduler import current_scheduler
from flower.channels._task import check_timeout
from flower.errors import AuthError, ChannelClosed, Disconnected, Overloaded, Timeout
from flower.rpc._session import Session
from flower.time import sleep

T = TypeVar("T")

# Seconds that a call waits for a connection, where its own timeout does not end that before: a restart of the
# server goes unnoticed, and nothing waits for good for one that does not come back.
PATIENCE = 30.0
# Seconds until the second attempt to connect; doubled with each failure ...
FIRST_PAUSE = 0.05
# ... up to this. Each is shortened at random by up to half, so that a thousand clients do not come back at once.
LONGEST_PAUSE = 5.0
# Seconds after which a session that is lost counts as one that worked: the pauses begin anew.
STEADY = 1.0

log = logging.getLogger("flower.rpc")


class Link:
    """One address, and the session with who answers there."""

    __slots__ = ("attempts", "failure", "finished", "open", "scope", "session", "url")

    def __init__(self, url: str, open: Callable[[Callable[[Session], object]], Session]) -> None:
        self.url = url
        self.open = open  # connects; gives a session that has begun, and will call the function at its end
        self.scope = move_on()  # around all that the link's tasklet does
        self.session: Session | None = None
        self.failure: BaseException | None = None  # of the last attempt, or of the last session
        self.attempts = 0
        self.finished = False  # it will not connect again


class Pool:
    """Sessions with the same service, looked after. `Peer` is the public face."""

    def __init__(self, links: list[Link], *, reconnect: bool, daemon: bool) -> None:
        self.name = "peer " + ", ".join(link.url for link in links)
        self._closed = False
        self._thread = get_ident()
        self._scheduler = current_scheduler()
        self._links = links
        self._reconnect = reconnect
        self._sessions: dict[Session, None] = {}  # all that have not ended; those that their peers leave, too
        self._turn = 0
        self._news: channel[None] = channel(0, "a connection")
        self._news._external = True
        self._news.preference = 0
        for link in links:
            tasklet(self._keep, label=f"rpc link {link.url}", daemon=daemon)(link)

    # -- Keeping the links

    def _keep(self, link: Link) -> None:
        with link.scope:
            failures = 0
            while True:
                began = _now()
                self._hold(link)
                if link.finished or not self._reconnect:
                    break
                failures = 0 if _now() - began >= STEADY else failures + 1
                sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (min(failures, 16) - 1)) * random.uniform(0.5, 1.0))
        link.finished = True
        self._tell()

    def _hold(self, link: Link) -> None:
        """Connect, and wait until the session takes no more calls, or until that failed."""
        down: channel[None] = channel(0, "a session's end")
        down._external = True

        def ended(session: Session) -> None:
            self._sessions.pop(session, None)
            down.close()

        session = None
        try:
            session = link.open(ended)
            self._sessions[session] = None
            session.on_leaving = lambda _: down.close()
            session.ready()
        except Exception as error:
            log.debug("%s: not connected to %s: %s", self.name, link.url, error)
            link.failure = error
            link.finished = isinstance(error, AuthError) or not isinstance(error, OSError | ChannelClosed)
            if session is not None:
                session.close()
                session = None
        except BaseException:
            if session is not None:
                session.close()
            raise
        link.attempts += 1
        link.session = session
        self._tell()
        if session is not None:
            try:
                down.receive()
            except ChannelClosed:
                link.failure = session.fault
            finally:
                link.session = None

    def _tell(self) -> None:
        while self._news.balance < 0:
            self._news.try_send(None)

    # -- Choosing one

    def _choose(self, tried: list[Session]) -> Session | None:
        """The session with the fewest calls under way; among equals, they take turns."""
        best: Session | None = None
        count = len(self._links)
        first = self._turn
        for number in range(first, first + count):
            session = self._links[number % count].session
            if session is None or not _takes_calls(session) or session in tried:
                continue
            if best is None or session.outstanding < best.outstanding:
                best = session
                self._turn = (number + 1) % count
        return best

    def _pick(self, until: float, tried: list[Session]) -> Session | None:
        """The same. Where none is up, waits for one; None where all that are up were tried.

        Raises Disconnected, which says that the call did not run.
        """
        while True:
            fault = self.fault
            if fault is not None:
                raise fault
            session = self._choose(tried)
            if session is not None:
                return session
            if tried:
                return None
            if all(link.finished for link in self._links):
                raise self._not_connected("all connections are lost")
            try:
                self._news.receive(max(0.0, until - _now()))
            except Timeout as error:
                if is_foreign(error):
                    raise
                raise _not_run(f"{self.name}: not connected{self._reasons()}") from None

    def _reasons(self) -> str:
        """What was last wrong with each address, for an error's text."""
        failures = [(link.url, link.failure) for link in self._links if link.failure is not None]
        return "".join(f"; {url}: {getattr(failure, 'strerror', None) or failure}" for url, failure in failures)

    def _not_connected(self, what: str) -> Disconnected:
        refused = all(isinstance(link.failure, AuthError) for link in self._links)
        return _not_run(f"{self.name}: {what}{self._reasons()}", AuthError if refused else Disconnected)

    def wait(self, timeout: float | None) -> None:
        """Wait for a first connection: ``timeout`` seconds long; without one, until each address has failed once."""
        until = None if timeout is None else _now() + timeout
        try:
            while True:
                for link in self._links:
                    if link.failure is not None and not isinstance(link.failure, OSError | ChannelClosed):
                        raise link.failure  # of its address, or the options: nobody can ever be reached with that
                if self._choose([]) is not None:
                    return
                if all(link.finished or (until is None and link.attempts) for link in self._links):
                    if len(self._links) == 1 and isinstance(self._links[0].failure, OSError):
                        raise self._links[0].failure
                    raise self._not_connected("not connected")
                try:
                    self._news.receive(None if until is None else max(0.0, until - _now()))
                except Timeout as error:
                    if is_foreign(error):
                        raise
                    raise Timeout(f"{self.name}: not connected within {timeout} s{self._reasons()}") from None
        except BaseException:
            self.close()
            raise

    # -- What `Peer` asks of a session

    def call(self, *args: Any, timeout: float | None = None, **options: Any) -> Any:
        """`Session.call` on the least loaded session; on another where the first provably did not run it."""
        return self._repeating(timeout, lambda session, left: session.call(*args, timeout=left, **options))

    def stream(self, *args: Any, timeout: float | None = None, **options: Any) -> Any:
        """`Session.stream`, in the same way."""
        return self._repeating(timeout, lambda session, left: session.stream(*args, timeout=left, **options))

    def begin(self, *args: Any, timeout: float | None = None, **options: Any) -> Any:
        """`Session.begin` on the least loaded session; on another where nothing of it had left the first."""
        return self._repeating(timeout, lambda session, left: session.begin(*args, timeout=left, **options))

    def notify(self, *args: Any, **options: Any) -> None:
        """`Session.notify`, in the same way."""
        self._repeating(None, lambda session, _: session.notify(*args, **options))

    def ping(self, timeout: float | None = None) -> float:
        """`Session.ping` on the least loaded session."""
        return self._repeating(timeout, lambda session, left: session.ping(left))

    def _repeating(self, timeout: float | None, do: Callable[[Session, float | None], T]) -> T:
        timeout = check_timeout(timeout)
        began = _now()
        until = began + (PATIENCE if timeout is None else min(timeout, PATIENCE))
        tried: list[Session] = []
        refusal: Overloaded | None = None
        while True:
            try:
                session = self._pick(until, tried)
            except Disconnected as error:
                if timeout is not None and _now() >= began + timeout:
                    raise Timeout(str(error)) from None
                raise
            if session is None:
                assert refusal is not None  # by all that were tried
                raise refusal
            spent = _now() - began
            try:
                return do(session, timeout if timeout is None or not spent else max(0.0, timeout - spent))
            except Overloaded as error:
                refusal = error
                if not session.leaving:
                    tried.append(session)
            except Disconnected as error:
                # Of a session that still takes calls it says nothing: then packing the arguments raised it.
                if not error.not_run or _takes_calls(session):
                    raise

    @property
    def fault(self) -> Disconnected | None:
        """What keeps calls from being made, for good: it is closed here, or all is lost and not made again."""
        if self._closed:
            return _not_run(f"{self.name}: closed here")
        if self._scheduler.closing:
            return _not_run(f"{self.name}: the thread (before a fork: the process) that made it has ended")
        if not self._sessions and all(link.finished for link in self._links):
            return self._not_connected("all connections are lost")
        return None

    @property
    def conn(self) -> Any:
        """The connection of the session that has the next call. Raises Disconnected where there is none."""
        session = self._choose([])
        if session is None:
            raise _not_run(f"{self.name}: not connected{self._reasons()}")
        return session.conn

    def here(self, callback: Callable[[], object]) -> None:
        """As `Line.here`."""
        if get_ident() == self._thread:
            callback()
        else:
            self._scheduler.post(callback)

    def close(self) -> None:
        """Close all; never blocks."""
        self._closed = True
        for link in self._links:
            link.finished = True
            link.scope.cancel()
        for session in list(self._sessions):
            session.close()
        self._tell()


def _takes_calls(session: Session) -> bool:
    return session.fault is None and not session.mute and not session.leaving


def _not_run(text: str, kind: type[Disconnected] = Disconnected) -> Disconnected:
    error = kind(text)
    error.not_run = True
    return error


def _now() -> float:
    now: float = current_scheduler().now()
    return now
