"""The pytest plugin: two options for explored tests.

``--flower-examples=N``
    Try N schedules for each explored test, whatever it asks for.
``--flower-schedule=STR``
    Run the one schedule that a report ends with, without Hypothesis. Explored tests that it does not belong to are
    left out, so that nothing else need be selected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flower.testing._choices import Replay, fingerprint
from flower.testing._explore import Config, Plan
from flower.testing._findings import ScheduleError

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    options = parser.getgroup("flower", "explored tests of flower")
    options.addoption("--flower-examples", type=int, metavar="N", help="try N schedules for each explored test")
    options.addoption("--flower-schedule", metavar="STR", help="run the schedule that a report ends with")


def pytest_configure(config: pytest.Config) -> None:
    import pytest

    examples = config.getoption("--flower-examples")
    if examples is not None and examples < 1:
        raise pytest.UsageError(f"--flower-examples is at least 1, not {examples}")
    Config.examples = examples
    Config.schedule = config.getoption("--flower-schedule")
    if Config.schedule is not None:
        try:
            Replay(Config.schedule)
        except ScheduleError as error:
            raise pytest.UsageError(f"--flower-schedule: {error}") from None


def pytest_unconfigure(config: pytest.Config) -> None:
    Config.examples = Config.schedule = None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if Config.schedule is None:
        return
    wanted = Replay(Config.schedule).program
    kept = []
    for item in items:
        plan = getattr(getattr(item, "obj", None), "flower_plan", None)
        if isinstance(plan, Plan) and fingerprint(plan.program) == wanted:
            kept.append(item)
    if not kept:
        import pytest

        raise pytest.UsageError("--flower-schedule: it belongs to none of the tests that were collected")
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
