"""A world and the outside: what takes its place, and what is refused, by line, since a world can't steer it.

The calls that Python code can be kept from are replaced while a world is in force, in the whole process; each looks
whether there is a world in its own thread, so that other threads go on as ever. Whatever blocks in another way (a lock,
a loop without an end) is stopped by a signal after some seconds without a step, in the main thread, where the platform
and the program leave us SIGALRM.
"""

from __future__ import annotations

import _thread
import functools
import gc
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from flower.channels import _blocking, _failures, _scheduler, _signals, _watch
from flower.testing._outcome import line_of, site_of

if TYPE_CHECKING:
    from flower.testing._world import World

STALL = 5.0  # seconds of real time within which a tasklet must come to its next operation
IDLE = 0.01  # seconds of processor time in that, of a thread that only waits: one that has more is slowed by others

_SOCKET = (
    "accept",
    "bind",
    "connect",
    "connect_ex",
    "listen",
    "recv",
    "recv_into",
    "recvfrom",
    "recvfrom_into",
    "recvmsg",
    "recvmsg_into",
    "send",
    "sendall",
    "sendmsg",
    "sendto",
)
_PROCESSES = ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system")  # of the module os
_NAMES = ("getaddrinfo", "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "getnameinfo")  # of socket
_SIGNALS = ("pause", "sigtimedwait", "sigwait", "sigwaitinfo")  # of signal
_POLLS = ("devpoll", "epoll", "kqueue", "poll")  # of select: what they make waits, and can't be kept from it
_NETWORK = "connect through flower.net, which is simulated here"
_APART = "test this part without a World"
_DEBUGGERS = {"bdb", "pdb", "code", "IPython"}  # modules; whoever looks around in one takes his time


class OwnPoller:
    """Waits for the outside, of which there is none: time passes at once."""

    def __init__(self, world: World, scheduler: Any) -> None:
        self._world = world
        self._scheduler = scheduler

    @property
    def network(self) -> Any:
        """What `flower.net` uses in place of the system's network."""
        return self._world.net

    def run(self, turn: Callable[[], float]) -> None:
        while (seconds := turn()) >= 0.0:
            if seconds > 0.0:
                self._world.on_idle(self._scheduler.deadline())

    def ready(self) -> None:
        pass

    def wake(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Workers:
    """`flower.blocking` in a world: the function runs in the hub, at a moment when nothing else does."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def submit(self, job: Callable[[], object]) -> None:
        world = world_here()
        if world is None:
            self.real.submit(job)
            return
        line = line_of(sys._getframe())

        def call() -> None:
            world.calling = line
            try:
                job()
            finally:
                world.calling = "?"

        world._scheduler.post(call)


def world_here() -> World | None:
    """The world that is in force in this thread, or None."""
    s: Any = _scheduler.present()
    return None if s is None else getattr(s.interposer, "world", None)


def on_fault(name: str) -> bool:
    """A place in a program where a test may inject a fault: whether it happens now. False outside of exploration.

    >>> def save(data):
    ...     if on_fault("the disk is full"):
    ...         raise OSError("no space left")
    """
    world = world_here()
    return False if world is None else world.fault(name)


class _Replaced:
    """What is replaced while any world is in force: once, by the first of them, until the last is over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._scanned = 0
        self._calls: list[tuple[Any, str, Any]] = []  # owner, name, what stands there meanwhile
        self._undo: list[Callable[[], object]] = []
        self._sleep = _refusing(time.sleep, "time.sleep", "use flower.time.sleep")
        self._collects = False
        for name in filter(functools.partial(hasattr, socket.socket), _SOCKET):
            self._calls.append((socket.socket, name, _refusing(getattr(socket.socket, name), f"socket.{name}")))
        harmless: Callable[..., bool] | None
        for module, names, advice, harmless in (
            (os, _PROCESSES, _APART, None),
            (socket, _NAMES, _NETWORK, None),
            (select, _POLLS, _NETWORK, None),
            (signal, _SIGNALS, _APART, _waits_not),
        ):
            for name in filter(functools.partial(hasattr, module), names):
                shown = f"{module.__name__}.{name}"
                self._calls.append((module, name, _refusing(getattr(module, name), shown, advice, harmless)))
        for kind in {vars(selectors)[name] for name in vars(selectors) if name.endswith("Selector")}:
            if "select" in vars(kind) and kind is not selectors.BaseSelector:
                shown = f"selectors.{kind.__name__}.select"
                self._calls.append((kind, "select", _refusing(kind.select, shown, harmless=_waits_not)))
        for owner, name, shown, advice, harmless in (
            (threading.Thread, "start", "threading.Thread.start", f"start a tasklet, or {_APART}", None),
            (_thread, "start_new_thread", "_thread.start_new_thread", f"start a tasklet, or {_APART}", None),
            (threading.Thread, "join", "threading.Thread.join", _APART, _joins_at_once),
            (threading.Condition, "wait", "threading.Condition.wait", "let tasklets wait for a channel", _waits_not),
            (subprocess.Popen, "__init__", "subprocess.Popen", _APART, None),
            (os, "read", "os.read", _APART, _reads_at_once),
            (select, "select", "select.select", _NETWORK, _polls),
        ):
            self._calls.append((owner, name, _refusing(getattr(owner, name), shown, advice, harmless)))
        self._own = len(self._calls)

    def begin(self) -> None:
        with self._lock:
            self._count += 1
            if self._count > 1:
                return
            self._look_for_sleep()
            for owner, name, function in self._calls:
                self._undo.append(_restore(owner, name))
                setattr(owner, name, function)
            _blocking._workers = _Workers(_blocking._workers)  # type: ignore[assignment]
            self._collects = gc.isenabled()
            gc.disable()  # when it would run depends on more than our choices, and finalizers may use channels

    def end(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count:
                return
            while self._undo:
                self._undo.pop()()
            if isinstance(_blocking._workers, _Workers):  # and not new ones, after a fork
                _blocking._workers = _blocking._workers.real
            if self._collects:
                gc.enable()

    def _look_for_sleep(self) -> None:
        """Every module that has ``time.sleep``, and its name there: many a program imports it by itself."""
        if len(sys.modules) == self._scanned:
            return
        self._scanned = len(sys.modules)
        self._calls[self._own :] = [
            (module, name, self._sleep)
            for module in list(sys.modules.values())
            for name, value in list(getattr(module, "__dict__", {}).items())
            if value is time.sleep
        ]


def _restore(owner: Any, name: str) -> Callable[[], object]:
    if name in vars(owner):
        return functools.partial(setattr, owner, name, vars(owner)[name])
    return functools.partial(delattr, owner, name)  # it is its base class's


def _refusing(
    original: Any, shown: str, advice: str = _NETWORK, harmless: Callable[..., bool] | None = None
) -> Callable[..., Any]:
    """A function that is the original, but in a thread with a world an error, unless the call is ``harmless``."""

    @functools.wraps(original)
    def refuse(*args: Any, **kwargs: Any) -> Any:
        world = world_here()
        if world is None or (harmless is not None and harmless(*args, **kwargs)):
            return original(*args, **kwargs)
        raise world.refuse(f"{shown}() at {{line}}: a World can't steer that; {advice}", sys._getframe(1))

    return refuse


def _joins_at_once(thread: threading.Thread, timeout: float | None = None) -> bool:
    return not thread.is_alive() or (timeout is not None and timeout <= 0)


def _waits_not(waiter: Any = None, timeout: float | None = None) -> bool:
    return timeout is not None and timeout <= 0


def _polls(readers: Any, writers: Any, others: Any, timeout: float | None = None) -> bool:
    return timeout is not None and timeout <= 0


def _reads_at_once(descriptor: int, length: int) -> bool:
    if _poll is None or not os.get_blocking(descriptor):  # without poll, on Windows, that can't be told
        return True
    look = _poll()
    look.register(descriptor, select.POLLIN)
    return bool(look.poll(0))


_poll = getattr(select, "poll", None)
_replaced = _Replaced()


def refusal_of_greenlet(world: World) -> BaseException:
    """What is raised where a tasklet operates, or waits, in a greenlet of the program's own making."""
    frame: Any = sys._getframe()
    stranger = getcurrent()
    if site_of(frame) is None:  # it runs nothing but compiled code: then who has made it
        frame = getattr(stranger.parent, "gr_frame", None)
    if all(t.carrier is not stranger for t in world._names):  # else a tasklet's, which the program has switched to
        stranger.parent = world._scheduler.current.carrier  # whoever has made it may be elsewhere
    what = "this greenlet is not the running tasklet's, and Flower can't wait in it; start a tasklet instead"
    return world.refuse(f"{{line}}: {what}", frame)


class Guard:
    """What one world keeps from the program, and the signal that comes when it blocks nevertheless."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen = -1
        self._steps = 0
        self._since = self._before = (
            0.0  # the thread's processor time at the last alarm that saw a step, and at the last
        )
        self._alarm = False

    def install(self) -> None:
        _replaced.begin()
        self.handler, self._watcher = _failures._handler, _watch.get_watcher()
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
            if signal.getsignal(signal.SIGALRM) is signal.SIG_DFL and signal.getitimer(signal.ITIMER_REAL)[0] == 0.0:
                signal.signal(signal.SIGALRM, self._on_alarm)
                signal.setitimer(signal.ITIMER_REAL, STALL, STALL)
                self._alarm = True

    def remove(self) -> None:
        if self._alarm:  # but what the program has set meanwhile is its own
            if signal.getitimer(signal.ITIMER_REAL)[1] == STALL:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
            if signal.getsignal(signal.SIGALRM) == self._on_alarm:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _failures._handler = self.handler  # what the program has set was for its world
        _watch.set_watcher(self._watcher)
        for watch in {watch for watches in _signals._watches.values() for watch in watches}:
            if watch._scheduler is self._world._scheduler:
                watch.close()
        _replaced.end()

    def alive(self, steps: int) -> None:
        """The world has taken a step."""
        self._steps = steps

    def _on_alarm(self, signum: int, frame: Any) -> None:
        now = time.thread_time()
        if self._seen != self._steps or _is_debugged(frame):
            self._seen = self._steps
            self._since = self._before = now
            return
        used, self._before = now - self._before, now
        if used > IDLE and now - self._since < 0.8 * STALL:
            return
        raise self._world.refuse(
            f"no step for {STALL:g} seconds: it blocks, or goes round for good, at {{line}}", frame
        )


def _is_debugged(frame: Any) -> bool:
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in _DEBUGGERS:
            return True
        frame = frame.f_back
    return False
