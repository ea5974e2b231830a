"""`pip wheel .` makes a wheel that runs where there is no compiler and nothing else of the project.

Real tools: pip builds in an environment of its own, and the wheel goes into a new virtual environment.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("flower", "setup.cfg", "setup.py", "pyproject.toml", "README.md", "UNLICENSE", "LICENSE")
BESIDE = (
    "benchmarks",
    "docs",
    "examples",
    "tests",
    "tools",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "MANIFEST.in",
    "Makefile",
)

PROGRAM = """
import flower
from flower import rpc
from flower.channels import _scheduler

class Calc:
    def add(self, a, b):
        return a + b

with rpc.serve("tcp://127.0.0.1:0", Calc()) as server, rpc.connect(server.url) as peer:
    assert peer.call("add", [1], [2], timeout=30) == [1, 2]

numbers = flower.channel()
flower.go(numbers.send_sequence, range(5))
print(sum(numbers.receive() for _ in range(5)), _scheduler.COMPILED, flower.__file__)
"""


def run(*command: object, cwd: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLOWER_", "PYTHON"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=kept | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def copy_sources(target: Path, *names: str) -> Path:
    """The checkout without anything built, so that the build has to make it all."""
    target.mkdir()
    built = shutil.ignore_patterns("*.so", "*.pyd", "*.c", "__pycache__", ".hypothesis")
    for name in names or SHIPPED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=built)
        else:
            shutil.copy(source, target / name)
    return target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packaging")
    sources = copy_sources(folder / "sources")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder / "wheels", ".", cwd=sources)
    (made,) = (folder / "wheels").glob("*.whl")
    return made


def test_the_wheel_holds_the_sources_and_the_compiled_core(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    compiled = sorted((ROOT / "flower").rglob("*.pxd"))
    compiled = [pxd for pxd in compiled if pxd.stem != "__init__" and pxd.with_suffix(".py").exists()]
    assert compiled
    assert "flower/py.typed" in names
    for pattern in ("*.py", "*.pxd", "*.pyi"):
        assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "flower").rglob(pattern)} <= names
    for pxd in compiled:
        stem = pxd.relative_to(ROOT).with_suffix("").as_posix()
        assert any(name.startswith(stem + ".") and name.endswith((".so", ".pyd")) for name in names), stem
    assert not any(name.endswith((".c", ".h")) for name in names)
    top = {name.split("/")[0] for name in names}
    assert all(name == "flower" or name.startswith("flower_channels-") for name in top), top


def test_it_runs_in_an_empty_environment_without_a_compiler(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    bin_folder = home / ("Scripts" if os.name == "nt" else "bin")
    python = bin_folder / "python"
    # No compiler: none on PATH, none by name, and nothing may be built from source.
    bare = {"PATH": str(bin_folder), "CC": "no-compiler"}
    least = re.search(r"msgpack>=(\S+)", (ROOT / "setup.cfg").read_text("utf-8"))
    assert least  # the oldest that is promised: what RPC uses of it came with a release
    oldest = f"msgpack=={least[1]}"
    run(python, "-m", "pip", "install", "--only-binary", ":all:", wheel, oldest, cwd=tmp_path, **bare)

    program = (python, "-W", "error", "-c", PROGRAM)
    total, compiled, where = run(*program, cwd=tmp_path, **bare).split()
    assert (total, compiled) == ("10", "True")
    assert Path(where).is_relative_to(home)

    assert "flower call URL METHOD" in run(bin_folder / "flower", "--help", cwd=tmp_path, **bare)

    total, compiled, _ = run(*program, cwd=tmp_path, FLOWER_PURE="1", **bare).split()
    assert (total, compiled) == ("10", "False")


def test_a_source_distribution_is_whole(tmp_path: Path) -> None:
    """Packagers run the tests, and build the documentation, of what they have unpacked."""
    sources = copy_sources(tmp_path / "sources", *SHIPPED, *BESIDE)
    (sources / "setup.py").write_text("import setuptools; setuptools.setup()", "utf-8")  # no compilation for this
    run(sys.executable, "setup.py", "sdist", "-d", tmp_path, cwd=sources)
    (made,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(made) as archive:
        names = {Path(*Path(member.name).parts[1:]) for member in archive if member.isfile()}
    expected = {path.relative_to(sources) for path in sources.rglob("*") if path.is_file()}
    assert {path for path in expected if "egg-info" not in path.as_posix()} <= names


def test_a_failed_compilation_fails_the_build(tmp_path: Path) -> None:
    sources = copy_sources(tmp_path / "sources")
    broken = sources / "flower/channels/_broken.py"
    broken.write_text("x = 'no number'\n", "utf-8")
    broken.with_suffix(".pxd").write_text("cdef int x\n", "utf-8")
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode != 0
    assert "_broken" in done.stdout + done.stderr
    assert not list(sources.rglob("*.so"))
