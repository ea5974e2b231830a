"""A session: two peers on one connection, each of which may call the other.

Tasklets: one *reader* takes bytes from the connection for as long as it lives. Each request is served by a
tasklet of its own; notifications are served one after the other, in the order in which they came, also those
of a peer that has closed meanwhile.

What is held for a peer is bounded in bytes: the requests that are being served, the notifications that wait
to be served, and the answers that wait until the peer reads. Past ENOUGH bytes of the last two, the reader
reads no more (TCP then stops the peer) and no further method is begun. While we wait for an answer of the
peer's, which may come behind all that, the reader goes on up to AT_MOST, and then the connection is cut.

Invariants

- ``_pending`` has a channel for each of our calls whose answer is outstanding, by id. An answer goes to its
  id's channel and nowhere else. Whoever stopped waiting leaves its channel there, so the id is not used
  again.
- `_finish` runs once, when the reader ends, for whatever reason. After that ``_fault`` is set, ``_pending``
  is empty, and every call fails at once.
- The reader sends nothing itself: an answer may have to wait for room, and the next message must not.
- ``_asked``, ``_backlog`` and ``_unsent`` are the bytes of the three kinds, MESSAGE_COST added for each message.
- Whoever makes one of the last two smaller calls `_go_on`, so that nobody waits in ``_proceed`` (the reader)
  or ``_room`` (methods to be begun) without need. A method that is begun wakes the next, while there is room.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from greenlet import GreenletExit

from flower.channels import bomb, channel, schedule, tasklet
from flower.errors import Cancelled, ChannelClosed, Disconnected, ProtocolError, RemoteError, TaskletExit
from flower.net import Conn
from flower.rpc._wire import MAX_MESSAGE, Notification, Request, Response, Violation, Wire

# Requests of one peer that are served at a time. More are refused at once.
MAX_INFLIGHT = 1024
# Bytes of answers, or of notifications, that wait: above that the peer is held back ...
ENOUGH = 256 * 1024
# ... and above that it is refused, or cut off. Twice the longest message.
AT_MOST = 2 * MAX_MESSAGE
# What a held message costs beside its bytes, so that a flood of tiny ones is bounded too.
MESSAGE_COST = 256
# Characters of an error's text that are sent.
MAX_TEXT = 8 * 1024

# What ends a tasklet, and is nobody's failure. Any other error of a method is told to its caller, SystemExit too.
_ENDS = (TaskletExit, GreenletExit, KeyboardInterrupt, Cancelled)

log = logging.getLogger("flower.rpc")


class _Flood(ProtocolError):
    """The peer sends more than we may hold."""


class Session:
    """One connection's state and tasklets. `Peer` is its public face."""

    def __init__(
        self, conn: Conn, exports: Mapping[str, Callable[..., Any]], on_end: Callable[[Session], object]
    ) -> None:
        self.conn = conn
        self.name = _name(conn)
        self._exports = exports
        self._on_end = on_end
        self._wire = Wire()
        self._pending: dict[int, channel[Any]] = {}
        self._fault: BaseException | None = None
        self._daemon = True
        self._inflight = 0
        self._unbegun = 0  # of those in flight, the ones whose tasklet has not had its first turn
        self._asked = 0
        self._unsent = 0
        self._refusals: deque[bytes] = deque()
        self._refusing = False
        self._last_answers = False  # the peer sends no more, and waits for answers: so we hang up after the last
        self._notices: deque[Notification] = deque()
        self._backlog = 0
        self._noticing = False
        self._proceed: channel[None] = channel(0, "the reader is held back")
        self._proceed.preference = 0
        self._room: channel[None] = channel(0, "answers wait to be sent")
        self._room.preference = 0

    def start(self, *, daemon: bool) -> None:
        """Begin to read, in a tasklet of its own."""
        self._daemon = daemon
        tasklet(self._read, label=f"rpc {self.name}", daemon=daemon)()

    # -- Calling

    def call(self, method: str, params: tuple[Any, ...]) -> channel[Any]:
        """Send a request; give the channel on which the answer comes, a value or a bomb. It then closes."""
        if self._fault is not None:
            raise self._disconnected()
        msgid, data = self._wire.call(method, params)
        reply: channel[Any] = channel(1, f"reply of {method}")
        reply._external = True
        self._pending[msgid] = reply
        if self._backlog > ENOUGH or self._unsent > ENOUGH:
            self._go_on()  # the answer may be behind what holds the reader back
        try:
            self.conn.send(data)
        except BaseException as error:  # then not a byte of it was taken
            if self._pending.pop(msgid, None) is not None:
                self._wire.take_back(msgid)
            if isinstance(error, OSError | ChannelClosed):
                raise self._disconnected(error) from error
            raise
        return reply

    def notify(self, method: str, params: tuple[Any, ...]) -> None:
        if self._fault is not None:
            raise self._disconnected()
        data = self._wire.notify(method, params)
        try:
            self.conn.send(data)
        except (OSError, ChannelClosed) as error:
            if isinstance(error, TimeoutError):
                raise
            raise self._disconnected(error) from error

    def close(self) -> None:
        """Close here. Never blocks; the reader sees it, and ends. Notifications that wait are dropped."""
        if self._fault is None:
            self._fail(Disconnected(f"{self.name}: closed here"))
        self._notices.clear()
        self.conn.close()

    # -- Reading

    def _read(self) -> None:
        fault: BaseException | None = None
        try:
            for data in self.conn:
                for event in self._wire.feed(data):
                    if self._fault is not None:  # closed here, while others had their turn
                        return
                    _ON_EVENT[type(event)](self, event)
                    if self._backlog > ENOUGH or self._unsent > ENOUGH:
                        self._hold_back()
            if self._fault is None:
                for event in self._wire.end():
                    _ON_EVENT[type(event)](self, event)
            fault = Disconnected(f"{self.name}: the peer closed the connection")
            self._last_answers = self._answering()
        except ProtocolError as error:
            log.warning("%s; the connection is closed", error)
            fault = error
            if isinstance(error, _Flood):
                self.conn.abort()
            else:
                schedule()  # the requests that came before it are answered, if their methods don't wait
        except OSError as error:
            fault = Disconnected(f"{self.name}: {error}")
            fault.__cause__ = error
        except BaseException as error:  # killed, or an error of ours
            fault = Disconnected(f"{self.name}: the reader ended with {type(error).__name__}")
            raise
        finally:
            self._finish(fault)

    def _finish(self, fault: BaseException | None) -> None:
        if self._fault is None:
            self._fail(fault or Disconnected(f"{self.name}: disconnected"))
        if not self._last_answers:
            self._part()

    def _part(self) -> None:
        """Nothing is left to do for this peer."""
        self.conn.close()
        self._on_end(self)

    def _fail(self, fault: BaseException) -> None:
        """From now on every call fails; those that wait do so now."""
        self._fault = fault
        pending, self._pending = self._pending, {}
        for reply in pending.values():
            reply.try_send(bomb(self._disconnected()))
            reply.close()
        self._go_on()

    def _disconnected(self, cause: BaseException | None = None) -> Any:
        fault = self._fault if self._fault is not None else cause
        error: Any = (ProtocolError if isinstance(fault, ProtocolError) else Disconnected)(str(fault))
        error.__cause__ = getattr(fault, "__cause__", None)
        error._flower_conn = True
        return error

    def _on_response(self, event: Response) -> None:
        reply = self._pending.pop(event.msgid, None)
        if reply is not None:
            reply.try_send(event.result if event.error is None else bomb(RemoteError(event.error)))
            reply.close()

    def _on_violation(self, event: Violation) -> None:
        raise ProtocolError(f"{self.name}: {event.reason}")

    # -- Serving requests

    def _on_request(self, event: Request) -> None:
        if self._inflight >= MAX_INFLIGHT and self._unbegun:
            schedule()  # those that came in the same piece have not had a turn yet
        if self._inflight >= MAX_INFLIGHT:
            self._refuse(event, f"overloaded: {MAX_INFLIGHT} requests are being served")
        elif self._inflight and self._asked + event.size > AT_MOST:
            self._refuse(event, f"overloaded: {self._asked} bytes of requests are being served")
        else:
            self._inflight += 1
            self._unbegun += 1
            self._asked += event.size + MESSAGE_COST
            tasklet(self._serve, label=event.method, daemon=self._daemon)(event)

    def _serve(self, request: Request) -> None:
        self._unbegun -= 1
        try:
            self._send_answer(self._run(request))
        finally:
            self._inflight -= 1
            self._asked -= request.size + MESSAGE_COST
            self._answered()

    def _run(self, request: Request) -> bytes:
        """Call the method; give the answer's bytes, whatever happens."""
        function = self._exports.get(request.method)
        if function is None:
            return self._wire.refuse(request.msgid, f"unknown method: {_printable(request.method)}")
        try:
            if self._unsent > ENOUGH:
                self._wait_for_room()
            result = function(*request.params)
            return self._wire.reply(request.msgid, result, AT_MOST - self._unsent)
        except _ENDS as error:  # the caller learns of it, and our scheduler too
            self._send_answer(self._wire.refuse(request.msgid, f"cancelled: {type(error).__name__}"))
            raise
        except BaseException as error:
            log.debug("%s: %s failed", self.name, request.method, exc_info=error)
            return self._wire.refuse(request.msgid, _describe(error))

    def _wait_for_room(self) -> None:
        """Wait until the peer has read of the answers before this one."""
        while self._unsent > ENOUGH:
            self._room.receive()
        self._wake(self._room)  # the next may begin, too

    def _send_answer(self, data: bytes) -> None:
        size = len(data) + MESSAGE_COST
        self._unsent += size
        try:
            self.conn.send(data)
        except (OSError, ChannelClosed):
            pass  # the caller is gone, or we have hung up: there is nobody to tell
        finally:
            self._unsent -= size
            if self._unsent <= ENOUGH:
                self._go_on()

    def _refuse(self, request: Request, why: str) -> None:
        """Answer without a tasklet of its own: there may be very many."""
        data = self._wire.refuse(request.msgid, why)
        self._refusals.append(data)
        self._unsent += len(data) + MESSAGE_COST
        if not self._refusing:
            self._refusing = True
            tasklet(self._send_refusals, label="refusals", daemon=self._daemon)()

    def _send_refusals(self) -> None:
        try:
            while self._refusals:
                data = self._refusals.popleft()
                self._unsent -= len(data) + MESSAGE_COST  # it is counted where it is sent
                self._send_answer(data)
        finally:
            self._refusing = False
            self._answered()

    def _answering(self) -> bool:
        return self._inflight > 0 or self._refusing

    def _answered(self) -> None:
        if self._last_answers and not self._answering():
            self._part()

    # -- Serving notifications

    def _on_notification(self, event: Notification) -> None:
        if event.method not in self._exports:
            log.debug("%s: unknown notification: %s", self.name, _printable(event.method))
            return
        self._notices.append(event)
        self._backlog += event.size + MESSAGE_COST
        if not self._noticing:
            self._begin_noticing()

    def _begin_noticing(self) -> None:
        self._noticing = True
        tasklet(self._serve_notices, label="notifications", daemon=self._daemon)()

    def _serve_notices(self) -> None:
        try:
            while self._notices:
                self._notice(self._notices.popleft())
        finally:
            self._noticing = False
            if self._notices:  # this tasklet was killed, or interrupted: the rest are served by another
                self._begin_noticing()

    def _notice(self, event: Notification) -> None:
        try:
            self._exports[event.method](*event.params)
        except _ENDS:
            raise
        except BaseException as error:
            log.error("%s: the notification %s failed", self.name, event.method, exc_info=error)
        finally:
            self._backlog -= event.size + MESSAGE_COST
            if self._backlog <= ENOUGH:
                self._go_on()

    # -- Holding back

    def _hold_back(self) -> None:
        """Read no more until less waits, or until we wait for an answer, which may be behind it."""
        while (self._backlog > ENOUGH or self._unsent > ENOUGH) and self._fault is None:
            if self._pending:
                if self._backlog > AT_MOST:
                    raise _Flood(f"{self.name}: it sends notifications faster than they are served")
                if self._unsent > AT_MOST:
                    raise _Flood(f"{self.name}: it sends requests and does not read the answers")
                return
            self._proceed.receive()

    def _go_on(self) -> None:
        self._wake(self._proceed)
        self._wake(self._room)

    @staticmethod
    def _wake(waiting: channel[None]) -> None:
        if waiting.balance < 0:
            waiting.try_send(None)


_ON_EVENT: dict[type, Callable[[Session, Any], None]] = {
    Request: Session._on_request,
    Response: Session._on_response,
    Notification: Session._on_notification,
    Violation: Session._on_violation,
}


def _name(conn: Conn) -> str:
    address = conn.remote_addr()
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
        return f"peer {host}:{address[1]}"
    return f"peer {address or '?'}"


def _describe(error: BaseException) -> str:
    """An error as a plain peer gets it: a string that is never empty, not long, and can be encoded."""
    name = type(error).__name__
    try:
        text = str(error)[:MAX_TEXT]
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        text = text.encode("utf-8", "backslashreplace").decode()
    except Exception as second:  # its __str__ fails
        text = f"(its text can't be had: {type(second).__name__})"
    return f"{name}: {text}" if text else name


def _printable(name: str) -> str:
    return ascii(name[:100])[1:-1]
