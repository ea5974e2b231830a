"""Time as channels: after, tick, never, Timer and Ticker; and sleep, idle and after_func."""

from __future__ import annotations

import contextvars
import math
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from flower.channels._channel import channel
from flower.channels._scheduler import COMPILED, current_scheduler
from flower.channels._task import check_timeout
from flower.channels._tasklet import go
from flower.channels._waiting import Alarm
from flower.errors import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Callable


def _check_seconds(seconds: Any, what: str) -> float:
    """A finite number of seconds, or an error that says what it was for."""
    if seconds is None:
        raise TypeError(f"{what} needs a number of seconds, not None")
    number = check_timeout(seconds)
    return math.inf if number is None else float(number)


# Held while an alarm's time is offered and while one is stopped: a timer may be stopped in another thread than its own,
# and then is either before the time or after it. Uncompiled it is the guard, which the hub holds already as it fires.
if COMPILED:
    _turn: Any = threading.RLock()
else:
    from flower.channels._uncompiled import _guard as _turn
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_turn._at_fork_reinit)


class _Owner:
    """Kept by a channel: when the channel goes, its alarm goes. An alarm that is not here any more offers nothing."""

    __slots__ = ("alarm", "scheduler")

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.alarm: Any = None

    def __del__(self) -> None:
        if self.alarm is not None:
            self.scheduler.clear_alarm(self.alarm)


def _time_channel(label: str) -> channel[float]:
    ch: channel[float] = channel(1, label=label)
    ch._keep = _Owner(current_scheduler())
    return ch


def _start(ch: channel[float], seconds: float, interval: float) -> None:
    """Have the time offered to the channel after the seconds, and again at each interval (0: only once)."""
    owner = ch._keep
    scheduler = owner.scheduler
    if scheduler.closing:
        raise RuntimeError("the thread (before a fork: the process) that made this timer has ended: make another one")
    if seconds == math.inf:
        return
    ref = weakref.ref(ch)
    first = scheduler.now() + seconds

    def fire(now: float) -> None:
        target = ref()
        if target is None:
            return
        with _turn:
            owner = target._keep
            if owner.alarm is not alarm or target.closing:
                return
            if interval:
                due = now - (now - first) % interval + interval
                scheduler.set_alarm(alarm, max(due, math.nextafter(now, math.inf)))
            else:
                owner.alarm = None
                target._set_external(False)
            target.try_send(now)

    def close() -> None:  # no time will ever come, and whoever waits for it, in another thread, is to know
        target = ref()
        if target is not None:
            target._keep.alarm = None
            target._set_external(False)
            target.close()

    alarm = owner.alarm = Alarm(fire, close)
    ch._set_external(True)
    scheduler.set_alarm(alarm, first)


def _silence(ch: channel[float]) -> bool:
    """Stop the channel's alarm; says whether it was still to go off, or its value to be received."""
    owner = ch._keep
    with _turn:
        alarm, owner.alarm = owner.alarm, None
        if alarm is not None:
            owner.scheduler.clear_alarm(alarm)
            ch._set_external(False)
        try:
            return ch.try_receive() is not None or alarm is not None
        except ChannelClosed:
            return alarm is not None


class Timer:
    """Timer(seconds)

    Sends the time, once, on its channel ``c`` when the seconds have passed.

    After ``stop`` or ``reset`` no value of before is ever received. A timer whose channel nobody holds any more never
    fires. The time is that of ``time.monotonic``, in seconds.

    >>> t = Timer(60)
    >>> t.stop()
    True
    """

    def __init__(self, seconds: float) -> None:
        number = _check_seconds(seconds, "a timer")
        self.c: channel[float] = _time_channel(f"timer {seconds} s")
        _start(self.c, number, 0)

    def stop(self) -> bool:
        """Keep it from firing; says whether it did: False if its value was received, or it was stopped before."""
        return _silence(self.c)

    def reset(self, seconds: float) -> bool:
        """Let it fire once, after the seconds from now; says whether it had still been to fire."""
        number = _check_seconds(seconds, "a timer")
        pending = self.stop()
        _start(self.c, number, 0)
        return pending


class Ticker:
    """Ticker(seconds)

    Sends the time on its channel ``c`` every so many seconds, until it is stopped.

    Ticks are dropped for a receiver that is slow. A ticker whose channel nobody holds any more stops. The time
    is that of ``time.monotonic``, in seconds.

    Raises ValueError for an interval of zero or less.

    >>> ticker = Ticker(0.001)
    >>> first, second = ticker.c.receive(), ticker.c.receive()
    >>> second > first
    True
    >>> ticker.stop()
    """

    def __init__(self, seconds: float) -> None:
        interval = _check_interval(seconds)
        self.c: channel[float] = _time_channel(f"ticker {seconds} s")
        _start(self.c, interval, interval)

    def stop(self) -> None:
        """Send no more ticks; one that nobody has received is dropped. The channel stays open, as in Go."""
        _silence(self.c)

    def reset(self, seconds: float) -> None:
        """Tick every so many seconds from now on. Raises as the constructor."""
        interval = _check_interval(seconds)
        self.stop()
        _start(self.c, interval, interval)


def _check_interval(seconds: Any) -> float:
    if isinstance(seconds, (int, float)) and seconds <= 0:
        raise ValueError(f"a ticker's interval is more than 0 seconds, not {seconds!r}")
    return _check_seconds(seconds, "a ticker")


def after(seconds: float) -> channel[float]:
    """A channel on which the time arrives once, after the seconds.

    For a timeout in ``select``. A channel that nobody holds any more costs nothing further.

    Raises TypeError or ValueError for what is no number of seconds.

    >>> from flower import channel, select
    >>> ch, now = select(channel(), after(0.001))
    """
    number = _check_seconds(seconds, "after")
    ch = _time_channel(f"after {seconds} s")
    _start(ch, number, 0)
    return ch


def tick(seconds: float) -> channel[float]:
    """The channel of a Ticker that nobody needs to stop: it ends when nobody holds the channel any more.

    >>> ticks = tick(0.001)
    >>> _ = ticks.receive()
    """
    interval = _check_interval(seconds)
    ch = _time_channel(f"tick {seconds} s")
    _start(ch, interval, interval)
    return ch


def never() -> channel[Any]:
    """A channel on which nothing ever arrives.

    >>> from flower import select
    >>> select(never(), default="nothing")[1]
    'nothing'
    """
    return channel(label="never")


def sleep(seconds: float = 0) -> None:
    """Park for the seconds, while others run. ``sleep(0)`` lets the others run once.

    Raises Cancelled inside a scope that is over; TypeError or ValueError for what is no number of seconds.

    >>> sleep(0.001)
    """
    number = _check_seconds(seconds, "sleep")
    scheduler = current_scheduler()
    if number == 0:
        scheduler.pause()
    else:
        scheduler.sleep_until(scheduler.now() + number)


def idle() -> None:
    """Park until all others have had their turn, and the outside (timers, connections) was looked at once."""
    scheduler = current_scheduler()
    scheduler.sleep_until(scheduler.now())


class Deferred:
    """What ``after_func`` gives: a call that is still to be made."""

    def __init__(self, seconds: float, func: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self._scheduler = current_scheduler()
        self._context = contextvars.copy_context()
        self._call = func, args, kwargs
        self._alarm = Alarm(self._fire)
        self._scheduler.hold()
        self._scheduler.set_alarm(self._alarm, self._scheduler.now() + seconds)

    def _fire(self, now: float) -> None:
        self._scheduler.release()
        func, args, kwargs = self._call
        go(self._context.run, func, *args, **kwargs)

    def stop(self) -> bool:
        """Keep the function from being called; says whether it did: False if it has started, or was stopped before."""
        if not self._scheduler.clear_alarm(self._alarm):
            return False
        self._scheduler.release()
        return True


def after_func(seconds: float, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Deferred:
    """Call ``func(*args, **kwargs)`` in a tasklet of its own after the seconds; ``stop()`` of the result prevents it.

    ``flower.run()`` waits for it. Does not block.

    >>> from flower import run
    >>> _ = after_func(0.001, print, "later")
    >>> run()
    later
    """
    number = _check_seconds(seconds, "after_func")
    if not callable(func):
        raise TypeError(f"after_func needs a function to call, not {func!r}")
    return Deferred(number, func, args, kwargs)
