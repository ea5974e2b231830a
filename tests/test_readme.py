"""The programs in the README and in the documentation do what the text says.

A ```python block that is followed by a ```text block is a whole program, and that is its output. Any other
```python block is an extract: it must at least compile.
"""

import ast
import doctest
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flower.aio
import flower.io
import flower.process
import flower.stackless
from flower import rpc
from flower.rpc._url import TLS_OPTIONS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n"
    r"(?:\n*(?:[^\n`]+:\n+)?```text\n(?P<output>.*?)^```\n)?",  # with, if anything, one line between them
    re.M | re.S,
)


def blocks() -> list[tuple[str, str, str | None]]:
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append((f"{page.relative_to(ROOT).as_posix()}:{line}", match["code"], match["output"]))
    return found


PROGRAMS = [pytest.param(code, output, id=where) for where, code, output in blocks() if output is not None]


@pytest.mark.parametrize(("code", "output"), PROGRAMS)
def test_a_program_prints_what_the_text_says(code: str, output: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert (done.stdout, done.returncode) == (output, 0)


@pytest.mark.parametrize("module", [flower, flower.aio, flower.io, flower.process, flower.stackless])
def test_the_example_of_a_module_is_right(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder(recurse=False).find(module, module.__name__, globs={})
    told: list[str] = []
    assert doctest.DocTestRunner().run(example, out=told.append).attempted
    assert not told, "".join(told)
    flower.run()  # what is still under way


def test_extracts_compile() -> None:
    for where, code, output in blocks():
        if output is None:
            compile(code, where, "exec")


def test_extracts_give_serve_and_connect_options_that_there_are() -> None:
    for where, code, _ in blocks():
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("rpc.serve", "rpc.connect"):
                function = getattr(rpc, node.func.attr)
                known = {*inspect.signature(function).parameters, *rpc.Settings.__dataclass_fields__, *TLS_OPTIONS}
                assert {keyword.arg for keyword in node.keywords} <= known, where


def test_the_readme_opens_with_a_program_and_two_commands() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    opening = text.split("\n## ")[0]
    assert any(id.startswith("README.md:") for id, _, output in blocks() if output is not None)
    assert "make demo" in opening
    assert "make test" in opening
