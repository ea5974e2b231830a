"""Resident memory of a parked tasklet, beside a parked greenlet that was started the same way.

A process has 65,530 memory maps by default on Linux, and each parked greenlet holds one (its interpreter
stack chunk): hence not more than 50,000 of them.
"""

from __future__ import annotations

import gc
import os
import sys

from benchmarks.registry import Stopwatch, Subject

from ._peers import run_asyncio

SUBJECT = Subject("memory", "Memory of a parked tasklet (RSS, 50,000 parked)", "bytes", "tasklet", rounds=3)

N = 50_000


def resident() -> int:
    """Bytes of this process that are in memory now (where /proc is missing, the most there ever were)."""
    gc.collect()
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


@SUBJECT.by("greenlet", N, repeats=1)
def bare_greenlet(n: int, watch: Stopwatch) -> None:
    from greenlet import getcurrent, greenlet

    park = getcurrent().switch

    def parked() -> None:
        park()

    greenlet(parked).switch()
    before = resident()
    kept = []
    for _ in range(n):
        kept.append(greenlet(parked))
        kept[-1].switch()
    watch.value = (resident() - before) / n


@SUBJECT.flower(N, N, repeats=1)
def flower(n: int, watch: Stopwatch) -> None:
    import flower

    ch = flower.channel()

    def parked() -> None:
        ch.receive()

    flower.go(parked)
    flower.schedule()
    before = resident()
    kept = [flower.go(parked) for _ in range(n)]
    flower.schedule()
    assert ch.balance == -n - 1, ch.balance
    watch.value = (resident() - before) / n
    del kept


@SUBJECT.by("gevent", N, repeats=1)
def gevent(n: int, watch: Stopwatch) -> None:
    import gevent
    from gevent.queue import Channel

    ch = Channel()

    def parked() -> None:
        ch.get()

    gevent.spawn(parked)
    gevent.sleep(0)
    before = resident()
    kept = [gevent.spawn(parked) for _ in range(n)]
    gevent.sleep(0)
    watch.value = (resident() - before) / n
    del kept


@SUBJECT.by("asyncio+uvloop", N, repeats=1)
def asyncio(n: int, watch: Stopwatch) -> None:
    import asyncio

    async def main() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()

        async def parked() -> None:
            await queue.get()

        before = resident()
        kept = [asyncio.create_task(parked()) for _ in range(n)]
        await asyncio.sleep(0)
        watch.value = (resident() - before) / n
        for task in kept:
            task.cancel()

    run_asyncio(main)


@SUBJECT.by("trio", N, repeats=1)
def trio(n: int, watch: Stopwatch) -> None:
    import trio
    import trio.testing

    async def main() -> None:
        _, take = trio.open_memory_channel[int](0)

        async def parked() -> None:
            await take.receive()

        before = resident()
        async with trio.open_nursery() as nursery:
            for _ in range(n):
                nursery.start_soon(parked)
            await trio.testing.wait_all_tasks_blocked()
            watch.value = (resident() - before) / n
            nursery.cancel_scope.cancel()

    trio.run(main)


SUBJECT.go(N, repeats=1)

SUBJECT.at_most("a parked tasklet, in bare parked greenlets", ("flower", ""), ("greenlet", ""), 1.15)
