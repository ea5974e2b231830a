"""Time: Ticker, Timer, sleep, after_func, and idle. See also `flower.after` and `flower.tick`."""

from __future__ import annotations

from flower.channels._clock import Ticker, Timer, after_func, idle, sleep

__all__ = ["Ticker", "Timer", "after_func", "idle", "sleep"]
