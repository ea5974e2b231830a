"""Settings of the documentation. Built from the uncompiled sources: `make docs`."""

import configparser
from pathlib import Path

_metadata = configparser.ConfigParser()
_metadata.read(Path(__file__).parent.parent / "setup.cfg", encoding="utf-8")

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
