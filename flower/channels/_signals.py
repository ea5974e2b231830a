"""Signals as a channel of their numbers."""

from __future__ import annotations

import functools
import signal
import threading

from flower._typing import Any
from flower.channels._channel import channel
from flower.channels._forks import after_fork
from flower.channels._lifecycle import take_over_interrupts
from flower.channels._scheduler import current_scheduler

# Signals that nobody has received yet; more than this many are dropped, as the kernel does.
MOST_PENDING = 128

_watches: dict[int, list[_SignalChannel]] = {}
_handlers_before: dict[int, Any] = {}


class _SignalChannel(channel[int]):
    """The channel that `signals` gives. When a signal's last watch is closed, its handler of before is back."""

    def __init__(self, signums: list[int]) -> None:
        super().__init__(MOST_PENDING, label="signals " + " ".join(signal.Signals(n).name for n in signums))
        self._external = True
        take_over_interrupts()  # or Python's own handler of Ctrl-C would be the one of before, and come back
        self._scheduler = current_scheduler()
        self._scheduler.watches += 1
        self._signums: list[int] = []
        try:
            for signum in signums:
                if signum not in _watches or not _is_ours(signum):
                    _handlers_before[signum] = signal.signal(signum, self._arrived)
                _watches.setdefault(signum, []).append(self)
                self._signums.append(signum)
        except BaseException:
            self._end()
            raise

    def _arrived(self, signum: int, frame: Any) -> None:
        for watch in list(_watches.get(signum, ())):  # another thread may close one meanwhile
            watch._scheduler.post(functools.partial(watch._deliver, signum))

    def _deliver(self, signum: int) -> None:
        if not self.closing:
            self.try_send(signum)

    def _end(self) -> None:
        if self._signums is None:
            return
        signums, self._signums = self._signums, None  # type: ignore[assignment]
        for signum in signums:
            _watches[signum].remove(self)
        self._scheduler.watches -= 1
        if threading.get_ident() == self._scheduler.thread_id:
            _restore()
        else:  # handlers are the main thread's affair
            self._scheduler.post(_restore)
        self._set_external(False)

    def close(self) -> None:
        """Watch no more. Signals that have arrived are still received."""
        self._end()
        super().close()

    def _abandon(self, reason: Any) -> int:
        self._end()
        return super()._abandon(reason)


def _is_ours(signum: int) -> bool:
    """Whether the signal's handler is that of a watch: the program may have installed another since."""
    return getattr(signal.getsignal(signum), "__func__", None) is _SignalChannel._arrived


def _restore() -> None:
    """Bring back the handlers of before, of signals that nobody watches any more. One that came since stays."""
    for signum in [signum for signum, watches in _watches.items() if not watches]:
        del _watches[signum]
        handler = _handlers_before.pop(signum)
        if _is_ours(signum):
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


@after_fork
def _after_fork() -> None:
    """In the child: what the parent watched is its own affair, and a signal does here what it did before."""
    for watch in {watch for watches in _watches.values() for watch in watches}:
        watch.close()
    _restore()


def signals(*signums: int) -> channel[int]:
    """A channel on which the numbers of the given signals arrive, until it is closed.

    In the main thread only. While SIGINT is watched, Ctrl-C raises no KeyboardInterrupt. Closing the last watch of a
    signal brings back its handler of before (from another thread: when the main thread next waits), unless the program
    has installed another meanwhile. A forked child watches nothing: there the channel is closed.

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
    if threading.get_ident() != threading.main_thread().ident:
        raise ValueError("signals can be watched in the main thread only")
    for signum in signums:
        if isinstance(signum, bool) or not isinstance(signum, int):
            raise TypeError(f"a signal is a number, not {signum!r}")
    return _SignalChannel([signal.Signals(n) for n in dict.fromkeys(signums)])
