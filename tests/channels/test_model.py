"""Channels against a model in plain Python: any capacities and preferences, and sends, receives, selects,
exceptions, closings, timeouts, cancellations and kills in any order.

After each step every tasklet has come to rest, and the channels must look as the model says: the same values
held, the same waiters in the same order, the same outcomes. Each value is new, so that none can be lost,
doubled or overtaken unseen.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import flower
from flower import Cancelled, ChannelClosed, TaskletExit, Timeout, channel, go, select
from flower.channels._select import seed_dice

from .support import COMPILED, NEVER, settle

NOTHING = object()
SEND, RECEIVE = True, False


class Poison(Exception):
    """What is sent as an exception."""


class Offer:
    """One case of one operation: what a model channel's queue holds."""

    def __init__(self, op: Op, ch: ModelChannel, sends: bool, value: Any, index: int) -> None:
        self.op, self.ch, self.sends, self.value, self.index = op, ch, sends, value, index


class Op:
    """One blocking operation of one tasklet: its cases, and what must become of it."""

    def __init__(self, name: str, is_select: bool) -> None:
        self.name = name
        self.is_select = is_select
        self.offers: list[Offer] = []
        self.same: dict[int, int] = {}  # of a select's cases that are alike, the first
        self.expected: Any = None  # None while it is blocked
        self.outcome: Any = None  # what really happened
        self.tasklet: Any = None
        self.scope: Any = None

    def end(self, expected: Any) -> None:
        """Its outcome is decided: it leaves every queue."""
        self.expected = expected
        for offer in self.offers:
            queue = offer.ch.senders if offer.sends else offer.ch.receivers
            if offer in queue:
                queue.remove(offer)

    def complete(self, offer: Offer, value: Any) -> None:
        """The case happened, or one like it; value is what a receive got."""
        self.end(("done", offer.ch, self.same.get(offer.index, offer.index), value))


class ModelChannel:
    """What a channel is to do, with lists."""

    def __init__(self, capacity: Any, real: Any) -> None:
        self.capacity = capacity
        self.real = real
        self.held: list[Any] = []
        self.senders: list[Offer] = []
        self.receivers: list[Offer] = []
        self.closing = False

    def can_put(self) -> bool:
        return self.closing or bool(self.receivers) or len(self.held) < self.capacity

    def can_take(self) -> bool:
        return self.closing or bool(self.held) or bool(self.senders)

    def put(self, value: Any) -> str:
        """'closed', 'done', or 'blocked'."""
        if self.closing:
            return "closed"
        if self.receivers:
            offer = self.receivers[0]
            offer.op.complete(offer, value)
            return "done"
        if len(self.held) < self.capacity:
            self.held.append(value)
            return "done"
        return "blocked"

    def take(self) -> Any:
        """'closed', 'blocked', or a list of the one value."""
        if self.held:
            value = self.held.pop(0)
            if self.senders:
                offer = self.senders[0]
                self.held.append(offer.value)
                offer.op.complete(offer, None)
            return [value]
        if self.senders:
            offer = self.senders[0]
            offer.op.complete(offer, None)
            return [offer.value]
        return "closed" if self.closing else "blocked"

    def close(self) -> None:
        self.closing = True
        for offer in list(self.receivers):
            if offer.op.expected is None:
                offer.op.end(("closed", self))
        for offer in list(self.senders):
            if offer.op.is_select and offer.op.expected is None:
                offer.op.end(("closed", self))


class ChannelMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        seed_dice(1)  # so that a failure can be replayed
        self.numbers = itertools.count()
        self.channels: list[ModelChannel] = []
        self.ops: list[Op] = []

    @initialize(
        capacities=st.lists(st.sampled_from([0, 0, 1, 2, 5, math.inf]), min_size=1, max_size=3),
        preferences=st.lists(st.sampled_from([-1, 0, 1]), min_size=3, max_size=3),
        schedule_all=st.booleans(),
    )
    def make(self, capacities: list[Any], preferences: list[int], schedule_all: bool) -> None:
        for capacity, preference in zip(capacities, preferences, strict=False):
            real = channel(capacity)
            real.preference = preference
            real.schedule_all = schedule_all
            self.channels.append(ModelChannel(capacity, real))

    def pick(self, k: int) -> ModelChannel:
        return self.channels[k % len(self.channels)]

    def new_value(self, poison: bool = False) -> Any:
        n = next(self.numbers)
        return Poison(n) if poison else n

    # -- real operations, each in a tasklet of its own

    def body(self, op: Op, act: Any) -> None:
        with flower.move_on(NEVER) as op.scope:
            try:
                op.outcome = act()
            except ChannelClosed as e:
                op.outcome = ("closed", e.channel)
            except Timeout:
                op.outcome = ("timeout",)
            except Poison as e:
                op.outcome = ("poison", e.args[0])
            except Cancelled:
                op.outcome = ("cancelled",)
                raise
            except TaskletExit:
                op.outcome = ("killed",)
                raise

    def start(self, op: Op, act: Any) -> None:
        self.ops.append(op)
        op.tasklet = go(self.body, op, act)
        settle()

    def real_value(self, value: Any) -> Any:
        return flower.bomb(value) if isinstance(value, Poison) else value

    # -- rules

    @rule(k=st.integers(0, 2), poison=st.booleans(), timeout=st.sampled_from([None, 0, NEVER]))
    def send(self, k: int, poison: bool, timeout: Any) -> None:
        ch, value = self.pick(k), self.new_value(poison)
        op = Op("send", False)
        result = ch.put(value)
        offer = Offer(op, ch, SEND, value, 0)
        self.decide(op, offer, result, None, timeout)

        def act() -> Any:
            if poison:
                ch.real.send_exception(Poison, *value.args) if timeout is None else ch.real.send(
                    flower.bomb(value), timeout
                )
            else:
                ch.real.send(value, timeout)
            return ("done", ch.real, 0, None)

        self.start(op, act)

    @rule(k=st.integers(0, 2), timeout=st.sampled_from([None, 0, NEVER]))
    def receive(self, k: int, timeout: Any) -> None:
        ch = self.pick(k)
        op = Op("receive", False)
        result = ch.take()
        offer = Offer(op, ch, RECEIVE, None, 0)
        if isinstance(result, list):
            self.decide(op, offer, "done", result[0], timeout)
        else:
            self.decide(op, offer, result, None, timeout)
        self.start(op, lambda: ("done", ch.real, 0, ch.real.receive(timeout)))

    def decide(self, op: Op, offer: Offer, result: str, value: Any, timeout: Any) -> None:
        if result == "done":
            op.expected = ("done", offer.ch, offer.index, value)
        elif result == "closed":
            op.expected = ("closed", offer.ch)
        elif timeout == 0:
            op.expected = ("timeout",)
        else:
            op.offers = [offer]
            (offer.ch.senders if offer.sends else offer.ch.receivers).append(offer)

    @rule(k=st.integers(0, 2), poison=st.booleans())
    def try_send(self, k: int, poison: bool) -> None:
        ch, value = self.pick(k), self.new_value(poison)
        result = ch.put(value)
        if result == "closed":
            with pytest.raises(ChannelClosed):
                ch.real.try_send(self.real_value(value))
        else:
            assert ch.real.try_send(self.real_value(value)) is (result == "done")
        settle()

    @rule(k=st.integers(0, 2), by_select=st.booleans())
    def try_receive(self, k: int, by_select: bool) -> None:
        ch = self.pick(k)
        result = ch.take()

        def act() -> Any:
            return select(ch.real, default=NOTHING)[1] if by_select else ch.real.try_receive(NOTHING)

        if result == "closed":
            with pytest.raises(ChannelClosed):
                act()
        elif result == "blocked":
            assert act() is NOTHING
        elif isinstance(result[0], Poison):
            with pytest.raises(Poison) as caught:
                act()
            assert caught.value.args == result[0].args
        else:
            assert act() == result[0]
        settle()

    @rule(
        cases=st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), min_size=1, max_size=4),
        holes=st.integers(0, 1),
        timeout=st.sampled_from([None, None, 0, NEVER]),
    )
    def choose(self, cases: list[tuple[int, bool, bool]], holes: int, timeout: Any) -> None:
        """A select of any cases; None stands before them now and then.

        Cases that send to the same channel send the same, since any of them may be the one that happens.
        """
        op = Op("select", True)
        offers, real = [], [None] * holes
        first: dict[Any, Offer] = {}
        for k, sends, poison in cases:
            ch = self.pick(k)
            if (ch, sends) in first:
                value = first[ch, sends].value
            else:
                value = self.new_value(poison) if sends else None
            offers.append(Offer(op, ch, sends, value, len(real)))
            first.setdefault((ch, sends), offers[-1])
            op.same[len(real)] = first[ch, sends].index
            real.append((ch.real, self.real_value(value)) if sends else ch.real)
        ready = [o for o in offers if (o.ch.can_put() if o.sends else o.ch.can_take())]

        def act() -> Any:
            result = select(*real, timeout=timeout)
            return ("done", result[0], op.same[result.index], result[1])

        if not ready and timeout == 0:
            op.expected = ("timeout",)
        elif not ready:
            op.offers = offers
            for o in offers:
                (o.ch.senders if o.sends else o.ch.receivers).append(o)
        self.start(op, act)
        if ready:
            self.follow(op, ready)

    def follow(self, op: Op, ready: list[Offer]) -> None:
        """Which of the ready cases happened is the select's choice; the model does the same one."""
        outcome = op.outcome
        assert outcome is not None, "it had a ready case, and blocked"
        chosen = []
        for o in ready:
            if outcome[0] == "done":
                if o.index == outcome[2]:
                    chosen.append(o)
            elif outcome[0] == "closed":
                if o.ch.real is outcome[1] and o.ch.closing and (o.sends or not (o.ch.held or o.ch.senders)):
                    chosen.append(o)
            elif outcome[0] == "poison" and not o.sends:
                first = o.ch.held[0] if o.ch.held else o.ch.senders[0].value if o.ch.senders else None
                if isinstance(first, Poison) and first.args[0] == outcome[1]:
                    chosen.append(o)
        assert chosen, f"{outcome} is none of the ready cases"
        o = chosen[0]
        if o.sends:
            result = o.ch.put(o.value)
            value = None
        else:
            taken = o.ch.take()
            result, value = ("done", taken[0]) if isinstance(taken, list) else (taken, None)
        op.expected = ("closed", o.ch) if result == "closed" else ("done", o.ch, op.same[o.index], value)

    @rule(k=st.integers(0, 2))
    def close(self, k: int) -> None:
        ch = self.pick(k)
        ch.close()
        ch.real.close()
        settle()

    @rule(k=st.integers(0, 2))
    def open(self, k: int) -> None:
        ch = self.pick(k)
        ch.closing = False
        ch.real.open()

    def blocked(self) -> list[Op]:
        return [op for op in self.ops if op.expected is None]

    @rule(which=st.integers(0, 50), how=st.sampled_from(["kill", "pending", "cancel", "throw"]))
    def give_up(self, which: int, how: str) -> None:
        """A blocked tasklet is killed, cancelled, or gets an exception."""
        if not self.blocked():
            return
        op = self.blocked()[which % len(self.blocked())]
        if how == "cancel":
            op.end(("cancelled",))
            op.scope.cancel()
        elif how == "throw":
            op.end(("poison", "thrown"))
            op.tasklet.raise_exception(Poison, "thrown")
        else:
            op.end(("killed",))
            op.tasklet.kill(pending=how == "pending")
        settle()

    @rule(k=st.integers(0, 2), how=st.sampled_from(["kill", "cancel", "close"]))
    def give_up_after_delivery(self, k: int, how: str) -> None:
        """A value was written to the waiter, which has not run since: it keeps it, whatever comes now."""
        candidates = [c for c in self.channels if c.receivers]
        if not candidates:
            return
        ch = candidates[k % len(candidates)]
        op, value = ch.receivers[0].op, self.new_value()
        assert ch.put(value) == "done"
        preference, ch.real.preference = ch.real.preference, 0
        all_switch, ch.real.schedule_all = ch.real.schedule_all, False
        assert ch.real.try_send(value)
        assert op.outcome is None, "a send of no preference must not switch"
        ch.real.preference, ch.real.schedule_all = preference, all_switch
        if how == "kill":
            op.tasklet.kill()
        elif how == "cancel":
            op.scope.cancel()
        else:
            ch.close()
            ch.real.close()
        settle()

    @rule(k=st.integers(0, 2), kill=st.booleans())
    def give_up_after_taking(self, k: int, kill: bool) -> None:
        """The same for a sender whose value was taken."""
        candidates = [c for c in self.channels if c.senders and not c.held]
        if not candidates:
            return
        ch = candidates[k % len(candidates)]
        op = ch.senders[0].op
        (value,) = ch.take()
        preference, ch.real.preference = ch.real.preference, 0
        all_switch, ch.real.schedule_all = ch.real.schedule_all, False
        if isinstance(value, Poison):
            with pytest.raises(Poison):
                ch.real.try_receive(NOTHING)
        else:
            assert ch.real.try_receive(NOTHING) == value
        assert op.outcome is None, "a receive of no preference must not switch"
        ch.real.preference, ch.real.schedule_all = preference, all_switch
        if kill:
            op.tasklet.kill()
        else:
            op.scope.cancel()
        settle()

    # -- invariants

    @invariant()
    def every_outcome_is_the_models(self) -> None:
        still: list[Op] = []
        for op in self.ops:
            if op.expected is None:
                assert op.outcome is None, f"{op.name} was to stay blocked: {op.outcome}"
                assert op.tasklet.alive and op.tasklet.blocked
                still.append(op)
                continue
            expected = op.expected
            if expected[0] == "closed":
                expected = ("closed", expected[1].real)
            elif expected[0] == "done":
                value = expected[3]
                if isinstance(value, Poison):
                    expected = ("poison", value.args[0])
                else:
                    expected = ("done", expected[1].real, expected[2], value)
            assert op.outcome == expected, op.name
            assert not op.tasklet.alive
        self.ops = still

    @invariant()
    def every_channel_is_the_models(self) -> None:
        for ch in self.channels:
            real = ch.real
            assert len(real) == len(ch.held) <= ch.capacity
            assert real.balance == len(ch.held) + len(ch.senders) - len(ch.receivers)
            assert real.capacity == ch.capacity
            assert real.closing is ch.closing
            assert real.closed is (ch.closing and not ch.held and not ch.senders)
            waiters = {o.op.tasklet for o in (*ch.senders[:1], *ch.receivers[:1])}
            assert real.queue in (waiters or {None})
        assert flower.getruncount() == 1

    def teardown(self) -> None:
        """Whoever is left is killed, and leaves nothing; what is held comes out in order."""
        for op in self.blocked():
            op.tasklet.kill()
        settle()
        for ch in self.channels:
            assert ch.real.balance == len(ch.held)
            got: list[Any] = []
            ch.real.open()
            for _ in ch.held:
                try:
                    got.append(ch.real.try_receive(NOTHING))
                except Poison as e:
                    got.append(e.args)
            assert got == [v.args if isinstance(v, Poison) else v for v in ch.held]
            assert (ch.real.balance, ch.real.queue) == (0, None)


TestModel = pytest.mark.slow(ChannelMachine.TestCase)
TestModel.settings = settings(
    max_examples=150 if COMPILED else 50,
    stateful_step_count=30,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
