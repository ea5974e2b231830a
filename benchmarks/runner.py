"""Runs the subjects: each measurement in a process of its own, competitors interleaved round by round.

Interleaving is what makes the ratios honest: a machine that slows down for a while slows all competitors of
that round alike. The order within a round turns around every other round, so that no one always comes after
the same neighbour.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.registry import PURE, Competitor, Subject, load, names

ROOT = Path(__file__).resolve().parent.parent
WORKER_LIMIT = 120.0  # seconds; the longest measurement takes about five
PACKAGES = ["greenlet", "Cython", "uvloop", "msgpack", "gevent", "trio", "grpcio"]
"""Distributions whose versions belong to a record, beside Python's and Go's."""


@dataclass(frozen=True)
class Plan:
    """How long and how often."""

    rounds: int
    scale: float  # of each competitor's n
    only: Sequence[str] = ()

    @classmethod
    def full(cls, only: Sequence[str] = ()) -> Plan:
        return cls(rounds=5, scale=1.0, only=only)

    @classmethod
    def quick(cls, only: Sequence[str] = ()) -> Plan:
        return cls(rounds=1, scale=0.1, only=only)


@dataclass
class Missing(Exception):
    """What a competitor needs is not installed."""

    reason: str


@dataclass
class Failed(Exception):
    """A measurement did not end as it should."""

    reason: str


def run(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Run what the plan names; the whole record, ready to be written as JSON."""
    started = time.perf_counter()
    record: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "rounds": plan.rounds,
        "scale": plan.scale,
        "subjects": [],
    }
    chosen = [load(name) for name in names() if not plan.only or name in plan.only]
    with tempfile.TemporaryDirectory(prefix="flower-bench-") as folder:
        wants_go = any(c.library == "go" for subject in chosen for c in subject.competitors)
        go = GoProgram(Path(folder), say) if wants_go else None
        for subject in chosen:
            record["subjects"].append(run_subject(subject, plan, go, say))
    record["seconds"] = round(time.perf_counter() - started, 1)
    return record


def run_subject(subject: Subject, plan: Plan, go: GoProgram | None, say: Callable[[str], None]) -> dict[str, Any]:
    rounds = min(plan.rounds, subject.rounds or plan.rounds)
    results: dict[tuple[str, str], dict[str, Any]] = {
        c.key: {"library": c.library, "variant": c.variant, "rounds": []} for c in subject.competitors
    }
    running = list(enumerate(subject.competitors))
    if subject.prepare is not None:
        say(f"{subject.name}: getting ready")
        subject.prepare()
    for number in range(rounds):
        began = time.perf_counter()
        for index, competitor in list(running if number % 2 == 0 else reversed(running)):
            result = results[competitor.key]
            try:
                outcome = measure(subject, index, competitor, plan.scale, go)
            except Missing as missing:
                result["missing"] = missing.reason
                running.remove((index, competitor))
            except Failed as failed:
                result["error"] = failed.reason
                running.remove((index, competitor))
                say(f"  {competitor}: FAILED: {report.last_error(failed.reason)}")
            else:
                result["rounds"].append(min(outcome["samples"]))  # what interferes only ever adds
                result["n"] = outcome["n"]
                if "compiled" in outcome:
                    result["compiled"] = outcome["compiled"]
        say(f"{subject.name}: round {number + 1} of {rounds}, {time.perf_counter() - began:.1f} s")
    return {"name": subject.name, "results": list(results.values())}


def measure(subject: Subject, index: int, competitor: Competitor, scale: float, go: GoProgram | None) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    if competitor.library == "go":
        if go is None or go.program is None:
            raise Missing(go.reason if go else "not asked for")
        n = max(1, int(competitor.n * scale))
        command = [str(go.program), subject.name, competitor.variant, str(n), str(competitor.repeats)]
    else:
        command = [sys.executable, "-m", "benchmarks.worker", subject.name, str(index), str(scale)]
    env = {key: value for key, value in os.environ.items() if key not in ("FLOWER_PURE", "GOMAXPROCS")}
    env |= competitor.env
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    try:
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=WORKER_LIMIT)
    except subprocess.TimeoutExpired:
        raise Failed(f"no end after {WORKER_LIMIT:.0f} s") from None
    if done.returncode:
        raise Failed(done.stderr.strip() or f"exit code {done.returncode}")
    outcome: dict[str, Any] = json.loads(done.stdout)
    if "missing" in outcome:
        raise Missing(outcome["missing"])
    if competitor.library == PURE and outcome.get("compiled"):
        raise Failed("FLOWER_PURE=1 gave the compiled core")
    return outcome


class GoProgram:
    """The Go halves, built once into a folder that goes away with the run."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.program: Path | None = None
        self.reason = ""
        go = shutil.which("go")
        if go is None:
            self.reason = "Go is not installed"
            return
        say("building the Go programs")
        program = folder / "flowerbench"
        env = dict(os.environ)
        if "HOME" not in env and "GOCACHE" not in env:
            env["GOCACHE"] = str(folder / "cache")
        built = subprocess.run(
            [go, "build", "-o", str(program), "."],
            cwd=ROOT / "benchmarks" / "go",
            env=env,
            capture_output=True,
            text=True,
        )
        if built.returncode:
            self.reason = f"go build failed: {built.stderr.strip()}"
            say(self.reason)
        else:
            self.program = program


# -- What the record says about where it was made


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def commit() -> str:
    """The commit that was measured, marked when files differ from it."""
    revision = _output("git", "rev-parse", "--short=12", "HEAD")
    if not revision:
        return "unknown"
    return f"{revision} with changes" if _output("git", "status", "--porcelain") else revision


def machine() -> dict[str, Any]:
    model = ""
    try:
        with open("/proc/cpuinfo") as cpuinfo:
            model = next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), "")
    except OSError:
        pass
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": model or platform.processor() or "unknown",
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    go = _output("go", "env", "GOVERSION")
    if go:
        found["Go"] = go.removeprefix("go")
    return found
