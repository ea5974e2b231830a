"""What `channel.send` and `channel.receive` come to between two tasklets that talk to each other, uncompiled.

The core is made of small functions, which the compiler puts together. The interpreter does not: a call costs it as much
as all that one of them does, and a hand-over is thirty of them. So what happens most is written out here, once more and
in one piece each: who sends waits, and the next tasklet runs; who receives takes the value of one who waits. Whatever
else there is to it is for the general way. Compiled code never uses this file.

Invariant: CPython lets another thread in, and handles signals, where a function begins, after a call, and where a loop
goes round; and nowhere else, unless these very lines are traced by Python code. So what is done from one of these
places to the next is done as a whole: from the look at ``_held.depth``, which says that no other thread is at it, to
the last link no function is called, and nothing made that the collector knows (each field that is set is there).
"""

from __future__ import annotations

import functools
import sys

from flower._typing import Any
from flower.channels import _scheduler, _watch
from flower.channels._task import BLOCKED, READY, RUNNING, SEND
from flower.channels._uncompiled import _held, _here, coarse, hold
from flower.channels._waiting import NEVER


def shorten(channel: Any, bomb: Any) -> None:
    """Put these before the class's own methods, which take what is left to them."""
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return
    general_send, general_receive = channel.send, channel.receive

    @functools.wraps(general_send)
    def send(self: Any, value: Any, timeout: Any = None) -> None:
        s = _here.scheduler
        if s is None or timeout is not None or (s.attentive and coarse() > s.due):
            return general_send(self, value, timeout)  # type: ignore[no-any-return]
        queue, me, ready = self.senders, s.current, s.ready
        next = ready.first
        if (
            _held.depth
            or _watch.watched
            # nothing but to wait, by `channel.put`
            or self.receivers.first is not None
            or self.held < self.limit
            or self.shut
            or self._credit > 0
            # who may do so at once, by `may_park` and `wait`
            or me is None
            or me.alert
            or me.decided
            or me.scope is not None
            or s.traps
            or self._external
            # and another who runs then, by `Scheduler.choose` and `switch`
            or next is None
            or (carrier := next.carrier) is None  # which it is, too, where there is no hub yet
            or (next is s.main and s.gathered)
            or s.budget <= 0
            or s.chooser is not None
            or s.on_switch is not None
        ):
            return general_send(self, value, timeout)  # type: ignore[no-any-return]
        me.when = NEVER
        me.value = value
        me.left = last = queue.last
        if last is None:
            queue.first = me
        else:
            last.right = me
        queue.last = me
        me.queue = queue
        queue.count += 1
        me.state = BLOCKED
        me.blocked_in = SEND
        s.budget -= 1
        ready.first = after = next.right
        if after is None:
            ready.last = None
        else:
            after.left = None
        next.right = next.queue = None
        ready.count -= 1
        next.state = RUNNING
        s.current = next
        next = after = last = None  # who is switched away from keeps nobody else alive
        carrier.switch()
        me.decided = False  # as it runs, no other thread looks at this
        if me.outside or me.error is not None:
            see_to(s, me)
        return None

    @hold
    def see_to(s: Any, me: Any) -> None:
        if me.outside:
            s.forget_wait(me)
        if me.error is not None:
            me.value = None
            raise _scheduler.cold.take_error(me)

    @functools.wraps(general_receive)
    def receive(self: Any, timeout: Any = None) -> Any:
        here = _here.scheduler
        queue = self.senders
        if (
            timeout is not None
            or _held.depth
            or _watch.watched
            # somebody waits to send, by `channel.take`
            or self.held
            or (t := queue.first) is None
            or t.task is not None
            # nobody switches, by `meet`
            or (s := t.sched) is not here
            or s.current is None
            or s.traps
            or s.chooser is not None
            or self.all_switch
            or self.favour == 1
        ):
            return general_receive(self, timeout)
        queue.first = after = t.right
        if after is None:
            queue.last = None
        else:
            after.left = None
        queue.count -= 1
        value = t.value
        t.value = t.right = None
        t.decided = True
        t.state = READY
        queue = s.ready
        t.left = last = queue.last
        if last is None:
            queue.first = t
        else:
            last.right = t
        queue.last = t
        t.queue = queue
        queue.count += 1
        if isinstance(value, bomb):
            value.explode()
        return value

    channel.send, channel.receive = send, receive
