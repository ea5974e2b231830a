# cython: nonecheck=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""Serving what the peer calls: each request in a tasklet of its own, notifications one after the other.

What is held for a peer is bounded in bytes: the requests that are being served, the notifications that wait
to be served, and the answers that wait until the peer reads. Past ENOUGH bytes of the last two, the reader
reads no more (TCP then stops the peer) and no further method is begun. While we wait for an answer of the
peer's, which may come behind all that, the reader goes on up to ``most``, and then the connection is cut. Where nobody
waits for that answer any more, it goes on as far behind answers, and then no further: two peers that have given up
calls would wait for each other. For the same reason what is said of channels holds it up from ``most_words`` bytes on,
which are enough to say the last of all that may be open.

Invariants

- The reader sends nothing itself: an answer may have to wait for room, and the next message must not.
- ``asked``, ``backlog`` and ``unsent`` are the bytes of the three kinds (of what was received, the memory that it
  takes), MESSAGE_COST added for each message.
- Whoever makes one of the last two smaller calls `go_on`, so that nobody waits in ``proceed`` (the reader)
  or ``room`` (methods to be begun) without need. A method that is begun wakes the next, while there is room.
- ``running`` has the calls that are served and not answered, by id; each can be cancelled.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from types import GeneratorType
from typing import TYPE_CHECKING, Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.channels import bomb, schedule, shield, tasklet
from flower.channels._channel import channel
from flower.channels._waiting import Alarm
from flower.errors import Cancelled, ChannelClosed, Disconnected, ProtocolError, Timeout
from flower.rpc._builtin import BUILTIN
from flower.rpc._context import Context
from flower.rpc._faults import describe, describe_abort, describe_plain, fault, packed, rebuild_abort
from flower.rpc._line import CALL, CAST
from flower.rpc._outbound import ENDS
from flower.rpc._service import InvalidArguments
from flower.rpc._types import NotPlain
from flower.rpc._wire import MAX_MESSAGE, Unmade, short

if not cython.compiled:
    from flower.channels import _nocython as cython  # Cython's own stand-in, if it is installed, is slow
    from flower.channels._elsewhere import overfill
    from flower.channels._tasklet import start_in
    from flower.rpc._context import new_context, serves

if TYPE_CHECKING:
    from flower.rpc._session import Session

# Bytes of answers, or of notifications, that wait: above that the peer is held back ...
ENOUGH = 256 * 1024
# ... and above that it is refused, or cut off: twice the longest message, and more where that may be longer.
AT_MOST = 2 * MAX_MESSAGE
# Bytes that what is said of channels may take for each that either side may have opened: by default no less than those.
WORDS_OF_TWO = 2048
# Seconds between two looks whether a peer that is held back is still there, and signs of life that we give it.
A_LOOK = 1.0
# What a held message costs beside its bytes, so that a flood of tiny ones is bounded too.
MESSAGE_COST = 256
# Values of a generator that a plain peer gets, as an array: it has no streams.
MAX_LISTED = 100_000
# Values that are sent, or collected, until others have their turn, should the peer's credit never end.
IN_A_ROW = 256
# Milliseconds: the longest deadline that is watched, about three years.
MAX_DEADLINE = 10**11

# What is nobody's failure. Any other error of a method is told to its caller, SystemExit too.
_ENDS = (*ENDS, Cancelled)

log = logging.getLogger("flower.rpc")


class Flood(ProtocolError):
    """The peer sends more than we may hold."""


class _Watch:
    """Follows the channel of a stream: when its receiver is done or gone, the generator is cancelled where it waits.

    When the stream has come home, it is told as the channel's feeder.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def look(self) -> None:
        pass

    def stop(self, reason: Any, error: Any) -> None:
        self._context._cancel("cancelled")

    def on_low(self) -> None:
        pass

    def on_close(self) -> None:
        pass

    def on_stop(self, reason: Any, dropped: int) -> None:
        self._context.session.here(lambda: self.stop(reason, None))


class Serving:
    """The peer's calls of a `Session`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.running: dict[int, Context] = {}
        self.inflight = 0
        self.unbegun = 0  # of those in flight, the ones whose tasklet has not had its first turn
        self.asked = 0
        self.unsent = 0
        self.most = AT_MOST * max(MAX_MESSAGE, session.settings.max_message) // MAX_MESSAGE
        self.most_words = max(self.most, WORDS_OF_TWO * session.settings.max_channels)
        self.notices: deque[tuple[str, Any, Any, Any, int]] = deque()
        self.backlog = 0
        self.noticing = False
        self.noticed: Context | None = None  # the notification that is being served
        self._shown = 0.0  # when the peer was last told that we are there, though we do not read
        self.served = 0
        self.refused = 0
        self.last_id = 0
        self.proceed: channel[None] = channel(0, "the reader is held back")
        self.proceed.preference = 0
        self.room: channel[None] = channel(0, "answers wait to be sent")
        self.room.preference = 0

    # -- Requests

    def on_request(self, event: list[Any]) -> None:
        """A request has come: it is begun, or answered here."""
        if self.begin(event):
            return
        if self.unbegun and self.inflight >= self.session.max_inflight:
            schedule()  # those that came in the same piece have not had a turn yet
            if self.begin(event):
                return
        refusal = self._why_not(event)
        if refusal is not None:
            kind, text = refusal
            self.refuse(event[1], kind, text)
            self.session.streams.turn_away(event[3], text)

    def _why_not(self, event: list[Any]) -> tuple[str, str] | None:
        """Why a request can't be begun: a kind and a text; None if it is one of the protocol's, and answered here."""
        session = self.session
        method = event[2]
        args = event[3]
        if session.is_locked:
            return "invalid", "the first message here is $/hello, with a token"
        if type(args) is Unmade:
            return "invalid", f"the arguments hold {args.error}"
        if method == CALL and session.theirs is not None:
            method, args, *_ = _extended(args)
            if method is None:
                return "invalid", "the params of $/call are a name, an array and two maps"
        if method in session.exports:
            if session.draining:
                return "overloaded", "overloaded: about to leave, no new calls"
            limit = session.max_inflight
            what = f"{limit} requests" if self.inflight >= limit else f"{self.asked} bytes of requests"
            return "overloaded", f"overloaded: {what} are being served"
        function = BUILTIN.get(method)
        if function is None:
            return "unimplemented", f"unknown method: {printable(method)}"
        try:
            session.outbox.post(session.wire.reply(event[1], function(session, *args)))
        except KeyError:
            name = args[0] if type(args[0]) is str else short(args[0])
            return "unimplemented", f"unknown method: {printable(name)}"
        except Exception as error:
            return "invalid", f"{method}: {describe_plain(error)}"
        return None

    def begin(self, event: list[Any]) -> bool:
        """Start the tasklet of a request, if it is one that may be served now; says whether it is."""
        session = self.session
        method = event[2]
        args = event[3]
        cost: int = event[4]
        kwargs: Any = None
        meta: Any = None
        self.last_id = event[1]
        if method == CALL and session.theirs is not None:
            method, args, kwargs, meta = _extended(args)
        function = session.exports.get(method)
        if function is None or type(args) is Unmade or session.is_locked or session.draining:
            return False
        if self.inflight >= session.max_inflight or (self.inflight and self.asked + cost > self.most):
            return False
        context = new_context(session, method, meta)
        context._serving = self
        context._msgid = event[1]
        context._function = function
        context._args = args
        context._kwargs = kwargs
        context._cost = cost
        t = start_in(session.context, _serve, (context,), None)
        t.label = method
        t.daemon = session.daemon
        t.owner = context
        self.running[event[1]] = context
        self.inflight += 1
        self.unbegun += 1
        self.asked += cost + MESSAGE_COST
        if session.fault is not None:  # a finalizer has closed it, before this one was among those that are served
            context._cancel("cancelled")
        if meta:
            self._set_deadline(context, meta)
        return True

    def cancel(self, msgid: int, reason: str) -> None:
        """The peer does not want this answer any more. It gets one all the same."""
        context = self.running.get(msgid)
        if context is not None:
            context._cancel(reason)

    def abandon(self) -> None:
        """Nobody waits for any answer any more."""
        for context in list(self.running.values()):
            task = context._task
            if task is None or task is not self.session.scheduler.current:  # the one that hangs up may end as it likes
                context._cancel("cancelled")

    def _set_deadline(self, context: Context, meta: dict[str, Any]) -> None:
        left = meta.pop("dl", None)
        if type(left) is int and 0 <= left <= MAX_DEADLINE:
            scheduler = self.session.scheduler
            when = scheduler.now() + left / 1000
            context.deadline = when
            context._alarm = Alarm(context._expire)
            scheduler.set_alarm(context._alarm, when)

    def _serve(self, context: Context) -> None:
        self.unbegun -= 1
        self.served += 1
        session = self.session
        task: Any = session.scheduler.current
        context._task = task
        task.owner = None
        serves(context)
        try:
            self._answer(context)
        except Cancelled:  # by the caller, or of the method's own making: there is nobody else whom it concerns
            pass
        finally:
            self._end(context)

    def _end(self, context: Context) -> None:
        session = self.session
        context._ended = True
        if context._alarm is not None:
            session.scheduler.clear_alarm(context._alarm)
            context._alarm = None  # they refer to each other
        self.running.pop(context._msgid, None)
        self.inflight -= 1
        self.asked -= context._cost + MESSAGE_COST
        if session.awaited:
            session.answered()

    def killed(self, context: Context) -> None:
        """The tasklet of a request was killed before its first turn."""
        self.unbegun -= 1
        context._function = context._args = context._kwargs = None
        self.refuse(context._msgid, "cancelled", "cancelled: TaskletExit")
        self._end(context)

    def _answer(self, context: Context) -> None:
        """Call the method, and answer, whatever happens."""
        session = self.session
        msgid = context._msgid
        function = context._function
        args = context._args
        kwargs = context._kwargs
        context._function = context._args = context._kwargs = None
        stream: channel[Any] | None = None
        try:
            if context._reason is not None:
                raise Cancelled
            if self.unsent > ENOUGH:
                self._wait_for_room()
            result = function.call(args, kwargs)
            del args, kwargs
            if type(result) is GeneratorType:
                if session.early:
                    session.await_settled()
                if session.theirs is not None:
                    stream = channel(1, context.method)
                    values, result = result, stream.receiver
                else:
                    result = self._listed(result, context)
            try:
                data = session.wire.reply(msgid, result, self.most - self.unsent)
            except NotPlain:
                if not session.early:
                    raise
                session.await_settled()  # our caller was quicker than its answer to our hello
                data = session.wire.reply(msgid, result, self.most - self.unsent)
        except _ENDS as error:  # the caller learns of it, and our scheduler too
            kind = context._reason or "cancelled"
            with shield():  # the answer may have to wait for room, cancelled or not
                self._send(msgid, session.wire.refuse(msgid, self._fault(kind, f"{kind}: {type(error).__name__}")))
            raise
        except BaseException as error:
            log.debug("%s: %s failed", session.name, context.method, exc_info=error)
            with shield():
                self._send(msgid, self._refusal(msgid, self._told(error)))
            return
        fresh = session.take_fresh(data) if session.fresh else None
        if stream is None:
            context._ended = True
            if context._reason is None:
                self._send(msgid, data, fresh)
                return
        with shield():
            self._send(msgid, data, fresh)
        if stream is None:
            return
        del data, result
        outlet = stream._outlet
        if outlet is None:  # it is over already
            context._cancel("cancelled")
        else:
            outlet.followers.append(_Watch(context))
        self._stream(values, stream, context)

    def _stream(self, values: Any, stream: channel[Any], context: Context) -> None:
        """Send what a generator gives, until it ends, or nobody wants more."""
        try:
            for number, value in enumerate(values, 1):
                stream.send(value)
                if number % IN_A_ROW == 0:
                    schedule()
        except (ChannelClosed, Disconnected) as error:
            context._calm()
            if not stream.closing:
                self._fail_stream(stream, error, context)
            return
        except BaseException as error:
            self._fail_stream(stream, error, context)
            if isinstance(error, _ENDS):
                raise
            log.debug("%s: the stream of %s failed", self.session.name, context.method, exc_info=error)
        finally:
            context._ended = True
            try:
                self._close(values, context)
            finally:
                stream.close()

    def _close(self, values: Any, context: Context) -> None:
        """Have a generator tidy up, if it has not ended. What that raises, nobody waits for."""
        try:
            values.close()
        except _ENDS:
            raise
        except BaseException as error:
            log.error("%s: %s failed as it tidied up", self.session.name, context.method, exc_info=error)

    def _listed(self, values: Any, context: Context) -> list[Any]:
        """The values of a generator, for a peer that has no streams."""
        found: list[Any] = []
        size = 0
        wire = self.session.wire
        try:
            for value in values:
                found.append(value)
                size += len(value) if type(value) is bytes else len(wire.pack_value(value))
                if len(found) > MAX_LISTED or size > wire.most_sent:
                    most = f"{MAX_LISTED} values, or {wire.most_sent} bytes"
                    raise ValueError(f"a stream of more than {most}, can't be sent to a plain peer")
                if len(found) % IN_A_ROW == 0:
                    schedule()
        finally:
            self._close(values, context)
        return found

    def _fail_stream(self, stream: channel[Any], error: BaseException, context: Context) -> None:
        reason = context._reason if isinstance(error, Cancelled) else None
        if reason is not None:
            told = fault(reason, reason)
        else:
            told = describe_abort(error, self.session.settings.tracebacks)
        outlet = stream._outlet
        if outlet is not None and (reason is not None or not len(stream)):
            outlet.fail(told)
        elif not stream.closing:  # a value waits for credit, and goes first; or its receiver has come home
            overfill(stream, bomb(rebuild_abort(told)))

    def _told(self, error: BaseException) -> Any:
        if self.session.theirs is None:
            return describe_plain(error)
        kind = "invalid" if type(error) is InvalidArguments else "failed"
        return describe(error, kind, self.session.settings.tracebacks)

    def _fault(self, kind: str, text: str) -> Any:
        return text if self.session.theirs is None else fault(kind, text)

    def _wait_for_room(self) -> None:
        """Wait until the peer has read of the answers before this one."""
        while self.unsent > ENOUGH:
            self.room.receive()
        self._wake(self.room)  # the next may begin, too

    def _send(self, msgid: int, data: bytes, fresh: Any = None) -> None:
        session = self.session
        if fresh is None and session.offer(data):
            return
        size = len(data) + MESSAGE_COST
        self.unsent += size
        try:
            session.put(data)
        except BaseException as error:
            session.streams.roll_back(fresh)
            session.wire.reopen(msgid)  # the caller may still wait: of one who was killed as he waited for room
            session.outbox.post(self._refusal(msgid, self._fault("cancelled", f"cancelled: {type(error).__name__}")))
            if not isinstance(error, OSError | ChannelClosed):
                raise
            session.give_up()  # the caller is gone, or we have hung up: there is nobody to tell
        else:
            if fresh is not None:
                session.streams.commit(fresh)
        finally:
            self.unsent -= size
            if self.unsent <= ENOUGH:
                self.go_on()

    def refuse(self, msgid: int, kind: str, text: str) -> None:
        """Answer without a tasklet of its own: there may be very many."""
        self.refused += 1
        self.session.outbox.post(self._refusal(msgid, self._fault(kind, text)))

    def _refusal(self, msgid: int, told: Any) -> bytes:
        wire: Any = self.session.wire
        return packed(partial(wire.refuse, msgid), told)

    # -- Notifications

    def on_notification(self, event: list[Any]) -> None:
        """A notification has come that is not one of the protocol's own."""
        session = self.session
        method = event[1]
        args = event[2]
        cost: int = event[3]
        kwargs: Any = None
        meta: Any = None
        if type(args) is Unmade:
            log.error("%s: the notification %s holds %s", session.name, printable(method), args.error)
            return
        if method == CAST and session.theirs is not None:
            method, args, kwargs, meta = _extended(args)
        function = session.exports.get(method)
        if function is None:
            log.debug("%s: unknown notification: %s", session.name, printable(str(method)))
            return
        self.notices.append((method, args, kwargs, meta, cost))
        self.backlog += cost + MESSAGE_COST
        if not self.noticing:
            self._begin_noticing()

    def _begin_noticing(self) -> None:
        self.noticing = True
        tasklet(self._serve_notices, label="notifications", daemon=self.session.daemon)()

    def _serve_notices(self) -> None:
        try:
            notices = self.notices
            while notices:
                method, args, kwargs, meta, cost = notices.popleft()
                self._notice(method, args, kwargs, meta, cost)
                del args, kwargs, meta
        finally:
            self.noticing = False
            if self.notices:  # this tasklet was killed, or interrupted: the rest are served by another
                self._begin_noticing()
            else:
                self.session.noticed()

    def drop_notices(self) -> None:
        """Those that wait are dropped, and the one that runs is cancelled."""
        self.notices.clear()
        context = self.noticed
        if context is not None and context._task is not self.session.scheduler.current:
            context._cancel("cancelled")

    def _notice(self, method: str, args: Any, kwargs: Any, meta: Any, cost: int) -> None:
        session = self.session
        context = new_context(session, method, meta)
        context._task = session.scheduler.current
        self.noticed = context
        serves(context)
        try:
            function = session.exports[method]
            result = function.call(args, kwargs)
            if type(result) is GeneratorType:
                raise TypeError("it streams, and has not run: of a notification, nobody takes the values")
        except ENDS:
            raise
        except BaseException as error:
            if context._reason is None or not isinstance(error, Cancelled):
                log.error("%s: the notification %s failed", session.name, method, exc_info=error)
        finally:
            context._ended = True
            self.noticed = None
            self.backlog -= cost + MESSAGE_COST
            if self.backlog <= ENOUGH:
                self.go_on()

    # -- Holding back

    @property
    def waiting(self) -> int:
        """Bytes that wait to be sent: of answers, those included that nobody waits with, and about channels."""
        return self.unsent + self.session.outbox.bytes + self.session.outbox.words

    def is_behind(self) -> bool:
        """Whether so much waits that the peer is to be held back."""
        outbox = self.session.outbox
        return self.backlog > ENOUGH or self.unsent + outbox.bytes > ENOUGH or outbox.words > self.most_words

    def _is_far_behind(self) -> bool:
        """Whether no more may wait, though an answer of the peer's is behind it."""
        outbox = self.session.outbox
        return self.unsent + outbox.bytes > self.most or outbox.words > self.most_words

    def hold_back(self) -> None:
        """Read no more until less waits, or until we wait for an answer, which may be behind it."""
        session = self.session
        pending, given_up = session.calls.pending, session.calls.given_up
        while self.is_behind() and session.fault is None:
            if len(pending) > len(given_up):
                if self.backlog > self.most:
                    raise Flood(f"{session.name}: it sends notifications faster than they are served")
                if self._is_far_behind():
                    raise Flood(f"{session.name}: it sends requests and does not read the answers")
                return
            if pending and self.backlog <= ENOUGH and not self._is_far_behind():
                return  # the peer may be held back likewise, behind an answer that nobody here waits for any more
            if session.is_at_end():
                return  # no more comes than what has, so it may all be read
            try:
                self.proceed.receive(A_LOOK)
            except Timeout:
                pass
            now = session.scheduler.now()
            if now - self._shown >= A_LOOK and session.theirs is not None and not session.outbox.writing:
                self._shown = now
                session.outbox.post(session.wire.notify("$/ping", []))  # what it may have asked is not read yet

    def go_on(self) -> None:
        """Less waits than before."""
        self._wake(self.proceed)
        self._wake(self.room)

    def _wake(self, waiting: channel[None]) -> None:
        if waiting.receivers.count:
            waiting.try_send(None)


def _serve(context: Context) -> None:
    """What the tasklet of a request runs."""
    cython.cast(Serving, context._serving)._serve(context)


def _extended(params: Any) -> tuple[Any, Any, Any, Any]:
    """Method, arguments, keyword arguments and metadata of a `$/call`; the method is None if they are none."""
    if isinstance(params, list) and len(params) == 4:
        method, args, kwargs, meta = params
        if type(method) is str and type(args) is list and type(kwargs) is dict and type(meta) is dict:
            if all(type(key) is str for key in kwargs):
                return method, args, kwargs, meta
    return None, None, None, None


def printable(name: str) -> str:
    """A name from the wire, for a text."""
    return ascii(name[:100])[1:-1]
