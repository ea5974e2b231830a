"""Stackless's channel."""

from __future__ import annotations

import sys

import pytest

import flower
from flower import channel, go

from .support import settle, spawn_parked


def test_send_exception_and_send_throw() -> None:
    ch = channel()

    def source() -> None:
        raise LookupError("from the source")

    def send() -> None:
        ch.send_exception(IndexError, 1, 2)
        try:
            source()
        except LookupError:
            ch.send_throw(*sys.exc_info())
        ch.send_throw(KeyError, KeyError("k"))

    go(send)
    with pytest.raises(IndexError) as first:
        ch.receive()
    assert first.value.args == (1, 2)
    with pytest.raises(LookupError) as second:
        ch.receive()
    assert "source" in [entry.name for entry in second.traceback]
    with pytest.raises(KeyError):
        ch.receive()
    settle()


def test_a_bomb_is_raised_at_the_receiver() -> None:
    ch = channel(2)
    ch.send(flower.bomb(ValueError("boom")))
    ch.send(flower.bomb(ValueError, ValueError("bang"), None))
    for text in ("boom", "bang"):
        with pytest.raises(ValueError, match=text):
            ch.receive()
    assert len(ch) == 0


def test_bomb_of_the_exception_being_handled() -> None:
    try:
        raise KeyError("x")
    except KeyError as e:
        bomb = flower.bomb()
        assert (bomb.type, bomb.value) == (KeyError, e)
        assert bomb.traceback is not None


def test_send_sequence_counts() -> None:
    ch = channel()
    t = go(ch.send_sequence, "abc")
    assert [ch.receive() for _ in range(3)] == ["a", "b", "c"]
    assert t.join() == 3
    with pytest.raises(TypeError):
        ch.send_sequence(5)


def test_queue_is_the_first_waiter() -> None:
    ch = channel()
    assert ch.queue is None
    first, second = spawn_parked(ch.receive), spawn_parked(ch.receive)
    assert ch.queue is first
    first.kill()
    assert ch.queue is second
    second.kill()
    assert ch.queue is None


def test_closing_and_closed() -> None:
    ch = channel(1)
    assert (ch.closing, ch.closed) == (False, False)
    ch.send(1)
    ch.close()
    assert (ch.closing, ch.closed) == (True, False)
    ch.receive()
    assert (ch.closing, ch.closed) == (True, True)


def test_preference_is_checked() -> None:
    ch = channel()
    for good in (0, 1, -1):
        ch.preference = good
        assert ch.preference == good
    for bad in (2, -2, None, "1"):
        with pytest.raises((ValueError, TypeError)):
            ch.preference = bad
    assert ch.preference == -1


def test_channel_as_a_generic() -> None:
    assert channel[int] is not None
    assert isinstance(channel[int](2), channel)
    assert channel[int](2).capacity == 2
