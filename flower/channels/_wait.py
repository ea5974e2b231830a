"""wait: run a coroutine, and park only the tasklet. The door alone: the rest is loaded when it is first used."""

from __future__ import annotations

from importlib import import_module

from flower._typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")

_bridge: Any = None


def wait(awaitable: Awaitable[T], timeout: float | None = None) -> T:
    """Run an asyncio coroutine, or anything else that can be awaited, and give its result.

    It runs as an asyncio task on the thread's event loop, the one that the network uses, in a copy of the caller's
    context; only the calling tasklet waits. Anything of asyncio's that wants a running loop (``create_task``,
    ``gather``, a ``Lock``) is to be made inside of the coroutine. `flower.aio` is for the other way: channels, used
    by coroutines.

    ``timeout``: seconds, at most; None waits for good. A tasklet that times out, is cancelled or is killed cancels the
    asyncio task and waits for its end. A task that ends with a result all the same, or with an error, gives that; only
    after a kill is the result dropped.

    Raises what the awaitable raises, with its traceback; ``asyncio.CancelledError`` when somebody else cancelled it;
    Timeout; TypeError for what can't be awaited; RuntimeError in a coroutine or a callback (there, ``await`` it), and
    where somebody else's event loop runs in this thread.

    >>> import asyncio, flower
    >>> flower.wait(asyncio.sleep(0.001, "slept"))
    'slept'
    """
    global _bridge
    if _bridge is None:
        _bridge = import_module("flower.aio")
    result: T = _bridge._wait(awaitable, timeout)
    return result
