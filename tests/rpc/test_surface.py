"""What users see of peers and servers: ways to call, who calls, middleware, how a server goes."""

from __future__ import annotations

import asyncio
import contextvars
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

import flower
from flower import rpc
from flower.errors import ChannelBroken, Disconnected, InvalidArguments, Overloaded, RemoteError, Timeout, UnknownMethod
from tests.net.support import NEVER, until
from tests.rpc.support import URL, Calc, pair, raw_client, served, settle

pytestmark = pytest.mark.usefixtures("loop")


class Service(Calc):
    def keywords(self, a: int, *, b: int = 2) -> list[int]:
        return [a, b]

    def told(self, *args: Any, **kwargs: Any) -> None:
        self.log.append([list(args), kwargs])

    def count(self, n: int, start: int = 0) -> Iterator[int]:
        yield from range(start, start + n)


# -- Ways to call


def test_keyword_arguments() -> None:
    service = Service()
    with served(service) as (_, peer):
        assert peer.call("keywords", 1, b=3) == [1, 3]
        assert peer.call("keywords", a=5, timeout=NEVER) == [5, 2]
        assert peer.proxy.keywords(a=1, b=1) == [1, 1]
        assert peer.start("keywords", b=7, a=0).receive(NEVER) == [0, 7]
        peer.notify("told", 1, method="post")
        peer.notify("told", timeout=3)
        until(lambda: len(service.log) == 2)
        assert service.log == [[[1], {"method": "post"}], [[], {"timeout": 3}]]
        with pytest.raises(InvalidArguments, match=r"keywords\(a: int, \*, b: int = 2\) -> list\[int\]: .*'c'"):
            peer.call("keywords", 1, c=3)
        with pytest.raises(UnknownMethod, match="subtract"):
            peer.call("subtract", a=1)


def test_ping() -> None:
    with served() as (_, peer):
        assert 0 < peer.ping() < 5
        peer.close()
        with pytest.raises(Disconnected):
            peer.ping()


def test_modules_and_dicts_are_served() -> None:
    with rpc.serve(URL, os.path) as server, rpc.connect(server.url) as peer:
        assert peer.call("join", "a", "b") == "a/b"
        with pytest.raises(UnknownMethod):
            peer.call("_get_sep", "x")
        with pytest.raises(UnknownMethod):
            peer.call("os")
    with rpc.serve(URL, {"text.upper": str.upper}) as server, rpc.connect(server.url) as peer:
        assert peer.call("text.upper", "abc") == "ABC"
    settle()


def test_faces_of_one_connection_are_equal() -> None:
    with served() as (server, peer):
        until(lambda: server.peers)
        (one,), (other,) = server.peers, server.peers
        assert one == other
        assert hash(one) == hash(other)
        assert one != peer
        assert len({one, other, peer}) == 2


# -- Who calls


class Asked:
    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.peers: set[rpc.Peer] = set()

    def look(self) -> Any:
        context = rpc.context()
        assert context is not None
        self.peers.add(context.peer)
        self.seen.append([context.method, context.address, context.metadata, context.certificate, context.remaining()])
        return context.peer.call("add", 1, 2)

    def in_a_tasklet(self) -> Any:
        return flower.go(lambda: getattr(rpc.context(), "method", None)).join(NEVER)


def test_the_context_of_a_call() -> None:
    assert rpc.context() is None
    service = Asked()
    with rpc.serve(URL, service) as server:
        with rpc.connect(server.url, Calc(), metadata={"name": "ada"}) as peer:
            assert peer.call("look") == 3
            assert peer.call("look", timeout=NEVER) == 3
            (theirs,) = server.peers
            assert service.peers == {theirs}
            assert peer.call("in_a_tasklet") == "in_a_tasklet"
        (method, address, metadata, certificate, remaining), (*_, bounded) = service.seen
        assert (method, metadata, certificate, remaining) == ("look", {"name": "ada"}, None, None)
        assert address[0] == "127.0.0.1"
        assert 0 < bounded <= NEVER
        service.peers.clear()
        del theirs
    settle()


class Everywhere:
    """Where the context of a call is seen."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    def note(self, where: str) -> None:
        context = rpc.context()
        self.seen[where] = context and context.method

    async def _coroutine(self) -> None:
        self.note("in a coroutine")
        await asyncio.create_task(self._another())

    async def _another(self) -> None:
        self.note("in a coroutine's")

    def look(self) -> None:
        flower.blocking(self.note, "in a worker thread")
        flower.wait(self._coroutine())
        flower.tasklet(self.note)("in a tasklet").join(NEVER)
        flower.time.after_func(0, self.note, "after a while")
        until(lambda: "after a while" in self.seen)
        flower.go(flower.go, self.note, "in a tasklet's")
        until(lambda: "in a tasklet's" in self.seen)
        contextvars.copy_context().run(self.note, "in a copy")
        contextvars.copy_context().run(self._start, "in a copy's tasklet")
        flower.go(contextvars.copy_context().run, self.note, "in a copy that a tasklet runs").join(NEVER)
        flower.blocking(contextvars.copy_context().run, self.note, "in a copy that a thread runs")
        self.note("at its end")

    def _start(self, where: str) -> None:
        flower.go(self.note, where).join(NEVER)

    def notice(self) -> None:
        flower.go(self.note, "in a notification's")
        self.note("in a notification")

    def late(self, done: Any) -> None:
        flower.go(lambda: (done.receive(NEVER), self.note("when it is over")))


def test_where_the_context_of_a_call_is_seen() -> None:
    service = Everywhere()
    with served(service) as (_, peer):
        peer.call("look", timeout=NEVER)
        assert set(service.seen.values()) == {"look"}
        assert len(service.seen) == 11
        service.seen.clear()
        peer.notify("notice")
        peer.notify("unknown")
        peer.notify("notice")
        done: flower.channel[int] = flower.channel()
        peer.call("late", done.receiver)
        done.send(1, NEVER)
        until(lambda: len(service.seen) == 3)
        assert service.seen == {
            "in a notification": "notice",
            "in a notification's": "notice",
            "when it is over": "late",
        }
        flower.go(service.note, "elsewhere").join(NEVER)
        assert service.seen["elsewhere"] is None


def test_who_calls_over_a_unix_socket(tmp_path: Path) -> None:
    service = Asked()
    with rpc.serve(f"unix:{tmp_path}/s", service) as server, rpc.connect(server.url, Calc()) as peer:
        assert peer.call("look") == 3
        service.peers.clear()
    settle()


# -- Middleware


def test_middleware_around_calls_that_are_made() -> None:
    log: list[Any] = []

    def layer(call: rpc.Call, proceed: Any) -> Any:
        log.append([call.way, call.method, list(call.args), call.kwargs, call.timeout])
        call.args += (10,)
        return proceed(call)

    service = Service()
    with rpc.serve(URL, service) as server, rpc.connect(server.url, middleware=[layer]) as peer:
        assert peer.call("add", 1, timeout=NEVER) == 11
        assert peer.start("keywords", b=1).receive(NEVER) == [10, 1]
        peer.notify("told", 1)
        assert peer.proxy.echo() == 10
        assert log == [
            ["call", "add", [1], {}, NEVER],
            ["start", "keywords", [], {"b": 1}, None],
            ["notify", "told", [1], {}, None],
            ["call", "echo", [], {}, None],
        ]
        assert service.log == [[[1, 10], {}]]
    settle()


def test_a_way_that_is_none_is_told_where_the_call_is_made() -> None:
    def layer(call: rpc.Call, proceed: Any) -> Any:
        call.way = "bogus"
        return proceed(call)

    with rpc.serve(URL, Service()) as server, rpc.connect(server.url, middleware=[layer]) as peer:
        for do in (peer.call, peer.start, peer.stream, peer.notify):
            with pytest.raises(ValueError, match=r"way .* is call, start, stream or notify, not 'bogus'"):
                do("add", 1)
    settle()


def test_middleware_may_try_again() -> None:
    def again(call: rpc.Call, proceed: Any) -> Any:
        for _ in range(5):
            try:
                return proceed(call)
            except ValueError:
                pass
        return "in vain"

    class Moody:
        moods = 3

        def ask(self) -> str:
            self.moods -= 1
            if self.moods:
                raise ValueError("not now")
            return "well, yes"

    with rpc.serve(URL, Moody()) as server, rpc.connect(server.url, middleware=[again]) as peer:
        assert peer.call("ask") == "well, yes"
    settle()


def test_middleware_around_calls_that_are_served() -> None:
    def guard(call: rpc.Call, proceed: Any) -> Any:
        context = rpc.context()
        assert context is not None
        assert call.way == "serve"
        if context.metadata.get("user") != "ada":
            raise PermissionError(f"{call.method} is not for you")
        return proceed(call)

    with rpc.serve(URL, Service(), middleware=[guard]) as server:
        with rpc.connect(server.url, metadata={"user": "ada"}) as peer:
            assert peer.call("add", 1, 2) == 3
            assert peer.call("keywords", 1, b=1) == [1, 1]
            with pytest.raises(InvalidArguments):
                peer.call("add", 1)
        with rpc.connect(server.url) as peer, pytest.raises(PermissionError, match="add is not for you"):
            peer.call("add", 1, 2)
    settle()


# -- Options


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"no_such": 1}, TypeError, "no such option: no_such"),
        ({"max_message": "1"}, TypeError, "max_message is a whole number"),
        ({"max_inflight": -1}, ValueError, "max_inflight is at least 0"),
        ({"cert": "x"}, ValueError, "cert: for a URL such as tls://"),
        ({"middleware": len}, TypeError, "middleware is a list"),
        ({"settings": {"max_inflight": 1}}, TypeError, "settings are made by rpc.Settings"),
        ({"settings": {"max_inflight": 1}, "token": "x"}, TypeError, "settings are made by rpc.Settings"),
    ],
)
def test_bad_options_are_told_at_the_door(options: dict[str, Any], error: type[Exception], text: str) -> None:
    for do in (lambda: rpc.serve(URL, Calc(), **options), lambda: rpc.connect("tcp://127.0.0.1:1", **options)):
        with pytest.raises(error, match=text):
            do()


def test_nothing_is_served_only_where_that_is_said() -> None:
    with pytest.raises(TypeError, match="not None: to serve nothing"):
        rpc.serve(URL, None)
    with rpc.serve(URL, {}) as server, rpc.connect(server.url) as peer, pytest.raises(UnknownMethod):
        peer.call("add", 1, 2)
    settle()


@pytest.mark.parametrize("reconnect", [False, True])
@pytest.mark.parametrize("timeout", ["5", True, -1, math.nan], ids=repr)
def test_a_timeout_that_is_none_is_told_before_anybody_connects(timeout: Any, reconnect: bool) -> None:
    """With ``reconnect`` the error came late, and who connected went on and on."""
    with pytest.raises((TypeError, ValueError), match=r"^a timeout is "):
        rpc.connect("tcp://127.0.0.1:1", reconnect=reconnect, timeout=timeout)
    settle()


@pytest.mark.parametrize("long", [math.inf, 10**400], ids=["inf", "huge"])
def test_a_time_too_large_for_a_float_is_no_limit(long: float) -> None:
    settings = rpc.Settings(heartbeat=long, handshake_timeout=long, token="secret")
    server = rpc.serve(URL, Calc(), settings=settings)
    for reconnect in (False, True):
        with rpc.connect(server.url, settings=settings, timeout=long, reconnect=reconnect) as peer:
            assert peer.call("add", 1, 2, timeout=long) == 3
            assert peer.ping(long) > 0
    server.close(long)
    settle()


def test_settings_may_be_shared_and_changed_in_one_thing() -> None:
    settings = rpc.Settings(token="secret", max_inflight=1)
    with rpc.serve(URL, Calc(), settings=settings) as server:
        with rpc.connect(server.url, settings=settings) as peer:
            assert peer.call("add", 1, 2) == 3
        with pytest.raises(rpc.AuthError):
            rpc.connect(server.url, settings=settings, token="other")
    settle()


# -- How a server goes


def test_close_with_grace_lets_calls_end_and_refuses_new_ones() -> None:
    calc = Calc()
    with rpc.serve(URL, calc) as server, rpc.connect(server.url) as peer:
        running = peer.start("wait", "done")
        until(lambda: server._sessions and next(iter(server._sessions)).inflight)
        closing = flower.go(server.close, grace=math.inf)
        until(lambda: peer._session.leaving)
        with pytest.raises(Overloaded, match="about to leave") as caught:
            peer.call("add", 1, 2)
        assert caught.value.not_run
        with pytest.raises(ConnectionRefusedError):
            rpc.connect(server.url)
        assert closing.alive
        calc.gate.send(None, NEVER)
        assert running.receive(NEVER) == "done"
        closing.join(NEVER)
        until(lambda: peer.closed)
    settle()


@pytest.mark.parametrize("what", ["it leaves, too", "it knows no ping", "what can't be made"])
def test_close_with_grace_waits_for_the_calls_of_others_whatever_a_peer_says(what: str) -> None:
    calc = Calc()
    with rpc.serve(URL, calc) as server, raw_client(server) as raw:
        raw.send([0, 1, "$/hello", [{"v": 1, "ext": 70, "feat": ["call", "types", "bye"]}]])
        assert raw.receive()[:3] == [1, 1, None]
        with rpc.connect(server.url) as peer:
            running = peer.start("wait", "done")
            until(lambda: calc.gate.balance < 0)
            if what == "it leaves, too":
                raw.send([2, "$/bye", ["", 0, 0]])
                until(lambda: next(iter(server._sessions)).leaving)
            closing = flower.go(server.close, grace=1000 * NEVER)
            assert raw.receive()[1] == "$/bye"
            answer = ["unknown method", None] if what == "it knows no ping" else [None, msgpack.ExtType(71, b"?\xc0")]
            if what != "it leaves, too":
                raw.send([1, raw.receive()[1], *answer])
            flower.time.sleep(0.01)
            calc.gate.send(None, NEVER)
            assert running.receive(NEVER) == "done"
            if what != "it leaves, too":
                raw.send([1, raw.receive()[1], *answer])
            closing.join(NEVER)
    settle()


def test_all_who_close_with_grace_go_on_when_the_calls_have_ended() -> None:
    calc = Calc()
    with served(calc) as (server, peer):
        running = peer.start("wait")
        until(lambda: calc.gate.balance < 0)
        closing = [flower.go(server.close, grace=1000 * NEVER) for _ in range(4)]
        flower.time.sleep(0.01)
        calc.gate.send(None, NEVER)
        running.receive(NEVER)
        for each in closing:
            each.join(NEVER)


def test_close_with_grace_lets_a_notification_end() -> None:
    service = Calc()
    with served(service) as (server, peer):
        peer.notify("wait")
        until(lambda: service.gate.balance < 0)
        closing = flower.go(server.close, grace=1000 * NEVER)
        until(lambda: closing.blocked)
        service.gate.send(None, NEVER)
        closing.join(NEVER)


@pytest.mark.parametrize("how", ["grace", "none"])
def test_what_a_peer_that_has_left_asked_for_is_done_until_the_server_closes(how: str) -> None:
    service = Calc()
    ended: list[str] = []

    def note() -> None:
        try:
            service.gate.receive(NEVER)
            ended.append("done")
        except flower.Cancelled:
            ended.append("cancelled")
            raise

    with rpc.serve(URL, {"note": note}) as server:
        with rpc.connect(server.url) as peer:
            peer.notify("note")
            until(lambda: service.gate.balance < 0)
        until(lambda: not server.peers)
        if how == "grace":
            closing = flower.go(server.close, grace=1000 * NEVER)
            until(lambda: closing.blocked)
            service.gate.send(None, NEVER)
            closing.join(NEVER)
        else:
            server.close()
            until(lambda: bool(ended))
        until(lambda: not server._sessions)
    assert ended == ["done" if how == "grace" else "cancelled"]
    settle()


def test_a_connection_that_comes_in_the_turn_of_the_close_is_not_served() -> None:
    with rpc.serve(URL, Service()) as server:

        def close() -> None:
            while server._listener._connections.balance < 0:
                flower.time.sleep(0)
            server.close()

        flower.schedule()
        closing = flower.go(close)
        with pytest.raises(Disconnected), rpc.connect(server.url, timeout=NEVER) as peer:
            peer.call("add", 1, 2, timeout=NEVER)
        closing.join(NEVER)
        assert not server.peers


@pytest.mark.parametrize(("grace", "error"), [(-1, ValueError), (math.nan, ValueError), ("soon", TypeError)])
def test_a_grace_that_is_none_closes_nothing(grace: Any, error: type[Exception]) -> None:
    with rpc.serve(URL, {"length": len}) as server, rpc.connect(server.url) as peer:
        assert peer.call("length", "abc", timeout=NEVER) == 3
        with pytest.raises(error, match="timeout is"):
            server.close(grace=grace)
        assert not server.closed
        assert peer.call("length", "abc", timeout=NEVER) == 3


def test_close_when_the_grace_is_over() -> None:
    calc = Calc()
    with rpc.serve(URL, calc) as server, rpc.connect(server.url) as peer:
        running = peer.start("wait")
        until(lambda: server._sessions and next(iter(server._sessions)).inflight)
        server.close(grace=0.01)
        with pytest.raises(Disconnected):
            running.receive(NEVER)
        until(lambda: calc.gate.balance == 0)
    settle()


def test_close_with_grace_and_nothing_to_wait_for() -> None:
    with (
        rpc.serve(URL, Calc()) as server,
        rpc.connect(server.url) as peer,
        rpc.connect(server.url, plain=True) as plain,
    ):
        assert peer.call("add", 1, 2) == plain.call("add", 1, 2) == 3
        with flower.timeout(NEVER):
            server.close(grace=NEVER)
        server.close(grace=NEVER)
        until(lambda: peer.closed and plain.closed)
    settle()


def test_a_cancelled_close_closes_at_once() -> None:
    calc = Calc()
    with rpc.serve(URL, calc) as server, rpc.connect(server.url) as peer:
        running = peer.start("wait")
        until(lambda: server._sessions and next(iter(server._sessions)).inflight)
        with pytest.raises(Timeout), flower.timeout(0.01):
            server.close(grace=NEVER)
        with pytest.raises(Disconnected):
            running.receive(NEVER)
        until(lambda: calc.gate.balance == 0)
    settle()


def test_peers_on_a_connection_that_stands() -> None:
    with pair(Calc(), Service()) as (a, b):
        assert a.call("keywords", 1) == [1, 2]
        assert b.call("add", 1, 2) == 3
        with pytest.raises(RemoteError):
            b.call("keywords", 1)


# -- Streams


class Watched:
    def __init__(self) -> None:
        self.ended: list[str] = []

    def watch(self) -> Iterator[int]:
        """One value, and then a wait for something that does not come."""
        try:
            yield 1
            flower.channel().receive(NEVER)
        finally:
            self.ended.append("watch")

    def flood(self) -> Iterator[int]:
        try:
            yield from range(1_000_000)
        finally:
            self.ended.append("flood")

    def tidy(self) -> Iterator[int]:
        try:
            yield 1
            flower.channel().receive(NEVER)
        finally:
            with flower.shield():
                flower.time.sleep(0.005)
            self.ended.append("tidy")


@pytest.mark.parametrize("how", ["close", "disconnect", "drop"])
@pytest.mark.parametrize("name", ["watch", "flood", "tidy"])
def test_a_generator_ends_with_its_reader_wherever_it_waits(name: str, how: str) -> None:
    service = Watched()
    with rpc.serve(URL, service) as server, rpc.connect(server.url) as peer:
        values = peer.stream(name)
        assert values.receive(NEVER) in (0, 1)
        if how == "close":
            values.close()
        elif how == "disconnect":
            peer.close()
        del values
        until(lambda: service.ended == [name])
        if how != "disconnect":
            assert peer.stream("watch").receive(NEVER) == 1
    settle()
    until(lambda: len(service.ended) == 2 - (how == "disconnect"))


def test_a_generator_ends_with_the_timeout_of_its_stream() -> None:
    service = Watched()
    with rpc.serve(URL, service) as server, rpc.connect(server.url) as peer:
        values = peer.stream("watch", timeout=0.03)
        assert values.receive(NEVER) == 1
        with pytest.raises(rpc.RemoteError):
            values.receive(NEVER)
        until(lambda: service.ended)
    settle()


def test_a_timeout_of_ages_is_no_deadline_to_the_peer() -> None:
    with served({"left": lambda: rpc.context().deadline is not None}) as (_, peer):
        assert peer.call("left", timeout=1e6) is True
        for timeout in (1e9, 1e20, 10**200):
            assert peer.call("left", timeout=timeout) is False


def test_a_fork_leaves_peers_to_the_parent() -> None:
    with served(Service()) as (server, peer), rpc.connect(server.url, reconnect=True) as pool:
        numbers = peer.stream("count", 1000)
        assert numbers.receive() == 0
        reply = peer.start("wait", "the gate was opened")
        assert peer.ping() >= 0.0
        child = os.fork()
        if child == 0:
            status = 1
            found: list[Any] = []
            try:
                for ask in (
                    lambda: reply.receive(NEVER),
                    lambda: list(numbers),
                    lambda: peer.call("add", 1, 2, timeout=NEVER),
                    lambda: pool.call("add", 1, 2, timeout=NEVER),
                ):
                    with pytest.raises(ConnectionError) as caught:
                        ask()
                    found.append((type(caught.value), "belongs to the parent" in str(caught.value)))
                found += [peer.closed, pool.closed, server.peers]
                lost = [(Disconnected, True), (ChannelBroken, True), (Disconnected, True), (Disconnected, False)]
                status = 0 if found == [*lost, True, True, ()] else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert list(numbers) == list(range(1, 1000))
        assert peer.call("add", 1, 2) == pool.call("add", 1, 2) == 3
        reply.receiver.close()
