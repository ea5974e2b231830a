# cython: nonecheck=False, boundscheck=False, wraparound=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""Where tasklets wait: in queues, and in the heap of deadlines.

Invariants
    A `Waiter` is in at most one `WaitQueue`; ``queue`` names it, and is None outside of any.
    ``first.left`` and ``last.right`` are None; ``count`` is the number of waiters that a walk meets.
    A `Timed` is in at most one `Timers`; ``slot`` is its place in the heap, 0 outside of any.

This file holds data structures only: nothing here wakes, switches, or calls back. Every operation on a
queue is O(1), and on the heap O(log n), removal from the middle included, so that a waiter that gives up
leaves at once and nothing is left to be skipped later.

The heap is the implicit binary heap of J. W. J. Williams (Algorithm 232, 1964) with each element's index
kept in the element. Its first place stays empty, so that the parent of ``i`` is ``i / 2``.
"""

from __future__ import annotations

from flower._typing import TYPE_CHECKING

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

if TYPE_CHECKING:
    from typing import Any

NEVER = float("inf")


class Timed:
    """Something with a deadline: ``when``, on the scheduler's clock, in seconds."""

    when: float
    slot: int

    def fire(self, now: float) -> object:
        """Called on the hub when the deadline has passed, already out of the heap. May not block."""
        raise NotImplementedError


class Alarm(Timed):
    """A deadline that calls a function, on the hub, with the time by the scheduler's clock.

    If the thread ends before, `end` is called instead.
    """

    call: Any

    def __init__(self, call: Any) -> None:
        self.call = call

    def fire(self, now: float) -> object:
        """Call the function, which may not block."""
        return self.call(now)

    def end(self) -> None:
        """It will never go off."""


class Waiter(Timed):
    """One place in one queue. A tasklet is its own waiter; a select has one per case, with ``task`` set.

    ``value`` is what a sender offers, or where a receiver finds what it got; in a dead tasklet, its result; in a
    paused one, its ``tempval``. ``channel``, ``sends`` and ``index``
    are a select's: which case it is.
    """

    left: Waiter | None
    right: Waiter | None
    queue: WaitQueue | None
    task: Any
    value: Any
    channel: Any
    sends: bool
    index: int

    if not cython.compiled:  # compiled, these are in the .pxd, from where each module has them inlined

        def before(self) -> Waiter | None:
            """Its neighbour towards the front, or None."""
            return self.left

        def after(self) -> Waiter | None:
            """Its neighbour towards the end, or None."""
            return self.right

        def place(self) -> WaitQueue | None:
            """The queue that it is in, or None."""
            return self.queue

        def leave(self) -> bool:
            """Take the waiter out of its queue, if it is in one; says whether it was."""
            if self.queue is None:
                return False
            self.queue.remove(self)
            return True


class WaitQueue:
    """A first-in first-out queue of waiters, linked through the waiters themselves."""

    first: Waiter | None
    last: Waiter | None
    count: int

    if not cython.compiled:  # as in Waiter

        def head(self) -> Waiter | None:
            """The first waiter, or None."""
            return self.first

        def tail(self) -> Waiter | None:
            """The last waiter, or None."""
            return self.last

        def append(self, w: Waiter) -> None:
            """Put the waiter, which is in no queue, at the end."""
            w.left = self.last
            if self.last is None:
                self.first = w
            else:
                self.last.right = w
            self.last = w
            self.join(w)

        def push(self, w: Waiter) -> None:
            """Put the waiter, which is in no queue, at the front."""
            w.right = self.first
            if self.first is None:
                self.last = w
            else:
                self.first.left = w
            self.first = w
            self.join(w)

        def join(self, w: Waiter) -> None:
            """The waiter, whose links are made, is a member."""
            w.queue = self
            self.count += 1

        def remove(self, w: Waiter) -> None:
            """Take out the waiter, which is in this queue."""
            if w.left is None:
                self.first = w.right
            else:
                w.left.right = w.right
            if w.right is None:
                self.last = w.left
            else:
                w.right.left = w.left
            w.left = w.right = w.queue = None
            self.count -= 1

        def rotate(self, w: Waiter) -> None:
            """Turn the queue, as a ring, until the waiter, which is in it, stands at the front."""
            if w.left is None:
                return
            self.last.right = self.first
            self.first.left = self.last
            self.first = w
            self.last = w.left
            w.left.right = None
            w.left = None


class Timers:
    """The deadlines of one scheduler, the earliest first."""

    heap: list[Any]

    def __init__(self) -> None:
        self.heap = [None]

    def first(self) -> Timed | None:
        """The item with the earliest deadline, or None."""
        return cython.cast(Timed, self.heap[1]) if len(self.heap) > 1 else None

    def add(self, item: Timed) -> int:
        """Put in an item whose ``when`` is set, and which is in no heap."""
        self.heap.append(item)
        self.rise(item, len(self.heap) - 1)
        return 0

    def remove(self, item: Timed) -> int:
        """Take out an item that is in this heap."""
        hole = item.slot
        item.slot = 0
        moved = cython.cast(Timed, self.heap.pop())
        if moved is not item:
            if hole > 1:
                parent = cython.cast(Timed, self.heap[hole >> 1])
                if moved.when < parent.when:
                    self.rise(moved, hole)
                    return 0
            self.sink(moved, hole)
        return 0

    def rise(self, item: Timed, slot: int) -> int:
        """Place the item at the slot or above, where it belongs."""
        heap = self.heap
        while slot > 1:
            parent = cython.cast(Timed, heap[slot >> 1])
            if parent.when <= item.when:
                break
            heap[slot] = parent
            parent.slot = slot
            slot >>= 1
        heap[slot] = item
        item.slot = slot
        return 0

    def sink(self, item: Timed, slot: int) -> int:
        """Place the item at the slot or below, where it belongs."""
        heap = self.heap
        size = len(heap)
        while True:
            down = 2 * slot
            if down >= size:
                break
            child = cython.cast(Timed, heap[down])
            if down + 1 < size:
                other = cython.cast(Timed, heap[down + 1])
                if other.when < child.when:
                    child = other
                    down += 1
            if item.when <= child.when:
                break
            heap[slot] = child
            child.slot = slot
            slot = down
        heap[slot] = item
        item.slot = slot
        return 0


if not cython.compiled:
    from flower.channels import _nocython as cython  # Cython's own stand-in, if it is installed, is slow
    from flower.channels._uncompiled import zeroed

    zeroed(Timed, Alarm, Waiter)
    zeroed(WaitQueue, own="first last count")
