"""Signals as a channel of their numbers."""

from __future__ import annotations

import signal
import threading
from typing import Any

from flower.channels._channel import channel
from flower.channels._scheduler import current_scheduler

# Signals that nobody has received yet; more than this many are dropped, as the kernel does.
MOST_PENDING = 128


class _SignalChannel(channel):  # type: ignore[type-arg]
    """The channel that `signals` gives: closing it restores the handlers of before."""

    def __init__(self, signums: tuple[int, ...]) -> None:
        super().__init__(MOST_PENDING, label="signals " + " ".join(signal.Signals(n).name for n in signums))
        self._external = True
        self._scheduler = current_scheduler()
        self._before: dict[int, Any] = {}
        try:
            for signum in signums:
                self._before[signum] = signal.signal(signum, self._arrived)
        except BaseException:
            self._restore()
            raise
        self._scheduler.watches += 1

    def _arrived(self, signum: int, frame: Any) -> None:
        self._scheduler.post(lambda: self._deliver(signum))

    def _deliver(self, signum: int) -> None:
        if not self.closing:
            self.try_send(signum)

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def close(self) -> None:
        """Watch no more: the handlers of before are back. Signals that have arrived are still received."""
        if not self.closing:
            self._restore()
            self._scheduler.watches -= 1
        super().close()


def signals(*signums: int) -> channel[int]:
    """A channel on which the numbers of the given signals arrive, until it is closed.

    In the main thread only. While SIGINT is watched, Ctrl-C raises no KeyboardInterrupt. Closing the channel brings
    back the handlers of before.

    Raises ValueError outside of the main thread, for no signals, and for a number that is no signal; OSError for one
    that can't be caught.

    >>> import os, signal
    >>> usr1 = signals(signal.SIGUSR1)
    >>> os.kill(os.getpid(), signal.SIGUSR1)
    >>> usr1.receive() == signal.SIGUSR1
    True
    >>> usr1.close()
    """
    if not signums:
        raise ValueError("signals needs at least one signal to watch")
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("signals can be watched in the main thread only")
    for signum in signums:
        if isinstance(signum, bool) or not isinstance(signum, int):
            raise TypeError(f"a signal is a number, not {signum!r}")
    return _SignalChannel(tuple(signal.Signals(n) for n in signums))
