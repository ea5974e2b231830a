"""Bare connections over the simulated network: whatever the schedule, what was sent arrives, and nothing else does."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

import flower
from flower.net import Conn, Dial, Listen
from flower.testing import World
from tests.explored.support import explored

SERVER = ("server", 80)
HOW: Any = st.sampled_from(["kill", "timeout", "scope", "lost", "close_write"])


def ends(w: World) -> tuple[Conn, Conn]:
    """Both ends of a connection."""
    with w.net.at("server"):
        listener = Listen(SERVER)
    with w.net.at("client"):
        near = Dial("tcp", SERVER, write_buffer=2)
    far = listener.receive()
    listener.close()
    return near, far


@explored
def test_a_select_that_gives_up_has_sent_nothing(w: World, how: str = HOW) -> None:
    near, far = ends(w)
    quit: flower.channel[None] = flower.channel()
    sent: list[bytes] = []

    def plain() -> None:
        for n in range(3):
            near.send(b"p%d " % n)
            sent.append(b"p%d" % n)

    def select() -> None:
        for n in range(3):
            if how == "scope":
                with flower.move_on(0.5) as scope:
                    flower.select((near, b"s%d " % n))
                if not scope.expired:
                    sent.append(b"s%d" % n)
                continue
            try:
                source, _ = flower.select((near, b"s%d " % n), quit, timeout=0.5 if how == "timeout" else None)
            except (flower.Timeout, flower.ChannelClosed):
                continue
            if source is near:
                sent.append(b"s%d" % n)

    def ends_well() -> None:
        try:
            plain()
        except flower.ChannelClosed:
            assert how == "close_write"

    got = bytearray()

    def read() -> None:
        while data := far.read(3):
            got.extend(data)

    w.go(ends_well, name="plain")
    selecting = w.go(select, name="selecting")
    reading = w.go(read, name="reader")
    if how == "kill":
        w.go(selecting.kill, name="killer")
    elif how == "lost":
        w.go(lambda: flower.select((quit, None), flower.after(0.5)), name="quitter")
    elif how == "close_write":
        w.go(near.close_write, name="closer")
    w.advance(10)
    near.close_write()
    w.advance(10)
    assert not reading.alive
    assert sorted(got.split()) == sorted(sent)
    for kind in b"p", b"s":
        own = [word for word in got.split() if word.startswith(kind)]
        assert own == sorted(own)
    near.close()
    far.close()
