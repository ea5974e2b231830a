"""A value handed from one OS thread to another: two threads play ping-pong.

Each hand-over wakes a sleeping thread, and under the GIL it waits for the lock besides; so the peer is what
Python itself offers for this, ``queue.SimpleQueue``, and the clock to look at is the wall's.
"""

from __future__ import annotations

import threading

from benchmarks.registry import Stopwatch, Subject

SUBJECT = Subject("threads", "Hand-over between two OS threads", "ns", "value")

PLAIN = "the threads' own code"
TASKLETS = "a tasklet in each thread"


def _flower(n: int, watch: Stopwatch, tasklets: bool) -> None:
    import flower

    ping, pong = flower.channel(), flower.channel()
    rounds = n // 2

    def client() -> None:
        for i in range(rounds):
            ping.send(i)
            pong.receive()

    def server() -> None:
        for _ in range(rounds):
            pong.send(ping.receive())

    def run(function: object) -> None:
        if tasklets:
            flower.run(function)
        else:
            function()  # type: ignore[operator]

    thread = threading.Thread(target=run, args=(server,))
    thread.start()
    with watch:
        run(client)
    thread.join()


@SUBJECT.flower(10_000, 5_000, PLAIN)
def flower_plain(n: int, watch: Stopwatch) -> None:
    _flower(n, watch, tasklets=False)


@SUBJECT.flower(10_000, 5_000, TASKLETS)
def flower_tasklets(n: int, watch: Stopwatch) -> None:
    _flower(n, watch, tasklets=True)


@SUBJECT.by("SimpleQueue", 20_000)
def simple_queue(n: int, watch: Stopwatch) -> None:
    from queue import SimpleQueue

    ping: SimpleQueue[int] = SimpleQueue()
    pong: SimpleQueue[int] = SimpleQueue()
    rounds = n // 2

    def server() -> None:
        for _ in range(rounds):
            pong.put(ping.get())

    thread = threading.Thread(target=server)
    thread.start()
    with watch:
        for i in range(rounds):
            ping.put(i)
            pong.get()
    thread.join()


@SUBJECT.by("trio", 1_000)
def trio(n: int, watch: Stopwatch) -> None:
    """trio's own bridge: a worker thread that calls back into the loop for each value."""
    import trio

    async def main() -> None:
        async def answer(value: int) -> int:
            return value

        def worker() -> None:
            for i in range(n // 2):  # a call and its answer: two values
                trio.from_thread.run(answer, i)

        with watch:
            await trio.to_thread.run_sync(worker)

    trio.run(main)


SUBJECT.go(50_000, "locked to OS threads", procs=2)
SUBJECT.no("gevent", "its queues belong to one thread")
SUBJECT.no("asyncio+uvloop", "its queues belong to one loop")
