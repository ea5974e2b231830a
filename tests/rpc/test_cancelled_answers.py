"""A cancelled method is answered for, also where its answer has to wait for room."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

import flower
from flower.errors import ChannelClosed
from tests.rpc.link import ROOM, deliver_all, linked, settle


def wait() -> None:
    flower.never().receive()


def fail() -> None:
    try:
        wait()
    finally:
        raise ValueError("on the way out")


def finish() -> int:
    try:
        wait()
    except flower.Cancelled:
        pass
    return 5


def count() -> Iterator[int]:
    yield from itertools.count()


@pytest.mark.parametrize("method", [wait, fail, finish, count])
def test_a_cancelled_method_without_room_is_answered_for(method: Any) -> None:
    a, b = linked({}, {"method": method})
    deliver_all(a, b)
    reply = a.begin("method")
    if method is not count:
        a.conn.deliver(1 << 30)
        settle()
    b.notify("fill", ("x" * ROOM,))
    a.conn.deliver(1 << 30)
    settle()
    reply.receiver.close()
    settle()
    a.conn.deliver(1 << 30)
    settle()
    assert a.calls.pending
    b.conn.deliver(1 << 30)
    deliver_all(a, b)
    assert not a.calls.pending
    assert not b.inflight
    with pytest.raises(ChannelClosed):
        reply.receive()
    del reply
    deliver_all(a, b)
    assert not len(a.streams)
    assert not len(b.streams)
    a.close()
    b.close()
    settle()
