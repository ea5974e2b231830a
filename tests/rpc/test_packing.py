"""What finalizers, and the objects that are packed, may do while a message is made: send, call, close, wait, fail."""

from __future__ import annotations

import dataclasses
import datetime
import gc
from collections.abc import Iterator
from typing import Any

import pytest

import flower
from flower import channel, rpc
from flower.errors import ChannelClosed, Disconnected, RemoteError
from flower.rpc import Settings
from tests.net.support import NEVER, until
from tests.rpc.support import (
    URL,
    Calc,
    Packs,
    greet,
    raw_client,
    served,
)

pytestmark = pytest.mark.usefixtures("loop")


class Fires:
    """Garbage in a circle, which does something when it is collected."""

    def __init__(self, do: Any) -> None:
        self.me = self
        self.do = do

    def __del__(self) -> None:
        self.do()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["notify", "start", "send", "channel"])
@pytest.mark.parametrize("most", [4096, 1 << 24])
def test_a_finalizer_that_sends_as_something_is_packed(what: str, most: int) -> None:
    before = gc.get_threshold()
    for threshold in range(1, 60):
        service = Calc()
        with served(service, settings=Settings(max_message=most)) as (_, peer):
            peer.call("add", 1, 2)
            ch: channel[Any] = channel(20)
            peer.call("note", ch.receiver)
            values = service.log.pop()
            begun: list[Any] = []
            notice = ("from a finalizer",)
            do = {
                "notify": lambda: peer.notify("note", notice),  # noqa: B023
                "start": lambda: begun.append(peer.start("echo", {"a": (1, 2)})),  # noqa: B023
                "send": lambda: ch.try_send(("late",)),  # noqa: B023
                "channel": lambda: peer.notify("note", channel(1).sender),
            }[what]
            Fires(do)
            gc.disable()
            try:
                gc.set_threshold(threshold, 1000, 1000)
                gc.enable()
                for n in range(15):
                    pairs = [(n, str(n)), {"n": [n, (n,)]}]
                    assert peer.call("echo", pairs) == pairs
                    ch.send((n,), NEVER)
            finally:
                gc.set_threshold(*before)
                gc.enable()
            gc.collect()
            assert peer.call("add", 1, 2) == 3
            assert all(reply.receive(NEVER) == {"a": (1, 2)} for reply in begun)
            ch.close()
            assert [value for value in values if value != ("late",)] == [(n,) for n in range(15)]
            service.log.clear()
            del values


def test_a_call_ends_whose_connection_a_finalizer_closes_as_it_is_sent() -> None:
    before = gc.get_threshold()
    for threshold in range(1, 20):
        with served() as (_, peer):
            peer.call("add", 1, 2)
            gc.disable()
            hoard = [[] for _ in range(500)]  # a new list, or a tuple, is an allocation then, which may collect
            hoard += [(n,) for n in range(5000)]
            peer.notify("note", 1)

            def call(threshold: int = threshold, peer: rpc.Peer = peer) -> Any:
                flower.go(int)  # what is sent now is gathered until that has had its turn
                gc.collect()
                Fires(peer.close)
                gc.set_threshold(threshold, 1000, 1000)
                gc.enable()
                try:
                    return peer.call("add", 1, 2)
                except Disconnected:
                    return None

            try:
                assert flower.go(call).join(NEVER) in (None, 3)
            finally:
                gc.set_threshold(*before)
                gc.enable()
            del hoard


def test_what_packs_an_object_may_send_and_begin_calls() -> None:
    with served() as (server, peer), rpc.connect(server.url) as other:
        other.ping()

        def chat() -> Any:
            peer.notify("note", (1, 2))
            other.notify("note", {"a": (1,)})
            inner.append(channel(1))
            begun.append(peer.start("echo", [inner[-1].sender, (3, 4)]))
            return [1, (2,)]

        begun: list[Any] = []
        inner: list[channel[Any]] = []
        ch: channel[Any] = channel(1)
        answer = peer.call("echo", [ch.sender, Packs(chat), ch.receiver, Packs(chat)])
        assert answer[1::2] == [[1, (2,)]] * 2
        answer[0].send("through both", NEVER)
        assert answer[2].receive(NEVER) == "through both"
        for reply, its in zip(begun, inner, strict=True):
            sender, rest = reply.receive(NEVER)
            assert rest == (3, 4)
            sender.send("its own", NEVER)
            assert its.receive(NEVER) == "its own"
            del sender
        assert other.call("add", 1, 2) == 3


class Slow:
    """One that waits where it should not."""

    def __init__(self, there: bool) -> None:
        self.there = there


class SlowError(Exception):
    def __new__(cls, *args: Any) -> Any:
        flower.after(0).receive()
        return super().__new__(cls, *args)


def to(slow: Slow) -> bool:
    if not slow.there:
        flower.after(0).receive()
    return slow.there


def of(there: bool) -> Slow:
    flower.after(0).receive()
    return Slow(there)


rpc.register(Slow, name="tests.Slow", to=to, of=of)
rpc.register(SlowError, name="tests.SlowError")


class Slowly(Calc):
    def receive(self, receiver: Any) -> list[Any]:
        return list(receiver)

    def give(self, there: bool) -> Any:
        return Slow(there)

    def fail(self) -> None:
        raise SlowError()


def test_what_packs_or_makes_an_object_may_not_wait() -> None:
    with served(Slowly()) as (_, peer):
        for call, error in [
            (lambda: peer.call("echo", Slow(False)), RuntimeError),
            (lambda: peer.call("echo", Slow(True)), rpc.InvalidArguments),
            (lambda: peer.call("give", False), RemoteError),
            (lambda: peer.call("give", True), TypeError),
        ]:
            with pytest.raises(error, match="blocking is not possible"):
                call()
        with pytest.raises(RemoteError, match="SlowError") as caught:
            peer.call("fail")
        assert not isinstance(caught.value, SlowError)
        for capacity in (0, 1):
            ch: channel[Any] = channel(capacity)
            reply = peer.start("receive", ch.receiver)
            with pytest.raises((RuntimeError, ChannelClosed), match=r"blocking is not possible|channel has failed"):
                for _ in range(3):  # the first may be held, and fail later
                    ch.send(Slow(False), NEVER)
            ch.close()
            try:
                reply.receive(NEVER)
            except RemoteError as failure:
                assert "blocking is not possible" in str(failure)
            assert peer.call("add", 1, 2) == 3


class SlowZone(datetime.tzinfo):
    def utcoffset(self, _: Any) -> datetime.timedelta:
        flower.schedule()
        return datetime.timedelta(0)


class SlowTuple(tuple[int, ...]):
    def __iter__(self) -> Iterator[int]:
        flower.schedule()
        return super().__iter__()


class SlowList(list[int]):
    def __iter__(self) -> Iterator[int]:
        flower.schedule()
        return super().__iter__()


@rpc.register
@dataclasses.dataclass(frozen=True)
class SlowHash:
    number: int

    def __hash__(self) -> int:
        if self.number:
            flower.schedule()
        return 1


def test_no_code_of_a_user_may_wait_as_values_are_packed_or_made() -> None:
    with served() as (_, peer):
        late = datetime.datetime(2000, 1, 1, tzinfo=SlowZone())
        for value in (late, SlowTuple((1, 2)), SlowList((1, 2))):
            with pytest.raises(RuntimeError, match="blocking is not possible"):
                peer.call("echo", value)
        members = {SlowHash(0)}
        object.__setattr__(next(iter(members)), "number", 1)
        with pytest.raises(rpc.InvalidArguments, match="blocking is not possible"):
            peer.call("echo", members)
        assert peer.call("add", 1, 2) == 3


@pytest.mark.slow
def test_the_ends_of_a_message_stay_its_own_whatever_a_finalizer_packs() -> None:
    class Fires:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            fired.append(None)
            peer.notify("note", (1, 2))

    fired: list[None] = []
    before = gc.get_threshold()
    service = Calc()
    with served(service) as (_, peer):
        peer.ping()
        for threshold in range(1, 60):
            channels: list[channel[int]] = [channel(1) for _ in range(4)]
            gc.collect()
            gc.disable()
            Fires()
            try:
                gc.set_threshold(threshold, 1000, 1000)
                gc.enable()
                reply = peer.start("note", [ch.receiver for ch in channels])
            finally:
                gc.set_threshold(*before)
            gc.collect()
            reply.receive(NEVER)
            got = next(value for value in service.log if isinstance(value, list))
            for n, (ch, receiver) in enumerate(zip(channels, got, strict=True)):
                ch.send(n, NEVER)
                assert receiver.receive(NEVER) == n
            service.log.clear()
            del got, receiver
    assert len(fired) == 59


def test_the_ends_of_an_answer_stay_its_own_whatever_leaves_before_it() -> None:
    """What goes home sends first what was sent on it: another end, whose channel sends tuples at once."""
    mine: channel[Any] = channel(5)

    def use(sender: Any) -> Any:
        inner: channel[Any] = channel(5)
        inner.send((1, 2))
        inner.send((3, 4))
        sender.send(["padding", inner.receiver], NEVER)
        return sender, mine.receiver

    with served({"use": use}) as (_, peer):
        ch: channel[Any] = channel(10)
        sender, receiver = peer.call("use", ch.sender)
        _, inner = ch.receive(NEVER)
        assert [inner.receive(NEVER), inner.receive(NEVER)] == [(1, 2), (3, 4)]
        mine.send("for mine", NEVER)
        assert receiver.receive(NEVER) == "for mine"
        sender.send("home", NEVER)
        assert ch.receive(NEVER) == "home"
        del sender, receiver, inner


def test_an_end_of_a_channel_is_no_reason() -> None:
    with served() as (_, peer):
        ch: channel[Any] = channel(1)
        peer.start("wait", ch.sender)
        until(lambda: bool(peer._session.streams.inbound))
        ch.receiver.close(channel(1).receiver)
        assert peer.call("add", 1, 2) == 3
        until(lambda: not peer._session.streams.outbound)
        assert not peer._session.fresh


def test_an_end_that_was_given_by_keyword_is_dropped_when_a_generator_lets_go_of_it() -> None:
    gate = channel[None]()

    def use(out: Any) -> Iterator[int]:
        del out
        yield 1
        gate.receive(NEVER)

    with served({"use": use}) as (_, peer):
        ch: channel[Any] = channel(1)
        stream = peer.stream("use", out=ch.sender)
        with pytest.raises(rpc.RemoteAbort, match="was dropped"):
            ch.receive(NEVER)
        stream.close()


def test_credit_holds_for_what_is_sent_as_a_value_is_packed() -> None:
    with rpc.serve(URL, {"open": lambda: ch.receiver}) as server, raw_client(server) as raw:
        ch: channel[Any] = channel(5)
        greet(raw, chan_items=1)
        raw.send([0, 2, "open", []])
        assert raw.receive()[1:3] == [2, None]
        ch.send(Packs(lambda: ch.try_send("inner")), NEVER)
        assert raw.receive()[1] == "$/d"
        raw.send([0, 3, "$/ping", []])
        assert raw.receive() == [1, 3, None, None]  # there is no second value, for which there was no credit
        raw.conn.abort()
