"""A channel whose values go elsewhere, or come from there: the hooks that remote channels stand on."""

from __future__ import annotations

from typing import Any

import pytest

import flower
from flower import ChannelClosed, Timeout, channel, go, select
from flower.channels import schedule
from flower.channels._elsewhere import overfill, pump, put_back


class Outlet:
    def __init__(self, ch: Any, credit: int = 0) -> None:
        self.channel = ch
        self.taken: list[Any] = []
        self.closes = 0
        ch._outlet = self
        self.grant(credit)

    def take(self, value: Any) -> None:
        if value == "bad":
            raise ValueError("can't be carried")
        self.taken.append(value)
        self.channel._credit -= 1

    def on_close(self) -> None:
        self.closes += 1

    def grant(self, count: int) -> None:
        self.channel._credit += count
        pump(self.channel)


class Feeder:
    def __init__(self, ch: Any, low: int) -> None:
        self.lows = 0
        self.stops: list[Any] = []
        self.closes = 0
        ch._low = low
        ch._feeder = self

    def on_low(self) -> None:
        self.lows += 1

    def on_close(self) -> None:
        self.closes += 1

    def on_stop(self, reason: Any, dropped: int) -> None:
        self.stops.append((reason, dropped))


def test_values_go_to_the_outlet_while_it_has_credit() -> None:
    ch = channel()
    outlet = Outlet(ch, 2)
    ch.send(1)
    assert select((ch, 2), default=None)[0] is ch
    assert not ch.try_send(3)
    blocked = [go(ch.send, 3), go(select, (ch, 4))]
    schedule()
    assert outlet.taken == [1, 2]
    outlet.grant(3)
    assert outlet.taken == [1, 2, 3, 4]
    ch.send(5)
    assert [t.join() for t in blocked] == [None, (ch, None)]
    with pytest.raises(Timeout):
        ch.send(6, 0)
    ch.close()
    assert outlet.taken == [1, 2, 3, 4, 5]
    assert outlet.closes == 1


def test_what_is_held_goes_before_what_is_offered() -> None:
    ch = channel(2)
    ch.send(0)
    outlet = Outlet(ch)
    ch.send(1)
    t = go(ch.send, 2)
    schedule()
    outlet.grant(10)
    t.join()
    ch.send(3)
    assert outlet.taken == [0, 1, 2, 3]


def test_what_the_outlet_raises_is_the_senders() -> None:
    ch = channel()
    outlet = Outlet(ch)
    blocked = go(ch.send, "bad"), go(select, (ch, "bad")), go(ch.send, "good")
    schedule()
    outlet.grant(2)
    for t in blocked[:2]:
        with pytest.raises(ValueError, match="can't be carried"):
            t.join()
    blocked[2].join()
    with pytest.raises(ValueError, match="can't be carried"):
        ch.send("bad")
    assert outlet.taken == ["good"]
    assert ch._credit == 1


def test_a_send_that_was_cancelled_is_not_taken() -> None:
    ch = channel()
    outlet = Outlet(ch)
    with flower.move_on(0.0):
        ch.send(1)
    outlet.grant(1)
    assert outlet.taken == []


def test_the_feeder_learns_that_little_is_left_and_that_the_channel_is_closed() -> None:
    ch = channel(8)
    feeder = Feeder(ch, 3)
    ch.send_sequence(range(4))
    assert [ch.receive(), feeder.lows, ch.receive(), feeder.lows, ch.receive(), feeder.lows] == [0, 0, 1, 1, 2, 1]
    ch.close()
    assert (feeder.closes, feeder.stops) == (1, [])
    ch.receiver.close("enough")
    assert feeder.stops == [("enough", 1)]
    with pytest.raises(ChannelClosed):
        ch.send(1)


def test_a_channel_that_failed_refuses_with_its_failure() -> None:
    ch = channel()
    blocked = go(ch.send, 1)
    schedule()
    ch._abandon(ConnectionError("the link"))
    for refused in (blocked.join, lambda: ch.send(2), lambda: select((ch, 2)), ch.receive):
        with pytest.raises(ConnectionError, match="the link"):
            refused()


@pytest.mark.parametrize("capacity", [0, 2])
def test_a_channel_may_be_overfilled(capacity: int) -> None:
    ch = channel(capacity)
    feeder = Feeder(ch, capacity + 1)
    waiting = go(ch.receive)
    schedule()
    for i in range(20):
        overfill(ch, i)
    assert not ch.try_send("no room")
    assert waiting.join() == 0
    assert [ch.receive() for _ in range(19)] == list(range(1, 20))
    assert feeder.lows == 1
    ch.close()
    with pytest.raises(ChannelClosed):
        overfill(ch, 1)


def test_what_comes_back_is_received_first() -> None:
    ch = channel(2)
    ch.send_sequence([3, 4])
    put_back(ch, list(range(-17, 3)))
    t = go(ch.send, 5)
    schedule()
    ch.close()
    assert list(ch) == list(range(-17, 6))
    t.join()
