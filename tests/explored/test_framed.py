"""Framed connections over the simulated network: whatever the schedule, each message arrives once, and in order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

import flower
from flower.errors import ProtocolError
from flower.net import Dial, Framed, LengthPrefixed, Lines, Listen, framed
from flower.testing import World
from tests.explored.support import explored

SERVER = ("server", 80)
HOW: Any = st.sampled_from(["kill", "timeout", "scope", "select"])


def ends(w: World) -> tuple[Any, Any]:
    """Both ends of a connection."""
    with w.net.at("server"):
        listener = Listen(SERVER)
    with w.net.at("client"):
        near = Dial("tcp", SERVER)
    far = listener.receive()
    listener.close()
    return near, far


@explored
def test_receivers_that_give_up_lose_nothing(w: World, how: str = HOW) -> None:
    near, far = ends(w)
    messages: Framed[str] = framed(far, Lines())
    got: list[str] = []

    def send() -> None:
        with framed(near, Lines()) as out:
            for n in range(4):
                out.send(str(n))
            out.close_write()
            for _ in out:
                pass

    def give_up() -> None:
        try:
            if how == "timeout":
                got.append(messages.receive(timeout=0.5))
            elif how == "scope":
                with flower.move_on(0.5):
                    got.append(messages.receive())
            elif how == "select":
                _, value = flower.select(messages, flower.after(0.5))
                if isinstance(value, str):
                    got.append(value)
            else:
                got.append(messages.receive())
        except (flower.Timeout, flower.ChannelClosed):
            pass

    w.go(send, name="sender")
    first = w.go(give_up, name="first")
    w.go(give_up, name="second")
    if how == "kill":
        w.go(first.kill, name="killer")
    w.advance(5)
    got += messages
    assert sorted(got) == ["0", "1", "2", "3"]
    messages.close()


@explored
def test_senders_in_selects_and_without(w: World) -> None:
    near, far = ends(w)
    out: Framed[bytes] = framed(near, LengthPrefixed(1))
    sent: list[int] = []

    def send() -> None:
        for n in range(0, 6, 2):
            out.send(bytes([n]))
            sent.append(n)

    def select() -> None:
        for n in range(1, 6, 2):
            source, _ = flower.select((out, bytes([n])), flower.after(0.5))
            if source is out:
                sent.append(n)

    w.go(send, name="sender")
    w.go(select, name="selecting")
    w.settle()
    w.advance(10)
    out.close_write()
    got = [message[0] for message in framed(far, LengthPrefixed(1))]
    assert sorted(got) == sorted(sent)
    for parity in 0, 1:
        assert [n for n in got if n % 2 == parity] == sorted(n for n in got if n % 2 == parity)
    out.close()
    far.close()


@explored
def test_a_close_at_any_moment_ends_everybody(w: World, which: int = st.integers(0, 3)) -> None:  # type: ignore[assignment]
    near, far = ends(w)
    here: Framed[str] = framed(near, Lines())
    there: Framed[str] = framed(far, Lines())
    ended: list[str] = []

    def ends_well(function: Any, *args: Any) -> None:
        try:
            while True:
                function(*args)
        except (flower.ChannelClosed, ConnectionError) as error:
            ended.append(type(error).__name__)

    def send(messages: Framed[str]) -> None:
        flower.select((messages, "selected"), flower.never())
        messages.send("sent")
        while True:
            messages.receive()

    for messages in here, there:
        w.go(ends_well, messages.receive)
        w.go(ends_well, flower.select, messages)
        w.go(ends_well, lambda m=messages: send(m))
    w.go([here.close, near.close, near.abort, there.conn.abort][which], name="closer")
    w.advance(5)
    here.close()
    there.close()
    w.advance(5)
    assert len(ended) == 6


@explored
def test_a_violation_comes_after_the_messages_before_it(w: World) -> None:
    near, far = ends(w)
    messages: Framed[bytes] = framed(far, LengthPrefixed(1, max_size=10))
    got: list[Any] = []

    def receive() -> None:
        try:
            got.append(messages.receive())
        except ProtocolError as error:
            got.append(str(error).partition(": ")[2])

    for n in range(4):
        w.go(receive, name=f"receiver-{n}")
    near.send(b"\1a\1b\x0bc")
    w.advance(5)
    too_long = "a message of 11 bytes; 10 is the most"
    assert sorted(map(str, got)) == sorted(["b'a'", "b'b'", too_long, too_long])
    with pytest.raises(ProtocolError):
        messages.receive()
    near.close()
    messages.close()
