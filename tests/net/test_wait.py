"""flower.wait: coroutines run from tasklets, ended in every way there is."""

from __future__ import annotations

import asyncio
import contextvars
import traceback
from typing import Any

import pytest

import flower
from tests.net.support import NEVER, in_thread, output, rounds, until

pytestmark = pytest.mark.usefixtures("loop")

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Log(list[str]):
    """What a coroutine went through."""

    async def forever(self) -> None:
        self.append("begun")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.append("cancelled")
            await asyncio.sleep(0)
            self.append("cleaned up")
            raise


async def value(result: Any) -> Any:
    await asyncio.sleep(0)
    return result


async def fail(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


def test_a_result() -> None:
    assert flower.wait(value(42)) == 42
    assert flower.go(flower.wait, value("in a tasklet")).join() == "in a tasklet"


def test_what_needs_no_waiting() -> None:
    async def at_once() -> int:
        return 1

    assert flower.wait(at_once()) == 1


def test_only_the_caller_waits() -> None:
    order = []

    async def slow() -> None:
        order.append("coroutine begins")
        while len(order) < 4:
            await asyncio.sleep(0)
        order.append("coroutine ends")

    t = flower.go(flower.wait, slow())
    for n in range(3):
        rounds(1)
        order.append(str(n))
    t.join(NEVER)
    assert order == ["coroutine begins", "0", "1", "2", "coroutine ends"]


def test_many_at_a_time() -> None:
    tasklets = [flower.go(flower.wait, value(n)) for n in range(100)]
    assert [t.join(NEVER) for t in tasklets] == list(range(100))


def test_anything_that_can_be_awaited() -> None:
    class Delayed:
        def __await__(self) -> Any:
            return (yield from value("delayed").__await__())

    async def futures() -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, "future")
        return future, loop.create_task(value("task"))

    future, task = flower.wait(futures())
    assert flower.wait(Delayed()) == "delayed"
    assert flower.wait(future) == "future"
    assert flower.wait(task) == "task"
    assert flower.wait(task) == "task"  # a task can be awaited again


@pytest.mark.parametrize("thing", [None, 42, "text", value])
def test_what_can_not_be_awaited(thing: Any) -> None:
    with pytest.raises(TypeError, match="can be awaited, not"):
        flower.wait(thing)


@pytest.mark.parametrize("timeout", [-1, "soon", True])
def test_a_bad_timeout(timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="a timeout is"):
        flower.wait(value(1), timeout)


def test_an_error_with_its_traceback() -> None:
    with pytest.raises(KeyError) as caught:
        flower.wait(fail(KeyError("lost")))
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "fail"
    assert "wait" in names
    with pytest.raises(KeyError):
        flower.go(flower.wait, fail(KeyError("lost"))).join()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_would_end_an_event_loop_ends_the_wait(kind: type[BaseException]) -> None:
    with pytest.raises(kind):
        flower.wait(fail(kind()))
    rounds(3)  # it is raised once


def test_context_variables() -> None:
    async def look_and_set() -> str:
        found = variable.get()
        variable.set("by the coroutine")
        return found

    def body() -> tuple[str, str]:
        variable.set("by the tasklet")
        return flower.wait(look_and_set()), variable.get()

    assert flower.go(body).join() == ("by the tasklet", "by the tasklet")
    assert variable.get() == "unset"


def test_timeout() -> None:
    log = Log()
    with pytest.raises(flower.Timeout, match=r"forever was not done within 0\.002 s"):
        flower.wait(log.forever(), timeout=0.002)
    assert log == ["begun", "cancelled", "cleaned up"]


def test_a_timeout_of_nothing() -> None:
    log = Log()
    with pytest.raises(flower.Timeout):
        flower.wait(log.forever(), timeout=0)
    assert log == []


def test_a_scope_that_ends() -> None:
    log = Log()
    with flower.move_on(0.002) as scope:
        flower.wait(log.forever())
    assert scope.expired
    assert log == ["begun", "cancelled", "cleaned up"]


def test_a_tasklet_that_is_killed() -> None:
    log = Log()
    t = flower.go(flower.wait, log.forever())
    rounds(2)
    t.kill()
    with pytest.raises(flower.TaskletKilled):
        t.join(NEVER)
    assert log == ["begun", "cancelled", "cleaned up"]


def test_killed_while_it_is_cancelled() -> None:
    """It waits for the end of the asyncio task nevertheless."""
    log = []
    go_on: list[Any] = []

    async def slow_to_end() -> None:
        try:
            await asyncio.sleep(NEVER)
        finally:
            go_on.append(asyncio.get_running_loop().create_future())
            await go_on[0]
            log.append("cleaned up")

    def body() -> None:
        with flower.timeout(0.001):
            flower.wait(slow_to_end())

    t = flower.go(body)
    until(lambda: go_on)
    t.kill()
    rounds(2)
    assert t.alive
    assert log == []
    go_on[0].set_result(None)
    with pytest.raises(flower.TaskletKilled):
        t.join(NEVER)
    assert log == ["cleaned up"]


def test_a_coroutine_that_ends_well_though_it_is_cancelled() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(NEVER)
        except asyncio.CancelledError:
            pass
        return "a result"

    assert flower.wait(stubborn(), timeout=0.002) == "a result"
    with flower.move_on(0.002):
        result = flower.wait(stubborn())
        assert result == "a result"
        flower.channel().receive()  # here the cancellation comes
        pytest.fail("not reached")


def test_a_coroutine_that_fails_when_it_is_cancelled() -> None:
    async def clumsy() -> None:
        try:
            await asyncio.sleep(NEVER)
        finally:
            raise ValueError("in the clean-up")

    with pytest.raises(ValueError, match="in the clean-up"):
        flower.wait(clumsy(), timeout=0.002)


def test_an_error_after_a_kill_goes_to_the_error_handler() -> None:
    async def clumsy() -> None:
        try:
            await asyncio.sleep(NEVER)
        finally:
            raise ValueError("in the clean-up")

    seen: list[BaseException] = []
    before = flower.set_error_handler(lambda t, error: seen.append(error))
    try:
        t = flower.go(flower.wait, clumsy())
        rounds(2)
        t.kill()
        with pytest.raises(flower.TaskletKilled):
            t.join(NEVER)
        rounds(1)
    finally:
        flower.set_error_handler(before)
    assert [str(error) for error in seen] == ["in the clean-up"]


def test_a_task_that_somebody_else_cancels() -> None:
    async def cancel_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        flower.wait(cancel_itself())


def test_nested() -> None:
    async def inner() -> None:
        flower.wait(value(1))

    with pytest.raises(RuntimeError, match="would stop the event loop"):
        flower.wait(inner())


def test_a_tasklet_sees_no_running_loop() -> None:
    def body() -> None:
        asyncio.get_running_loop()

    rounds(1)
    with pytest.raises(RuntimeError, match="no running event loop"):
        flower.go(body).join()


def test_what_a_coroutine_left_in_the_loop_sees_it_running() -> None:
    seen: list[object] = []

    async def leave() -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        loop.call_later(0.002, lambda: seen.append(asyncio.get_running_loop()))
        return loop

    rounds(1)
    loop = flower.wait(leave())
    rounds(2)
    until(lambda: bool(seen))
    assert seen == [loop]


def test_under_the_loop_of_somebody_else() -> None:
    async def foreign() -> None:
        flower.wait(value(1))

    def thread() -> str:
        with pytest.raises(RuntimeError, match="event loop is already running in this thread"):
            asyncio.run(foreign())
        return "refused"

    assert in_thread(thread)() == "refused"


def test_in_another_thread() -> None:
    loops = []

    async def which() -> None:
        loops.append(asyncio.get_running_loop())

    in_thread(flower.wait, which())()
    flower.wait(which())
    assert loops[0] is not loops[1]


def test_asyncio_at_work() -> None:
    """Locks, queues, task groups, timeouts, subtasks: all of it on one loop, in several waits."""

    async def producer(queue: asyncio.Queue[int]) -> None:
        for n in range(10):
            await queue.put(n)

    async def both() -> list[int]:
        queue: asyncio.Queue[int] = asyncio.Queue(2)
        async with asyncio.timeout(NEVER), asyncio.TaskGroup() as group:
            group.create_task(producer(queue))
            return [await queue.get() for _ in range(10)]

    tasklets = [flower.go(flower.wait, both()) for _ in range(5)]
    assert [t.join(NEVER) for t in tasklets] == [list(range(10))] * 5


def test_run_waits_for_it() -> None:
    log = []

    async def later() -> None:
        await asyncio.sleep(0.002)
        log.append("done")

    flower.go(flower.wait, later())
    flower.run()
    assert log == ["done"]


def test_a_failed_wait_leaves_no_cycle() -> None:
    import gc
    import weakref

    class Marked(Exception):
        pass

    async def fail_once() -> None:
        raise Marked

    def attempt() -> weakref.ref[Marked]:
        try:
            flower.wait(fail_once())
        except Marked as error:
            return weakref.ref(error)
        raise AssertionError

    rounds(2)
    gc.disable()
    try:
        ref = attempt()
        rounds(2)
        assert ref() is None
    finally:
        gc.enable()


@pytest.mark.slow
def test_tasks_left_in_the_background_end_with_the_program() -> None:
    code = """
        import asyncio, flower
        kept = []
        async def background():
            try:
                await asyncio.sleep(60)
            finally:
                print("cancelled")
        async def main():
            kept.append(asyncio.create_task(background()))
            await asyncio.sleep(0)
        flower.wait(main())
        print("end")
        """
    assert output(code) == "end\ncancelled\n"


@pytest.mark.slow
def test_ctrl_c_in_a_wait() -> None:
    code = """
        import asyncio, os, signal, flower
        async def forever():
            try:
                await asyncio.sleep(60)
            finally:
                print("cancelled")
        flower.time.after_func(0.05, os.kill, os.getpid(), signal.SIGINT)
        try:
            flower.wait(forever())
        except KeyboardInterrupt:
            print("interrupted")
        """
    assert output(code) == "cancelled\ninterrupted\n"
