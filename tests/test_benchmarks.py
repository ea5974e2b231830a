"""The benchmarks' frame: every subject is well formed, and a run gives a record, a table and a page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import registry, report, unhooked

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", registry.names())
def test_subject_is_well_formed(name: str) -> None:
    subject = registry.load(name)
    keys = [competitor.key for competitor in subject.competitors]
    assert any(library == "flower" for library, _ in keys)
    for target in subject.targets:
        assert target.ours in keys
        assert target.peer is None or target.peer in keys


@pytest.mark.parametrize("name", registry.names())
def test_go_has_what_the_subject_names(name: str) -> None:
    subject = registry.load(name)
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks" / "go").glob("*.go"))
    for competitor in subject.competitors:
        if competitor.library == "go":
            assert f'register("{name}", "{competitor.variant}", ' in source


def test_the_core_without_the_hooks_of_the_testing_kit() -> None:
    """Each look at a hook is known to `unhooked`, in whichever file of a compiled module it is."""
    look = re.compile(r"_watch\.watched|\.(?:chooser|interposer|clock) is ")
    changed = unhooked.without_hooks()
    core = ROOT / "flower" / "channels"
    compiled = {path.stem for path in core.glob("*.pxd")} - {"_watch"}
    files = [core / (module + suffix) for module in compiled for suffix in (".py", ".pxd")]
    looks = {file.name for file in files if file.exists() and look.search(file.read_text())}
    assert looks == set(changed)
    assert not any(look.search(source) for source in changed.values())


def record(*results: dict[str, Any]) -> dict[str, Any]:
    return {
        "date": "2020-02-02 02:02 UTC",
        "commit": "0123456789ab",
        "machine": {"system": "Some", "processor": "Any", "cores": 2, "load": [0, 0, 0]},
        "versions": {"Python": "3.11.0"},
        "rounds": 3,
        "scale": 1.0,
        "seconds": 1.0,
        "subjects": [{"name": "buffered", "results": list(results)}],
    }


def result(library: str, *rounds: float, **more: Any) -> dict[str, Any]:
    return {"library": library, "variant": "", "rounds": [[cost, cost] for cost in rounds], **more}


def verdict(made: dict[str, Any], text: str) -> report.Verdict:
    return next(v for _, v in report.verdicts(made, "wall") if v.target.text == text)


DEQUE = "one value, in deque append + popleft"
GEVENT = "one value, faster than gevent's Queue"


def test_ratios_are_taken_within_each_round() -> None:
    # The machine was slow in round two: the ratio of the medians would be 3.
    made = record(result("deque", 1.0, 4.0, 1.0), result("flower", 2.0, 8.0, 3.0), result("gevent", 6.0, 9.0, 9.0))
    assert verdict(made, DEQUE).figure == 2.0
    assert verdict(made, DEQUE).word == "pass"
    assert verdict(made, GEVENT).figure == 3.0
    assert verdict(made, GEVENT).best == 3.0
    assert "pass" in report.text(made, "wall")


def test_a_missed_target_says_so() -> None:
    made = record(result("deque", 1.0), result("flower", 2.5), result("gevent", 5.0))
    assert verdict(made, DEQUE).word == "FAIL"
    assert verdict(made, GEVENT).word == "FAIL"


def test_what_is_missing_is_said_and_not_judged() -> None:
    made = record(result("deque", 1.0), result("flower", 2.0), result("gevent", missing="No module named 'gevent'"))
    assert verdict(made, GEVENT).passed is None
    assert "missing: No module named 'gevent'" in report.text(made, "wall")
    assert report.errors(made) == []


def test_an_uncompiled_core_is_not_judged() -> None:
    made = record(result("deque", 1.0), result("flower", 2.0, compiled=False), result("gevent", 9.0))
    assert verdict(made, DEQUE).passed is None
    assert "NOT compiled" in report.text(made, "wall")


def test_a_failed_measurement_is_an_error() -> None:
    traceback = "Traceback (most recent call last):\n  File ...\nValueError: no\nThis is a note."
    made = record(result("deque", 1.0), result("flower", error=traceback), result("gevent", 9.0))
    assert len(report.errors(made)) == 1
    assert "ERROR, flower: ValueError: no\n" in report.text(made, "wall")


def test_the_recorded_run_is_rewritten_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    made = record(result("deque", 1.0), result("flower", 2.0), result("gevent", 9.0))
    for _ in range(2):
        report.rewrite(page, made, "wall")
        text = page.read_text()
        assert text.startswith(f"before\n{report.BEGIN}\n")
        assert text.endswith(f"{report.END}\nafter\n")
        assert "old" not in text
        assert text.count("0123456789ab") == 1
    page.write_text("no markers")
    with pytest.raises(ValueError, match="markers"):
        report.rewrite(page, made, "wall")


@pytest.mark.slow
def test_a_quick_run(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--only", "buffered", "--json", str(path)],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "Buffered channel, one value through" in done.stdout
    (subject,) = json.loads(path.read_text())["subjects"]
    measured = {result["library"] for result in subject["results"] if result["rounds"]}
    assert {"flower", registry.PURE, "deque"} <= measured
