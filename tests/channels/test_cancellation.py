"""Every blocking point ends cleanly however and whenever it is ended: before, during, and just as it wakes.

`points` lists each blocking point once: what blocks, how it is woken, what it then gives, and how one sees
that nothing is left behind. `ends` lists each way to end it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import flower
import flower.time
from flower import Cancelled, TaskletExit, TaskletKilled, Timeout, channel, go, select

from .support import NEVER, SOON, settle, spawn_parked


class Point:
    """A blocking point, made anew for each test."""

    result: Any = None
    in_order = True  # whether wake() writes the outcome at once

    def block(self) -> Any:
        raise NotImplementedError

    def wake(self) -> None:
        raise NotImplementedError

    def check(self) -> None:
        """Nothing is left of the one that gave up."""


class Receive(Point):
    result = "value"
    capacity: float = 0

    def __init__(self) -> None:
        self.ch = channel(self.capacity)
        self.ch.preference = 0

    def block(self) -> Any:
        return self.ch.receive()

    def wake(self) -> None:
        assert self.ch.try_send("value")

    def check(self) -> None:
        assert (self.ch.balance, self.ch.queue, len(self.ch)) == (0, None, 0)


class ReceiveBuffered(Receive):
    capacity = 2


class Iterate(Receive):
    def block(self) -> Any:
        for value in self.ch:
            return value


class Send(Point):
    def __init__(self) -> None:
        self.ch = channel()
        self.ch.preference = 0

    def block(self) -> Any:
        return self.ch.send("sent")

    def wake(self) -> None:
        assert self.ch.try_receive(None) == "sent"

    def check(self) -> None:
        assert (self.ch.balance, self.ch.queue) == (0, None)
        assert self.ch.try_receive("nothing") == "nothing"


class SendBuffered(Send):
    def __init__(self) -> None:
        self.ch = channel(1)
        self.ch.send("held")

    def wake(self) -> None:
        assert self.ch.try_receive(None) == "held"

    def check(self) -> None:
        assert self.ch.balance == len(self.ch) <= 1


class SelectReceive(Receive):
    def __init__(self) -> None:
        super().__init__()
        self.other = channel()

    def block(self) -> Any:
        return select(self.other, self.ch, (self.other, 1), self.ch)[1]

    def check(self) -> None:
        super().check()
        assert (self.other.balance, self.other.queue) == (0, None)


class SelectSend(Send):
    def __init__(self) -> None:
        super().__init__()
        self.other = channel()

    def block(self) -> Any:
        return select(self.other, (self.ch, "sent"))[1]

    def check(self) -> None:
        super().check()
        assert (self.other.balance, self.other.queue) == (0, None)


class Join(Point):
    result = "value"

    def __init__(self) -> None:
        self.ch = channel()
        self.other = spawn_parked(self.ch.receive)

    def block(self) -> Any:
        return self.other.join()

    def wake(self) -> None:
        if self.other.alive:
            self.ch.send("value")  # the receiver runs at once, ends, and wakes its joiner

    def check(self) -> None:
        self.wake()
        settle()
        assert self.other.join() == "value"


class Sleep(Point):
    in_order = False

    def block(self) -> Any:
        return flower.time.sleep(NEVER)


class After(Point):
    in_order = False

    def block(self) -> Any:
        return flower.after(NEVER).receive()


class Blocking(Point):
    in_order = False

    def __init__(self) -> None:
        self.gate = threading.Event()

    def block(self) -> Any:
        return flower.blocking(self.gate.wait, NEVER)

    def check(self) -> None:
        self.gate.set()


class Group(Point):
    """Waiting for the tasklets of a group."""

    in_order = False

    def block(self) -> Any:
        with flower.group() as g:
            self.child = g.go(channel().receive)

    def check(self) -> None:
        settle()
        assert not self.child.alive


class Accept(Point):
    in_order = False

    def __init__(self) -> None:
        from flower import net

        self.listener = net.Listen(("127.0.0.1", 0), "tcp")

    def block(self) -> Any:
        return self.listener.accept()

    def check(self) -> None:
        """The next connection is accepted by the next one who asks."""
        from flower import net

        client = net.Dial("tcp", self.listener.addr())
        conn, err = self.listener.accept()
        assert err is None
        client.close()
        conn.close()
        self.listener.close()


class Read(Accept):
    def __init__(self) -> None:
        from flower import net

        super().__init__()
        self.client = net.Dial("tcp", self.listener.addr())
        self.conn, _ = self.listener.accept()

    def block(self) -> Any:
        return self.conn.read()

    def check(self) -> None:
        """No byte is lost."""
        self.client.write("after")
        assert self.conn.read() == b"after"
        self.client.close()
        self.conn.close()
        self.listener.close()


class Write(Read):
    def block(self) -> Any:
        while True:
            self.conn.write(b"x" * 65536)

    def check(self) -> None:
        """A write that was ended has taken no byte: what arrives are whole writes."""
        self.conn.close()
        size = 0
        while data := self.client.read():
            size += len(data)
        assert size > 0 and size % 65536 == 0
        self.client.close()
        self.listener.close()


POINTS: dict[str, type[Point]] = {
    "receive": Receive,
    "receive, buffered": ReceiveBuffered,
    "iterate": Iterate,
    "send": Send,
    "send, buffered": SendBuffered,
    "select, receiving": SelectReceive,
    "select, sending": SelectSend,
    "join": Join,
    "sleep": Sleep,
    "after": After,
    "blocking": Blocking,
    "group": Group,
    "accept": Accept,
    "read": Read,
    "write": Write,
}
WRITTEN_AT_ONCE = [name for name, point in POINTS.items() if point.in_order]


class Victim:
    """A tasklet at a blocking point, in a scope; what became of it is in `outcome`."""

    def __init__(self, point: Point, seconds: float = NEVER) -> None:
        self.point = point
        self.outcome: Any = None
        self.scope: Any = None
        self.later = channel()
        self.seconds = seconds
        self.tasklet = go(self.body)

    def body(self) -> None:
        with flower.move_on(self.seconds) as self.scope:
            try:
                self.outcome = ("result", self.point.block())
                self.later.receive()  # the next park
            except BaseException as e:
                self.outcome = (self.outcome, type(e)) if self.outcome else type(e)
                raise


def end_by_kill(v: Victim) -> None:
    v.tasklet.kill()


def end_by_pending_kill(v: Victim) -> None:
    v.tasklet.kill(pending=True)


def end_by_cancel(v: Victim) -> None:
    v.scope.cancel()


ENDS: dict[str, tuple[Callable[[Victim], None], type[BaseException]]] = {
    "kill": (end_by_kill, TaskletExit),
    "pending kill": (end_by_pending_kill, TaskletExit),
    "cancel": (end_by_cancel, Cancelled),
}

at_each_point = pytest.mark.parametrize("point", POINTS)
in_each_way = pytest.mark.parametrize("end", ENDS)


def wait_until_blocked(v: Victim) -> None:
    """Until it has parked where only the outside or this test can wake it."""
    settle()
    for _ in range(20):  # what is in flight (connections, bytes) arrives
        flower.time.sleep(0.001)
        settle()
    assert v.tasklet.alive and v.outcome is None


@at_each_point
@in_each_way
def test_ended_while_it_waits(point: str, end: str) -> None:
    act, error = ENDS[end]
    p = POINTS[point]()
    v = Victim(p)
    if isinstance(p, Write):
        wait_until_blocked(v)
    else:
        settle()
    assert v.tasklet.alive and v.outcome is None
    act(v)
    settle()
    assert v.outcome is error
    assert not v.tasklet.alive
    p.check()


@at_each_point
def test_ended_by_its_scopes_deadline(point: str) -> None:
    p = POINTS[point]()
    v = Victim(p, seconds=0.005)
    flower.run()
    assert v.scope.expired
    assert v.outcome is Cancelled
    assert v.tasklet.join() is None
    p.check()


@at_each_point
def test_ended_before_it_waits(point: str) -> None:
    """Its scope is cancelled already: it never parks."""
    p = POINTS[point]()
    log: list[Any] = []

    def body() -> None:
        with flower.move_on(NEVER) as scope:
            scope.cancel()
            log.append("reached")
            p.block()
            log.append("never")

    t = go(body)
    t.join()
    assert log == ["reached"]
    p.check()


@at_each_point
def test_killed_before_it_starts(point: str) -> None:
    p = POINTS[point]()
    v = Victim(p)
    v.tasklet.kill()
    settle()
    assert v.outcome is None and not v.tasklet.alive
    with pytest.raises(TaskletKilled):
        v.tasklet.join()
    if isinstance(p, Write):
        p.conn.write(b"x" * 65536)
    if not isinstance(p, Group):
        p.check()


@pytest.mark.parametrize("point", WRITTEN_AT_ONCE)
@in_each_way
def test_ended_just_as_it_wakes(point: str, end: str) -> None:
    """Its outcome is written: ending it comes too late for that, and is for its next park."""
    act, error = ENDS[end]
    p = POINTS[point]()
    v = Victim(p)
    settle()
    assert v.outcome is None
    p.wake()
    act(v)
    settle()
    assert v.outcome == (("result", p.result), error)
    assert not v.tasklet.alive and v.later.balance == 0
    p.check()


@pytest.mark.parametrize("point", WRITTEN_AT_ONCE)
@in_each_way
def test_woken_just_after_it_was_ended(point: str, end: str) -> None:
    """Ended first: what comes then is for somebody else."""
    act, error = ENDS[end]
    p = POINTS[point]()
    v = Victim(p)
    settle()
    act(v)
    if isinstance(p, Receive):
        assert p.ch.try_send("for somebody else") == (p.ch.capacity > 0)
        if p.ch.capacity:
            assert p.ch.receive() == "for somebody else"
    elif isinstance(p, SendBuffered):
        assert [p.ch.try_receive("nothing") for _ in range(2)] == ["held", "nothing"]
    elif isinstance(p, Send):
        assert p.ch.try_receive("nothing") == "nothing"
    settle()
    assert v.outcome is error
    p.check()


@at_each_point
def test_an_error_thrown_at_it_arrives_there(point: str) -> None:
    p = POINTS[point]()
    caught: list[Any] = []

    def body() -> None:
        try:
            p.block()
        except LookupError as e:
            caught.append(e.args)

    t = go(body)
    settle()
    if isinstance(p, Write):
        for _ in range(20):
            flower.time.sleep(0.001)
    assert t.alive and not caught
    t.raise_exception(LookupError, "thrown")
    settle()
    assert caught == [("thrown",)] and not t.alive
    p.check()


# -- Timeouts of the operations themselves


TIMED: dict[str, Callable[[Any, float], Any]] = {
    "receive": lambda ch, timeout: ch.receive(timeout=timeout),
    "send": lambda ch, timeout: ch.send(1, timeout=timeout),
    "select, receiving": lambda ch, timeout: select(ch, channel(), timeout=timeout),
    "select, sending": lambda ch, timeout: select((ch, 1), channel(), timeout=timeout),
    "receiver": lambda ch, timeout: ch.receiver.receive(timeout=timeout),
    "sender": lambda ch, timeout: ch.sender.send(1, timeout=timeout),
}


@pytest.mark.parametrize("operation", TIMED)
@pytest.mark.parametrize("timeout", [0, SOON])
def test_an_operations_timeout(operation: str, timeout: float) -> None:
    ch = channel()
    with pytest.raises(Timeout):
        TIMED[operation](ch, timeout)
    assert (ch.balance, ch.queue) == (0, None)
    t = go(TIMED[operation], ch, timeout)
    with pytest.raises(Timeout):
        t.join()
    assert (ch.balance, ch.queue) == (0, None)


@pytest.mark.parametrize("operation", TIMED)
def test_the_sooner_of_an_operations_timeout_and_its_scope_counts(operation: str) -> None:
    ch = channel()
    with flower.move_on(NEVER) as scope, pytest.raises(Timeout):
        TIMED[operation](ch, SOON)
    assert not scope.expired
    with flower.move_on(SOON) as scope:
        TIMED[operation](ch, NEVER)
    assert scope.expired
    assert ch.balance == 0


def test_a_kill_is_not_lost_on_what_is_thrown_after_it() -> None:
    ch, caught = channel(), []

    def catches() -> None:
        while len(caught) < 3:
            try:
                ch.receive()
            except LookupError as error:
                caught.append(error.args[0])

    t = spawn_parked(catches)
    t.throw(LookupError, "first", pending=True)
    t.kill(pending=True)
    t.throw(LookupError, "second", pending=True)
    with pytest.raises(TaskletKilled):
        t.join(NEVER)
    assert caught == ["first"]
