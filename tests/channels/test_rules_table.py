"""Where Stackless and Go differ: which rule holds here."""

from __future__ import annotations

from typing import Any

import pytest

import flower
from flower import ChannelClosed, Deadlock, channel, go, schedule, select

from .support import CAPACITIES, SOON, drain, in_thread, output, python, settle

over_capacities = pytest.mark.parametrize("capacity", CAPACITIES)


@pytest.mark.parametrize(("preference", "who"), [(-1, "receiver"), (0, "sender"), (1, "sender")])
def test_who_runs_after_an_unbuffered_send_meets_a_receiver(preference: int, who: str) -> None:
    ch = channel()
    ch.preference = preference
    log: list[str] = []

    def receive() -> None:
        ch.receive()
        log.append("receiver")

    t = go(receive)
    settle()
    ch.send(1)
    log.append("sender")
    settle()
    assert log[0] == who
    assert not t.alive


@pytest.mark.parametrize("preference", [-1, 0, 1])
def test_who_runs_after_an_unbuffered_receive_meets_a_sender(preference: int) -> None:
    ch = channel()
    ch.preference = preference
    log: list[str] = []

    def send() -> None:
        ch.send(1)
        log.append("sender")

    go(send)
    settle()
    ch.receive()
    log.append("receiver")
    settle()
    assert log[0] == ("sender" if preference == 1 else "receiver")


def test_receive_on_an_empty_buffered_channel_blocks() -> None:
    ch = channel(2)
    t = go(ch.receive)
    settle()
    assert t.blocked == -1
    ch.send("x")
    assert t.join() == "x"


@over_capacities
def test_close_with_blocked_senders_still_delivers_their_values_in_order(capacity: int) -> None:
    ch = channel(capacity)
    senders = [go(ch.send, i) for i in range(capacity + 3)]
    settle()
    ch.close()
    assert ch.closing and not ch.closed
    with pytest.raises(ChannelClosed):
        ch.send("late")
    with pytest.raises(ChannelClosed):
        ch.try_send("late")
    assert [ch.receive() for _ in range(capacity + 3)] == list(range(capacity + 3))
    assert ch.closing and ch.closed
    for t in senders:
        assert t.join() is None
    with pytest.raises(ChannelClosed):
        ch.receive()


@over_capacities
def test_close_with_blocked_receivers_raises_at_them(capacity: int) -> None:
    ch = channel(capacity)
    receivers = [go(ch.receive) for _ in range(3)]
    settle()
    ch.close()
    assert ch.balance == 0
    for t in receivers:
        with pytest.raises(ChannelClosed) as caught:
            t.join()
        assert caught.value.channel is ch


@over_capacities
def test_second_close_has_no_effect(capacity: int) -> None:
    ch = channel(capacity)
    for i in range(capacity):
        ch.send(i)
    ch.close()
    ch.close()
    assert drain_closed(ch) == list(range(capacity))
    ch.close()
    assert ch.closed


def drain_closed(ch: Any) -> list[Any]:
    got = []
    with pytest.raises(ChannelClosed):
        while True:
            got.append(ch.receive())
    return got


def test_channel_closed_is_a_value_error() -> None:
    ch = channel()
    ch.close()
    with pytest.raises(ValueError):
        ch.receive()
    with pytest.raises(ValueError):
        ch.send(1)


@over_capacities
def test_iteration_ends_when_closed_and_drained(capacity: int) -> None:
    ch = channel(capacity)

    def send() -> None:
        for i in range(7):
            ch.send(i)
        ch.close()

    go(send)
    assert list(ch) == list(range(7))
    assert list(ch) == []


def test_a_sent_stop_iteration_does_not_pass_for_the_end() -> None:
    """Stackless ended the loop there; here a failure is never taken for the end of the values."""
    ch = channel(2)
    ch.send(StopIteration())
    ch.close()
    assert [type(v) for v in ch] == [StopIteration]


@over_capacities
def test_open_reopens(capacity: int) -> None:
    ch = channel(capacity)
    ch.close()
    assert ch.closed
    ch.open()
    assert not ch.closing and not ch.closed
    t = go(ch.receive)
    settle()
    ch.send(1)
    assert t.join() == 1


def test_everything_asleep_is_a_deadlock_in_main() -> None:
    with pytest.raises(Deadlock) as caught:
        channel().receive()
    assert isinstance(caught.value, RuntimeError)


def test_deadlock_names_each_blocked_tasklet_its_channel_reason_and_place() -> None:
    ch, other = channel(label="orders"), channel(label="replies")

    def waits_for_orders() -> None:
        ch.receive()

    t = flower.tasklet(waits_for_orders, label="clerk")()
    u = flower.tasklet(other.send, label="porter")(1)
    with pytest.raises(Deadlock) as caught:
        select(channel(label="nobody"), flower.never())
    text = str(caught.value)
    for part in "clerk orders porter replies receive send select waits_for_orders".split() + [__file__]:
        assert part in text, f"{part!r} is missing in:\n{text}"
    assert t.blocked and u.blocked  # the report changes nothing
    t.kill()
    u.kill()


def test_an_uncaught_error_is_raised_in_main_with_a_note_that_names_the_tasklet() -> None:
    def broken() -> None:
        raise LookupError("lost")

    flower.tasklet(broken, label="finder")()
    with pytest.raises(LookupError, match="lost") as caught:
        flower.run()
    assert any("finder" in note for note in caught.value.__notes__)
    assert caught.traceback[-1].name == "broken"


def test_an_error_that_a_join_takes_is_not_raised_in_main() -> None:
    def broken() -> None:
        raise LookupError("lost")

    t = go(broken)

    def joins() -> str:
        with pytest.raises(LookupError):
            t.join()
        return "joined"

    j = go(joins)
    j.run()
    settle()
    assert j.join() == "joined"


def test_an_error_that_a_join_no_longer_waits_for_is_raised_in_main() -> None:
    ch = channel()

    def fails() -> None:
        ch.receive()
        raise LookupError("of nobody")

    t = go(fails)
    with pytest.raises(flower.Timeout):
        t.join(timeout=SOON)
    ch.send(None)
    with pytest.raises(LookupError, match="of nobody"):
        flower.run()
    with pytest.raises(LookupError, match="of nobody"):
        t.join()


def test_an_error_that_is_joined_before_it_came_up_in_main_is_not_raised_there() -> None:
    def broken(i: int) -> None:
        raise LookupError(i)

    tasklets = [go(broken, i) for i in range(3)]
    for i, t in enumerate(tasklets):
        with pytest.raises(LookupError) as caught:
            t.join()
        assert caught.value.args == (i,)
    for _ in tasklets:
        schedule()


def test_of_two_tasklets_with_the_same_error_the_one_that_nobody_joins_has_it_raised_in_main() -> None:
    error = ValueError("of both")

    def fail() -> None:
        raise error

    first = go(int)
    joined, _other = go(fail), go(fail)
    assert first.join() == 0  # main is woken before the two fail, and learns of them later
    with pytest.raises(ValueError, match="of both"):
        joined.join()
    with pytest.raises(ValueError, match="of both"):
        flower.time.sleep(0)
    flower.time.sleep(0)


def test_an_error_that_a_group_takes_is_not_raised_in_main() -> None:
    def broken() -> None:
        raise LookupError("lost")

    def grouped() -> str:
        with pytest.raises(LookupError), flower.group() as g:
            g.go(broken)
        return "caught"

    assert go(grouped).join() == "caught"


def test_main_ends_and_nothing_else_is_run() -> None:
    code = """
        import flower, flower.time
        flower.go(print, "must not be printed")
        t = flower.go(flower.channel().receive)
        print("end")
    """
    assert output(code) == "end\n"


def test_an_error_in_main_ends_the_process_though_tasklets_are_blocked() -> None:
    done = python("import flower; flower.go(flower.channel().receive); flower.schedule(); raise KeyError(1)")
    assert done.returncode == 1
    assert done.stderr.endswith("KeyError: 1\n")


@pytest.mark.parametrize("capacity", [0, 3])
def test_balance_counts_senders_and_held_values_less_receivers(capacity: int) -> None:
    ch = channel(capacity)
    assert ch.balance == 0
    senders = []
    for i in range(capacity + 2):
        senders.append(go(ch.send, i))
        settle()
        assert ch.balance == i + 1
        assert len(ch) == min(i + 1, capacity)
    assert drain(ch) == list(range(capacity + 2))
    assert ch.balance == 0
    settle()
    receivers = [go(ch.receive) for _ in range(2)]
    schedule()
    assert (ch.balance, len(ch)) == (-2, 0)
    for t in receivers:
        t.kill()
    assert ch.balance == 0


def test_a_thread_of_its_own_has_a_scheduler_of_its_own() -> None:
    main = flower.getmain()

    def other() -> None:
        assert flower.getmain() is not main
        assert flower.getcurrent() is flower.getmain()
        log: list[int] = []
        go(log.append, 1)
        flower.run()
        assert log == [1]

    in_thread(other)
    assert flower.getruncount() == 1
