"""Channels in messages: the edge cases, by their number in the protocol's description."""

from __future__ import annotations

import gc
from typing import Any

import pytest

import flower
from flower import ChannelClosed, Timeout, channel
from flower.errors import ChannelBroken, RemoteAbort, RemoteError
from flower.rpc import Settings
from tests.net.support import NEVER, rounds, until
from tests.rpc import link
from tests.rpc.support import (
    PLAIN,
    Streams,
    quiet,
    served,
    streaming,
)

pytestmark = pytest.mark.usefixtures("loop")


def test_1_a_channel_for_a_plain_peer() -> None:
    with served(Streams(), ours=PLAIN) as (_, peer):
        ch = channel(1)
        for end in (ch, ch.sender, ch.receiver):
            with pytest.raises(TypeError, match="Flower peer only"):
                peer.call("keep", end)
        ch.send(1)
        assert ch.receive() == 1
        assert peer.call("add", 1, 2) == 3


def test_2_encoding_fails_half_way() -> None:
    with streaming() as (_, session, _):
        ch = channel(2)
        for bad in (object(), ch):
            with pytest.raises(TypeError):
                session.call("keep", ([ch.sender, ch.receiver, bad],))
        assert len(session.streams) == 0
        ch.send("still here")
        assert ch.receive() == "still here"
        outer = channel(2)
        session.call("keep", (outer.receiver,))
        with pytest.raises(TypeError):
            outer.send([ch.receiver, object()])
        ch.send("and here")
        assert ch.receive() == "and here"
        assert len(session.streams) == 1


def test_2_a_message_that_finds_no_room_leaves_its_ends_here() -> None:
    """A request, a notification and an answer."""
    ch: channel[Any] = channel(2)
    answering: list[Any] = []

    def give() -> Any:
        answering.append(flower.getcurrent())
        return [ch.sender, ch.receiver]

    a, b = link.linked({"give": give}, {})
    link.deliver_all(a, b)
    a.conn.sent += bytes(link.ROOM)
    for do in (a.call, a.begin):
        with pytest.raises(Timeout):
            do("m", ([ch.sender, ch.receiver],), None, 0)
    with flower.move_on(0):
        a.notify("m", (ch.sender, ch.receiver))
    b.begin("give")
    b.conn.deliver(1 << 30)
    link.settle()
    assert len(a.streams) == 2
    answering[0].kill()
    link.settle()
    assert not len(a.streams)
    ch.send("still here")
    assert ch.receive() == "still here"
    a.close()
    b.close()
    link.settle()


def test_3_a_sending_end_twice_a_receiving_end_once() -> None:
    with streaming() as (_, session, other):
        ch = channel(2)
        for _ in range(2):
            session.begin("fill", (ch.sender, 1))
        got = [ch.receive(NEVER)]
        got += list(ch)
        assert sorted(got) in ([0], [0, 0])  # the first that closes it closes it for both
        moved = channel(2)
        session.call("keep", (moved.receiver,))
        with pytest.raises(ValueError, match="passed on already"):
            session.call("keep", (moved.receiver,))
        with pytest.raises(ValueError, match="passed on already"):
            session.call("keep", ([channel(1).receiver, moved.receiver],))
        moved.close()
        until(lambda: len(session.streams) == 0 or True)
        taken = channel()
        t = flower.go(taken.receive)
        rounds(1)
        with pytest.raises(ValueError, match="a tasklet waits"):
            session.call("keep", (taken.receiver,))
        taken.send(1)
        assert t.join() == 1
        assert other.fault is None


def test_4_a_sending_end_comes_home() -> None:
    with streaming() as (service, session, other):
        ch = channel(10)
        session.call("keep", (ch.sender,))
        for i in range(3):
            service.kept.send(i)
        home = session.call("give_back")
        assert home == ch.sender
        home.send(3)
        assert [ch.receive(NEVER) for _ in range(4)] == [0, 1, 2, 3]
        service.kept.close()
        assert list(ch) == []
        quiet(session, other)


def test_4_a_receiving_end_comes_home_with_what_nobody_took() -> None:
    with streaming() as (service, session, other):
        ch = channel(10)
        session.call("keep", (ch.receiver,))
        for i in range(5):
            ch.send(i)
        assert service.kept.receive(NEVER) == 0
        home = session.call("give_back")
        assert home == ch.receiver
        ch.send(5)
        ch.close()
        assert list(home) == [1, 2, 3, 4, 5]
        with pytest.raises(ChannelClosed):
            service.kept.receive()
        with pytest.raises(ValueError, match="passed on already"):
            session.call("give_back")
        quiet(session, other)


@pytest.mark.parametrize("end", ["close", "fail", "stop", "lost at the source", "lost at the sink"])
def test_5_three_nodes_values_that_are_received(end: str) -> None:
    with streaming() as (b, ab, ba), streaming() as (c, bc, cb):  # we are A for `ab`, and B for `bc`
        ch = channel(5)
        ab.call("keep", (ch.receiver,))
        bc.call("keep", (b.kept,))  # B passes on what it got from A
        b.kept = None
        for i in range(5):
            ch.send(i)
        assert [c.kept.receive(NEVER) for _ in range(5)] == list(range(5))
        if end == "close":
            ch.close()
            assert list(c.kept) == []
        elif end == "fail":
            ch.send_exception(KeyError, "why")
            with pytest.raises(KeyError, match="why"):
                c.kept.receive(NEVER)
            with pytest.raises(ChannelClosed):
                ch.send(1)
        elif end == "stop":
            c.kept.close("enough")
            with pytest.raises(ChannelClosed, match="enough") as caught:
                for _ in range(1000):
                    ch.send(1, NEVER)
            assert caught.value.reason == "enough"
        elif end == "lost at the source":
            ab.close()
            with pytest.raises(RemoteAbort) as lost:
                c.kept.receive(NEVER)
            assert lost.value.kind == "disconnected"
            with pytest.raises(ChannelBroken):
                ch.send(1)
        else:
            bc.close()
            with pytest.raises(ChannelBroken):
                c.kept.receive(NEVER)
            with pytest.raises(RemoteError):
                for _ in range(1000):
                    ch.send(1, NEVER)
        c.kept = None
        quiet(ab, ba, bc, cb)


@pytest.mark.parametrize("end", ["close", "fail", "stop"])
def test_5_three_nodes_values_that_are_sent(end: str) -> None:
    with streaming() as (b, ab, ba), streaming() as (c, bc, cb):
        ch = channel(5)
        ab.call("keep", (ch.sender,))
        bc.call("keep", (b.kept,))
        for i in range(20):
            if i >= 5:
                assert ch.receive(NEVER) == i - 5
            c.kept.send(i, NEVER)
        assert [ch.receive(NEVER) for _ in range(5)] == [15, 16, 17, 18, 19]
        if end == "close":
            c.kept.close()
            assert list(ch) == []
        elif end == "fail":
            c.kept.send_exception(KeyError, "why")
            with pytest.raises(KeyError, match="why"):
                ch.receive(NEVER)
        else:
            ch.receiver.close("enough")
            for sender in (c.kept, b.kept):
                with pytest.raises(ChannelClosed):
                    for _ in range(100):
                        sender.send(1, NEVER)
        b.kept = c.kept = None
        gc.collect()
        quiet(ab, ba, bc, cb)


def test_5_a_value_that_the_second_connection_does_not_carry_fails_on_both() -> None:
    last, ch = Streams(), channel(2)
    with served(last, Settings(max_message=4096)) as (_, onwards):
        onwards.call("add", 1, 2)
        with served({"pass_on": lambda receiver: onwards.call("keep", receiver)}) as (_, peer):
            peer.call("pass_on", ch.receiver)
            ch.send("x" * 10_000)
            with pytest.raises(RemoteAbort, match="4096 is the most"):
                last.kept.receive(NEVER)
            until(lambda: ch.closed)
            with pytest.raises(RemoteError, match="4096 is the most"):
                ch.send("more")
        last.kept = None


def test_5_only_the_credit_that_the_last_one_gave_is_passed_on() -> None:
    with streaming(channel_items=4) as (b, ab, _), streaming(channel_items=4) as (c, bc, _):
        sent = []
        ch = channel(1)
        ab.call("keep", (ch.receiver,))
        bc.call("keep", (b.kept,))
        b.kept = None

        def send() -> None:
            for i in range(100):
                ch.send(i)
                sent.append(i)
            ch.close()

        flower.go(send)
        rounds(50)
        assert len(sent) <= 10  # four at C, four at B, one held, one that waits
        assert list(c.kept) == list(range(100))


def test_6_ends_that_nobody_takes_are_stopped() -> None:
    with streaming() as (service, session, other):
        ch = channel(5)
        with pytest.raises(RemoteError, match="unknown method"):
            session.call("no such method", ([{"deep": ch.receiver}],))
        with pytest.raises(ChannelClosed, match="unknown method: no such method"):
            for _ in range(100):
                ch.send(1, NEVER)
        ch = channel(5)
        with pytest.raises(RemoteError, match="unknown method"):
            session.call("no such method", (ch.sender,))
        with pytest.raises(RemoteAbort, match="unknown method: no such method"):
            ch.receive(NEVER)
        ch = channel(5)
        session.call("drop", (ch.sender,))
        with pytest.raises(RemoteAbort, match="dropped"):
            ch.receive(NEVER)
        service.kept = channel(5).receiver
        t = flower.go(session.call, "slow_drop", (channel(1).sender,))
        until(lambda: service.gate.balance == -1)
        t.kill()
        quiet(session, other)
        inner, outer = channel(5), channel(5)
        session.call("keep", (outer.receiver,))
        outer.send([inner.receiver])
        outer.close()
        rounds(5)
        service.kept = None  # with a value that nobody has received
        with pytest.raises(ChannelClosed, match="dropped"):
            for _ in range(100):
                inner.send(1, NEVER)
        quiet(session, other)


def test_8_an_end_and_a_stop_that_cross() -> None:
    with streaming() as (service, session, other):
        ch = channel(5)
        session.call("keep", (ch.receiver,))
        ch.send(1)
        ch.close()
        service.kept.close("no more")
        quiet(session, other)
        assert session.call("add", (1, 1)) == 2


def test_9_large_values_go_in_pieces_and_one_may_go_beyond_the_credit() -> None:
    with streaming(channel_bytes=10_000, max_frame=1000) as (service, session, other):
        ch = channel(5)
        session.call("keep", (ch.receiver,))
        large = ["x" * 50_000, b"y" * 999, "z" * 100_000, 1]
        flower.go(lambda: (ch.send_sequence(large), ch.close()))
        rounds(5)
        assert session.call("add", (1, 1)) == 2
        assert list(service.kept) == large
        quiet(session, other)


@pytest.mark.parametrize(("size", "messages"), [(4096, 1), (65_536, 1), (65_636, 2), (300_000, 5)])
def test_9_bytes_of_a_whole_frame_go_in_one_message(size: int, messages: int) -> None:
    with streaming() as (service, session, _):
        ch = channel(1)
        session.call("keep", (ch.receiver,))
        (outbound,) = session.streams.outbound.values()
        until(lambda: not outbound.listed)
        ch.send(bytes(size))
        assert (outbound.sent_bytes - size) // 13 == messages  # each has 13 bytes beside the value, or 14
        assert size < outbound.sent_bytes <= size + 32 * messages
        assert service.kept.receive(NEVER) == bytes(size)
        ch.close()


@pytest.mark.parametrize("size", [9960, 9970, 9980, 9990, 10_000])
def test_9_bytes_that_are_about_as_long_as_a_message_may_be(size: int) -> None:
    with streaming(max_message=10_000) as (service, session, _):
        ch = channel(1)
        session.call("keep", (ch.receiver,))
        try:
            ch.send(bytes(size))
        except ValueError:
            assert size > 9960
            ch.send(b"")
        assert service.kept.receive(NEVER) in (bytes(size), b"")
        ch.close()


def test_9_a_value_that_is_too_long_is_a_local_error_and_the_channel_lives() -> None:
    with streaming(max_message=10_000) as (service, session, _):
        ch = channel(5)
        session.call("keep", (ch.receiver,))
        with pytest.raises(ValueError, match="10000 is the most"):
            ch.send("x" * 20_000)
        ch.send("short")
        assert service.kept.receive(NEVER) == "short"
        ch.close()


def test_11_credit_comes_back_for_those_who_only_look() -> None:
    with streaming(channel_items=1) as (service, session, _):
        ch = channel(5)
        session.call("keep", (ch.receiver,))
        flower.go(lambda: (ch.send_sequence(range(20)), ch.close()))
        got: list[int] = []

        def look() -> bool:
            value = service.kept.try_receive(None)
            if value is not None:
                got.append(value)
            return len(got) == 20

        until(look)
        assert got == list(range(20))


def test_12_a_cancelled_receive_leaves_the_value_and_a_cancelled_send_was_not_sent() -> None:
    with streaming(channel_items=1) as (service, session, _):
        ch = channel()
        session.call("keep", (ch.receiver,))
        with pytest.raises(Timeout):
            ch.send("no credit", 0.005)
        with pytest.raises(Timeout):
            service.kept.receive(0.005)
        ch.send("second", NEVER)  # the credit of the receiver that has given up
        with pytest.raises(Timeout):
            ch.send("third", 0.005)
        assert service.kept.receive(NEVER) == "second"
        t = flower.go(service.kept.receive, NEVER)
        ch.send("fourth", NEVER)
        assert t.join(NEVER) == "fourth"
        ch.close()


def test_13_select_over_remote_ends() -> None:
    with streaming() as (service, session, _):
        left, right = channel(3), channel(3)
        session.call("keep", ([left.receiver, right.receiver],))
        ends = service.kept
        left.send(1)
        right.send(2)
        rounds(5)
        got = sorted(flower.select(*ends, timeout=NEVER)[1] for _ in range(2))
        assert got == [1, 2]
        back = channel(1)
        session.call("keep", (back.sender,))
        assert flower.select((service.kept, "x"), timeout=NEVER)[0] == service.kept
        assert back.receive(NEVER) == "x"
        service.kept.close()
        left.close()
        right.close()
        for end in ends:
            with pytest.raises(ChannelClosed) as caught:
                flower.select(end, timeout=NEVER)
            assert caught.value.channel is end


def test_15_no_channel_survives_its_connection() -> None:
    with streaming() as (service, session, other):
        ch, home = channel(2), channel(5)
        session.call("keep", ([ch.receiver, home.sender],))
        receiver, sender = service.kept
        ch.send(1)
        until(lambda: len(receiver._channel) == 1)
        other.close()
        assert receiver.receive() == 1
        with pytest.raises(ChannelBroken):
            receiver.receive()
        with pytest.raises(ChannelBroken):
            sender.send(1)
        with pytest.raises(ChannelBroken):
            home.receive(NEVER)
        until(lambda: session.fault)
        with pytest.raises(ChannelBroken) as caught:
            ch.send(2)
        assert (caught.value.undelivered, caught.value.maybe) == (0, 1)


def test_15_what_is_known_of_the_values_when_the_link_is_lost() -> None:
    with streaming(channel_items=2) as (service, session, other):
        ch = channel(3)
        session.call("keep", (ch.receiver,))
        ch.send_sequence(range(5))  # two are there, three are held
        blocked = flower.go(ch.send, 5)
        rounds(5)
        service.kept.receive()
        blocked.join(NEVER)
        last = flower.go(ch.send, 6)
        rounds(5)
        other.conn.abort()
        for lost in (last.join, lambda: ch.send(7)):
            with pytest.raises(ChannelBroken) as caught:
                lost()
            assert (caught.value.undelivered, caught.value.maybe) == (3, 2)
