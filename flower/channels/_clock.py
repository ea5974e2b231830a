# cython: nonecheck=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""Time as channels: after, tick, never, Timer and Ticker; and sleep, idle and after_func.

Invariants
    A channel of times keeps its `Chime`, that of the last start, which refers to the channel weakly: what nobody holds
    any more does not fire. While it is to fire, and only then, ``ref`` is set, and the scheduler holds it, too.
    ``ref`` calls the chime when the channel goes: so the two hold each other, until ``ref`` is dropped.
    While one is pending, its scheduler holds it, and the garbage collector need not look.
"""

from __future__ import annotations

import math
import threading
import weakref

from flower._typing import TYPE_CHECKING, Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.channels._channel import channel
from flower.channels._forks import after_fork
from flower.channels._scheduler import current_scheduler
from flower.channels._task import check_timeout
from flower.channels._waiting import Alarm
from flower.errors import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Callable

# Held while a time is offered and while a timer is stopped: a timer may be stopped in another thread than its own,
# and then is either before the time or after it. Uncompiled it is the guard, which the hub holds already as it fires.
if cython.compiled:
    _turn: Any = threading.RLock()
else:
    from flower.channels._scheduler import here
    from flower.channels._tasklet import start_in
    from flower.channels._uncompiled import _guard as _turn
    from flower.channels._uncompiled import copy_context, track, untrack, zeroed

_weak: Any = weakref.ref


@after_fork
def _after_fork() -> None:
    """In the child: another thread of the parent may have held it."""
    if not _turn._is_owned():
        _turn._at_fork_reinit()


def _check_seconds(seconds: Any, what: str) -> float:
    """A finite number of seconds, or an error that says what it was for."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{what} needs a number of seconds, not {seconds!r}")
    if not seconds >= 0:
        raise ValueError(f"{what} needs at least 0 seconds, not {seconds!r}")
    number = check_timeout(seconds)
    return math.inf if number is None else float(number)


class Chime(Alarm):
    """Offers the time to a channel when the moment has come; and again at each ``interval``, if that is not 0."""

    scheduler: Any
    ref: Any
    interval: float
    first: float

    def __call__(self, _ref: object) -> None:
        """The channel has gone."""
        if self.ref is not None:
            self.ref = None
            track(self)
            self.scheduler.clear_alarm(self)

    def fire(self, now: float) -> object:
        """The moment has come."""
        target = None if self.ref is None else self.ref()
        if target is None:
            return None
        ch: channel[float] = target
        with _turn:
            if self.ref is None:
                return None
            if self.interval != 0.0 and not ch.closing:
                due = now - (now - self.first) % self.interval + self.interval
                self.scheduler.set_alarm(self, max(due, math.nextafter(now, math.inf)))
            else:
                self.ref = None
                track(self)
                ch._set_external(False)
            if not ch.closing:
                ch.try_send(now)
        return None

    def end(self) -> None:
        """No time will ever come, and whoever waits for it, in another thread, is to know."""
        target = None if self.ref is None else self.ref()
        self.ref = None
        track(self)
        if target is not None:
            target.close()  # first, as who waits may look in between whether anything can still wake him
            target._set_external(False)


def _time_channel(label: str, seconds: float, interval: float) -> channel[float]:
    ch: channel[float] = channel(1, label)
    _start(here(), ch, seconds, interval)
    return ch


def _start(scheduler: Any, ch: channel[float], seconds: float, interval: float) -> None:
    """Have the time offered to the channel after the seconds, and again at each interval (0: only once)."""
    if scheduler.closing:
        raise RuntimeError("the thread (before a fork: the process) that made this timer has ended: make another one")
    chime = Chime.__new__(Chime)
    chime.scheduler = scheduler
    ch._keep = chime
    if seconds == math.inf:
        return
    chime.first = scheduler.now() + seconds
    chime.interval = interval
    chime.ref = _weak(ch, chime)
    untrack(chime)
    ch._set_external(True)
    scheduler.set_alarm(chime, chime.first)


def _silence(ch: channel[float]) -> bool:
    """Stop what feeds the channel; says whether it was still to fire, or its value to be received."""
    chime = cython.cast(Chime, ch._keep)
    with _turn:
        pending = chime.ref is not None
        if pending:
            chime.ref = None
            track(chime)
            chime.scheduler.clear_alarm(chime)
            ch._set_external(False)
        try:
            return ch.try_receive() is not None or pending
        except ChannelClosed:
            return pending


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
        self.c: channel[float] = _time_channel(f"timer {seconds} s", number, 0)

    def stop(self) -> bool:
        """Keep it from firing; says whether it did: False if its value was received, or it was stopped before."""
        return _silence(self.c)

    def reset(self, seconds: float) -> bool:
        """Let it fire once, after the seconds from now; says whether it had still been to fire."""
        number = _check_seconds(seconds, "a timer")
        with _turn:  # as one, or two threads would arm it twice
            pending = self.stop()
            _start(self.c._keep.scheduler, self.c, number, 0)
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
        self.c: channel[float] = _time_channel(f"ticker {seconds} s", interval, interval)

    def stop(self) -> None:
        """Send no more ticks; one that nobody has received is dropped. The channel stays open, as in Go."""
        _silence(self.c)

    def reset(self, seconds: float) -> None:
        """Tick every so many seconds from now on. Raises as the constructor."""
        interval = _check_interval(seconds)
        with _turn:
            self.stop()
            _start(self.c._keep.scheduler, self.c, interval, interval)


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
    return _time_channel(f"after {seconds} s", number, 0)


def tick(seconds: float) -> channel[float]:
    """The channel of a Ticker that nobody needs to stop: it ends when nobody holds the channel any more.

    >>> ticks = tick(0.001)
    >>> _ = ticks.receive()
    """
    interval = _check_interval(seconds)
    return _time_channel(f"tick {seconds} s", interval, interval)


def never() -> channel[Any]:
    """A channel on which nothing ever arrives.

    >>> from flower import select
    >>> select(never(), default="nothing")[1]
    'nothing'
    """
    return channel(label="never")


def sleep(seconds: float = 0) -> None:
    """Wait for the seconds, while others run. ``sleep(0)`` lets the others run once.

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
    """Wait until all others have had their turn, and the outside (timers, connections) was looked at once."""
    scheduler = current_scheduler()
    scheduler.sleep_until(scheduler.now())


class Deferred(Alarm):
    """What ``after_func`` gives: a call that is still to be made."""

    scheduler: Any
    context: Any
    func: Any
    args: Any
    kwargs: Any

    def fire(self, now: float) -> object:
        """The moment has come."""
        track(self)
        self.scheduler.release()
        start_in(self.context, self.func, self.args, self.kwargs)
        return None

    def end(self) -> None:
        """The moment will not come any more."""
        track(self)

    def stop(self) -> bool:
        """Keep the function from being called; says whether it did: False if it has started, or was stopped before."""
        if not self.scheduler.clear_alarm(self):
            return False
        track(self)
        self.scheduler.release()
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
    return _defer(here(), number, func, args, kwargs)


def _defer(scheduler: Any, seconds: float, func: Any, args: Any, kwargs: Any) -> Deferred:
    later = Deferred.__new__(Deferred)
    later.scheduler = scheduler
    later.context = copy_context()
    later.func = func
    later.args = args
    later.kwargs = kwargs
    untrack(later)
    scheduler.hold()
    scheduler.set_alarm(later, scheduler.now() + seconds)
    return later


if not cython.compiled:
    from flower.channels import _nocython as cython  # Cython's own stand-in, if it is installed, is slow

    zeroed(Chime, Deferred)
