"""Measures what the testing kit promises, on its examples: `make promises`. Some minutes.

- Each planted bug is found within 300 examples, whatever the seed, and shrunk to few switches, soon.
- There is no false alarm in 10,000 examples over programs that are correct: the fixes of the examples.
- A second brings so many scheduling decisions, everything that is looked at and logged included.
- The same choices give the same log: the reports of two processes with other hash seeds are alike.

    python tools/promises.py [--seeds N] [--examples N]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from flower.testing import explore

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples" / "testing"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))

WITHIN = 300  # examples
MOST_SWITCHES = 5  # out of turn, in the schedule that is shown
SECONDS = 2.0  # of processor time, to find and to shrink
DECISIONS = 20_000  # a second


def tests_of(name: str) -> list[Any]:
    """The explored test that finds the bug, and that of the fix."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [test.flower_plan.test for key, test in vars(module).items() if key.startswith("test_")]


def find(name: str, seed: int) -> tuple[int, int, float, str] | None:
    """Examples until the bug was found, switches out of turn, processor seconds, and the report; None if it was not."""
    search = explore(max_examples=WITHIN, database=None, seed=seed)(tests_of(name)[0])
    plan: Any = search.flower_plan
    run_once = plan.run_once
    first = 0

    def counted(*args: Any) -> None:
        nonlocal first
        try:
            run_once(*args)
        except AssertionError:
            first = first or plan.examples
            raise

    plan.run_once = counted
    began = time.process_time()
    try:
        search()
    except AssertionError as error:
        spent = time.process_time() - began
        report = "\n".join(note for note in error.__notes__ if note.startswith(("The schedule", "To run")))
        choices = report.rpartition("flower-schedule=")[2].split(":")[3]
        return first, choices.count("p") + choices.count("r"), spent, report
    return None


def found(seeds: int) -> bool:
    print(f"{'bug':22} {'found':>9} {'examples':>10} {'switches':>10} {'seconds':>10}   (the most of all seeds)")
    good = True
    for name in EXAMPLES:
        runs = [find(name, seed) for seed in range(seeds)]
        done = [run for run in runs if run is not None]
        examples, switches, seconds = (max((run[i] for run in done), default=0) for i in range(3))
        good &= len(done) == seeds and switches <= MOST_SWITCHES and seconds < SECONDS
        print(f"{name:22} {len(done):3} of {seeds:2} {examples:10} {switches:10} {seconds:10.2f}", flush=True)
    return good


def no_false_alarm(examples: int) -> bool:
    each = -(-examples // len(EXAMPLES))
    for name in EXAMPLES:
        try:
            explore(max_examples=each, database=None, seed=1)(tests_of(name)[1])()
        except Exception as error:
            print(f"{name}: a false alarm: {error}")
            return False
    print(f"no false alarm in {each * len(EXAMPLES)} examples of the fixes")
    return True


def decisions() -> bool:
    from benchmarks.registry import Stopwatch
    from benchmarks.subjects.testing_decision import decisions as work

    best = 0.0
    for _ in range(3):
        watch = Stopwatch()
        work(20_000, watch)
        best = max(best, 20_000 / watch.cpu)
    print(f"{best:.0f} scheduling decisions a second of processor time")
    return best >= DECISIONS


def same_logs() -> bool:
    command = [sys.executable, __file__, "--logs"]
    logs = {
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("0", "1", "2")
    }
    print("the reports of three processes are " + ("alike" if len(logs) == 1 else "NOT alike"))
    return len(logs) == 1


def main() -> int:
    sys.path.insert(0, str(ROOT))
    parser = argparse.ArgumentParser(description="Measure what the testing kit promises.")
    parser.add_argument("--seeds", type=int, default=20, help="searches for each bug (20)")
    parser.add_argument("--examples", type=int, default=10_000, help="examples over correct programs (10000)")
    parser.add_argument("--logs", action="store_true", help="print the digest of one report of each example, no more")
    options = parser.parse_args()
    if options.logs:
        for name in EXAMPLES:
            run = find(name, 1)
            print(name, run and hashlib.sha256(run[3].encode()).hexdigest())
        return 0
    results = [found(options.seeds), no_false_alarm(options.examples), decisions(), same_logs()]
    print("all promises kept" if all(results) else "NOT all promises kept")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
