"""Errors and generators of methods that can't be told, or ended, as they are: what each costs is its call."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

import flower
from flower import channel, rpc
from flower.errors import Disconnected, RemoteError
from flower.rpc import Settings
from flower.rpc._faults import brief, describe
from tests.net.support import NEVER, rounds, until
from tests.rpc import link
from tests.rpc.support import (
    PLAIN,
    URL,
    Calc,
    Far,
    end_of,
    greet,
    raw_client,
    served,
    settle,
)

pytestmark = pytest.mark.usefixtures("loop")


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


def test_causes_are_told_four_deep_in_a_circle_too() -> None:
    error = first = ValueError(0)
    for number in range(1, 10):
        error.__cause__ = ValueError(number)
        error = error.__cause__
    error.__cause__ = first
    told, texts = describe(first), []
    while told is not None:
        texts.append(told["m"])
        told = told.get("c")
    assert texts == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("args", "are_told"),
    [
        ((), True),
        (tuple(range(8)), True),
        (tuple(range(9)), False),
        ((None, True, 1.5, "x", b"x", 2**63 - 1, -(2**63)), True),
        ((2**63,), False),
        ((-(2**63) - 1,), False),
        (("x" * 8192, b"x" * 8192), True),
        (("x" * 8193,), False),
        ((b"x" * 8193,), False),
        (("\ud800",), False),
        (("x", [1]), False),
        ((object(),), False),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_which_arguments_of_an_error_are_told(args: tuple[Any, ...], are_told: bool) -> None:
    told = describe(ValueError(*args))
    assert told.get("a") == (list(args) if are_told else None)
    assert told["t"] == "builtins.ValueError"


def test_a_lost_connection_is_told_as_one() -> None:
    assert describe(Disconnected("x"))["k"] == "disconnected"
    assert describe(Disconnected("x"), "invalid")["k"] == "invalid"
    assert describe(ConnectionError("x"))["k"] == "failed"


def test_the_traceback_of_another_node_is_passed_on_where_ours_are_told() -> None:
    error = RemoteError({"k": "failed", "t": "builtins.KeyError", "m": "x", "tb": "the lines"})
    assert "tb" not in describe(error)
    assert describe(error, tracebacks=True)["tb"] == "the lines"


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ({"k": "deadline", "t": "C" * 200, "b": "builtins.KeyError", "m": "x" * 200, "a": [1], "tb": "lines"},
         {"k": "deadline", "t": "C" * 100, "b": "builtins.KeyError", "m": "x" * 100}),
        ({"k": "strange", "t": 5, "b": "builtins.exit", "m": None}, {"k": "failed", "t": "", "m": "failed"}),
    ],
    ids=["long", "strange"],
)  # fmt: skip
def test_what_is_left_of_an_error_in_brief(told: dict[str, Any], left: dict[str, Any]) -> None:
    assert brief(told) == left


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
