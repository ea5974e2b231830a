"""What the testing kit costs where it is not in force: nothing.

The same work in a process that has never heard of `flower.testing`, and in one where a World has been in force and is
over: one value through a buffered channel, and one through a select.
"""

from __future__ import annotations

from benchmarks.registry import Stopwatch, Subject

SUBJECT = Subject("testing_off", "Channels while the testing kit is off", "ns", "value")

NEVER = "kit never loaded"
OVER = "after a World"


def work(n: int, watch: Stopwatch) -> None:
    import flower

    ch = flower.channel(64)
    other = flower.channel()
    with watch:
        for _ in range(n // 64):
            for i in range(64):
                ch.send(i)
            for _ in range(32):
                ch.receive()
            for _ in range(32):
                flower.select(other, ch)


@SUBJECT.by("flower", 640_000, NEVER, repeats=5)
def never_loaded(n: int, watch: Stopwatch) -> None:
    work(n, watch)


@SUBJECT.by("flower", 640_000, OVER, repeats=5)
def after_a_world(n: int, watch: Stopwatch) -> None:
    import flower
    from flower.testing import virtual_clock

    with virtual_clock():
        flower.time.sleep(1)
    work(n, watch)


SUBJECT.at_most("the kit, off", ("flower", OVER), ("flower", NEVER), 1.05, "extra")
