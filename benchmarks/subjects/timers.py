"""Timers that don't fire, which is what most timers do: they guard something that comes in time.

arm and cancel      100,000 timers are armed, and then all cancelled; the price of one. Timers that call a
                    function, which everybody has, and timers that are a channel, as Go and Flower have
ping-pong           of two tasklets whose receives have a timeout that never elapses; alone, and with
                    100,000 other timers pending, which must not matter
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.registry import Stopwatch, Subject

from ._peers import run_asyncio

SUBJECT = Subject("timers", "Timers that never fire", "ns", "timer or value", rounds=3)

PENDING = 100_000
FAR = 3600.0  # seconds: when the first of the pending timers would fire
CALLS = "arm and cancel 100,000, calling a function"
CHANNELS = "arm and cancel 100,000, a channel each"
NO_TIMEOUT = "ping-pong without a timeout"
ALONE = "ping-pong with a timeout"
CROWDED = "ping-pong with a timeout, 100,000 timers pending"


_pending: list[object] = []


def pend(count: int, arm: Callable[[float], object]) -> None:
    """Have so many timers pending from now on, to the end of this process."""
    if len(_pending) < count:
        _pending.extend([arm(second) for second in deadlines(count)])


def deadlines(count: int) -> list[float]:
    """Distances in no particular order, so that neither end of a heap is favoured; the same each time."""
    return [FAR + index * 7919 % count / 100 for index in range(count)]


@SUBJECT.flower(PENDING, PENDING, CALLS, repeats=1)
def flower_calls(n: int, watch: Stopwatch) -> None:
    from flower.time import after_func

    seconds = deadlines(n)
    with watch:
        timers = [after_func(second, print) for second in seconds]
        for timer in timers:
            timer.stop()


@SUBJECT.flower(PENDING, PENDING, CHANNELS, repeats=1)
def flower_channels(n: int, watch: Stopwatch) -> None:
    from flower.time import Timer

    seconds = deadlines(n)
    with watch:
        timers = [Timer(second) for second in seconds]
        for timer in timers:
            timer.stop()


@SUBJECT.by("asyncio+uvloop", PENDING, CALLS, repeats=1)
def asyncio_calls(n: int, watch: Stopwatch) -> None:
    import asyncio

    seconds = deadlines(n)

    async def main() -> None:
        call_later = asyncio.get_running_loop().call_later
        with watch:
            handles = [call_later(second, print) for second in seconds]
            for handle in handles:
                handle.cancel()

    run_asyncio(main)


@SUBJECT.by("gevent", PENDING, CALLS, repeats=1)
def gevent_calls(n: int, watch: Stopwatch) -> None:
    import gevent

    seconds = deadlines(n)
    loop = gevent.get_hub().loop
    with watch:
        timers = [loop.timer(second) for second in seconds]
        for timer in timers:
            timer.start(print)
        for timer in timers:
            timer.close()


SUBJECT.go(PENDING, CALLS, repeats=1)
SUBJECT.go(PENDING, CHANNELS, repeats=1)


def _flower_ping_pong(n: int, watch: Stopwatch, pending: int, timeout: float | None) -> None:
    import flower
    from flower.time import after_func

    pend(pending, lambda second: after_func(second, print))
    ping, pong = flower.channel(), flower.channel()
    rounds = n // 2

    def client() -> None:
        with watch:
            for i in range(rounds):
                ping.send(i)
                pong.receive(timeout=timeout)

    def server() -> None:
        for _ in range(rounds):
            pong.send(ping.receive(timeout=timeout))

    guest = flower.go(server)
    flower.go(client).join()
    guest.join()


@SUBJECT.flower(200_000, 30_000, NO_TIMEOUT)
def flower_no_timeout(n: int, watch: Stopwatch) -> None:
    _flower_ping_pong(n, watch, 0, None)


@SUBJECT.flower(200_000, 30_000, ALONE)
def flower_alone(n: int, watch: Stopwatch) -> None:
    _flower_ping_pong(n, watch, 0, FAR / 2)


@SUBJECT.flower(200_000, 30_000, CROWDED)
def flower_crowded(n: int, watch: Stopwatch) -> None:
    _flower_ping_pong(n, watch, PENDING, FAR / 2)


def _gevent_ping_pong(n: int, watch: Stopwatch, pending: int) -> None:
    import gevent
    from gevent.queue import Channel

    loop = gevent.get_hub().loop

    def arm(second: float) -> object:
        timer = loop.timer(second)
        timer.start(print)
        return timer

    pend(pending, arm)
    ping, pong = Channel(), Channel()
    rounds = n // 2

    def client() -> None:
        for i in range(rounds):
            ping.put(i)
            pong.get(timeout=FAR / 2)

    def server() -> None:
        for _ in range(rounds):
            pong.put(ping.get(timeout=FAR / 2))

    both = [gevent.spawn(client), gevent.spawn(server)]
    with watch:
        gevent.joinall(both, raise_error=True)


@SUBJECT.by("gevent", 20_000, ALONE)
def gevent_alone(n: int, watch: Stopwatch) -> None:
    _gevent_ping_pong(n, watch, 0)


@SUBJECT.by("gevent", 20_000, CROWDED)
def gevent_crowded(n: int, watch: Stopwatch) -> None:
    _gevent_ping_pong(n, watch, PENDING)


def _asyncio_ping_pong(n: int, watch: Stopwatch, pending: int) -> None:
    import asyncio

    rounds = n // 2

    async def main() -> None:
        call_later = asyncio.get_running_loop().call_later
        _pending.clear()  # they were the last loop's
        pend(pending, lambda second: call_later(second, print))
        ping: asyncio.Queue[int] = asyncio.Queue(1)
        pong: asyncio.Queue[int] = asyncio.Queue(1)

        async def client() -> None:
            for i in range(rounds):
                await ping.put(i)
                async with asyncio.timeout(FAR / 2):
                    await pong.get()

        async def server() -> None:
            for _ in range(rounds):
                async with asyncio.timeout(FAR / 2):
                    value = await ping.get()
                await pong.put(value)

        with watch:
            await asyncio.gather(client(), server())

    run_asyncio(main)


@SUBJECT.by("asyncio+uvloop", 10_000, ALONE)
def asyncio_alone(n: int, watch: Stopwatch) -> None:
    _asyncio_ping_pong(n, watch, 0)


@SUBJECT.by("asyncio+uvloop", 10_000, CROWDED)
def asyncio_crowded(n: int, watch: Stopwatch) -> None:
    _asyncio_ping_pong(n, watch, PENDING)


@SUBJECT.by("trio", 5_000, ALONE)
def trio_alone(n: int, watch: Stopwatch) -> None:
    import trio

    rounds = n // 2

    async def main() -> None:
        ping_in, ping_out = trio.open_memory_channel[int](0)
        pong_in, pong_out = trio.open_memory_channel[int](0)

        async def client() -> None:
            for i in range(rounds):
                await ping_in.send(i)
                with trio.fail_after(FAR / 2):
                    await pong_out.receive()

        async def server() -> None:
            for _ in range(rounds):
                with trio.fail_after(FAR / 2):
                    value = await ping_out.receive()
                await pong_in.send(value)

        with watch:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client)
                nursery.start_soon(server)

    trio.run(main)


SUBJECT.go(200_000, ALONE)
SUBJECT.go(200_000, CROWDED)

SUBJECT.at_most(
    "a timeout with 100,000 timers pending, in the same alone",
    ("flower", CROWDED),
    ("flower", ALONE),
    1.1,
    "extra",
)
