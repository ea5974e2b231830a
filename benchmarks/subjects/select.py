"""select over 2 and over 100 channels, a producer on each; beside it, the same producers on one channel."""

from __future__ import annotations

from benchmarks.registry import Stopwatch, Subject

from ._peers import run_asyncio

SUBJECT = Subject("select", "Select, a producer on each channel", "ns", "value")

SELECT_2 = "select over 2"
SHARED_2 = "2 producers, one channel, receive"
SELECT_100 = "select over 100"
SHARED_100 = "100 producers, one channel, receive"


def _flower(n: int, watch: Stopwatch, producers: int, shared: bool) -> None:
    import flower

    channels = [flower.channel() for _ in range(1 if shared else producers)]
    share = n // producers
    select = flower.select

    def producer(ch: flower.channel[int]) -> None:
        for i in range(share):
            ch.send(i)

    def receive_all() -> None:
        (ch,) = channels
        for _ in range(share * producers):
            ch.receive()

    def select_two() -> None:
        # A producer that is done leaves its channel silent, so the consumer never waits for more than comes.
        a, b = channels
        for _ in range(share * producers):
            select(a, b)

    def select_many() -> None:
        for _ in range(share * producers):
            select(*channels)

    for index in range(producers):
        flower.go(producer, channels[index % len(channels)])
    flower.go(receive_all if shared else select_two if producers == 2 else select_many)
    with watch:
        flower.run()


@SUBJECT.flower(150_000, 8_000, SELECT_2)
def flower_select_2(n: int, watch: Stopwatch) -> None:
    _flower(n, watch, 2, shared=False)


@SUBJECT.flower(250_000, 25_000, SHARED_2)
def flower_shared_2(n: int, watch: Stopwatch) -> None:
    _flower(n, watch, 2, shared=True)


@SUBJECT.flower(20_000, 1_000, SELECT_100)
def flower_select_100(n: int, watch: Stopwatch) -> None:
    _flower(n, watch, 100, shared=False)


@SUBJECT.flower(250_000, 25_000, SHARED_100)
def flower_shared_100(n: int, watch: Stopwatch) -> None:
    _flower(n, watch, 100, shared=True)


@SUBJECT.by("asyncio+uvloop", 4_000, SELECT_2)
def asyncio_select(n: int, watch: Stopwatch) -> None:
    """asyncio has no select; people wait for the first of several get() tasks and keep the others pending."""
    import asyncio

    share = n // 2

    async def main() -> None:
        queues: list[asyncio.Queue[int]] = [asyncio.Queue(1), asyncio.Queue(1)]

        async def producer(queue: asyncio.Queue[int]) -> None:
            for i in range(share):
                await queue.put(i)

        async def consumer() -> None:
            pending = {asyncio.create_task(queue.get()): queue for queue in queues}
            received = 0
            while received < 2 * share:
                done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    queue = pending.pop(task)
                    pending[asyncio.create_task(queue.get())] = queue
                    received += 1
            for task in pending:
                task.cancel()

        with watch:
            await asyncio.gather(producer(queues[0]), producer(queues[1]), consumer())

    run_asyncio(main)


for _variant in (SELECT_2, SHARED_2, SHARED_100):
    SUBJECT.go(500_000, _variant)
SUBJECT.go(10_000, SELECT_100)

SUBJECT.no("gevent", "selects over file descriptors only, not over its queues")
SUBJECT.no("trio", "has no select; its way is one task per channel")

SUBJECT.at_most("select over 2, in the same with one shared channel", ("flower", SELECT_2), ("flower", SHARED_2), 1.4)
