"""Calls over real connections: results, errors, deadlines, cancellation, and lost connections."""

from __future__ import annotations

import gc
import logging
import socket
import threading
from typing import Any

import msgpack
import pytest

import flower
from flower import rpc
from flower.errors import ChannelClosed, Disconnected, RemoteError, Timeout, UnknownMethod
from flower.net import Listen
from flower.rpc import _session
from tests.net.support import HOME, NEVER, failing, fill, rounds, until
from tests.rpc.support import (
    URL,
    Calc,
    raw_client,
    raw_server,
    served,
    settle,
)

pytestmark = pytest.mark.usefixtures("loop")

SOON = 0.005  # seconds; a timeout that a test waits for

# -- Results and errors


def test_a_timeout_of_a_tasklet_is_not_the_calls() -> None:
    def ends() -> None:
        rounds(10)
        raise Timeout("of its own")

    with served() as (_, peer):
        flower.go(ends)
        with pytest.raises(Timeout, match="of its own"):
            peer.call("wait", timeout=NEVER)
        assert peer.call("add", 1, 2) == 3


@pytest.mark.parametrize("timeout", [None, NEVER])
def test_a_call_of_a_tasklet_that_fails_is_not_the_answer_to_mains(timeout: float | None) -> None:
    class Service:
        begun = ended = False

        def wait(self) -> None:
            self.begun = True
            try:
                flower.never().receive()
            finally:
                self.ended = True

    def fails() -> None:
        until(lambda: service.begun)
        peer.call("no such method")

    service = Service()
    with served(service) as (_, peer):
        flower.go(fails)
        with pytest.raises(RemoteError, match="no such method"):
            peer.call("wait", timeout=timeout)
        until(lambda: service.ended)  # nobody waits for it any more


@pytest.mark.parametrize("error", [Timeout, ChannelClosed])
@pytest.mark.parametrize("options", [{}, {"reconnect": True}])
def test_what_a_tasklet_ends_with_is_none_of_the_connections(options: Any, error: type[Exception]) -> None:
    def ends() -> None:
        with listener.receive(NEVER):  # which says nothing
            rounds(3)
            raise error("of its own")

    with Listen((HOME, 0)) as listener:
        flower.go(ends)
        with pytest.raises(error, match="of its own"):
            rpc.connect(f"tcp://{HOME}:{listener.addr()[1]}", token="secret", timeout=NEVER, **options)


def test_a_timeout_of_a_tasklet_is_not_that_of_a_call_that_waits_for_a_connection() -> None:
    def ends() -> None:
        rounds(3)
        raise Timeout("of its own")

    with served() as (server, _), rpc.connect(server.url, reconnect=True) as peer:
        server.close()
        until(lambda: not peer._session._sessions)
        flower.go(ends)
        with pytest.raises(Timeout, match="of its own"):
            peer.call("add", 1, 2, timeout=NEVER)


def test_a_call() -> None:
    with served() as (_, peer):
        assert peer.call("add", 1, 2) == 3
        assert peer.call("add", "a", "b", timeout=NEVER) == "ab"


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1,
        2**64 - 1,
        1.5,
        "",
        "grüße",
        b"\xff",
        [],
        [1, [2]],
        {},
        {"a": {1: None}},
        "x" * 200_000,
    ],
)
def test_values_pass(value: Any) -> None:
    with served() as (_, peer):
        assert peer.call("echo", value) == value


def test_a_remote_error_is_raised_at_the_caller() -> None:
    with served() as (_, peer):
        with pytest.raises(RemoteError, match="ValueError: no such thing") as caught:
            peer.call("fail", "no such thing")
        assert isinstance(caught.value, ValueError)
        with pytest.raises(ValueError, match=r"^ValueError$") as again:
            peer.call("fail", "")
        assert isinstance(again.value, RemoteError)
        assert peer.call("add", 1, 1) == 2


@pytest.mark.parametrize("params", [[], [1], [1, 2, 3]])
def test_the_wrong_number_of_arguments_is_a_remote_error(params: list[int]) -> None:
    text = r"add\(a: Any, b: Any\) -> Any: (missing a required argument: '[ab]'|too many positional arguments)"
    with served() as (_, peer), pytest.raises(RemoteError, match=text):
        peer.call("add", *params)


def test_an_unknown_method_is_a_remote_error() -> None:
    with served() as (_, peer):
        with pytest.raises(UnknownMethod, match="unknown method: subtract"):
            peer.call("subtract", 1, 2)
        with pytest.raises(UnknownMethod, match="unknown method"):
            peer.call("$/nothing", {})


def test_a_result_that_cant_be_sent_is_a_remote_error() -> None:
    with served() as (_, peer):
        with pytest.raises(RemoteError, match="TypeError"):
            peer.call("unpackable")
        assert peer.call("add", 1, 1) == 2


@pytest.mark.parametrize(("value", "error"), [(object(), TypeError), ("\ud800", ValueError)])
def test_an_argument_that_cant_be_sent_is_told_before_anything_is(value: object, error: type[Exception]) -> None:
    with served() as (server, peer):
        with pytest.raises(error):
            peer.call("echo", value)
        with pytest.raises(error):
            peer.notify("note", value)
        assert peer.call("add", 1, 1) == 2
        assert len(server.peers) == 1


UNREADABLE = [
    ({(1, 2): object()}, TypeError, "class object can't be sent"),
    ([[]] * 3_000_000, ValueError, "of memory"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("value", "error", "text"), UNREADABLE, ids=["key", "items"])
def test_what_the_peer_could_not_read_costs_that_call_alone(value: Any, error: type[Exception], text: str) -> None:
    class Giver(Calc):
        def give(self) -> Any:
            return [value]

    calc = Giver()
    with served(calc) as (_, peer):
        other = peer.start("wait", "innocent")
        with pytest.raises(error, match=text):
            peer.call("echo", value)
        with pytest.raises(error, match=text):
            peer.notify("note", {"a": value})
        with pytest.raises(RemoteError, match=text):
            peer.call("give")
        calc.gate.send(None, NEVER)
        assert other.receive(NEVER) == "innocent"


class BadStr(Exception):
    def __str__(self) -> str:
        raise ValueError("in __str__")


class Stop(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("\ud800\udc80 é"), r"^ValueError: \\ud800\\udc80 é$"),
        (ValueError("\udc80"), "^ValueError: \udc80$"),
        (ValueError("x" * 17_000_000), "^ValueError: x{8192}$"),
        (BadStr(), "^BadStr: .*ValueError"),
        (SystemExit(3), "^SystemExit: 3$"),
        (GeneratorExit(), "^GeneratorExit$"),
        (Stop("it"), "^Stop: it$"),
    ],
    ids=["surrogate", "byte", "huge", "bad str", "exit", "generator", "base"],
)
def test_every_error_of_a_method_is_told_to_its_caller(error: BaseException, text: str) -> None:
    class Failing(Calc):
        def strange(self) -> None:
            raise error

    with served(Failing()) as (_, peer):
        with pytest.raises(RemoteError, match=text):
            peer.call("strange", timeout=NEVER)
        assert peer.call("add", 1, 2) == 3


def test_many_calls_at_once_each_get_their_own_answer() -> None:
    with served() as (_, peer):
        callers = [flower.go(peer.call, "add", i, i) for i in range(300)]
        assert [t.join(NEVER) for t in callers] == [2 * i for i in range(300)]


def test_answers_come_in_any_order() -> None:
    calc = Calc()
    with served(calc) as (_, peer):
        slow = [flower.go(peer.call, "wait", i) for i in range(3)]
        assert peer.call("add", 1, 1) == 2
        for _ in slow:
            calc.gate.send(None, NEVER)
        assert [t.join(NEVER) for t in slow] == [0, 1, 2]


# -- start, notify, proxy


def test_start_gives_a_channel_of_one_reply() -> None:
    with served() as (_, peer):
        reply = peer.start("add", 1, 2)
        assert list(reply) == [3]
        assert reply.closed
        failure = peer.start("fail", "it did")
        with pytest.raises(RemoteError, match="it did"):
            failure.receive(NEVER)


def test_the_reply_to_a_call_that_fails_as_it_leaves_closes() -> None:
    with raw_server() as (peer, raw):

        def leave() -> None:
            peer.notify("b")
            peer.close()

        fill(peer._session.conn)
        flower.go(leave)
        starting = flower.go(peer.start, "a")
        until(lambda: peer._session.conn._stream.open_outbox().balance == 2)
        until(lambda: raw.conn.read() and not starting.alive)
        reply = starting.join()
        with pytest.raises(Disconnected):
            reply.receive(NEVER)
        assert reply.closed


def test_select_over_replies() -> None:
    calc = Calc()
    with served(calc) as (_, peer):
        slow, fast = peer.start("wait"), peer.start("add", 1, 2)
        assert tuple(flower.select(slow, fast, timeout=NEVER)) == (fast, 3)
        calc.gate.send(None, NEVER)
        assert tuple(flower.select(slow, timeout=NEVER)) == (slow, None)


def test_notifications_are_served_in_order() -> None:
    calc = Calc()
    with served(calc) as (_, peer):
        for i in range(500):
            peer.notify("note", i)
        peer.notify("unknown")
        peer.notify("fail", "nobody is told")
        assert peer.call("add", 1, 1) == 2
        until(lambda: len(calc.log) == 500)
    assert calc.log == list(range(500))


def test_a_failing_notification_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "flower.rpc"), served() as (_, peer):
        peer.notify("fail", "quietly")
        until(lambda: caplog.records)
    assert "the notification fail failed" in caplog.text


def test_a_notification_of_a_generator_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "flower.rpc"), served({"count": lambda: (yield 1)}) as (_, peer):
        peer.notify("count")
        until(lambda: caplog.records)
    assert "the notification count failed" in caplog.text
    assert "it streams, and has not run" in caplog.text


def test_the_proxy() -> None:
    with served() as (_, peer):
        assert peer.proxy.add(1, 2) == 3
        assert peer.proxy.echo("x", timeout=NEVER) == "x"
        with pytest.raises(RemoteError):
            peer.proxy.no_such_method()
        for name in ("_private", "__class_getitem__", "__len__"):
            with pytest.raises(AttributeError, match="private"):
                getattr(peer.proxy, name)


# -- Deadlines and cancellation


def test_a_late_answer_goes_to_nobody_else() -> None:
    calc = Calc()
    with served(calc) as (_, peer):
        with pytest.raises(Timeout, match="wait gave no answer within"):
            peer.call("wait", "late", timeout=SOON)
        with flower.move_on(SOON) as scope:
            peer.call("wait", "also late")
        assert scope.expired
        t = flower.go(peer.call, "wait", "last")
        rounds(2)
        calc.gate.send(None, NEVER)  # the two before have been cancelled there
        assert t.join(NEVER) == "last"
        assert peer.call("add", 1, 1) == 2
        assert not peer._session.calls.pending


def test_the_id_of_a_call_that_timed_out_is_not_used_again() -> None:
    with raw_server() as (peer, raw):
        with pytest.raises(Timeout):
            peer.call("slow", timeout=SOON)
        assert raw.receive() == [0, 1, "slow", []]
        peer._session.wire._last_id = 0  # as if the ids had wrapped round
        t = flower.go(peer.call, "next")
        assert raw.receive() == [0, 2, "next", []]
        raw.send([1, 1, None, "too late"], [1, 2, None, "mine"])
        assert t.join(NEVER) == "mine"


def test_a_killed_caller_disturbs_nobody() -> None:
    calc = Calc()
    with served(calc) as (_, peer):
        t = flower.go(peer.call, "wait")
        rounds(2)
        t.kill()
        calc.gate.send(None, NEVER)
        assert peer.call("add", 1, 1) == 2


def test_a_call_that_was_cancelled_before_it_was_sent() -> None:
    with raw_server() as (peer, raw):
        fill(peer._session.conn)
        with pytest.raises(Timeout):
            peer.call("never sent", timeout=SOON)
        assert not peer._session.calls.pending
        assert not peer._session.wire._calls
        raw.conn.close()


# -- Losing the connection fails every pending call at once


@pytest.mark.parametrize("how", ["close here", "close there", "server closes", "reset"])
def test_every_pending_call_fails_at_once(how: str) -> None:
    calc = Calc()
    with served(calc) as (server, peer):
        callers = [failing(peer.call, "wait") for _ in range(20)]
        reply = peer.start("wait")
        until(lambda: calc.gate.balance == -21)
        if how == "close here":
            peer.close()
        elif how == "close there":
            server.peers[0].close()
        elif how == "server closes":
            server.close()
        else:
            (session,) = server._sessions
            session.conn._stream.abort()
        assert [type(t.join(NEVER)) for t in callers] == [Disconnected] * 20
        with pytest.raises(Disconnected):
            reply.receive(NEVER)
        with pytest.raises(Disconnected):
            peer.call("add", 1, 2)
        with pytest.raises(Disconnected):
            peer.notify("note", 1)
        assert peer.closed
        until(lambda: calc.gate.balance == 0)


def test_what_disconnected_says() -> None:
    with served() as (server, peer):
        peer.close()
        with pytest.raises(Disconnected, match="closed here"):
            peer.call("add", 1, 2)
    with served() as (server, peer):
        peer.call("add", 1, 2)
        server.close()
        until(lambda: peer.closed)
        with pytest.raises(Disconnected, match="the peer closed the connection") as caught:
            peer.call("add", 1, 2)
        assert str(server.address[1]) in str(caught.value)
        assert isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize("how", ["close", "drop", "server closes", "disconnect", "breach"])
def test_a_method_whose_caller_has_gone_is_cancelled(how: str, recwarn: Any) -> None:
    calc = Calc()
    with served(calc) as (server, peer):
        peer.start("wait")
        until(lambda: calc.gate.balance == -1)
        if how == "close":
            peer.close()
        elif how == "drop":
            peer._session.conn.abort()
        elif how == "server closes":
            server.close()
        elif how == "disconnect":
            server.peers[0].close()
        else:
            peer._session.conn.send(b"\xc1")
        until(lambda: calc.gate.balance == 0)
        until(lambda: not server.peers)


@pytest.mark.parametrize("way", ["call", "notify"])
def test_a_method_that_hangs_up_goes_on(way: str) -> None:
    class Service:
        done = 0

        def part(self) -> None:
            context = rpc.context()
            assert context is not None
            context.peer.close()
            flower.time.sleep(0)
            self.done += 1

    service = Service()
    with served(service) as (server, peer):
        if way == "notify":
            peer.notify("part")
        else:
            with pytest.raises(Disconnected):
                peer.call("part")
        until(lambda: service.done)
        assert not server.peers


def test_answers_still_go_to_a_peer_that_only_ended_its_sending() -> None:
    calc = Calc()
    with served(calc) as (server, _):
        with socket.create_connection(server.address, NEVER) as sock:
            sock.sendall(msgpack.packb([0, 1, "wait", [5]]))
            sock.shutdown(socket.SHUT_WR)
            until(lambda: calc.gate.balance == -1)
            until(lambda: len(server.peers) == 1)  # it can't be called any more
            calc.gate.send(None, NEVER)
            rounds(3)
            assert msgpack.unpackb(sock.recv(100)) == [1, 1, None, 5]
            assert sock.recv(100) == b""


def test_but_not_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it only ended its sending is not to be told from its having gone."""
    monkeypatch.setattr(_session, "LAST_ANSWERS", 0.01)
    calc = Calc()
    with rpc.serve(URL, calc) as server, raw_client(server) as raw:
        raw.send([0, 1, "wait", []], [0, 2, "wait", []])
        until(lambda: calc.gate.balance == -2)
        raw.conn.close()
        until(lambda: calc.gate.balance == 0)
        assert not server._sessions


def test_an_answer_that_finds_nobody_ends_the_other_methods() -> None:
    calc = Calc()
    with rpc.serve(URL, calc) as server:
        with socket.create_connection(server.address, NEVER) as sock:
            sock.sendall(b"".join(msgpack.packb([0, i, "wait", []]) for i in range(9)))
            until(lambda: calc.gate.balance == -9)
        until(lambda: not server.peers)
        for _ in range(3):  # the first answer is met by a reset, the second ends the connection, the third finds none
            calc.gate.send(None, NEVER)
            flower.time.sleep(0.001)
        until(lambda: calc.gate.balance == 0 and not server._sessions)


def test_a_peer_that_was_dropped_closes_and_warns() -> None:
    with rpc.serve(URL, Calc()) as server:
        peer = rpc.connect(server.url)
        assert peer.call("add", 1, 1) == 2
        with pytest.warns(ResourceWarning, match="dropped, and not closed"):
            del peer
            gc.collect()
        until(lambda: not server.peers)
    settle()


@pytest.mark.parametrize("reconnect", [False, True])
def test_a_peer_may_be_dropped_in_another_thread(reconnect: bool) -> None:
    with rpc.serve(URL, Calc()) as server:
        peers = [rpc.connect(server.url, reconnect=reconnect)]
        assert peers[0].call("add", 1, 1) == 2
        until(lambda: len(server.peers) == 1)

        def drop() -> None:
            with pytest.warns(ResourceWarning, match="dropped, and not closed"):
                peers.clear()
                gc.collect()

        peers[0].start("wait").receiver.close()  # that has not been told yet
        thread = threading.Thread(target=drop)
        thread.start()
        thread.join(NEVER)
        until(lambda: not server.peers)
    settle()
