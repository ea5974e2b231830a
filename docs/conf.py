"""Settings of the documentation. Built from the uncompiled sources: `make docs`."""

import configparser
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

_metadata = configparser.ConfigParser()
_metadata.read(ROOT / "setup.cfg", encoding="utf-8")

project = "Flower"
author = "the Flower authors"
version = release = _metadata["metadata"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
root_doc = "index"
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

html_theme = "alabaster"
html_theme_options = {"description": "Tasklets that talk only over channels", "fixed_sidebar": True}


def c_methods() -> set[str]:
    """The methods, as "class.name", that are C functions once compiled: nobody outside can call them."""
    found = set()
    for path in (ROOT / "flower").rglob("*.pxd"):
        owner = ""
        for line in path.read_text("utf-8").splitlines():
            if opening := re.match(r"cdef class (\w+)", line):
                owner = opening[1]
            elif method := re.match(r"\s+cdef [^=(]*?(\w+)\(self\b", line):
                found.add(f"{owner}.{method[1]}")
    return found


_C_METHODS = c_methods()


def skip_member(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    return True if getattr(obj, "__qualname__", "") in _C_METHODS else None


def setup(app: Any) -> None:
    app.connect("autodoc-skip-member", skip_member)
