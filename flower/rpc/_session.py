# cython: nonecheck=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""A session: two peers on one connection, each of which may call the other.

One tasklet, the *reader*, takes bytes from the connection for as long as it lives, and hands what they mean to those
whose business it is: answers to `Calls`, requests and notifications to `Serving`, values of channels to `Streams`.
Where it waits, and what comes is simple, that is done on the hub in its place (`Session.take`).
What it and finalizers have to say goes through the `Outbox`. This file is what these four stand on: the reader, the
handshake, and the end.

A connection is anything with ``send``, ``close``, ``abort``, ``keep_alive``, ``remote_addr`` and iteration over
its bytes, as those of `flower.net` and the simulated ones of the tests.

Invariants

- `_finish` runs once, when the reader ends, for whatever reason. After that ``fault`` is set, nothing is pending,
  every call fails at once, and every channel that went through here is broken.
- ``_left`` is a message that was read on the hub, or the error of one, and is for the reader, which has been woken.
- ``early`` is true while we wait for the answer to our hello: the peer's limits, and whether it is a Flower peer, are
  not known. Without an answer in time they are not either: then nobody waits for it any more, and what only a Flower
  peer could read is not sent. It counts whenever it comes.
- What the side that was greeted sends is Flower's from its answer on, and plain before it: so both sides agree, about
  each message, on what it is. ``theirs`` is therefore set when that answer has left, or has come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import copy_context
from threading import get_ident
from typing import Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from greenlet import getcurrent

from flower.channels import channel, schedule, tasklet
from flower.channels._failures import is_foreign
from flower.channels._scheduler import current_scheduler
from flower.channels._task import LONGEST_TIMEOUT
from flower.channels._waiting import Alarm
from flower.errors import AuthError, ChannelClosed, Disconnected, Overloaded, ProtocolError, RemoteError, Timeout
from flower.rpc._calls import Calls
from flower.rpc._faults import fault as make_fault
from flower.rpc._hello import GREETING, HELLO, LOCKED, LOCKED_MESSAGE, BadHello, Handshake, Settings
from flower.rpc._line import CANCEL, DATA, Line
from flower.rpc._outbox import Outbox, Source
from flower.rpc._pulse import Pulse
from flower.rpc._service import Method
from flower.rpc._serving import MAX_DEADLINE, Flood, Serving, log, printable
from flower.rpc._streams import Streams
from flower.rpc._types import Codec
from flower.rpc._wire import Unmade, Wire

if not cython.compiled:
    from flower.rpc._wire import _NOTIFICATION, _REQUEST, _RESPONSE

BYE = "$/bye"
DEFAULTS = Settings()

# Seconds that methods run on for a plain peer which has ended its sending: it may still read, or be gone.
LAST_ANSWERS = 30.0
# What the peer sent should have been refused, or served.
READER_FAILED = "what it sent could not be dealt with"
# What a ping raises where none comes, or an error, or what can't be made here.
NO_ANSWER = (OSError, RemoteError, TypeError)


class Session(Line):
    """One connection's state and tasklets. `Peer` is its public face.

    ``exports``: what the peer may call, by name. ``on_end(session)`` is called when the peer gets nothing more, and
    again when the last of the notifications that it left has been served.
    ``dialed``: we connected, and say hello. ``authenticated``: the connection itself has proved who the peer is.
    """

    def __init__(
        self,
        conn: Any,
        exports: dict[str, Method],
        on_end: Callable[[Session], object],
        *,
        dialed: bool = False,
        settings: Settings = DEFAULTS,
        authenticated: bool = False,
    ) -> None:
        Line.__init__(self, conn, exports, settings)
        if self.direct is not None and self.direct._stream._thread != self.thread:
            raise RuntimeError(f"{self.name}: its connection belongs to another thread, and so must the peer")
        self.face: Any = None  # what a method sees as its caller
        self.on_leaving: Callable[[Session], object] | None = None
        self.began = time.monotonic()
        self.handshake = Handshake(settings, dialed, authenticated)
        self.is_locked = self.handshake.state is LOCKED
        self.streams = Streams(self, dialed)
        self.wire = Wire(LOCKED_MESSAGE if self.is_locked else settings.max_message, Codec(self.streams))
        self.outbox = Outbox(conn, self.streams.commit, self._sent, self.streams.choke)
        self.serving = Serving(self)
        self.calls = Calls(self, self.serving)
        self.call, self.begin, self.stream, self.notify = _methods(self.calls)
        self._left: Any = None
        self._on_end = on_end
        self._hello_id = 0
        self._alarm: Alarm | None = None
        self._pulse: Pulse | None = None
        self.heard = 0  # how often bytes have come
        self._settled: channel[None] | None = None
        self._idle: channel[None] | None = None
        self._last_answers = False  # the peer sends no more, and waits for answers: so we hang up after the last

    def start(self, *, daemon: bool) -> None:
        """Begin to read, in a tasklet of its own. Where we connected, say hello."""
        self.daemon = daemon
        self.conn.keep_alive()
        self.outbox.daemon = daemon
        if self.handshake.state is GREETING:
            self.early = True
            self.wire.codec.flower = None
            self._hello_id, data = self.wire.call(HELLO, [self._sign(self.settings.announce(with_token=True))])
            self.outbox.post(data)
            self.outbox.flush()
        if self.early or self.is_locked:
            self._alarm = Alarm(self._too_late)
            patience = min(self.settings.handshake_timeout, LONGEST_TIMEOUT)
            self.scheduler.set_alarm(self._alarm, self.scheduler.now() + patience)
        if self.settings.heartbeat is not None:
            self._pulse = Pulse(self, min(self.settings.heartbeat, LONGEST_TIMEOUT))
        if self.direct is not None:
            self.direct._stream.poller.resources.add(self)  # to be told of a fork
        reader = tasklet(self._read, label=f"rpc {self.name}", daemon=daemon)()
        # In a World compiled and uncompiled do the same; and uncompiled, no message is known to be plain.
        if self.direct is not None and cython.compiled and self._network() is None:
            self.reader = reader
            self.direct._stream.tap = self

    # -- For those who call

    @property
    def peer_is(self) -> str | None:
        """ "flower" or "plain"; None while that is not known."""
        return None if self._hello_id else "plain" if self.theirs is None else "flower"

    @property
    def inflight(self) -> int:
        """Calls of the peer that are being served."""
        return self.serving.inflight

    @property
    def outstanding(self) -> int:
        """Our calls that have no answer yet."""
        return len(self.calls.pending)

    def check(self, deadline: float | None = None) -> None:
        """A call is about to be made: raise what keeps it from that. Waits where we have to be let in first."""
        if get_ident() != self.thread:
            raise RuntimeError(f"{self.name} belongs to another thread: only that one may call")
        if self.fault is not None:
            raise self.disconnected(not_run=True)
        if self.leaving:
            raise Overloaded(make_fault("overloaded", f"{self.name} is about to leave, and takes no new calls"))
        if self.early and self.settings.token is not None:
            self.await_settled(self.left(deadline))

    def await_settled(self, timeout: float | None = None) -> None:
        """Wait until the handshake is over."""
        if self.early:
            if self._settled is None:
                self._settled = channel(0, "handshake")
                self._settled._external = True
            try:
                self._settled.receive(timeout)
            except ChannelClosed as error:
                if is_foreign(error):
                    raise
        if self.fault is not None:
            raise self.disconnected(not_run=True)

    ready = await_settled

    def await_answer(self, error: Exception, deadline: float | None = None) -> None:
        """Wait for the answer to our hello, because of the error; or raise that, if it has come already."""
        if not self.early:
            raise self._unanswered() if self._hello_id else error
        self.await_settled(self.left(deadline))

    def await_hello(self, what: str, deadline: float | None = None, needed: Any = True) -> bool:
        """Whether the peer is a Flower peer, once that is known. Where it is ``needed`` and is not: an error."""
        if self.early:
            self.await_settled(self.left(deadline))
        if self.theirs is not None:
            return True
        if not needed:
            return False
        if self._hello_id:
            raise self._unanswered()
        raise TypeError(f"{what} can be called at Flower peers only, and {self.name} is none")

    def _unanswered(self) -> Timeout:
        why = f"no answer to our hello within {self.settings.handshake_timeout} s, and only a Flower peer could read"
        return Timeout(f"{self.name}: {why} this call (to a plain peer one connects with plain=True)")

    def ping(self, timeout: float | None = None) -> float:
        """Seconds to the peer and back."""
        began = time.perf_counter()
        self.call("$/ping", (), None, timeout)
        return time.perf_counter() - began

    def close(self) -> None:
        """Close here. Never blocks; the reader sees it, and ends. Notifications that wait are dropped."""
        try:
            if self.fault is None:
                self.outbox.flush()
        finally:  # what is packed as others leave may end a tasklet, or the program
            if self.fault is None:
                self._fail(Disconnected(f"{self.name}: closed here"))
            self.serving.drop_notices()
            self.conn.close()
            self.give_up()

    def drain(self, reason: str = "", grace: float = 30.0) -> bool:
        """Take no new calls, and wait until those that run have ended: True. After ``grace`` seconds: False."""
        self.draining = True
        deadline = self.scheduler.now() + min(grace, LONGEST_TIMEOUT)
        if self.fault is None and self.theirs is not None:
            told = [reason, self.serving.last_id, int(min(1000 * grace, MAX_DEADLINE))]
            self.outbox.post(self.wire.notify(BYE, told))
            try:
                self.ping(grace)  # what the peer sent before it knew is refused, and so not lost
            except NO_ANSWER:  # it may be about to leave, too
                pass
        while self.serving.noticing or (self.fault is None and self._answering()):
            if self._idle is None:
                self._idle = channel(1, "calls that are being served")
                self._idle._external = True
                self.awaited = True
            try:
                self._idle.receive(self.left(deadline))
            except Timeout:
                return False
        self._wake_drain()  # somebody else may wait for the same
        return True

    def stats(self) -> dict[str, Any]:
        """Counts, for people and dashboards."""
        return {
            "seconds": round(time.monotonic() - self.began, 3),
            "peer": self.peer_is,
            "served": self.serving.served,
            "refused": self.serving.refused,
            "inflight": self.serving.inflight,
            "made": self.calls.made,
            "outstanding": len(self.calls.pending),
            "channels": len(self.streams),
            "unsent": self.serving.waiting,
        }

    # -- Reading

    def take(self, data: bytes) -> bool:
        wire = self.wire
        self.heard += 1
        try:
            wire.take(data)
            event = wire.next_plain()
            while event is not None:
                if self.fault is not None or not self._take(event):  # closed by a finalizer, in between
                    self._left = event
                    return False
                event = wire.next_plain()
        except BaseException as error:
            self._left = error
            return False
        return not wire.has_more()

    def _take(self, event: list[Any]) -> bool:
        """Deal with it on the hub. False: that would run code of the user's, or may block."""
        kind = event[0]
        if kind == _RESPONSE:
            if event[2] is not None or event[1] == self._hello_id:
                return False
            self.calls.answered(event)
            return True
        if self.serving.is_behind():
            return False
        if kind == _REQUEST:
            return self.serving.begin(event)
        if (
            kind == _NOTIFICATION
            and self.theirs is not None
            and (event[1] == CANCEL or (event[1] == DATA and len(event[2]) == 2))
        ):
            self._on_event(event)
            return True
        return False

    def _read(self) -> None:
        fault: BaseException | None = None
        event: Any
        serving, wire = self.serving, self.wire
        try:
            copy_context()  # where there was none yet, there is one now
            self.context = getcurrent().gr_context
            for data in self.conn:
                if data:
                    self.heard += 1
                    wire.take(data)
                data = None  # what was in it is not ours to keep while we wait
                event, self._left = self._left, None
                if event is None:
                    event = wire.next_event()
                elif isinstance(event, BaseException):
                    raise event
                while event is not None:
                    if self.fault is not None:  # closed here, while others had their turn
                        return
                    self._on_event(event)
                    if serving.is_behind():
                        serving.hold_back()
                    event = wire.next_event()
            if self.fault is None:
                for event in self.wire.end():
                    self._on_event(event)
                fault = Disconnected(f"{self.name}: the peer closed the connection")
                self._last_answers = self.awaited = self.theirs is None and self._answering()
        except (ProtocolError, AuthError) as error:
            log.warning("%s; the connection is closed", error)
            fault = error
            if isinstance(error, Flood):
                self.conn.abort()
            elif isinstance(error, ProtocolError):
                schedule()  # the requests that came before it are answered, if their methods don't wait
        except OSError as error:
            fault = Disconnected(f"{self.name}: {error}")
            fault.__cause__ = error
        except Exception as error:  # an error of ours, or of `Settings.verify`: it must not be the end of the program
            log.error("%s: %s; the connection is closed", self.name, READER_FAILED, exc_info=error)
            fault = Disconnected(f"{self.name}: {READER_FAILED}, with {type(error).__name__}")
            fault.__cause__ = error
        except BaseException as error:  # killed
            fault = Disconnected(f"{self.name}: the reader ended with {type(error).__name__}")
            raise
        finally:
            self._finish(fault)

    def _on_event(self, event: list[Any]) -> None:
        kind = event[0]
        if kind == _RESPONSE:
            if self._hello_id and event[1] == self._hello_id:
                self._on_hello_answer(event)
            else:
                self.calls.answered(event)
        elif kind == _REQUEST:
            if event[2] == HELLO:
                self._on_hello(event)
            else:
                self.serving.on_request(event)
        elif kind == _NOTIFICATION:
            if self.is_locked:
                return
            method = event[1]
            handler = _CONTROL.get(method)
            if handler is None:
                self.serving.on_notification(event)
            elif self.theirs is not None:
                try:
                    if method == DATA:
                        self.streams.on_data(event)
                    else:
                        if type(event[2]) is Unmade:
                            event[2] = event[2].rest  # an error, or a reason, is told without what can't be made here
                        handler(self, event)
                except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
                    raise ProtocolError(f"{self.name}: a {printable(method)} that can't stand: {error}") from None
        else:
            raise ProtocolError(f"{self.name}: {event[1]}")

    # -- The handshake

    def _on_hello(self, event: list[Any]) -> None:
        msgid, params = event[1], event[3]
        try:
            answer = self._sign(self.handshake.greeted(params))
        except BadHello as error:
            raise ProtocolError(f"{self.name}: {error}") from None
        except AuthError as error:
            refusal = {**make_fault("invalid", str(error)), "auth": True}
            self.outbox.post(self.wire.refuse(msgid, refusal))
            self.outbox.flush()
            raise AuthError(f"{self.name}: {error}") from None
        self._let_in()
        greeting = Source()  # when it has left, we speak as Flower
        self.outbox.put(greeting, self.wire.reply(msgid, answer), [(self._settle, self._settle)])
        self.outbox.offer(greeting)
        self.outbox.flush()

    def _sign(self, told: dict[str, Any]) -> dict[str, Any]:
        """Our hello. Inside of a `flower.testing.World` it is the simulated host that speaks, the same in each run."""
        network = self._network()
        if network is not None:
            host, told["incarnation"] = network.identity()
            told["node"] = self.settings.node or host
        return told

    def _network(self) -> Any:
        """The simulated network of the `flower.testing.World` that this is in, if it is in one."""
        return getattr(self.scheduler.poller, "network", None)

    def _on_hello_answer(self, event: list[Any]) -> None:
        self._hello_id = 0
        try:
            self.handshake.answered(event[2], event[3])
        except BadHello as error:
            raise ProtocolError(f"{self.name}: {error}") from None
        except AuthError as error:
            raise AuthError(f"{self.name}: {error}") from None
        self._let_in()
        self._settle()

    def _let_in(self) -> None:
        """The peer may go on: it has said who it is."""
        self.is_locked = False
        self.wire.limit(self.settings.max_message)
        self._clear_alarm()

    def _clear_alarm(self) -> None:
        if self._alarm is not None:
            self.scheduler.clear_alarm(self._alarm)
            self._alarm = None

    def _settle(self) -> None:
        """Who the peer is, is known now, and it knows that."""
        self.theirs = self.handshake.theirs
        self.wire.codec.flower = self.theirs is not None
        if self.theirs is not None:
            self.wire.most_sent = self.theirs.max_message
            self.calls.most = self.theirs.max_inflight
            self.calls.settled()
            self.max_frame = self.theirs.max_frame
        self._end_early()

    def _end_early(self) -> None:
        """Nobody waits any more for the answer to our hello."""
        self.early = False
        if self._settled is not None:
            self._settled.close()

    def _too_late(self, now: float) -> None:
        self._alarm = None
        if self.is_locked:
            log.warning("%s: said no hello within %s s", self.name, self.settings.handshake_timeout)
            self._fail(Disconnected(f"{self.name}: said no hello in time"))
            self.conn.abort()
        elif self.early and self.settings.token is not None:
            self._fail(Disconnected(f"{self.name}: no answer to our hello within {self.settings.handshake_timeout} s"))
            self.conn.abort()
        elif self.early:
            self._end_early()

    # -- The peer's control notifications

    def _on_cancel(self, event: list[Any]) -> None:
        msgid, reason, *_ = event[2]
        self.serving.cancel(msgid, "deadline" if reason == "deadline" else "cancelled")

    def _on_bye(self, event: list[Any]) -> None:
        if not self.leaving:
            self.leaving = True
            if self.on_leaving is not None:
                self.on_leaving(self)

    # -- The end

    def _finish(self, fault: BaseException | None) -> None:
        self.context = self.reader = self._left = None
        if self.direct is not None:
            self.direct._stream.tap = None
            self.direct._stream.poller.resources.discard(self)
        if self.fault is None:
            self._fail(fault or Disconnected(f"{self.name}: disconnected"))
        if self._last_answers:
            self._alarm = Alarm(lambda now: self.give_up())
            self.scheduler.set_alarm(self._alarm, self.scheduler.now() + LAST_ANSWERS)
        else:
            self._part()

    def finish(self, late: bool) -> bool:
        """The loop is about to end. The connection is told of that, and we have nothing to wait for."""
        if self.direct is not None:
            self.direct._stream.poller.resources.discard(self)
        return False

    def disown(self) -> Any:
        """In a forked child: the parent goes on with this peer; here it is over."""
        if self.fault is None:
            self.fault = Disconnected(f"{self.name} belongs to the parent process, since a fork")
            self.early = False
            self.outbox.close()
            current_scheduler().post(self._tell)  # when all that are the parent's are known as that
        return None

    def give_up(self) -> None:
        """The peer gets no more answers."""
        if self._last_answers:
            self._part()
            self.serving.abandon()

    @property
    def is_busy(self) -> bool:
        """Whether what has come may not have been looked at, since the peer is held back, or is not let in yet."""
        return self.is_locked or self.serving.proceed.balance < 0

    def give_up_silent(self, fault: Disconnected) -> None:
        """The peer gives no sign of life."""
        log.warning("%s; the connection is closed", fault)
        self._fail(fault)
        self.conn.abort()

    def _part(self) -> None:
        """Nothing is left to do for this peer."""
        self._last_answers = False
        self._clear_alarm()
        self.conn.close()
        self._on_end(self)

    def _fail(self, fault: BaseException) -> None:
        """From now on every call fails; those that wait do so now."""
        self.fault = fault
        self._clear_alarm()
        if self._pulse is not None:
            self._pulse.stop()
        self._tell()
        if not self._last_answers:
            self.serving.abandon()
        self.serving.go_on()
        self._wake_drain()

    def _tell(self) -> None:
        """Whoever waits for the peer learns that it is over."""
        self.calls.fail()
        self.streams.fail(str(self.fault))
        self._end_early()

    def disconnected(self, cause: BaseException | None = None, not_run: bool = False) -> Any:
        """The error for one who needs the connection. ``not_run``: nothing of what he wanted was sent."""
        fault = self.fault if self.fault is not None else cause
        kind = type(fault) if isinstance(fault, ProtocolError | AuthError) else Disconnected
        if isinstance(fault, Flood):
            kind = ProtocolError
        error: Any = kind(str(fault))
        error.__cause__ = getattr(fault, "__cause__", None)
        error.not_run = not_run
        error._flower_conn = True
        return error

    def _answering(self) -> bool:
        return self.serving.inflight > 0 or self.outbox.writing

    def answered(self) -> None:
        """One call less is being served."""
        if self._last_answers and not self._answering():
            self._part()
        self._wake_drain()

    def noticed(self) -> None:
        """No notification is being served any more."""
        self._wake_drain()
        if self.fault is not None and not self._last_answers:
            self._on_end(self)

    def _sent(self) -> None:
        """The outbox holds less than before."""
        if not self.serving.is_behind():
            self.serving.go_on()
        if not self.outbox.writing:
            self.answered()

    def _wake_drain(self) -> None:
        if self._idle is not None:
            self._idle.try_send(None)


# The protocol's own notifications, between Flower peers.
_CONTROL: dict[str, Callable[[Session, list[Any]], None]] = {
    CANCEL: Session._on_cancel,
    BYE: Session._on_bye,
    DATA: lambda session, event: session.streams.on_data(event),
    "$/w": lambda session, event: session.streams.on_credit(event[2]),
    "$/end": lambda session, event: session.streams.on_end(event[2]),
    "$/rst": lambda session, event: session.streams.on_reset(event[2]),
    "$/stop": lambda session, event: session.streams.on_stop(event[2]),
}


def _methods(calls: Calls) -> tuple[Any, Any, Any, Any]:
    return calls.call, calls.begin, calls.stream, calls.notify
