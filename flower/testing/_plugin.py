"""The pytest plugin: two options for explored tests.

``--flower-examples=N``
    Try N schedules for each explored test, whatever it asks for.
``--flower-schedule=STR``
    Run the one schedule that a report ends with, without Hypothesis. Explored tests, and parameters of them, that it
    does not belong to are left out, so that nothing else need be selected.
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
    Config.parameters = ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    Config.parameters = _parameters(item)


def _parameters(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    return "" if callspec is None else f"[{callspec.id}]"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if Config.schedule is None:
        return
    wanted = Replay(Config.schedule).program
    plans = [(item, getattr(getattr(item, "obj", None), "flower_plan", None)) for item in items]
    ours = [(item, plan.program) for item, plan in plans if isinstance(plan, Plan)]
    kept = [item for item, program in ours if fingerprint(program + _parameters(item)) == wanted]
    if not kept:  # it was found without these parameters, or with others
        kept = [item for item, program in ours if fingerprint(program) == wanted.partition("-")[0]]
    if not kept:
        import pytest

        raise pytest.UsageError("--flower-schedule: it belongs to none of the tests that were collected")
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
