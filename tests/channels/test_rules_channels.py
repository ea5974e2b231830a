"""The rules that settle the corner cases of channels, and what a program can see of the machinery."""

from __future__ import annotations

import contextvars
import gc
import math
import os
import re
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

import flower
import flower.time
from flower import ChannelClosed, Deadlock, Timeout, channel, go, schedule, select

from .support import CAPACITIES, NEVER, SOON, drain, in_thread, settle, spawn_parked

ROOT = Path(__file__).resolve().parent.parent.parent
over_capacities = pytest.mark.parametrize("capacity", CAPACITIES)

# -- The consumer gives up: ch.receiver.close(reason)


@over_capacities
def test_receiver_close_raises_at_blocked_and_later_senders_with_the_reason(capacity: int) -> None:
    ch = channel(capacity)
    for i in range(capacity):
        ch.send(i)
    blocked = spawn_parked(ch.send, "blocked")
    chooser = spawn_parked(select, (ch, "chosen"), channel())
    ch.receiver.close("no more, please")
    for t in (blocked, chooser):
        with pytest.raises(ChannelClosed) as caught:
            t.join()
        assert (caught.value.reason, caught.value.channel) == ("no more, please", ch)
    for action in (
        lambda: ch.send(1),
        lambda: ch.try_send(1),
        lambda: ch.sender.send(1),
        lambda: select((ch, 1)),
    ):
        with pytest.raises(ChannelClosed) as caught:
            action()
        assert caught.value.reason == "no more, please"
    assert (ch.balance, len(ch)) == (0, 0)  # what was held is dropped


def test_receiver_close_without_a_reason() -> None:
    ch = channel()
    ch.receiver.close()
    with pytest.raises(ChannelClosed) as caught:
        ch.send(1)
    assert caught.value.reason is None


def test_the_ends_are_one_way_views() -> None:
    ch = channel(1)
    assert not hasattr(ch.sender, "receive") and not hasattr(ch.sender, "try_receive")
    assert not hasattr(ch.receiver, "send") and not hasattr(ch.receiver, "try_send")
    ch.sender.send(1)
    assert ch.receiver.receive() == 1
    assert ch.sender.try_send(2)
    assert ch.receiver.try_receive(None) == 2
    ch.sender.send(3)
    ch.sender.close()
    assert list(ch.receiver) == [3]
    assert ch.sender == flower.Sender(ch) != flower.Receiver(ch) == ch.receiver


@pytest.mark.parametrize("end", [flower.Sender, flower.Receiver])
def test_an_end_is_of_a_channel(end: type) -> None:
    with pytest.raises(TypeError, match=f"a {end.__name__} is an end of a channel, not of 5"):
        end(5)


@pytest.mark.slow
def test_the_ends_are_for_signatures(tmp_path: Path) -> None:
    """mypy's strict mode knows what each end takes and gives."""
    program = tmp_path / "program.py"
    program.write_text(
        "import flower\n"
        "def doubled(numbers: flower.Receiver[int], out: flower.Sender[int]) -> None:\n"
        "    for n in numbers:\n"
        "        out.send(2 * n)\n"
        "    out.receive()\n"
        "ch = flower.channel[int](1)\n"
        "doubled(ch.receiver, flower.channel[str]().sender)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path / "cache", program]
    env = {**os.environ, "MYPYPATH": str(ROOT)}
    said = subprocess.run(command, env=env, capture_output=True, text=True).stdout
    assert re.findall(r"program.py:(\d+): error: .*\[(.+)\]", said) == [("5", "attr-defined"), ("7", "arg-type")]


def test_the_ends_are_select_cases() -> None:
    ch = channel(1)
    assert select((ch.sender, 1)).index == 0
    assert select(ch.receiver)[1] == 1


# -- close and a parked select


def test_close_wakes_a_parked_selects_send_case_while_a_blocked_senders_value_is_delivered() -> None:
    ch, other = channel(), channel()
    plain = spawn_parked(ch.send, "committed")
    chooser = spawn_parked(select, (ch, "offered"), other)
    ch.close()
    with pytest.raises(ChannelClosed) as caught:
        chooser.join()
    assert caught.value.channel is ch
    assert other.balance == 0
    assert plain.blocked == 1
    assert ch.receive() == "committed"
    plain.join()
    with pytest.raises(ChannelClosed):
        ch.receive()


def test_a_closed_case_counts_as_ready() -> None:
    ready, shut = channel(math.inf), channel()
    shut.close()
    outcomes = {"value": 0, "closed": 0}
    for _ in range(1000):
        ready.send(None)
        try:
            assert select(ready, shut, default="default")[0] is ready
            outcomes["value"] += 1
        except ChannelClosed as e:
            assert e.channel is shut
            outcomes["closed"] += 1
    assert 350 < outcomes["value"] < 650, outcomes
    assert outcomes["closed"] == 1000 - outcomes["value"]


def test_close_fires_a_parked_select_once() -> None:
    ch, other = channel(), channel()
    log: list[Any] = []

    def choose() -> None:
        try:
            select(ch, ch, (other, 1))
        except ChannelClosed as e:
            log.append(e.channel)

    t = spawn_parked(choose)
    ch.close()
    other.close()
    t.join()
    assert log == [ch]


# -- Preference of a select's match, and of a match across threads


@pytest.mark.parametrize(("preference", "order"), [(-1, ["r", "s"]), (0, ["s", "r"]), (1, ["s", "r"])])
def test_a_select_uses_the_matched_channels_preference(preference: int, order: list[str]) -> None:
    ch, other = channel(), channel()
    ch.preference = preference
    other.preference = -preference
    log: list[str] = []

    def receive() -> None:
        select(other, ch)
        log.append("r")

    spawn_parked(receive)
    select((ch, 1))
    log.append("s")
    settle()
    assert log == order


def test_across_threads_nobody_switches() -> None:
    """A send that meets another thread's receiver goes on; this thread's other tasklets wait their turn."""
    ch, log = channel(), []

    def other() -> Any:
        return ch.receive()

    def waits_for_receiver() -> None:
        while ch.balance != -1:
            time.sleep(0)
        go(log.append, "another tasklet ran")
        ch.send("hello")
        log.append("send returned")
        settle()

    import threading

    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(other()))
    thread.start()
    waits_for_receiver()
    thread.join()
    assert got == ["hello"]
    assert log == ["send returned", "another tasklet ran"]


# -- Truth and capacity


@over_capacities
def test_channels_are_always_true(capacity: int) -> None:
    ch = channel(capacity)
    assert ch and ch.sender and ch.receiver
    for i in range(capacity):
        ch.send(i)
    assert bool(ch)
    ch.close()
    assert bool(ch)


def test_connections_and_listeners_are_always_true() -> None:
    from flower import net

    listener = net.Listen(("127.0.0.1", 0), "tcp")
    client = net.Dial("tcp", listener.addr())
    conn, _ = listener.accept()
    ends = [listener, client, conn]
    assert all(ends)
    for end in ends:
        end.close()
    assert all(ends)


def test_unbounded() -> None:
    ch = channel(math.inf)
    assert ch.capacity == math.inf
    for i in range(10_000):
        ch.send(i)
    assert (len(ch), ch.balance) == (10_000, 10_000)
    assert drain(ch) == list(range(10_000))


# -- A failure is never the end


def test_only_channel_closed_is_a_channel_closed() -> None:
    public = [getattr(flower.errors, name) for name in flower.errors.__all__]
    assert ChannelClosed in public
    others = [e for e in public if e is not ChannelClosed and issubclass(e, ChannelClosed)]
    assert others == []
    assert not issubclass(ConnectionError, ChannelClosed)


@pytest.mark.parametrize("error", [ConnectionResetError, ValueError, StopIteration, EOFError, Timeout])
def test_an_iteration_does_not_take_a_failure_for_the_end(error: type[Exception]) -> None:
    ch = channel(3)
    ch.send(1)
    ch.send_exception(error, "broken")
    got = []
    with pytest.raises((error, RuntimeError)) as caught:  # StopIteration can't leave an iteration as itself
        for value in ch:
            got.append(value)
    assert got == [1]
    if error is not StopIteration:
        assert type(caught.value) is error


# -- Timers


def test_a_timer_never_fires_early() -> None:
    for seconds in (0.0, 0.0005, 0.001, 0.003):
        start = time.monotonic()
        assert flower.after(seconds).receive() is not None
        assert time.monotonic() - start >= seconds
        start = time.monotonic()
        flower.time.sleep(seconds)
        assert time.monotonic() - start >= seconds
        start = time.monotonic()
        with pytest.raises(Timeout):
            channel().receive(timeout=seconds)
        assert time.monotonic() - start >= seconds


def test_timers_fire_in_the_order_of_their_deadlines() -> None:
    log: list[float] = []

    def sleeper(seconds: float) -> None:
        flower.time.sleep(seconds)
        log.append(seconds)

    for seconds in (0.006, 0.002, 0.004, 0.0, 0.005, 0.001, 0.003):
        go(sleeper, seconds)
    flower.run()
    assert log == sorted(log) and len(log) == 7


def test_a_park_that_ends_by_an_exception_removes_its_timer() -> None:
    ch = channel()
    other = spawn_parked(channel().receive)
    actions = [
        lambda: ch.receive(timeout=NEVER),
        lambda: ch.send(1, timeout=NEVER),
        lambda: select(ch, timeout=NEVER),
        lambda: flower.time.sleep(NEVER),
        lambda: other.join(timeout=NEVER),
    ]
    for action in actions:
        t = spawn_parked(action)
        t.kill()
    with pytest.raises(Deadlock):  # nothing is left that main could wait for
        ch.receive()
    other.kill()


@pytest.mark.leaves("tasklets")
def test_pending_timers_cost_nothing_to_those_that_do_not_fire() -> None:
    timers = [flower.time.Timer(1000.0 + i) for i in range(1000)]
    start = time.monotonic()
    flower.time.sleep(SOON)
    assert time.monotonic() - start < 100
    assert all(t.stop() for t in timers)
    with pytest.raises(Deadlock):
        channel().receive()


# -- Re-entry: dropped values and the collector


class Spiteful:
    """Works on the channel when it is dropped."""

    def __init__(self, action: Any) -> None:
        self.action = action

    def __del__(self) -> None:
        self.action()


def test_a_value_that_re_enters_its_channel_when_dropped() -> None:
    ch, log = channel(3), []

    def enter() -> None:
        log.append((ch.try_send("from del"), len(ch)))

    ch.send(Spiteful(enter))
    ch.send("second")
    ch.receive()  # dropped here
    assert log == [(True, 2)]
    assert drain(ch) == ["second", "from del"]


def test_a_kill_that_drops_a_value_which_re_enters() -> None:
    ch, log = channel(), []

    def send() -> None:
        ch.send(Spiteful(lambda: log.append((ch.balance, ch.try_receive("nothing")))))

    t = spawn_parked(send)
    other = spawn_parked(ch.send, "other")
    t.kill()
    del t
    gc.collect()
    assert log == [(1, "other")]
    other.join()


def test_values_are_dropped_as_soon_as_they_are_received() -> None:
    class Value:
        pass

    for capacity in (0, 1):
        ch = channel(capacity)
        value = Value()
        ref = weakref.ref(value)
        t = go(ch.send, value)
        del value
        settle()
        ch.receive()
        settle()
        t.join()
        del t
        assert ref() is None, capacity


def test_channels_and_tasklets_are_weakly_referable_and_collected() -> None:
    ch = channel(1)
    ch.send(ch)  # a cycle through its own buffer
    t = go(lambda: None)
    refs = [weakref.ref(ch), weakref.ref(t)]
    flower.run()
    del ch, t
    gc.collect()
    assert [r() for r in refs] == [None, None]


# -- Carriers: a tasklet starts fresh, whatever ran before on its greenlet


def test_a_tasklet_starts_without_its_predecessors_exception_state() -> None:
    seen: list[Any] = []

    def fails() -> None:
        try:
            raise KeyError("predecessor")
        except KeyError:
            seen.append(sys.exc_info()[0])
            raise ValueError from None

    def fresh() -> None:
        seen.append(sys.exc_info()[0])
        try:
            raise IndexError
        except IndexError as e:
            seen.append(e.__context__)

    flower.set_error_handler(lambda *what: None)
    try:
        for _ in range(3):
            go(fails)
            go(fresh)
            flower.run()
    finally:
        flower.set_error_handler(None)
    assert seen == [KeyError, None, None] * 3


def test_a_tasklet_starts_without_its_predecessors_context() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")
    seen: list[str] = []
    go(var.set, "predecessor's")
    go(lambda: seen.append(var.get()))
    flower.run()
    assert seen == ["unset"]


def test_a_tasklet_starts_without_its_predecessors_scopes() -> None:
    ch = channel()

    def leaves_a_scope_open() -> None:
        scope = flower.move_on(NEVER)
        scope.__enter__()
        scope.cancel()

    go(leaves_a_scope_open)
    t = go(ch.receive)
    settle()
    assert t.blocked == -1
    ch.send("fresh")
    assert t.join() == "fresh"


def test_a_tasklet_starts_shallow_though_its_starter_is_deep() -> None:
    limit = sys.getrecursionlimit()

    def deep(n: int, then: Any) -> Any:
        return then() if n == 0 else deep(n - 1, then)

    used = 0
    frame: Any = sys._getframe()
    while frame is not None:
        used, frame = used + 1, frame.f_back
    room = limit - used - 50

    def starts_another() -> Any:
        return go(deep, limit - 100, lambda: "bottom").join()

    assert deep(room, starts_another) == "bottom"


# -- Blocking where it is not allowed


def test_blocking_in_a_callback_is_refused() -> None:
    seen: list[str] = []

    def callback(*args: Any) -> None:
        for action in (channel().receive, lambda: channel().send(1), schedule, lambda: flower.time.sleep(1)):
            try:
                action()
            except RuntimeError as e:
                seen.append(type(e).__name__)

    t = go(schedule)
    flower.set_schedule_callback(callback)
    try:
        schedule()
    finally:
        flower.set_schedule_callback(None)
    settle()
    assert not t.alive
    assert len(seen) % 4 == 0 and set(seen) == {"RuntimeError"}


def test_a_thread_keeps_its_own_timers() -> None:
    def other() -> str:
        ch = channel()
        t = go(lambda: (flower.time.sleep(SOON), ch.send("in its own thread")))
        got = ch.receive()
        t.join()
        return str(got)

    assert in_thread(other) == "in its own thread"
