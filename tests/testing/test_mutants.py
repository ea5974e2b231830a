"""The faults that `make mutants` plants fit the core as it is. (Whether each is found takes minutes to see.)"""

from __future__ import annotations

import runpy
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "mutants.py"


def test_each_fault_replaces_one_text_of_the_core() -> None:
    tool = runpy.run_path(str(TOOL))
    assert len(tool["FAULTS"]) >= 20
    tool["check_texts"](tool["FAULTS"])
