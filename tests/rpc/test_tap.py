"""What comes while the reader waits is dealt with on the hub, where it is simple; and all else as before."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import msgpack
import pytest

import flower
from flower import rpc
from flower.rpc import Settings
from tests.net.support import NEVER, connected, in_thread, until
from tests.rpc.support import PLAIN, URL, Calc, raw_client, raw_server, served, settle

who: ContextVar[str] = ContextVar("who", default="nobody")


def readers_that_ran(do: Callable[[], object]) -> list[str]:
    """The labels of the readers that had a turn meanwhile."""
    seen: list[str] = []
    flower.set_schedule_callback(lambda _, t: seen.append(str(t.label)) if t is not None else None)
    try:
        do()
    finally:
        flower.set_schedule_callback(None)
    return [label for label in seen if label.startswith("rpc peer")]


@pytest.mark.compiled
def test_a_plain_call_wakes_no_reader() -> None:
    with served() as (_, peer):
        peer.call("echo", 0)
        assert readers_that_ran(lambda: peer.call("echo", 1)) == []
        assert readers_that_ran(lambda: peer.call("echo", {"a": [1, "text", None]}, timeout=NEVER)) == []
        assert readers_that_ran(lambda: peer.call("add", a=1, b=2.5)) == []
        assert len(readers_that_ran(lambda: peer.call("echo", {1, 2}))) == 2  # a set travels in an ext type


@pytest.mark.compiled
def test_the_plain_values_of_a_stream_wake_no_reader() -> None:
    source: flower.channel[Any] = flower.channel()
    received: list[Any] = []
    with served({"values": lambda: (value for value in source)}) as (_, peer):
        stream = peer.stream("values")
        reader = f"rpc {peer._session.name}"
        for value in (1, "text", b"x" * 100_000, [{}]):  # the long one comes in pieces, which are for the reader
            source.send(value)
            ran = readers_that_ran(lambda: received.append(stream.receive(NEVER)))
            assert (reader in ran) == (type(value) is bytes)
        source.close()
        assert list(stream) == []
    assert received == [1, "text", b"x" * 100_000, [{}]]


def test_a_method_sees_the_variables_of_who_serves() -> None:
    who.set("the server")
    try:
        with rpc.serve(URL, {"who": who.get}) as server:
            who.set("the client")
            with rpc.connect(server.url) as peer:
                assert [peer.call("who") for _ in range(3)] == ["the server"] * 3
    finally:
        who.set("nobody")
    settle()


def test_a_method_sees_the_variables_that_verify_has_set() -> None:
    def verify(token: bytes, _hello: Any) -> bool:
        who.set(token.decode())
        return True

    with (
        rpc.serve(URL, {"who": who.get}, settings=Settings(verify=verify)) as server,
        rpc.connect(server.url, token="somebody") as peer,
    ):
        assert [peer.call("who") for _ in range(3)] == ["somebody"] * 3
    assert who.get() == "nobody"
    settle()


def test_methods_keep_their_variables_to_themselves() -> None:
    def swap(name: str) -> str:
        before = who.get()
        who.set(name)
        flower.schedule()
        assert who.get() == name
        return before

    with rpc.serve(URL, {"swap": swap}) as server, rpc.connect(server.url) as peer:
        replies = [peer.start("swap", name) for name in "abc"]
        assert [reply.receive(NEVER) for reply in replies] == ["nobody"] * 3
    settle()


def request(msgid: int, value: Any) -> list[Any]:
    return [0, msgid, "note", [value]]


MIXED: list[list[Any]] = [
    request(1, "a"),
    request(2, "b"),
    request(3, {"a": 1}),  # a map
    request(4, "c"),
    [2, "note", ["in a notification"]],
    request(5, "d" * 5000),
    [0, 6, "missing", []],
    request(7, 7),
    [0, 8, "fail", ["on purpose"]],
    request(9, None),
]
ANSWERED = [1, 2, 3, 4, 5, 6, 7, 8, 9]


def cuts(data: bytes) -> list[list[bytes]]:
    """The data whole, in halves of every kind, and byte by byte."""
    halves = [[data[:at], data[at:]] for at in range(1, len(data), 61)]
    return [[data], *halves, [data[a:b] for a, b in pairwise([*range(0, len(data), 7), len(data)])]]


def test_what_is_simple_and_what_is_not_are_served_in_order() -> None:
    data = b"".join(msgpack.packb(message) for message in MIXED)
    calc = Calc()
    with rpc.serve(URL, calc, plain=True) as server, raw_client(server) as raw:
        for pieces in cuts(data):
            calc.log.clear()
            for piece in pieces:
                raw.send(piece)
                flower.schedule()
            answers = [raw.receive() for _ in ANSWERED]
            assert sorted(answer[1] for answer in answers) == ANSWERED
            assert [answer[1] for answer in answers if answer[2] is not None and answer[1] not in (6, 8)] == []
            until(lambda: len(calc.log) == 8)
            requests = [value for value in calc.log if value != "in a notification"]
            assert requests == ["a", "b", {"a": 1}, "c", "d" * 5000, 7, None]


def test_answers_of_all_kinds_in_one_piece() -> None:
    with raw_server() as (peer, raw):
        replies = [peer.start("m", i) for i in range(5)]
        ids = [raw.receive()[1] for _ in replies]
        raw.send(
            [1, ids[0], None, "plain"],
            [1, ids[1], "failed", None],
            [1, ids[2], None, {"a": "map"}],
            [1, ids[3], {"some": "error"}, None],
            [1, ids[4], None, [1, [2.5, None]]],
        )
        assert replies[0].receive(NEVER) == "plain"
        with pytest.raises(rpc.RemoteError, match="failed"):
            replies[1].receive(NEVER)
        assert replies[2].receive(NEVER) == {"a": "map"}
        with pytest.raises(rpc.RemoteError):
            replies[3].receive(NEVER)
        assert replies[4].receive(NEVER) == [1, [2.5, None]]


@pytest.mark.parametrize("bad", [b"\xc1", b"\x93\x05\x01\x02", b"\x94\x00\x01\xa4echo\x05", b"\x94\x01\x07\xc0\xc0"])
def test_requests_before_a_violation_are_answered(bad: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with rpc.serve(URL, Calc(), plain=True) as server, raw_client(server) as raw:
        raw.send([0, 1, "echo", ["whole"]])
        assert raw.receive() == [1, 1, None, "whole"]
        raw.send([0, 2, "echo", ["whole"]], [0, 3, "echo", [{}]], [0, 4, "echo", [1]], bad)
        assert [raw.receive() for _ in range(3)] == [[1, 2, None, "whole"], [1, 3, None, {}], [1, 4, None, 1]]
        assert raw.receive() is None
    assert "the connection is closed" in caplog.text


def test_more_requests_in_one_piece_than_may_be_served_at_a_time() -> None:
    with rpc.serve(URL, Calc(), max_inflight=3, plain=True) as server, raw_client(server) as raw:
        raw.send(*([0, msgid, "echo", [msgid]] for msgid in range(1, 51)))
        assert [raw.receive() for _ in range(50)] == [[1, msgid, None, msgid] for msgid in range(1, 51)]


def test_a_peer_that_does_not_read_is_held_back() -> None:
    """Requests are read no more once enough answers wait, however plain they are."""
    value = "x" * 60_000
    with rpc.serve(URL, {"large": lambda: value}, plain=True) as server, raw_client(server) as raw:
        until(lambda: len(server._sessions) == 1)
        (session,) = server._sessions
        count = 500
        for msgid in range(1, count + 1):
            raw.send([0, msgid, "large", []])
        until(lambda: session.serving.waiting > 256 * 1024)
        for _ in range(100):
            flower.schedule()
        assert session.serving.waiting < 2 * 1024 * 1024
        answers = [raw.receive() for _ in range(count)]
        assert sorted(answer[1] for answer in answers) == list(range(1, count + 1))
        assert all(answer[2:] == [None, value] for answer in answers)


def test_a_session_that_is_closed_between_two_messages_of_a_piece() -> None:
    begun = []

    with raw_server({"stop": lambda: (begun.append(1), peer.close())}, PLAIN) as (peer, raw):
        raw.send([0, 1, "stop", []], [0, 2, "stop", [{}]], [0, 3, "stop", []])
        raw.receive()
        assert begun == [1]


class Strange(ValueError):
    """Its subclasses, which an error from afar is made one of, give way as they are made."""

    def __init_subclass__(cls) -> None:
        flower.schedule()


def test_what_an_error_is_made_of_may_not_give_way() -> None:
    def fail() -> None:
        raise Strange("from afar")

    rpc.register(Strange)
    with served({"fail": fail}) as (_, peer):
        for _ in range(2):
            with pytest.raises(rpc.RemoteError, match="from afar") as caught:
                peer.call("fail")
            assert not isinstance(caught.value, Strange)


class Closes:
    """Garbage in a circle, which calls the function when it is collected."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.me = self
        self.function = function

    def __del__(self) -> None:
        self.function()


@pytest.mark.parametrize("threshold", range(10, 200, 10))
def test_a_session_that_a_finalizer_closes_serves_nothing_more(threshold: int) -> None:
    ended = []
    gate = flower.channel()

    def method(number: int) -> None:
        begun.append(number)
        try:
            gate.receive()
        finally:
            ended.append(number)

    begun: list[int] = []
    before = gc.get_threshold()
    with raw_server({"method": method, "ready": int}, PLAIN) as (peer, raw):
        raw.send([0, 1, "ready", []])
        raw.receive()
        gc.collect()
        gc.disable()
        Closes(peer.close)
        raw.send(*([0, msgid, "method", [msgid]] for msgid in range(2, 60)))
        try:
            gc.set_threshold(threshold, 1000, 1000)
            gc.enable()
            until(lambda: peer.closed or len(begun) == 58)
        finally:
            gc.set_threshold(*before)
            gc.collect()
        # From Python 3.12 on it may have run in a method, and who hangs up may end as it likes.
        until(lambda: peer.closed and peer._session.inflight <= (sys.version_info >= (3, 12)))
        gate.close()
        until(lambda: peer._session.inflight == 0)
    assert sorted(ended) == begun


def test_a_request_that_is_cancelled_in_the_same_piece_is_not_begun() -> None:
    begun: list[int] = []
    with rpc.serve(URL, {"method": begun.append}) as server, raw_client(server) as raw:
        raw.send([0, 1, "$/hello", [{"v": 1}]])
        assert raw.receive()[2] is None
        raw.send([0, 2, "method", [2]], [2, "$/cancel", [2, "cancelled"]], [0, 3, "method", [3]])
        answers = [raw.receive() for _ in range(2)]
        assert sorted(answer[1] for answer in answers) == [2, 3]
    assert begun == [3]


def test_a_peer_is_of_the_thread_of_its_connection() -> None:
    def refused(conn: Any) -> None:
        with pytest.raises(RuntimeError, match="belongs to another thread"):
            rpc.Peer(conn, {"method": int})

    with connected() as (near, far):
        in_thread(refused, far)()
        with rpc.Peer(far, {"method": int}), rpc.Peer(near) as peer:
            assert peer.call("method") == 0
    settle()


def test_who_receives_from_a_connection_that_is_a_peers_gets_no_empty_piece() -> None:
    with connected() as (near, far):
        first = flower.go(far.receive)
        flower.schedule()
        with rpc.Peer(far, {"method": int}):
            near.send(msgpack.packb([0, 1, "method", []]))
            assert first.join(NEVER) == msgpack.packb([0, 1, "method", []])
            near.send(msgpack.packb([0, 2, "method", []]))
            assert near.receive(NEVER) == msgpack.packb([1, 2, None, 0])


def test_a_peer_that_sends_values_and_does_not_read_is_held_back() -> None:
    """Values bring about credit, which waits with all else that the peer does not read."""

    def take(values: Any) -> None:
        with pytest.raises(flower.ChannelClosed):
            while True:
                values.receive()

    with rpc.serve(URL, {"take": take}) as server, raw_client(server) as raw:
        raw.send([0, 1, "$/hello", [{"v": 1, "feat": ["channels"], "ext": 70}]])
        assert raw.receive()[2] is None
        raw.send([0, 2, "take", [msgpack.ExtType(70, msgpack.packb([2, 1, 64, 65536, {}]))]])
        until(lambda: len(server._sessions) == 1)
        (session,) = server._sessions
        until(lambda: session.inflight == 1)
        while session.outbox.bytes <= 256 * 1024:
            session.outbox.post(msgpack.packb([2, "filling", [bytes(60_000)]]))
        raw.send([2, "$/d", [1, None]])
        until(lambda: session.serving.proceed.balance < 0)
        raw.send([2, "$/end", [1, 1]])
        while raw.receive()[0:2] != [1, 2]:
            pass
