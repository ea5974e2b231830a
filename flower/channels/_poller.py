"""How a scheduler waits for the outside, and the poller that waits on a lock.

A poller is an object with four methods. The scheduler calls them on its hub; ``wake`` may be called from
any thread, and from a signal handler.

``run(turn)``
    Calls ``turn()`` again and again. It runs all tasklets that can run and returns the seconds that may pass
    until the next call: 0.0 when there is more to do after a look at the outside, ``math.inf`` when only
    ``wake`` or ``ready`` can bring news. A negative number asks ``run`` to return at once.
``ready()``
    Called in the hub's own thread, between two turns, when tasklets became runnable: ``turn`` is due, once.
``wake()``
    The same from elsewhere.
``close()``
    Called when ``run`` has returned for the last time.

A program that never touches the network needs no event loop: `ThreadPoller` waits on a lock, which other
threads release. The network's poller takes its place when the first connection is made.
"""

from __future__ import annotations

import threading

from flower._typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


# Seconds. CPython runs signal handlers between bytecodes, and when a wait is interrupted. A signal that comes after the
# last bytecode and before the wait does neither: it is noticed when the wait ends. Ten looks a second are cheap.
LONGEST_WAIT = 0.1


class Poller(Protocol):
    """What a scheduler needs of the outside. See the module's text."""

    def run(self, turn: Callable[[], float]) -> None: ...

    def ready(self) -> None: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...


class ThreadPoller:
    """Waits on a lock: for timers, for other threads, and for signal handlers."""

    def __init__(self) -> None:
        self._news = threading.Lock()
        self._news.acquire()

    def run(self, turn: Callable[[], float]) -> None:
        while (seconds := turn()) >= 0.0:
            if seconds > 0.0:
                self._news.acquire(timeout=min(seconds, LONGEST_WAIT))

    def wake(self) -> None:
        try:
            self._news.release()
        except RuntimeError:  # released already: the news is known
            pass

    ready = wake

    def close(self) -> None:
        pass
