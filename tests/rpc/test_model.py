"""Two sessions over a link that delays, splits and cuts, against a model of what each side may see.

The invariants: a call ends in exactly one of a result (that which it asked for), the remote error, a cancellation, a
lost connection. The values of a channel are received in the order in which they were sent, each once; a clean end comes
after all of them, and only if the sender closed; anything else is an error. No more is under way than credit allows.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

import flower
from flower import ChannelClosed, channel
from flower.errors import ChannelBroken, Disconnected, RemoteAbort, RemoteError
from flower.rpc import Settings
from tests.rpc.link import deliver_all, linked, settle

WINDOW = 3
LIMITS = Settings(channel_items=WINDOW, channel_bytes=300, max_frame=256, tracebacks=False)
NOTHING = object()


class Stream:
    """What the model knows of one channel."""

    def __init__(self, number: int, sender: Any, receiver: Any, capacity: float, home: int) -> None:
        self.number = number
        self.sender = sender
        self.receiver = receiver
        self.capacity = capacity
        self.home = home
        self.sent: list[Any] = []
        self.received = 0
        self.closed = False  # by the sender
        self.failed = False
        self.stopped = False  # by the receiver
        self.ended: Any = None  # what the receiver has seen of its end


class Call:
    """A call in a tasklet of its own, and how it ended."""

    def __init__(self, session: Any, what: str, value: Any, *args: Any) -> None:
        self.what = what
        self.value = value
        self.result: Any = NOTHING
        self.error: BaseException | None = None
        self.task = flower.go(self.run, session, what, *args)

    def run(self, session: Any, *args: Any) -> None:
        try:
            self.result = session.call(*args)
        except BaseException as error:
            self.error = error

    def check(self, *errors: type[BaseException]) -> None:
        """It has ended, in one of the ways that it may."""
        assert not self.task.alive, f"{self.what} has not ended"
        if self.error is None:
            assert self.what != "fail"
            assert self.result == self.value
        elif self.what == "fail" and isinstance(self.error, RemoteError):
            assert "KeyError" in str(self.error)  # a string, if it was told before the hello came
        else:
            assert isinstance(self.error, errors), repr(self.error)


class Sessions(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, Any] = {}
        self.gates: dict[int, Any] = {}
        exports = {"echo": lambda x: x, "fail": self.fail, "keep": self.keep, "wait": self.wait}
        self.sessions = linked(exports, exports, LIMITS)
        self.sessions[0].conn.deliver(1 << 20)  # the hello; its answer comes when it comes
        settle()
        self.calls: list[Call] = []
        self.streams: list[Stream] = []
        self.pending: list[tuple[Stream, Any]] = []
        self.cut_off = False
        self.count = 0

    # -- What they serve

    def fail(self, text: str) -> None:
        raise KeyError(text)

    def keep(self, number: int, end: Any) -> None:
        self.kept[number] = end

    def wait(self, number: int) -> int:
        gate = self.gates[number] = channel()
        gate._external = True
        gate.receive()
        return number

    # -- The link

    @rule(side=st.integers(0, 1), count=st.one_of(st.just(1 << 20), st.integers(1, 40)))
    def deliver(self, side: int, count: int) -> None:
        self.sessions[side].conn.deliver(count)
        settle()

    @rule(side=st.integers(0, 1))
    def run(self, side: int) -> None:
        settle()

    @precondition(lambda self: not self.cut_off and self.count > 5)
    @rule(how=st.sampled_from(["close", "reset", "drop"]), side=st.integers(0, 1), odds=st.integers(0, 3))
    def cut(self, how: str, side: int, odds: int) -> None:
        if odds:
            return
        self.cut_off = True
        if how == "close":
            self.sessions[side].close()
            settle()
            self.sessions[side].conn.deliver(1 << 30)
        else:
            for session in self.sessions:
                session.conn.cut(ConnectionResetError("cut") if how == "reset" else None)
        settle()

    # -- Calls

    @rule(side=st.integers(0, 1), value=st.one_of(st.integers(), st.text(max_size=400), st.tuples(st.booleans())))
    def call(self, side: int, value: Any) -> None:
        self.calls.append(Call(self.sessions[side], "echo", value, (value,)))
        settle()

    @rule(side=st.integers(0, 1))
    def call_that_fails(self, side: int) -> None:
        self.calls.append(Call(self.sessions[side], "fail", None, ("why",)))
        settle()

    @rule(side=st.integers(0, 1), kwargs=st.booleans())
    def call_that_waits(self, side: int, kwargs: bool) -> None:
        self.count += 1
        args: Any = ((), {"number": self.count}) if kwargs else ((self.count,),)
        self.calls.append(Call(self.sessions[side], "wait", self.count, *args))
        settle()

    @precondition(lambda self: self.gates)
    @rule(data=st.data())
    def open_a_gate(self, data: Any) -> None:
        gate = self.gates.pop(data.draw(st.sampled_from(sorted(self.gates))))
        gate.try_send(None)
        settle()

    @precondition(lambda self: any(call.what != "keep" for call in self.calls))
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        call = data.draw(st.sampled_from([c for c in self.calls if c.what != "keep"]))
        self.calls.remove(call)
        call.task.kill()
        call.check(flower.TaskletExit, Disconnected)
        settle()

    # -- Channels

    @rule(side=st.integers(0, 1), capacity=st.sampled_from([0, 1, 5]), give=st.sampled_from(["sender", "receiver"]))
    def open_channel(self, side: int, capacity: float, give: str) -> None:
        self.count += 1
        ch = channel(capacity)
        ch._external = True
        stream = Stream(self.count, ch.sender, ch.receiver, capacity, side)
        call = Call(self.sessions[side], "keep", None, (self.count, getattr(ch, give)))
        setattr(stream, give, None)
        self.calls.append(call)
        self.pending.append((stream, give))
        self.streams.append(stream)
        settle()

    def arrived(self) -> None:
        for stream, give in list(self.pending):
            if stream.number in self.kept:
                setattr(stream, give, self.kept.pop(stream.number))
                self.pending.remove((stream, give))

    def some(self, data: Any, end: str) -> Stream | None:
        self.arrived()
        ready = [s for s in self.streams if getattr(s, end) is not None]
        return data.draw(st.sampled_from(ready)) if ready else None

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), value=st.one_of(st.integers(), st.text(max_size=20), st.binary(max_size=900)))
    def send(self, data: Any, value: Any) -> None:
        stream = self.some(data, "sender")
        if stream is None:
            return
        try:
            if stream.sender.try_send(value):
                stream.sent.append(value)
        except ChannelClosed:
            assert stream.closed or stream.stopped or stream.failed or self.cut_off
        except ChannelBroken as error:
            assert self.cut_off
            assert error.undelivered + error.maybe <= len(stream.sent)
        settle()

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), times=st.integers(1, 5))
    def receive(self, data: Any, times: int) -> None:
        stream = self.some(data, "receiver")
        if stream is not None:
            for _ in range(times):
                self.take(stream)
            settle()

    def take(self, stream: Stream) -> bool:
        if stream.ended is not None:
            return False
        try:
            value = stream.receiver.try_receive(NOTHING)
        except (ChannelClosed, ChannelBroken, RemoteAbort, RemoteError) as error:
            stream.ended = error
            if isinstance(error, ChannelClosed):
                assert stream.closed or stream.stopped
                assert stream.stopped or stream.received == len(stream.sent)
            elif isinstance(error, RemoteAbort):
                assert stream.failed or self.cut_off
            return False
        if value is NOTHING:
            return False
        assert value == stream.sent[stream.received]
        stream.received += 1
        return True

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def receive_waiting(self, data: Any) -> None:
        """A tasklet waits, and gives up if nothing comes: the value is left for the next."""
        stream = self.some(data, "receiver")
        if stream is None or stream.ended is not None:
            return
        got: list[Any] = []
        ch = stream.receiver

        def wait() -> None:
            try:
                got.append(ch.receive())
            except (ChannelClosed, ChannelBroken, RemoteAbort) as error:
                stream.ended = error

        t = flower.go(wait)
        settle()
        for session in self.sessions:
            session.conn.deliver(1 << 20)
        settle()
        t.kill()
        if got:
            assert got[0] == stream.sent[stream.received]
            stream.received += 1
        settle()

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), how=st.sampled_from(["close", "drop", "fail"]))
    def end_sender(self, data: Any, how: str) -> None:
        stream = self.some(data, "sender")
        if stream is None:
            return
        if how == "close":
            stream.closed = True
            stream.sender.close()
        elif how == "drop":
            stream.failed = True
        elif stream.sender._channel._outlet is not None:
            stream.failed = True
            stream.sender._channel._outlet.fail({"k": "failed", "t": "", "m": "on purpose"})
        if how != "fail":
            stream.sender = None
        settle()

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), how=st.sampled_from(["close", "drop"]))
    def end_receiver(self, data: Any, how: str) -> None:
        stream = self.some(data, "receiver")
        if stream is None:
            return
        stream.stopped = True
        stream.ended = how
        if how == "close":
            stream.receiver.close("enough")
        stream.receiver = None
        settle()

    # -- What holds at any time

    @invariant()
    def no_more_is_under_way_than_credit_allows(self) -> None:
        for session in self.sessions:
            for inbound in session.streams.inbound.values():
                assert inbound.received <= inbound.granted or inbound.stopped
            for outbound in session.streams.outbound.values():
                assert outbound.taken <= outbound.sent <= max(outbound.max_items, outbound.sent)

    @invariant()
    def nobody_broke_the_protocol(self) -> None:
        for session in self.sessions:
            if not self.cut_off:
                assert session.fault is None

    def teardown(self) -> None:
        self.arrived()
        if not self.cut_off:
            deliver_all(*self.sessions)
            self.arrived()
            assert not self.pending
            self.finish_streams()
            for gate in self.gates.values():
                gate.try_send(None)
            deliver_all(*self.sessions)
            for gate in self.gates.values():  # those that began only now
                gate.try_send(None)
            deliver_all(*self.sessions)
            for call in self.calls:
                call.check()
            self.calls.clear()
            self.streams.clear()
            self.kept.clear()
            deliver_all(*self.sessions)
            for session in self.sessions:
                assert session.fault is None
                assert not len(session.streams)
                assert not session.calls.pending
                assert session.inflight == 0
        for session in self.sessions:
            session.close()
            session.conn.deliver(1 << 30)
        settle()
        for call in self.calls:
            call.check(Disconnected)
        for gate in self.gates.values():
            gate.try_send(None)
        self.kept.clear()
        for stream in self.streams:
            stream.sender = None
            while stream.receiver is not None and self.take(stream):
                pass
        self.streams.clear()
        settle()

    def finish_streams(self) -> None:
        """Close every sender, and receive what is left: it must be all."""
        for stream in self.streams:
            if stream.sender is not None and not stream.failed:
                stream.closed = True
                stream.sender.close()
            stream.sender = None
        idle = 0
        while idle < 2:
            deliver_all(*self.sessions)
            took = [self.take(s) for s in self.streams if s.receiver is not None]
            idle = 0 if any(took) else idle + 1
        for stream in self.streams:
            if stream.receiver is None:
                continue
            if stream.failed:
                assert stream.ended is None or isinstance(stream.ended, RemoteAbort | ChannelClosed)
            elif stream.capacity:
                assert isinstance(stream.ended, ChannelClosed), stream.ended
                assert stream.received == len(stream.sent)
            stream.receiver = None


@pytest.mark.slow
def test_two_sessions_and_a_link() -> None:
    run_state_machine_as_test(
        Sessions, settings=settings(max_examples=60, stateful_step_count=40, deadline=None, print_blob=True)
    )
