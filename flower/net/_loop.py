"""The I/O tasklet: a scheduler's poller that waits inside an event loop.

The only file that knows asyncio and uvloop. It uses asyncio's public loop interface and nothing else, so
any loop that keeps to it will do: uvloop's where that exists, else the standard one. ``FLOWER_LOOP=asyncio``
asks for the standard one, ``FLOWER_LOOP=uvloop`` insists on uvloop.

Invariants

- The hub (the greenlet that runs `LoopPoller.run`) stays in ONE ``run_forever()``. It is left by a flag and
  ``loop.stop()`` only, never by an exception thrown into it. Anything else that ends it (a foreign
  ``loop.stop()``, a KeyboardInterrupt from a callback) starts it again on the same loop.
- In a forked child the parent's loop is neither used nor closed: parent and child share one epoll set, and
  whoever closes a handle there silences the other's socket.

What may not live here: anything that knows what a connection is.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import os
import re
import signal
import socket
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from flower.channels import channel, shield
from flower.channels._delivery import raise_in_main, spare_main
from flower.channels._failures import leave_if_forked, pass_on, was_passed_on
from flower.channels._forks import after_fork
from flower.channels._scheduler import current_scheduler
from flower.errors import TaskletExit
from flower.net._transport import Sockets, Transport
from flower.net._turns import Turns

T = TypeVar("T")
Dispose = Callable[[Any], object] | None
Report = Callable[[BaseException], object] | None

# What fails, and ends no more than that; a coroutine that somebody else cancels has failed, too.
FAILURES = (Exception, asyncio.CancelledError)
OUR_CALLBACKS = re.compile(r"Loop\._read_from_self|\b(LoopPoller|Turns|_SignalWake)\.")  # as in the texts of both loops
LOOP_VARIABLE = "FLOWER_LOOP"
STARVED = 0.01  # seconds between two attempts to enter the loop, where the process has no descriptor left for it
CLOSING_TIME = 2.0  # seconds: at the end, what was written and not yet sent has this long to leave


class Resource(Protocol):
    """What a poller holds for someone: something that a forked child must not touch."""

    def finish(self, late: bool) -> bool:
        """Send what is left and close. True while there is something left to wait for; ``late``, only what must be."""

    def disown(self) -> Any:
        """In a forked child: forget the loop's objects without a call to them, and return them."""


class LoopPoller(Turns):
    """Waits for the outside in an event loop, and gives the scheduler its turns from there."""

    def __init__(self) -> None:
        Turns.__init__(self, _new_event_loop(), current_scheduler(), asyncio._set_running_loop)
        self.loop.slow_callback_duration = math.inf  # in debug mode: a turn is no slow callback
        self.loop.set_exception_handler(self._on_error)
        self.thread = threading.get_ident()
        self.resources: set[Resource] = set()
        self.hosting = False  # it has run coroutines that are not Flower's, and knows not what they left behind
        self._tasks: set[asyncio.Task[Any]] = set()
        self._signals: _SignalWake | None = None
        try:
            self._sockets = Sockets(self.loop, self.context, self._on_sockets)
            if threading.get_ident() == threading.main_thread().ident and not _watches_signals(self.loop):
                self._signals = _SignalWake(self.loop)
        except BaseException:  # no descriptor was left
            self._close()
            raise
        _pollers.add(self)

    # -- The poller interface; `Turns` has the rest of it

    def run(self, turn: Callable[[], float]) -> None:
        """Stay in the loop, on the hub, until a turn returns a negative number."""
        self._turn = turn
        self._leaving = False
        self._start_afresh()
        if self._signals is not None:
            self._signals.start()
        try:
            while not self._leaving:
                if not self._may_start():
                    self._go_without(turn)
                    continue
                self._hidden = False
                try:
                    self.loop.run_forever()
                except (KeyboardInterrupt, SystemExit) as error:
                    leave_if_forked(self.scheduler, error)
                    # A callback's, or of a signal handler that ran on the hub, or of a task, which keeps it for those
                    # who wait for it: what they make of it is no news for main.
                    if _is_of_a_task(error):
                        pass_on(error)
                    self.scheduler.post(functools.partial(raise_in_main, self.scheduler, error))
                    self._start_afresh()
        finally:
            if self._signals is not None:
                self._signals.stop()
            self._turn = None
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure

    def close(self) -> None:
        """Let what was written leave, for at most CLOSING_TIME seconds, and release the loop.

        Connections that were closed before that keep the time that `Conn.close` promises them.
        """
        loop = self.loop
        if loop.is_closed():
            return
        _pollers.discard(self)
        self._cancel_timer()
        deadline = time.monotonic() + CLOSING_TIME
        try:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            # One round at least: cancelled tasks and closed transports say goodbye in the loop's next round.
            while True:
                late = time.monotonic() > deadline
                waiting = [r for r in list(self.resources) if r.finish(late)]
                loop.call_later(0.01 if waiting else 0.0, loop.stop)
                self._go_on(loop.run_forever)
                if not (waiting or self.resources or asyncio.all_tasks(loop)) or (late and not waiting):
                    break
            self._go_on(loop.run_until_complete, loop.shutdown_asyncgens())
            self._go_on(loop.run_until_complete, loop.shutdown_default_executor())
        finally:
            self._close()

    def _go_on(self, run: Callable[..., object], *args: Any) -> None:
        """Have the loop run, at its end. Where the clean-up of a task exits, main is told, and the rest goes on."""
        failure: BaseException | None = None
        try:
            run(*args)
        except (KeyboardInterrupt, SystemExit) as error:
            failure = error
        finally:  # in a child, whose main thread this is now, uvloop's loop is left with an error
            leave_if_forked(self.scheduler, failure)
        if failure is not None:
            raise_in_main(self.scheduler, failure)

    def drop(self) -> None:
        """Release the loop, which has never run."""
        _pollers.discard(self)
        self._close()

    def _close(self) -> None:
        if self._signals is not None:
            self._signals.close()
        if self._sockets is not None:
            self._sockets.close()
        self._due = True  # for good: there is nobody left to wake
        self.loop.close()

    # -- For the rest of flower.net

    def call_here(self, function: Callable[[], object]) -> None:
        """Call the function in the loop's thread: now if this is it, else soon; never if the loop is closed."""
        if threading.get_ident() == self.thread:
            function()
        else:
            try:
                self.loop.call_soon_threadsafe(function, context=self.context)
            except RuntimeError:
                pass

    def is_live(self) -> bool:
        """Whether its thread, in this process, still runs it."""
        return self in _pollers

    def attach(self, sock: socket.socket, protocol: Any) -> None:
        """Have the protocol told, as asyncio's are, of what happens at a connected socket that does not block."""
        Transport(self._sockets, sock).start(protocol)

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a task of the loop. The task is kept alive until it is done."""
        if not self.guests:
            self.guests = True
            self.loop.call_soon(self.show, context=self.context)  # before the task's first step
        task: asyncio.Task[T] = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self.guests = self.hosting or bool(self._tasks)

    def _start_afresh(self) -> None:
        """Ask for a turn, which arms the timer: a signal handler that raised may have hit either as it began."""
        self._due = False
        self._again = None
        self._cancel_timer()
        self.ready()

    # -- Without a descriptor

    def _may_start(self) -> bool:
        """Whether the loop can be entered: uvloop's asks for a pair of sockets, and where there is none it is lost."""
        if self._signals is not None or threading.get_ident() != threading.main_thread().ident:
            return True
        try:
            _probe()
        except OSError:
            return False
        return True

    def _go_without(self, turn: Callable[[], float]) -> None:
        """The process has no descriptors left for now: tasklets and timers go on, and what is outside waits."""
        delay = turn()
        self.let_out()
        if delay < 0.0:
            self._leaving = True
        else:
            time.sleep(min(delay, STARVED))

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback failed. Of Flower's own none does, but that a signal handler raised in it: that is for main.

        So it is where the loop has read that there was a signal. What else comes may come in any thread: the garbage
        collector tells of futures here.
        """
        if "handle" in context:  # here, then
            leave_if_forked(self.scheduler, context.get("exception"))
        if self._turn is not None and _was_hit(context):
            self._start_afresh()
            self.scheduler.post(functools.partial(raise_in_main, self.scheduler, context["exception"]))
        else:
            loop.default_exception_handler(context)


def _was_hit(context: dict[str, Any]) -> bool:
    """Whether a signal handler has raised in a callback of Flower's own, or as it was called."""
    error = context.get("exception")
    if error is None or "handle" not in context:
        return False
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module.startswith("flower."):  # what users give to the loop has no underscore
            return frame.f_code.co_name.rpartition(".")[2].startswith(("_", "<"))
        if module.partition(".")[0] not in ("asyncio", "uvloop"):
            break
    return OUR_CALLBACKS.search(context["message"]) is not None


def _is_of_a_task(error: BaseException) -> bool:
    return any(frame.f_code.co_flags & inspect.CO_COROUTINE for frame, _ in traceback.walk_tb(error.__traceback__))


class _SignalWake:
    """Ends the loop's wait when a signal arrives. uvloop does so itself; the standard loop waits on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)
        self._previous = -1
        loop.add_reader(self._near, self._on_byte)

    def start(self) -> None:
        self._previous = signal.set_wakeup_fd(self._far.fileno(), warn_on_full_buffer=False)

    def stop(self) -> None:
        signal.set_wakeup_fd(self._previous)

    def close(self) -> None:
        self._loop.remove_reader(self._near)
        self._near.close()
        self._far.close()

    def _on_byte(self) -> None:
        try:
            self._near.recv(4096)  # the handlers themselves have run by now
        except BlockingIOError:
            pass


# -- Which loop


def _new_event_loop() -> asyncio.AbstractEventLoop:
    wanted = os.environ.get(LOOP_VARIABLE, "")
    if wanted not in ("", "asyncio", "uvloop"):
        raise ValueError(f"{LOOP_VARIABLE} is {wanted!r}: give asyncio or uvloop")
    if wanted != "asyncio":
        try:
            import uvloop
        except ImportError:
            if wanted == "uvloop":
                raise
        else:
            _open_standard()
            return uvloop.new_event_loop()
    _probe()  # where this fails, the loop's own failure would be told of once more when it is collected
    return asyncio.SelectorEventLoop()


def _probe() -> None:
    """Raise OSError where the process can't open a pair of sockets, as every loop needs one."""
    for sock in socket.socketpair():
        sock.close()


def _open_standard() -> None:
    """Have descriptors 0 to 2 open, as Node.js does: libuv ends the process where it closes one of its own there."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, and never closed


def _watches_signals(loop: asyncio.AbstractEventLoop) -> bool:
    return type(loop).__module__.partition(".")[0] == "uvloop"


_get_running_loop = asyncio._get_running_loop


def io_poller() -> LoopPoller:
    """This thread's I/O poller; made, and given to the scheduler, on first use.

    Raises RuntimeError where an event loop that is not Flower's is running in this thread: a tasklet that
    waited there would stop that loop.
    """
    running = _get_running_loop()
    scheduler = current_scheduler()
    poller = scheduler.poller
    if not isinstance(poller, LoopPoller):
        if getattr(poller, "network", None) is not None:
            raise RuntimeError("this needs an event loop, and a World has none: its network and its time are simulated")
        if running is not None:
            raise RuntimeError(f"an event loop is already running in this thread ({running!r}): {_ADVICE}")
        made = LoopPoller()
        poller = scheduler.poller
        if isinstance(poller, LoopPoller):  # to make it has run finalizers, and they have made one
            made.drop()
        else:
            poller = made
            scheduler.set_poller(poller)
    elif running is not None:
        if running is poller.loop:
            raise RuntimeError(
                "this would stop the event loop: call it in a tasklet; in a coroutine, await it, or what flower.aio has"
            )
        raise RuntimeError(f"an event loop of somebody else is running in this thread ({running!r}): {_ADVICE}")
    return poller


_ADVICE = "use flower in a thread of its own"


def running_task() -> tuple[LoopPoller, asyncio.Task[Any]]:
    """This thread's I/O poller and the task of its loop that is running. RuntimeError where none is."""
    poller = current_scheduler().poller
    loop = _get_running_loop()
    task = None if loop is None else asyncio.current_task(loop)
    if task is None or not isinstance(poller, LoopPoller) or loop is not poller.loop:
        raise RuntimeError("this is for a coroutine on Flower's event loop: have flower.wait run it")
    return poller, task


# -- Waiting for a coroutine


def wait(coroutine: Coroutine[Any, Any, T], dispose: Callable[[T], object] | None = None) -> T:
    """Run a coroutine on the I/O tasklet's loop; parks only the calling tasklet.

    When the tasklet is cancelled or killed meanwhile, the asyncio task is cancelled, and waited for. A result
    that it had already is handed to ``dispose``, so that nothing leaks; another error than the cancellation is dropped.
    """
    try:
        poller = io_poller()
    except BaseException:
        coroutine.close()
        raise
    awaited = Awaited(poller, coroutine, "awaiting")
    interruption: BaseException | None = None
    try:
        try:
            awaited.done.receive()
        except BaseException as first:
            interruption = awaited.cancel(dispose) or first
            awaited.forsake(dispose)
            raise interruption
        return awaited.collect()  # type: ignore[no-any-return]
    finally:
        interruption = None
        del awaited  # its error's traceback names this frame


async def _outcome(scheduler: Any, awaitable: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    try:
        return await awaitable, None
    except BaseException as error:
        leave_if_forked(scheduler, error)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return None, error
        raise


class Awaited:
    """A task that awaits something for a tasklet, which waits for ``done``.

    KeyboardInterrupt and SystemExit, which asyncio's tasks let through, and which would end the loop's run, are results
    here. The tasklet gets them; if it waits no more, main does.
    """

    def __init__(self, poller: LoopPoller, awaitable: Awaitable[Any], label: str) -> None:
        self.done: channel[None] = channel(1, label)
        self.done._external = True
        self._awaitable = awaitable
        self.task = poller.spawn(_outcome(poller.scheduler, awaitable))
        self.task.add_done_callback(lambda _: self.done.try_send(None))

    def collect(self) -> Any:
        """The result; or the error, of which main is told once."""
        error: BaseException | None = None
        try:
            result, error = self.task.result()
            if error is None:
                return result
            scheduler = current_scheduler()
            if scheduler.current is scheduler.main:
                spare_main(scheduler, error)
            raise error
        finally:
            del error, self  # the error's traceback names this frame

    def cancel(self, dispose: Dispose = None, report: Report = None) -> TaskletExit | None:
        """Cancel the task, and wait for its end, whatever it takes to. A kill means that, too, and is given back.

        What else comes, Ctrl-C above all, is raised, and the task left to itself, and to `forsake`.
        """
        killed = None
        self.task.cancel()
        while not self.task.done():
            try:
                with shield():
                    self.done.receive()
            except BaseException as error:
                if not isinstance(error, TaskletExit) or current_scheduler().closing:
                    self.task.add_done_callback(lambda _: self.forsake(dispose, report))
                    raise
                killed = error
        return killed

    def forsake(self, dispose: Dispose = None, report: Report = None) -> None:
        """It has ended, and nobody waits for it."""
        if inspect.iscoroutine(self._awaitable):
            self._awaitable.close()  # one that never began would complain that nobody awaited it
        if self.task.cancelled():
            return
        result, error = None, self.task.exception()
        try:
            if error is None:
                result, error = self.task.result()
            if error is None:
                if dispose is not None:
                    dispose(result)
            elif isinstance(error, KeyboardInterrupt | SystemExit):
                if not was_passed_on(error):
                    raise_in_main(current_scheduler(), error)
            elif report is not None:
                report(error)
        finally:
            del error


# -- Fork

_pollers: set[LoopPoller] = set()
_inherited: list[Any] = []


@after_fork
def _after_fork_in_child() -> None:
    """Set aside whatever belongs to the parent's loops, for good, without a call to any of it."""
    for poller in _pollers:
        if poller._turn is not None and threading.get_ident() == poller.thread:
            signal.set_wakeup_fd(-1)  # it is the parent's: a signal here would wake the parent
        _inherited.append((poller, poller.loop, [(r, r.disown()) for r in poller.resources], set(poller._tasks)))
        poller.resources.clear()
    _pollers.clear()
    if _inherited:
        _immortalise(_inherited)


def _immortalise(what: Any) -> None:
    """Keep an object even past the end of the interpreter, which would otherwise close what is in it."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(what))
