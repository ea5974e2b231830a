# cython: nonecheck=False, boundscheck=False, wraparound=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""select: wait on several channels at once; exactly one case happens.

It runs in three passes. (1) Look for a case that is ready, and if there are several choose one uniformly.
(2) If there is none, put one waiter per case into the channels' queues, and park. (3) Whoever completes one
of the waiters has by then taken all of them out of their queues, in O(1) each: read which one it was.

The waiters are kept on the task, so that a loop around a select allocates nothing. Between (1) and (2)
nothing runs, and the GIL (uncompiled: the guard) is held: no case can become ready unseen.
"""

from __future__ import annotations

import os

from flower._typing import Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.channels import _scheduler, _watch
from flower.channels._bomb import bomb
from flower.channels._channel import channel
from flower.channels._scheduler import Scheduler
from flower.channels._task import Task, check_timeout
from flower.channels._waiting import Waiter
from flower.errors import ChannelClosed

if cython.compiled:
    ready_selected()  # type: ignore[name-defined]  # noqa: F821  (from the .pxd)
else:
    from flower.channels import _nocython as cython  # Cython's own stand-in, if it is installed, is slow
    from flower.channels._channel import NOTHING
    from flower.channels._scheduler import here, may_park, wait
    from flower.channels._task import SELECT
    from flower.channels._uncompiled import hold
    from flower.channels._watch import announce, interposer_here

    class Selected(tuple[Any, ...]):
        """What select returns: the pair (channel, value), with the position of the case as ``index``."""

        index: int  # type: ignore[assignment]  # of the case, and not tuple's method

    def make_selected(ch: Any, value: Any, index: int) -> Any:
        result = Selected((ch, value))
        result.index = index
        return result

    def items_of(cases: Any) -> Any:
        return cases


MISSING: Any = object()

# The state of the dice: Marsaglia's 32-bit xorshift ("Xorshift RNGs", 2003), even enough for choosing among cases.
dice: int = int.from_bytes(os.urandom(4), "little") | 1
LOW_32_BITS: int = 0xFFFFFFFF


def seed_dice(number: int) -> None:
    """Make the choices among ready cases repeat those made after the same seed before; for tests."""
    global dice
    dice = (number & LOW_32_BITS) | 1


def roll(sides: int) -> int:
    """A number from 0 to sides - 1, each as likely."""
    global dice
    dice = (dice ^ (dice << 13)) & LOW_32_BITS
    dice ^= dice >> 17
    dice = (dice ^ (dice << 5)) & LOW_32_BITS
    return (dice * sides) >> 32


def select(*cases: Any, timeout: Any = None, default: Any = MISSING) -> Any:
    """select(*cases, timeout=None, default=...)

    Wait until one of several channel operations can happen, and do that one.

    A case is a channel (to receive from it) or a pair ``(channel, value)`` (to send the value). A channel's end, a
    connection or a listener stands for its channel. None instead of a channel is a case that is never ready.

    Returns ``(channel, value)`` of the one case that happened; the value is None for a send. The result's
    ``index`` is the case's position. Of several ready cases each is as likely.

    ``timeout``: seconds, at most; None waits for good. ``default``: with it select never blocks, and returns
    ``(None, default)``, index -1, when no case is ready. Blocks until a case is ready; with no case that can be, for
    good. A select that ends with an exception has received nothing and sent nothing.

    Raises ChannelClosed when a case's channel is closed (receive: and drained), or the error of a connection that
    broke, both with ``channel`` set; Timeout; what was sent as an exception; TypeError for a case of another type.

    >>> jobs, quit = channel(1), channel()
    >>> jobs.send("job")
    >>> ch, value = select(jobs, quit)
    >>> value
    'job'
    """
    if timeout is not None:
        timeout = check_timeout(timeout)
    return choose_case(items_of(cases), len(cases), timeout, default)


def choose_case(cases: Any, count: int, timeout: Any, default: Any) -> Any:
    """The three passes. Waiters are given back to the task only after a success: what failed may have left them linked
    to channels and values, which end with them."""
    s = here()
    if s.interposer is not None:
        hook = interposer_here()
        if hook is not None:
            return hook.select(tuple([cython.cast(object, cases[i]) for i in range(count)]), timeout, default)
    # A callback may look, with a default, but not wait; and the waiters of who is just leaving are none of its own.
    t = None if s.traps else s.current
    waiters = None
    if t is not None:
        waiters = t.cases
        t.cases = None  # what a callback selects meanwhile has waiters of its own
    if waiters is None or len(waiters) != count:
        waiters = [Waiter() for _ in range(count)]
    wishes = False
    for i in range(count):
        if aim(cython.cast(Waiter, waiters[i]), cython.cast(object, cases[i]), i, t):
            wishes = True
    prepared = False
    told = False
    done = False
    try:
        while True:
            w = pick_ready(s, waiters)
            if w is not None:
                result = perform(w, cases)
                if result is NOTHING:  # taken before us, by a finalizer that an allocation ran
                    continue
                done = True
                return result
            if default is not MISSING:
                done = True
                return make_selected(None, default, -1)
            if prepared or (may_park(timeout) is not None and not wishes and not _watch.watched):
                break
            if _watch.watched:
                for i in range(count):
                    tell_watcher(waiters[i], True)
            s.prepare(timeout)
            prepared = True
            if wishes:
                tell_channels(waiters, count, False)
                told = True
            # each may have let another thread in: look again
        outside = link_all(s, waiters)
        t.cases = waiters
        value = wait(t, SELECT, outside)
        t.cases = None
        if t.error is not None:
            # No name for it here: the error's traceback holds this frame, and what the cases name would stay.
            raise name_channel(t.error, _scheduler.cold.take_error(t), waiters, cases)
        i = t.chosen
        if isinstance(value, bomb):
            done = True
            explode(value, cython.cast(object, cases[i]))
        result = make_selected(named(cython.cast(object, cases[i])), value, i)
        done = True
        return result
    finally:
        if told:
            tell_channels(waiters, count, True)
        if done:
            forget(t, waiters)
        elif t is not None:
            t.cases = None


def aim(w: Waiter, case: Any, index: int, t: Task) -> bool:
    """Make the waiter stand for the case; says whether its channel wants to know of waits. Raises TypeError."""
    w.index = index
    w.task = t
    w.sends = False
    if isinstance(case, channel) or case is None:
        w.channel = case
    elif isinstance(case, tuple):
        if len(case) != 2:
            raise TypeError(f"select's case {index} is no pair (channel, value): {case!r}")
        pair = cython.cast(tuple, case)  # a subclass may index and iterate as it likes
        ch = pair[0]
        w.value = pair[1]
        w.sends = True
        if isinstance(ch, channel) or ch is None:
            w.channel = ch
        else:
            w.channel = end_of(ch, "_send_channel", index)
    else:
        w.channel = end_of(case, "_receive_channel", index)
    return not w.sends and w.channel is not None and cython.cast(channel, w.channel)._on_wait is not None


def end_of(thing: Any, attribute: str, index: int) -> channel[Any]:
    """The channel that an end, a connection or a listener stands for."""
    ch = getattr(thing, attribute, None)
    if not isinstance(ch, channel):
        what = "receive from" if attribute == "_receive_channel" else "send to"
        raise TypeError(
            f"select's case {index} is no channel to {what}, no pair (channel, value) and not None: {thing!r}"
        )
    return ch


def named(case: Any) -> Any:
    """The channel, or what stands for it, as the caller wrote it."""
    return cython.cast(tuple, case)[0] if isinstance(case, tuple) else case


def is_ready(w: Waiter) -> bool:
    """Whether the case could happen now, be it by raising."""
    if w.channel is None:
        return False
    ch = cython.cast(channel, w.channel)
    return ch.can_put() if w.sends else ch.can_take()


def pick_ready(s: Scheduler, waiters: Any) -> Any:
    """One of the ready cases, each as likely; None if there is none."""
    count = 0
    found = 0
    for i in range(len(waiters)):
        if is_ready(waiters[i]):
            count += 1
            found = i
    if count == 0:
        return None
    if count > 1:
        skip = roll(count) if s.interposer is None else s.interposer.pick(count)
        for i in range(len(waiters)):
            if is_ready(waiters[i]):
                if skip == 0:
                    found = i
                    break
                skip -= 1
    return waiters[found]


def perform(w: Waiter, cases: Any) -> Any:
    """Do the ready case. NOTHING: it is so no more."""
    if _watch.watched:
        tell_watcher(w, False)
    ch = cython.cast(channel, w.channel)
    index = w.index
    value = None
    if ch.shut and (w.sends or not (ch.held or ch.senders.count)):
        raise of_case(ch._refusal(), cython.cast(object, cases[index]))
    if w.sends:
        if not ch.put(w.value):
            return NOTHING
    else:
        value = ch.take()
        if value is NOTHING:
            return NOTHING
        if isinstance(value, bomb):
            explode(value, cython.cast(object, cases[index]))
    return make_selected(named(cython.cast(object, cases[index])), value, index)


def tell_channels(waiters: Any, count: int, left: bool) -> int:
    """Tell the first channels that somebody is about to wait for them, or has left. Where one refuses, none is told."""
    for i in range(count):
        w = cython.cast(Waiter, waiters[i])
        if w.channel is not None and not w.sends:
            ch = cython.cast(channel, w.channel)
            hook = ch._on_left if left else ch._on_wait
            if hook is not None:
                try:
                    hook()
                except BaseException:
                    if not left:
                        tell_channels(waiters, i, True)
                    raise
    return 0


def tell_watcher(w: Waiter, will_block: bool) -> int:
    """Call the channel callback for the case, if it is one."""
    if w.channel is not None:
        announce(w.channel, 1 if w.sends else -1, will_block)
    return 0


def link_all(s: Scheduler, waiters: Any) -> bool:
    """Put each case's waiter into its queue; says whether one of them waits for the outside."""
    outside = False
    for i in range(len(waiters)):
        w = cython.cast(Waiter, waiters[i])
        if w.channel is not None:
            ch = cython.cast(channel, w.channel)
            if ch._external:
                outside = True
            queue = ch.senders if w.sends else ch.receivers
            last = queue.tail()
            queue.append(w)
            if last is not None and last.task is w.task and s.interposer is None:
                mix(w)
    return outside


def mix(w: Waiter) -> int:
    """Of several like cases on one channel, the one in front is what happens: let each be there as often."""
    first = w
    count = 1
    other = w.before()
    while other is not None and other.task is w.task:
        first = other
        count += 1
        other = other.before()
    if roll(count) == 0:
        w.index, first.index = first.index, w.index
        w.value, first.value = first.value, w.value
    return 0


def name_channel(closed: object, error: BaseException, waiters: Any, cases: Any) -> BaseException:
    """The error of a select that waited, in which the channel was closed, or which has another reason.

    The waiters know whose channel that was: what is asked for one again may have another by now.
    """
    for i in range(len(waiters)):
        w = cython.cast(Waiter, waiters[i])
        if closed is not None and w.channel is closed:
            return of_case(error, cython.cast(object, cases[w.index]))
    return error


def explode(value: Any, case: object) -> int:
    """Raise what was received; if it is how a connection ended, it says which one."""
    if _scheduler.cold._attribute(value.value, "_flower_conn"):
        of_case(value.value, case)
    value.explode()
    return 0


def of_case(error: BaseException, case: object) -> BaseException:
    """The error of a channel that is closed, or of a connection that broke, with what the caller has of it."""
    thing = named(case)
    try:
        error.channel = thing  # type: ignore[attr-defined]
        if type(error) is ChannelClosed and not isinstance(thing, channel):
            error.args = (f"{error}: {thing!r}",)
    except Exception:  # an error that can't be changed, of who closed the channel; or a thing without words
        pass
    return error


def forget(t: Task, waiters: Any) -> int:
    """Let go of channels and values, and keep the waiters for the task's next select."""
    for i in range(len(waiters)):
        w = cython.cast(Waiter, waiters[i])
        w.channel = None
        w.value = None
    if t is not None:
        t.cases = waiters
    return 0


if cython.compiled:
    # Without keywords, as in nearly every call, the cases need not be put into a tuple.
    select = with_fast_path(select, MISSING, choose_case)  # type: ignore[name-defined]  # noqa: F821
else:
    choose_case = hold(choose_case)
