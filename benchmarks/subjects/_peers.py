"""What several subjects measure Flower against."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from benchmarks.registry import Stopwatch


def greenlet_switch(n: int, watch: Stopwatch) -> None:
    """n bare switches from Python: two greenlets, a loop in each, and nothing but the switch in the loops."""
    from greenlet import getcurrent, greenlet

    def other() -> None:
        switch = here.switch
        while True:
            switch()

    here = getcurrent()
    there = greenlet(other)
    there.switch()  # started: the loop below only resumes it
    switch = there.switch
    rounds = range(n // 2)
    with watch:
        for _ in rounds:
            switch()


def run_asyncio(main: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function to its end on uvloop, which is what asyncio competes with here."""
    import uvloop

    async def call() -> None:
        await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(call())
