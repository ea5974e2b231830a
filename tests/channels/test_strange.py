"""What users may do that nobody should, and what it costs: an error where it is done, and nothing elsewhere."""

from __future__ import annotations

import asyncio
import gc
import pickle
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from typing import Any

import pytest

import flower
from flower import channel, getcurrent, go, schedule, tasklet
from flower.errors import TaskletKilled

from .support import Frozen

NEVER = 10.0


def test_a_group_that_can_not_wait_says_so() -> None:
    done: list[str] = []
    getcurrent().block_trap = True
    try:
        with pytest.raises(BaseException) as caught:
            with flower.group() as g:
                g.go(done.append, "ran")
        assert "does not like to be blocked" in repr(caught.value) + repr(getattr(caught.value, "exceptions", ""))
    finally:
        getcurrent().block_trap = False
    schedule()
    assert done == ["ran"]


def in_a_callback(do: Any) -> BaseException | None:
    """Do it in a channel callback; what it raised there."""
    caught: list[BaseException | None] = []

    def callback(*_: Any) -> None:
        if not caught:
            caught.append(None)
            try:
                do()
            except BaseException as error:
                caught[0] = error

    before = flower.set_channel_callback(callback)
    try:
        channel(1).send(1)
    finally:
        flower.set_channel_callback(before)
    return caught[0]


def in_a_foreign_loop(do: Any) -> BaseException | None:
    """Do it in a coroutine of another loop than Flower's, in a thread that knows nothing of Flower."""
    caught: list[BaseException | None] = [None]

    async def run() -> None:
        try:
            do()
        except BaseException as error:
            caught[0] = error
        schedule()  # what was started has its turn

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join(NEVER)
    return caught[0]


@pytest.mark.parametrize("where", [in_a_callback, in_a_foreign_loop])
def test_a_group_where_there_is_no_waiting_says_so(where: Any) -> None:
    def use() -> None:
        with flower.group() as g:
            g.go(int)

    raised = repr(where(use))
    assert "block" in raised or "event loop" in raised
    schedule()


def test_an_error_group_is_joined_by_many() -> None:
    def fail() -> None:
        raise ExceptionGroup("several", [ValueError(1), KeyError(2)])

    t = go(fail)
    for _ in range(3):
        with pytest.raises(ExceptionGroup, match="several") as caught:
            t.join()
        assert len(caught.value.exceptions) == 2


def test_a_receiver_that_gives_up_with_an_error_group() -> None:
    ch: channel[int] = channel()
    ch.receiver.close(ExceptionGroup("several", [ValueError(1)]))
    for _ in range(2):
        with pytest.raises(ExceptionGroup, match="several"):
            ch.send(1)


def test_what_was_received_stands_whatever_is_done_to_the_receiver() -> None:
    ch: channel[str] = channel()
    ch.preference = 0
    got: list[str] = []
    t = go(lambda: got.append(ch.receive()))
    schedule()
    ch.send("v")
    t.remove()
    assert t.tempval is None
    t.tempval = "another"
    t.insert()
    t.kill(pending=True)
    schedule()
    schedule()
    assert got == ["v"]


def test_what_was_sent_stands_whatever_is_done_to_the_sender() -> None:
    ch: channel[str] = channel()
    ch.preference = 0
    sent: list[str] = []

    def send() -> None:
        ch.send("v")
        sent.append("v")

    t = go(send)
    schedule()
    assert ch.receive() == "v"
    t.remove()
    t.insert()
    t.kill(pending=True)
    schedule()
    schedule()
    assert sent == ["v"]


@pytest.mark.parametrize("how", ["kill", "throw"])
def test_what_comes_too_late_for_one_life_is_not_for_the_next(how: str) -> None:
    ch: channel[str] = channel()
    ch.preference = 0
    got: list[str] = []
    t = go(lambda: got.append(ch.receive()))
    schedule()
    ch.send("v")
    if how == "kill":
        t.kill(pending=True)
    else:
        t.throw(LookupError, pending=True)
    schedule()
    assert got == ["v"]
    assert not t.alive
    t.bind(lambda: got.append(ch.receive()))()
    schedule()
    ch.send("w")
    schedule()
    assert got == ["v", "w"]


def test_a_member_that_never_began_may_live_again() -> None:
    with flower.group() as g:
        t = g.go(schedule)
        g.cancel()
        t.kill()
    done: list[str] = []

    def again() -> None:
        flower.after(0).receive()
        done.append("ran")

    t.bind(again)()
    t.join()
    assert done == ["ran"]


def test_who_joins_a_tasklet_that_is_bound_anew_learns_that_it_is_over() -> None:
    t = tasklet().bind(schedule, ())
    joiner = go(t.join)
    schedule()
    t.bind(schedule)
    with pytest.raises(TaskletKilled):
        joiner.join()


def test_a_scope_that_was_left_out_of_order_strikes_nobody() -> None:
    def scoped() -> Any:
        with flower.move_on(0.001):
            yield

    outer = scoped()
    next(outer)
    with flower.move_on(NEVER):
        with pytest.raises(RuntimeError, match="reverse order"):
            outer.close()
    flower.after(0.01).receive()
    flower.after(0.01).receive()


def test_blocking_where_there_is_no_waiting_runs_nothing() -> None:
    ran: list[str] = []
    assert isinstance(in_a_callback(lambda: flower.blocking(ran.append, "ran")), RuntimeError)
    flower.blocking(int)
    assert ran == []


class Opaque(Exception):
    def __getattr__(self, name: str) -> Any:
        raise OSError(f"no {name}")


class NoNotes(Exception):
    __notes__ = ("a tuple",)


@pytest.mark.parametrize("cls", [Opaque, NoNotes])
def test_an_error_of_a_strange_class_reaches_main_as_it_is(cls: type[Exception]) -> None:
    def fail() -> None:
        raise cls("mine")

    go(fail)
    caught = ""
    try:  # pytest would look for the notes of what it raises
        flower.after(0.05).receive()
        schedule()
    except cls as error:
        caught = error.args[0]
    assert caught == "mine"


def test_errors_that_can_be_raised_nowhere_are_printed() -> None:
    code = """
        import flower
        def handler(t, error):
            raise KeyError("of the handler")
        def fail():
            raise ValueError("of the tasklet")
        flower.set_error_handler(handler)
        flower.go(fail)
        flower.after(0.01).receive()
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "Exception ignored in a callback of flower" in out.stderr
    assert "of the handler" in out.stderr
    assert "of the tasklet" in out.stderr


@pytest.mark.slow
def test_a_timer_that_threads_reset_at_once_is_armed_once() -> None:
    def switch(phase: str, info: Any) -> None:
        pass  # a Python callback lets other threads in

    gc.callbacks.append(switch)
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(50):
            timer = flower.time.Timer(60)
            threads = [threading.Thread(target=lambda: [timer.reset(0.002) for _ in range(20)]) for _ in range(3)]  # noqa: B023
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            timer.stop()
            with pytest.raises(flower.Timeout):
                timer.c.receive(0.005)
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(switch)


# -- select


@pytest.mark.parametrize("sends", [False, True])
def test_each_of_several_cases_on_one_channel_happens_as_often_to_a_select_that_waits(sends: bool) -> None:
    rounds = 1200
    ch: channel[Any] = channel()
    other: channel[Any] = channel()
    happened: Counter[int] = Counter()

    def choose() -> None:
        cases: list[Any] = [(ch, place) if sends else ch for place in range(3)]
        cases[1:1] = [other, other]
        for _ in range(rounds):
            happened[flower.select(*cases).index] += 1

    t = go(choose)
    ch.preference = 1 if sends else -1
    for _ in range(rounds):
        while not ch.balance:
            schedule()
        if sends:
            happened[ch.receive()] += 0
        else:
            ch.send(None)
    t.join()
    assert {place for place, count in happened.items() if count} == {0, 3, 4}
    assert all(count > rounds / 4 for count in happened.values() if count)


def test_of_several_sends_on_one_channel_the_one_that_is_told_is_the_one_that_happened() -> None:
    ch: channel[int] = channel()
    told: list[int] = []
    t = go(lambda: [told.append(flower.select((ch, 0), (ch, 1), (ch, 2)).index) for _ in range(100)])
    got = []
    for _ in range(100):
        while not ch.balance:
            schedule()
        got.append(ch.receive())
    t.join()
    assert told == got


def test_the_channel_callback_sees_what_a_select_does() -> None:
    ready: channel[int] = channel(1)
    empty: channel[int] = channel()
    seen: list[tuple[str, bool, bool]] = []
    names = {id(ready): "ready", id(empty): "empty"}

    def note(ch: Any, _task: Any, sending: bool, will_block: bool) -> None:
        if id(ch) in names:
            seen.append((names[id(ch)], sending, will_block))

    before = flower.set_channel_callback(note)
    try:
        flower.select(empty, (ready, 1))
        assert seen == [("ready", True, False)]
        seen.clear()
        assert flower.select(empty, (ready, 2), default="none")[1] == "none"
        assert seen == []
        t = go(lambda: flower.select(empty, (ready, 2), None))
        schedule()
        assert seen == [("empty", False, True), ("ready", True, True)]
        empty.send(3)
        t.join()
    finally:
        flower.set_channel_callback(before)


def test_a_callback_may_take_what_a_select_was_about_to_take() -> None:
    ch: channel[int] = channel(1)
    ch.send(1)

    def snatch(c: Any, _task: Any, sending: bool, _will_block: bool) -> None:
        if c is ch and not sending:
            flower.set_channel_callback(None)
            ch.receive()

    before = flower.set_channel_callback(snatch)
    try:
        with pytest.raises(flower.Timeout):
            flower.select(ch, timeout=0.001)
    finally:
        flower.set_channel_callback(before)


@pytest.mark.parametrize("waits", [False, True])
def test_the_error_of_a_select_says_which_end_was_closed(waits: bool) -> None:
    ends = [channel(label=f"number {n}").receiver for n in range(3)]
    caught: list[flower.ChannelClosed] = []

    def choose() -> None:
        try:
            flower.select(*ends)
        except flower.ChannelClosed as error:
            caught.append(error)

    if waits:
        t = go(choose)
        schedule()
        ends[1]._channel.close()
        t.join()
    else:
        ends[1]._channel.close()
        choose()
    assert caught[0].channel is ends[1]
    assert repr(ends[1]) in str(caught[0])


def test_a_select_of_a_channel_that_was_closed_with_an_error_that_can_not_be_changed() -> None:
    for waits in (False, True):
        ch: channel[int] = channel()
        t = go(flower.select, (ch, 1))
        if waits:
            schedule()
        ch.receiver.close(Frozen("enough"))
        with pytest.raises(Frozen, match="enough"):
            t.join()


# -- refused before anything happens


def refused_where_waiting_is_over(do: Any) -> None:
    with pytest.raises(TimeoutError), flower.timeout(0):
        do()


def refused_in_a_trapped_tasklet(do: Any) -> None:
    me = flower.getcurrent()
    me.block_trap = True
    try:
        with pytest.raises(RuntimeError, match="blocked"):
            do()
    finally:
        me.block_trap = False


def refused_in_a_callback(do: Any) -> None:
    assert isinstance(in_a_callback(do), RuntimeError)


@pytest.mark.parametrize(
    "refused", [refused_where_waiting_is_over, refused_in_a_trapped_tasklet, refused_in_a_callback]
)
@pytest.mark.parametrize("call", [flower.run, flower.blocking])
def test_what_may_not_wait_begins_nothing(refused: Any, call: Any) -> None:
    ran: list[str] = []
    refused(lambda: call(ran.append, "ran"))
    schedule()
    flower.blocking(int)
    assert ran == []


def test_the_error_of_a_closed_channel_can_be_pickled() -> None:
    ch: channel[int] = channel(label="jobs")
    ch.receiver.close("enough")
    with pytest.raises(flower.ChannelClosed) as caught:
        ch.send(1)
    caught.value.add_note("noted")
    there = pickle.loads(pickle.dumps(caught.value))
    assert (str(there), there.channel, there.reason) == (str(caught.value), None, "enough")
    assert there.__notes__ == ["noted"]
    assert caught.value.channel is ch
