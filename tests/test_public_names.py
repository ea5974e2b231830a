"""The public names are exactly those that docs/api.rst documents."""

import importlib
import inspect
import pkgutil
import re
from collections import defaultdict
from pathlib import Path

import pytest

import flower

API = Path(__file__).resolve().parent.parent / "docs" / "api.rst"
DIRECTIVE = re.compile(r"^\.\. (?:(?P<module>currentmodule)|auto(?:function|class|exception|data)):: +(?P<name>\S+)")


def documented() -> dict[str, list[str]]:
    """The names that the reference describes, by the module that it describes them in."""
    names: dict[str, list[str]] = defaultdict(list)
    module = ""
    for line in API.read_text("utf-8").splitlines():
        if found := DIRECTIVE.match(line):
            if found["module"]:
                module = found["name"]
            else:
                names[module].append(found["name"])
    return names


SUBMODULES = [found.name for found in pkgutil.iter_modules(flower.__path__)]
PUBLIC = ["flower"] + [f"flower.{name}" for name in SUBMODULES if not name.startswith("_")]
# A package whose names all stand in `flower` too, where they are documented.
PUBLIC.remove("flower.channels")


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_the_documented_ones(module: str) -> None:
    names = importlib.import_module(module).__all__
    assert sorted(names) == sorted(documented()[module])
    assert len(set(names)) == len(names)


def test_only_public_modules_are_documented() -> None:
    assert set(documented()) <= set(PUBLIC)


@pytest.mark.parametrize("module", PUBLIC)
def test_help_shows_the_arguments_of_every_function(module: str) -> None:
    """A compiled function with a default that is no literal shows none by itself: its docstring begins with them."""
    loaded = importlib.import_module(module)
    for name in loaded.__all__:
        function = getattr(loaded, name)
        if callable(function) and not isinstance(function, type):
            try:
                inspect.signature(function)
            except ValueError:
                assert inspect.getdoc(function).startswith(f"{name}("), name


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_exists_and_has_a_docstring(module: str) -> None:
    loaded = importlib.import_module(module)
    bare = [name for name in loaded.__all__ if not getattr(loaded, name).__doc__]
    assert bare == []
