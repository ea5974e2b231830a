"""For programs written for Stackless Python: ``import flower.stackless as stackless``.

Stackless's names, with its spellings. What belongs to its interpreter (pickling of tasklets, soft switching, running
for a number of instructions) is not here. One difference: an error handler is called as Stackless calls it, with the
exception's type, value and traceback.

>>> import flower.stackless as stackless
>>> ch = stackless.channel()
>>> _ = stackless.tasklet(ch.send)("hello")
>>> ch.receive()
'hello'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flower import channels
from flower.channels import (
    atomic,
    bomb,
    channel,
    get_channel_callback,
    get_schedule_callback,
    get_thread_info,
    getcurrent,
    getcurrentid,
    getmain,
    getruncount,
    getthreads,
    run,
    schedule,
    schedule_remove,
    set_channel_callback,
    set_schedule_callback,
    switch_trap,
    tasklet,
)
from flower.errors import TaskletExit

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "TaskletExit",
    "atomic",
    "bomb",
    "channel",
    "get_channel_callback",
    "get_schedule_callback",
    "get_thread_info",
    "getcurrent",
    "getcurrentid",
    "getmain",
    "getruncount",
    "getthreads",
    "run",
    "schedule",
    "schedule_remove",
    "set_channel_callback",
    "set_error_handler",
    "set_schedule_callback",
    "switch_trap",
    "tasklet",
]

_handler: Any = None


def set_error_handler(handler: Callable[[Any, Any, Any], object] | None) -> Any:
    """Have ``handler(type, value, traceback)`` called with each error of a tasklet that nobody collects.

    None raises such errors in the main tasklet. Returns the handler before. It may not block, and what it raises goes
    to ``sys.unraisablehook``. Raises TypeError for a handler that is not callable.
    """
    global _handler
    if handler is not None and not callable(handler):
        raise TypeError(f"an error handler must be callable or None, not {handler!r}")

    def call(_: Any, error: BaseException) -> None:
        handler(type(error), error, error.__traceback__)  # type: ignore[misc]

    channels.set_error_handler(None if handler is None else call)
    before, _handler = _handler, handler
    return before
