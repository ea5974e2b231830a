"""What a peer, a method or a finalizer may do, and what it costs: itself, its call or its connection, nobody else."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import gc
import itertools
import logging
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

import flower
from flower import channel, rpc
from flower.errors import ChannelBroken, ChannelClosed, Disconnected, RemoteAbort, RemoteError, Timeout
from flower.rpc import Settings, _serving
from tests.net.support import NEVER, rounds, until
from tests.rpc import link
from tests.rpc.support import PLAIN, URL, Calc, Raw, pair, raw_client, raw_server, served, settle

pytestmark = pytest.mark.usefixtures("loop")

LIMITS = {"max_chans": 100, "chan_items": 64, "chan_bytes": 1 << 18}


def greet(raw: Raw, **told: Any) -> None:
    hello = {"v": 1, "feat": ["call", "cancel", "channels", "types", "bye"], "ext": 70, **LIMITS, **told}
    raw.send([0, 1, "$/hello", [hello]])
    assert raw.receive()[2] is None


def end_of(kind: int, number: int, items: int, size: int) -> msgpack.ExtType:
    return msgpack.ExtType(70, msgpack.packb([kind, number, items, size, {}]))


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- Errors that can't be told as they are


class Odd(Exception):
    @property
    def args(self) -> Any:  # type: ignore[override]
        raise ValueError("no arguments to be had")

    @args.setter
    def args(self, value: Any) -> None:
        pass


class Failing(Calc):
    def long(self) -> None:
        raise KeyError("x" * 50_000)

    def syntax(self) -> None:
        raise SyntaxError("text", ("file", 1, 2, 3))  # whose line is no text: it can't be formatted

    def odd(self) -> None:
        raise Odd

    def cause(self) -> None:
        try:
            raise RemoteError({"k": "failed", "m": "m", "tb": "t" * 20_000_000})
        except RemoteError as error:
            raise ValueError("with a cause") from error

    def unpackable_cause(self) -> None:
        raise RemoteError({"k": ["failed"], "b": [1], "m": "m", "x": object()})

    def stream(self) -> Iterator[int]:
        yield 1
        raise KeyError("x" * 50_000)


@pytest.mark.parametrize("method", ["long", "syntax", "odd", "cause", "unpackable_cause"])
@pytest.mark.parametrize("most", [1024, 1 << 24])
def test_an_error_is_told_as_far_as_the_peer_takes_it(method: str, most: int) -> None:
    with rpc.serve(URL, Failing()) as server, raw_client(server) as raw:
        greet(raw, max_msg=most)
        raw.send([0, 2, method, []])
        answer = raw.receive()
        assert answer[:2] == [1, 2]
        assert answer[2]["k"] == "failed"
        assert len(msgpack.packb(answer)) <= most
        raw.send([0, 3, "add", [1, 2]])
        assert raw.receive() == [1, 3, None, 3]


def test_the_error_of_a_stream_is_told_as_far_as_the_peer_takes_it() -> None:
    with rpc.serve(URL, Failing()) as server, rpc.connect(server.url, max_message=4096) as peer:
        values = peer.stream("stream")
        assert values.receive(NEVER) == 1
        with pytest.raises(KeyError) as caught:
            values.receive(NEVER)
        assert isinstance(caught.value, RemoteError)
        assert peer.call("add", 1, 2) == 3


def test_a_receiver_gives_a_long_reason() -> None:
    with served(Far(), Settings(max_message=4096)) as (_, peer):
        for reason in ("r" * 100_000, ValueError("v" * 100_000)):
            ch: channel[Any] = channel(1)
            learns = peer.start("send_on", ch.sender)
            assert ch.receive(NEVER) == 1
            ch.receiver.close(reason)
            assert learns.receive(NEVER)[:100] == str(reason)[:100]


def test_a_strange_name_of_what_help_is_asked_for() -> None:
    with rpc.serve(URL, Calc()) as server, raw_client(server) as raw:
        greet(raw)
        raw.send([0, 2, "$/help", [msgpack.ExtType(71, b"i" + msgpack.packb(b"\x01" * 5000))]])
        assert raw.receive()[2]["k"] == "unimplemented"
        raw.send([0, 3, "add", [1, 2]])
        assert raw.receive() == [1, 3, None, 3]


class Far(Calc):
    def send_on(self, values: Any, _: Any = None) -> Any:
        with pytest.raises(ChannelClosed) as caught:
            while True:
                values.send(1, timeout=NEVER)
        return caught.value.reason


# -- Generators


class Endless(Calc):
    def numbers(self) -> Iterator[int]:
        n = 0
        while True:
            yield n
            n += 1

    def blocks(self, size: int) -> Iterator[bytes]:
        while True:
            yield bytes(size)

    def untidy(self) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            self.log.append("tidying")
            raise ValueError("as it tidies up")


@pytest.mark.parametrize("how", ["close", "disconnect"])
def test_a_generator_that_fails_as_it_tidies_up(how: str, caplog: pytest.LogCaptureFixture) -> None:
    service = Endless()
    with rpc.serve(URL, service) as server:
        with rpc.connect(server.url) as peer:
            values = peer.stream("untidy")
            assert values.receive(NEVER) == 1
            if how == "close":
                values.close()
                until(lambda: bool(service.log))
        until(lambda: bool(service.log))
        with rpc.connect(server.url) as peer:
            assert peer.call("add", 1, 2) == 3
    settle()
    assert "untidy failed as it tidied up" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("method", ["numbers", "blocks"])
def test_credit_without_end_takes_neither_memory_nor_the_others_turns(method: str) -> None:
    with rpc.serve(URL, Endless()) as server, raw_client(server) as raw, rpc.connect(server.url) as other:
        greet(raw, chan_items=1 << 52, chan_bytes=1 << 52)
        other.call("add", 1, 2)
        before = resident()
        raw.send([0, 2, method, [50_000] if method == "blocks" else []])
        for _ in range(20):
            assert other.call("add", 1, 2, timeout=NEVER) == 3
        until(lambda: next(iter(server._sessions)).outbox.queued >= 1 << 22)
        assert resident() - before < 100 << 20
        raw.conn.abort()


def test_many_channels_with_credit_take_no_memory_without_end() -> None:
    service = Calc()
    with rpc.serve(URL, service) as server, raw_client(server) as raw:
        greet(raw, max_chans=1 << 20)
        raw.send([0, 2, "note", [[end_of(1, 2 * n + 1, 1 << 52, 1 << 52) for n in range(100)]]])
        assert raw.receive() == [1, 2, None, None]
        senders = service.log.pop()
        taken = [sender.try_send(bytes(300_000)) for sender in senders]
        assert sum(taken) * 300_000 < 5 << 20
        waiting = [sender for sender, was_taken in zip(senders, taken, strict=True) if not was_taken]
        first = senders[0]
        greedy = flower.go(lambda: [first.send(bytes(300_000), NEVER) for _ in range(1000)])
        flower.schedule()
        for sender in waiting:
            flower.go(sender.send, "its turn", NEVER)
        turns = ends = 0
        while turns < len(waiting):  # the one with so many values does not keep the others from theirs
            number, *value = raw.receive()[2]
            turns += value == ["its turn"]
            ends += number == 1 and value[-1] is False
        assert ends < 200
        greedy.kill()
        raw.conn.abort()
        until(lambda: not server._sessions)


def test_small_values_that_wait_are_counted_with_what_they_take() -> None:
    kept: list[Any] = []
    a, b = link.linked({}, {"keep": kept.append}, Settings(channel_items=1 << 30, channel_bytes=1 << 30))
    ch: channel[int] = channel(math.inf)
    flower.go(a.call, "keep", (ch.sender,))
    link.deliver_all(a, b)
    sender = kept.pop()
    sent = 0
    while sender.try_send(1):
        sent += 1
        assert sent < 1 << 15
    sender.close()
    link.deliver_all(a, b)
    assert len(list(ch)) == sent
    for session in (a, b):
        session.close()
    link.settle()


@pytest.mark.slow
def test_values_of_ends_that_go_home_take_no_memory_without_end() -> None:
    sent = 0

    def use(sender: Any) -> Any:
        nonlocal sent
        sender.send(bytes(1_000_000), NEVER)
        sent += 1
        return sender

    with rpc.serve(URL, {"use": use}) as server, raw_client(server) as raw:
        greet(raw, max_chans=1 << 20)
        raw.send(*([0, n + 2, "use", [end_of(1, 2 * n + 1, 10, 1 << 52)]] for n in range(30)))
        until(lambda: next(iter(server._sessions)).serving.served == 30)
        rounds(20)
        assert sent < 20  # 4 MiB, and what the kernel takes
        answers = 0
        while answers < 30:
            answers += raw.receive()[0] == 1
    settle()


@pytest.mark.parametrize("method", ["numbers", "blocks"])
def test_a_stream_without_end_for_a_plain_peer(method: str) -> None:
    with served(Endless(), ours=PLAIN) as (server, peer), rpc.connect(server.url) as other:
        before = resident()
        answer = peer.start(method, *([1 << 20] if method == "blocks" else []))
        assert other.call("add", 1, 2, timeout=NEVER) == 3
        with pytest.raises(RemoteError, match="can't be sent to a plain peer"):
            answer.receive(NEVER)
        assert resident() - before < 100 << 20


# -- Hostile ends of channels, and pieces of values


def test_an_end_of_a_channel_that_is_far_too_long() -> None:
    with rpc.serve(URL, Calc()) as server, raw_client(server) as raw:
        greet(raw)
        bloated = msgpack.packb([2, 1, 64, 1 << 18, {}, [[]] * 1_000_000])
        raw.send([0, 2, "echo", [msgpack.ExtType(70, bloated)]])
        assert raw.receive() is None


def test_a_peer_that_gives_ends_and_does_not_read_what_becomes_of_them_is_held_back() -> None:
    a, b = link.linked({}, {})
    link.deliver_all(a, b)
    b.serving.most_words = 100_000
    for number in itertools.count(1, 100):  # they are dropped, since nobody takes them, and the peer is told so
        for each in range(number, number + 100, 2):
            a.conn.sent += msgpack.packb([2, "nobody", [end_of(1, each, 0, 0)]])
        a.conn.deliver(1 << 30)
        link.settle()
        if b.serving.proceed.balance < 0:
            break
        assert number < 20_000
    assert len(b.streams) < 100
    b.close()
    a.conn.cut(None)
    link.settle()


def test_a_peer_that_does_not_read_of_its_credit_is_held_back_by_what_that_takes_in_memory() -> None:
    """What is said of it are some twenty bytes, which take six times as many."""

    def sink(values: Any) -> None:
        with contextlib.suppress(ChannelBroken):
            list(values)

    a, b = link.linked({}, {"sink": sink})
    link.deliver_all(a, b)
    b.serving.most_words = 100_000
    a.conn.sent += msgpack.packb([2, "sink", [msgpack.ExtType(70, msgpack.packb([2, 1, 0, 0, {"meet": True}]))]])
    for number in range(1000):
        a.conn.deliver(1 << 30)
        link.settle()
        if b.serving.proceed.balance < 0:
            break
        a.conn.sent += msgpack.packb([2, "$/d", [1, number]])
    assert 100 < number < 900
    b.close()
    a.conn.cut(None)
    link.settle()


@pytest.mark.parametrize("reason", ["r" * 1000, ValueError("e" * 8000)], ids=["text", "error"])
def test_two_peers_that_close_many_channels_at_a_time_do_not_wait_for_each_other(tmp_path: Path, reason: Any) -> None:
    """What both have to say of them is more than both sockets take, and neither reads before that is said."""

    channels: list[channel[Any]] = [channel() for _ in range(4000)]
    halves = (
        {"first": lambda: [ch.receiver for ch in channels[:2000]]},
        {"last": lambda: [ch.receiver for ch in channels[2000:]]},
    )
    with rpc.serve(f"unix:{tmp_path}/s", halves[0]) as server, rpc.connect(server.url, halves[1]) as peer:
        theirs = peer.call("first")
        (back,) = server.peers
        ours = back.call("last")
        for end in (*theirs, *ours):
            end.close(reason)
        assert peer._session.serving.waiting > 1_000_000
        until(lambda: not (len(peer._session.streams) or len(back._session.streams)))


@pytest.mark.slow
def test_as_much_may_be_said_of_channels_as_all_that_may_be_open_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a ``max_channels`` far above the default, two peers that closed them at a time waited for good."""
    monkeypatch.setattr(_serving, "AT_MOST", 100_000)  # in place of many more channels
    channels: list[channel[Any]] = [channel() for _ in range(4000)]
    halves = (
        {"first": lambda: [ch.receiver for ch in channels[:2000]]},
        {"last": lambda: [ch.receiver for ch in channels[2000:]]},
    )
    with rpc.serve(f"unix:{tmp_path}/s", halves[0]) as server, rpc.connect(server.url, halves[1]) as peer:
        theirs = peer.call("first")
        (back,) = server.peers
        for end in (*theirs, *back.call("last")):
            end.close("r" * 1000)
        assert min(each._session.serving.waiting for each in (peer, back)) > 1_000_000
        until(lambda: not (len(peer._session.streams) or len(back._session.streams)))


def test_both_may_give_the_last_end_that_the_other_takes_at_once() -> None:
    kept: list[Any] = []
    a, b = link.linked({"keep": kept.append}, {"keep": kept.append}, Settings(max_channels=1))
    link.deliver_all(a, b)
    calls = [flower.go(session.call, "keep", (channel(1).receiver,)) for session in (a, b)]
    link.deliver_all(a, b)
    assert a.fault is b.fault is None
    assert [call.join(NEVER) for call in calls] == [None, None]
    assert len(kept) == 2
    kept.clear()
    link.deliver_all(a, b)
    assert not len(a.streams) and not len(b.streams)
    for session in (a, b):
        session.close()
    link.deliver_all(a, b)


def test_a_channel_is_open_to_the_peer_until_its_end_has_left() -> None:
    """Another end overtook that, and was one too many."""

    def count(n: int) -> Any:
        yield from range(n)

    a, b = link.linked({}, {"count": count}, Settings(max_channels=1))
    link.deliver_all(a, b)
    outcomes: list[Any] = []

    def stream() -> None:
        try:
            outcomes.append(list(a.stream("count", (3,))))
        except ValueError as error:
            outcomes.append(error)

    for _ in range(3):
        flower.go(stream)
    link.deliver_all(a, b)
    assert a.fault is None
    assert outcomes.count([0, 1, 2]) == 1
    assert [str(e) for e in outcomes if isinstance(e, ValueError)] == 2 * [
        "ValueError: 1 channels are open through peer left, which is the most"
    ]
    flower.go(stream)
    link.deliver_all(a, b)
    assert outcomes[-1] == [0, 1, 2]
    for session in (a, b):
        session.close()
    link.deliver_all(a, b)


def test_the_last_who_sends_is_gone_as_the_receiving_end_comes_home() -> None:
    here: list[Any] = []
    there: list[Any] = []
    a, b = link.linked({"take": here.append, "drop": lambda end: None}, {"take": there.append})
    link.deliver_all(a, b)
    ch: Any = channel(5)
    flower.go(a.call, "take", ([ch.sender, ch.receiver],))
    del ch
    link.deliver_all(a, b)
    sender, receiver = there.pop()
    flower.go(b.call, "drop", (sender,))
    link.deliver_all(a, b)
    del sender
    link.settle()
    flower.go(b.notify, "take", (receiver,))
    del receiver
    link.settle()
    link.deliver_all(a, b)
    assert a.fault is b.fault is None
    with pytest.raises(RemoteError, match="the sending end was dropped"):
        here.pop().receive(NEVER)
    assert not len(a.streams) and not len(b.streams)
    for session in (a, b):
        session.close()
    link.deliver_all(a, b)


def test_a_receiver_elsewhere_learns_that_a_sending_end_which_came_home_was_dropped_by_all() -> None:
    ends: list[Any] = []
    to_sender, of_sender = link.linked({"take": ends.append}, {"take": ends.append})
    to_receiver, of_receiver = link.linked({}, {"take": ends.append})
    sessions = to_sender, of_sender, to_receiver, of_receiver
    link.deliver_all(*sessions)
    ch: Any = channel(1)
    flower.go(to_sender.call, "take", (ch.sender,))
    link.deliver_all(*sessions)
    flower.go(to_receiver.call, "take", (ch.receiver,))
    link.deliver_all(*sessions)
    del ch
    sender, receiver = ends
    flower.go(of_sender.call, "take", (sender,))  # home, and it stays here, too
    link.deliver_all(*sessions)
    del sender
    ends.clear()
    link.deliver_all(*sessions)
    assert receiver.closing
    with pytest.raises(RemoteError, match="the sending end was dropped"):
        receiver.receive(NEVER)
    for session in sessions:
        assert not len(session.streams)
        session.close()
    link.deliver_all(*sessions)


@pytest.mark.parametrize("first", ["sender", "receiver"])
def test_who_sends_through_a_node_that_loses_the_receiver_gets_an_error_and_no_close(first: str) -> None:
    ends: dict[str, Any] = {}
    to_sender, of_sender = link.linked({}, {"take": lambda end: ends.update(sender=end)})
    to_receiver, of_receiver = link.linked({}, {"take": lambda end: ends.update(receiver=end)})
    sessions = to_sender, of_sender, to_receiver, of_receiver
    link.deliver_all(*sessions)
    ch: Any = channel(3)
    calls = [(to_sender, ch.sender), (to_receiver, ch.receiver)]
    for session, end in calls if first == "sender" else reversed(calls):
        flower.go(session.call, "take", (end,))
        link.deliver_all(*sessions)
    of_receiver.conn.cut(None)
    to_receiver.conn.cut(ConnectionResetError("lost"))
    link.deliver_all(*sessions)
    with pytest.raises(ConnectionError, match="lost"):
        ends["sender"].send(1, NEVER)
    for session in sessions:
        session.close()
    link.deliver_all(*sessions)


@pytest.mark.parametrize("how", ["fails", "is dropped"])
def test_a_node_in_the_middle_gives_all_that_it_holds_before_it_tells_that_the_sender_failed(how: str) -> None:
    ends: dict[str, Any] = {}
    settings = Settings(channel_items=4)
    to_sender, of_sender = link.linked({}, {"take": lambda end: ends.update(sender=end)}, settings)
    to_receiver, of_receiver = link.linked({}, {"take": lambda end: ends.update(receiver=end)}, settings)
    sessions = to_sender, of_sender, to_receiver, of_receiver
    link.deliver_all(*sessions)
    ch: Any = channel(50)
    flower.go(to_sender.call, "take", (ch.sender,))
    link.deliver_all(*sessions)
    for i in range(8):
        ends["sender"].send(i, NEVER)
        link.deliver_all(*sessions)
    flower.go(to_receiver.call, "take", (ch.receiver,))  # which has credit for half of them
    link.deliver_all(*sessions)
    del ch
    sender = ends.pop("sender")
    if how == "fails":
        flower.go(sender.send_exception, KeyError, "why")
    else:
        del sender
    link.deliver_all(*sessions)
    receiver = ends.pop("receiver")
    for i in range(8):
        assert receiver.receive(NEVER) == i
        link.deliver_all(*sessions)
    with pytest.raises(RemoteError, match="why" if how == "fails" else "dropped"):
        receiver.receive(NEVER)
    for session in sessions:
        assert session.fault is None
        session.close()
    link.deliver_all(*sessions)


def test_no_piece_is_longer_than_the_peer_takes() -> None:
    with rpc.serve(URL, {"values": lambda: (yield "x" * 2000)}) as server, raw_client(server) as raw:
        greet(raw, max_frame=300)
        raw.send([0, 2, "values", []])
        assert raw.receive()[:2] == [1, 2]
        pieces = [raw.receive()[2] for _ in range(7)]
        assert {len(piece[1]) for piece in pieces[:-1]} == {300}
        assert b"".join(piece[1] for piece in pieces) == msgpack.packb("x" * 2000)
        assert [piece[2] for piece in pieces] == [True] * 6 + [False]
        assert raw.receive()[1] == "$/end"


def test_unfinished_values_have_a_bound_together() -> None:
    service = Calc()
    with rpc.serve(URL, service, settings=Settings(max_message=1 << 20)) as server, raw_client(server) as raw:
        greet(raw)
        raw.send([0, 2, "note", [[end_of(2, n, 64, 1 << 18) for n in range(1, 41, 2)]]])
        assert raw.receive() == [1, 2, None, None]
        with pytest.raises((OSError, ChannelClosed)):
            for number in range(1, 41, 2):
                for _ in range(15):
                    raw.send([2, "$/d", [number, bytes(60_000), True]])
            while raw.receive() is not None:
                pass
            raise ConnectionError("the peer has closed")
        until(lambda: not server._sessions)
        service.log.clear()


def test_values_are_finished_and_others_begun() -> None:
    """What is complete, or whose channel has ended, counts no longer."""
    service = Calc()
    with rpc.serve(URL, service, settings=Settings(max_message=1 << 20)) as server, raw_client(server) as raw:
        greet(raw)
        raw.send([0, 2, "note", [[end_of(2, n, 64, 1 << 30) for n in range(1, 41, 2)]]])
        assert raw.receive() == [1, 2, None, None]
        whole = msgpack.packb(bytes(700_000))
        for number in range(1, 41, 2):
            raw.send([2, "$/d", [number, whole[:60_000], True]])
            if number % 4 == 1:
                raw.send([2, "$/d", [number, whole[60_000:], False]])
            else:
                raw.send([2, "$/d", [number, whole[60_000:], True]], [2, "$/rst", [number, {"k": "failed", "m": "m"}]])
        raw.send([0, 3, "add", [1, 2]])
        while (message := raw.receive())[0] != 1:
            assert message[0] == 2  # credit
        assert message == [1, 3, None, 3]
        assert [len(values.receive(NEVER)) for values in service.log[0][::2]] == [700_000] * 10
        service.log.clear()


def test_small_pieces_are_counted_with_what_they_take() -> None:
    service = Calc()
    with rpc.serve(URL, service, settings=Settings(max_message=1 << 16)) as server, raw_client(server) as raw:
        greet(raw)
        raw.send([0, 2, "note", [[end_of(2, n, 64, 1 << 30) for n in range(1, 11, 2)]]])
        assert raw.receive() == [1, 2, None, None]
        pieces = [msgpack.packb([2, "$/d", [n, b"xx", True]]) * 1500 for n in range(1, 11, 2)]
        with pytest.raises((OSError, ChannelClosed)):
            raw.send(*pieces)
            while raw.receive() is not None:
                pass
            raise ConnectionError("the peer has closed")
        until(lambda: not server._sessions)
        service.log.clear()


@pytest.mark.parametrize("ends", ["stop", "home"])
def test_ends_in_a_value_that_comes_whole_when_nobody_wants_it_are_stopped(ends: str) -> None:
    service = Keeps()
    with rpc.serve(URL, service) as server, raw_client(server) as raw:
        greet(raw)
        raw.send([0, 2, "note", [end_of(2, 1, 64, 1 << 18)]])
        assert raw.receive() == [1, 2, None, None]
        whole = msgpack.packb([b"long", end_of(2, 3, 64, 1 << 18)])
        raw.send([2, "$/d", [1, whole[:5], True]], [0, 3, "add", [1, 2]])
        assert raw.receive() == [1, 3, None, 3]
        if ends == "stop":
            service.log.pop().close("enough")
            assert raw.receive()[1:] == ["$/stop", [1, 0, "enough", None]]
        else:
            raw.send([0, 4, "give", []])
            assert raw.receive()[:3] == [1, 4, None]
        raw.send([2, "$/d", [1, whole[5:], False]])
        assert raw.receive()[1:] == ["$/stop", [3, 0, "the receiving end was dropped, and not closed", None]]
        raw.send([2, "$/d", [3, "on its way"]], [2, "$/end", [3, 1]])
        raw.send([2, "$/d", [1, whole[:5], True]], [2, "$/rst", [1, None]], [0, 5, "add", [1, 2]])
        assert raw.receive() == [1, 5, None, 3]
        assert next(iter(server._sessions)).streams.partial == 0


class Keeps(Calc):
    def give(self) -> Any:
        return self.log.pop()


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["here", "there"])
def test_many_long_values_at_a_time_cost_no_connection(direction: str) -> None:
    most = 1 << 20
    settings = Settings(max_message=most)
    values: list[channel[Any]] = [channel(1) for _ in range(40)]

    def send(senders: list[Any]) -> None:
        for sender in senders:
            flower.go(lambda sender=sender: [sender.send(bytes(1_000_000), NEVER) for _ in range(2)])

    with served({"send": send, "open": lambda: [ch.receiver for ch in values]}, settings, settings) as (_, peer):
        if direction == "here":
            peer.call("send", [ch.sender for ch in values])
            receivers: list[Any] = list(values)
        else:
            receivers = peer.call("open")
            send(values)
        for receiver in receivers:
            assert [len(receiver.receive(NEVER)) for _ in range(2)] == [1_000_000] * 2
        assert not peer.closed


# -- Ends that go home, and reasons that go far


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


class Moves(Calc):
    def fill(self, values: Any, count: int) -> None:
        for n in range(count):
            values.send(n, NEVER)
        values.close()

    def fill_and_give_back(self, sender: Any, receiver: Any, count: int) -> Any:
        flower.go(self.fill, sender, count)
        flower.schedule()
        return receiver

    def take(self, values: Any) -> list[int]:
        return list(values)


# -- Finalizers, and what packs an object, may send and call


class Packs:
    """What is sent in its place, is made as it is packed."""

    def __init__(self, do: Any) -> None:
        self.do = do


rpc.register(Packs, name="tests.Packs", to=lambda found: found.do(), of=lambda value: value)


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


# -- What becomes of an end between its packing and the message's leaving


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


class Gives(Calc):
    made: channel[Any]

    def open(self, count: int) -> Any:
        self.made = channel(1000)
        for n in range(count):
            self.made.send(n)
        return self.made.receiver

    def take(self, values: Any, *_: Any) -> list[Any]:
        self.made.close()
        return list(values)

    def close(self) -> None:
        self.made.close()


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


# -- Requests and their tasklets


class Quitter(Calc):
    def cancelled(self) -> None:
        raise flower.Cancelled

    def stream(self) -> Iterator[int]:
        yield 1
        raise flower.Cancelled


def test_cancelled_that_nobody_has_cancelled_ends_the_call_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "flower.rpc")
    service = Quitter()
    with served(service) as (_, peer):
        with pytest.raises(rpc.RemoteCancelled):
            peer.call("cancelled")
        with pytest.raises(rpc.RemoteAbort, match="cancelled"):
            list(peer.stream("stream"))
        peer.notify("cancelled")
        peer.notify("note", "the next")
        until(lambda: service.log == ["the next"])
        assert peer.call("add", 1, 2) == 3
    assert [record.message.partition(": ")[2] for record in caplog.records] == ["the notification cancelled failed"]


def test_a_method_that_is_killed_before_it_began() -> None:
    with rpc.serve(URL, {"f": lambda: 1}, settings=Settings(max_inflight=1)) as server, raw_client(server) as raw:
        killed: list[Any] = []

        def hunt() -> None:
            while not killed:
                other = flower.getcurrent().next
                while other is not None and other is not flower.getcurrent():
                    if other.label == "f":
                        killed.append(other)
                        other.kill()
                        return
                    other = other.next
                flower.schedule()

        flower.go(hunt)
        raw.send([0, 1, "f", []])
        assert raw.receive() == [1, 1, "cancelled: TaskletExit", None]
        raw.send([0, 2, "f", []])
        assert raw.receive() == [1, 2, None, 1]
        assert next(iter(server._sessions)).serving.inflight == 0


@pytest.mark.parametrize("error", [flower.TaskletExit, FileNotFoundError])
def test_a_method_that_is_killed_as_its_answer_waits_for_room(error: type[BaseException]) -> None:
    tasks: list[Any] = []

    def big() -> bytes:
        tasks.append(flower.getcurrent())
        return bytes(10_000_000)

    with rpc.serve(URL, {"big": big}) as server, raw_client(server) as raw:
        greet(raw)
        raw.send([0, 2, "big", []], [0, 3, "big", []])
        until(lambda: len(tasks) == 2 and tasks[1].blocked)
        tasks[1].throw(error)
        raw.send([0, 4, "big", []])
        answers = [raw.receive() for _ in range(3)]
        errors = {msgid: told for _, msgid, told, _ in answers}
        assert errors[2] is errors[4] is None
        assert errors[3]["m"] == f"cancelled: {error.__name__}"


def test_a_server_that_takes_no_calls() -> None:
    with rpc.serve(URL, {"f": lambda: 1}, settings=Settings(max_inflight=0)) as server, raw_client(server) as raw:
        raw.send([0, 1, "f", []])
        assert "overloaded" in raw.receive()[2]


def test_an_error_of_others_while_a_call_waits_for_room_is_no_loss_of_the_connection() -> None:
    service = Calc()
    with pair(None, service) as (a, b):
        flower.go(a.call, "wait")
        until(lambda: service.gate.balance == -1)
        b._session.conn._stream._pause()  # it reads no more
        sent = 0
        caught: list[BaseException] = []

        def call() -> None:
            nonlocal sent
            try:
                while True:
                    a.notify("note", bytes(100_000))
                    sent += 1
            except OSError as error:
                caught.append(error)

        t = flower.go(call)
        until(lambda: a._session.conn._stream.full)
        flower.schedule()
        t.throw(FileNotFoundError("of somebody else"))
        until(lambda: bool(caught))
        assert isinstance(caught[0], FileNotFoundError)
        assert a._session.fault is None
        assert not a._session.mute
        b._session.conn._stream._resume()
        service.gate.send(None, NEVER)
        until(lambda: len(service.log) == sent)
        assert a.call("add", 1, 2) == 3


def test_a_connection_that_the_kernel_gives_up_is_lost_and_no_call_is_late() -> None:
    service = Calc()
    with pair(None, service) as (a, b):
        a.call("add", 1, 2)
        b._session.conn._stream._pause()  # it reads no more
        caught: list[BaseException] = []

        def call() -> None:
            try:
                while True:
                    a.notify("note", bytes(100_000))
            except BaseException as error:
                caught.append(error)

        t = flower.go(call)
        until(lambda: a._session.conn._stream.full)
        flower.schedule()
        a._session.conn._stream._break(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
        t.join(NEVER)
        assert isinstance(caught[0], Disconnected)
        b._session.conn._stream._resume()
        service.log.clear()


@pytest.mark.slow
def test_a_call_longer_than_the_default_limit() -> None:
    roomy = Settings(max_message=1 << 26)
    with served(settings=roomy, ours=roomy) as (_, peer):
        data = bytes(40 << 20)
        assert peer.call("echo", data) == data
        peer.notify("note", data)


def test_the_time_of_a_stream_is_kept_here_too() -> None:
    with flower.net.Listen(("127.0.0.1", 0)) as listener:
        host, port = listener.addr()
        with rpc.connect(f"tcp://{host}:{port}") as peer:
            raw = Raw(listener.receive(NEVER))
            hello = raw.receive()
            raw.send([1, hello[1], None, {"v": 1, "feat": ["call", "channels"], "ext": 70, **LIMITS}])

            def answer() -> None:
                raw.send([1, raw.receive()[1], None, end_of(2, 2, 0, 0)])
                raw.send([2, "$/d", [2, "first"]])

            flower.go(answer)
            values = peer.stream("values", timeout=0.1)
            assert values.receive(NEVER) == "first"
            later = values._channel._feeder
            later.watch(later.session.scheduler.now() + NEVER, "a second use, with more time")
            with pytest.raises(Timeout, match=r"the stream of values did not end within 0\.1 s"):
                values.receive(NEVER)
            with pytest.raises(ChannelClosed):
                values.receive(NEVER)
            assert raw.receive()[1:] == ["$/stop", [2, 1, "deadline", None]]
            raw.send([2, "$/end", [2, 1]])
            raw.conn.close()
    settle()


@pytest.mark.parametrize("way", ["start", "stream"])
def test_the_time_of_our_own_caller_is_kept_whatever_the_peer_does(way: str) -> None:
    """In a tasklet that the method leaves behind."""
    asked: list[Any] = []

    def ask(other: Any) -> None:
        if way == "start":
            other.start("m").receive(NEVER)
        else:
            list(other.stream("m"))

    with raw_server(settings=Settings()) as (other, raw):
        raw.send([1, raw.receive()[1], None, {"v": 1, "feat": ["call", "channels"], "ext": 70, **LIMITS}])
        with served({"go": lambda: asked.append(flower.go(ask, other))}) as (_, peer):
            peer.call("go", timeout=0.1)
            message = raw.receive()
            assert 0 < message[3][3]["dl"] <= 100
            if way == "stream":
                raw.send([1, message[1], None, end_of(2, 2, 0, 0)])
            with pytest.raises(Timeout, match="within the time that our own caller gave"):
                asked[0].join(NEVER)
            assert raw.receive()[1] == ("$/cancel" if way == "start" else "$/stop")


def test_a_reply_that_is_closed_when_its_answer_has_come_gives_nothing_up() -> None:
    with raw_server(settings=Settings()) as (peer, raw):
        raw.send([1, raw.receive()[1], None, {"v": 1, "ext": 70}])
        until(lambda: peer._session.theirs is not None)
        reply = peer.start("m")
        closed = peer.start("m", timeout=0.001)
        closed.receiver.close()
        flower.time.sleep(0.002)  # its time is over, too
        raw.send(*[[1, raw.receive()[1], None, n] for n in (1, 2)])
        until(lambda: peer._session.outstanding == 0)
        reply.receiver.close()
        peer.notify("done")
        assert [raw.receive()[1] for _ in range(2)] == ["$/cancel", "done"]
        assert not peer._session.calls.given_up


def test_what_is_given_up_and_answered_later_is_forgotten() -> None:
    with flower.net.Listen(("127.0.0.1", 0)) as listener:
        host, port = listener.addr()
        with rpc.connect(f"tcp://{host}:{port}") as peer:
            raw = Raw(listener.receive(NEVER))
            assert raw.receive()[2] == "$/hello"  # which is never answered
            for n in range(50):
                with flower.move_on(0):
                    peer.call("f", n)
                request = raw.receive()
                raw.send([1, request[1], None, n])
            until(lambda: peer._session.outstanding == 0)
            assert not peer._session.calls.given_up
            raw.conn.close()
    settle()


@pytest.mark.slow
def test_a_peer_that_goes_while_it_is_held_back_is_missed_soon(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    gate: channel[None] = channel()
    log: list[str] = []

    def slow(_: Any) -> None:
        gate.receive(NEVER)

    def watch(values: Any) -> None:
        try:
            values.receive(NEVER)
        except Disconnected:
            log.append("missed")

    with rpc.serve(URL, {"slow": slow, "watch": watch}) as server:
        with rpc.connect(server.url) as peer:
            ch: channel[Any] = channel(1)
            watching = peer.start("watch", ch.receiver)
            for _ in range(400):
                peer.notify("slow", bytes(1000))
            until(lambda: gate.balance == -1)
        with pytest.raises(Disconnected):
            watching.receive(NEVER)
        until(lambda: bool(log))
        assert gate.balance == -1  # what it had sent is still served
        gate.close()
    settle()
