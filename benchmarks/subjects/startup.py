"""How long the import takes, in a fresh interpreter, and whether it drags in an event loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from benchmarks.registry import Stopwatch, Subject

SUBJECT = Subject("startup", "Import, in a fresh interpreter", "ms", "import")

# With byte code written, as everywhere but in some containers: else each run would compile every source anew.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

PROGRAM = """
import time
wall, cpu = time.perf_counter(), time.process_time()
import {module}
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
import json, sys
loops = sorted({{"asyncio", "uvloop"}} & set(sys.modules))
print(json.dumps([wall, cpu, loops]))
"""


def _import(module: str, watch: Stopwatch) -> list[str]:
    """Import the module in an interpreter of its own; the event loops that came with it."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module)], env=ENVIRONMENT, capture_output=True, text=True
    )
    if result.returncode:
        error = result.stderr.strip().splitlines()[-1]
        raise ImportError(error) if "ModuleNotFoundError" in error else RuntimeError(result.stderr)
    loops: list[str]
    watch.wall, watch.cpu, loops = json.loads(result.stdout)
    return loops


def _imports(module: str, n: int, watch: Stopwatch) -> None:
    wall = cpu = 0.0
    for _ in range(n):
        loops = _import(module, watch)
        if module == "flower" and loops:
            raise AssertionError(f"import flower imports {', '.join(loops)}")
        wall, cpu = wall + watch.wall, cpu + watch.cpu
    watch.wall, watch.cpu = wall, cpu


@SUBJECT.flower(1, 1)
def flower(n: int, watch: Stopwatch) -> None:
    _imports("flower", n, watch)


@SUBJECT.by("gevent", 1)
def gevent(n: int, watch: Stopwatch) -> None:
    _imports("gevent", n, watch)


@SUBJECT.by("asyncio+uvloop", 1)
def asyncio(n: int, watch: Stopwatch) -> None:
    _imports("uvloop", n, watch)


@SUBJECT.by("trio", 1)
def trio(n: int, watch: Stopwatch) -> None:
    _imports("trio", n, watch)


SUBJECT.at_most("import flower, in milliseconds", ("flower", ""), None, 40, "extra")
