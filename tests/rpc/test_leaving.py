"""What becomes of an end between its packing and the message's leaving, and of what was sent meanwhile."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import pytest

import flower
from flower import channel, rpc
from flower.errors import ChannelBroken, ChannelClosed, RemoteAbort, RemoteError
from flower.rpc import Settings
from tests.net.support import NEVER, until
from tests.rpc import link
from tests.rpc.support import (
    URL,
    Calc,
    Far,
    Gives,
    Moves,
    Packs,
    served,
    settle,
)

pytestmark = pytest.mark.usefixtures("loop")


def test_a_channel_that_is_closed_before_its_message_is_rolled_back() -> None:
    with served() as (_, peer):
        ch: channel[Any] = channel(2)
        with pytest.raises(TypeError, match="can't be sent"):
            peer.call("echo", [ch.receiver, Packs(ch.close), object()])
        for _ in range(3):
            assert peer.call("add", 1, 2) == 3
        assert not len(peer._session.streams)


def test_a_channel_that_is_closed_while_what_opens_it_waits_behind_long_values() -> None:
    outer: channel[Any] = channel(10)
    with served({"open": lambda: outer.receiver}, ours=Settings(channel_bytes=1 << 22)) as (_, peer):
        values = peer.call("open")
        for _ in range(10):
            outer.send(bytes(300_000), NEVER)
        inner: channel[Any] = channel()
        outer.send(inner.receiver, NEVER)
        inner.close()
        for _ in range(10):
            values.receive(NEVER)
        assert list(values.receive(NEVER)) == []


@pytest.mark.parametrize("capacity", [0, 1])
@pytest.mark.parametrize("reason", [None, "done", LookupError("none left")])
@pytest.mark.parametrize("when", ["before", "as it is packed", "while it waits"])
def test_who_sends_learns_that_the_channel_is_closed(capacity: int, reason: Any, when: str) -> None:
    def close() -> None:
        if reason is None:
            ch.close()
        else:
            ch.receiver.close(reason)

    with served(Far()) as (_, peer):
        ch: channel[Any] = channel(capacity)
        if when == "before":
            close()
        learns = peer.start("send_on", ch.sender, Packs(close if when == "as it is packed" else str))
        if when == "while it waits":
            assert ch.receive(NEVER) == 1
            close()
        assert learns.receive(NEVER) == ("the receiver is done" if reason is None else str(reason))


def test_who_sends_over_a_node_in_the_middle_learns_that_the_channel_was_closed_on_the_way() -> None:
    def send_on(values: Any) -> Any:
        ch.receiver.close("done")
        until(lambda: values.closing)  # the middle knows of it
        return beyond.call("send_on", values, timeout=NEVER)

    with rpc.serve(URL, Far()) as far, rpc.connect(far.url) as beyond:
        with served({"send_on": send_on}) as (_, peer):
            ch: channel[Any] = channel(1)
            assert peer.call("send_on", ch.sender) == "done"
    settle()


def test_nobody_receives_from_an_end_that_is_on_its_way_home() -> None:
    def receive() -> None:
        assert values.try_receive("nothing") == "nothing"

    with served(Gives()) as (_, peer):
        values = peer.call("open", 5)
        assert values.receive(NEVER) == 0
        with pytest.raises(TypeError, match="can't be sent"):
            peer.call("take", values, Packs(receive), object())
        assert values.receive(NEVER) == 1
        with pytest.raises(ValueError, match="passed on already"):
            peer.call("take", values, values)
        assert peer.call("take", values, Packs(receive)) == [2, 3, 4]
        with pytest.raises(ChannelClosed, match="it was passed back"):
            values.receive(NEVER)
        values = peer.call("open", 5)
        waiting = flower.go(lambda: list(values))
        until(lambda: values._channel.balance < 0)
        with pytest.raises(ValueError, match="a tasklet waits"):
            peer.call("take", values)
        peer.call("close")
        assert waiting.join() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("leaves", [True, False])
def test_who_receives_from_an_end_that_is_on_its_way_home_waits_for_what_becomes_of_it(leaves: bool) -> None:
    service = Gives()
    with served(service) as (_, peer):
        values = peer.call("open", 2)
        streams = peer._session.streams
        fresh: list[Any] = []
        streams.export(values, fresh)
        waiting = flower.go(list, values)
        until(lambda: values._channel.balance < 0)
        service.made.send(2)
        if leaves:
            streams.commit(fresh)
        else:
            streams.roll_back(fresh)
            service.made.close()
        assert waiting.join(NEVER) == ([] if leaves else [0, 1, 2])


@pytest.mark.parametrize("what", ["more", "end", "end of many", "loss", "stop"])
def test_what_comes_for_an_end_that_does_not_go_home_after_all(what: str) -> None:
    service = Gives()
    with served(service) as (server, peer):
        values = peer.call("open", 60 if what == "end of many" else 2)
        streams = peer._session.streams
        fresh: list[Any] = []
        until(lambda: len(values._channel) >= 2)
        streams.export(values, fresh)
        feeder = values._channel._feeder
        if what == "more":
            service.made.send(2)
            until(lambda: feeder.received == 3)
            streams.roll_back(fresh)
            service.made.close()
        elif what.startswith("end"):
            service.made.close()
            until(lambda: feeder.stopped)
            streams.roll_back(fresh)
        elif what == "loss":
            next(iter(server._sessions)).close()
            until(lambda: feeder.stopped)
            streams.roll_back(fresh)
        else:
            values.close("enough")
            streams.roll_back(fresh)
            until(lambda: service.made.closing)
            with pytest.raises(ChannelClosed, match="enough"):
                service.made.send(2)
        if what == "loss":
            assert [values.receive(NEVER) for _ in range(2)] == [0, 1]
            with pytest.raises(ChannelBroken):
                values.receive(NEVER)
        else:
            count = {"more": 3, "end": 2, "end of many": 60, "stop": 0}[what]
            assert list(values) == list(range(count))


def test_an_end_that_has_come_back_from_further_on_goes_home_with_all_its_values() -> None:
    with rpc.serve(URL, Calc()) as far, rpc.connect(far.url) as beyond:
        with served(Gives()) as (_, peer):
            values = peer.call("open", 200)
            peer.call("close")
            values = beyond.call("echo", values)
            assert peer.call("take", values) == list(range(200))
    settle()


class Zone(datetime.tzinfo):
    """One that does something as a time is packed."""

    def __init__(self, do: Any) -> None:
        self.do = do

    def utcoffset(self, _: Any) -> datetime.timedelta:
        self.do()
        return datetime.timedelta(0)


def test_values_of_a_channel_that_are_packed_at_a_time() -> None:
    with served(Moves()) as (_, peer):
        ch: channel[Any] = channel(5)
        answer = peer.start("take", ch.receiver)
        until(lambda: ch._credit > 0)
        inner = datetime.datetime(2000, 1, 2, tzinfo=Zone(ch.close))
        ch.send(datetime.datetime(2000, 1, 1, tzinfo=Zone(lambda: ch.send(inner))))
        assert [value.day for value in answer.receive(NEVER)] == [2, 1]


@pytest.mark.parametrize("held", [False, True])
def test_what_packs_a_value_raises_system_exit(held: bool) -> None:
    def leave() -> None:
        raise SystemExit(3)

    gate: channel[None] = channel(1)

    def take(values: Any) -> list[Any]:
        gate.receive(NEVER)
        return list(values)

    with served({"take": take, "add": lambda a, b: a + b}, Settings(channel_items=1)) as (_, peer):
        ch: channel[Any] = channel(5)
        answer = peer.start("take", ch.receiver)
        until(lambda: ch._credit > 0)
        if held:
            ch.send("uses up the credit")
            ch.send(Packs(leave))
            ch.close()
        else:
            with pytest.raises(SystemExit):
                ch.send(Packs(leave))
            ch.close()
        gate.send(None)
        if held:
            with pytest.raises(RemoteError) as caught:
                answer.receive(NEVER)
            assert caught.value.error["t"] == "builtins.SystemExit"
        else:
            assert answer.receive(NEVER) == []
        assert peer.call("add", 1, 2) == 3


def test_a_session_that_is_closed_as_something_packed_ends_its_tasklet_is_closed() -> None:
    def leave() -> None:
        raise KeyboardInterrupt

    kept: list[Any] = []
    with served({"keep": kept.append}) as (_, peer):
        ch: channel[Any] = channel(5)
        peer.call("keep", ch.receiver)
        inner: channel[Any] = channel(5)
        inner.send(Packs(leave))
        ch.send(inner.receiver)  # it leaves with the flush, and with it what the inner one holds
        with pytest.raises(KeyboardInterrupt):
            peer.close()
        assert peer.closed
        with pytest.raises(ChannelBroken):
            ch.send(1)


def test_a_server_that_is_closed_as_something_packed_ends_its_tasklet_hangs_up_on_all() -> None:
    def leave() -> None:
        raise KeyboardInterrupt

    outs: list[Any] = []
    with (
        rpc.serve(URL, {"keep": outs.append}) as server,
        rpc.connect(server.url) as one,
        rpc.connect(server.url) as two,
    ):
        channels: list[channel[Any]] = [channel(5), channel(5)]
        one.call("keep", channels[0].sender)
        two.call("keep", channels[1].sender)
        inner: channel[Any] = channel(5)
        inner.send(Packs(leave))
        outs[0].send(inner.receiver)
        with pytest.raises(KeyboardInterrupt):
            server.close()
        until(lambda: one.closed and two.closed)


def test_a_generator_that_fails_when_its_stream_has_come_home() -> None:
    gate: channel[None] = channel()

    def numbers() -> Iterator[int]:
        yield 1
        gate.receive(NEVER)
        raise KeyError("the end")

    kept: list[Any] = []
    with served({"numbers": numbers, "keep": kept.append}) as (_, peer):
        peer.call("keep", peer.stream("numbers"))
        assert kept[0].receive(NEVER) == 1
        until(lambda: gate.balance < 0)
        gate.send(None, NEVER)
        with pytest.raises(KeyError, match="the end"):
            kept[0].receive(NEVER)
        with pytest.raises(ChannelClosed):
            kept[0].receive(NEVER)
        kept.clear()


def test_the_close_of_a_stream_that_has_come_home_cancels_its_generator() -> None:
    gate: channel[None] = channel()
    ended: list[str] = []

    def numbers() -> Iterator[int]:
        yield 1
        try:
            gate.receive(NEVER)
        except flower.Cancelled:
            ended.append("cancelled")
            raise

    kept: list[Any] = []
    with served({"numbers": numbers, "keep": kept.append}) as (_, peer):
        peer.call("keep", peer.stream("numbers"))
        assert kept[0].receive(NEVER) == 1
        until(lambda: gate.balance < 0)
        kept.pop().close()
        until(lambda: ended == ["cancelled"])


@pytest.mark.parametrize("other", [False, True])
def test_the_receiving_end_of_a_channel_that_local_senders_have_filled_is_passed_on(other: bool) -> None:
    senders: list[Any] = []

    def receive(receiver: Any) -> list[int]:
        return [receiver.receive(NEVER) for _ in range(8)]

    with served({"give": senders.append, "receive": receive}) as (server, peer), rpc.connect(server.url) as second:
        ch: channel[int] = channel(3)
        peer.call("give", ch.sender)
        ch.send_sequence(range(3))
        waiting = [flower.go(ch.send, n, NEVER) for n in (3, 4)]
        until(lambda: ch.balance == 5)
        answer = (second if other else peer).start("receive", ch.receiver)
        for n in range(5, 8):
            senders[0].send(n, NEVER)
        assert answer.receive(NEVER) == list(range(8))
        for t in waiting:
            t.join(NEVER)
        assert peer.call("give", None) is None
        senders.clear()


@pytest.mark.parametrize("then", ["home", "close", "drop"])
def test_what_a_node_in_the_middle_holds_is_not_lost_when_the_sending_end_goes(then: str) -> None:
    """The far node sends with the credit that it has, and the middle has none left of the owner's."""
    go_on: channel[None] = channel()

    def feed(sender: Any) -> Any:
        go_on.receive(NEVER)
        for n in range(10):
            assert sender.try_send(("far", n))
        if then == "close":
            sender.close()
        return sender if then == "home" else None

    with rpc.serve(URL, {"feed": feed}) as far, rpc.connect(far.url) as beyond:

        def relay(sender: Any) -> Any:
            fed = beyond.start("feed", sender)
            until(lambda: go_on.balance < 0)
            n = 0
            while sender.try_send(("middle", n)):
                n += 1
            go_on.send(None, NEVER)
            back = fed.receive(NEVER)
            return [back, n]

        with served({"relay": relay}) as (_, peer):
            ch: channel[Any] = channel(10)
            answer = peer.start("relay", ch.sender)
            back, count = answer.receive(NEVER)
            if then == "home":
                owner = flower.go(back.send, "own", NEVER)
            wanted = [("middle", n) for n in range(count)] + [("far", n) for n in range(10)]
            assert [ch.receive(NEVER) for _ in wanted] == wanted
            if then == "home":
                assert ch.receive(NEVER) == "own"
                owner.join(NEVER)
            elif then == "close":
                with pytest.raises(ChannelClosed):
                    ch.receive(NEVER)
            else:
                with pytest.raises(rpc.RemoteAbort, match="dropped"):
                    ch.receive(NEVER)
            del back
    settle()


def test_a_channel_that_ends_as_its_receiving_end_comes_home_says_what_is_lost() -> None:
    kept: list[Any] = []
    with served({"give": kept.append, "back": kept.pop}) as (_, peer):
        for taken in (0, 4):
            ch: channel[int] = channel(20)
            peer.call("give", ch.receiver)
            for n in range(taken):
                ch.send(n)
                assert kept[0].receive(NEVER) == n
            answer = peer.start("back")
            for n in range(taken, 10):
                ch.send(n)
            ch.close()
            receiver = answer.receive(NEVER)
            try:
                assert list(receiver) == list(range(taken, 10))  # uncompiled, all that came is read first
            except ChannelBroken as error:
                assert 10 - taken <= error.undelivered <= 10
        ch = channel(20)
        peer.call("give", ch.receiver)
        answer = peer.start("back")
        ch.close()
        assert list(answer.receive(NEVER)) == []


def test_an_end_that_comes_home_too_late_and_is_passed_on_tells_what_is_lost() -> None:
    kept: list[Any] = []
    near = link.linked({"keep": kept.append}, {"keep": kept.append})
    far = link.linked({}, {"keep": kept.append})
    link.deliver_all(*near, *far)

    def give(session: Any, end: Any) -> None:
        flower.go(session.call, "keep", (end,))
        link.settle()

    ch: channel[str] = channel(5)
    give(near[0], ch.receiver)
    link.deliver_all(*near)
    give(near[1], kept.pop())
    ch.send("as it is on its way home")
    ch.close()
    link.deliver_all(*near)
    give(far[0], kept.pop())
    link.deliver_all(*far)
    with pytest.raises(RemoteAbort, match="1 values are lost"):
        kept.pop().receive()
    for session in (*near, *far):
        session.close()
    link.settle()


def test_who_waits_here_for_a_channel_that_comes_home_gets_what_it_brings() -> None:
    kept: list[Any] = []
    with served({"give": kept.append, "back": kept.pop}) as (_, peer):
        ch: channel[int] = channel(20)
        peer.call("give", ch.receiver)
        ch.send_sequence(range(3))
        t = flower.go(ch.receive, NEVER)
        flower.schedule()
        receiver = peer.call("back")
        ch.send(3)
        ch.close()
        assert [t.join(NEVER), *receiver] == [0, 1, 2, 3]


def test_the_other_ends_of_a_message_are_alive_though_one_of_them_fails() -> None:
    def ends() -> None:
        raise flower.TaskletExit

    kept: list[Any] = []
    with served({"give": lambda *receivers: kept.extend(receivers)}) as (_, peer):
        one: channel[Any] = channel(1)
        other: channel[Any] = channel(1)
        one.send(Packs(ends))
        other.send("alive")
        t = flower.go(peer.call, "give", one.receiver, other.receiver)
        with pytest.raises(flower.TaskletKilled):
            t.join(NEVER)
        until(lambda: len(kept) == 2)
        assert kept[1].receive(NEVER) == "alive"
        kept.clear()
