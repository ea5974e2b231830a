"""Servers under load from a process of its own, each on its core; and the load's figures."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.registry import Stopwatch

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "benchmarks" / "load" / "load.c"
PROGRAM = ROOT / "build" / "bench" / "load"
HOME = "127.0.0.1"


def load_program() -> str:
    """The load's program, compiled where it is missing or old."""
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime < SOURCE.stat().st_mtime:
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        part = PROGRAM.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", "-O2", "-o", str(part), str(SOURCE)], check=True)
        part.replace(PROGRAM)
    return str(PROGRAM)


@contextmanager
def on_two_cores(pid: int) -> Iterator[None]:
    """This process on one core, and the other on the next, where there are two."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) > 1:
        os.sched_setaffinity(pid, {cores[1]})
        os.sched_setaffinity(0, {cores[0]})
    try:
        yield
    finally:
        if len(cores) > 1:
            os.sched_setaffinity(0, set(cores))


def listening() -> socket.socket:
    """A listening socket on a port of its own."""
    return socket.create_server((HOME, 0), backlog=1024)


def measured(
    serve: Callable[[socket.socket, int], None],
    n: int,
    watch: Stopwatch,
    mode: str,
    connections: int,
    size: int,
    *more: str,
) -> dict[str, Any]:
    """Run ``serve(listening socket, connections)``, which returns when so many have come and gone, under load."""
    warmup = max(1, n // 10)
    with listening() as sock:
        numbers = (sock.getsockname()[1], connections, size, n, warmup, os.getpid())
        load = subprocess.Popen([load_program(), mode, *map(str, numbers), *more], stdout=subprocess.PIPE)
        with on_two_cores(load.pid):
            serve(sock, n + warmup if mode == "accept" else connections)
            out, _ = load.communicate(timeout=60)
    if load.returncode:
        raise RuntimeError(f"the load ended with {load.returncode}")
    found: dict[str, Any] = json.loads(out)
    watch.wall, watch.cpu = found["wall"], found["cpu"]
    return found
