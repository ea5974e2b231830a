"""What users may do that nobody should, and what it costs: an error where it is done, and nothing elsewhere."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest

import flower
from flower import channel, getcurrent, go, schedule, tasklet
from flower.errors import TaskletKilled

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
