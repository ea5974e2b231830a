"""What a world can't steer is refused, or stopped, by its line."""

from __future__ import annotations

import _thread
import asyncio
import importlib
import math
import os
import queue
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from time import sleep as imported_sleep
from typing import Any

import pytest
from greenlet import getcurrent, greenlet
from hypothesis import strategies as st

import flower
import flower.testing as ft
from flower.channels._scheduler import current_scheduler
from tests.testing.support import found, holds


def sleeps() -> None:
    time.sleep(0.01)


def starts_a_thread() -> None:
    threading.Thread(target=int).start()


def connects() -> None:
    with socket.socket() as sock:
        sock.connect(("127.0.0.1", 9))


def runs_a_program() -> None:
    subprocess.Popen(["true"])


def sleeps_by_an_imported_name() -> None:
    imported_sleep(0.01)


def runs_a_shell() -> None:
    os.system("true")


def waits_for_a_queue() -> None:
    queue.Queue().get()  # type: ignore[var-annotated]


def waits_for_an_event() -> None:
    threading.Event().wait()


def waits_for_a_future() -> None:
    Future().result()  # type: ignore[var-annotated]


def joins_a_thread() -> None:
    threading.main_thread().join()


def runs_an_event_loop() -> None:
    asyncio.run(asyncio.sleep(0.01))


def waits_for_descriptors() -> None:
    select.select([], [], [], 0.01)


def forks() -> None:
    if os.fork() == 0:
        os._exit(0)


def spawns_a_process() -> None:
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


def starts_a_thread_by_hand() -> None:
    _thread.start_new_thread(int, ())


def sends_a_message() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendmsg([b"x"], [], 0, ("127.0.0.1", 9))


def asks_for_an_address() -> None:
    socket.getaddrinfo("localhost", 80)


def asks_for_a_name() -> None:
    socket.gethostbyname("localhost")


def asks_for_its_own_name() -> None:
    socket.getfqdn("127.0.0.1")


def polls() -> None:
    select.poll().poll(10)


def reads_from_a_pipe() -> None:
    there, back = os.pipe()
    try:
        os.read(there, 1)
    finally:
        os.close(there)
        os.close(back)


def waits_for_a_signal() -> None:
    signal.sigtimedwait([signal.SIGUSR1], 0.01)


def pauses() -> None:
    signal.pause()


BLOCKERS = [
    asks_for_a_name,
    asks_for_its_own_name,
    polls,
    reads_from_a_pipe,
    waits_for_a_signal,
    pauses,
    sleeps,
    sleeps_by_an_imported_name,
    starts_a_thread,
    connects,
    runs_a_program,
    runs_a_shell,
    waits_for_a_queue,
    waits_for_an_event,
    waits_for_a_future,
    joins_a_thread,
    runs_an_event_loop,
    waits_for_descriptors,
    forks,
    spawns_a_process,
    starts_a_thread_by_hand,
    sends_a_message,
    asks_for_an_address,
]


@pytest.mark.parametrize("blocker", BLOCKERS)
@pytest.mark.parametrize("where", ["test", "tasklet", "worker"])
def test_blocking_outside_is_refused_by_line(blocker: Any, where: str) -> None:
    def test(w: ft.World) -> None:
        if where == "test":
            blocker()
        elif where == "tasklet":
            w.go(blocker)
        else:
            flower.blocking(blocker)

    error = found(ft.BlockedOutside, test, max_examples=3)
    assert f"in {blocker.__name__}" in str(error)
    assert "test_outside.py:" in str(error)
    time.sleep(0)  # given back


def test_whoever_swallows_the_refusal_is_ended_by_the_next() -> None:
    def test(w: ft.World) -> None:
        def stubborn() -> None:
            while True:
                try:
                    time.sleep(1)
                except Exception:
                    pass

        w.go(stubborn)

    assert "in stubborn" in str(found(ft.BlockedOutside, test, max_examples=3))


def greenlet_operations(w: ft.World) -> dict[str, Any]:
    ch: flower.channel[int] = flower.channel()
    ready: flower.channel[int] = flower.channel(1)
    other = w.go(ch.receive, name="other", daemon=True)
    w.settle()
    return {
        "receive": lambda: flower.channel().receive(),
        "send": lambda: flower.channel().send(1),
        "send that need not wait": lambda: ready.send(1),
        "try_send": lambda: ch.try_send(1),
        "select": lambda: flower.select(flower.channel(), timeout=1),
        "sleep": lambda: flower.time.sleep(1),
        "schedule": lambda: flower.schedule(),
        "schedule_remove": lambda: flower.schedule_remove(),
        "join": lambda: other.join(),
        "run": lambda: flower.run(),
        "kill": lambda: other.kill(),
        "switch": lambda: flower.go(int).switch(),
        "settle": lambda: w.settle(),
        "blocking": lambda: flower.blocking(int),
    }


GREENLET_OPERATIONS = [
    *("receive", "send", "send that need not wait", "try_send", "select", "sleep", "schedule", "schedule_remove"),
    *("join", "run", "kill", "switch", "settle", "blocking"),
]


@pytest.mark.parametrize("where", ["test", "tasklet"])
@pytest.mark.parametrize("name", GREENLET_OPERATIONS)
def test_a_greenlet_that_is_no_tasklet_is_refused_by_line(name: str, where: str) -> None:
    def test(w: ft.World) -> None:
        operation = greenlet_operations(w)[name]
        if where == "test":
            greenlet(operation).switch()
        else:
            w.go(lambda: greenlet(operation).switch())

    error = found(ft.BlockedOutside, test, max_examples=3)
    assert re.search(r"test_outside.py:\d+ in <lambda>: this greenlet is not", str(error)), error


def test_a_greenlet_that_another_tasklet_has_made_is_refused_too() -> None:
    """Its error would go there, out of turn."""

    def test(w: ft.World) -> None:
        made: list[greenlet] = []

        def make() -> None:
            made.append(greenlet(flower.channel().receive))
            flower.channel().receive()

        w.go(make)
        w.go(lambda: made[0].switch())

    assert "in make: this greenlet" in str(found(ft.BlockedOutside, test, max_examples=3))


def test_greenlets_that_leave_tasklets_alone_may_be_used() -> None:
    def test(w: ft.World) -> None:
        def count() -> None:
            for i in range(3):
                getcurrent().parent.switch(i + w.draw(st.just(0)))  # type: ignore[union-attr]

        counter = greenlet(count)
        got = []
        while len(got) < 3:
            got.append(counter.switch())
            flower.schedule()
        assert got == [0, 1, 2]

    holds(test, max_examples=10)
    assert greenlet(lambda: holds(test, max_examples=3)).switch() is None  # a World in one is there at home


def test_what_need_not_wait_may_be_called() -> None:
    ended = threading.Thread(target=int)
    ended.start()
    ended.join()

    def test(w: ft.World) -> None:
        ended.join()
        event = threading.Event()
        assert not event.wait(0)
        event.set()
        event.wait()
        assert asyncio.run(asyncio.sleep(0, "at once")) == "at once"
        assert select.select([], [], [], 0) == ([], [], [])
        assert signal.sigtimedwait([signal.SIGUSR1], 0) is None
        there, back = os.pipe()
        os.write(back, b"two")
        assert os.read(there, 3) == b"two"
        os.set_blocking(there, False)
        with pytest.raises(BlockingIOError):
            os.read(there, 1)
        os.close(there)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.read(there, 1)
        os.close(back)

    holds(test, max_examples=3)


def test_a_name_taken_in_a_world_is_the_real_call_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is imported by the code under test, and has ``from time import sleep``."""
    (tmp_path / "kit_sleeper.py").write_text("from time import sleep", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    def test(w: ft.World) -> None:
        importlib.import_module("kit_sleeper")

    holds(test, max_examples=3)
    sleeper = sys.modules.pop("kit_sleeper")
    sleeper.sleep(0)
    assert "in <lambda>" in str(found(ft.BlockedOutside, lambda w: sleeper.sleep(0), max_examples=2))


def test_other_threads_go_on_as_ever() -> None:
    """A world is in force in its own thread only, and what it replaces looks in which thread it is called."""
    begin: queue.Queue[str] = queue.Queue()
    results: queue.Queue[object] = queue.Queue()

    def fail() -> None:
        raise KeyError("uncollected")

    def elsewhere() -> None:
        while begin.get():
            try:
                results.put(flower.blocking(threading.get_ident) != threading.get_ident())
                time.sleep(0)
                flower.go(fail)
                flower.run()
            except KeyError as error:
                results.put(error.args)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    flower.ignore_thread(thread)
    seen: list[object] = []

    def test(w: ft.World) -> None:
        if not seen:
            begin.put("now")
        while len(seen) < 2:
            try:
                seen.append(results.get_nowait())
            except queue.Empty:
                pass

    try:
        ft.explore(max_examples=1, database=None)(test)()
    finally:
        begin.put("")
        thread.join()
    assert seen == [True, ("uncollected",)]


@pytest.mark.parametrize("how", ["lock", "wait", "spin"])
def test_what_blocks_unseen_is_stopped(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flower.testing._outside.STALL", 0.02)
    poll = select.poll().poll

    def test(w: ft.World) -> None:
        def block() -> None:
            if how == "lock":
                lock = threading.Lock()
                lock.acquire()
                lock.acquire()
            elif how == "wait":
                poll(30_000)
            while True:
                pass

        w.go(block)

    error = found(ft.BlockedOutside, test, max_examples=1)
    assert "no step for" in str(error)


def test_a_function_of_pythons_own_that_blocks_is_stopped_by_the_line_of_its_blocking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flower.testing._outside.STALL", 0.02)

    def test(w: ft.World) -> None:
        lock = threading.Lock()
        lock.acquire()

        def acquire() -> None:
            flower.blocking(lock.acquire)

        w.go(acquire)

    error = found(ft.BlockedOutside, test, max_examples=1)
    assert re.search(r"at \S*test_outside.py:\d+ in acquire$", str(error))


@pytest.mark.slow
def test_who_is_slowed_by_other_threads_is_not_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flower.testing._outside.STALL", 0.25)
    monkeypatch.setattr("flower.testing._outside.IDLE", 0.0005)  # as much less than usual as STALL is
    over = threading.Event()
    others = [threading.Thread(target=lambda: [None for _ in iter(over.is_set, True)]) for _ in range(5)]

    def test(w: ft.World) -> None:
        end = time.thread_time() + 0.12
        while time.thread_time() < end:  # six threads share the interpreter: this takes some three times STALL
            pass

    for other in others:
        other.start()
    try:
        ft.explore(max_examples=1, database=None)(test)()
    finally:
        over.set()
        for other in others:
            other.join()


def test_whoever_looks_around_in_a_debugger_takes_his_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flower.testing._outside.STALL", 0.02)
    debugger: dict[str, Any] = {"__name__": "pdb", "now": time.monotonic}
    exec("def prompt():\n    end = now() + 0.1\n    while now() < end:\n        pass", debugger)

    def test(w: ft.World) -> None:
        debugger["prompt"]()

    ft.explore(max_examples=1, database=None)(test)()


@pytest.mark.slow
def test_a_program_may_take_the_alarm_over() -> None:
    def handler(number: int, frame: Any) -> None:
        pass

    def test(w: ft.World) -> None:
        signal.signal(signal.SIGALRM, handler)

    try:
        holds(test, max_examples=2)
        assert signal.getsignal(signal.SIGALRM) is handler
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_blocking_runs_its_function_in_turn() -> None:
    def test(w: ft.World) -> None:
        assert flower.blocking(sum, [1, 2]) == 3
        with pytest.raises(ZeroDivisionError):
            flower.blocking(lambda: 1 // 0)

    holds(test)


def test_everything_is_as_before_when_a_world_is_over() -> None:
    before = current_scheduler(), time.sleep, flower.get_channel_callback(), flower.set_error_handler(None)

    def test(w: ft.World) -> None:
        w.go(flower.channel().receive, daemon=True)

        def stubborn() -> None:
            try:
                flower.channel().receive()
            finally:
                flower.time.sleep(5)

        w.go(stubborn, daemon=True)
        flower.go(lambda: flower.channel().receive())
        assert math.isfinite(w.now)

    found(ft.TaskletLeak, test)
    assert before == (current_scheduler(), time.sleep, flower.get_channel_callback(), flower.set_error_handler(None))
    ch = flower.channel()
    flower.go(ch.send, 1)
    assert ch.receive(timeout=5) == 1
