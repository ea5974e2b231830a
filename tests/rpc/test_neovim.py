"""Neovim as a peer that was written by others: it calls us, and we call it, and its quirks do no harm."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest

import flower
from flower import rpc
from flower.errors import Disconnected, RemoteError
from tests.net.support import HOME, NEVER, listening, until
from tests.rpc.support import Calc, free_port, settle

NVIM = shutil.which("nvim")

pytestmark = [
    pytest.mark.usefixtures("loop"),
    pytest.mark.slow,
    pytest.mark.skipif(NVIM is None, reason="Neovim is not installed"),
]


@contextmanager
def listening_neovim(service: object = None) -> Iterator[rpc.Peer]:
    """Neovim as a server that we connect to."""
    port = free_port()
    command = [str(NVIM), "--headless", "--clean", "-n", "--listen", f"{HOME}:{port}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with flower.timeout(NEVER):
            while True:
                try:
                    peer = rpc.connect(f"tcp://{HOME}:{port}", service)
                    break
                except ConnectionRefusedError:  # it has not begun to listen yet
                    flower.select(flower.after(0.005))
        with peer:
            yield peer
    finally:
        process.kill()
        process.wait()
    settle()


@contextmanager
def embedded_neovim(service: object = None) -> Iterator[rpc.Peer]:
    """Neovim as a child that speaks over its standard input and output: here both are one socket."""
    with listening() as listener:
        theirs = socket.create_connection(listener.addr(), NEVER)
        conn = listener.receive(NEVER)
    with theirs:
        command = [str(NVIM), "--embed", "--headless", "--clean", "-n"]
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
    try:
        with rpc.Peer(conn, service) as peer:
            yield peer
    finally:
        process.kill()
        process.wait()
    settle()


@pytest.fixture(params=[listening_neovim, embedded_neovim], ids=["listen", "embed"])
def neovim(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_we_call_it(neovim: Any) -> None:
    with neovim() as peer:
        assert peer.call("nvim_eval", "6 * 7") == 42
        peer.call("nvim_buf_set_lines", 0, 0, -1, True, ["one", "two"])
        assert peer.proxy.nvim_buf_get_lines(0, 0, -1, True) == ["one", "two"]
        peer.notify("nvim_command", "let g:told = 5")
        assert peer.call("nvim_get_var", "told") == 5


def test_it_calls_us(neovim: Any) -> None:
    calc = Calc()
    with neovim(calc) as peer:
        us, _ = peer.call("nvim_get_api_info")
        assert peer.call("nvim_eval", f"rpcrequest({us}, 'add', 1, 2)") == 3
        peer.call("nvim_command", f"call rpcnotify({us}, 'note', [1, 'two', {{'three': 3}}])")
        until(lambda: calc.log)
        assert calc.log == [[1, "two", {"three": 3}]]


def test_calls_in_both_directions_nest(neovim: Any) -> None:
    class Nested:
        peer: Any = None

        def down(self, n: int) -> int:
            if n == 0:
                return 0
            us, _ = self.peer.call("nvim_get_api_info")
            return 1 + self.peer.call("nvim_eval", f"rpcrequest({us}, 'down', {n - 1})")

    service = Nested()
    with neovim(service) as peer:
        service.peer = peer
        assert service.down(10) == 10
        service.peer = None


def test_answers_come_out_of_order(neovim: Any) -> None:
    calc = Calc()
    with neovim(calc) as peer:
        us, _ = peer.call("nvim_get_api_info")
        first = peer.start("nvim_eval", f"rpcrequest({us}, 'wait', 1)")
        second = peer.start("nvim_eval", "2")
        source, value = flower.select(first, second, timeout=NEVER)
        assert source is second
        assert value == 2
        calc.gate.send(None, NEVER)
        assert first.receive(NEVER) == 1


class Doors:
    """Requests of Neovim's that are answered when we say so."""

    def __init__(self) -> None:
        self.came = flower.channel(10)
        self.doors = {name: flower.channel(1) for name in ("outer", "inner")}

    def through(self, name: str) -> str:
        self.came.send(name)
        self.doors[name].receive(NEVER)
        return name


@contextmanager
def two_nested_requests(neovim: Any) -> Iterator[tuple[Doors, Any, Any]]:
    service = Doors()
    with neovim(service) as peer:
        us, _ = peer.call("nvim_get_api_info")
        replies = []
        for name in ("outer", "inner"):
            replies.append(peer.start("nvim_eval", f"rpcrequest({us}, 'through', '{name}')"))
            assert service.came.receive(NEVER) == name
        yield service, *replies


def test_its_nested_requests_are_answered_last_in_first_out(neovim: Any) -> None:
    with two_nested_requests(neovim) as (service, outer, inner):
        service.doors["inner"].send(None)
        assert inner.receive(NEVER) == "inner"
        service.doors["outer"].send(None)
        assert outer.receive(NEVER) == "outer"


def test_in_another_order_it_hangs_up_and_nobody_waits_for_good(neovim: Any) -> None:
    with two_nested_requests(neovim) as (service, outer, inner):
        service.doors["outer"].send(None)
        for reply in (outer, inner):
            with pytest.raises((Disconnected, RemoteError)):
                reply.receive(NEVER)
        service.doors["inner"].send(None)


def test_many_calls_at_once(neovim: Any) -> None:
    with neovim() as peer:
        callers = [flower.go(peer.call, "nvim_eval", f"{i} + {i}") for i in range(200)]
        assert [t.join(NEVER) for t in callers] == [2 * i for i in range(200)]


def test_our_errors_and_its_own(neovim: Any) -> None:
    with neovim(Calc()) as peer:
        with pytest.raises(RemoteError, match="E492") as caught:
            peer.call("nvim_command", "nosuchcommand")
        kind, text = caught.value.error
        assert (kind, text) == (0, caught.value.message)
        with pytest.raises(RemoteError, match="Invalid method: no_such_method"):
            peer.call("no_such_method")
        us, _ = peer.call("nvim_get_api_info")
        with pytest.raises(RemoteError, match="ValueError: as we said"):  # there and back again
            peer.call("nvim_eval", f"rpcrequest({us}, 'fail', 'as we said')")
        with pytest.raises(RemoteError, match="unknown method: nothing"):
            peer.call("nvim_eval", f"rpcrequest({us}, 'nothing')")
        assert peer.call("nvim_eval", "1") == 1


def test_its_strings_need_be_no_utf8(neovim: Any) -> None:
    with neovim() as peer:
        peer.call("nvim_buf_set_lines", 0, 0, -1, True, [b"\xff\xfe latin"])
        (line,) = peer.call("nvim_buf_get_lines", 0, 0, -1, True)
        assert line.encode("utf-8", "surrogateescape") == b"\xff\xfe latin"
        peer.call("nvim_buf_set_lines", 0, 0, -1, True, [line])
        assert peer.call("nvim_buf_get_lines", 0, 0, -1, True) == [line]


def test_its_handles_are_ext_types_that_go_back_to_it(neovim: Any) -> None:
    with neovim() as peer:
        buffer = peer.call("nvim_get_current_buf")
        assert isinstance(buffer, msgpack.ExtType)
        assert buffer.code == 0
        assert peer.call("nvim_buf_line_count", buffer) == 1
        assert [peer.call(f"nvim_get_current_{kind}").code for kind in ("win", "tabpage")] == [1, 2]


def test_an_unknown_notification_is_answered_with_one_of_its_own(neovim: Any) -> None:
    class Listener:
        def __init__(self) -> None:
            self.errors: list[Any] = []

        def nvim_error_event(self, *params: Any) -> None:
            self.errors.append(params)

    service = Listener()
    with neovim(service) as peer:
        peer.notify("no_such_method")
        until(lambda: service.errors)
        assert "no_such_method" in service.errors[0][1]
    with neovim() as peer:  # and where nobody listens to it, nothing happens
        peer.notify("no_such_method")
        assert peer.call("nvim_eval", "1") == 1


def test_an_extension_method_is_refused_and_nothing_breaks(neovim: Any) -> None:
    with neovim() as peer:
        with pytest.raises(RemoteError, match="Invalid method"):
            peer.call("$/hello", {"v": 1})
        peer.notify("$/cancel", 1, "why")
        assert peer.call("nvim_eval", "1") == 1


def test_events_arrive_in_order(neovim: Any) -> None:
    class Events:
        def __init__(self) -> None:
            self.lines: list[Any] = []

        def nvim_buf_lines_event(self, buffer: Any, tick: int, first: int, last: int, lines: Any, more: bool) -> None:
            self.lines.append(lines)

    service = Events()
    with neovim(service) as peer:
        assert peer.call("nvim_buf_attach", 0, False, {})
        for i in range(100):
            peer.notify("nvim_buf_set_lines", 0, 0, -1, True, [str(i)])
        until(lambda: len(service.lines) == 100)
        assert service.lines == [[str(i)] for i in range(100)]


def test_its_death_fails_every_pending_call(neovim: Any) -> None:
    with neovim() as peer:
        pid = peer.call("nvim_eval", "getpid()")
        waiting = [peer.start("nvim_command", "sleep 100") for _ in range(3)]
        os.kill(pid, signal.SIGKILL)
        for reply in waiting:
            with pytest.raises(Disconnected):
                reply.receive(NEVER)


def test_it_quits(neovim: Any) -> None:
    with neovim() as peer:
        with pytest.raises(Disconnected, match="the peer closed"):
            peer.call("nvim_command", "quit!")
        with pytest.raises(Disconnected):
            peer.call("nvim_eval", "1")
