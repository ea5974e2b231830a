"""A moment's wait without sleeping, before the loop sleeps: where answers come at once, it is soon over."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest

import flower
import flower.io
from flower.channels._scheduler import COMPILED
from flower.net import Conn, _transport
from flower.net._loop import io_poller
from flower.net._transport import Sockets, _epoll
from tests.net.support import NEVER, connected, echo, pipe, plain_peer

pytestmark = pytest.mark.usefixtures("loop")

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


def test_the_loop_s_rounds_are_as_short_when_a_conversation_has_gone_on_for_long() -> None:
    said = 0
    seen: list[int] = []
    loop = io_poller().loop

    def talk(conn: Conn) -> None:
        nonlocal said
        while said < 6000:
            said += 1
            conn.send(b"x")
            conn.receive()

    def look() -> None:
        seen.append(said)
        if said < 6000:
            loop.call_soon(look)

    with connected() as (near, far):
        t = flower.go(echo, far)
        loop.call_soon(look)
        talk(near)
        t.kill()
    assert max(b - a for a, b in pairwise(seen)) < 40


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
        assert sockets._patience < LONGEST_REST
        assert conn.receive(NEVER) == b"x"


@pytest.mark.skipif(COMPILED or _epoll is None, reason="compiled, no signal handler runs while sockets are polled")
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
