"""Peers that say of channels and of pieces of values what can't be: it costs them their connection at most."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any

import msgpack
import pytest

import flower
from flower import channel, rpc
from flower.errors import ChannelBroken, ChannelClosed, RemoteError
from flower.rpc import Settings, _serving
from tests.net.support import NEVER, until
from tests.rpc import link
from tests.rpc.support import (
    URL,
    Calc,
    end_of,
    greet,
    raw_client,
    served,
)

pytestmark = pytest.mark.usefixtures("loop")


def test_an_end_of_a_channel_that_is_far_too_long() -> None:
    with rpc.serve(URL, Calc()) as server, raw_client(server) as raw:
        greet(raw)
        bloated = msgpack.packb([2, 1, 64, 1 << 18, {}, [[]] * 1_000_000])
        raw.send([0, 2, "echo", [msgpack.ExtType(70, bloated)]])
        assert raw.receive() is None


def test_ends_of_channels_that_are_over_are_counted_with_what_they_take(caplog: pytest.LogCaptureFixture) -> None:
    """Of each that comes home a channel is made: of eight bytes five times what a message may take."""
    settings = Settings(max_message=16 * 1024)
    with rpc.serve(URL, Calc(), settings=settings) as server, raw_client(server) as raw:
        greet(raw)
        home = msgpack.ExtType(70, msgpack.packb([3, 2, 0]))
        raw.send([0, 2, "echo", [home] * 20])
        assert raw.receive()[1] == 2
        raw.send([0, 3, "echo", [home] * 500])
        assert raw.receive() is None
        assert "too much memory" in caplog.text


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


def close_all_at_a_time(folder: Path, reason: Any) -> tuple[int, int]:
    """Two peers close 2000 channels each, and wait until both know; gives how much each had to say of that at once."""
    channels: list[channel[Any]] = [channel() for _ in range(4000)]
    halves = (
        {"first": lambda: [ch.receiver for ch in channels[:2000]]},
        {"last": lambda: [ch.receiver for ch in channels[2000:]]},
    )
    with rpc.serve(f"unix:{folder}/s", halves[0]) as server, rpc.connect(server.url, halves[1]) as peer:
        theirs = peer.call("first")
        (back,) = server.peers
        for end in (*theirs, *back.call("last")):
            end.close(reason)
        waiting = peer._session.serving.waiting, back._session.serving.waiting
        until(lambda: not (len(peer._session.streams) or len(back._session.streams)))
    return waiting


@pytest.mark.parametrize("reason", ["r" * 1000, ValueError("e" * 8000)], ids=["text", "error"])
def test_two_peers_that_close_many_channels_at_a_time_do_not_wait_for_each_other(tmp_path: Path, reason: Any) -> None:
    """What both have to say of them is more than both sockets take, and neither reads before that is said."""
    assert min(close_all_at_a_time(tmp_path, reason)) > 1_000_000


@pytest.mark.slow
def test_as_much_may_be_said_of_channels_as_all_that_may_be_open_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a ``max_channels`` far above the default, two peers that closed them at a time waited for good."""
    monkeypatch.setattr(_serving, "AT_MOST", 100_000)  # in place of many more channels
    assert min(close_all_at_a_time(tmp_path, "r" * 1000)) > 1_000_000


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
    link.close_all(a, b)


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
    link.close_all(a, b)


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
    link.close_all(a, b)


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
    assert not any(len(session.streams) for session in sessions)
    link.close_all(*sessions)


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
    link.close_all(*sessions)


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
    assert [session.fault for session in sessions] == [None] * 4
    link.close_all(*sessions)


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
