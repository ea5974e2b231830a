"""The core as it would be without the testing kit's hooks: for the comparison that shows what they cost.

A copy of the package in ``build/``, in which each look at a hook is replaced by its answer while nobody has set one:
the C compiler then leaves out what depends on it. The copy is compiled once for each state of the sources.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOOKS = [
    # in which file of flower/channels; the look at a hook; its answer; how often it is there
    ("_channel.py", r"_watch\.watched", "False", 6),
    ("_channel.pxd", r"_watch\.watched", "False", 2),
    ("_scheduler.py", r"\b(?:self|s)\.(?:chooser|clock) is not None", "False", 3),
    ("_select.py", r"_watch\.watched", "False", 3),
    ("_select.py", r"\bs\.interposer is not None", "False", 1),
    ("_select.py", r"\bs\.interposer is None", "True", 2),
    ("_tasklet.py", r"\bs\.chooser is not None", "False", 2),
]


def without_hooks() -> dict[str, str]:
    """The files that have hooks, without them. Raises RuntimeError where they no longer fit."""
    sources: dict[str, str] = {}
    for file, look, answer, count in HOOKS:
        source = sources.get(file) or (ROOT / "flower" / "channels" / file).read_text("utf-8")
        sources[file], found = re.subn(look, answer, source)
        if found != count:
            raise RuntimeError(f"{file} looks {found} times at {look}, and not {count} times: benchmarks/unhooked.py")
    return sources


def build() -> Path:
    """The folder with the compiled copy of the package; takes a minute or two where it is not there yet."""
    changed = without_hooks()
    files = sorted(path for path in (ROOT / "flower").rglob("*.p*") if path.suffix in (".py", ".pxd", ".pyi"))
    core = [ROOT / "setup.py", *(path for path in files if path.parent.name == "channels")]
    state = hashlib.sha256(repr(changed).encode() + b"\0".join(path.read_bytes() for path in core))
    folder = ROOT / "build" / "unhooked" / f"{sys.implementation.cache_tag}-{state.hexdigest()[:16]}"
    if (folder / "done").exists():
        return folder
    shutil.rmtree(folder.parent, ignore_errors=True)
    for path in files:
        copy = folder / path.relative_to(ROOT)
        if path.suffix == ".pxd" and path.parent.name != "channels" and path.name != "__init__.pxd":
            continue  # only the core is measured
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = changed.get(path.name) if path.parent.name == "channels" else None
        copy.write_text(path.read_text("utf-8") if text is None else text, "utf-8")
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "UNLICENSE"):
        shutil.copy(ROOT / name, folder)
    env = {key: value for key, value in os.environ.items() if key != "FLOWER_PURE"}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the core without hooks does not compile:\n{done.stderr[-2000:]}")
    (folder / "done").touch()
    return folder


if __name__ == "__main__":
    print(build())
