"""What one scheduling decision of the testing kit costs, everything that is looked at and logged included.

Eight tasklets at four channels with room for one value, under PCT with Python's own random numbers.
"""

from __future__ import annotations

from benchmarks.registry import Stopwatch, Subject

SUBJECT = Subject("testing_decision", "A scheduling decision of the testing kit", "ns", "decision")

LIMIT = 50_000.0  # nanoseconds: 20,000 decisions a second


@SUBJECT.flower(20_000, 10_000)
def decisions(n: int, watch: Stopwatch) -> None:
    import random

    import flower
    from flower.testing import World
    from flower.testing._choices import Choices, Pct

    channels = [flower.channel(1) for _ in range(4)]
    values = n // 8  # a value is sent and received: two decisions

    def producer(ch: flower.channel[int]) -> None:
        for i in range(values):
            ch.send(i)
        ch.close()

    def consumer(ch: flower.channel[int]) -> None:
        for _ in ch:
            pass

    world = World(Choices(Pct(random.Random(1).randrange)), max_steps=100 * n)
    with watch, world:
        for ch in channels:
            world.go(producer, ch)
            world.go(consumer, ch)
        world.settle()
    made = world.choices.count
    watch.wall *= n / made
    watch.cpu *= n / made


SUBJECT.at_most("one decision", ("flower", ""), None, LIMIT, "extra")
