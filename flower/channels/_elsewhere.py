# cython: boundscheck=False, wraparound=False, nonecheck=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""A channel that goes on elsewhere, in a connection or at another node: what its *outlet* and its *feeder* do with it.

The outlet takes the values that are sent, as far as the channel's ``_credit`` goes; the feeder puts in those that came.
"""

from __future__ import annotations

from flower._typing import Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.channels._task import Task
from flower.channels._waiting import Waiter

if not cython.compiled:
    from flower.channels._channel import FIRST_RING, claim
    from flower.channels._scheduler import wake
    from flower.channels._uncompiled import hold


def pump(ch: Any) -> int:
    """Hand the outlet what is held, then what blocked senders offer, for as long as it has credit.

    What it raises is raised at the sender; for a value that was held, whose sender has gone, it raises nothing.
    """
    t: Task
    while ch._credit > 0:
        if ch.held:
            ch._outlet.take(ch.take())
            continue
        if ch.senders.count == 0:
            if ch._on_wait is not None:
                ch._on_wait()
            return 0
        w = cython.cast(Waiter, ch.senders.first)
        t = claim(w)
        value = w.value
        w.value = None
        try:
            ch._outlet.take(value)
        except BaseException as error:
            t.error = error
        wake(t)
    return 0


def overfill(ch: Any, value: Any) -> int:
    """As `channel.send`, but where that would wait, hold the value, be it one more than the channel may."""
    if not ch.put(value):
        while ch.ring is None or ch.held == len(ch.ring):
            ch.grow()
        ch.store(value)
    return 0


def put_back(ch: Any, values: list[Any]) -> int:
    """Make these the oldest of the held values, be they more than it may hold. Receivers that wait get them."""
    t: Task
    size = FIRST_RING
    while size < len(values) + ch.held:
        size *= 2
    ring: list[Any] = [None] * size
    if size < len(values) + ch.held:  # to allocate may have run finalizers that use this channel
        return put_back(ch, values)
    count = len(values)
    for i in range(count):
        ring[i] = values[i]
    while ch.held:
        ring[count] = ch.fetch()
        count += 1
    ch.held = count
    ch.head = 0
    ch.ring = ring
    while ch.held and ch.receivers.count:
        t = claim(cython.cast(Waiter, ch.receivers.first))
        t.value = ch.fetch()
        wake(t)
    return 0


def pour(source: Any, target: Any) -> int:
    """Let the one hold, before its own, what the other did."""
    values: list[Any] = []
    while source.held:
        values.append(source.fetch())
    return put_back(target, values)


if not cython.compiled:
    from flower.channels import _nocython as cython  # Cython's own stand-in, if it is installed, is slow

    pump, overfill, put_back, pour = hold(pump), hold(overfill), hold(put_back), hold(pour)
