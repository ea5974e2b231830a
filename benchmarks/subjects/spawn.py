"""Spawn, run and finish a tasklet whose function does nothing.

A hundred at a time, so that everybody reuses what the last hundred left behind; and all of 100,000 before the
first one runs, so that memory is part of the price. The rankings differ: a goroutine whose stack has to be
allocated costs several times one that gets a used stack.
"""

from __future__ import annotations

from benchmarks.registry import Stopwatch, Subject

from ._peers import greenlet_switch, run_asyncio

SUBJECT = Subject("spawn", "Spawn, run and finish a tasklet", "ns", "tasklet")

FEW, MANY = 100, 100_000
BY_100 = "100 at a time"
AT_ONCE = "100,000 at once"

SUBJECT.add("greenlet", greenlet_switch, 500_000, "bare switch")


def noop() -> None:
    pass


async def anoop() -> None:
    pass


def _flower(n: int, watch: Stopwatch, size: int) -> None:
    from flower import go, run

    batch = range(min(size, n))
    with watch:
        for _ in range(n // len(batch)):
            for _ in batch:
                go(noop)
            run()


@SUBJECT.flower(300_000, 20_000, BY_100)
def flower_few(n: int, watch: Stopwatch) -> None:
    _flower(n, watch, FEW)


@SUBJECT.flower(MANY, MANY, AT_ONCE)
def flower_many(n: int, watch: Stopwatch) -> None:
    _flower(n, watch, MANY)


@SUBJECT.by("greenlet", 20_000, "started and finished")
def bare_greenlet(n: int, watch: Stopwatch) -> None:
    """A greenlet started and run to its end: what a tasklet would cost if each had its own."""
    from greenlet import greenlet

    with watch:
        for _ in range(n):
            greenlet(noop).switch()


def _gevent(n: int, watch: Stopwatch, size: int) -> None:
    from gevent import joinall, spawn

    batch = range(min(size, n))
    with watch:
        for _ in range(n // len(batch)):
            joinall([spawn(noop) for _ in batch])


@SUBJECT.by("gevent", 10_000, BY_100)
def gevent_few(n: int, watch: Stopwatch) -> None:
    _gevent(n, watch, FEW)


def _asyncio(n: int, watch: Stopwatch, size: int) -> None:
    import asyncio

    batch = range(min(size, n))

    async def main() -> None:
        create_task = asyncio.create_task
        with watch:
            for _ in range(n // len(batch)):
                tasks = [create_task(anoop()) for _ in batch]
                await tasks[-1]  # they run in order: the last is done after all others

    run_asyncio(main)


@SUBJECT.by("asyncio+uvloop", 20_000, BY_100)
def asyncio_few(n: int, watch: Stopwatch) -> None:
    _asyncio(n, watch, FEW)


@SUBJECT.by("asyncio+uvloop", MANY, AT_ONCE)
def asyncio_many(n: int, watch: Stopwatch) -> None:
    _asyncio(n, watch, MANY)


@SUBJECT.by("trio", 3_000, BY_100)
def trio_few(n: int, watch: Stopwatch) -> None:
    import trio

    batch = range(min(FEW, n))

    async def main() -> None:
        with watch:
            for _ in range(n // len(batch)):
                async with trio.open_nursery() as nursery:
                    for _ in batch:
                        nursery.start_soon(anoop)

    trio.run(main)


SUBJECT.go(200_000, BY_100)
SUBJECT.go(MANY, AT_ONCE)

SWITCH = ("greenlet", "bare switch")
for _variant in (BY_100, AT_ONCE):
    SUBJECT.at_most(f"{_variant}, in bare greenlet switches", ("flower", _variant), SWITCH, 1.6)
for _variant in (BY_100, AT_ONCE):
    SUBJECT.faster(f"{_variant}, faster than a goroutine", ("flower", _variant), ("go", _variant), 2)
