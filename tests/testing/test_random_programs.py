"""Programs made at random over correct channels and connections: whatever they do, the kit finds nothing wrong.

Their tasklets are daemons, so that who is left blocked is no finding. Values are alike on purpose: which of two like
ones was received can't be told.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import strategies as st

import flower
import flower.testing as ft
from flower.net import Dial, Listen
from tests.testing.support import holds

SEED: Any = st.integers(0, 10**6)
VALUES = (None, 0, 1, "x", (1, 2))
SERVER = ("server", 80)
EXPECTED = (flower.Timeout, flower.ChannelClosed, OSError, EOFError, KeyError)  # of what a program does


def operate(r: random.Random, channels: list[Any], tasklets: list[Any]) -> None:
    """One operation on one of the channels, or on a tasklet."""
    ch, value, timeout = r.choice(channels), r.choice(VALUES), r.choice([None, None, 0, 1, 2])
    match r.randrange(20):
        case 0 | 1 | 2 | 3:
            ch.send(value, timeout=timeout)
        case 4 | 5 | 6 | 7:
            ch.receive(timeout=timeout)
        case 8:
            ch.try_send(value)
        case 9:
            ch.try_receive(None)
        case 10 | 11 | 12:
            cases = [r.choice([c, (c, r.choice(VALUES))]) for c in r.choices(channels, k=3)]
            flower.select(*cases, **r.choice([{}, {"timeout": 0}, {"timeout": 1}, {"default": 1}]))
        case 13:
            r.choice([ch.close, ch.receiver.close, flower.schedule, flower.schedule])()
        case 14:
            ch.send_exception(KeyError, "sent")
        case 15:
            r.choice(tasklets).kill(pending=r.random() < 0.3)
        case 16:
            flower.time.sleep(r.choice([0, 1, 2]))
        case 17:
            ch.send_sequence(r.choices(VALUES, k=3))
        case _:
            with flower.move_on(r.choice([0, 1])):
                flower.select(ch, (r.choice(channels), value))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["auto", "walk"])
def test_channels(strategy: str) -> None:
    def test(w: ft.World, seed: int = SEED) -> None:
        r = random.Random(seed)
        channels: list[Any] = [flower.channel(r.choice([0, 0, 1, 2, 5])) for _ in range(r.randrange(1, 4))]
        tasklets: list[Any] = []

        def body(number: int) -> None:
            mine = random.Random(seed + number)
            for _ in range(mine.randrange(1, 8)):
                try:
                    operate(mine, channels, tasklets)
                except EXPECTED:
                    pass

        for number in range(r.randrange(2, 6)):
            tasklets.append(w.go(body, number, daemon=True))
        w.settle()
        w.advance(5)

    holds(test, strategy=strategy, max_examples=300)


def talk(r: random.Random, conn: Any) -> None:
    """One operation on a connection."""
    match r.randrange(11):
        case 0 | 1 | 2:
            conn.send(bytes(r.randrange(1, 200)), timeout=r.choice([None, 1]))
        case 3 | 4:
            conn.read(timeout=r.choice([0, 1, 5]))
        case 5:
            conn.read_exactly(r.randrange(1, 50), timeout=3)
        case 6:
            r.choice([conn.close_write, conn.abort, conn.close])()
        case _:
            flower.select(conn, *r.choice([[], [(conn, b"abc")]]), timeout=1)


@pytest.mark.slow
def test_connections() -> None:
    def test(w: ft.World, seed: int = SEED) -> None:
        r = random.Random(seed)

        def converse(conn: Any, number: int) -> None:
            mine = random.Random(seed + number)
            for _ in range(mine.randrange(1, 6)):
                try:
                    talk(mine, conn)
                except EXPECTED:
                    pass

        def server() -> None:
            with Listen(
                SERVER, read_buffer=r.choice([100, 100_000]), write_buffer=r.choice([100, 100_000])
            ) as listener:
                listener.serve(lambda conn: converse(conn, 0), limit=r.choice([None, 1, 2]))

        def client(number: int) -> None:
            try:
                with Dial("tcp", SERVER, timeout=r.choice([None, 1])) as conn:
                    converse(conn, number)
            except EXPECTED:
                pass

        w.net.faults(*r.sample(["reset", "half-close", "partition", "refuse", "slow"], r.randrange(4)))
        w.net.at("server").go(server, daemon=True)
        w.settle()
        clients = [w.net.at("client").go(client, number, daemon=True) for number in range(1, r.randrange(2, 5))]
        for _ in range(r.randrange(3)):
            flower.time.sleep(r.choice([0, 0.1, 1]))
            trouble = r.randrange(4)
            if trouble == 0:
                w.net.partition("client", "server", both=r.random() < 0.5)
            elif trouble == 1:
                w.net.heal()
            elif trouble == 2:
                w.net.crash("server")
            else:
                r.choice(clients).kill()
        w.net.heal()
        w.advance(500)

    holds(test, max_examples=300)
