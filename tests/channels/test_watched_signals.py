"""The handlers of signals that are watched: whose they are, and when the program's own is back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import flower
from flower import channel

from .support import output


@pytest.fixture
def usr1() -> Iterator[Any]:
    """A handler of the program's own."""

    def own(*args: Any) -> None:
        pass

    before = signal.signal(signal.SIGUSR1, own)
    yield own
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_named_twice_gets_its_handler_back(usr1: Any) -> None:
    flower.signals(signal.SIGUSR1, signal.SIGUSR1).close()
    assert signal.getsignal(signal.SIGUSR1) is usr1


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_watches_of_a_signal_one_closes_and_the_other_goes_on(usr1: Any, first: int) -> None:
    watches = [flower.signals(signal.SIGUSR1), flower.signals(signal.SIGUSR1)]
    watches.pop(first).close()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert watches[0].receive(timeout=10) == signal.SIGUSR1
    watches[0].close()
    assert signal.getsignal(signal.SIGUSR1) is usr1


@pytest.mark.parametrize("end", ["sender", "receiver"])
def test_a_watch_closed_by_one_of_its_ends_gives_the_handler_back(usr1: Any, end: str) -> None:
    watch = flower.signals(signal.SIGUSR1)
    getattr(watch, end).close()
    assert signal.getsignal(signal.SIGUSR1) is usr1
    with pytest.raises(flower.Deadlock):  # nothing outside is waited for any more
        channel().receive()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_handler_that_came_after_the_watch_stays(usr1: Any, elsewhere: bool) -> None:
    def later(number: int, frame: Any) -> None:
        pass

    watch = flower.signals(signal.SIGUSR1)
    if elsewhere:
        closing = threading.Thread(target=watch.close)
        closing.start()
        closing.join()
        signal.signal(signal.SIGUSR1, later)
    else:
        signal.signal(signal.SIGUSR1, later)
        watch.close()
    flower.time.sleep(0.001)
    assert signal.getsignal(signal.SIGUSR1) is later
    flower.signals(signal.SIGUSR1).close()
    assert signal.getsignal(signal.SIGUSR1) is later


def test_a_watch_that_another_thread_closes_as_its_signal_arrives_takes_it_from_no_other() -> None:
    code = """
        import signal, threading, flower
        first, second = flower.signals(signal.SIGALRM), flower.signals(signal.SIGALRM)
        poller = flower.get_scheduler().poller
        ready = poller.ready
        def closes():
            thread = threading.Thread(target=first.close)
            thread.start()
            thread.join()
            ready()
        poller.ready = closes  # called as the first of them is told
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        print(second.receive(timeout=10) == signal.SIGALRM)
    """
    assert output(code) == "True\n"


@pytest.mark.parametrize("closed", [False, True])
def test_a_watch_that_comes_after_another_handler_has_its_signal(usr1: Any, closed: bool) -> None:
    def later(number: int, frame: Any) -> None:
        pass

    first = flower.signals(signal.SIGUSR1)
    if closed:
        closing = threading.Thread(target=first.close)  # the handler of before is back when this thread waits
        closing.start()
        closing.join()
    signal.signal(signal.SIGUSR1, later)
    second = flower.signals(signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert second.receive(timeout=10) == signal.SIGUSR1
    first.close()
    second.close()
    assert signal.getsignal(signal.SIGUSR1) is later


def test_a_watch_opened_and_closed_again_holds_nothing(usr1: Any) -> None:
    watch = flower.signals(signal.SIGUSR1)
    watch.close()
    watch.open()
    watch.close()
    assert signal.getsignal(signal.SIGUSR1) is usr1
    with pytest.raises(flower.Deadlock):
        channel().receive()
