"""Ends of channels that go home, over other nodes too, and the reasons with which channels end."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import msgpack
import pytest

import flower
from flower import channel, rpc
from flower.errors import ChannelClosed, Timeout
from tests.net.support import NEVER, rounds, until
from tests.rpc import link
from tests.rpc.support import (
    URL,
    Far,
    Moves,
    end_of,
    greet,
    raw_client,
    served,
    settle,
)

pytestmark = pytest.mark.usefixtures("loop")


def test_a_sending_end_that_has_come_home_may_be_dropped_there() -> None:
    with served() as (_, peer):
        ch: channel[Any] = channel(4)
        sender = peer.call("echo", ch.sender)
        gc.collect()
        peer.call("add", 1, 2)
        sender.send("x")
        assert ch.receive(NEVER) == "x"
        with pytest.raises(Timeout):
            ch.receive(0.01)


def test_a_sending_end_that_waits_to_go_home_may_be_dropped_there() -> None:
    kept: dict[str, Any] = {}
    a, b = link.linked({}, {"keep": lambda **ends: kept.update(ends)})
    first: channel[Any] = channel(1)
    second: channel[Any] = channel(10)
    t = flower.go(a.call, "keep", (), {"first": first.sender, "second": second.sender})
    link.deliver_all(a, b)
    assert not t.alive
    kept["second"].send(bytes(link.ROOM))
    link.settle()
    kept["second"].send(kept.pop("first"))  # it waits until there is room
    gc.collect()
    link.deliver_all(a, b)
    assert second.receive() == bytes(link.ROOM)
    assert second.receive() == first.sender
    assert first.try_receive("no failure") == "no failure"
    kept.clear()
    for session in (a, b):
        session.close()
    link.settle()


def test_the_reason_of_a_stop_goes_over_three_nodes() -> None:
    with rpc.serve(URL, Far()) as far, rpc.connect(far.url) as beyond:
        with served({"send_on": lambda values: beyond.call("send_on", values)}) as (_, peer):
            ch: channel[Any] = channel(2)
            answer = peer.start("send_on", ch.sender)
            assert ch.receive(NEVER) == 1
            ch.receiver.close("no more")
            assert answer.receive(NEVER) == "no more"
    settle()


@pytest.mark.parametrize("size", [10, 300_000, 5_000_000])
def test_what_was_sent_on_an_end_that_goes_home_comes_first(size: int) -> None:
    def use(sender: Any) -> Any:
        sender.send(bytes(size), NEVER)
        return sender

    with served({"use": use}) as (_, peer):
        for _ in range(5):
            ch: channel[Any] = channel(10)
            sender = peer.call("use", ch.sender)
            sender.send("after it", NEVER)
            sender.close()
            assert [len(value) for value in ch] == [size, 8]


def fill(server: rpc.Server, peer: rpc.Peer) -> Any:
    """The server reads no more, and so much is sent to it that there is no room. Gives what lets it read on."""
    transport = next(iter(server._sessions)).conn._stream._transport
    transport.pause_reading()
    stream = peer._session.conn._stream
    while not stream.full:
        while not stream.full:
            peer.notify("dropped", bytes(100_000))
        rounds(3)  # the kernel may take more
    return transport.resume_reading


@pytest.mark.parametrize(("count", "size"), [(60, 3000), (1, 1_500_000)])
@pytest.mark.parametrize("what", ["home", "kill"])
def test_values_that_wait_for_room_are_neither_overtaken_nor_lost(what: str, count: int, size: int) -> None:
    ch: channel[Any] = channel(100)
    with served({"end": lambda: ch.sender, "note": lambda _: None}) as (server, peer):
        sender = peer.call("end")
        read_on = fill(server, peer)
        values = [[n, os.urandom(size)] for n in range(count)]
        for value in values:
            sender.send(value, NEVER)
        outbox = peer._session.outbox
        queued = outbox.queued
        flower.schedule()  # the first of them wait for room ...
        for _ in range(20):
            flower.go(peer.notify, "dropped", bytes(1_000_000))
        flower.schedule()  # ... and others behind them
        read_on()
        until(lambda: outbox.queued < queued)
        if what == "home":
            peer.call("note", sender)
        else:
            for t in gc.get_objects():
                if isinstance(t, flower.tasklet) and t.label == "rpc writer" and t.alive:
                    t.kill()
        sender.close()
        assert list(ch) == values


def test_what_another_thread_has_sent_on_an_end_that_goes_home_comes_first() -> None:
    def use(sender: Any) -> Any:
        thread = threading.Thread(target=sender.send, args=("early",))
        thread.start()
        thread.join()
        return sender

    with rpc.serve(URL, {"use": use}) as server, raw_client(server) as raw:
        greet(raw)
        raw.send([0, 2, "use", [end_of(1, 1, 10, 1000)]])
        assert raw.receive() == [2, "$/d", [1, "early"]]
        assert raw.receive()[:3] == [1, 2, None]


def test_what_another_thread_has_sent_is_there_when_the_receiving_end_comes_home() -> None:
    a, b = link.linked({}, {"keep": lambda end: kept.append(end)})
    kept: list[Any] = []
    link.deliver_all(a, b)
    ch: channel[Any] = channel(10)
    a.begin("keep", (ch.receiver,))
    link.deliver_all(a, b)
    (number,) = a.streams.outbound
    thread = threading.Thread(target=ch.send, args=("from a thread",))
    thread.start()
    thread.join(NEVER)
    home = a.streams.load(msgpack.packb([3, number, 0, 0, {}]))  # before this thread has looked at it
    assert home.receive(NEVER) == "from a thread"
    link.deliver_all(a, b)
    assert a.fault is None
    a.close()
    b.close()
    link.settle()


def test_a_sending_end_that_fails_as_it_goes_home_is_a_sending_end() -> None:
    def use(sender: Any) -> Any:
        thread = threading.Thread(target=sender.send, args=(object(),))
        thread.start()
        thread.join()
        return sender

    with served({"use": use}) as (_, peer):
        ch: channel[Any] = channel(8)
        back = peer.call("use", ch.sender)
        with pytest.raises(ChannelClosed):
            back.send(1, NEVER)
        with pytest.raises(TypeError, match="can't be sent"):
            ch.receive(NEVER)


@pytest.mark.parametrize("then", ["home", "dropped"])
def test_what_another_thread_has_sent_beyond_the_credit_is_not_lost(then: str) -> None:
    def use(sender: Any) -> Any:
        thread = threading.Thread(target=lambda: [sender.send(bytes(100_000) + bytes([n])) for n in range(6)])
        thread.start()
        thread.join()
        return sender if then == "home" else None

    with served({"use": use}) as (_, peer):
        ch: channel[bytes] = channel(64)
        back = peer.call("use", ch.sender)
        if then == "home":
            flower.go(back.send, b"\x06")
        assert [ch.receive(NEVER)[-1] for _ in range(6)] == list(range(6))
        if then == "home":
            assert ch.receive(NEVER) == b"\x06"
            back.close()
        else:
            with pytest.raises(rpc.RemoteAbort, match="was dropped"):
                ch.receive(NEVER)


def test_a_sender_that_had_to_wait_sends_an_end_home() -> None:
    ends, values = channel[Any](10), channel[Any](10)
    with served({"ends": lambda: [ends.sender, values.sender]}) as (server, peer):
        one, other = peer.call("ends")
        read_on = fill(server, peer)
        value = os.urandom(5_000_000)  # so long that all others wait
        other.send(value, NEVER)
        flower.go(lambda: [one.send(each, NEVER) for each in ("first", other)])
        flower.schedule()
        read_on()
        assert ends.receive(NEVER) == "first"
        end = ends.receive(NEVER)
        end.send("after it", NEVER)
        assert values.receive(NEVER) == value
        assert values.receive(NEVER) == "after it"


def test_an_unbuffered_channel_goes_on_over_a_node_in_the_middle() -> None:
    def take(values: Any) -> list[int]:
        return list(values)

    with rpc.serve(URL, {"take": take}) as far, rpc.connect(far.url) as beyond:
        with served({"take": lambda values: beyond.call("take", values)}) as (_, peer):
            ch: channel[Any] = channel()
            answer = peer.start("take", ch.receiver)
            for n in range(50):
                ch.send(n, NEVER)
            ch.close()
            assert answer.receive(NEVER) == list(range(50))
    settle()


@pytest.mark.parametrize("capacity", [0, 5])
def test_a_sending_end_is_passed_on_and_the_receiving_end_later(capacity: int) -> None:
    with served(Moves()) as (server, peer), rpc.connect(server.url) as other:
        ch: channel[Any] = channel(capacity)
        filled = peer.start("fill", ch.sender, 200)
        if capacity:
            until(lambda: len(ch) >= capacity)  # it has come to the end of its credit
        assert other.call("take", ch.receiver) == list(range(200))
        filled.receive(NEVER)


@pytest.mark.parametrize("capacity", [0, 5])
def test_a_receiving_end_comes_home_while_others_send(capacity: int) -> None:
    with served(Moves()) as (_, peer):
        ch: channel[Any] = channel(capacity)
        ends = peer.call("echo", [ch.sender, ch.receiver])
        assert ends[1] == ch.receiver
        filled = peer.start("fill", ch.sender, 200)
        assert list(ch) == list(range(200))
        filled.receive(NEVER)
        del ends
        ch = channel(capacity)
        filled = peer.start("fill_and_give_back", ch.sender, ch.receiver, 200)
        assert list(filled.receive(NEVER)) == list(range(200))


@pytest.mark.parametrize("capacity", [0, 1])
@pytest.mark.parametrize("way", ["rolled back", "rolled back and taken here", "home"])
def test_an_end_in_the_middle_that_does_not_go_on(capacity: int, way: str) -> None:
    def take(values: Any) -> list[int]:
        if way == "home":
            values = beyond.call("echo", values)
        else:
            with pytest.raises(TypeError, match="can't be sent"):
                beyond.call("take", values, object())
        return beyond.call("take", values) if way == "rolled back" else list(values)

    with rpc.serve(URL, Moves()) as far, rpc.connect(far.url) as beyond:
        with served({"take": take}) as (_, peer):
            ch: channel[Any] = channel(capacity)
            answer = peer.start("take", ch.receiver)
            for n in range(100):
                ch.send(n, NEVER)
            ch.close()
            assert answer.receive(NEVER) == list(range(100))
    settle()
