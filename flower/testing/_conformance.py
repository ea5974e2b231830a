"""The rules of channels and connections, as tests that can be run on other implementations of them.

A suite is a class to inherit from: give it a name that pytest finds, and say how to make the thing that is tested.
Its methods need no pytest. They run in the thread's own scheduler, or in a `World`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import flower
from flower.errors import ChannelClosed, Timeout
from flower.testing._plain import wait_until_parked

NOTHING: Any = object()
SOON = 0.01  # seconds, after which a wait is given up that can't succeed
NEVER = 30.0  # seconds, a limit that a passing test does not come to


def raises(kind: type[BaseException], call: Callable[..., Any], *args: Any, **kwargs: Any) -> BaseException:
    """The exception, of this kind, that the call raises."""
    try:
        result = call(*args, **kwargs)
    except kind as error:
        return error
    raise AssertionError(f"it was to raise {kind.__name__}, and gave {result!r}")


class ChannelConformance:
    """What every channel must do. Inherit, and give ``make(capacity)``, which makes an open, empty one.

    >>> class TestMyChannel(ChannelConformance):
    ...     def make(self, capacity):
    ...         return MyChannel(capacity)
    """

    def make(self, capacity: int) -> Any:
        """A new channel of the capacity; 0 is a rendezvous."""
        raise NotImplementedError("say how to make a channel: def make(self, capacity)")

    def test_values_arrive_in_order_and_once(self) -> None:
        for capacity in (0, 1, 3):
            ch = self.make(capacity)
            t = flower.go(lambda ch=ch: [ch.send(n) for n in range(10)])
            assert [ch.receive() for _ in range(10)] == list(range(10))
            t.join()

    def test_it_holds_as_much_as_its_capacity(self) -> None:
        for capacity in (0, 1, 3):
            ch = self.make(capacity)
            taken = 0
            while ch.try_send(taken):
                taken += 1
                assert taken <= capacity
            assert taken == len(ch) == ch.balance == capacity == ch.capacity

    def test_a_send_without_room_waits(self) -> None:
        for capacity in (0, 2):
            ch = self.make(capacity)
            t = flower.go(lambda ch=ch, n=capacity: [ch.send(n) for n in range(n + 1)])
            wait_until_parked(t)
            assert t.blocked and ch.balance == capacity + 1
            assert [ch.receive() for _ in range(capacity + 1)] == list(range(capacity + 1))
            t.join()

    def test_a_receive_without_a_value_waits(self) -> None:
        for capacity in (0, 2):
            ch = self.make(capacity)
            t = flower.go(ch.receive)
            wait_until_parked(t)
            assert t.blocked and ch.balance == -1
            ch.send("value")
            assert t.join() == "value"

    def test_waiters_are_served_in_order(self) -> None:
        for capacity in (0, 1):
            ch = self.make(capacity)
            got: list[Any] = []
            for n in range(3):
                wait_until_parked(flower.go(lambda ch=ch, n=n, got=got: got.append((n, ch.receive()))))
            for n in range(3):
                ch.send(n)
            wait_until_parked()
            assert sorted(got) == [(0, 0), (1, 1), (2, 2)]

    def test_a_timeout_takes_and_leaves_nothing(self) -> None:
        for capacity in (0, 1):
            ch = self.make(capacity)
            raises(Timeout, ch.receive, timeout=SOON)
            assert ch.balance == 0
            for n in range(capacity):
                ch.send(n)
            raises(Timeout, ch.send, "late", timeout=SOON)
            assert ch.balance == capacity
            assert [ch.try_receive(NOTHING) for _ in range(capacity + 1)] == [*range(capacity), NOTHING]

    def test_what_need_not_wait_succeeds_at_timeout_0(self) -> None:
        ch = self.make(1)
        ch.send("value", timeout=0)
        assert ch.receive(timeout=0) == "value"
        raises(Timeout, ch.receive, timeout=0)

    def test_a_killed_waiter_is_gone(self) -> None:
        for capacity in (0, 1):
            ch = self.make(capacity)
            t = flower.go(ch.receive)
            wait_until_parked(t)
            t.kill()
            assert not t.alive and ch.balance == 0

    def test_close_lets_what_was_sent_arrive(self) -> None:
        for capacity in (0, 2):
            ch = self.make(capacity)
            t = flower.go(lambda ch=ch, n=capacity: [ch.send(n) for n in range(n + 1)])
            wait_until_parked(t)
            ch.close()
            assert list(ch) == list(range(capacity + 1))
            t.join()
            assert ch.closed

    def test_close_wakes_all_who_wait_to_receive(self) -> None:
        ch = self.make(0)
        waiting = [flower.go(raises, ChannelClosed, ch.receive) for _ in range(3)]
        wait_until_parked(*waiting)
        ch.close()
        for t in waiting:
            t.join()

    def test_a_closed_channel_refuses(self) -> None:
        ch = self.make(1)
        ch.close()
        ch.close()
        for call in (lambda: ch.send(1), ch.receive, lambda: ch.try_send(1), ch.try_receive):
            raises(ChannelClosed, call)
        raises(ChannelClosed, flower.select, ch)
        raises(ChannelClosed, flower.select, (ch, 1), default=None)

    def test_select_takes_one_case_and_leaves_the_rest(self) -> None:
        ready, other = self.make(1), self.make(0)
        ready.send("value")
        source, value = flower.select(other, ready, timeout=NEVER)
        assert (source, value) == (ready, "value")
        assert other.balance == 0 and flower.select(ready, other, default="none")[1] == "none"

    def test_select_waits_on_both_kinds_of_case(self) -> None:
        inbox, outbox = self.make(0), self.make(0)
        t = flower.go(flower.select, inbox, (outbox, "offer"))
        wait_until_parked(t)
        assert outbox.receive() == "offer"
        assert t.join().index == 1
        assert inbox.balance == outbox.balance == 0

    def test_an_exception_that_is_sent_is_raised_at_the_receiver(self) -> None:
        ch = self.make(1)
        ch.send_exception(LookupError, "lost")
        assert str(raises(LookupError, ch.receive)) == "lost"

    def test_it_is_always_true(self) -> None:
        ch = self.make(0)
        ch.close()
        assert ch


class ConnectionConformance:
    """What every stream connection must do. Inherit, and give ``connected()``: a context with the two ends.

    >>> class TestMyConnection(ConnectionConformance):
    ...     def connected(self):
    ...         return connection_pair()
    """

    def connected(self) -> AbstractContextManager[tuple[Any, Any]]:
        """A context manager that gives both ends of a new connection, and closes them."""
        raise NotImplementedError("say how to connect: def connected(self)")

    def test_bytes_arrive_in_order(self) -> None:
        with self.connected() as (near, far):
            for word in (b"one ", b"two ", b"three"):
                near.send(word)
            near.close()
            assert b"".join(far) == b"one two three"

    def test_both_ways_at_once(self) -> None:
        with self.connected() as (near, far):
            near.send(b"ping")
            far.send(b"pong")
            assert near.read_exactly(4) == b"pong"
            assert far.read_exactly(4) == b"ping"

    def test_large_data(self) -> None:
        data = bytes(range(256)) * 2048
        with self.connected() as (near, far):

            def send() -> None:
                for at in range(0, len(data), 10_000):
                    near.send(data[at : at + 10_000])
                near.close()

            t = flower.go(send)
            assert b"".join(far) == data
            t.join()

    def test_the_end_is_told_from_a_reset(self) -> None:
        with self.connected() as (near, far):
            near.close()
            assert far.read(timeout=NEVER) == b"" == far.read()
            raises(ChannelClosed, far.receive)
        with self.connected() as (near, far):
            near.send(b"x")
            assert far.read(timeout=NEVER) == b"x"

    def test_half_a_close(self) -> None:
        with self.connected() as (near, far):
            near.send(b"question")
            near.close_write()
            assert b"".join(far) == b"question"
            far.send(b"answer")
            far.close()
            assert b"".join(near) == b"answer"

    def test_reads_that_cut(self) -> None:
        with self.connected() as (near, far):
            near.send(b"line\n1234rest")
            assert far.read_until(b"\n") == b"line\n"
            assert far.read_exactly(4) == b"1234"
            near.close()
            assert b"".join(far) == b"rest"

    def test_a_timeout_loses_no_byte(self) -> None:
        with self.connected() as (near, far):
            near.send(b"123")
            raises(Timeout, far.read_exactly, 4, timeout=SOON)
            near.send(b"4")
            assert far.read_exactly(4, timeout=NEVER) == b"1234"

    def test_closed_here(self) -> None:
        with self.connected() as (near, far):
            t = flower.go(raises, ChannelClosed, near.receive)
            wait_until_parked(t)
            near.close()
            t.join()
            raises(ChannelClosed, near.send, b"x")
            near.close()
            assert near.status == "closed" and far

    def test_in_a_select(self) -> None:
        with self.connected() as (near, far):
            near.send(b"x")
            source, data = flower.select(flower.never(), far, timeout=NEVER)
            assert (source, data) == (far, b"x")
            raises(Timeout, flower.select, far, timeout=SOON)

    def test_who_is_refused(self) -> None:
        with self.connected() as (near, _far):
            raises(TypeError, near.send, "text")
            raises(ValueError, near.read, timeout=-1)
