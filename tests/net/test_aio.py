"""flower.aio: coroutines that use channels, and lose nothing when they are cancelled at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest

import flower
from flower import aio
from tests.net.support import NEVER, connected, in_thread, output, rounds

pytestmark = pytest.mark.usefixtures("loop")

CAPACITIES = [0, 1, 100]


def started(coroutine: Any) -> flower.tasklet:
    """A tasklet that waits for the coroutine, which has come to its first await."""
    t = flower.go(flower.wait, coroutine)
    rounds(3)
    return t


# -- Receiving and sending


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_values_through_a_coroutine(capacity: int) -> None:
    numbers, results = flower.channel(capacity), flower.channel(capacity)

    async def double() -> str:
        async for n in aio.values(numbers):
            await aio.send(results, 2 * n)
        results.close()
        return "done"

    t = flower.go(flower.wait, double())
    sender = flower.go(lambda: (numbers.send_sequence(range(50)), numbers.close()))
    assert list(results) == [2 * n for n in range(50)]
    assert t.join(NEVER) == "done"
    sender.join()


def test_what_a_coroutine_can_do_in_place_of_blocking_is_told() -> None:
    async def blocks() -> None:
        flower.channel().receive()

    async def waits() -> None:
        flower.wait(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match=r"in a coroutine, await what flower\.aio has"):
        flower.wait(blocks())
    with pytest.raises(RuntimeError, match=r"in a coroutine, await it"):
        flower.wait(waits())


def test_what_is_there_needs_no_waiting() -> None:
    ch = flower.channel(2)

    async def both() -> list[Any]:
        await aio.send(ch, "first")
        ch.send("second")  # room for it: no waiting, which a coroutine could not do
        return [await aio.receive(ch), await aio.receive(ch)]

    assert flower.wait(both()) == ["first", "second"]


def test_between_two_coroutines() -> None:
    ch: flower.channel[int] = flower.channel()

    async def meet() -> list[int]:
        async with asyncio.TaskGroup() as group:
            group.create_task(aio.send(ch, 1))
            group.create_task(aio.send(ch, 2))
            return [await aio.receive(ch), await aio.receive(ch)]

    assert flower.wait(meet()) == [1, 2]


def test_first_in_first_out() -> None:
    ch: flower.channel[int] = flower.channel()

    async def receive_all() -> list[int]:
        return list(await asyncio.gather(*(aio.receive(ch) for _ in range(20))))

    t = started(receive_all())
    ch.send_sequence(range(20))
    assert t.join(NEVER) == list(range(20))


def test_a_closed_channel() -> None:
    ch = flower.channel()

    async def receive() -> None:
        await aio.receive(ch)

    t = started(receive())
    ch.close()
    with pytest.raises(flower.ChannelClosed) as caught:
        t.join(NEVER)
    assert caught.value.channel is ch
    for attempt in receive(), aio.send(ch, 1):
        with pytest.raises(flower.ChannelClosed):
            flower.wait(attempt)


def test_an_error_that_is_sent() -> None:
    ch = flower.channel()

    async def receive() -> None:
        await aio.receive(ch)

    t = started(receive())
    ch.send_exception(KeyError, "sent")
    with pytest.raises(KeyError, match="sent"):
        t.join(NEVER)


def test_iteration_ends_with_its_own_channel_alone() -> None:
    ch = flower.channel(1)
    other = flower.channel()
    ch.send_throw(flower.ChannelClosed("another one", other))

    async def iterate(source: Any) -> list[Any]:
        return [value async for value in aio.values(source)]

    with pytest.raises(flower.ChannelClosed, match="another one"):
        flower.wait(iterate(ch))
    ch.send("last")
    ch.close()
    assert flower.wait(iterate(ch.receiver)) == ["last"]  # the end of an end of a channel, too


def test_a_connection_as_source_and_target() -> None:
    async def upper(conn: Any) -> None:
        async for data in aio.values(conn):
            await aio.send(conn, data.upper())

    with connected() as (near, far):
        t = started(upper(far))
        near.send(b"hello")
        assert near.receive(NEVER) == b"HELLO"
        near.close()
        t.join(NEVER)


def test_select() -> None:
    one, other = flower.channel(), flower.channel(1)

    async def choose() -> Any:
        found = await aio.select(one, other)
        return found[0] is other, found[1], found.index

    other.send("ready")
    assert flower.wait(choose()) == (True, "ready", 1)
    t = started(choose())
    one.send("came")
    assert t.join(NEVER) == (False, "came", 0)
    t = flower.go(one.receive)
    flower.schedule()
    assert flower.wait(aio.select((one, "sent"))).index == 0
    assert t.join() == "sent"


def test_timeouts_are_asyncio_s() -> None:
    ch = flower.channel()

    async def receive() -> None:
        async with asyncio.timeout(0.002):
            await aio.receive(ch)

    with pytest.raises(TimeoutError):
        flower.wait(receive())
    assert ch.balance == 0


# -- Functions


def test_call() -> None:
    def work(a: int, *, b: int) -> int:
        flower.time.sleep(0.001)
        return a * b

    assert flower.wait(aio.call(work, 6, b=7)) == 42


def test_call_that_fails() -> None:
    with pytest.raises(ZeroDivisionError):
        flower.wait(aio.call(lambda: 1 / 0))
    with pytest.raises(TypeError, match="needs a function"):
        flower.wait(aio.call(42))  # type: ignore[arg-type]


def test_call_that_is_cancelled() -> None:
    log = []

    def work() -> None:
        try:
            flower.channel().receive()
        except flower.Cancelled:
            log.append("cancelled")
            raise
        finally:
            with flower.shield():
                flower.time.sleep(0.001)
            log.append("cleaned up")

    t = started(aio.call(work))
    t.kill()
    with pytest.raises(flower.TaskletKilled):
        t.join(NEVER)
    assert log == ["cancelled", "cleaned up"]  # before the coroutine, and the tasklet, had their end


def test_call_whose_tasklet_is_killed() -> None:
    victims = []

    def work() -> None:
        victims.append(flower.getcurrent())
        flower.channel().receive()

    t = started(aio.call(work))
    victims[0].kill()
    with pytest.raises(flower.TaskletKilled, match="a coroutine's call was killed"):
        t.join(NEVER)


def test_call_within_a_wait_within_a_call() -> None:
    async def inner() -> str:
        return await aio.call(str, 42)

    async def outer() -> str:
        return await aio.call(flower.wait, inner())

    assert flower.wait(outer()) == "42"


def test_outside_of_flower_s_loop() -> None:
    ch = flower.channel(1)

    async def receive() -> None:
        await aio.receive(ch)

    def thread() -> str:
        with pytest.raises(RuntimeError, match=r"have flower\.wait run it"):
            asyncio.run(receive())
        return "refused"

    assert in_thread(thread)() == "refused"
    with pytest.raises(RuntimeError, match=r"have flower\.wait run it"):
        receive().send(None)


# -- Cancellation


@pytest.mark.parametrize("operation", [lambda ch: aio.receive(ch), lambda ch: aio.send(ch, "never")])
def test_a_cancelled_wait_leaves_the_channel(operation: Callable[[Any], Any]) -> None:
    ch = flower.channel()

    async def cancel() -> int:
        task = asyncio.create_task(operation(ch))
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        waiting = abs(ch.balance)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return waiting

    assert flower.wait(cancel()) == 1
    assert ch.balance == 0


def test_a_value_that_comes_before_the_cancellation_is_kept() -> None:
    ch = flower.channel()
    got: list[Any] = []

    async def receiver() -> None:
        got.append(await aio.receive(ch))
        task = asyncio.current_task()
        assert task is not None
        try:
            await asyncio.sleep(NEVER)  # here the cancellation comes
        finally:
            got.append(task.cancelling())  # which is one

    async def cancel() -> bool:
        task = asyncio.create_task(receiver())
        await asyncio.sleep(0.001)
        assert ch.try_send("value")  # the tasklet has it, and has not run yet
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert flower.wait(cancel())
    assert got == ["value", 1]


def test_a_cancellation_that_is_taken_back_does_not_strike_later() -> None:
    ch = flower.channel()

    def strike(limit: asyncio.Timeout) -> None:
        if not ch.try_send("value"):  # it does not wait yet
            asyncio.get_running_loop().call_soon(strike, limit)
            return
        limit._on_timeout()  # type: ignore[attr-defined]  # as if its timer came in this very turn of the loop

    async def receiver() -> Any:
        value = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NEVER) as limit:
                asyncio.get_running_loop().call_soon(strike, limit)
                value = await aio.receive(ch)
        await asyncio.sleep(0.002)  # nothing may strike here
        return value

    assert flower.wait(receiver()) == "value"


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_or_doubled(capacity: int, seed: int) -> None:
    """Receivers and senders are cancelled at random moments; each value arrives once, or its sender knows better."""
    ch: flower.channel[int] = flower.channel(capacity)
    dice = random.Random(seed)
    sent: list[int] = []
    received: list[int] = []

    async def sender(n: int) -> None:
        await aio.send(ch, n)
        sent.append(n)

    async def receiver() -> None:
        received.append(await aio.receive(ch))

    async def storm() -> None:
        tasks: set[asyncio.Task[None]] = set()
        for n in range(300):
            tasks.add(asyncio.create_task(sender(n) if dice.random() < 0.5 else receiver()))
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)
            if tasks and dice.random() < 0.4:
                dice.choice(sorted(tasks, key=id)).cancel()
            tasks = {task for task in tasks if not task.done()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    flower.wait(storm())
    while len(ch):
        received.append(ch.receive())
    assert sorted(received) == sorted(sent)
    assert ch.balance == 0
    assert len(sent) > 50


def test_a_coroutine_that_is_dropped() -> None:
    ch = flower.channel()

    async def begin() -> None:
        pending = aio.receive(ch)
        pending.send(None)
        pending.close()

    flower.wait(begin())
    rounds(2)
    assert ch.balance == 0


@pytest.mark.slow
def test_an_end_while_a_coroutine_waits_for_a_channel() -> None:
    code = """
        import threading, time, warnings
        import flower, flower.time
        from flower import aio
        from flower.net._loop import CLOSING_TIME

        async def waits(ch):
            try:
                await aio.receive(ch)
            finally:
                print("over")

        def body():
            flower.go(flower.wait, waits(flower.channel()))
            flower.time.idle()
            flower.time.idle()

        warnings.simplefilter("ignore", ResourceWarning)  # which says that tasklets are left
        thread = threading.Thread(target=body)
        began = time.monotonic()
        thread.start()
        thread.join()
        assert time.monotonic() - began < CLOSING_TIME
        body()
    """
    assert output(code) == "over\nover\n"


@pytest.mark.slow
def test_a_generator_that_calls_as_it_is_closed_at_the_end_keeps_nobody_waiting() -> None:
    """It waited for a tasklet, and none runs any more: neither the thread nor the program ended."""
    code = """
        import threading, warnings
        import flower, flower.time
        from flower import aio
        generators = []

        async def numbers():
            try:
                yield 1
            finally:
                try:
                    await aio.call(flower.time.sleep, 0.001)
                except BaseException as error:
                    print(type(error).__name__, flush=True)
                    raise

        async def first():
            generators.append(numbers())
            return await anext(generators[-1])

        def body():
            print(flower.wait(first()), flush=True)

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        thread.join(10)
        body()
    """
    assert output(code) == "1\nCancelledError\n" * 2
