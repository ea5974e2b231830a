"""What every test is held to: it leaves no tasklet, descriptor, thread or process behind, and it ends.

A test that leaves tasklets on purpose says so with ``@pytest.mark.leaves("tasklets")``; they are killed.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import hypothesis  # noqa: F401  (at the end of a run it would find trio half way out, and warn)
import pytest

SLOW = 0.25  # seconds; a test that takes longer carries the mark `slow`
TIME_LIMIT = float(os.environ.get("FLOWER_TEST_LIMIT", "120"))  # seconds; past it, all stacks and the end
LEAVABLE = {"tasklets", "descriptors", "threads"}
DESCRIPTORS = "/proc/self/fd"

_stderr = 2
_unmarked: list[tuple[float, str]] = []


def pytest_configure(config: pytest.Config) -> None:
    global _stderr
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # as in a shell's background: the tests' programs would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _stderr = os.dup(2)  # the real one: capturing replaces descriptor 2 while a test runs
    config.addinivalue_line("markers", f"slow: takes more than {SLOW} s")
    config.addinivalue_line("markers", "compiled: of the compiled core alone; `make test-pure` leaves it out")
    config.addinivalue_line("markers", "leaves(*kinds): leaves tasklets, descriptors, threads behind on purpose")


def pytest_report_header() -> str:
    from flower.channels import _scheduler

    return f"flower: {'compiled' if _scheduler.COMPILED else 'uncompiled'}, {_scheduler.__file__}"


def pytest_collection_finish() -> None:
    _settle()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path != item.path:
        _settle()


def _settle() -> None:
    """What exists now is no later test's leak, and need not be looked at after each of them."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.duration > SLOW and "slow" not in report.keywords:
        _unmarked.append((report.duration, report.nodeid))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for duration, nodeid in sorted(_unmarked, reverse=True):
        terminalreporter.write_line(f"not marked slow, took {duration:.2f} s: {nodeid}")


# -- What a test may leave behind


def _unstarted() -> list[Any]:
    """The collector does not know them all."""
    from flower.channels import _hub, _scheduler

    return [t for t in _hub.unstarted(_scheduler.current_scheduler()) if not gc.is_tracked(t)]


def _live_tasklets() -> list[Any]:
    flower = sys.modules.get("flower")
    kind = getattr(flower, "tasklet", None)
    if kind is None:
        return []
    ident = threading.get_ident()
    found = [o for o in gc.get_objects() if isinstance(o, kind)]
    found += _unstarted()
    return [t for t in found if t.alive and not t.is_main and t.thread_id == ident]


def _descriptors() -> dict[int, str]:
    found = {}
    if os.path.isdir(DESCRIPTORS):
        for name in os.listdir(DESCRIPTORS):
            try:
                found[int(name)] = os.readlink(f"{DESCRIPTORS}/{name}")
            except OSError:
                pass  # the listing's own
    return found


def _strays(before: dict[int, str], new_loop: bool) -> list[str]:
    """Descriptors that were not there before. A first event loop, of process or thread, stays."""
    own = {"socket": 4, "pipe": 8, "anon_inode": 8, "/dev/null": 1} if new_loop else {}
    extra = []
    for fd, target in _descriptors().items():
        if before.get(fd) != target:
            kind = target.partition(":")[0]
            own[kind] = own.get(kind, 0) - 1
            if own[kind] < 0:
                extra.append(f"{fd} -> {target}")
    return extra


def _outside() -> None:
    """Gives an event loop the turns that it needs to close what was closed."""
    clock = sys.modules.get("flower.time")
    if clock is None:
        time.sleep(0.001)
    else:
        clock.sleep(0.001)


def _poller() -> Any:
    scheduler = sys.modules.get("flower.channels._scheduler")
    return getattr(scheduler.current_scheduler(), "poller", None) if scheduler else None


def _stray_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    """Threads that are new; Flower's own idle workers may stay."""
    return [t for t in threading.enumerate() if t not in before and not t.name.startswith("flower")]


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _wait_for(condition: Any, seconds: float) -> bool:
    """True once the condition holds: what is on its way out gets the time to leave."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _uncaught() -> list[BaseException]:
    """Errors of tasklets that were still to be raised in main."""
    errors = []
    control = sys.modules.get("flower.channels._control")
    while control is not None and len(errors) < 100:
        try:
            control.schedule()
            break
        except Exception as e:
            errors.append(e)
    return errors


def _kill(tasklets: list[Any]) -> None:
    for t in tasklets:
        for _ in range(10):
            if t.alive:
                try:
                    t.kill()
                except BaseException:  # its clean-up failed; the test has said enough already
                    pass


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test that left tasklets, descriptors, threads or processes behind, and cleans up after it."""
    marker = request.node.get_closest_marker("leaves")
    allowed = set(marker.args) if marker else set()
    assert allowed <= LEAVABLE, f"leaves() knows {sorted(LEAVABLE)}"
    threads = set(threading.enumerate())
    poller = _poller(), "uvloop" in sys.modules
    descriptors = _descriptors()
    faulthandler.dump_traceback_later(TIME_LIMIT, exit=True, file=_stderr)
    yield
    faulthandler.cancel_dump_traceback_later()
    problems = []

    problems += [f"an uncaught {e!r}" for e in _uncaught()]
    left = _live_tasklets()
    if left:
        if "tasklets" not in allowed:
            problems.append("tasklets: " + ", ".join(repr(t) for t in left[:10]))
        _kill(left)
        left.clear()
        _uncaught()
    if "threads" not in allowed and not _wait_for(lambda: not _stray_threads(threads), 2.0):
        problems.append("threads: " + ", ".join(t.name for t in _stray_threads(threads)))
    if not _wait_for(lambda: not _has_children(), 2.0):
        problems.append("processes")
    gc.collect()
    if "descriptors" not in allowed:
        new_loop = (_poller(), "uvloop" in sys.modules) != poller
        for _ in range(20):
            extra = _strays(descriptors, new_loop)
            if not extra:
                break
            _outside()
        else:
            problems.append("descriptors: " + ", ".join(extra))
    if problems:
        pytest.fail("left behind " + "; ".join(problems), pytrace=False)
