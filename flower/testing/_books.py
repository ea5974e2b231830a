"""The books that are kept of each channel: what went in and came out, and whether that can be right.

An operation is known by the moments at which it began and ended, counted in steps of the example. That is enough: a
value that was sent before another one was, and is asked for only after that other has been received, was overtaken.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any

from flower.channels import bomb
from flower.channels._task import BLOCKED
from flower.errors import Cancelled, ChannelClosed, TaskletExit, Timeout
from flower.testing._findings import (
    BalanceMismatch,
    CapacityExceeded,
    FifoViolation,
    Finding,
    GhostWaiter,
    SelectFiredTwice,
    ValueDuplicated,
    ValueLost,
)
from flower.testing._log import show

PENDING = 0
SENT = 1
REFUSED = 2  # its sender was told that it was not sent

REMEMBERED = 200  # refused values that are remembered, in case that one arrives nevertheless


class Offer:
    """One value that somebody sends."""

    __slots__ = ("began", "ended", "select", "state", "taken", "value", "who")

    def __init__(self, value: Any, who: str, began: int, select: bool) -> None:
        self.value = value
        self.who = who
        self.began = began
        self.ended = 0
        self.select = select
        self.state = PENDING
        self.taken = False

    def __str__(self) -> str:
        return f"{show(self.value)}, sent by {self.who}"


class Book:
    """What is known of one channel."""

    def __init__(self, name: str, label: Any, held: int) -> None:
        self.name = name
        self.label = label  # of the channel, when it got the name
        self.unknown = held  # values that were there before
        self.remote = False  # its values come from a connection, or leave through one: not only by operations
        self.given_up = False  # what is sent is received no more
        self._offers: list[Offer] = []  # neither received nor refused
        self._refused: list[Offer] = []
        self._ends: list[int] = []  # of the receives, in order
        self._newest: list[int] = []  # the latest beginning of a send among all that were received until then

    # -- what happens

    def offer(self, value: Any, who: str, now: int, select: bool = False) -> Offer:
        found = Offer(value, who, now, select)
        self._offers.append(found)
        return found

    def sent(self, offer: Offer, now: int) -> None:
        offer.state = SENT
        offer.ended = now

    def refused(self, offer: Offer) -> Finding | None:
        offer.state = REFUSED
        if offer.taken:
            double = next((o for o in self._offers if o.value is offer.value), None)
            if double is None:
                return self._twice(offer)
            double.taken, offer.taken = True, False  # of two like values, it was the other that was received
            self._offers.remove(double)
        else:
            self._offers.remove(offer)
        self._refused.append(offer)
        del self._refused[:-REMEMBERED]
        return None

    def received(self, value: Any, who: str, began: int, now: int) -> Finding | None:
        """A value has come out, and this is what it was."""
        like = [offer for offer in self._offers if offer.value is value]
        if not like:
            return self._unexpected(value, who)
        before = bisect_left(self._ends, began)
        newest = self._newest[before - 1] if before else -1
        # Which of several like ones it was can't be told: one that makes a fault of nothing, now or later.
        in_turn = [offer for offer in like if offer.state == PENDING or offer.ended >= newest]
        found = min(in_turn or like, key=_moment_sent)
        self._offers.remove(found)
        found.taken = True
        self._ends.append(now)
        self._newest.append(max(like[0].began, self._newest[-1] if self._newest else -1))
        if not in_turn:
            return FifoViolation(f"{self.name}: a later value was received before {found}")
        return None

    def _unexpected(self, value: Any, who: str) -> Finding | None:
        for offer in reversed(self._refused):
            if offer.value is value:
                offer.taken = True
                return self._twice(offer)
        if self.unknown or self.remote:
            self.unknown = max(self.unknown - 1, 0)
            return None
        return ValueDuplicated(f"{who} received {show(value)} from {self.name}, where it was not (any more)")

    def raised(self, error: BaseException, who: str, began: int, now: int) -> Finding | None:
        """A receive has raised this: an exception that somebody had sent, perhaps."""
        for offer in self._offers:
            if isinstance(offer.value, bomb) and offer.value.value is error:
                return self.received(offer.value, who, began, now)
        if self.unknown and not isinstance(error, (ChannelClosed, Timeout, Cancelled, TaskletExit)):
            self.unknown -= 1  # one that was there before
        return None

    def dropped(self) -> None:
        """The receiver has given up: what was held is gone, and that is right. Who was served before has his value."""
        self.given_up = True
        self.unknown = 0

    def _twice(self, offer: Offer) -> Finding:
        if offer.select:
            return SelectFiredTwice(
                f"{self.name}: {offer}, was received, though another case of that select happened, or none"
            )
        return ValueDuplicated(f"{self.name}: {offer}, was received, though its sender was told that it was not sent")

    # -- what must hold

    def served(self, what: str, before: list[Any], after: list[Any], me: Any) -> Finding | None:
        """An operation met somebody who waited: was that the first in the queue?"""
        if len(after) >= len(before):
            return None
        first = next((t for t in before if t is not me), None)
        if [t for t in before if t is not first] != after:
            return FifoViolation(f"{self.name}: not the tasklet that had waited longest to {what} was served")
        return None

    def check(self, ch: Any) -> Finding | None:
        """The channel as it is now; always in this order."""
        held = len(ch)
        if held > ch.capacity and not self.remote:
            return CapacityExceeded(f"{self.name} holds {held} values, and its capacity is {ch.capacity}")
        senders, receivers = ch._waiting()
        for t in (*senders, *receivers):
            if t.state != BLOCKED or t.decided:
                return GhostWaiter(f"{self.name}: a tasklet that no longer waits is in its queue: {_plainly(t)}")
        if ch.balance != len(senders) + held - len(receivers):
            return BalanceMismatch(
                f"{self.name} says that its balance is {ch.balance}: {len(senders)} wait to send, {held} values are "
                f"held, and {len(receivers)} wait to receive"
            )
        if receivers and (held or any(t not in receivers for t in senders)):
            return BalanceMismatch(f"{self.name}: {len(receivers)} wait to receive, although there is something")
        if senders and held < ch.capacity:
            return BalanceMismatch(f"{self.name}: {len(senders)} wait to send, although there is room")
        return None

    def check_rest(self, ch: Any) -> Finding | None:
        """The channel when nothing is under way any more."""
        if self.remote:
            return None
        waiting = [offer for offer in self._offers if offer.state == SENT]
        if len(waiting) + self.unknown > len(ch) and not self.given_up:
            what = str(waiting[0]) if waiting else "a value that was there before"
            return ValueLost(f"{self.name}: {what}, was not received, and is not held")
        if len(waiting) + self.unknown < len(ch) or (self.given_up and len(ch)):
            return ValueDuplicated(f"{self.name} holds {len(ch)} values, and {len(waiting)} are left in it")
        return None


def _moment_sent(offer: Offer) -> float:
    return math.inf if offer.state == PENDING else offer.ended


def _plainly(t: Any) -> str:
    return t.label or "a tasklet"
