"""Tests that use the fixture `loop` run on both event loops, and leave no handle in either."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from flower.channels._scheduler import current_scheduler
from flower.net._loop import LOOP_VARIABLE, LoopPoller
from tests.net.support import connected, rounds


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The event loop of this test; in the environment too, for programs that it starts."""
    name: str = request.param
    monkeypatch.setenv(LOOP_VARIABLE, name)
    poller = current_scheduler().poller
    yield name
    assert current_scheduler().poller is poller
    for _ in range(100):
        if not poller.resources and not poller._tasks:
            break
        rounds(1)
    left = [*poller.resources, *poller._tasks]
    assert not left, f"left in the loop: {left}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: Any) -> None:
    """Put the test's loop in its place before the look at what there is, after which nothing may be left."""
    if "loop" not in item.fixturenames:
        return
    name = item.callspec.params["loop"]
    scheduler = current_scheduler()
    poller = scheduler.poller
    if not isinstance(poller, LoopPoller) or not type(poller.loop).__module__.startswith(name):
        before = os.environ.get(LOOP_VARIABLE)
        os.environ[LOOP_VARIABLE] = name
        try:
            scheduler.set_poller(LoopPoller())
        finally:
            del os.environ[LOOP_VARIABLE]
            if before is not None:
                os.environ[LOOP_VARIABLE] = before
        rounds(1)  # the one before it is left, and closed
        with connected():  # libuv opens a descriptor of its own with a loop's first connection
            pass
        rounds(3)
