"""Which core is running, and what importing it brings in."""

from __future__ import annotations

import os

import pytest

from .support import COMPILED, output

PURE = os.environ.get("FLOWER_PURE", "") not in ("", "0")

WHICH = """
    import sys, flower, flower.time
    from flower.channels import _scheduler
    files = sorted(m.__file__ for n, m in sys.modules.items() if n.startswith("flower.channels._"))
    compiled = [f for f in files if not f.endswith(".py")]
    print(_scheduler.COMPILED, _scheduler.__file__.endswith(".py"), bool(compiled))
"""


def test_the_mode_is_the_one_that_was_asked_for() -> None:
    """Compiled, unless FLOWER_PURE is set; a build that fell back in silence fails here."""
    assert COMPILED is not PURE


@pytest.mark.parametrize("pure", ["1", "yes"])
def test_flower_pure_loads_the_sources_only(pure: str) -> None:
    assert output(WHICH, env={"FLOWER_PURE": pure}).split() == ["False", "True", "False"]


@pytest.mark.compiled
@pytest.mark.parametrize("pure", ["", "0"])
def test_without_flower_pure_the_core_is_compiled(pure: str) -> None:
    assert output(WHICH, env={"FLOWER_PURE": pure}).split() == ["True", "False", "True"]


@pytest.mark.parametrize("pure", ["0", "1"])
def test_importing_flower_imports_no_event_loop(pure: str) -> None:
    code = """
        import sys, flower, flower.time
        unwanted = "asyncio uvloop msgpack socket ssl concurrent selectors"
        print(sorted({name.partition(".")[0] for name in sys.modules} & set(unwanted.split())))
        print("flower.time" in sys.modules, "flower.net" in sys.modules, "flower.rpc" in sys.modules)
        ch = flower.channel()
        flower.go(ch.send, 1)
        assert ch.receive() == 1
        flower.time.sleep(0.001)
        print("asyncio" in sys.modules)
    """
    lines = output(code, env={"FLOWER_PURE": pure}).splitlines()
    assert lines[0] == "[]"
    assert lines[1].split()[1:] == ["False", "False"]
    assert lines[2] == "False"


def test_importing_flower_starts_no_thread_and_opens_nothing() -> None:
    code = """
        import os, threading
        before = set(os.listdir("/proc/self/fd"))
        import flower, flower.time
        print(threading.active_count(), sorted(set(os.listdir("/proc/self/fd")) - before))
        flower.go(print, "x").kill()
        flower.run()
        print(threading.active_count())
    """
    assert output(code) == "1 []\n1\n"
