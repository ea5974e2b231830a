"""Channels for coroutines: what an asyncio coroutine uses that `flower.wait` runs.

>>> import flower
>>> from flower import aio
>>> async def double(numbers, results):
...     async for n in aio.values(numbers):
...         await aio.send(results, 2 * n)
>>> numbers, results = flower.channel(), flower.channel()
>>> t = flower.go(flower.wait, double(numbers, results))
>>> numbers.send(21)
>>> results.receive()
42
>>> numbers.close()

A coroutine runs in the event loop, where no tasklet can wait. So each function here tries what needs no waiting, and
else has a tasklet of its own do it, and awaits that. When the coroutine is cancelled, the tasklet is, and decides:
what it did before is done. Then the coroutine gets the result, and the cancellation at its next ``await``, so that
no value is lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from inspect import isawaitable, iscoroutine
from typing import Any, Protocol, TypeVar

from flower import channels
from flower.channels import channel, getcurrent, move_on, tasklet
from flower.channels._delivery import report
from flower.channels._failures import is_foreign
from flower.errors import Cancelled, ChannelClosed, TaskletExit, TaskletKilled, Timeout
from flower.net._loop import Awaited, LoopPoller, io_poller, running_task

__all__ = ["call", "receive", "select", "send", "values"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


class Receivable(Protocol[T_co]):
    """A channel, a connection, a listener: what can be received from."""

    def receive(self) -> T_co: ...


class Sendable(Protocol[T_contra]):
    """A channel, a connection: what can be sent to."""

    def send(self, value: T_contra, /) -> None: ...


# -- For coroutines


async def receive(ch: Receivable[T]) -> T:
    """``await aio.receive(ch)``: as ``ch.receive()``, for a channel, a connection or a listener.

    Waits while there is nothing. Cancelled, it has received nothing, or it gives what it has received, and the
    cancellation comes at the next ``await``. Raises what ``ch.receive()`` raises, such as ChannelClosed; RuntimeError
    in a coroutine that runs on another loop than Flower's.

    >>> async def first(ch):
    ...     return await receive(ch)
    """
    _ch, value = await select(ch)
    return value  # type: ignore[no-any-return]


async def send(ch: Sendable[T], value: T) -> None:
    """``await aio.send(ch, value)``: as ``ch.send(value)``, for a channel or a connection.

    Waits while nobody takes the value and there is no room for it. Cancelled, it has sent nothing, or it returns, and
    the cancellation comes at the next ``await``. Raises what ``ch.send(value)`` raises; RuntimeError in a coroutine
    that runs on another loop than Flower's.

    >>> async def hand_over(ch):
    ...     await send(ch, "a value")
    """
    running_task()
    if isinstance(ch, channel) and ch.try_send(value):
        return
    await call(ch.send, value)


async def select(*cases: Any) -> Any:
    """``await aio.select(*cases)``: as ``flower.select``; waits until one case happens, and cancelled, none has.

    >>> async def first_of(one, other):
    ...     ch, value = await select(one, other)
    ...     return value
    """
    running_task()
    found = channels.select(*cases, default=None)
    return found if found.index >= 0 else await call(channels.select, *cases)


async def values(ch: Receivable[T]) -> AsyncIterator[T]:
    """``async for value in aio.values(ch)``: each value, until the channel is closed and drained.

    >>> async def total(numbers):
    ...     return sum([n async for n in values(numbers)])
    """
    while True:
        try:
            value = await receive(ch)
        except ChannelClosed as error:
            if error.channel is ch:
                return
            raise
        yield value


async def call(func: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """``await aio.call(func, *args)``: call a function in a tasklet, where it may wait, and give its result.

    The way to whatever of Flower blocks: ``await aio.call(flower.net.Dial, "tcp", address)``. When the coroutine is
    cancelled, so is the function, at the places where it waits; the coroutine goes on when the function has ended.
    If that ended with a result all the same, the cancellation comes at the coroutine's next ``await``.

    Raises what the function raises; TaskletKilled when its tasklet was killed; ``asyncio.CancelledError`` at the end of
    the thread or the program; TypeError for a func that is not callable; RuntimeError in a coroutine that runs on
    another loop than Flower's.

    >>> async def pause():
    ...     await call(flower.time.sleep, 0.001)
    """
    poller, task = running_task()
    errand = _Errand(poller, func, args, kwargs)
    try:
        await errand.ended()
    except GeneratorExit:  # the coroutine is dropped, and can't await any more
        errand.scope.cancel()
        raise
    except BaseException:
        errand.scope.cancel()
        requests = task.cancelling()
        while not (errand.over or poller.scheduler.closing):  # no tasklet runs any more while the thread ends
            try:
                await errand.ended()
            except GeneratorExit:
                raise
            except BaseException:  # cancelled once more: it is on its way
                requests = task.cancelling()
        if errand.cancelled or not errand.over:
            raise
        if errand.error is None:
            poller.loop.call_soon(_cancel_again, task, requests)
    try:
        return errand.outcome()  # type: ignore[no-any-return]
    finally:
        del errand


class _Errand:
    """A function that a tasklet calls for a coroutine."""

    def __init__(self, poller: LoopPoller, func: Callable[..., Any], args: Any, kwargs: Any) -> None:
        if not callable(func):
            raise TypeError(f"call needs a function to call, not {func!r}")
        self.scope = move_on()
        self.over = self.cancelled = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._poller = poller
        self._news: Any = None
        label = f"for a coroutine: {getattr(func, '__qualname__', func)}"
        tasklet(self._run, label=label, daemon=True)(func, args, kwargs)

    def _run(self, func: Callable[..., Any], args: Any, kwargs: Any) -> None:
        try:
            self.cancelled = True  # until the function has ended in another way
            with self.scope:
                self.result = func(*args, **kwargs)
                self.cancelled = False
        except KeyboardInterrupt:  # that is for main
            raise
        except BaseException as error:
            # (At the thread's end the loop cancels the coroutine, too, when the last tasklet has ended.)
            self.cancelled = isinstance(error, TaskletExit) and self._poller.scheduler.closing
            if not self.cancelled:
                self.error = error
        finally:
            self.over = True
            if self._news is not None and not self._news.done() and not self._poller.loop.is_closed():
                self._news.set_result(None)

    def ended(self) -> Awaitable[None]:
        """A future that is done when the tasklet has ended. One at a time."""
        self._news = self._poller.loop.create_future()
        if self.over:
            self._news.set_result(None)
        elif self._poller.scheduler.closing:  # no tasklet will run any more
            self._news.cancel("the thread, or the program, of this coroutine is at its end")
        return self._news  # type: ignore[no-any-return]

    def outcome(self) -> Any:
        if self.cancelled:
            raise TaskletKilled("the tasklet of a coroutine's call was interrupted")
        if self.error is None:
            return self.result
        error, self.error = self.error, None
        try:
            if isinstance(error, TaskletExit):
                raise TaskletKilled("the tasklet of a coroutine's call was killed") from error
            raise error
        finally:
            del error


def _cancel_again(task: Any, requests: int) -> None:
    """The cancellation came too late for one ``await``: deliver it at the next, unless it was taken back meanwhile.

    At once would be too soon: the task may be about to leave the ``asyncio.timeout`` that it belongs to.
    """
    if requests and task.cancelling() >= requests and not task.done():
        task.uncancel()
        task.cancel()


# -- For tasklets: flower.wait


def _wait(awaitable: Any, timeout: float | None) -> Any:
    if not isawaitable(awaitable):
        raise TypeError(f"wait needs a coroutine, or something else that can be awaited, not {awaitable!r}")
    try:
        poller = io_poller()
    except BaseException:
        if iscoroutine(awaitable):
            awaitable.close()
        raise
    poller.hosting = True
    awaited = Awaited(poller, awaitable, f"wait for {_name(awaitable)}")
    interruption: BaseException | None = None
    try:
        try:
            awaited.done.receive(timeout)
        except BaseException as first:
            me = getcurrent()
            interruption = awaited.cancel(report=lambda error: report(poller.scheduler, error, me)) or first
            if not isinstance(interruption, Cancelled | Timeout) or is_foreign(interruption):
                awaited.forsake(report=lambda error: report(poller.scheduler, error, me))
                raise interruption
            if awaited.task.cancelled():
                awaited.forsake()
                if isinstance(interruption, Timeout):
                    raise Timeout(f"{_name(awaitable)} was not done within {timeout} s") from None
                raise
        return awaited.collect()
    finally:
        interruption = None
        del awaited  # its error's traceback names this frame


def _name(awaitable: Any) -> str:
    return getattr(awaitable, "__qualname__", None) or repr(awaitable)
