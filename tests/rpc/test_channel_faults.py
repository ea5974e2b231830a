"""Peers that break what channels rest on: it costs them the connection, and nobody anything else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest

import flower
from flower import ChannelClosed, Timeout, channel, rpc
from flower.errors import ChannelBroken, DeadlineExceeded, Overloaded, RemoteError
from flower.rpc import Settings
from flower.rpc._streams import MOST_ENDED
from tests.net.support import NEVER, rounds, until
from tests.rpc import link
from tests.rpc.support import URL, Calc, Raw, raw_client, settle

pytestmark = pytest.mark.usefixtures("loop")

HELLO = {"v": 1, "ext": 70, "feat": ["channels"], "chan_items": 4, "chan_bytes": 10_000, "max_chans": 100}
SETTINGS = Settings(channel_items=3, channel_bytes=1000, max_channels=10)


class Keeper(Calc):
    def __init__(self) -> None:
        super().__init__()
        self.kept: Any = None

    def keep(self, end: Any) -> None:
        self.kept = end

    def give(self) -> Any:
        self.kept = channel(8)
        return self.kept.receiver

    def want(self) -> Any:
        self.kept = channel(8)
        return self.kept.sender


def end(kind: int, number: int, *more: Any) -> msgpack.ExtType:
    return msgpack.ExtType(70, msgpack.packb([kind, number, *more]))


@contextmanager
def greeted() -> Iterator[tuple[Keeper, Raw, Any]]:
    """A service, a peer that has said hello and is written by hand, and its session."""
    keeper = Keeper()
    with rpc.serve(URL, keeper, settings=SETTINGS) as server:
        with raw_client(server) as raw:
            raw.send([0, 1, "$/hello", [HELLO]])
            assert raw.receive()[2] is None
            (session,) = server._sessions
            yield keeper, raw, session
            keeper.kept = None
    settle()


def ask(raw: Raw, method: str, *args: Any) -> Any:
    raw.send([0, 7, method, list(args)])
    kind, msgid, error, result = raw.receive()
    assert (kind, msgid, error) == (1, 7, None)
    return result


def given(raw: Raw) -> list[Any]:
    """What an end that we were given holds."""
    found: list[Any] = msgpack.unpackb(ask(raw, "give").data)
    return found


def wanted(raw: Raw) -> list[Any]:
    found: list[Any] = msgpack.unpackb(ask(raw, "want").data)
    return found


# -- What is on the wire


def test_what_a_stream_looks_like() -> None:
    with greeted() as (keeper, raw, session):
        assert given(raw) == [2, 2, 4, 10_000, {}]
        for i in range(6):
            keeper.kept.send(i)
        assert [raw.receive() for _ in range(4)] == [[2, "$/d", [2, i]] for i in range(4)]
        raw.send([2, "$/w", [2, 6, 10_000, 2]])
        assert [raw.receive() for _ in range(2)] == [[2, "$/d", [2, i]] for i in (4, 5)]
        keeper.kept.close()
        assert raw.receive() == [2, "$/end", [2, 6]]
        assert len(session.streams) == 0


def test_what_credit_looks_like() -> None:
    with greeted() as (keeper, raw, _):
        assert wanted(raw) == [1, 2, 3, 1000, {}]
        raw.send(*[[2, "$/d", [2, i]] for i in range(2)])
        assert raw.receive()[:2] == [2, "$/w"]
        raw.send([2, "$/end", [2, 2]])
        assert list(keeper.kept) == [0, 1]


def test_credit_of_a_channel_without_capacity_is_for_those_who_wait_alone() -> None:
    with greeted() as (keeper, raw, _):
        ask(raw, "keep", end(2, 1, 0, 0, {"meet": True}))
        for number in range(1, 4):
            waiting = flower.go(keeper.kept.receive, NEVER)
            assert raw.receive() == [2, "$/w", [1, number, 1000 + 9 * (number - 1), number - 1]]  # nine bytes each
            raw.send([2, "$/d", [1, number]])
            assert waiting.join(NEVER) == number
            assert ask(raw, "echo", 1) == 1  # and no more credit before it


def test_a_deadline_that_the_peers_clock_saw_first_is_that_of_the_stream() -> None:
    with greeted() as (_, raw, session):
        begun = flower.go(session.stream, "values", (), None, NEVER)
        msgid = raw.receive()[1]
        raw.send([1, msgid, None, end(2, 1)])
        stream = begun.join(NEVER)
        raw.send([2, "$/d", [1, "first"]], [2, "$/rst", [1, {"k": "deadline", "t": "", "m": "deadline"}]])
        assert stream.receive(NEVER) == "first"
        with pytest.raises(DeadlineExceeded, match="the stream of values did not end within"):
            stream.receive(NEVER)


def test_who_sends_is_told_that_the_time_of_a_stream_is_over() -> None:
    with greeted() as (_, raw, session):
        begun = flower.go(session.stream, "values", (), None, 0.2)
        raw.send([1, raw.receive()[1], None, end(2, 1)])
        stream = begun.join(NEVER)
        assert raw.receive() == [2, "$/stop", [1, 0, "deadline", None]]
        with pytest.raises(DeadlineExceeded, match="did not end within"):
            stream.receive(NEVER)


def test_of_a_reason_a_thousand_characters_are_told() -> None:
    with greeted() as (keeper, raw, _):
        ask(raw, "keep", end(2, 1))
        keeper.kept.close("x" * 5000)
        assert raw.receive() == [2, "$/stop", [1, 0, "x" * 1000, None]]


def test_credit_that_grows_has_an_end_in_values_and_in_bytes() -> None:
    with greeted() as (keeper, raw, _):
        ask(raw, "keep", end(2, 1))
        taking = flower.go(lambda: [keeper.kept.receive(NEVER) for _ in range(1000)])
        value = msgpack.packb([2, "$/d", [1, "x" * 30]])
        sent, items, size = 0, 3, 1000
        windows = []
        while sent < 1000:
            while sent < min(items, 1000) and sent * len(value) < size:
                raw.send(value)
                sent += 1
            if sent < 1000:
                _, _, (_, items, size, taken) = raw.receive()
                windows.append((items - taken, size - taken * len(value)))
        taking.join(NEVER)
        assert max(items for items, _ in windows) == 16 * 3
        assert max(size for _, size in windows) == 4 * 1000


def test_a_value_in_pieces() -> None:
    with greeted() as (keeper, raw, _):
        ask(raw, "keep", end(2, 1))
        data = msgpack.packb(["x" * 300, {"a": 1}])
        for at in range(0, len(data), 100):
            raw.send([2, "$/d", [1, data[at : at + 100], at + 100 < len(data)]])
        assert keeper.kept.receive(NEVER) == ["x" * 300, {"a": 1}]
        raw.send([2, "$/end", [1, 1]])
        assert list(keeper.kept) == []


def test_a_value_in_pieces_is_no_longer_than_a_message(caplog: pytest.LogCaptureFixture) -> None:
    """But for what its pieces take beside."""
    settings = Settings(max_message=2048)
    with rpc.serve(URL, Keeper(), settings=settings) as server, raw_client(server) as raw:
        raw.send([0, 1, "$/hello", [HELLO]], [0, 2, "keep", [end(2, 1)]])
        assert [raw.receive()[2] for _ in range(2)] == [None, None]
        raw.send(*[[2, "$/d", [1, bytes(500), True]]] * 9)
        assert raw.receive() is None
    assert "a value longer than 2048 bytes" in caplog.text


# -- Edge cases, by their number in the protocol's description


def test_7_data_for_a_stopped_channel_is_dropped_and_counted() -> None:
    with greeted() as (keeper, raw, session):
        ask(raw, "keep", end(2, 1))
        raw.send([2, "$/d", [1, "a"]])
        assert keeper.kept.receive(NEVER) == "a"
        keeper.kept.close("enough")
        assert raw.receive() == [2, "$/stop", [1, 1, "enough", None]]
        raw.send([2, "$/d", [1, "b"]], [2, "$/d", [1, "c"]], [2, "$/end", [1, 3]])
        assert ask(raw, "echo", 1) == 1
        assert len(session.streams) == 0


def test_a_stop_says_what_was_taken_and_not_what_came() -> None:
    with greeted() as (keeper, raw, _):
        ask(raw, "keep", end(2, 1))
        raw.send([2, "$/d", [1, "a"]], [2, "$/d", [1, "b"]])
        assert ask(raw, "echo", 1) == 1
        assert keeper.kept.receive(NEVER) == "a"
        keeper.kept.close("enough")
        assert raw.receive() == [2, "$/stop", [1, 1, "enough", None]]
        raw.send([2, "$/end", [1, 2]])


def test_no_more_channels_are_opened_than_the_peer_takes() -> None:
    kept: list[channel[Any]] = []

    def want() -> Any:
        kept.append(channel(8))
        return kept[-1].sender

    with rpc.serve(URL, {"want": want}) as server, raw_client(server) as raw:
        raw.send([0, 1, "$/hello", [{**HELLO, "max_chans": 2}]])
        assert raw.receive()[2] is None
        for _ in range(2):
            ask(raw, "want")
        raw.send([0, 8, "want", []])
        assert "2 channels are open" in raw.receive()[2]["m"]
        raw.send([0, 9, "$/ping", []])
        assert raw.receive() == [1, 9, None, None]


def test_a_wrong_count_is_no_clean_close() -> None:
    with greeted() as (keeper, raw, _):
        ask(raw, "keep", end(2, 1))
        raw.send([2, "$/d", [1, "a"]], [2, "$/end", [1, 2]])
        assert keeper.kept.receive(NEVER) == "a"
        with pytest.raises(ChannelBroken, match="1 values came on a channel, and 2 were sent"):
            keeper.kept.receive(NEVER)


BREACHES: dict[str, list[Any]] = {
    "7: never seen": [[2, "$/d", [9, 1]]],
    "7: ended": [[2, "$/end", [1, 0]], [2, "$/d", [1, 1]]],
    "10: more values than granted": [[2, "$/d", [1, i]] for i in range(4)],
    "10: more bytes than granted": [[2, "$/d", [1, "x" * 600]] for i in range(3)],
    "10: a value behind all the bytes": [[2, "$/d", [1, "x" * 989]], [2, "$/d", [1, 5]]],  # the first has 1000
    "10: a value within another": [[2, "$/d", [1, b"\x93", True]], [2, "$/d", [1, 5]]],
    "10: an end within a value": [[2, "$/d", [1, b"\x93", True]], [2, "$/end", [1, 1]]],
    "10: a value that is none": [[2, "$/d", [1, b"\xc1", False]]],
    "10: two values as one": [[2, "$/d", [1, b"\x01\x01", False]]],
    "18: a deep one in pieces": [[2, "$/d", [1, b"\x91" * 300, False]]],
    "18: a large one in pieces": [[2, "$/d", [1, b"\xdd\x7f\xff\xff\xff", False]]],
    "a piece that is no bytes": [[2, "$/d", [1, "x", True]]],
    "no params": [[2, "$/d", []]],
    "params of another kind": [[2, "$/d", 5]],
    "an id that can't be one": [[2, "$/d", [[], 1]]],
    "the end of nothing": [[2, "$/end", [9, 0]]],
    "the failure of nothing": [[2, "$/rst", [9, None]]],
    "two ends": [[2, "$/end", [1, 0]], [2, "$/end", [1, 0]]],
    "an id of ours": [[0, 9, "keep", [end(2, 4)]]],
    "an id in use": [[0, 9, "keep", [end(2, 1)]]],
    "an id in use of the other kind": [[0, 8, "keep", [end(1, 3, 4, 100)]], [0, 9, "keep", [end(2, 3)]]],
    "an id below 1": [[0, 9, "keep", [end(2, 0)]]],
    "an end that is no array": [[0, 9, "keep", [msgpack.ExtType(70, b"\x05")]]],
    "an end that is nothing": [[0, 9, "keep", [msgpack.ExtType(70, b"")]]],
    "more channels than allowed": [[0, 9, "keep", [[end(2, 2 * i + 3) for i in range(10)]]]],
    "18: hello twice": [[0, 9, "$/hello", [HELLO]]],
    "16: an id that is alive": [[0, 9, "wait", []], [0, 9, "wait", []]],
}


@pytest.mark.parametrize("messages", BREACHES.values(), ids=BREACHES.keys())
def test_what_costs_a_peer_its_connection(messages: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    with greeted() as (keeper, raw, session):
        ask(raw, "keep", end(2, 1))
        other = keeper.kept
        with caplog.at_level(logging.WARNING, "flower.rpc"):
            raw.send(*messages)
            until(lambda: session.fault)
        assert len(caplog.records) == 1
        with pytest.raises((ChannelBroken, ChannelClosed)):
            while True:
                other.receive(NEVER)
        keeper.gate.close()
        while raw.receive() is not None:
            pass


@pytest.mark.parametrize(
    "credit", [[2, 3, 10_000, 0], [2, 4, 9_999, 0], [2, 9, 10_000, 1], [2, 9, 10_000, -1], [2, "9", 10_000, 0], [2]]
)
def test_10_credit_that_cant_be(credit: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    with greeted() as (keeper, raw, session):
        given(raw)
        with caplog.at_level(logging.WARNING, "flower.rpc"):
            raw.send([2, "$/w", credit])
            until(lambda: session.fault)
        assert "$/w that can't stand" in caplog.text
        with pytest.raises(ChannelBroken):
            keeper.kept.send(1)


def test_9_one_value_may_go_beyond_the_bytes() -> None:
    with greeted() as (keeper, raw, _):
        ask(raw, "keep", end(2, 1))
        raw.send([2, "$/d", [1, "x" * 5000]])
        assert len(keeper.kept.receive(NEVER)) == 5000
        assert raw.receive()[:2] == [2, "$/w"]
        raw.send([2, "$/d", [1, "x" * 5000]])
        assert len(keeper.kept.receive(NEVER)) == 5000


def test_19_an_unknown_kind_is_an_end_that_is_stopped() -> None:
    with greeted() as (keeper, raw, session):
        raw.send([0, 7, "keep", [end(9, 3)]])
        assert raw.receive() == [2, "$/stop", [3, 0, "this kind of channel is not known here", None]]
        assert raw.receive() == [1, 7, None, None]
        with pytest.raises(ChannelClosed, match="not known"):
            keeper.kept.receive()
        raw.send([2, "$/d", [3, "sent already"]], [2, "$/end", [3, 1]])  # as of any channel that is stopped
        assert ask(raw, "echo", 1) == 1
        assert len(session.streams) == 0


def test_an_end_that_comes_home_and_is_over() -> None:
    with greeted() as (keeper, raw, _):
        number = given(raw)[1]
        keeper.kept.send(1)
        keeper.kept.close()
        assert raw.receive()[1] == "$/d"
        assert raw.receive()[1] == "$/end"
        ask(raw, "keep", end(3, number, 1))
        with pytest.raises(ChannelClosed):
            keeper.kept.receive()


def test_an_end_that_comes_home_of_a_channel_that_is_not_known_is_no_clean_close() -> None:
    with greeted() as (keeper, raw, _):
        ask(raw, "keep", end(3, 55))
        with pytest.raises(ChannelBroken, match="not known"):
            keeper.kept.receive()


def test_of_many_ends_that_come_home_as_their_channels_end_none_is_cleanly_closed_with_values_lost() -> None:
    kept: list[Any] = []
    home: list[Any] = []
    a, b = link.linked({"back": home.extend}, {"keep": kept.extend})
    link.deliver_all(a, b)
    channels: list[Any] = [channel(1) for _ in range(MOST_ENDED + 10)]
    flower.go(a.call, "keep", ([ch.receiver for ch in channels],))
    link.deliver_all(a, b)
    flower.go(b.notify, "back", (list(kept),))
    link.settle()
    for ch in channels:
        ch.send("lost")
        ch.close()
    kept.clear()
    link.deliver_all(a, b)
    assert len(home) == len(channels)
    for end in home:
        with pytest.raises(ChannelBroken):
            end.receive(NEVER)
    for session in (a, b):
        assert session.fault is None
        assert not len(session.streams)
        session.close()
    link.deliver_all(a, b)


def test_an_end_that_comes_home_as_its_channel_fails() -> None:
    with greeted() as (keeper, raw, _):
        number = given(raw)[1]
        keeper.kept.send_exception(KeyError, "why")
        assert raw.receive()[1] == "$/rst"
        ask(raw, "keep", end(3, number, 0))
        with pytest.raises(KeyError, match="why"):
            list(keeper.kept)


def test_of_what_a_channel_failed_with_little_is_kept_for_an_end_on_its_way_home() -> None:
    with greeted() as (keeper, raw, _):
        number = given(raw)[1]
        long = "x" * 100_000
        told = {"k": "failed", "t": "builtins.KeyError", "m": long, "a": [long], "more": long}
        keeper.kept.send_throw(RemoteError(told))
        assert raw.receive()[1] == "$/rst"
        ask(raw, "keep", end(3, number, 0))
        with pytest.raises(KeyError, match="xxx") as caught:
            list(keeper.kept)
        assert len(repr(caught.value.error)) < 2000  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("taken", [0, 69])
def test_of_what_a_peer_takes_and_never_says_so_not_all_is_kept(taken: int) -> None:
    """It may bring its end home, with whatever it has not taken: that would be all that was ever sent to it."""
    with greeted() as (keeper, raw, session):
        number = given(raw)[1]
        raw.send([2, "$/w", [number, 1 << 52, 1 << 52, 0]])
        ch, keeper.kept = keeper.kept, None
        fill = flower.go(lambda: [ch.send(bytes([i]) * 1_000_000, NEVER) for i in range(70)])
        values = 0
        while values < 70:
            values += raw.receive()[2][-1] is False  # its last piece
        assert not fill.alive
        assert session.streams.kept < 67 << 20
        raw.send([0, 7, "keep", [end(3, number, taken)]])
        answer = raw.receive()
        while answer[0] != 1:
            answer = raw.receive()
        assert answer[1:] == [7, None, None]
        assert session.streams.kept == 0
        if taken:
            assert keeper.kept.receive(NEVER) == bytes([69]) * 1_000_000
        else:
            for use in (keeper.kept.receive, lambda: ch.send(1, NEVER)):
                with pytest.raises(ChannelBroken, match="70 values are lost") as caught:
                    use()
                assert caught.value.undelivered == 70
            raw.conn.close()


def test_no_more_ends_are_given_than_may_be_open_here_however_many_the_peer_takes() -> None:
    """It is for the peer to say that it has closed them, and that one never does."""
    with greeted() as (_, raw, session):
        errors: list[Any] = []
        for _ in range(SETTINGS.max_channels + 1):
            raw.send([0, 7, "want", []])
            while (message := raw.receive())[0] != 1:
                assert message[1] == "$/stop"  # of the one before, which nobody has any more
            errors.append(message[2])
        error = errors.pop()
        assert errors == [None] * SETTINGS.max_channels
        assert error["t"] == "builtins.ValueError"
        assert "10 channels are open" in error["m"]
        assert len(session.streams) == 10


def test_news_of_a_channel_that_has_ended_are_nothing() -> None:
    with greeted() as (keeper, raw, _):
        given(raw)
        keeper.kept.close()
        assert raw.receive() == [2, "$/end", [2, 0]]
        raw.send([2, "$/w", [2, 9, 10_000, 0]], [2, "$/stop", [2, 0, "crossed", None]])
        assert ask(raw, "echo", 1) == 1


def test_a_value_that_cant_be_made_here_is_raised_where_it_is_received() -> None:
    with greeted() as (keeper, raw, _):
        ask(raw, "keep", end(2, 1))
        stranger = msgpack.ExtType(71, b"r" + msgpack.packb(["Nobody", {}]))
        raw.send([2, "$/d", [1, stranger]], [2, "$/d", [1, 5]])
        with pytest.raises(TypeError, match="not registered here"):
            keeper.kept.receive(NEVER)
        assert keeper.kept.receive(NEVER) == 5


def test_an_error_or_a_reason_with_something_that_cant_be_made_here_is_told_without_it() -> None:
    with greeted() as (keeper, raw, _):
        stranger = msgpack.ExtType(71, b"r" + msgpack.packb(["Nobody", {}]))
        ask(raw, "keep", end(2, 1))
        raw.send([2, "$/rst", [1, {"k": "failed", "t": "", "m": "no more", "detail": stranger}]])
        with pytest.raises(RemoteError, match="no more"):
            keeper.kept.receive(NEVER)
        for number, error in ((3, {"k": "failed", "m": "full", "detail": stranger}), (5, None)):
            ask(raw, "keep", end(1, number, 1, 1000))
            raw.send([2, "$/stop", [number, 0, stranger, error]])
            assert raw.receive() == [2, "$/end", [number, 0]]
            assert ask(raw, "echo", 1) == 1
            with pytest.raises((RemoteError, ChannelClosed), match="full" if error else "the receiver is done"):
                keeper.kept.send(1, NEVER)


def test_17_two_that_only_send_wait_until_their_time_is_over() -> None:
    with greeted() as (keeper, raw, _):
        ask(raw, "keep", end(1, 1, 1, 1000))
        keeper.kept.send("first")
        assert raw.receive() == [2, "$/d", [1, "first"]]
        t = flower.go(keeper.kept.send, "second")
        rounds(3)
        assert t.blocked
        assert "channel 1 to peer" in repr(keeper.kept)
        with pytest.raises(Timeout):
            keeper.kept.send("third", 0.005)
        t.kill()


def test_a_stop_with_an_error_is_raised_at_the_sender() -> None:
    with greeted() as (keeper, raw, _):
        given(raw)
        raw.send([2, "$/stop", [2, 0, None, {"k": "failed", "t": "builtins.KeyError", "m": "why", "a": ["why"]}]])
        assert raw.receive() == [2, "$/end", [2, 0]]
        with pytest.raises(KeyError, match="why"):
            keeper.kept.send(1)


def test_overloaded_is_no_failure_of_the_method() -> None:
    assert Overloaded.not_run
