"""When tasklets run in an event loop: their turns, and the timer for the next one.

Invariants

- Tasklets run in `Turns._on_turn` alone, a callback of the loop: at most one is queued (``_due``),
  however many callbacks made tasklets runnable. Callbacks put into channels and never switch. After sockets were
  served it is called at once: the loop's queue and its next round cost as much as all else that a message costs, and
  more than the copy of the hub's stack that a switch to main takes, though libuv has 12 KiB more on it there.
- When nothing is left to do after that, and the loop has no ``guests`` who may want to do something, the sockets are
  asked for a moment longer (`Sockets.linger`); after LINGERING the loop has a round of its own, in which nobody
  lingers but `_linger_on`, which is then queued (``_again``). What the tasklets do counts, too: all else waits for it.
- Tasklets see no running loop: ``asyncio`` is told so before the turn, so that libraries don't take their code for a
  coroutine's. After it, asyncio is told that the loop runs if it has ``guests``: what runs in it is not Flower's alone.
  (It is not told at each turn, as it asks the system for the process's number each time.)
- At most one timer is armed (``_armed`` is when it fires). A deadline that moved further away leaves it
  alone.
- What the loop was asked for is noted afterwards: where that is Python code, a signal handler may have raised in it.
"""

from __future__ import annotations

import contextvars
import math
import time
from collections.abc import Callable
from typing import Any

from flower.channels._delivery import interrupt_main

TIMER_GRAIN = 0.001  # seconds: libuv counts whole milliseconds; a shorter wait is rounded up to one
NEVER = math.inf
LINGERING = 0.00025  # seconds of rounds that were lingered for, one after the other: then the loop has one
LONGEST_SLEEP = 86_400.0  # seconds: one timer waits at most this long, and is then armed again


class Turns:
    """What of a `LoopPoller` runs again and again."""

    def __init__(self, loop: Any, scheduler: Any, set_running_loop: Callable[[Any], object]) -> None:
        self.loop = loop
        self.scheduler = scheduler
        self._set_running_loop = set_running_loop
        self.context = contextvars.Context()  # one for all callbacks: it costs less than a copy for each
        self.gathered: list[Any] = scheduler.gathered  # streams with something to let out at the end of the turn
        self._turn: Callable[[], float] | None = None
        self._due = False  # _on_turn is in the loop's queue, or
        self._serving = False  # comes when sockets have been served
        self._sockets: Any = None
        self._again: Any = None  # the handle of _linger_on, where that is in the loop's queue
        self._leaving = False
        self.guests = False
        self._hidden = False  # asyncio was told that the loop does not run
        self._failure: BaseException | None = None
        self._timer: Any = None
        self._armed = NEVER

    def ready(self) -> None:
        if not self._due:
            if not self._serving:
                self.loop.call_soon(self._on_turn, context=self.context)
            self._due = True

    def wake(self) -> None:
        if not self._due:
            self._due = True
            if self._sockets is not None:
                self._sockets.wanted = True
            try:
                self.loop.call_soon_threadsafe(self._on_turn, context=self.context)
            except RecursionError:
                self._due = False
                raise
            except RuntimeError:  # closed meanwhile: there is nobody left to wake
                pass

    def _on_sockets(self) -> None:
        """Read and write, and then run the tasklets, without the way through the loop's queue; and linger for more."""
        until = time.monotonic() + LINGERING
        more = True
        while more and (self._turn is None or not self._leaving):  # without a turn the loop runs for the last bytes
            self._serving = not self._due
            try:
                more = self._sockets.serve()
            except BaseException:  # a signal handler's
                self._due = self._due and not self._serving
                self._serving = False
                self.ready()
                raise
            if self._serving:
                self._serving = False
                if self._due:
                    self._on_turn()
            if more or self._due or self.guests or self._leaving or self._turn is None or self._again is not None:
                continue
            if time.monotonic() < until:
                more = self._sockets.linger()
            else:
                self._again = self.loop.call_soon(self._linger_on, context=self.context)

    def _linger_on(self) -> None:
        if self._again is not None:  # this, or another where a signal handler came before it was noted
            self._again.cancel()
            self._again = None
        self._on_sockets()

    def _on_turn(self) -> None:
        """Run tasklets, and see to it that the next turn comes when it should."""
        self._due = False
        turn = self._turn
        if turn is None:  # queued by a wake while the hub was outside: run() asks for a turn of its own
            return
        if not self._hidden:
            self._hidden = True
            self._set_running_loop(None)
        try:
            delay = turn()
        except KeyboardInterrupt:  # of a signal handler that ran between two tasklets
            interrupt_main(self.scheduler)
            delay = 0.0
        except BaseException as error:  # the scheduler's own failure: nothing here may swallow it
            self._failure = error
            delay = -1.0
        finally:
            if self.guests:
                self.show()
        if self.gathered:
            self.let_out()
        if delay == 0.0:
            self.ready()
        elif delay < 0.0:
            self._leaving = True
            self.loop.stop()
        elif delay != NEVER:
            self._arm(delay)

    def show(self) -> None:
        """Have asyncio know that the loop runs, where it was told otherwise."""
        if self._hidden:
            self._hidden = False
            self._set_running_loop(self.loop)

    def let_out(self) -> None:
        """Have what was written in this turn leave."""
        while self.gathered:
            self.gathered[0].end_turn()
            del self.gathered[0]  # a signal handler may have come in between, and raised, or put one more at the end

    def _arm(self, delay: float) -> None:
        delay = min(delay, LONGEST_SLEEP)
        when = time.monotonic() + delay
        if when >= self._armed:
            return  # the timer fires before that, and the turn that follows arms it again
        self._cancel_timer()
        rounded = math.ceil(delay / TIMER_GRAIN) * TIMER_GRAIN
        self._timer = self.loop.call_later(rounded, self._on_timer, context=self.context)
        self._armed = when

    def _on_timer(self) -> None:
        self._timer = None
        self._armed = NEVER
        self.ready()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._armed = NEVER
