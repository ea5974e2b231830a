"""FLOWER_PURE=1: import the compiled modules' sources although the compiled ones lie beside them.

For debuggers, coverage and doubts about the compiler. `flower/__init__.py` calls `install()` before it
imports anything else of Flower.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from types import ModuleType


class _SourceFinder:
    """Finds Flower's modules as Python source only. Stands first in `sys.meta_path`."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if path is None or not name.startswith("flower."):
            return None
        for folder in path:
            spec = FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(name)
            if spec is not None and spec.loader is not None:
                return spec
        return None


def install() -> None:
    """Put the finder in place if the environment asks for it; a second call changes nothing."""
    wanted = os.environ.get("FLOWER_PURE", "") not in ("", "0")
    if wanted and not any(isinstance(finder, _SourceFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _SourceFinder())
