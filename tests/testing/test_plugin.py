"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.testing.support import SCHEDULE

ROOT = Path(__file__).resolve().parent.parent.parent
TESTS = """
import flower
import flower.testing as ft

count = []

@ft.explore(database=None, max_examples=300)
def test_lost_update(w):
    count.append(1)
    state, ledger = [0], flower.channel(9)
    def add():
        before = state[0]
        ledger.send(1)
        state[0] = before + 1
    w.go(add)
    w.go(add)
    w.settle()
    print("examples:", len(count))
    assert state == [2]

def test_plain():
    pass
"""


@pytest.fixture
def run(tmp_path: Path) -> object:
    (tmp_path / "test_it.py").write_text(TESTS, "utf-8")

    def pytest_there(*options: str) -> tuple[int, str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        command = [sys.executable, "-m", "pytest", "-p", "flower.testing._plugin", "-p", "no:cacheprovider", *options]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    return pytest_there


@pytest.mark.slow
def test_a_report_can_be_run_again(run: object) -> None:
    status, text = run()  # type: ignore[operator]
    assert status == 1 and "1 failed, 1 passed" in text
    assert "is pre-empted" in text
    match = SCHEDULE.search(text)
    assert match, text
    status, text = run(f"--flower-schedule={match[1]}", "--verbose")  # type: ignore[operator]
    assert status == 1 and "1 failed, 1 deselected" in text
    assert "examples: 1\n" in text


PARAMETERS = """
import pytest
import flower
import flower.testing as ft

@pytest.mark.parametrize("capacity", [0, 1, 2])
@ft.explore(database=None, max_examples=300)
def test_order(w, capacity):
    ch, order = flower.channel(capacity), []
    def send():
        ch.send(1)
        order.append("sent")
    def receive():
        ch.receive()
        order.append("received")
    w.go(send)
    w.go(receive)
    w.settle()
    assert order == ["sent", "received"] or capacity == 0
"""


@pytest.mark.slow
def test_a_report_is_of_one_of_the_parameters(run: object, tmp_path: Path) -> None:
    """Its schedule runs with these alone: with others it may fail in another way, or not at all."""
    (tmp_path / "test_it.py").write_text(PARAMETERS, "utf-8")
    status, text = run()  # type: ignore[operator]
    assert status == 1 and "2 failed, 1 passed" in text, text
    schedules = list(dict.fromkeys(SCHEDULE.findall(text)))  # where CI is set, the summary has them once more
    assert len(schedules) == 2
    for capacity, schedule in enumerate(schedules, 1):
        status, text = run(f"--flower-schedule={schedule}", "-rf")  # type: ignore[operator]
        assert status == 1 and "1 failed, 2 deselected" in text and f"test_order[{capacity}]" in text, text
        assert schedule in text
    program = PARAMETERS.replace("@pytest", "# @pytest").replace("capacity):", "capacity=1):")  # it has none any more
    (tmp_path / "test_it.py").write_text(program, "utf-8")
    status, text = run(f"--flower-schedule={schedules[0]}")  # type: ignore[operator]
    assert status == 1 and "1 failed" in text, text


@pytest.mark.slow
def test_the_first_steps_of_the_guide(run: object, tmp_path: Path) -> None:
    """Its first program as a file for pytest, and the schedule string that it shows: made by another run, elsewhere."""
    guide = (ROOT / "docs" / "testing.md").read_text("utf-8")
    program = guide.partition("```python\n")[2].partition("```")[0]
    command = re.search(r"pytest (--flower-schedule=\S+) test_dinner.py", guide)
    assert command
    (tmp_path / "test_dinner.py").write_text(program, "utf-8")
    status, text = run("test_dinner.py")  # type: ignore[operator]
    assert status == 1 and "philosopher 0  is pre-empted" in text and command[1] in text, text
    status, text = run(command[1], "test_dinner.py")  # type: ignore[operator]
    assert status == 1 and "philosopher 0  is pre-empted" in text, text
    fix = guide.split("```python\n")[2].partition("```")[0]
    fixed = program.replace("@ft", f"{fix}\n\n@ft").replace("(philosopher, forks", "(polite, forks")
    (tmp_path / "test_dinner.py").write_text(fixed, "utf-8")
    status, text = run("test_dinner.py")  # type: ignore[operator]
    assert status == 0, text


@pytest.mark.slow
def test_hypothesis_runs_it_again_too(run: object, tmp_path: Path) -> None:
    """The decorator that Hypothesis proposes, and its statistics, work with explored tests as with its own."""
    _, text = run("-p", "_hypothesis_pytestplugin", "--hypothesis-show-statistics")  # type: ignore[operator]
    assert re.search(r"\* [\d.]+%, a new schedule", text), text
    decorator = re.search(r"@reproduce_failure\(.*\)(?= as a decorator)", text)
    assert decorator, text
    file = tmp_path / "test_it.py"
    changed = TESTS.replace("@ft.explore", f"from hypothesis import reproduce_failure\n{decorator[0]}\n@ft.explore")
    file.write_text(changed, "utf-8")
    status, text = run("-p", "_hypothesis_pytestplugin")  # type: ignore[operator]
    assert status == 1 and "is pre-empted" in text and "examples: 1\n" in text, text


@pytest.mark.slow
def test_the_number_of_examples(run: object) -> None:
    status, text = run("--flower-examples=1", "-rP")  # type: ignore[operator]
    assert status == 0, text
    assert "examples: 1\n" in text and "examples: 2" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--flower-examples=0", "at least 1, not 0"),
        ("--flower-schedule=flower9:0:0::", "is of version flower9"),
        ("--flower-schedule=flower1:00000000:0::", "belongs to none of the tests"),
    ],
)
def test_bad_options(run: object, option: str, message: str) -> None:
    status, text = run(option)  # type: ignore[operator]
    assert status == 4 and message in text
