"""RPC over the simulated network."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

import flower
import flower.testing as ft
from flower import rpc
from tests.testing.support import holds


class Account:
    """A service that counts what it has carried out."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def add(self, n: int) -> int:
        self.done.append(n)
        flower.time.sleep(0.1)
        return sum(self.done)

    def count(self, n: int) -> Any:
        yield from range(n)


def rpc_world(w: ft.World, service: Any) -> Any:
    def server() -> None:
        with rpc.serve("tcp://server:80", service) as s:
            assert s.url
            flower.never().receive()

    w.net.at("server").go(server, daemon=True)
    w.settle()
    with w.net.at("client"):
        return rpc.connect("tcp://server:80")


@pytest.mark.slow
def test_rpc_over_the_simulated_network() -> None:
    def test(w: ft.World) -> None:
        account = Account()
        peer = rpc_world(w, account)
        results: list[int] = []
        for n in (1, 2):
            w.go(lambda n=n: results.append(peer.call("add", n)), name=f"caller-{n}")
        w.advance(9)
        assert sorted(account.done) == [1, 2] and max(results) == 3
        peer.close()

    holds(test, max_examples=150)


@pytest.mark.slow
def test_the_reply_is_lost_after_the_call_was_carried_out() -> None:
    """At most once: the caller gets an error, and must not conclude that nothing has happened."""
    seen: set[tuple[int, str]] = set()

    def test(w: ft.World) -> None:
        account = Account()
        w.net.faults("reset")
        try:
            peer = rpc_world(w, account)
        except OSError:
            return
        try:
            peer.call("add", 1, timeout=5)
            outcome = "done"
        except (flower.Timeout, OSError) as error:
            outcome = type(error).__name__
        w.advance(5)
        assert len(account.done) <= 1
        assert outcome != "done" or account.done == [1]
        seen.add((len(account.done), "done" if outcome == "done" else "error"))
        peer.close()

    holds(test, max_examples=400)
    assert {(1, "done"), (1, "error"), (0, "error")} <= seen


def test_a_crash_ends_what_runs_compiled_code_alone() -> None:
    """It has no frame of Python's, so greenlet does not tell its context."""

    def test(w: ft.World) -> None:
        asleep = flower.channel[None]()
        w.net.at("server").go(lambda: flower.go(asleep.receive))
        w.net.at("client").go(asleep.receive)
        w.settle()
        assert asleep.balance == -2
        w.net.crash("server")
        assert asleep.balance == -1
        asleep.send(None)

    holds(test)


@pytest.mark.slow
def test_every_call_ends_through_partitions_and_crashes() -> None:
    def test(w: ft.World) -> None:
        account = Account()
        peer = rpc_world(w, account)
        outcomes: list[str] = []

        def call(n: int) -> None:
            try:
                peer.call("add", n, timeout=20)
                outcomes.append("done")
            except (flower.Timeout, OSError) as error:
                outcomes.append(type(error).__name__)

        for n in range(3):
            w.go(call, n, name=f"caller-{n}")
        trouble = w.draw(st.sampled_from(["partition", "crash", "close", "one way"]))
        flower.time.sleep(w.draw(st.sampled_from([0, 0.05, 0.15])))
        if trouble == "partition":
            w.net.partition("client", "server")
            w.advance(5)
            w.net.heal()
        elif trouble == "one way":
            w.net.partition("server", "client", both=False)
        elif trouble == "crash":
            w.net.crash("server")
        else:
            peer.close()
        w.advance(60)
        assert len(outcomes) == 3
        peer.close()

    holds(test, max_examples=150)
