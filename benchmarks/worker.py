"""The process in which one competitor is measured: ``python -m benchmarks.worker SUBJECT INDEX SCALE``.

INDEX is the competitor's place in the subject, SCALE shortens the work (1.0 is full length). One JSON object
goes to standard output. A library that can't be imported gives ``{"missing": ...}``, any other error a
traceback and exit code 1. The process ends by ``os._exit``: what it built up is not torn down.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

from benchmarks.registry import Competitor, Stopwatch, load


def measure(competitor: Competitor, scale: float) -> dict[str, Any]:
    function = competitor.function
    if function is None:
        raise TypeError(f"{competitor} is not measured in Python")
    n = max(1, int(competitor.n * scale))
    samples = []
    if competitor.repeats > 1:  # a competitor that is timed once is too large to be warmed up
        function(max(1, n // 10), Stopwatch())
    for _ in range(competitor.repeats):
        gc.collect()
        watch = Stopwatch()
        function(n, watch)
        if watch.value is not None:
            samples.append((watch.value, watch.value))
        else:
            samples.append((watch.wall / n, watch.cpu / n))
    result: dict[str, Any] = {"samples": samples, "n": n}
    if competitor.library.startswith("flower") and "flower" in sys.modules:
        import flower
        from flower.channels import _scheduler

        result["compiled"] = bool(_scheduler.COMPILED)
        result["flower"] = os.path.dirname(flower.__file__)
    return result


def main(argv: list[str]) -> None:
    subject, index, scale = argv
    competitor = load(subject).competitors[int(index)]
    try:
        result = measure(competitor, float(scale))
    except ImportError as error:
        if competitor.library.startswith("flower"):
            raise  # its absence is a failure, not a matter of what is installed
        result = {"missing": str(error)}
    print(json.dumps(result), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
