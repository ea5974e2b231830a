"""Helpers of the channel tests."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import flower
from flower.channels import _scheduler

COMPILED: bool = _scheduler.COMPILED
CAPACITIES = [0, 1, 2, 100]
NEVER = 60.0  # seconds; a timeout that a passing test never sees elapse
SOON = 0.002  # seconds; a timeout that a test waits for


def scaled(n: int) -> int:
    """A count for compiled code, less where the core runs uncompiled."""
    return n if COMPILED else max(1, n // 5)


def settle(rounds: int = 100_000) -> None:
    """Runs the other tasklets of this thread until each is blocked or has ended."""
    for _ in range(rounds):
        if flower.getruncount() <= 1:
            return
        flower.schedule()
    raise AssertionError("the tasklets never came to rest")


def spawn_parked(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A new tasklet that has run until it blocked."""
    t = flower.go(func, *args, **kwargs)
    settle()
    assert t.blocked, "it was to block"
    return t


def drain(ch: Any) -> list[Any]:
    """All that can be received without waiting."""
    got = []
    nothing = object()
    while (value := ch.try_receive(nothing)) is not nothing:
        got.append(value)
    return got


def in_thread(func: Callable[..., Any], *args: Any) -> Any:
    """func's result, from a thread of its own that has ended; its error is raised here."""
    result: list[Any] = []
    error: list[BaseException] = []

    def body() -> None:
        try:
            result.append(func(*args))
        except BaseException as e:
            error.append(e)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(NEVER)
    assert not thread.is_alive(), "the thread hangs"
    if error:
        raise error[0]
    return result[0]


def python(
    code: str, *options: str, env: dict[str, str] | None = None, limit: float = NEVER
) -> subprocess.CompletedProcess[str]:
    """Runs a program in an interpreter of its own, to its end; past the limit of seconds it fails."""
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=limit,
        env={**os.environ, **(env or {})},
    )


def output(code: str, *options: str, env: dict[str, str] | None = None, limit: float = NEVER) -> str:
    """What a program prints that must end well and say nothing on standard error."""
    done = python(code, *options, env=env, limit=limit)
    assert (done.returncode, done.stderr) == (0, ""), f"ended with {done.returncode}:\n{done.stderr}"
    return done.stdout


class Interrupted:
    """A program in an interpreter of its own that gets signals when it has printed a line."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", textwrap.dedent(code)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def finish(self) -> tuple[int, str, str]:
        """Its exit status, the rest of its output, and its standard error."""
        try:
            out, err = self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"the program hangs; it printed {out!r} {err!r}") from None
        return self.process.returncode, out, err


class Frozen(Exception):
    """Takes no attribute once it is made: no notes, no context, no traceback of another."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} can't be set")
