# cython: nonecheck=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""The calls that we make over one connection, until each has ended in exactly one way.

Invariants

- ``pending`` has a channel for each of our requests whose answer is outstanding, by id. An answer goes to its id's
  channel and nowhere else. Whoever stopped waiting leaves its channel there, so the id is not used again.
- A channel in ``_spare``, or ``_next``, is empty, and nobody knows it.
- A request that was packed is either sent whole, or taken back, and the ends of channels in it with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.channels import bomb
from flower.channels._channel import channel
from flower.channels._ends import Receiver
from flower.channels._failures import is_foreign
from flower.channels._scheduler import current_scheduler
from flower.channels._task import check_timeout
from flower.channels._waiting import Alarm
from flower.errors import Cancelled, ChannelClosed, Overloaded, RemoteError, Timeout
from flower.rpc._faults import fault as make_fault
from flower.rpc._faults import rebuild
from flower.rpc._hello import LEAST_MESSAGE
from flower.rpc._inbound import Inbound
from flower.rpc._line import CALL, CANCEL, CAST, Line
from flower.rpc._serving import ENOUGH, MAX_DEADLINE, Serving
from flower.rpc._types import NotPlain
from flower.rpc._wire import MAX_ID, Unmade

if TYPE_CHECKING:
    from flower.rpc._session import Session

if not cython.compiled:
    from flower.channels import _nocython as cython  # Cython's own stand-in, if it is installed, is slow
    from flower.rpc._context import present_context

# Reply channels that are kept for the next call.
SPARE = 64
# Bytes of a request that is sent before the peer has told its limits: what any peer takes.
EARLY = LEAST_MESSAGE


class Calls:
    """Our side of the calls of a `Session`."""

    def __init__(self, session: Session, serving: Serving) -> None:
        self._session: Any = session
        self._line: Line = session  # the same, for what is compiled
        self._serving = serving
        # The first of the spare ones: with one call at a time, no list grows and shrinks.
        self._next: channel[Any] | None = None
        self._spare: list[channel[Any]] = []
        self.pending: dict[int, channel[Any]] = {}
        self.made = 0
        self.most = MAX_ID  # calls at a time that the peer takes
        self.given_up: dict[int, str] = {}  # those of the pending ones that nobody waits for, and why

    def call(
        self,
        method: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call, and wait for the result."""
        spare = self._spare
        reply = self._next
        if reply is not None:
            self._next = None
            reply.label = method
        elif spare:
            reply = spare.pop()
            reply.label = method
        else:
            reply = self._new_reply(method)
        if timeout is None and present_context() is None:
            msgid = None if kwargs or meta else self._send_at_once(reply, method, args)
            if msgid is None:
                msgid = self._send(reply, method, args, kwargs, None, meta)
            try:
                result = reply._obtain(None)
            except BaseException as error:
                self._give_up(msgid, error)
                raise
        else:
            result = self._call_within(reply, method, args, kwargs, timeout, meta)
        if self._next is None:
            self._next = reply
        elif len(spare) < SPARE:
            spare.append(reply)
        return result

    def _call_within(self, reply: channel[Any], method: str, args: Any, kwargs: Any, timeout: Any, meta: Any) -> Any:
        line = self._line
        deadline, timeout = self._deadline(timeout)
        msgid = None
        try:
            msgid = self._send(reply, method, args, kwargs, deadline, meta)
            return reply._obtain(line.left(deadline))
        except Timeout as error:
            if msgid is not None:
                self._give_up(msgid, error)
            elif line.left(deadline) != 0.0:
                raise  # of our hello, and not of the call
            if isinstance(error, RemoteError) or is_foreign(error):
                raise
            raise Timeout(_unanswered(line.name, method, timeout)) from None
        except BaseException as error:
            if msgid is not None:
                self._give_up(msgid, error)
            raise

    def begin(
        self,
        method: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> channel[Any]:
        """Call, and give the channel on which the answer comes. Its receiver's close cancels the call."""
        deadline, timeout = self._deadline(timeout)
        reply = self._new_reply(method)
        try:
            msgid = self._send(reply, method, args, kwargs, deadline, meta)
        except Timeout:
            if self._line.left(deadline) != 0.0:
                raise  # of our hello, and not of the call
            raise Timeout(f"{self._line.name}: {method} could not be sent{_within(timeout)}") from None
        started = _Started(self, msgid, method, timeout)
        reply._feeder = started
        if msgid not in self.pending:  # it is over since it has left, before this tasklet had a turn again
            reply.close()
        elif deadline is not None:
            started.watch(deadline)
        return reply

    def stream(
        self,
        method: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Receiver[Any]:
        """Call a method that gives many values, and give the end on which they come."""
        deadline, limit = self._deadline(timeout)
        result = self.call(method, args, kwargs, timeout, meta)
        if isinstance(result, Receiver):
            feeder: Any = result._channel._feeder
            if deadline is not None and isinstance(feeder, Inbound):
                feeder.watch(deadline, f"{self._session.name}: the stream of {method} did not end{_within(limit)}")
            return result
        if isinstance(result, list):  # from a plain peer, which has no other way
            values: channel[Any] = channel(max(1, len(result)), method)
            for value in result:
                values.try_send(value)
            values.close()
            return values.receiver
        raise TypeError(f"{self._session.name}: {method} gives no stream, but {type(result).__name__}")

    def notify(
        self, method: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, meta: Any = None
    ) -> None:
        """Call, and want no answer."""
        session, line = self._session, self._line
        while True:
            if not line.is_free():
                session.check()
            if kwargs or meta:
                session.await_hello(f"{method} with keyword arguments or metadata")
                name = CAST
                params: Any = [method, list(args), dict(kwargs or {}), dict(meta or {})]
            else:
                name = method
                params = args
            try:
                data = line.wire.notify(name, params)
            except NotPlain as error:
                session.await_answer(error)
                continue
            if line.early and len(data) > EARLY:
                session.await_settled()
                continue
            fresh = line.take_fresh(data) if line.fresh else None
            try:
                line.put(data)
            except BaseException as error:
                self._unsent(error, fresh)
                raise
            if fresh is not None:
                session.streams.commit(fresh)
            return

    def answered(self, event: list[Any]) -> None:
        """An answer has come."""
        msgid = event[1]
        found = self.pending.get(msgid)
        if found is None:
            return
        reply: channel[Any] = found
        error = event[2]
        result = event[3]
        if error is not None:
            result = bomb(self._line.at_once(rebuild, error))
            if self.pending.get(msgid) is not found:
                return
        elif type(result) is Unmade:
            result = bomb(TypeError(f"{self._session.name}: the answer holds {result.error}"))
        del self.pending[msgid]
        if self.given_up:
            self.given_up.pop(msgid, None)
        if reply._feeder is not None:
            reply._feeder.answered(reply, result)
        else:
            reply.try_send(result)

    def fail(self) -> None:
        """The connection is over: whoever waits learns it now."""
        pending, self.pending = self.pending, {}
        self.given_up.clear()
        for reply in pending.values():
            failure = bomb(self._session.disconnected())
            if reply._feeder is not None:
                reply._feeder.answered(reply, failure)
            else:
                reply.try_send(failure)

    # -- Sending a request

    def _send_at_once(self, reply: channel[Any], method: str, args: Any) -> Any:
        """`_send`, where nothing is in the way, as for most calls. None: something is, and nothing has happened."""
        line = self._line
        if line.reader is None or line.early or not line.is_free() or len(self.pending) >= self.most:
            return None
        if self._serving.backlog > ENOUGH or self._serving.unsent > ENOUGH:
            return None
        wire = line.wire
        msgid = wire.call_plain(method, args)
        if msgid is None:
            return None
        self.pending[msgid] = reply  # now: to send it may run finalizers, which may close the connection
        if not line.offer(wire.packed):
            del self.pending[msgid]
            wire.take_back(msgid)
            return None
        self.made += 1
        return msgid

    def _send(self, reply: channel[Any], method: str, args: Any, kwargs: Any, deadline: float | None, meta: Any) -> int:
        session, line, serving = self._session, self._line, self._serving
        while True:
            if not line.is_free():
                session.check(deadline)
            if len(self.pending) >= self.most and not method.startswith("$/"):
                waiting = sum(1 for each in self.pending.values() if not each.label.startswith("$/"))
                if waiting >= self.most:
                    text = f"overloaded: {waiting} calls wait for {session.name}, and it takes no more at a time"
                    raise Overloaded(make_fault("overloaded", text))
            name: str = method
            params: Any = args
            if kwargs or meta or deadline is not None:
                if line.theirs is not None or session.await_hello(
                    f"{method} with keyword arguments or metadata", deadline, kwargs or meta
                ):
                    told = dict(meta) if meta else {}
                    seconds = line.left(deadline)
                    if seconds is not None and 1000 * seconds < MAX_DEADLINE:  # a longer one is none to the peer
                        told["dl"] = int(1000 * seconds) + 1  # milliseconds, rounded up
                    name = CALL
                    params = [method, list(args), dict(kwargs) if kwargs else {}, told]
            try:
                msgid, data = line.wire.call(name, params)
            except NotPlain as error:
                session.await_answer(error, deadline)
                continue
            if not line.early or len(data) <= EARLY:
                break
            line.wire.take_back(msgid)
            session.await_settled(line.left(deadline))  # and pack it again: it may be longer than the peer takes
        self.pending[msgid] = reply
        fresh = line.take_fresh(data) if line.fresh else None
        try:
            if serving.backlog > ENOUGH or serving.unsent > ENOUGH:
                serving.go_on()  # the answer may be behind what holds the reader back
            line.put(data, line.left(deadline))
        except BaseException as error:  # then not a byte of it was taken
            if self.pending.pop(msgid, None) is not None:
                line.wire.take_back(msgid)
            self._unsent(error, fresh)
            raise
        if fresh is not None:
            session.streams.commit(fresh)
        self.made += 1
        return msgid

    def _deadline(self, timeout: float | None) -> tuple[float | None, float | None]:
        """When the call is over, on the scheduler's clock; and the timeout, None where our own caller's is sooner."""
        timeout = check_timeout(timeout)
        context = present_context()
        inherited = None if context is None else context.deadline
        if timeout is None:
            return inherited, None
        own = self._line.scheduler.now() + timeout
        if inherited is not None and inherited < own:
            return inherited, None
        return own, timeout

    def _unsent(self, error: BaseException, fresh: Any) -> None:
        """A message did not leave. Raises Disconnected in place of the error where nothing can be sent any more."""
        session = self._session
        session.streams.roll_back(fresh)
        if isinstance(error, OSError | ChannelClosed) and not isinstance(error, Timeout) and self._is_mute():
            session.mute = True
            raise session.disconnected(error, not_run=True) from error

    def _is_mute(self) -> bool:
        """Whether nothing can be sent any more: an error that came as a tasklet waited for room may be another's."""
        try:
            self._line.put(b"", 0)
        except Timeout:
            pass
        except (OSError, ChannelClosed):
            return True
        return False

    def _give_up(self, msgid: int, error: BaseException) -> None:
        """Nobody waits for this answer any more: the peer may stop working on it."""
        session = self._session
        if msgid in self.pending and session.fault is None:
            why = "deadline" if isinstance(error, TimeoutError) else "cancelled"
            self.given_up[msgid] = why
            if session.theirs is not None:
                session.outbox.post(session.wire.notify(CANCEL, [msgid, why]))

    def settled(self) -> None:
        """It is a Flower peer: what was given up before it said so, it may stop."""
        for msgid, why in list(self.given_up.items()):
            self._session.outbox.post(self._session.wire.notify(CANCEL, [msgid, why]))

    def _new_reply(self, method: str) -> channel[Any]:
        reply: channel[Any] = channel(1, method)
        reply._external = True
        return reply


class _Started:
    """Behind the reply of a call that was begun: when it is closed by its receiver, or its time is over."""

    def __init__(self, calls: Calls, msgid: int, method: str, timeout: float | None) -> None:
        self._calls = calls
        self._msgid = msgid
        self._method = method
        self._timeout = timeout
        self._alarm: Alarm | None = None

    def watch(self, deadline: float) -> None:
        self._alarm = Alarm(self._expire)
        current_scheduler().set_alarm(self._alarm, deadline)

    def on_low(self) -> None:
        pass

    def on_close(self) -> None:
        pass

    def on_stop(self, reason: Any, dropped: int) -> None:
        """The receiver gives up. In any thread."""
        calls, msgid = self._calls, self._msgid
        calls._session.here(lambda: calls._give_up(msgid, Cancelled()))

    def answered(self, reply: channel[Any], result: Any) -> None:
        if self._alarm is not None:
            current_scheduler().clear_alarm(self._alarm)
        try:
            reply.try_send(result)
        except ChannelClosed:  # nobody wants it
            pass
        reply.close()

    def _expire(self, now: float) -> None:
        calls = self._calls
        reply = calls.pending.get(self._msgid)
        if reply is not None and not reply.closing:
            error = Timeout(_unanswered(calls._session.name, self._method, self._timeout))
            calls._give_up(self._msgid, error)
            reply.try_send(bomb(error))
            reply.close()


def _unanswered(name: str, method: str, timeout: float | None) -> str:
    return f"{name}: {method} gave no answer{_within(timeout)}"


def _within(timeout: float | None) -> str:
    return " within the time that our own caller gave" if timeout is None else f" within {timeout} s"
