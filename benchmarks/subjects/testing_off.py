"""What the testing kit's hooks cost where it is not in force: nothing.

The same work on the core as it is, on the core compiled without the hooks (`benchmarks.unhooked`), and on the core as
it is, in a process where a World has been in force and is over. The work is what looks at hooks: values through a
buffered channel, a select, and a hand-over between two tasklets.
"""

from __future__ import annotations

import sys

from benchmarks import unhooked
from benchmarks.registry import Stopwatch, Subject

SUBJECT = Subject("testing_off", "Channels while the testing kit is off", "ns", "value", prepare=unhooked.build)

WITH = "with hooks"
WITHOUT = "without hooks"
OVER = "with hooks, after a World"


def work(n: int, watch: Stopwatch) -> None:
    import flower

    ch = flower.channel(64)
    other = flower.channel()
    meeting = flower.channel()
    flower.go(meeting.send_sequence, range(n // 64 * 16))
    with watch:
        for _ in range(n // 64):
            for i in range(48):
                ch.send(i)
            for _ in range(24):
                ch.receive()
            for _ in range(24):
                flower.select(other, ch)
            for _ in range(16):
                meeting.receive()


@SUBJECT.by("flower", 640_000, WITH, repeats=5)
def with_hooks(n: int, watch: Stopwatch) -> None:
    work(n, watch)


@SUBJECT.by("flower", 640_000, WITHOUT, repeats=5)
def without_hooks(n: int, watch: Stopwatch) -> None:
    folder = str(unhooked.build())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import flower

    if not flower.__file__.startswith(folder):
        raise RuntimeError(f"this is the wrong core: {flower.__file__}")
    work(n, watch)


@SUBJECT.by("flower", 640_000, OVER, repeats=5)
def after_a_world(n: int, watch: Stopwatch) -> None:
    import flower
    from flower.testing import virtual_clock

    with virtual_clock():
        flower.time.sleep(1)
    work(n, watch)


SUBJECT.at_most("the kit's hooks, off", ("flower", WITH), ("flower", WITHOUT), 1.05, "extra")
SUBJECT.at_most("the kit's hooks, after a World", ("flower", OVER), ("flower", WITHOUT), 1.05, "extra")
