"""A value handed from one tasklet to another over a channel without room.

Three shapes, because the number of switches differs and a switch is most of the price:

    ping-pong               two channels, back and forth; each value costs one switch
    stream, preference 0    one channel, one way; nobody switches at a hand-over: one switch per value
    stream                  one channel, one way, as channels are by default: the receiver runs at once and
                            comes back for the next value, two switches per value
"""

from __future__ import annotations

from benchmarks.registry import PURE, Stopwatch, Subject

from ._peers import greenlet_switch, run_asyncio

SUBJECT = Subject("handover", "Unbuffered hand-over between two tasklets", "ns", "value")

PING_PONG = "ping-pong"
STREAM = "stream"
STREAM_0 = "stream, preference 0"

SUBJECT.add("greenlet", greenlet_switch, 500_000, "bare switch")


@SUBJECT.flower(400_000, 40_000, PING_PONG)
def flower_ping_pong(n: int, watch: Stopwatch) -> None:
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

    flower.go(client)
    flower.go(server)
    with watch:
        flower.run()


def _flower_stream(n: int, watch: Stopwatch, preference: int) -> None:
    import flower

    ch = flower.channel()
    ch.preference = preference

    def producer() -> None:
        for i in range(n):
            ch.send(i)

    def consumer() -> None:
        for _ in range(n):
            ch.receive()

    flower.go(producer)
    flower.go(consumer)
    with watch:
        flower.run()


@SUBJECT.flower(400_000, 40_000, STREAM_0)
def flower_stream_0(n: int, watch: Stopwatch) -> None:
    _flower_stream(n, watch, 0)


@SUBJECT.flower(250_000, 30_000, STREAM)
def flower_stream(n: int, watch: Stopwatch) -> None:
    _flower_stream(n, watch, -1)


@SUBJECT.by("gevent", 40_000, PING_PONG)
def gevent_ping_pong(n: int, watch: Stopwatch) -> None:
    import gevent
    from gevent.queue import Channel

    ping, pong = Channel(), Channel()
    rounds = n // 2

    def client() -> None:
        for i in range(rounds):
            ping.put(i)
            pong.get()

    def server() -> None:
        for _ in range(rounds):
            pong.put(ping.get())

    both = [gevent.spawn(client), gevent.spawn(server)]
    with watch:
        gevent.joinall(both, raise_error=True)


@SUBJECT.by("gevent", 40_000, STREAM)
def gevent_stream(n: int, watch: Stopwatch) -> None:
    import gevent
    from gevent.queue import Channel

    ch = Channel()

    def producer() -> None:
        for i in range(n):
            ch.put(i)

    def consumer() -> None:
        for _ in range(n):
            ch.get()

    both = [gevent.spawn(producer), gevent.spawn(consumer)]
    with watch:
        gevent.joinall(both, raise_error=True)


@SUBJECT.by("asyncio+uvloop", 20_000, PING_PONG)
def asyncio_ping_pong(n: int, watch: Stopwatch) -> None:
    """asyncio has no rendezvous; a queue of one is the nearest."""
    import asyncio

    rounds = n // 2

    async def main() -> None:
        ping: asyncio.Queue[int] = asyncio.Queue(1)
        pong: asyncio.Queue[int] = asyncio.Queue(1)

        async def client() -> None:
            for i in range(rounds):
                await ping.put(i)
                await pong.get()

        async def server() -> None:
            for _ in range(rounds):
                await pong.put(await ping.get())

        with watch:
            await asyncio.gather(client(), server())

    run_asyncio(main)


@SUBJECT.by("trio", 6_000, PING_PONG)
def trio_ping_pong(n: int, watch: Stopwatch) -> None:
    import trio

    rounds = n // 2

    async def main() -> None:
        ping_in, ping_out = trio.open_memory_channel[int](0)
        pong_in, pong_out = trio.open_memory_channel[int](0)

        async def client() -> None:
            for i in range(rounds):
                await ping_in.send(i)
                await pong_out.receive()

        async def server() -> None:
            for _ in range(rounds):
                await pong_in.send(await ping_out.receive())

        with watch:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client)
                nursery.start_soon(server)

    trio.run(main)


SUBJECT.go(1_000_000, PING_PONG)
SUBJECT.go(1_000_000, STREAM)

SWITCH = ("greenlet", "bare switch")
SUBJECT.at_most("ping-pong, in bare greenlet switches (the aim is 1.3)", ("flower", PING_PONG), SWITCH, 1.4)
SUBJECT.at_most("stream with preference 0, in bare greenlet switches", ("flower", STREAM_0), SWITCH, 1.4, "extra")
SUBJECT.faster("ping-pong, faster than gevent's", ("flower", PING_PONG), ("gevent", PING_PONG), 9)
SUBJECT.faster("ping-pong uncompiled, faster than gevent's", (PURE, PING_PONG), ("gevent", PING_PONG), 2, "extra")
