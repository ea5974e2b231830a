"""The examples of the kit: each bug is found soon, and shrunk to little; each fix passes."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flower.testing import explore
from tests.testing.support import COMPILED, out_of_turn

FOLDER = Path(__file__).resolve().parent.parent.parent / "examples" / "testing"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))
SEEDS = int(os.environ.get("FLOWER_SEEDS", "3"))  # the promise is for 20 of 20
SECONDS = 2.0 if COMPILED else 4.0  # processor time, in which a bug is found and shrunk
MOST_SWITCHES = 5  # out of turn, in the schedule that is shown

pytestmark = pytest.mark.slow


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"kit_example_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def both_tests(name: str) -> tuple[Any, Any]:
    """The explored test that finds the bug, and that of the fix: in this order in the file."""
    broken, fixed = (thing for key, thing in vars(load(name)).items() if key.startswith("test_"))
    return broken, fixed


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 7


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_bug_is_found_and_shrunk(name: str) -> None:
    plan = both_tests(name)[0].flower_plan
    for seed in range(SEEDS):
        started = time.process_time()
        with pytest.raises(AssertionError) as found:
            explore(max_examples=300, database=None, seed=seed)(plan.test)()
        spent = time.process_time() - started
        assert out_of_turn(found.value) <= MOST_SWITCHES, seed
        assert spent < SECONDS, f"seed {seed}: {spent:.2f} s"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_fix_passes(name: str) -> None:
    plan = both_tests(name)[1].flower_plan
    explore(max_examples=100, database=None, seed=7)(plan.test)()


def unnumbered(line: str) -> str:
    """A line of a report without the numbers of steps, which are another matter."""
    return re.sub(r"^([> ]) +\d+ |\d+ (?=steps)", r"\1", line)


# Runs an example as a program, with the same search each time.
SEEDED = """
import runpy, sys
import flower.testing as ft

explore = ft.explore
ft.explore = lambda **options: explore(seed=1, **options)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_report_is_what_the_file_says(name: str) -> None:
    program = FOLDER / f"{name}.py"
    env = {**os.environ, "PYTHONPATH": str(FOLDER.parent.parent), "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", SEEDED, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, cwd=FOLDER)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip().endswith("nothing found")
    documented = program.read_text("utf-8").partition('"""')[2].partition('"""')[0].partition("such as\n\n")[2]
    printed = iter([unnumbered(line) for line in done.stdout.splitlines()])
    for line in documented.replace("\\\\", "\\").splitlines():
        wanted = unnumbered(line[4:])
        if wanted and wanted.strip() != "...":
            assert wanted in printed, wanted  # in this order
    assert "The schedule (" in documented
