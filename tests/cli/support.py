"""Helpers of the command line's tests: what is served, and the commands as processes and in this one."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flower import cli
from tests.net.support import NEVER
from tests.test_examples import ended, environment

SERVICE = '''
"""What is served here."""

import os
import signal
import sys
import flower
from flower.time import sleep

class Calc:
    def add(self, a, b=10):
        """Add two values.

        Of any kind that can be added.
        """
        return a + b

    def echo(self, *args, **kwargs):
        return [list(args), kwargs] if kwargs else list(args)

    def same(self, value):
        return value

    def fail(self, text):
        raise ValueError(text)

    def pipe(self):
        raise BrokenPipeError("not ours")

    def odd(self):
        return [float("nan"), float("-inf"), {"a": float("inf")}]

    def power(self, bits):
        return [2**bits, {2**bits}]

    def binary(self):
        return b"\\xff\\x00"

    def slow(self, seconds):
        print("begun", flush=True)
        sleep(seconds)
        print("done", flush=True)
        return "rested"

    def count(self, n):
        yield from range(n)

    def pairs(self):
        yield ["a", 1]
        yield ["b", 2]

    def cut_short(self):
        yield 1
        raise ValueError("no more")

    def forever(self):
        try:
            yield 0
            flower.channel().receive(60)
        finally:
            print("ended", flush=True)

    def log(self, text):
        print("logged", text, flush=True)

calc = Calc()

def function(a):
    return a * 2

def _private():
    return "secret"

functions = {"double": function}
'''


def start(*words: str, folder: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flower", *words],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def run(*words: str, folder: Path | None = None) -> tuple[int, str, str]:
    """The exit code, and what was written to standard output and error."""
    with ended(start(*words, folder=folder)) as process:
        out, err = process.communicate(timeout=NEVER)
        return process.returncode, out, err


def good(*words: str) -> str:
    code, out, err = run(*words)
    assert (code, err) == (0, ""), (words, out, err)
    return out


@contextmanager
def watched(*words: str, stdout: bool = False) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process whose standard error, and output if wanted, is a terminal; and what a person sees of it."""
    seen, terminal = pty.openpty()
    try:
        out = terminal if stdout else subprocess.DEVNULL
        with subprocess.Popen(
            [sys.executable, "-m", "flower", *words], stdin=terminal, stdout=out, stderr=terminal, env=environment()
        ) as process:
            try:
                yield process, seen
            finally:
                process.kill()
    finally:
        os.close(terminal)
        os.close(seen)


def seen_until(terminal: int, text: str) -> str:
    found = ""
    while text not in found:
        assert select.select([terminal], [], [], NEVER)[0], found
        found += os.read(terminal, 4096).decode()
    return found


@contextmanager
def serving(folder: Path, target: str, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with ended(start("serve", target, *words, folder=folder)) as process:
        assert process.stdout and process.stderr
        line = process.stdout.readline()
        found = re.fullmatch(rf"serving {re.escape(target)} on (\S+)\n", line)
        assert found, line + process.stderr.read()
        yield process, found[1]


def in_process(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The same without a process of its own, which costs a fraction of the time."""
    code = cli.main(list(words))
    out, err = capsys.readouterr()
    return code, out, err
