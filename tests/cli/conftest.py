"""What the command line's tests serve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flower import cli, rpc
from tests.cli.support import SERVICE
from tests.net.support import HOME
from tests.rpc.support import settle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cli")
    (made / "aservice.py").write_text(SERVICE)
    (made / "broken.py").write_text("import no_such_module_at_all\n")
    (made / "fileless.py").write_text("class Service:\n    def __init__(self):\n        open('/no/such/file')\n")
    return made


@pytest.fixture
def url(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server in this process: what runs the command line here runs the server besides."""
    monkeypatch.syspath_prepend(str(folder))
    with rpc.serve(f"tcp://{HOME}:0", cli.load("aservice:Calc")) as server:
        yield server.url
    settle()
