"""The primitive: tasklets, channels, select, scopes, and time. Everything public is at the top level, `flower`."""

from __future__ import annotations

from flower.channels import _failures as _failures
from flower.channels._blocking import blocking
from flower.channels._bomb import bomb
from flower.channels._channel import channel
from flower.channels._clock import after, never, tick
from flower.channels._control import (
    atomic,
    get_channel_callback,
    get_schedule_callback,
    get_scheduler,
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
)
from flower.channels._deadlock import ignore_thread
from flower.channels._ends import Receiver, Sender
from flower.channels._failures import set_error_handler
from flower.channels._scope import group, move_on, shield, timeout
from flower.channels._select import select
from flower.channels._signals import signals
from flower.channels._tasklet import go, tasklet
from flower.channels._wait import wait

__all__ = [
    "Receiver",
    "Sender",
    "after",
    "atomic",
    "blocking",
    "bomb",
    "channel",
    "get_channel_callback",
    "get_schedule_callback",
    "get_scheduler",
    "get_thread_info",
    "getcurrent",
    "getcurrentid",
    "getmain",
    "getruncount",
    "getthreads",
    "go",
    "group",
    "ignore_thread",
    "move_on",
    "never",
    "run",
    "schedule",
    "schedule_remove",
    "select",
    "set_channel_callback",
    "set_error_handler",
    "set_schedule_callback",
    "shield",
    "signals",
    "switch_trap",
    "tasklet",
    "tick",
    "timeout",
    "wait",
]

# The main thread's scheduler is made here, where the stack is shallow and short-lived.
get_scheduler()
