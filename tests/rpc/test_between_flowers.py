"""What Flower peers do beyond plain MessagePack-RPC: keyword arguments, errors, cancellation, deadlines, leaving."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

import flower
from flower import rpc
from flower.errors import (
    DeadlineExceeded,
    Disconnected,
    InvalidArguments,
    Overloaded,
    RemoteCancelled,
    RemoteError,
    Timeout,
    UnknownMethod,
)
from flower.rpc import Settings
from tests.net.support import NEVER, rounds, until
from tests.rpc import link
from tests.rpc.support import (
    HELLO,
    URL,
    Calc,
    raw_client,
    raw_server,
    served,
    settle,
)

pytestmark = pytest.mark.usefixtures("loop")


# -- Keyword arguments, metadata, errors


def test_keyword_arguments_and_metadata() -> None:
    class Service:
        def show(self, a: int, *, b: int = 0) -> Any:
            context = rpc.context()
            assert context is not None
            return [a, b, context.meta]

    with served(Service()) as (_, peer):
        call = peer._session.call
        assert call("show", (1,), {"b": 2}, None, {"tp": "00-ab"}) == [1, 2, {"tp": "00-ab"}]
        assert call("show", (), {"a": 1}) == [1, 0, {}]
        with pytest.raises(InvalidArguments, match="unexpected"):
            call("show", (1,), {"c": 1})
        with pytest.raises(InvalidArguments):
            call("show", ())


@pytest.mark.parametrize("layers", [(), (lambda call, proceed: proceed(call),)])
def test_calls_with_a_parameter_named_timeout_and_with_metadata(layers: Any) -> None:
    class Service:
        def __init__(self) -> None:
            self.noted: list[Any] = []

        def show(self, timeout: int, method: int = 0, meta: int = 0) -> Any:
            context = rpc.context()
            assert context is not None
            left = context.remaining()
            return [timeout, method, meta, context.meta, left is not None and 0 < left <= NEVER]

        def count(self, timeout: int) -> Any:
            yield timeout

        def note(self, timeout: int) -> None:
            self.noted.append(timeout)

        def wait(self, timeout: int) -> None:
            flower.never().receive()

    service = Service()
    with rpc.serve(URL, service) as server, rpc.connect(server.url, middleware=layers) as peer:
        caller = peer.using(timeout=NEVER, meta={"tp": "00-ab"})
        assert caller.call("show", timeout=5, method=6, meta=7) == [5, 6, 7, {"tp": "00-ab"}, True]
        assert caller.start("show", timeout=5).receive() == [5, 0, 0, {"tp": "00-ab"}, True]
        assert list(caller.stream("count", timeout=8)) == [8]
        caller.notify("note", timeout=9)
        until(lambda: service.noted == [9])
        with pytest.raises(Timeout):
            peer.using(timeout=0.01).call("wait", timeout=60)
        assert "Caller of <Peer" in repr(caller)
        with pytest.raises(ValueError, match="'dl' in meta is the protocol's own"):
            peer.using(meta={"dl": 5})
        for meta in (3, "tp", [("tp", "00-ab")]):
            with pytest.raises(TypeError, match="meta is a dict of plain data"):
                peer.using(meta=meta)  # type: ignore[arg-type]
    settle()


def test_no_layer_gives_a_call_the_protocols_own_metadata() -> None:
    def layer(call: Any, proceed: Any) -> Any:
        call.meta = {"dl": 5}
        return proceed(call)

    with rpc.serve(URL, Calc()) as server, rpc.connect(server.url, middleware=[layer]) as peer:
        for do in (peer.call, peer.start, peer.stream, peer.notify):
            with pytest.raises(ValueError, match="'dl' in meta is the protocol's own"):
                do("add", 1, 2)
    settle()


def test_notifications_with_keyword_arguments() -> None:
    calc = Calc()
    with served(calc) as (_, peer):
        peer._session.notify("note", (), {"value": 5})
        until(lambda: calc.log == [5])


class Strange(Exception):
    pass


class NoSuchKey(KeyError):
    pass


def test_what_a_remote_error_tells() -> None:
    class Failing(Calc):
        def key(self) -> None:
            raise NoSuchKey("k", 5)

        def strange(self) -> None:
            try:
                raise OSError(2, "not there")
            except OSError as error:
                raise Strange("odd") from error

        def unicode(self) -> None:
            b"\xff".decode()

        def stop(self) -> None:
            raise StopIteration(5)

        def no_class(self) -> None:
            raise Exception("of no class of its own")

    with served(Failing()) as (_, peer):
        with pytest.raises(KeyError) as caught:
            peer.call("key")
        error: Any = caught.value
        assert isinstance(error, RemoteError)
        assert error.args == ("k", 5)
        assert error.type.endswith("NoSuchKey")
        assert error.kind == "failed"
        assert not error.not_run
        assert "raise NoSuchKey" in error.traceback
        with pytest.raises(RemoteError, match="Strange: odd") as other:
            peer.call("strange")
        cause: Any = other.value.__cause__
        assert isinstance(cause, FileNotFoundError)
        assert cause.errno == 2
        with pytest.raises(UnicodeError):
            peer.call("unicode")
        with pytest.raises(RemoteError, match="StopIteration"):
            peer.call("stop")
        with pytest.raises(RemoteError) as plain:
            peer.call("no_class")
        assert type(plain.value) is RemoteError


def test_tracebacks_are_told_only_where_that_is_allowed() -> None:
    with served(Calc(), Settings(tracebacks=False)) as (_, peer):
        with pytest.raises(ValueError, match="no") as caught:
            peer.call("fail", "no")
        assert caught.value.traceback is None  # type: ignore[attr-defined]


# -- Cancellation and deadlines


class Slow(Calc):
    def __init__(self) -> None:
        super().__init__()
        self.other: Any = None

    def slow(self) -> None:
        try:
            self.gate.receive(NEVER)
        except flower.Cancelled:
            self.log.append("cancelled")
            raise
        except Timeout:
            self.log.append("timeout")
            raise

    def forward(self) -> Any:
        return self.other.call("slow")

    def left_there(self, timeout: float) -> Any:
        return self.other.call("left", timeout=timeout)

    def stubborn(self) -> str:
        with flower.move_on(None):
            try:
                self.gate.receive(NEVER)
            except flower.Cancelled:
                pass
        return "done"

    def stubborn_twice(self) -> None:
        self.stubborn()
        with flower.shield():
            self.gate.receive(NEVER)

    def left(self) -> Any:
        context = rpc.context()
        assert context is not None
        return context.remaining()


@pytest.mark.parametrize("how", ["kill", "scope", "timeout", "close the reply"])
def test_cancellation_reaches_the_method(how: str) -> None:
    slow = Slow()
    with served(slow) as (_, peer):
        peer.call("add", 1, 2)
        if how == "close the reply":
            reply = peer.start("slow")
            until(lambda: slow.gate.balance == -1)
            reply.receiver.close("enough")
        elif how == "timeout":
            with pytest.raises(Timeout, match=r"slow gave no answer within 0.1 s"):
                peer.call("slow", timeout=0.1)  # enough for it to begin, on a busy machine, too
        else:
            scope = flower.move_on()

            def run() -> None:
                with scope:
                    peer.call("slow")

            t = flower.go(run)
            until(lambda: slow.gate.balance == -1)
            t.kill() if how == "kill" else scope.cancel()
        until(lambda: slow.log == ["cancelled"])
        until(lambda: not peer._session.calls.pending)
        assert peer.call("add", 1, 2) == 3


def test_a_cancelled_call_is_still_answered() -> None:
    slow = Slow()
    with served(slow) as (server, _), raw_client(server) as raw:
        raw.send(HELLO, [0, 7, "slow", []], [0, 8, "stubborn", []], [0, 9, "echo", [1]])
        assert raw.receive()[1] == 1
        assert raw.receive() == [1, 9, None, 1]
        raw.send([2, "$/cancel", [7, "cancelled"]], [2, "$/cancel", [8, "deadline"]], [2, "$/cancel", [99, ""]])
        answers = {m[1]: m for m in (raw.receive(), raw.receive())}
        assert answers[7][2]["k"] == "cancelled"
        assert answers[8] == [1, 8, None, "done"]


def test_the_peer_is_told_why_a_call_is_given_up() -> None:
    with raw_server(settings=Settings()) as (peer, raw):
        raw.send([1, raw.receive()[1], None, HELLO[3][0]])
        until(lambda: peer._session.theirs is not None)
        with pytest.raises(Timeout):
            peer.call("slow", timeout=0)
        with flower.move_on(0):
            peer.call("slow")
        reply = peer.start("slow", timeout=0.001)
        with pytest.raises(Timeout):
            reply.receive(NEVER)
        peer.start("slow").receiver.close()
        told = [raw.receive() for _ in range(8)]
        calls = {message[1]: message[3] for message in told if message[0] == 0}
        first, second, third, fourth = calls
        assert calls[first] == ["slow", [], {}, {"dl": 1}]  # a part of a millisecond is a whole one
        reasons = [message[2] for message in told if message[0] == 2]
        assert reasons == [[first, "deadline"], [second, "cancelled"], [third, "deadline"], [fourth, "cancelled"]]


def test_what_is_told_of_the_end_is_why_the_peer_gave_the_call_up() -> None:
    with served(Slow()) as (server, _), raw_client(server) as raw:
        raw.send(HELLO, [0, 7, "slow", []], [0, 8, "slow", []])
        assert raw.receive()[1] == 1
        raw.send([2, "$/cancel", [7, "deadline"]], [2, "$/cancel", [8, "for fun"]])
        assert {m[1]: m[2]["k"] for m in (raw.receive(), raw.receive())} == {7: "deadline", 8: "cancelled"}


def test_a_deadline_is_kept_where_the_method_runs() -> None:
    slow = Slow()
    with served(slow) as (server, _), raw_client(server) as raw:
        raw.send(HELLO, [0, 7, "$/call", ["slow", [], {}, {"dl": 5}]])
        raw.receive()
        assert raw.receive()[2]["k"] == "deadline"
        assert slow.log == ["cancelled"]


def test_a_deadline_that_passed_before_the_method_began() -> None:
    slow = Slow()
    with served(slow) as (server, _), raw_client(server) as raw:
        raw.send(HELLO, [0, 7, "slow", []], [2, "$/cancel", [7, "cancelled"]])
        raw.receive()
        assert raw.receive()[2]["k"] == "cancelled"
        assert slow.log == []


def test_of_two_deadlines_the_sooner_counts() -> None:
    inner, outer = Slow(), Slow()
    with served(inner) as (_, far), served(outer) as (_, peer):
        outer.other = far
        far.call("add", 1, 1)
        assert peer.call("left_there", 5.0, timeout=50.0) <= 5.1
        assert 5.0 < peer.call("left_there", 500.0, timeout=50.0) <= 50.1


def test_a_time_without_end_is_no_deadline() -> None:
    with raw_server(settings=Settings()) as (peer, raw):
        raw.send([1, raw.receive()[1], None, HELLO[3][0]])
        until(lambda: peer._session.theirs is not None)
        peer.start("m", timeout=1e300)
        assert raw.receive()[3] == ["m", [], {}, {}]
    with served(Slow()) as (server, _), raw_client(server) as raw:
        raw.send(HELLO, [0, 7, "$/call", ["left", [], {}, {"dl": 10**11 + 1}]])
        raw.receive()
        assert raw.receive() == [1, 7, None, None]


def test_nested_calls_inherit_the_deadline() -> None:
    inner, outer = Slow(), Slow()
    with served(inner) as (_, far), served(outer) as (_, peer):
        outer.other = far
        far.call("add", 1, 1)
        assert peer.call("left") is None
        assert 0 < peer.call("left", timeout=50.0) <= 50.1
        with pytest.raises(Timeout):
            peer.call("forward", timeout=0.02)
        until(lambda: inner.log == ["cancelled"])


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("overloaded", Overloaded),
        ("unimplemented", UnknownMethod),
        ("cancelled", RemoteCancelled),
        ("deadline", DeadlineExceeded),
        ("invalid", InvalidArguments),
        ("failed", RemoteError),
        ("disconnected", RemoteError),
        ("no such kind", RemoteError),
    ],
)
def test_each_kind_has_its_error(kind: str, error: type[Exception]) -> None:
    with raw_server() as (peer, raw):
        t = flower.go(peer.call, "m")
        raw.receive()
        raw.send([1, 1, {"k": kind, "t": "", "m": "text"}, None])
        with pytest.raises(RemoteError, match="text") as caught:
            t.join(NEVER)
        assert type(caught.value) is error
        assert caught.value.not_run is (kind == "overloaded")


@pytest.mark.parametrize(
    "told", [{}, {"m": 5}, {"k": [], "t": 5, "a": {}}, {"t": "builtins.KeyboardInterrupt"}, {1: 2}]
)
def test_errors_that_make_no_sense(told: Any) -> None:
    with raw_server() as (peer, raw):
        t = flower.go(peer.call, "m")
        raw.receive()
        raw.send([1, 1, {**told, 7: 7}, None])
        with pytest.raises(RemoteError):
            t.join(NEVER)


# -- What every peer answers, and leaving


def test_what_every_peer_answers() -> None:
    with served() as (_, peer), rpc.connect(_.url, settings=Settings(plain=True)) as plain:
        for each in (peer, plain):
            assert each.call("$/ping") is None
            assert each.call("$/list")["add"]["signature"].startswith("(a")
            assert each.call("$/help", "wait")["doc"].startswith("Blocks")
            assert each.call("$/health") == {"status": "serving"}
            assert each.call("$/stats")["served"] == 0
            with pytest.raises(RemoteError, match="unknown method: nothing"):
                each.call("$/help", "nothing")
            with pytest.raises(RemoteError):
                each.call("$/help")
        assert peer._session.ping() > 0


def test_draining() -> None:
    calc = Calc()
    with served(calc) as (server, peer):
        reply = peer.start("wait", "x")
        until(lambda: calc.gate.balance == -1)
        (session,) = server._sessions
        seen = []
        peer._session.on_leaving = seen.append
        assert session.drain(grace=0.005) is False
        until(lambda: seen)
        with pytest.raises(Overloaded, match="leave") as caught:
            peer.call("add", 1, 2)
        assert caught.value.not_run
        t = flower.go(session.drain)
        rounds(3)
        assert t.alive
        calc.gate.send(None, NEVER)
        assert t.join(NEVER) is True
        assert reply.receive(NEVER) == "x"


def test_what_a_peer_is_told_by_one_who_drains() -> None:
    with served() as (server, _), raw_client(server) as raw:
        raw.send(HELLO, [0, 7, "echo", [1]])
        assert [raw.receive()[1] for _ in range(2)] == [1, 7]
        (session,) = (s for s in server._sessions if s.theirs is not None and s.theirs.node == "raw")
        draining = flower.go(session.drain, "so long", 5.5)
        assert raw.receive() == [2, "$/bye", ["so long", 7, 5500]]
        raw.send([1, raw.receive()[1], None, None])
        assert draining.join(NEVER) is True


def test_who_drains_waits_no_longer_for_methods_whose_caller_is_gone() -> None:
    slow = Slow()
    with served(slow) as (server, peer):
        reply = peer.start("stubborn_twice")
        until(lambda: slow.gate.balance == -1)
        (session,) = server._sessions
        draining = flower.go(session.drain, grace=1000 * NEVER)
        until(lambda: peer._session.leaving and not session.outstanding)
        rounds(3)
        session.close()
        assert draining.join(NEVER) is True
        assert slow.gate.balance == -1
        slow.gate.send(None, NEVER)
        with pytest.raises(Disconnected):
            reply.receive(NEVER)


def test_who_drains_waits_until_its_answers_have_left() -> None:
    a, b = link.linked({}, {})
    link.deliver_all(a, b)
    reply = a.begin("nothing")
    b.conn.sent += bytes(link.ROOM)  # no room
    a.conn.deliver(1 << 30)
    link.settle()
    b.theirs = None  # no ping, which would wait for the same
    draining = flower.go(b.drain)
    link.settle()
    assert draining.alive
    del b.conn.sent[:]
    b.conn.deliver(0)
    link.settle()
    assert draining.join(NEVER) is True
    b.conn.deliver(1 << 30)
    link.settle()
    with pytest.raises(UnknownMethod):
        reply.receive(NEVER)
    a.close()
    b.close()
    link.settle()


def test_a_request_to_one_who_drains_is_refused() -> None:
    with served() as (server, peer), raw_client(server) as raw:
        until(lambda: len(server.peers) == 2)
        peer.call("add", 1, 2)
        for session in server._sessions:
            session.draining = True
        raw.send(HELLO, [0, 2, "add", [1, 2]])
        raw.receive()
        assert raw.receive()[2] == {"k": "overloaded", "t": "", "m": "overloaded: about to leave, no new calls"}


def test_a_call_that_was_never_sent_says_so() -> None:
    with served() as (_, peer):
        peer.close()
        with pytest.raises(Disconnected) as caught:
            peer.call("add", 1, 2)
        assert caught.value.not_run


def test_unknown_control_messages() -> None:
    with served() as (server, _), raw_client(server) as raw:
        raw.send(HELLO, [2, "$/nothing", [1]], [0, 5, "$/nothing", []], [2, "$/cancel", [5, "x"]])
        raw.receive()
        assert raw.receive()[2]["k"] == "unimplemented"


@pytest.mark.parametrize("message", [[2, "$/cancel", []], [2, "$/cancel", [[], 1]]])
def test_control_messages_that_cant_stand(message: Any) -> None:
    with served() as (server, _), raw_client(server) as raw:
        raw.send(HELLO)
        raw.receive()
        raw.send(message)
        raw.receive()


def test_a_plain_peer_may_say_what_it_likes_with_a_dollar() -> None:
    with served() as (server, _), raw_client(server) as raw:
        raw.send([2, "$/d", [1, 2]], [2, "$/cancel", "x".split()], msgpack.packb([0, 1, "echo", [1]]))
        assert raw.receive() == [1, 1, None, 1]
