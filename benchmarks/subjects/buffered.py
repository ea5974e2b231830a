"""One value through a queue with room: put in and taken out by the same tasklet, so that nobody waits."""

from __future__ import annotations

from benchmarks.registry import Stopwatch, Subject

from ._peers import run_asyncio

SUBJECT = Subject("buffered", "Buffered channel, one value through", "ns", "value")

ROOM = 16


@SUBJECT.by("deque", 1_000_000)
def deque(n: int, watch: Stopwatch) -> None:
    from collections import deque

    queue: deque[int] = deque()
    with watch:
        for i in range(n):
            queue.append(i)
            queue.popleft()


@SUBJECT.flower(800_000, 60_000)
def flower(n: int, watch: Stopwatch) -> None:
    import flower

    ch = flower.channel(ROOM)

    def both() -> None:
        with watch:
            for i in range(n):
                ch.send(i)
                ch.receive()

    flower.go(both)
    flower.run()


@SUBJECT.by("gevent", 200_000)
def gevent(n: int, watch: Stopwatch) -> None:
    import gevent
    from gevent.queue import Queue

    queue = Queue(ROOM)

    def both() -> None:
        with watch:
            for i in range(n):
                queue.put(i)
                queue.get()

    gevent.spawn(both).get()


@SUBJECT.by("asyncio+uvloop", 100_000)
def asyncio(n: int, watch: Stopwatch) -> None:
    import asyncio

    async def main() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue(ROOM)
        with watch:
            for i in range(n):
                await queue.put(i)
                await queue.get()

    run_asyncio(main)


@SUBJECT.by("trio", 10_000)
def trio(n: int, watch: Stopwatch) -> None:
    """Each of trio's operations is a checkpoint, which lets others run even where nobody waits."""
    import trio

    async def main() -> None:
        put, take = trio.open_memory_channel[int](ROOM)
        with watch:
            for i in range(n):
                await put.send(i)
                await take.receive()

    trio.run(main)


SUBJECT.go(2_000_000)

SUBJECT.at_most("one value, in deque append + popleft", ("flower", ""), ("deque", ""), 2.0)
SUBJECT.faster("one value, faster than gevent's Queue", ("flower", ""), ("gevent", ""), 2.7)
