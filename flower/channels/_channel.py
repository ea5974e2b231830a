# cython: boundscheck=False, wraparound=False
# (A channel whose subclass forgot to call __init__ has no queues: reading them is checked.)
"""The channel: a value passes from one tasklet to another, or waits in a bounded buffer between them.

Invariants
    ``held`` values are stored, at most ``limit`` of them (0: a rendezvous). A receiver waits in ``receivers``
    only when nothing is held and no sender waits; a sender waits in ``senders`` only when ``held`` has
    reached ``limit`` and no receiver waits. The one exception is a select with both ends of one channel: its
    two waiters stand in both queues, since a select never meets itself.
    While ``closing``, no receiver waits, and no sender is added.
    ``_credit`` is above 0 only where there is an ``_outlet``, and then nothing is held and no sender waits.

An operation is one attempt (`put` or `take`), which never blocks, and a wait for those that may. Whoever
completes a waiting partner takes that partner out of its queues, writes the outcome on it, and wakes it.
"""

from __future__ import annotations

import types

from flower._typing import TYPE_CHECKING, Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.channels import _scheduler
from flower.channels._bomb import bomb
from flower.channels._ends import Receiver, Sender
from flower.channels._scheduler import wake
from flower.channels._task import Task, case_channels, check_timeout, members, tasks_in, withdraw
from flower.channels._waiting import Waiter, WaitQueue
from flower.errors import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

if not cython.compiled:
    from flower.channels import _nocython as cython  # Cython's own stand-in, if it is installed, is slow
    from flower.channels import _watch
    from flower.channels._rendezvous import shorten
    from flower.channels._scheduler import here, may_park, meet, wait
    from flower.channels._task import RECEIVE, SEND
    from flower.channels._uncompiled import guarded, zeroed
    from flower.channels._waiting import NEVER
    from flower.channels._watch import announce, interposer_here

NOTHING: Any = object()
UNBOUNDED = (1 << 62) - 1
# A ring of held values starts this long, and doubles as it fills.
FIRST_RING = 8
# A drained ring longer than this is given back.
LONGEST_KEPT_RING = 1024


def check_capacity(capacity: Any) -> int:
    """The capacity as a number of values. Refuses what is none."""
    if capacity is None:
        return 0
    if isinstance(capacity, bool) or not (isinstance(capacity, int) or capacity == NEVER):
        raise TypeError(f"a channel's capacity is a whole number of values, math.inf or None, not {capacity!r}")
    if isinstance(capacity, int):
        capacity = int(capacity)  # a subclass may compare as it likes
    if capacity < 0:
        raise ValueError(f"a channel's capacity is at least 0, not {capacity!r}")
    return int(min(capacity, UNBOUNDED))


def claim(w: Waiter) -> Task:
    """Decide for this waiter: its task leaves every queue. The caller writes the outcome, then wakes the task."""
    t: Task
    if w.task is None:
        t = cython.cast(Task, w)
        t.leave()
        t.decided = True
    else:
        t = cython.cast(Task, w.task)
        t.chosen = w.index
        withdraw(t)
    return t


class channel:
    """channel(capacity=None, label="")

    A first-in first-out queue of values that joins tasklets, of one thread or of several.

    With no capacity (None or 0) it is a rendezvous: a send waits until a receiver takes the value. With a
    capacity of n it holds n values, and a send waits only while it is full; ``math.inf`` is unbounded.
    ``channel[int]`` says in an annotation what it carries. A channel is always true.

    >>> ch = channel(2, label="numbers")
    >>> ch.send(1); ch.send(2); ch.close()
    >>> list(ch)
    [1, 2]

    Raises TypeError for a capacity that is no whole number, ValueError for a negative one.
    """

    limit: int
    held: int
    head: int
    ring: Any
    senders: Any
    receivers: Any
    favour: int
    all_switch: bool
    shut: bool
    reason: Any
    label: Any
    _external: bool  # whoever waits on it waits for the outside
    _on_wait: Any  # called before somebody waits to receive
    _on_left: Any  # called when a select waits no more, for each call of that before
    _keep: Any  # something that lives as long as the channel
    _feeder: Any  # fills it from elsewhere: told by on_low(), on_close() and on_stop(reason, how many were dropped)
    _low: int  # on_low() is called when a receiver has left fewer values than this, by one; 0: never
    _outlet: Any  # takes its values elsewhere by take(value), in place of receivers; told by on_close()
    _credit: int  # how many the outlet takes now

    def __init__(self, capacity: Any = None, label: str = "") -> None:
        limit = check_capacity(capacity)
        if self.senders is not None and (self.senders.count or self.receivers.count):
            raise RuntimeError("a channel in use can't be initialised again")
        _dropped = self.ring  # until the end: its values' finalizers may use the channel
        self.limit = limit
        self.held = self.head = 0
        self.ring = None
        self.senders = WaitQueue()
        self.receivers = WaitQueue()
        self.favour = -1
        self.label = label

    # -- attempts: done now, or not at all

    @cython.final
    def put(self, value: object) -> bool:
        """Give the value to a waiting receiver, or store it. False: neither is possible."""
        t: Task
        if self.shut:
            raise self._refusal()
        if self.receivers.count:
            t = claim(cython.cast(Waiter, self.receivers.first))
            t.value = value
            if self.limit == 0:
                meet(t, 1, self.favour, self.all_switch)
            else:
                wake(t)
            return True
        if self._credit > 0:
            self._outlet.take(value)
            return True
        if self.held < self.limit:
            if self.ring is None or self.held == len(self.ring):
                self.grow()
                return self.put(value)  # to allocate may have run finalizers that use this channel
            self.store(value)
            return True
        return False

    @cython.final
    def take(self) -> object:
        """Take the oldest value, from the buffer or from a waiting sender. NOTHING: there is none."""
        t: Task
        w: Waiter
        if self.held:
            value = self.fetch()
            if self.senders.count:  # the place goes to the sender that has waited longest
                w = cython.cast(Waiter, self.senders.first)
                t = claim(w)
                self.store(w.value)
                w.value = None
                wake(t)
            if self.held + 1 == self._low:
                self._feeder.on_low()
            return value
        if self.senders.count:
            w = cython.cast(Waiter, self.senders.first)
            t = claim(w)
            value = w.value
            w.value = None
            meet(t, -1, self.favour, self.all_switch)
            return value
        if self.shut:
            raise self._refusal()
        return NOTHING

    @cython.final
    def can_put(self) -> bool:
        """Whether `put` would do something now, be it to raise."""
        return self.shut or self.receivers.count > 0 or self.held < self.limit or self._credit > 0

    @cython.final
    def can_take(self) -> bool:
        """Whether `take` would do something now, be it to raise."""
        return self.shut or self.held > 0 or self.senders.count > 0

    # -- the buffer: a ring that grows as it fills

    @cython.final
    def grow(self) -> int:
        """Make the ring longer, if it is still full when the memory is there."""
        size = FIRST_RING if self.ring is None else 2 * len(self.ring)
        longer: list[Any] = [None] * size
        ring: list[Any] = self.ring
        if ring is None:
            self.ring = longer
        elif self.held == len(ring) and len(longer) > len(ring):
            for i in range(self.held):
                longer[i] = ring[(self.head + i) & (len(ring) - 1)]
            self.head = 0
            self.ring = longer
        return 0

    @cython.final
    @cython.nonecheck(False)
    def store(self, value: object) -> int:
        """Hold the value, the newest. The caller knows that there is room, in the ring too."""
        ring: list[Any] = self.ring
        ring[(self.head + self.held) & (len(ring) - 1)] = value
        self.held += 1
        return 0

    @cython.final
    @cython.nonecheck(False)
    def fetch(self) -> object:
        """Let go of the oldest value. The caller knows that there is one."""
        ring: list[Any] = self.ring
        value = ring[self.head]
        ring[self.head] = None
        self.head = (self.head + 1) & (len(ring) - 1)
        self.held -= 1
        if self.held == 0 and len(ring) > LONGEST_KEPT_RING and self.senders.count == 0:
            self.ring = None
            self.head = 0
        return value

    # -- the public operations

    def send(self, value: Any, timeout: Any = None) -> None:
        """Send a value; it is received exactly once, or this raises.

        Blocks while no receiver waits and the buffer is full. On a rendezvous channel the receiver that was
        waiting runs at once (see ``preference``). A timeout, kill or cancellation takes the value back.

        ``timeout``: seconds, at most; None waits for good.

        Raises ChannelClosed when the channel is closed, or closed by its receiver meanwhile; Timeout.

        >>> ch = channel(1)
        >>> ch.send("a value")
        """
        if timeout is not None:
            timeout = check_timeout(timeout)
        self._deliver(value, timeout)

    @cython.final
    def _deliver(self, value: Any, timeout: float | None) -> Any:
        """`send`, for compiled callers; the timeout is checked."""
        if _watch.watched:
            hook = interposer_here()
            if hook is not None:
                hook.send(self, value, timeout)
                return None
            announce(self, 1, not self.can_put())
        if self.put(value):
            return None
        t = may_park(timeout)
        if t is None:
            t = here().prepare(timeout)
            if self.put(value):  # to prepare may have let another thread in
                return None
        t.value = value
        self.senders.append(t)
        wait(t, SEND, self._external)
        if t.error is not None:
            raise _scheduler.cold.take_error(t)
        return None

    def receive(self, timeout: Any = None) -> Any:
        """Receive the oldest value.

        Blocks while there is none. A timeout, kill or cancellation leaves the value for the next receiver.

        ``timeout``: seconds, at most; None waits for good.

        Raises ChannelClosed when the channel is closed and drained; Timeout; and what a sender sent with
        ``send_exception`` or ``send_throw``.

        >>> ch = channel(1); ch.send("a value")
        >>> ch.receive()
        'a value'
        """
        if timeout is not None:
            timeout = check_timeout(timeout)
        return self._obtain(timeout)

    @cython.final
    def _obtain(self, timeout: float | None) -> Any:
        """`receive`, for compiled callers; the timeout is checked."""
        if _watch.watched:
            hook = interposer_here()
            if hook is not None:
                return hook.receive(self, timeout)
            announce(self, -1, not self.can_take())
        value = self.take()
        if value is NOTHING:
            t = may_park(timeout)
            if t is None or self._on_wait is not None:
                t = here().prepare(timeout)
                if self._on_wait is not None:
                    self._on_wait()
                value = self.take()  # to prepare may have let another thread in
            if value is NOTHING:
                self.receivers.append(t)
                value = wait(t, RECEIVE, self._external)
                if t.error is not None:
                    raise _scheduler.cold.take_error(t)
        if isinstance(value, bomb):
            value.explode()
        return value

    def try_send(self, value: Any) -> bool:
        """Send the value if that needs no waiting; says whether it did. Raises ChannelClosed when closed.

        >>> channel().try_send("nobody waits")
        False
        """
        if _watch.watched:
            hook = interposer_here()
            if hook is not None:
                return bool(hook.try_send(self, value))
            announce(self, 1, False)
        return bool(self.put(value))

    def try_receive(self, default: Any = None) -> Any:
        """Receive a value if that needs no waiting, else give the default.

        Raises ChannelClosed when the channel is closed and drained, and what a sender sent as an exception.

        >>> channel().try_receive("nothing yet")
        'nothing yet'
        """
        if _watch.watched:
            hook = interposer_here()
            if hook is not None:
                return hook.try_receive(self, default)
            announce(self, -1, False)
        value = self.take()
        if value is NOTHING:
            return default
        if isinstance(value, bomb):
            value.explode()
        return value

    def send_exception(self, cls: type[BaseException], *args: Any) -> None:
        """Send an exception, made of the class and the arguments: it is raised at the receiver.

        Blocks as ``send`` does. Raises TypeError when the class is no exception class.
        """
        self.send(bomb.of(cls, args))

    def send_throw(self, exc: Any, val: Any = None, tb: types.TracebackType | None = None) -> None:
        """Send an exception, as a type, a value or both, with its traceback: it is raised at the receiver.

        Blocks as ``send`` does. Raises TypeError when that makes no exception.
        """
        self.send(bomb(exc, val, tb))

    def send_sequence(self, iterable: Iterable[Any]) -> int:
        """Send each value of the iterable in turn, blocking as ``send`` does; returns how many there were."""
        count = 0
        for value in iterable:
            self.send(value)
            count += 1
        return count

    def __iter__(self) -> Iterator[Any]:
        """Receive until the channel is closed and drained."""
        return self

    def __next__(self) -> Any:
        try:
            return self.receive()
        except ChannelClosed as error:
            if error.channel is self and self.shut:
                raise StopIteration from None
            raise
        except StopIteration as error:
            raise RuntimeError("a StopIteration was sent through the channel") from error

    # -- closing

    def close(self) -> None:
        """No more sends: later ones raise ChannelClosed.

        Values that are held, and those of senders that are blocked already, are still received, in order; then
        receivers get ChannelClosed, those that are blocked now included. To close twice is no error.
        """
        if _watch.watched:
            hook = interposer_here()
            if hook is not None:
                hook.close(self)
                return
        self.shut = True
        woken = WaitQueue()
        self.dismiss(self.receivers, False, woken)
        self.dismiss(self.senders, True, woken)
        self.wake_all(woken)
        if self._outlet is not None:
            self._outlet.on_close()
        if self._feeder is not None:
            self._feeder.on_close()

    def open(self) -> None:
        """Open the channel again after a close."""
        self.shut = False
        self.reason = None

    def _abandon(self, reason: Any) -> int:
        """The receiver gives up: values that are held are dropped, senders that are blocked get ChannelClosed."""
        if _watch.watched:
            hook = interposer_here()
            if hook is not None:
                hook.abandon(self, reason)
                return 0
        dropped = self.ring
        count = self.held
        self.shut = True
        self.reason = reason
        self.ring = None
        self.held = self.head = 0
        woken = WaitQueue()
        self.dismiss(self.receivers, False, woken)
        self.dismiss(self.senders, False, woken)
        self.wake_all(woken)
        del dropped
        if self._feeder is not None:
            self._feeder.on_stop(reason, count)
        return 0

    @cython.final
    def dismiss(self, queue: WaitQueue, selects_only: bool, woken: WaitQueue) -> int:
        """Decide for the queue's waiters that the channel is closed, and collect their tasks."""
        t: Task
        w = queue.head()
        while w is not None:
            after = w.after()
            if not selects_only or w.task is not None:
                while after is not None and w.task is not None and after.task is w.task:
                    after = after.after()  # the same select once more: it leaves with this one
                t = claim(w)
                t.error = self
                woken.append(t)
            w = after
        return 0

    @cython.final
    def wake_all(self, woken: WaitQueue) -> int:
        """Wake the tasks that `dismiss` has collected."""
        t: Task
        while woken.count:
            t = cython.cast(Task, woken.first)
            woken.remove(t)
            t.value = None
            wake(t)
        return 0

    def _refusal(self) -> BaseException:
        if isinstance(self.reason, BaseException):  # it is no close, but a failure: a connection that was lost
            error = _scheduler.cold.copy_error(self.reason)
            if isinstance(error, ChannelClosed):
                error.channel = self
            return error
        name = f"the channel {self.label!r}" if self.label else "the channel"
        if self.reason is not None:
            return ChannelClosed(f"{name} was closed by its receiver: {self.reason}", self, self.reason)
        return ChannelClosed(f"{name} is closed", self)

    # -- what it looks like

    @property
    def closing(self) -> bool:
        """Whether the channel has been closed; values may still be left to receive."""
        return self.shut

    @property
    def closed(self) -> bool:
        """Whether the channel is closed, and nothing is left to receive."""
        return self.shut and self.held == 0 and self.senders.count == 0

    @property
    def balance(self) -> int:
        """The number of blocked senders and held values, less the number of blocked receivers."""
        return int(self.senders.count + self.held - self.receivers.count)

    @property
    def capacity(self) -> Any:
        """How many values it holds: 0 for a rendezvous, ``math.inf`` for an unbounded channel."""
        return NEVER if self.limit == UNBOUNDED else self.limit

    @property
    def queue(self) -> Any:
        """The tasklet that has waited longest in the channel, or None."""
        w = self.senders.head() or self.receivers.head()
        if w is None:
            return None
        return w if w.task is None else w.task

    @property
    def preference(self) -> int:
        """Who runs after a rendezvous: -1 the receiver (the default), 1 the sender, 0 whoever ran before."""
        return self.favour

    @preference.setter
    def preference(self, value: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"a channel's preference is -1, 0 or 1, not {value!r}")
        if value not in (-1, 0, 1):
            raise ValueError(f"a channel's preference is -1, 0 or 1, not {value!r}")
        self.favour = value

    @property
    def schedule_all(self) -> bool:
        """Whether every rendezvous lets the next tasklet of the queue run, whatever the preference."""
        return self.all_switch

    @schedule_all.setter
    def schedule_all(self, value: bool) -> None:
        self.all_switch = bool(value)

    @property
    def sender(self) -> Sender:
        """The sending end alone, for signatures that say who does what."""
        return Sender(self)

    @property
    def receiver(self) -> Receiver:
        """The receiving end alone; closing it tells the senders that nobody wants more."""
        return Receiver(self)

    def __len__(self) -> int:
        return self.held

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        state = "closed" if self.closed else "closing" if self.shut else "open"
        name = f" {self.label!r}" if self.label else ""
        waiting = f"{self.senders.count} sending, {self.receivers.count} receiving"
        return f"<channel{name} {state}, {self.held} of {self.capacity} held, {waiting}>"

    @classmethod
    def __class_getitem__(cls, item: Any) -> Any:
        return types.GenericAlias(cls, item)

    def _set_external(self, external: bool) -> None:
        """From now on the channel is, or is not, fed from the outside: for those who wait on it already, too."""
        self._external = external
        for each in members(self.receivers):
            w = cython.cast(Waiter, each)
            t = w if w.task is None else w.task
            outside = external
            for ch in case_channels(t):
                outside = outside or ch._external
            t.sched.recount(t, outside)

    def _queues(self) -> tuple[WaitQueue, WaitQueue]:
        """Where its senders and its receivers wait, for reports."""
        return self.senders, self.receivers

    def _waiting(self) -> tuple[list[Any], list[Any]]:
        """The tasks that wait to send, and those that wait to receive, in order; a select may stand in both."""
        return tasks_in(self.senders), tasks_in(self.receivers)

    def __reduce__(self) -> Any:
        raise TypeError("a channel can't be copied or pickled: it is the place where tasklets meet")


if cython.compiled:
    add_shortcuts(  # type: ignore[name-defined]  # noqa: F821
        channel.send, channel.receive, channel.keep, channel.pick, channel._deliver, channel._obtain
    )
else:
    zeroed(channel, own="all_switch shut _external _credit")
    guarded(
        channel,
        "_set_external send _obtain try_send try_receive close open _abandon closed balance queue __repr__",
    )
    shorten(channel, bomb)
