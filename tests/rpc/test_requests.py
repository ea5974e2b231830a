"""Requests and their tasklets: how they begin, wait, are cut and are held back."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from typing import Any

import pytest

import flower
from flower import channel, rpc
from flower.errors import ChannelClosed, Disconnected, Timeout
from flower.rpc import Settings
from tests.net.support import NEVER, until
from tests.rpc.support import (
    LIMITS,
    URL,
    Calc,
    Raw,
    end_of,
    greet,
    pair,
    raw_client,
    raw_server,
    served,
    settle,
)

pytestmark = pytest.mark.usefixtures("loop")


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
