"""The plain helpers, and the conformance suites on what Flower has."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import Any

import pytest

import flower
import flower.testing as ft
from flower.net import Dial, Listen
from tests.testing.support import holds


def test_virtual_clock() -> None:
    with ft.virtual_clock() as clock:
        flower.time.sleep(3600)
        assert clock.now == 3600.0
        ticks = flower.tick(10)
        assert ticks.receive() == 3610.0
    with pytest.raises(ft.Deadlock), ft.virtual_clock():
        flower.channel().receive()


def test_wait_until_parked() -> None:
    ch = flower.channel()
    t, other = flower.go(ch.receive), flower.go(ch.receive)
    ft.wait_until_parked(t)
    assert t.blocked
    ft.wait_until_parked()
    assert other.blocked
    ch.send(1)
    ch.send(2)
    ft.wait_until_parked(t, other)
    assert not t.alive and not other.alive


def test_wait_until_parked_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flower.testing._plain.MOST_TURNS", 10)

    def spin() -> None:
        while True:
            flower.schedule()

    t = flower.go(spin)
    with pytest.raises(RuntimeError, match="did not come to rest"):
        ft.wait_until_parked()
    t.kill()


def test_no_leaks() -> None:
    ch = flower.channel()
    before = flower.go(ch.receive)
    ft.wait_until_parked()
    with ft.no_leaks():
        flower.go(int).join()
    with pytest.raises(ft.TaskletLeak, match=r"in receive"), ft.no_leaks():
        left = flower.go(ch.receive)
    before.kill()
    left.kill()


class TestChannel(ft.ChannelConformance):
    def make(self, capacity: int) -> Any:
        return flower.channel(capacity)


class TestSubclassedChannel(ft.ChannelConformance):
    class Mine(flower.channel[Any]):
        pass

    def make(self, capacity: int) -> Any:
        return self.Mine(capacity)


class TestSocketPair(ft.ConnectionConformance):
    def connected(self) -> Any:
        return ft.connection_pair()


class TestTcp(ft.ConnectionConformance):
    @contextmanager
    def connected(self) -> Any:
        with Listen(("127.0.0.1", 0)) as listener, Dial("tcp", listener.addr()) as near, listener.receive() as far:
            yield near, far


def names_of(suite: type) -> list[str]:
    return [name for name, _ in inspect.getmembers(suite, inspect.isfunction) if name.startswith("test_")]


@pytest.mark.slow
@pytest.mark.parametrize("name", names_of(ft.ConnectionConformance))
def test_simulated_connections_conform(name: str) -> None:
    class Simulated(ft.ConnectionConformance):
        def connected(self) -> Any:
            return ft.connection_pair()

    holds(lambda w: getattr(Simulated(), name)(), max_examples=30, early_timers=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", names_of(ft.ChannelConformance))
def test_channels_conform_whatever_the_schedule(name: str) -> None:
    holds(lambda w: getattr(TestChannel(), name)(), max_examples=60, early_timers=0)


def test_a_suite_without_its_method() -> None:
    with pytest.raises(NotImplementedError, match="def make"):
        ft.ChannelConformance().make(1)
    with pytest.raises(NotImplementedError, match="def connected"):
        ft.ConnectionConformance().connected()
