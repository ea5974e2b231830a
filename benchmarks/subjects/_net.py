"""Servers under load from a process of its own, each on its core; and the load's figures."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
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


def pin(core: int) -> None:
    """Keep this process on one core, where there are two."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[core]})


class Load:
    """The load on a server of this process, which goes on until every connection has come and gone."""

    def __init__(self, port: int, mode: str, connections: int, size: int, n: int, more: Sequence[str] = ()) -> None:
        warmup = max(1, n // 10)
        command = [load_program(), mode, *map(str, (port, connections, size, n, warmup, os.getpid())), *more]
        self.connections = connections if mode != "accept" else n + warmup
        cores = sorted(os.sched_getaffinity(0))
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        if len(cores) > 1:
            os.sched_setaffinity(self.process.pid, {cores[1]})
            os.sched_setaffinity(0, {cores[0]})
        self._cores = cores

    def result(self) -> dict[str, Any]:
        """The figures, once the server has come to its end."""
        out, _ = self.process.communicate(timeout=60)
        os.sched_setaffinity(0, set(self._cores))
        if self.process.returncode:
            raise RuntimeError(f"the load ended with {self.process.returncode}")
        found: dict[str, Any] = json.loads(out)
        return found


def listening() -> socket.socket:
    """A listening socket on a port of its own."""
    return socket.create_server((HOME, 0), backlog=1024)


def measured(serve: Callable[[socket.socket, int], None], n: int, watch: Stopwatch, mode: str, *args: Any) -> Any:
    """Run ``serve(listening socket, connections)``, which returns when so many have come and gone, under load."""
    with listening() as sock:
        load = Load(sock.getsockname()[1], mode, *args[:2], n, args[2:])
        serve(sock, load.connections)
    found = load.result()
    watch.wall, watch.cpu = found["wall"], found["cpu"]
    return found
