"""A moment's wait without sleeping, before the loop sleeps: where answers come at once, it is soon over."""

from __future__ import annotations

import os
import threading
import time
from itertools import pairwise

import pytest

import flower
import flower.io
import flower.time
from flower.channels._scheduler import COMPILED
from flower.net import Conn, Listen, _transport
from flower.net._loop import io_poller
from flower.net._transport import Sockets, _epoll
from tests.net.support import HOME, NEVER, Program, connected, echo, listening, pipe, plain_peer

pytestmark = pytest.mark.usefixtures("loop")

SOON = 0.001  # seconds, in which nothing comes
LONGEST_REST = 255  # as in `flower.net._transport`


def test_a_conversation_that_never_pauses_keeps_nobody_from_the_loop() -> None:
    said = 0

    def talk(conn: Conn) -> None:
        nonlocal said
        while True:
            if said % 2000 == 100:
                os.write(writing, b"!")
            said += 1
            conn.send(b"x")
            conn.receive()

    with connected() as (near, far), pipe() as (reading, writing):
        tasklets = [flower.go(talk, near), flower.go(echo, far)]
        for _ in range(3):
            flower.io.wait_read(reading, NEVER)  # the loop alone knows of it
            assert os.read(reading, 1) == b"!"
            assert said % 2000 < 600
        for t in tasklets:
            t.kill()


@pytest.mark.parametrize(
    ("words", "seconds", "most"),
    [pytest.param(10_000, 0.0, 100, id="long"), pytest.param(50, 0.001, 3, id="busy")],
)
def test_the_loop_s_rounds_are_as_short_beside_a_conversation(words: int, seconds: float, most: int) -> None:
    """However long it has gone on, and however long it takes to answer."""
    said = 0
    seen: list[int] = []
    loop = io_poller().loop

    def talk(conn: Conn) -> None:
        nonlocal said
        while said < words:
            said += 1
            conn.send(b"x")
            conn.receive()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                pass

    def look() -> None:
        seen.append(said)
        if said < words:
            loop.call_soon(look)

    with connected() as (near, far):
        t = flower.go(echo, far)
        loop.call_soon(look)
        talk(near)
        t.kill()
    assert max(b - a for a, b in pairwise(seen)) <= most


def test_a_conversation_that_never_pauses_starves_no_thread() -> None:
    said = 0
    at_the_end: list[int] = []

    def other() -> None:
        for _ in range(100):
            time.sleep(0.0001)  # it gives the processor away, and wants it back
        at_the_end.append(said)

    with connected() as (near, far):
        t = flower.go(echo, far)
        thread = threading.Thread(target=other)
        thread.start()
        while not at_the_end:
            near.send(b"x")
            near.receive()
            said += 1
        thread.join(NEVER)
        t.kill()
    assert at_the_end[0] < 20_000


def test_who_lingers_goes_on_to_after_a_signal_handler_has_raised_as_it_was_to_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hit(*args: object) -> None:
        monkeypatch.undo()
        raise ArithmeticError("from a signal handler")

    turns = io_poller()
    with Listen((HOME, 0), "udp") as here:
        turns._again = turns.loop.call_soon(lambda: None)  # as it is while _linger_on is in the queue, and after that
        monkeypatch.setattr(here._port.__class__, "_take", hit)
        here.send(b"", here.addr())
        with pytest.raises(ArithmeticError, match="from a signal handler"):
            here.receive(NEVER)
    assert turns._again is None


@pytest.mark.skipif(_epoll is None, reason="without epoll each socket is watched by the loop, and nobody lingers")
def test_lingering_that_never_pays_is_tried_ever_more_rarely() -> None:
    with plain_peer() as (conn, sock):
        sockets: Sockets = io_poller()._sockets
        tried = 0
        for _ in range(10 * LONGEST_REST):
            tried += sockets._rest == 0
            assert not sockets.linger()
        assert tried < 20
        assert sockets._patience == LONGEST_REST
        sock.sendall(b"x")
        while not sockets.linger():
            assert sockets._rest < LONGEST_REST  # what is there is found
        assert sockets._patience == LONGEST_REST  # it was not waited for
        assert conn.receive(NEVER) == b"x"


@pytest.mark.skipif(_epoll is None, reason="without epoll each socket is watched by the loop, and nobody lingers")
def test_nobody_lingers_after_a_long_message() -> None:
    """What follows it is read in larger pieces later."""
    with plain_peer() as (conn, sock):
        sockets: Sockets = io_poller()._sockets
        for length, lingers in (20_000, False), (100, True):
            sock.sendall(b"x" * length)
            assert len(conn.receive(NEVER)) == length
            sock.sendall(b"y")
            assert any(sockets.linger() for _ in range(LONGEST_REST + 1)) is lingers
            assert conn.receive(NEVER) == b"y"


@pytest.mark.skipif(_epoll is None, reason="without epoll each socket is watched by the loop, and nobody lingers")
@pytest.mark.parametrize("guests", [False, True])
def test_where_coroutines_run_in_the_loop_nobody_lingers(guests: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = io_poller()
    sockets: Sockets = turns._sockets
    monkeypatch.setattr(turns, "guests", guests)
    with plain_peer() as (conn, sock):
        before = sockets._patience, sockets._rest
        for _ in range(3):
            sock.sendall(b"x")
            conn.receive(NEVER)
            flower.time.sleep(SOON)
        assert ((sockets._patience, sockets._rest) == before) is guests


ECHO = """
    import socket, sys
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    sock.setblocking(False)
    while True:
        try:
            data = sock.recv(100)
        except BlockingIOError:
            continue
        if not data:
            break
        sock.send(data)
"""


@pytest.mark.skipif(_epoll is None or len(os.sched_getaffinity(0)) < 2, reason="on one processor it does not pay")
def test_lingering_that_has_paid_is_tried_more_often() -> None:
    with listening() as listener, Program(ECHO, str(listener.addr()[1])), listener.receive(NEVER) as conn:
        sockets: Sockets = io_poller()._sockets
        while sockets._patience < LONGEST_REST:
            sockets.linger()
        patience = LONGEST_REST
        end = time.monotonic() + NEVER
        while patience == LONGEST_REST:  # another process may have had the processor that the peer needs
            assert time.monotonic() < end
            while sockets._rest:
                sockets.linger()
            conn.send(b"x")
            sockets.linger()
            patience = sockets._patience
            assert conn.receive(NEVER) == b"x"
        assert patience == LONGEST_REST >> 1


if not COMPILED and _epoll is not None:  # compiled, no signal handler runs while sockets are polled

    @pytest.mark.parametrize(("doing", "in_which"), [("serve", "poll"), ("linger", "poll_on")])
    def test_what_was_found_last_is_forgotten_though_a_signal_handler_raises_in_a_poll(
        doing: str, in_which: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        true = getattr(_transport, in_which)

        def hit(sockets: Sockets) -> None:
            assert true(sockets) == 0
            raise ArithmeticError("from a signal handler")

        with plain_peer() as (conn, sock), plain_peer() as (other, other_sock):
            sockets: Sockets = io_poller()._sockets
            sock.sendall(b"x")
            other_sock.sendall(b"y")
            assert not sockets.serve()
            with monkeypatch.context() as patch, pytest.raises(ArithmeticError):
                patch.setattr(_transport, in_which, hit)
                while True:
                    getattr(sockets, doing)()
            assert not sockets.serve()
            assert (conn.receive(NEVER), other.receive(NEVER)) == (b"x", b"y")
