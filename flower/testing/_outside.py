"""A world and the outside: what takes its place, and what is refused, by line, since a world can't steer it.

The calls that Python code can be kept from are replaced while a world is in force. Whatever blocks in another way (a
lock, a loop without an end) is stopped by a signal after some seconds without a step, where the platform and the
program leave us SIGALRM.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flower.testing._findings import BlockedOutside
from flower.testing._outcome import PACKAGE

if TYPE_CHECKING:
    from flower.testing._world import World

STALL = 5.0  # seconds of real time within which a tasklet must come to its next operation

_SOCKET = (
    "accept",
    "bind",
    "connect",
    "connect_ex",
    "listen",
    "recv",
    "recv_into",
    "recvfrom",
    "send",
    "sendall",
    "sendto",
)
_ADVICE = {
    "time.sleep": "use flower.time.sleep",
    "threading.Thread.start": "start a tasklet, or test this part without a World",
    "subprocess.Popen": "test this part without a World",
}


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


class InlineWorkers:
    """`flower.blocking` in a world: the function runs in the hub, at a moment when nothing else does."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def submit(self, job: Callable[[], object]) -> None:
        self._scheduler.post(job)


_sleeping: list[tuple[Any, str]] = []
_scanned = 0


def _names_of_sleep() -> list[tuple[Any, str]]:
    """Every module that has ``time.sleep``, and its name there: many a program imports it by itself."""
    global _scanned
    if len(sys.modules) != _scanned:
        _scanned = len(sys.modules)
        _sleeping[:] = [
            (module, name)
            for module in list(sys.modules.values())
            for name, value in list(getattr(module, "__dict__", {}).items())
            if value is time.sleep
        ]
    return _sleeping


class Guard:
    """The replaced calls of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._thread = threading.get_ident()
        self._undo: list[Callable[[], object]] = []
        self._seen = -1
        self._steps = 0
        self._alarm: Any = None

    def install(self) -> None:
        for module, name in _names_of_sleep():
            self._replace(module, name, "time.sleep")
        self._replace(threading.Thread, "start", "threading.Thread.start")
        self._replace(subprocess.Popen, "__init__", "subprocess.Popen")
        for name in _SOCKET:
            self._replace(socket.socket, name, f"socket.{name}")
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
            if signal.getsignal(signal.SIGALRM) is signal.SIG_DFL and signal.getitimer(signal.ITIMER_REAL)[0] == 0.0:
                signal.signal(signal.SIGALRM, self._on_alarm)
                signal.setitimer(signal.ITIMER_REAL, STALL, STALL)
                self._alarm = True

    def remove(self) -> None:
        if self._alarm:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        while self._undo:
            self._undo.pop()()

    def alive(self, steps: int) -> None:
        """The world has taken a step."""
        self._steps = steps

    def _replace(self, owner: Any, name: str, shown: str) -> None:
        had = name in vars(owner)
        original = getattr(owner, name)
        thread = self._thread

        def refuse(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return original(*args, **kwargs)
            return self._refuse(f"{shown}()", _ADVICE.get(shown, "connect through flower.net, which is simulated here"))

        setattr(owner, name, refuse)
        self._undo.append((lambda: setattr(owner, name, original)) if had else (lambda: delattr(owner, name)))

    def _refuse(self, what: str, advice: str) -> None:
        error = BlockedOutside(f"{what} at {_line(sys._getframe(2))}: a World can't steer that; {advice}")
        self._world.abort(error)
        raise error

    def _on_alarm(self, signum: int, frame: Any) -> None:
        if self._seen != self._steps:
            self._seen = self._steps
            return
        error = BlockedOutside(f"no step for {STALL:g} seconds: it blocks, or goes round for good, at {_line(frame)}")
        self._world.abort(error)
        raise error


def _line(frame: Any) -> str:
    while frame is not None and frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}" if frame is not None else "?"
