"""A listener is a channel of connections."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import socket
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import flower
from flower.errors import ChannelClosed, Timeout
from flower.net import Conn, Dial, Listen, Listener, dial, listen
from flower.net._acceptor import HELD, Acceptor
from flower.net._address import check_host_port, resolve
from flower.net._loop import LoopPoller
from tests.net.support import HOME, NEVER, echo, echo_server, failing, listening, reset, rounds, until

pytestmark = pytest.mark.usefixtures("loop")

SOON = 0.005  # seconds; a timeout that a test waits for


def _link_local() -> Any:
    """An address of this machine that needs its scope, with port 0; None if it has none."""
    file = Path("/proc/net/if_inet6")
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.startswith("fe80"):
            digits, index, *_ = line.split()
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)), 0, 0, int(index, 16)
    return None


LINK_LOCAL = _link_local()


def plain(listener: Listener) -> socket.socket:
    return socket.create_connection(listener.addr(), NEVER)


# -- Receiving connections


def test_receive_accept_iterate_and_select_give_connections_in_order() -> None:
    with listening() as listener, ExitStack() as stack:
        names = []
        for _ in range(4):
            sock = stack.enter_context(plain(listener))
            names.append(sock.getsockname())
            until(lambda: len(listener._receive_channel) == len(names))
        first = listener.receive(NEVER)
        second, err = listener.accept()
        assert err is None
        third = next(iter(listener))
        source, fourth = flower.select(listener, timeout=NEVER)
        assert source is listener
        conns = [first, second, third, fourth]
        assert [c.remote_addr() for c in conns] == names
        assert all(isinstance(c, Conn) for c in conns)
        for conn in conns:
            conn.close()


def test_a_blocked_accept_is_woken() -> None:
    with listening() as listener:
        t = flower.tasklet(listener.accept)()
        rounds(1)
        assert t.blocked
        with plain(listener):
            conn, err = t.join(NEVER)
            assert err is None
            conn.close()


def test_several_tasklets_accept_from_one_listener() -> None:
    with listening() as listener, ExitStack() as stack:
        acceptors = [flower.go(listener.receive) for _ in range(5)]
        rounds(1)
        for _ in range(5):
            stack.enter_context(plain(listener))
        conns = [t.join(NEVER) for t in acceptors]
        assert len({c.remote_addr() for c in conns}) == 5
        for conn in conns:
            conn.close()


def test_timeouts_and_cancellation_lose_no_connection() -> None:
    with listening() as listener:
        name = f"<Listener tcp {HOME}:{listener.addr()[1]}, open>"
        with pytest.raises(Timeout, match=f"{name}: nothing came within {SOON} s"):
            listener.receive(SOON)
        with pytest.raises(Timeout, match=name):
            listener.accept(timeout=SOON)
        with flower.move_on(SOON):
            listener.receive()
        t = flower.go(listener.receive)
        rounds(1)
        t.kill()
        with plain(listener):
            listener.receive(NEVER).close()


def test_a_select_that_lost_consumes_no_connection() -> None:
    with listening() as listener:
        other = flower.channel(1)
        t = flower.go(lambda: flower.select(listener, other))
        rounds(1)
        other.send(1)
        assert t.join()[0] is other
        with plain(listener):
            listener.receive(NEVER).close()


def test_the_first_data_may_come_before_accept() -> None:
    with listening() as listener, plain(listener) as sock:
        sock.sendall(b"early")
        rounds(3)
        with listener.receive(NEVER) as conn:
            assert conn.read() == b"early"


# -- The end


def test_a_closed_listener() -> None:
    listener = Listen((HOME, 0), "tcp")
    address = listener.addr()
    listener.close()
    listener.close()
    assert listener.closed
    for operation in (listener.receive, listener.accept):
        with pytest.raises(ChannelClosed, match="is closed") as caught:
            operation()
        assert caught.value.channel is listener
    with pytest.raises(ChannelClosed):
        flower.select(listener)
    assert list(listener) == []
    assert listener.addr() == address
    with pytest.raises(ConnectionRefusedError):
        Dial("tcp", address)


def test_close_wakes_those_that_wait() -> None:
    with listening() as listener:
        acceptor = failing(listener.accept)
        server = flower.go(listener.serve, echo)
        rounds(1)
        listener.close()
        assert isinstance(acceptor.join(NEVER), ChannelClosed)
        server.join(NEVER)


def test_close_cuts_connections_that_nobody_has_received() -> None:
    with listening() as listener, plain(listener) as sock:
        until(lambda: len(listener._receive_channel))
        listener.close()
        rounds(2)
        try:
            assert sock.recv(1) == b""
        except ConnectionResetError:
            pass


def test_dropped_it_warns_and_closes() -> None:
    listener = Listen((HOME, 0), "tcp")
    address = listener.addr()
    with pytest.warns(ResourceWarning, match="dropped, and not closed"):
        del listener  # no cycle holds it
    with pytest.raises(ConnectionRefusedError):
        Dial("tcp", address)


def test_closed_and_dropped_it_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with listening() as listener:
            pass
        del listener
        gc.collect()


# -- Addresses


def test_port_zero_lets_the_system_choose() -> None:
    with listening() as one, listening() as other:
        assert one.addr()[0] == HOME
        assert one.addr()[1] != other.addr()[1]
        assert f"{HOME}:{one.addr()[1]}" in repr(one)


def test_a_port_in_use() -> None:
    with listening() as listener:
        with pytest.raises(OSError, match=str(listener.addr()[1])) as caught:
            Listen(listener.addr())
        assert caught.value.errno == errno.EADDRINUSE


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(OSError, match=r"192\.0\.2\.1:0") as caught:
        Listen(("192.0.2.1", 0))
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_a_port_is_free_again_at_once() -> None:
    with listening() as listener:
        address = listener.addr()
        with plain(listener):
            listener.receive(NEVER).close()
    with Listen(address) as again, plain(again):
        again.receive(NEVER).close()


def test_a_name_for_this_machine() -> None:
    with Listen(("localhost", 0)) as listener, Dial("tcp", ("localhost", listener.addr()[1])) as conn:
        with listener.receive(NEVER) as other:
            assert other.remote_addr() == conn.local_addr()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6() -> None:
    try:
        listener = Listen(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 address here")
    with listener, Dial("tcp", listener.addr()) as conn, listener.receive(NEVER) as other:
        assert other.remote_addr() == conn.local_addr()
        assert "[::1]" in repr(conn)


def test_an_ipv6_address_with_its_scope() -> None:
    assert check_host_port("tcp", ("::1", 80, 0, 0)) == ("::1", 80)
    assert check_host_port("tcp", ("fe80::1%7", 80, 0, 7)) == ("fe80::1%7", 80)
    assert check_host_port("tcp", ("fe80::1", 80, 0, 7)) == ("fe80::1%7", 80)
    assert check_host_port("tcp", ("localhost", 80, 0, 7)) == ("localhost", 80)
    assert resolve("tcp", "fe80::1%7", 80)[0][4] == ("fe80::1", 80, 0, 7)
    with pytest.raises(TypeError, match="the scope of a tcp address is an int, not 'lo'"):
        Listen(("fe80::1", 80, 0, "lo"))


@pytest.mark.skipif(not LINK_LOCAL, reason="no address with a scope here")
def test_what_an_ipv6_listener_gives_as_its_address_can_be_dialled() -> None:
    with Listen(LINK_LOCAL) as listener, Dial("tcp", listener.addr(), local_addr=LINK_LOCAL) as conn:
        with listener.receive(NEVER) as other, Listen(LINK_LOCAL) as second:
            assert other.remote_addr() == conn.local_addr()
            assert second.addr()[2:] == listener.addr()[2:]
    with Listen(LINK_LOCAL, "udp") as here, Dial("udp", here.addr()) as there:
        there.send(b"x")
        _, address = here.receive(NEVER)
        here.send(b"y", address)
        assert there.receive(NEVER)[1] == here.addr()


def test_the_other_spelling() -> None:
    assert listen is Listen
    assert dial is Dial


def test_a_listener_is_always_true() -> None:
    with listening() as listener:
        assert listener
    assert listener


# -- serve


def test_serve_runs_a_tasklet_for_each_connection() -> None:
    with echo_server() as listener, ExitStack() as stack:
        conns = [stack.enter_context(Dial("tcp", listener.addr())) for _ in range(20)]
        for i, conn in enumerate(conns):
            conn.write(str(i))
        assert [conn.read(timeout=NEVER) for conn in conns] == [str(i).encode() for i in range(20)]


@pytest.mark.parametrize("kind", [ZeroDivisionError, asyncio.CancelledError])
def test_serve_keeps_one_failure_from_the_rest(kind: type[BaseException]) -> None:
    reported: list[Any] = []
    before = flower.set_error_handler(lambda t, error: reported.append(error))

    async def fail() -> None:
        raise kind

    def handler(conn: Conn) -> None:
        if conn.read() == b"fail":
            flower.wait(fail())
        conn.write("fine")

    try:
        with listening() as listener:
            server = flower.go(listener.serve, handler)
            with Dial("tcp", listener.addr()) as bad, Dial("tcp", listener.addr()) as good:
                bad.write("fail")
                assert bad.read(timeout=NEVER) == b""  # serve closes what the handler left
                good.write("work")
                assert good.read(timeout=NEVER) == b"fine"
            listener.close()
            server.join(NEVER)
    finally:
        flower.set_error_handler(before)
    (error,) = reported
    assert isinstance(error, kind)
    assert "the listener goes on" in error.__notes__[0]


def test_serve_goes_on_where_a_failure_takes_no_note() -> None:
    @dataclass(frozen=True)
    class Refused(Exception):
        code: int

    def handler(conn: Conn) -> None:
        raise Refused(7)

    reported: list[Any] = []
    before = flower.set_error_handler(lambda t, error: reported.append(error))
    try:
        with listening() as listener:
            server = flower.go(listener.serve, handler)
            with Dial("tcp", listener.addr()) as near:
                assert near.read(timeout=NEVER) == b""
            assert server.blocked
            listener.close()
            server.join(NEVER)
    finally:
        flower.set_error_handler(before)
    assert reported == [Refused(7)]


def test_a_peer_that_resets_does_not_end_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    with listening() as listener:
        sock = plain(listener)
        t = flower.go(lambda conn: conn.read(), listener.receive(NEVER))
        rounds(1)
        reset(sock)
        until(lambda: not t.alive)
        rounds(2)  # an uncaught loss of a peer is reported, and not raised here
    assert "ConnectionResetError" in capsys.readouterr().err


def test_serve_wants_a_function() -> None:
    with listening() as listener, pytest.raises(TypeError, match="function"):
        listener.serve(None)


def test_a_coroutine_function_is_no_handler() -> None:
    async def handler(conn: Conn) -> None:
        raise AssertionError

    with listening() as listener, pytest.raises(TypeError, match="plain function"):
        listener.serve(handler)


# -- Bounds and faults


def test_the_number_of_accepted_connections_is_bounded() -> None:
    with listening() as listener, ExitStack() as stack:
        socks = [stack.enter_context(plain(listener)) for _ in range(HELD + 50)]
        rounds(20)
        assert len(listener._receive_channel) == HELD
        for sock in socks:  # the rest come from the kernel's queue
            with listener.receive(NEVER) as conn:
                assert conn.remote_addr() == sock.getsockname()


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """The process can open no more descriptors within."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open(os.devnull, os.O_RDONLY)
    os.close(probe)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(probe, used), hard))
    fill = []
    try:
        try:
            while True:
                fill.append(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            assert error.errno == errno.EMFILE
        yield
    finally:
        for fd in fill:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_polling_goes_on_when_all_that_were_held_are_taken() -> None:
    with listening() as listener, ExitStack() as stack:
        for _ in range(HELD + 20):
            stack.enter_context(plain(listener))
        until(lambda: listener._connections._on_wait is not None and len(listener._connections) == HELD)
        count = 0
        while count < HELD + 20:
            rounds(1)
            conn = flower.select(listener, default=None)[1]
            if conn is not None:
                stack.enter_context(conn)
                count += 1


@pytest.mark.slow
def test_more_receivers_may_wait_than_connections_are_held() -> None:
    with listening() as listener, ExitStack() as stack:
        receivers = [flower.go(listener.receive) for _ in range(HELD + 20)]
        rounds(2)
        for _ in receivers:
            stack.enter_context(plain(listener))
        for t in receivers:
            stack.enter_context(t.join(NEVER))


def test_a_lack_of_descriptors_is_waited_out(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flower.net._acceptor.BACK_OFF", SOON)
    with listening() as listener, plain(listener) as sock:
        with caplog.at_level(logging.WARNING, "flower.net"), no_descriptors_left():
            with pytest.raises(Timeout):
                listener.receive(5 * SOON)
        (record,) = caplog.records  # told once, however often it was tried
        assert "can't accept connections for now" in record.getMessage()
        with listener.receive(NEVER) as conn:
            assert conn.remote_addr() == sock.getsockname()


@pytest.mark.parametrize(
    "number",
    [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED, errno.EPROTO, errno.EPERM],
)
def test_what_keeps_one_connection_out_does_not_end_the_listener(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr("flower.net._acceptor.BACK_OFF", SOON)
    accept = Acceptor._accept
    failures = [OSError(number, os.strerror(number))]
    monkeypatch.setattr(Acceptor, "_accept", lambda self: accept(self) if not failures else raised(failures.pop()))
    with listening() as listener, plain(listener) as sock, listener.receive(NEVER) as conn:
        assert conn.remote_addr() == sock.getsockname()
        assert not failures


def test_a_connection_that_can_not_be_watched_is_lost_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    attach = LoopPoller.attach
    failures = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]
    monkeypatch.setattr(
        LoopPoller, "attach", lambda self, *args: attach(self, *args) if not failures else raised(failures.pop())
    )
    with listening() as listener, plain(listener) as first:
        until(lambda: not failures)
        assert first.recv(1) == b""
        with plain(listener) as second, listener.receive(NEVER) as conn:
            assert conn.remote_addr() == second.getsockname()


def raised(error: OSError) -> Any:
    raise error


def test_between_two_attempts_the_socket_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flower.net._acceptor.BACK_OFF", NEVER)
    attempts: list[None] = []

    def fail(acceptor: Acceptor) -> Any:
        attempts.append(None)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Acceptor, "_accept", fail)
    with listening() as listener, plain(listener):
        until(lambda: attempts)
        rounds(5)
        assert len(attempts) == 1


def test_another_thread_takes_all_just_as_it_is_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    unwatch = Acceptor._unwatch

    def unwatch_and_take(acceptor: Acceptor) -> None:
        unwatch(acceptor)
        while (conn := acceptor.connections.try_receive(None)) is not None:  # it looks for the next, and waits
            taken.append(conn)

    monkeypatch.setattr("flower.net._acceptor.HELD", 2)
    with listening() as listener, ExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.setattr(Acceptor, "_unwatch", unwatch_and_take)
            for _ in range(2):
                stack.enter_context(plain(listener))
            until(lambda: len(taken) == 2)
        assert listener._acceptor._watching
        for conn in taken:
            conn.close()


def test_backing_off_ends_with_the_listener() -> None:
    with listening() as listener, plain(listener):
        with no_descriptors_left():
            rounds(2)
            listener.close()
        with pytest.raises(ChannelClosed):
            listener.receive()


def test_a_peer_that_is_gone_before_accept() -> None:
    with listening() as listener:
        gone = plain(listener)
        reset(gone)
        with plain(listener) as sock:
            conns = []
            while not conns or conns[-1].remote_addr() != sock.getsockname():
                conns.append(listener.receive(NEVER))
            for conn in conns:
                conn.close()


@pytest.mark.slow
def test_many_connections_leave_nothing_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with echo_server() as listener:
        for _ in range(20):
            with ExitStack() as stack:
                conns = [stack.enter_context(Dial("tcp", listener.addr())) for _ in range(25)]
                for conn in conns:
                    conn.write("x")
                for conn in conns:
                    assert conn.read(timeout=NEVER) == b"x"
        poller = listener._acceptor.poller
        until(lambda: len(poller.resources) == 1)
    until(lambda: not poller.resources)
    assert len(os.listdir("/proc/self/fd")) <= before
