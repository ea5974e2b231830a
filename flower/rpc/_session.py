"""A session: two peers on one connection, each of which may call the other.

Tasklets: one *reader* takes bytes from the connection for as long as it lives, and never waits for anybody
else but for a backlog of notifications. Each request is served by a tasklet of its own; notifications are
served one after the other, in the order in which they came.

Invariants

- ``_pending`` has a channel for each of our calls whose answer is outstanding, by id. An answer goes to its
  id's channel and nowhere else. Whoever stopped waiting leaves its channel there, so the id is not used
  again.
- `_finish` runs once, when the reader ends, for whatever reason. After that ``_fault`` is set, ``_pending``
  is empty, and every call fails at once.
- The reader sends nothing itself: an answer may have to wait for room, and the next message must not.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from flower.channels import bomb, channel, schedule, tasklet
from flower.errors import ChannelClosed, Disconnected, ProtocolError, RemoteError
from flower.net import Conn
from flower.rpc._wire import Notification, Request, Response, Violation, Wire

# Requests of one peer that are served at a time. More are refused at once; as many refusals may be on their
# way.
MAX_INFLIGHT = 1024
# Bytes of notifications not yet served, above which nothing more is read ...
BACKLOG = 256 * 1024
# ... unless we wait for answers, which come behind them: then up to this much, and the connection is closed.
MAX_BACKLOG = 32 * 1024 * 1024

log = logging.getLogger("flower.rpc")


class Session:
    """One connection's state and tasklets. `Peer` is its public face."""

    def __init__(self, conn: Conn, exports: dict[str, Callable[..., Any]], on_end: Callable[[Session], object]) -> None:
        self.conn = conn
        self.name = _name(conn)
        self._exports = exports
        self._on_end = on_end
        self._wire = Wire()
        self._pending: dict[int, channel[Any]] = {}
        self._fault: BaseException | None = None
        self._inflight = 0
        self._refusing = 0
        self._last_answers = False  # the peer sends no more, and waits for answers: so we hang up after the last
        self._notices: deque[Notification] = deque()
        self._backlog = 0
        self._serving_notices = False
        self._proceed: channel[None] = channel(0, "backlog of notifications")
        self._proceed.preference = 0

    def start(self, *, daemon: bool) -> None:
        """Begin to read, in a tasklet of its own."""
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
        if self._backlog > BACKLOG:
            self._go_on()
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
        """Close here. Never blocks; the reader sees it, and ends."""
        if self._fault is None:
            self._fail(Disconnected(f"{self.name}: closed here"))
        self.conn.close()

    # -- Reading

    def _read(self) -> None:
        fault: BaseException | None = None
        try:
            for data in self.conn:
                for event in self._wire.feed(data):
                    _ON_EVENT[type(event)](self, event)
                if self._backlog > BACKLOG:
                    self._hold_back()
            if self._fault is None:
                for event in self._wire.end():
                    _ON_EVENT[type(event)](self, event)
            fault = Disconnected(f"{self.name}: the peer closed the connection")
            self._last_answers = self._inflight > 0
        except ProtocolError as error:
            log.warning("%s; the connection is closed", error)
            fault = error
            if self._inflight < MAX_INFLIGHT:
                schedule()  # the requests that came before it are answered, if their methods don't wait
            else:
                self.conn.abort()  # it does not read: nothing more can leave
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
        self._notices.clear()
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
        if self._inflight < MAX_INFLIGHT:
            self._inflight += 1
            tasklet(self._serve, label=event.method, daemon=True)(event)
        elif self._refusing < MAX_INFLIGHT:
            self._refusing += 1
            tasklet(self._refuse, label=event.method, daemon=True)(event)
        else:
            raise ProtocolError(f"{self.name}: it sends requests and does not read the answers")

    def _serve(self, request: Request) -> None:
        try:
            answer = self._run(request)
            self._send_answer(answer)
        finally:
            self._inflight -= 1
            if self._last_answers and self._inflight == 0:
                self._part()

    def _refuse(self, request: Request) -> None:
        try:
            self._send_answer(self._wire.refuse(request.msgid, f"overloaded: {MAX_INFLIGHT} requests are being served"))
        finally:
            self._refusing -= 1

    def _run(self, request: Request) -> bytes:
        """Call the method; give the answer's bytes, whatever happens."""
        function = self._exports.get(request.method)
        if function is None:
            return self._wire.refuse(request.msgid, f"unknown method: {_printable(request.method)}")
        try:
            return self._wire.reply(request.msgid, function(*request.params))
        except Exception as error:
            log.debug("%s: %s failed", self.name, request.method, exc_info=error)
            return self._wire.refuse(request.msgid, _describe(error))
        except BaseException as error:  # killed or cancelled: the caller learns of it, and so does our scheduler
            self._send_answer(self._wire.refuse(request.msgid, f"cancelled: {type(error).__name__}"))
            raise

    def _send_answer(self, data: bytes) -> None:
        try:
            self.conn.send(data)
        except (OSError, ChannelClosed):
            pass  # the caller is gone, or we have hung up: there is nobody to tell

    # -- Serving notifications

    def _on_notification(self, event: Notification) -> None:
        if event.method not in self._exports:
            log.debug("%s: unknown notification: %s", self.name, _printable(event.method))
            return
        self._notices.append(event)
        self._backlog += event.size
        if self._backlog > MAX_BACKLOG:
            raise ProtocolError(f"{self.name}: it sends notifications faster than they are served")
        if not self._serving_notices:
            self._serving_notices = True
            tasklet(self._serve_notices, label="notifications", daemon=True)()

    def _serve_notices(self) -> None:
        try:
            while self._notices:
                event = self._notices.popleft()
                try:
                    self._exports[event.method](*event.params)
                except Exception as error:
                    log.error("%s: the notification %s failed", self.name, event.method, exc_info=error)
                finally:
                    self._backlog -= event.size
                    if self._backlog <= BACKLOG:
                        self._go_on()
        finally:
            self._serving_notices = False

    def _hold_back(self) -> None:
        """Read no more until the backlog is smaller, or we wait for an answer, which may be behind it."""
        while self._backlog > BACKLOG and not self._pending and self._fault is None:
            self._proceed.receive()

    def _go_on(self) -> None:
        if self._proceed.balance < 0:
            self._proceed.try_send(None)


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


def _describe(error: Exception) -> str:
    """An error as a plain peer gets it: a string that is never empty."""
    text = str(error) if not isinstance(error, RemoteError) else error.message
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _printable(name: str) -> str:
    return ascii(name[:100])[1:-1]
