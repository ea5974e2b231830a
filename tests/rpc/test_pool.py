"""Connections that are made again, and several of them.

No call that may have run is made twice, and none waits for good.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import flower
from flower import rpc
from flower.errors import AuthError, Disconnected, Overloaded, Timeout
from flower.net import Listen
from flower.rpc import _pool
from tests.net.support import HOME, NEVER, failing, until
from tests.rpc.support import URL, Calc, Raw, free_port, settle

pytestmark = pytest.mark.usefixtures("loop")

SOON = 0.01  # seconds; a timeout that a test waits for


class Counter(Calc):
    """Counts what runs."""

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name
        self.runs = 0

    def who(self) -> str:
        self.runs += 1
        return self.name

    def numbers(self) -> Any:
        yield from range(2)

    def hold(self) -> str:
        self.runs += 1
        self.gate.receive(NEVER)
        return self.name


class Handle:
    """Asks its peer as it is packed."""

    def __init__(self, peer: rpc.Peer) -> None:
        self.peer = peer
        self.packed = 0

    def pack(self) -> None:
        self.packed += 1
        assert self.packed < 10
        self.peer.notify("note")


rpc.register(Handle, to=Handle.pack, of=lambda _: None)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/socket"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pauses are short, and what is under way at a test's end ends."""
    monkeypatch.setattr(_pool, "FIRST_PAUSE", 0.002)
    yield
    settle()


def gone(server: rpc.Server) -> None:
    server.close()
    until(lambda: not server._sessions)


# -- One server that comes and goes


def test_a_connection_is_made_again(url: str) -> None:
    with rpc.serve(url, Counter("first")) as server, rpc.connect(url, reconnect=True) as peer:
        assert peer.call("who") == "first"
        gone(server)
        waiting = flower.go(peer.call, "who")
        flower.time.sleep(SOON)
        assert waiting.alive
        with rpc.serve(url, Counter("second")):
            assert waiting.join(NEVER) == "second"
            assert peer.call("who") == "second"
            assert not peer.closed


@pytest.mark.parametrize("way", ["start", "call", "stream"])
def test_a_call_that_may_have_run_is_not_made_again(url: str, way: str) -> None:
    service = Counter()
    with rpc.serve(url, service) as server, rpc.connect(url, reconnect=True) as peer:
        if way == "start":
            replies = [peer.start("hold") for _ in range(3)]
            under_way = [failing(reply.receive, NEVER) for reply in replies]
        else:
            under_way = [failing(getattr(peer, way), "hold") for _ in range(3)]
        until(lambda: service.runs == 3)
        server.close()
        with rpc.serve(url, service):
            for each in under_way:
                error = each.join(NEVER)
                assert type(error) is Disconnected
                assert not error.not_run
            assert peer.call("add", 1, 2) == 3
            assert service.runs == 3
    until(lambda: service.gate.balance == 0)  # those that ran there were cancelled


def test_a_call_waits_for_a_connection_as_long_as_its_timeout(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with rpc.serve(url, Counter()) as server, rpc.connect(url, reconnect=True) as peer:
        gone(server)
        with pytest.raises(Timeout, match=r"not connected; unix:.*/socket: "):
            peer.call("who", timeout=SOON)
        monkeypatch.setattr(_pool, "PATIENCE", SOON)
        for do in (peer.call, peer.start, peer.notify):
            with pytest.raises(Disconnected, match=r"not connected; unix:.*No such file or directory") as caught:
                do("who")
            assert caught.value.not_run
        with pytest.raises(Disconnected):
            peer.remote_addr()


@pytest.mark.parametrize("urls", [1, 2])
def test_whatever_waits_for_a_connection_obeys_its_timeout(tmp_path: Path, urls: int) -> None:
    url = [f"unix:{tmp_path}/{number}" for number in range(urls)]
    with rpc.serve(url[0], Counter()) as server, rpc.connect(url, reconnect=True) as peer:
        gone(server)
        soon = peer.using(timeout=SOON)
        with flower.timeout(NEVER / 2):
            for do in (soon.call, soon.start, soon.stream, soon.notify):
                with pytest.raises(Timeout, match=r"not connected|could not be sent within 0.01 s"):
                    do("who")
            with pytest.raises(Timeout, match="not connected"):
                peer.start("who", timeout=SOON)
            with pytest.raises(Timeout, match="not connected"):
                peer.ping(SOON)


def test_a_lost_connection_elsewhere_makes_no_call_again(url: str) -> None:
    """What packs an argument uses a peer that is closed: it did not run, but that says nothing of this connection."""
    with rpc.serve(url, Counter()), rpc.connect([url, url], reconnect=True) as peer:
        with rpc.connect(url) as other:
            pass
        everywhere(peer, 2)
        for do in (peer.call, peer.start, peer.stream, peer.notify):
            handle = Handle(other)
            with pytest.raises(Disconnected, match="closed here"):
                do("echo", handle)
            assert handle.packed == 1


def test_close_ends_who_waits_for_a_connection(url: str) -> None:
    with rpc.serve(url, Counter()) as server, rpc.connect(url, reconnect=True) as peer:
        gone(server)
        waiting = flower.go(peer.call, "who")
        flower.time.sleep(SOON)
        peer.close()
        assert peer.closed
        with pytest.raises(Disconnected, match="closed here"):
            waiting.join(NEVER)
        peer.close()


def test_the_first_connection() -> None:
    port = free_port()
    url = f"tcp://{HOME}:{port}"
    with pytest.raises(ConnectionRefusedError, match=str(port)):
        rpc.connect(url, reconnect=True)
    soon = 10 * SOON  # and time to be refused, on a busy machine
    with pytest.raises(Timeout, match=f"not connected within {soon} s; {url}: .*refused"):
        rpc.connect(url, reconnect=True, timeout=soon)
    connecting = flower.go(rpc.connect, url, reconnect=True, timeout=NEVER)
    flower.time.sleep(SOON)
    with rpc.serve(url, Counter("late")), connecting.join(NEVER) as peer:
        assert peer.call("who") == "late"


@pytest.mark.parametrize(
    ("url", "options", "error", "text"),
    [
        ("tcp://a..b:9000", {}, ValueError, "not a host name: 'a..b'"),
        ("tls://127.0.0.1:1", {"server_name": "a..b"}, ValueError, "server_name can't be"),
        ("tls://127.0.0.1:1", {"context": 5}, TypeError, "SSLContext"),
    ],
)
@pytest.mark.parametrize("timeout", [None, NEVER])
def test_what_can_never_be_reached(
    url: str, options: dict[str, Any], error: type[Exception], text: str, timeout: float | None
) -> None:
    """It was raised in main, once for each place, and who wanted to connect waited for good."""
    connecting = flower.go(rpc.connect, [url, url], reconnect=True, timeout=timeout, **options)
    with pytest.raises(error, match=text):
        connecting.join(NEVER)
    settle()


@pytest.mark.parametrize("reconnect", [False, True])
def test_nobody_takes_the_token(reconnect: bool) -> None:
    with rpc.serve(URL, Calc(), token="a") as one, rpc.serve(URL, Calc(), token="b") as other:
        with pytest.raises(AuthError, match=f"{one.url}: .*refused us.*{other.url}: .*refused us"):
            rpc.connect([one.url, other.url], token="c", reconnect=reconnect)
        with rpc.connect([one.url, other.url], token="b", reconnect=reconnect) as peer:
            assert peer.call("add", 1, 2) == 3
    settle()


def test_who_is_refused_does_not_come_back() -> None:
    with rpc.serve(URL, Counter(), token="secret") as server:
        with pytest.raises(AuthError):
            rpc.connect(server.url, reconnect=True, token="wrong", timeout=NEVER)
        with rpc.connect(server.url, reconnect=True, token="secret") as peer:
            assert peer.call("add", 1, 2) == 3


def test_a_peer_is_closed_when_its_last_connection_is() -> None:
    service = Counter()
    with rpc.serve(URL, Counter()) as one, rpc.serve(URL, service) as other:
        with rpc.connect([one.url, other.url]) as peer:
            until(lambda: len(peer._session._sessions) == 2)
            one.close()
            until(lambda: len(peer._session._sessions) == 1)
            assert not peer.closed
            waiting = peer.start("wait", 1)
            until(lambda: any(session.inflight for session in other._sessions))
            closing = flower.go(other.close, NEVER)
            until(lambda: all(link.finished for link in peer._session._links))
            assert not peer.closed  # a call is still answered
            service.gate.send(None, NEVER)
            assert waiting.receive(NEVER) == 1
            closing.join(NEVER)
            until(lambda: peer.closed)
            assert "closed" in repr(peer)
            with pytest.raises(Disconnected, match="all connections are lost"):
                peer.call("add", 1, 2)
    settle()


def test_who_is_refused_later_learns_why() -> None:
    with rpc.serve(URL, Counter(), token="old") as server:
        peer = rpc.connect([server.url, server.url], reconnect=True, token="old")
    with peer, rpc.serve(server.url, Counter(), token="new"):
        until(lambda: all(link.finished for link in peer._session._links))
        for do in (peer.call, peer.start, peer.stream, peer.notify):
            with pytest.raises(AuthError, match=f"all connections are lost; {server.url}: .*refused us") as caught:
                do("add", 1, 2)
            assert caught.value.not_run
    settle()


@pytest.mark.slow
def test_the_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pool, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(_pool.random, "uniform", lambda low, high: high)
    began = []
    with Listen((HOME, 0)) as listener:
        host, port = listener.addr()
        connecting = flower.go(rpc.connect, f"tcp://{host}:{port}", reconnect=True, timeout=NEVER)
        for _ in range(5):
            with listener.receive(NEVER):
                began.append(flower.channels._scheduler.current_scheduler().now())
        connecting.kill()
    pauses = [later - earlier for earlier, later in pairwise(began)]
    for number, pause in enumerate(pauses):
        assert pause >= 0.02 * 2**number


def test_the_longest_pause_is_as_long_as_it_is_said_to_be(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 10:
            flower.never().receive()
        flower.schedule()

    pauses: list[float] = []
    monkeypatch.setattr(_pool, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(_pool.random, "uniform", lambda low, high: high)
    monkeypatch.setattr(_pool, "sleep", sleep)
    connecting = flower.go(rpc.connect, url, reconnect=True, timeout=NEVER)
    until(lambda: len(pauses) == 10)
    connecting.kill()
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])


def test_a_peer_that_is_dropped_is_closed(url: str) -> None:
    with rpc.serve(url, Counter()) as server:
        peer = rpc.connect(url, reconnect=True)
        assert peer.call("add", 1, 1) == 2
        with pytest.warns(ResourceWarning, match="was dropped, and not closed"):
            del peer
            gc.collect()
        until(lambda: not server._sessions)


# -- Several servers


@contextmanager
def servers(count: int, **options: Any) -> Iterator[tuple[list[rpc.Server], list[Counter]]]:
    services = [Counter(str(number)) for number in range(count)]
    serving = [rpc.serve(URL, service, **options) for service in services]
    try:
        yield serving, services
    finally:
        for server in serving:
            server.close()


def everywhere(peer: rpc.Peer, count: int) -> None:
    """Wait until all the connections stand."""
    until(lambda: sum(link.session is not None for link in peer._session._links) == count)


def test_calls_go_to_the_least_loaded() -> None:
    with servers(3) as (serving, services), rpc.connect([server.url for server in serving]) as peer:
        everywhere(peer, 3)
        replies = [peer.start("hold") for _ in range(6)]
        until(lambda: sum(service.runs for service in services) == 6)
        assert [service.runs for service in services] == [2, 2, 2]
        services[1].gate.send(None, NEVER)
        services[1].gate.send(None, NEVER)
        until(lambda: sum(len(reply) for reply in replies) == 2)
        assert {peer.call("who") for _ in range(5)} == {"1"}
        for service in (services[0], services[2]):
            for _ in range(2):
                service.gate.send(None, NEVER)
        assert sorted(reply.receive(NEVER) for reply in replies) == ["0", "0", "1", "1", "2", "2"]
        assert {peer.call("who") for _ in range(3)} == {"0", "1", "2"}  # where all are idle, they take turns


def test_what_is_down_is_left_out_and_comes_back(tmp_path: Path) -> None:
    urls = [f"unix:{tmp_path}/{number}" for number in range(2)]
    with rpc.serve(urls[0], Counter("0")), rpc.connect(urls, reconnect=True) as peer:
        assert {peer.call("who") for _ in range(4)} == {"0"}
        with rpc.serve(urls[1], Counter("1")) as other:
            everywhere(peer, 2)
            assert {peer.call("who") for _ in range(4)} == {"0", "1"}
            gone(other)
            assert {peer.call("who") for _ in range(4)} == {"0"}


def test_nobody_there(tmp_path: Path) -> None:
    urls = [f"unix:{tmp_path}/{number}" for number in range(2)]
    with pytest.raises(Disconnected, match=r"not connected; unix:.*/0: No such.*; unix:.*/1: No such"):
        rpc.connect(urls)
    with pytest.raises(ValueError, match="no URL"):
        rpc.connect([])


def test_without_reconnect_the_last_one_gone_is_the_end() -> None:
    with servers(2) as (serving, _), rpc.connect([server.url for server in serving]) as peer:
        everywhere(peer, 2)
        gone(serving[0])
        assert {peer.call("who") for _ in range(3)} == {"1"}
        gone(serving[1])
        with pytest.raises(Disconnected, match="all connections are lost"):
            peer.call("who")


def test_what_is_refused_as_overloaded_goes_elsewhere() -> None:
    with servers(2, max_inflight=1) as (serving, services):
        with rpc.connect([server.url for server in serving]) as peer:
            everywhere(peer, 2)
            busy = [flower.go(peer.call, "hold") for _ in range(2)]
            until(lambda: services[0].runs == services[1].runs == 1)
            for call in (peer.call, peer.stream):
                with pytest.raises(Overloaded):  # by both
                    call("who")
            assert [service.runs for service in services] == [1, 1]
            services[1].gate.send(None, NEVER)
            until(lambda: any(not t.alive for t in busy))
            # One of them is loaded as much as the other, as far as we know: the refused call finds the free one.
            held = [peer.start("hold")]
            until(lambda: services[1].runs == 2)
            with pytest.raises(Overloaded):
                peer.call("who")
            for service in services:
                service.gate.send(None, NEVER)
            assert sorted([busy[0].join(NEVER), busy[1].join(NEVER), held[0].receive(NEVER)]) == ["0", "1", "1"]


def test_a_stream_that_is_refused_goes_elsewhere() -> None:
    with servers(2) as (serving, _), rpc.connect([server.url for server in serving]) as peer:
        everywhere(peer, 2)
        for session in serving[0]._sessions:
            session.draining = True  # and its goodbye is still under way
        for _ in range(4):
            assert list(peer.stream("numbers")) == [0, 1]


def test_a_server_that_leaves_is_not_noticed() -> None:
    """A rolling restart under load: no call fails, and none runs twice."""
    with servers(2) as (serving, services), rpc.connect([server.url for server in serving]) as peer:
        everywhere(peer, 2)
        calls = 0
        stop = False

        def caller() -> None:
            nonlocal calls
            while not stop:
                peer.call("who")
                calls += 1

        with flower.group() as group:
            for _ in range(8):
                group.go(caller)
            until(lambda: min(service.runs for service in services) > 20)
            serving[0].close(grace=NEVER)
            left = services[0].runs
            until(lambda: calls > left + 200)
            stop = True
        assert sum(service.runs for service in services) == calls
        assert services[0].runs == left


def test_a_call_that_crosses_the_leave_of_the_only_server_waits_for_the_next() -> None:
    with Listen((HOME, 0)) as listener:

        def accepted() -> Raw:
            raw = Raw(listener.receive(NEVER))
            raw.send([1, raw.receive()[1], None, {"v": 1, "ext": 70, "feat": ["call", "bye"]}])
            return raw

        host, port = listener.addr()
        connecting = flower.go(rpc.connect, f"tcp://{host}:{port}", reconnect=True)
        first = accepted()
        with connecting.join(NEVER) as peer:
            reply = flower.go(peer.call, "m")
            request = first.receive()
            refusal = {"k": "overloaded", "t": "", "m": "about to leave"}
            first.send([2, "$/bye", ["", 0, 0]], [1, request[1], refusal, None])
            second = accepted()
            request = second.receive()
            assert request[2] == "m"
            second.send([1, request[1], None, "done"])
            assert reply.join(NEVER) == "done"
            first.conn.close()
            second.conn.close()
        del connecting
    settle()


def test_a_service_can_be_called_back_over_each_connection() -> None:
    with servers(2) as (serving, _), rpc.connect([server.url for server in serving], Counter("me")) as peer:
        everywhere(peer, 2)
        until(lambda: all(server.peers for server in serving))
        assert [server.peers[0].call("who") for server in serving] == ["me", "me"]


def test_a_call_between_the_end_of_a_connection_and_its_readers_turn() -> None:
    """A tasklet that never waits sees the connection end before the session does: it gives way to the reader."""

    def work() -> Any:
        while not session.conn._stream.ended:
            flower.schedule()
        assert session.fault is None
        return peer.call("echo", 1), peer.notify("note", 2)

    calc = Calc()
    with rpc.serve(URL, calc) as server, rpc.connect(server.url, reconnect=True) as peer:
        peer.call("echo", 0)
        (session,) = peer._session._sessions
        t = flower.go(work)
        for served in list(server._sessions):
            served.conn.abort()
        assert t.join(NEVER) == (1, None)
        until(lambda: calc.log == [2])
    settle()


def test_a_call_goes_elsewhere_where_the_reader_of_a_lost_connection_is_held_back() -> None:
    class Slow:
        def note(self, _: bytes) -> None:
            gate.receive()

    gate: flower.channel[None] = flower.channel()
    with rpc.serve(URL, Calc()) as one, rpc.serve(URL, Calc()) as other:
        with rpc.connect([one.url, other.url], Slow(), reconnect=True) as peer:
            until(lambda: len(peer._session._sessions) == 2)
            assert [peer.call("echo", n) for n in range(4)] == [0, 1, 2, 3]
            (caller,) = one.peers
            for _ in range(8):
                caller.notify("note", bytes(60_000))
            held = list(peer._session._sessions)
            until(lambda: any(s.serving.proceed.balance < 0 for s in held))
            for served in list(one._sessions):
                served.conn.abort()
            until(lambda: any(s.conn._stream.ended for s in held))
            assert all(s.fault is None for s in held)
            with flower.timeout(NEVER / 2):
                assert [peer.call("echo", n) for n in range(4)] == [0, 1, 2, 3]
            gate.close()
    settle()
