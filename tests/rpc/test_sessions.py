"""A session and its server: both ways, peers that break the protocol, bad input, and how a server ends."""

from __future__ import annotations

import logging
from typing import Any

import msgpack
import pytest

import flower
from flower import rpc
from flower.errors import ProtocolError, RemoteError
from flower.net import Dial
from tests.net.support import HOME, NEVER, rounds, until
from tests.rpc.support import (
    URL,
    Calc,
    free_port,
    pair,
    raw_client,
    raw_server,
    served,
    settle,
)

pytestmark = pytest.mark.usefixtures("loop")


# -- Both ways


def test_either_side_may_call_the_other() -> None:
    with pair(Calc(), Calc()) as (a, b):
        assert a.call("add", 1, 2) == b.call("add", 1, 2) == 3
        tasks = [flower.go(p.call, "echo", i) for i in range(50) for p in (a, b)]
        assert sorted(t.join(NEVER) for t in tasks) == sorted([*range(50), *range(50)])


def test_calls_nest_over_one_connection() -> None:
    class Countdown:
        peer: Any = None

        def down(self, n: int) -> int:
            return 0 if n == 0 else 1 + self.peer.call("down", n - 1)

    one, other = Countdown(), Countdown()
    with pair(one, other) as (a, b):
        one.peer, other.peer = a, b
        assert a.call("down", 30) == 30
        one.peer = other.peer = None


def test_a_server_calls_its_clients() -> None:
    calc = Calc()
    with rpc.serve(URL, Calc()) as server, rpc.connect(server.url, calc) as peer:
        assert peer.call("add", 1, 1) == 2
        (client,) = server.peers
        assert client.call("add", 2, 2) == 4
        client.notify("note", "from the server")
        client.call("echo", None)
        until(lambda: calc.log == ["from the server"])
    settle()


def test_a_peer_without_a_service_serves_nothing() -> None:
    with served() as (server, peer):
        peer.call("add", 1, 1)
        with pytest.raises(RemoteError, match="unknown method"):
            server.peers[0].call("add", 1, 1)


# -- Peers that break the protocol: it costs them their connection, and nobody else


@pytest.mark.parametrize(
    "message",
    [
        b"\xc1",
        b"GET / HTTP/1.1\r\n\r\n",
        [3, 1, "m", []],
        [0, 1, "m"],
        [0, -1, "m", []],
        [0, 1, "m", {}],
        [1, 77, None, None],
        {"not": "an array"},
        b"\x91" * 10_000,
    ],
)
def test_a_bad_message_costs_that_peer_its_connection(message: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "flower.rpc"), served() as (server, peer):
        with raw_client(server) as raw:
            raw.send([0, 9, "add", [1, 2]], message)
            assert raw.receive() == [1, 9, None, 3]  # what came before it is answered
            assert raw.receive() is None
            port = raw.conn.local_addr()[1]
        assert peer.call("add", 1, 2) == 3
        assert len(server.peers) == 1
    (record,) = caplog.records
    assert str(port) in record.getMessage()


def test_a_server_that_breaks_the_protocol() -> None:
    with raw_server() as (peer, raw):
        t = flower.go(peer.call, "anything")
        raw.receive()
        raw.send([1, 99, None, None])
        with pytest.raises(ProtocolError, match="99"):
            t.join(NEVER)
        with pytest.raises(ProtocolError, match="99"):
            peer.call("anything")


def test_a_peer_that_is_cut_off_within_a_message(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "flower.rpc"), served() as (server, _):
        with raw_client(server) as raw:
            raw.send(b"\x94\x00\x01")
        until(lambda: len(server.peers) == 1)
        until(lambda: caplog.records)
    assert "in the middle of a message" in caplog.text


def test_byte_by_byte() -> None:
    with served() as (server, _), raw_client(server) as raw:
        for byte in msgpack.packb([0, 1, "add", ["a", "b"]]):
            raw.conn.send(bytes([byte]))
            rounds(1)
        assert raw.receive() == [1, 1, None, "ab"]


def test_ids_from_zero_are_a_peers_right() -> None:
    with served() as (server, _), raw_client(server) as raw:
        raw.send([0, 0, "add", [1, 2]], [0, 2**32 - 1, "add", [3, 4]])
        assert sorted([raw.receive(), raw.receive()]) == [[1, 0, None, 3], [1, 2**32 - 1, None, 7]]


def test_neovims_kind_of_error() -> None:
    with raw_server() as (peer, raw):
        t = flower.go(peer.call, "nvim_command", "x")
        raw.receive()
        raw.send([1, 1, [0, "Vim:E492: Not an editor command: x"], None])
        with pytest.raises(RemoteError, match=r"^Vim:E492: Not an editor command: x$") as caught:
            t.join(NEVER)
        assert caught.value.error == [0, "Vim:E492: Not an editor command: x"]


# -- Bad input


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:80",
        "http://127.0.0.1:80",
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:x",
        "tcp://127.0.0.1:99999",
        "tcp://127.0.0.1:-1",
        "tcp://::1:80",
        "tcp://a b:80",
        "tcp://u@h:80",
        "tcp://127.0.0.1:80/path",
    ],
)
def test_bad_urls(url: str) -> None:
    for attempt in (lambda: rpc.serve(url, Calc()), lambda: rpc.connect(url)):
        with pytest.raises(ValueError, match="tcp://host:port") as caught:
            attempt()
        assert repr(url) in str(caught.value)


@pytest.mark.parametrize("url", [None, 5, b"tcp://127.0.0.1:1", ("127.0.0.1", 1)])
def test_urls_are_strings(url: Any) -> None:
    for attempt in (lambda: rpc.serve(url, Calc()), lambda: rpc.connect(url)):
        with pytest.raises(TypeError, match="is a str"):
            attempt()


def test_nobody_there() -> None:
    port = free_port()
    with pytest.raises(ConnectionRefusedError, match=str(port)):
        rpc.connect(f"tcp://{HOME}:{port}")


def test_an_address_in_use() -> None:
    with rpc.serve(URL, Calc()) as server, pytest.raises(OSError, match=str(server.address[1])):
        rpc.serve(server.url, Calc())
    settle()


def test_a_class_is_no_service() -> None:
    for attempt in (lambda: rpc.serve(URL, Calc), lambda: rpc.connect("tcp://127.0.0.1:1", Calc)):
        with pytest.raises(TypeError, match=r"Calc\(\)"):
            attempt()


def test_a_peer_needs_a_connection() -> None:
    with pytest.raises(TypeError, match="connection"):
        rpc.Peer("tcp://127.0.0.1:1")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [5, b"add", None, ["add"]])
def test_a_methods_name_is_a_str(method: Any) -> None:
    with served() as (server, peer):
        for attempt in (peer.call, peer.start, peer.notify):
            with pytest.raises(TypeError, match="name is a str"):
                attempt(method)
        assert peer.call("add", 1, 2) == 3
        assert len(server.peers) == 1


@pytest.mark.parametrize("timeout", [-1, float("nan"), "x"])
def test_bad_timeouts(timeout: Any) -> None:
    with served() as (_, peer):
        with pytest.raises((TypeError, ValueError)):
            peer.call("add", 1, 2, timeout=timeout)
        assert peer.call("add", 1, 2) == 3


# -- The server


def test_its_address() -> None:
    with rpc.serve(URL, Calc()) as server:
        host, port = server.address
        assert host == HOME
        assert port
        assert server.url == f"tcp://{HOME}:{port}"
        assert server.url in repr(server)
    assert server.closed
    assert "closed" in repr(server)
    server.close()
    settle()


def test_run_goes_on_while_a_server_serves() -> None:
    class Stoppable:
        server: Any = None

        def stop(self) -> None:
            self.server.close()

    service = Stoppable()
    service.server = rpc.serve(URL, service)
    peer = rpc.connect(service.server.url)
    peer.notify("stop")
    flower.run()
    assert service.server.closed
    peer.close()
    settle()


def test_an_idle_peer_does_not_keep_run_going() -> None:
    with raw_server() as (peer, _):
        flower.run()
        assert not peer.closed


def test_a_peer_with_a_service_keeps_run_going() -> None:
    with raw_server(Calc()) as (peer, raw):
        flower.go(raw.conn.close)
        flower.run()
        assert peer.closed


def test_reprs() -> None:
    with served() as (server, peer):
        assert str(server.address[1]) in repr(peer)
        assert "open" in repr(peer)
        assert "Proxy" in repr(peer.proxy)
        peer.close()
        assert "closed" in repr(peer)


def test_peer_over_a_connection() -> None:
    with rpc.serve(URL, Calc()) as server:
        with rpc.Peer(Dial("tcp", server.address)) as peer:
            assert peer.call("add", 1, 2) == 3
            assert peer.remote_addr() == server.address
    settle()
