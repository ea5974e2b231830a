"""Helpers for tests that explore nothing: a virtual clock, parked tasklets, connection pairs, a look for leaks."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import flower
from flower.channels import _hub
from flower.channels._failures import describe
from flower.channels._scheduler import current_scheduler
from flower.net import Dial, Listen
from flower.testing._choices import Choices, Strategy
from flower.testing._findings import TaskletLeak
from flower.testing._outside import world_here
from flower.testing._world import World

MOST_TURNS = 100_000  # of the run queue, before `wait_until_parked` gives up


def virtual_clock() -> World:
    """A World for one plain schedule: time passes at once, when nobody can run.

    As in `explore`, the body of the ``with`` is watched, and what is wrong at its end is raised; but nothing is
    chosen, and nothing ever happens early.

    >>> with virtual_clock() as clock:
    ...     flower.time.sleep(3600)
    ...     clock.now
    3600.0
    """
    return World(Choices(Strategy()), early_timers=0)


def wait_until_parked(*tasklets: Any) -> None:
    """Let others run until these tasklets, or all others of this thread, are blocked or have ended.

    No time need pass for that, and none is waited for. Raises RuntimeError when they never come to rest.

    >>> ch = flower.channel()
    >>> t = flower.go(ch.receive)
    >>> wait_until_parked(t)
    >>> ch.balance
    -1
    """
    for _ in range(MOST_TURNS):
        if tasklets:
            if not any(t.alive and not t.blocked and not t.paused for t in tasklets):
                return
        elif flower.getruncount() <= 1:
            return
        flower.schedule()
    raise RuntimeError(f"the tasklets did not come to rest in {MOST_TURNS} turns of the queue")


@contextmanager
def connection_pair() -> Iterator[tuple[Any, Any]]:
    """Two ends of one connection, closed when the ``with`` block is left: in a World simulated, else a socket pair.

    >>> with connection_pair() as (near, far):
    ...     near.send(b"hello")
    ...     far.read()
    b'hello'
    """
    near = far = None
    try:
        if world_here() is not None:
            with Listen(("localhost", 0)) as listener:
                near = Dial("tcp", listener.addr())
                far = listener.receive()
        else:
            ours, theirs = socket.socketpair()
            near, far = Dial("sockpipe", ours), Dial("sockpipe", theirs)
        yield near, far
    finally:
        for conn in (near, far):
            if conn is not None:
                conn.close()


@contextmanager
def no_leaks() -> Iterator[None]:
    """Raise TaskletLeak if the body of the ``with`` leaves a tasklet behind that has begun and not ended.

    >>> with no_leaks():
    ...     flower.go(print, "done").join()
    done
    """
    before = set(_hub.begun(current_scheduler()))
    yield
    wait_until_parked()
    left = [t for t in _hub.begun(current_scheduler()) if t not in before]
    if left:
        raise TaskletLeak("left behind:\n" + "\n".join(f"  {describe(t)}" for t in left))
