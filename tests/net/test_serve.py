"""serve with a limit, and a graceful stop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

import flower
from flower.errors import ChannelClosed
from flower.net import Conn, Dial
from tests.net.support import NEVER, echo, listening, rounds, until

pytestmark = pytest.mark.usefixtures("loop")

SOON = 0.005  # seconds; a time limit that a test waits for


def test_no_more_than_the_limit_run_at_a_time() -> None:
    running: list[Conn] = []
    most = 0

    def handler(conn: Conn) -> None:
        nonlocal most
        running.append(conn)
        most = max(most, len(running))
        conn.read()
        running.remove(conn)

    with listening() as listener, ExitStack() as stack:
        server = flower.go(lambda: listener.serve(handler, limit=3))
        conns = [stack.enter_context(Dial("tcp", listener.addr())) for _ in range(10)]
        until(lambda: len(running) == 3)
        rounds(5)
        assert len(running) == 3
        for conn in conns:  # each that ends makes room for one
            conn.write("x")
            assert conn.read(timeout=NEVER) == b""
        assert most == 3
        listener.close()
        server.join(NEVER)


def test_serve_at_its_limit_ends_with_the_listener() -> None:
    with listening() as listener:
        served = flower.go(listener.serve, lambda conn: conn.read(), limit=1)
        with Dial("tcp", listener.addr()), Dial("tcp", listener.addr()):
            until(lambda: listener._handlers._running)
            rounds(3)
            assert served.blocked
            listener.close()
            served.join(NEVER)  # the handler goes on
            assert listener._handlers._running
    until(lambda: not listener._handlers._running)


def test_a_limit_of_one_serves_in_order() -> None:
    order: list[bytes] = []
    with listening() as listener, ExitStack() as stack:
        server = flower.go(lambda: listener.serve(lambda conn: order.append(conn.read()), limit=1))
        for i in range(5):
            stack.enter_context(Dial("tcp", listener.addr())).write(b"%d" % i)
        until(lambda: len(order) == 5)
        assert order == [b"0", b"1", b"2", b"3", b"4"]
        listener.close()
        server.join(NEVER)


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), ("3", TypeError)])
def test_bad_limits(limit: Any, error: Any) -> None:
    with listening() as listener, pytest.raises(error, match="limit"):
        listener.serve(echo, limit=limit)


def test_stop_lets_handlers_end() -> None:
    with listening() as listener:
        server = flower.go(listener.serve, echo)
        with Dial("tcp", listener.addr()) as conn:
            conn.write("x")
            assert conn.read(timeout=NEVER) == b"x"
            stopping = flower.go(listener.stop, NEVER)
            server.join(NEVER)
            with pytest.raises(ConnectionRefusedError):
                Dial("tcp", listener.addr())
            conn.write("still served")
            assert conn.read_exactly(12, timeout=NEVER) == b"still served"
            assert not stopping.ended
            conn.close_write()
            assert stopping.join(NEVER) == 0
            assert conn.read(timeout=NEVER) == b""


def write_on(conn: Conn) -> None:
    while True:
        conn.write(b"x" * 100_000)


@pytest.mark.parametrize("wait", [lambda conn: flower.channel().receive(), lambda conn: conn.read(), write_on])
def test_stop_cuts_those_that_take_too_long(wait: Callable[[Conn], object]) -> None:
    """They are killed: those that use their connection do not fail with it, which would be reported of each."""
    seen: list[BaseException] = []

    def stubborn(conn: Conn) -> None:
        try:
            wait(conn)
        except BaseException as error:
            seen.append(error)
            raise

    with listening() as listener, ExitStack() as stack:
        server = flower.go(listener.serve, stubborn)
        conns = [stack.enter_context(Dial("tcp", listener.addr())) for _ in range(3)]
        until(lambda: len(listener._handlers._running) == 3)
        rounds(1)
        assert listener.stop(SOON) == 3
        for conn in conns:
            with pytest.raises(ConnectionResetError):
                while conn.read(timeout=NEVER):
                    pass
        server.join(NEVER)
        assert [type(error) for error in seen] == [flower.TaskletExit] * 3
        assert not listener._handlers._running


@pytest.mark.parametrize("limit", [None, 1])
def test_stop_in_the_turn_in_which_a_connection_comes(limit: int | None) -> None:
    begun: list[Conn] = []

    def handler(conn: Conn) -> None:
        begun.append(conn)
        conn.read()

    def stop() -> int:
        while listener._connections.balance < 0:
            flower.time.sleep(0)
        assert not listener._handlers._running  # it was handed to serve, which has not had its turn
        return listener.stop(0)

    with listening() as listener:
        server = flower.go(listener.serve, handler, limit=limit)
        flower.schedule()
        stopping = flower.go(stop)
        with Dial("tcp", listener.addr()) as conn:
            assert stopping.join(NEVER) == 1
            server.join(NEVER)
            with pytest.raises(ConnectionResetError):
                conn.read(timeout=NEVER)
        assert begun == []


def test_stop_with_no_grace_and_no_handler() -> None:
    with listening() as listener:
        assert listener.stop(0) == 0
        assert listener.stop() == 0
        with pytest.raises(ChannelClosed):
            listener.receive()
        with pytest.raises(ValueError, match="timeout"):
            listener.stop(-1)


def test_a_handler_may_stop_its_own_server() -> None:
    cut: list[int] = []

    def handler(conn: Conn) -> None:
        if conn.read() == b"stop":
            cut.append(listener.stop(NEVER))
            conn.write("stopped")

    with listening() as listener:
        server = flower.go(listener.serve, handler)
        with Dial("tcp", listener.addr()) as other, Dial("tcp", listener.addr()) as conn:
            until(lambda: len(listener._handlers._running) == 2)
            conn.write("stop")
            server.join(NEVER)
            rounds(3)
            assert cut == []  # it waits for the other
            other.write("go on")
            assert conn.read_exactly(7, timeout=NEVER) == b"stopped"
            assert cut == [0]


def test_handlers_that_stop_their_server_at_a_time_do_not_wait_for_each_other() -> None:
    cut: list[int] = []

    def handler(conn: Conn) -> None:
        conn.read()
        cut.append(listener.stop(NEVER))
        conn.write("stopped")
        conn.read()

    with listening() as listener:
        server = flower.go(listener.serve, handler)
        with Dial("tcp", listener.addr()) as one, Dial("tcp", listener.addr()) as other:
            until(lambda: len(listener._handlers._running) == 2)
            one.write("stop")
            server.join(NEVER)
            rounds(3)
            assert cut == []
            other.write("stop")
            for conn in one, other:
                assert conn.read_exactly(7, timeout=NEVER / 2) == b"stopped"
            assert cut == [0, 0]
            for conn in one, other:
                conn.close_write()
            assert listener.stop(NEVER) == 0


def test_a_handler_that_has_stopped_its_server_is_not_cut_by_another_that_does() -> None:
    cut: list[int] = []
    ended: list[None] = []
    go_on: flower.channel[None] = flower.channel(2)

    def handler(conn: Conn) -> None:
        if conn.read() == b"stop":
            cut.append(listener.stop(NEVER))
            go_on.receive()
            ended.append(None)

    with listening() as listener:
        server = flower.go(listener.serve, handler)
        conns = [Dial("tcp", listener.addr()) for _ in range(3)]
        until(lambda: len(listener._handlers._running) == 3)
        for conn in conns[:2]:
            conn.write("stop")
        server.join(NEVER)
        rounds(3)
        assert cut == []
        conns[2].write("end")
        until(lambda: cut == [0, 0])
        for _ in range(2):
            go_on.send(None)
        assert listener.stop(NEVER) == 0
        assert len(ended) == 2
        assert not listener._handlers._stopping
        for conn in conns:
            conn.close()


def test_a_stop_that_is_cancelled_leaves_the_handlers() -> None:
    with listening() as listener:
        server = flower.go(listener.serve, echo)
        with Dial("tcp", listener.addr()) as conn:
            conn.write("x")
            assert conn.read(timeout=NEVER) == b"x"
            with flower.move_on(SOON) as scope:
                listener.stop(NEVER)
            assert scope.expired
            assert listener.closed
            conn.write("y")
            assert conn.read(timeout=NEVER) == b"y"
        server.join(NEVER)
        until(lambda: not listener._handlers._running)
