"""Who may import whom, read from the syntax tree.

    errors < channels < {net, actor, debug} < rpc < {cli, testing}

`time`, `local` and `stackless` need only channels, `io`, `aio` and `process` need net. Only `flower.net._loop`
knows asyncio and uvloop; rpc's wire protocol does no I/O and knows no tasklet. A module whose name begins with an
underscore belongs to its package.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The parts of Flower, each with the parts that it may import. A new part must be given its place here.
_ABOVE_CHANNELS = {"errors", "channels", "time", "local"}
MAY_IMPORT: dict[str, set[str]] = {
    "_pure": set(),
    "_typing": set(),
    "errors": {"_typing"},
    "channels": {"errors", "_typing"},
    "time": {"errors", "channels"},
    "local": {"errors", "channels"},
    "stackless": {"errors", "channels"},
    "net": _ABOVE_CHANNELS,
    "actor": _ABOVE_CHANNELS,
    "debug": _ABOVE_CHANNELS,
    "io": _ABOVE_CHANNELS | {"net"},
    "aio": _ABOVE_CHANNELS | {"net"},
    "process": _ABOVE_CHANNELS | {"net"},
    "rpc": _ABOVE_CHANNELS | {"net", "actor", "debug"},
}
MAY_IMPORT["cli"] = MAY_IMPORT["testing"] = set(MAY_IMPORT) - {"_pure", "_typing"}
MAY_IMPORT["__main__"] = {"cli"}
MAY_IMPORT["__init__"] = {"_pure", "errors", "channels", "time"}  # `import flower` stays quick

_CORE = "_blocking _channel _deadlock _delivery _failures _hub _lifecycle _scheduler _signals _task _waiting _watch"

# Private modules that another part may use: the poller interface, which the I/O tasklet implements, and the
# core's clocks, whose public face flower.time is, ...
SHARED_PRIVATE = {
    ("time", "flower.channels._clock"),
    ("net", "flower.channels._scheduler"),
    ("net", "flower.channels._delivery"),
    ("aio", "flower.channels._delivery"),
    ("net", "flower.channels._poller"),
    ("rpc", "flower.channels._ends"),
    ("rpc", "flower.channels._failures"),
    ("rpc", "flower.channels._scheduler"),
    ("rpc", "flower.channels._task"),
    ("rpc", "flower.channels._waiting"),
    ("rpc", "flower.channels._bomb"),
    ("rpc", "flower.channels._channel"),
    ("rpc", "flower.channels._elsewhere"),
    ("net", "flower.channels._elsewhere"),
    ("rpc", "flower.channels._nocython"),
    ("rpc", "flower.channels._tasklet"),
    ("rpc", "flower.net._conn"),
    ("rpc", "flower.net._transport"),
    ("net", "flower.channels._failures"),
    ("net", "flower.channels._forks"),
    ("net", "flower.channels._task"),
    ("net", "flower.channels._nocython"),
    ("aio", "flower.channels._failures"),
    ("aio", "flower.net._loop"),
    ("io", "flower.channels._blocking"),
    ("io", "flower.channels._failures"),
    ("io", "flower.channels._forks"),
    ("io", "flower.net._loop"),
    ("io", "flower.net._descriptor"),
    ("io", "flower.net._source"),
    ("process", "flower.channels._failures"),
    ("process", "flower.channels._task"),
    ("process", "flower.net._loop"),
    ("process", "flower.net._descriptor"),
    ("cli", "flower.rpc._service"),
    ("__init__", "flower._pure"),
    ("errors", "flower._typing"),
    ("channels", "flower._typing"),
    # The testing kit puts itself in the place of a thread's scheduler.
    *(("testing", f"flower.channels.{name}") for name in _CORE.split()),
    *(
        ("testing", f"flower.net.{name}")
        for name in "_acceptor _address _conn _listener _options _secure _stream _transport".split()
    ),
}
# ... and the other way round: the I/O tasklet, and the bridge to asyncio, loaded by name when they are first needed.
LOADED_BY_NAME = {("channels", "flower.net._loop"), ("channels", "flower.aio")}

EVENT_LOOPS = {"asyncio", "uvloop", "winloop"}
EVENT_LOOP_MODULE = "flower.net._loop"
# RPC's part without I/O and tasklets: it may import nothing of Flower but the errors, and each other.
WIRE_MODULES = {f"flower.rpc.{name}" for name in ("_faults", "_hello", "_scan", "_types", "_wire")}


def part_of(module: str) -> str:
    """The second component of a module's name: flower.net._tcp -> net; flower itself is "__init__"."""
    return (module.split(".") + ["__init__"])[1]


def find_modules(root: Path) -> dict[str, Path]:
    """Every module below root/flower, by its dotted name."""
    modules = {}
    for path in sorted((root / "flower").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def imports(module: str, path: Path, modules: dict[str, Path]) -> Iterator[tuple[int, str, bool]]:
    """(line, module imported, whether by a string) for each import in the file, wherever it stands."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, False
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(above + ([base] if base else []))
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if inner in modules else base, False
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            what = node.args[0]
            if name in ("import_module", "__import__") and isinstance(what, ast.Constant):
                yield node.lineno, str(what.value), True


def judge(importer: str, imported: str, by_name: bool) -> str | None:
    """What is wrong with one module importing another, if anything is."""
    if imported.split(".")[0] in EVENT_LOOPS:
        return None if importer == EVENT_LOOP_MODULE else f"only {EVENT_LOOP_MODULE} may import {imported}"
    if imported.split(".")[0] != "flower":
        return None
    here, there = part_of(importer), part_of(imported)
    if importer in WIRE_MODULES and imported == "flower.channels._nocython":
        return None  # what stands for Cython's module where that is not installed
    if importer in WIRE_MODULES and there != "errors" and imported not in WIRE_MODULES:
        return f"the wire protocol may not import {imported}"
    if here == there or (by_name and (here, imported) in LOADED_BY_NAME):
        return None
    if here not in MAY_IMPORT:
        return f"{importer} has no place in the table of layers"
    if there == "__init__" and here not in ("cli", "testing"):
        return "import from where a name is defined, not from flower itself"
    if there != "__init__" and there not in MAY_IMPORT[here]:
        return f"{here} may not import {imported}"
    private = any(part.startswith("_") for part in imported.split(".")[1:])
    if private and (here, imported) not in SHARED_PRIVATE:
        return f"{imported} is private to its package"
    return None


def violations(root: Path) -> list[str]:
    modules = find_modules(root)
    return [
        f"{path.relative_to(root).as_posix()}:{line}: {wrong}"
        for module, path in modules.items()
        for line, imported, by_name in imports(module, path, modules)
        if (wrong := judge(module, imported, by_name))
    ]


def test_imports_point_one_way() -> None:
    assert find_modules(ROOT)
    assert violations(ROOT) == []


def test_every_module_has_a_place() -> None:
    assert {part_of(module) for module in find_modules(ROOT)} <= set(MAY_IMPORT)


def plant(root: Path, module: str, source: str) -> None:
    tree = ["flower", "flower/channels", "flower/net", "flower/rpc", "flower/testing"]
    for folder in tree:
        (root / folder).mkdir(parents=True)
        (root / folder / "__init__.py").touch()
    for name in "errors time cli channels/_scheduler channels/_channel net/_loop net/_tcp".split():
        (root / "flower" / f"{name}.py").touch()
    (root / "flower" / module).write_text(source, "utf-8")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("errors.py", "from flower.channels import channel"),
        ("channels/_x.py", "import flower.net"),
        ("channels/_x.py", "from flower import net"),
        ("channels/_x.py", "from .. import net"),
        ("channels/_x.py", "from ..net import Conn"),
        ("channels/_x.py", "def late():\n    import flower.rpc"),
        ("channels/_x.py", "from flower import channel"),
        ("channels/_x.py", "from importlib import import_module\nimport_module('flower.rpc')"),
        ("channels/__init__.py", "from flower.time import sleep"),
        ("time.py", "from .net import Conn"),
        ("time.py", "from .channels._channel import channel"),
        ("net/_tcp.py", "from flower.rpc import Peer"),
        ("net/_tcp.py", "from flower.channels._channel import channel"),
        ("net/_tcp.py", "import flower.testing"),
        ("net/_tcp.py", "import asyncio"),
        ("channels/_x.py", "import asyncio.events as events"),
        ("channels/_x.py", "__import__('uvloop')"),
        ("rpc/_session.py", "from flower.net._tcp import Conn"),
        ("rpc/_session.py", "from flower import cli"),
        ("rpc/_wire.py", "from flower.channels import channel"),
        ("rpc/_wire.py", "from .. import net"),
        ("rpc/_wire.py", "from . import _session"),
        ("cli.py", "from flower import testing"),
        ("newcomer.py", "from flower.channels import channel"),
        ("__init__.py", "from .rpc import serve"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, module: str, source: str) -> None:
    plant(tmp_path, module, source)
    (found,) = violations(tmp_path)
    assert found.startswith(f"flower/{module}:")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("channels/_x.py", "from flower.errors import ChannelClosed\nfrom . import _channel\nimport math"),
        ("channels/_x.py", "from importlib import import_module\nimport_module('flower.net._loop')"),
        ("net/_loop.py", "import asyncio, uvloop\nfrom flower.channels._scheduler import current_scheduler"),
        ("net/_tcp.py", "from ._loop import loop\nfrom ..channels import channel"),
        (
            "rpc/_session.py",
            "from . import _wire\nfrom ..net import Dial\nfrom flower.channels import select",
        ),
        ("rpc/_wire.py", "import msgpack\nfrom flower.errors import ChannelClosed"),
        ("testing/_world.py", "import flower\nfrom flower.rpc import serve"),
        ("__init__.py", "from .channels import channel"),
    ],
)
def test_what_is_allowed_is_left_alone(tmp_path: Path, module: str, source: str) -> None:
    plant(tmp_path, module, source)
    assert violations(tmp_path) == []


def test_importing_flower_loads_no_event_loop() -> None:
    program = "import sys, flower; print(sorted({'asyncio', 'uvloop', 'msgpack'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
