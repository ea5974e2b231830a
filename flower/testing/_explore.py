"""explore, replay and schedules: tests whose schedule Hypothesis chooses.

What Hypothesis needs of us: no switch of tasklets inside a draw, its own exceptions passed on, every tasklet ended
before the example is, and findings that are raised in one place, since it tells bugs apart by their line.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import os
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any, overload

from flower.testing._choices import KINDS, Choices, Replay, Strategy, fingerprint, literal
from flower.testing._findings import Nondeterministic, ScheduleError
from flower.testing._outside import world_here
from flower.testing._world import World

REFUSED = {  # what decorators of Hypothesis's leave behind, and what is to be said of them
    "_hypothesis_internal_settings_applied": "explore() takes the place of @settings: give it max_examples=... and the "
    "like itself",
    "hypothesis_explicit_examples": "explore() takes no @example, which says nothing of the schedule: draw the value, "
    "as in n=st.just(3)",
}
DIGEST = "_hypothesis_internal_add_digest"  # tells tests of one name apart in Hypothesis's database
MARKS = ("_hypothesis_internal_use_seed", "_hypothesis_internal_use_reproduce_failure")  # of Hypothesis's decorators


def _program(test: Any) -> str:
    """What a schedule is for: the same however the test is run, as a program, by pytest, or from another folder."""
    code = getattr(inspect.unwrap(test), "__code__", None)
    file = test.__module__ if code is None else os.path.splitext(os.path.basename(code.co_filename))[0]
    return f"{file}.{test.__qualname__}"


class Config:
    """What the command line says: see `flower.testing._plugin`."""

    examples: int | None = None
    schedule: str | None = None
    parameters = ""  # of the test that pytest runs, as in "[1-2]"


class Plan:
    """One explored test, with its options."""

    def __init__(self, test: Callable[..., Any], options: dict[str, Any]) -> None:
        self.test = test
        self.options = options
        self.world_options = {name: options[name] for name in ("max_steps", "early_timers", "starvation")}
        self.program = _program(test)
        if inspect.iscoroutinefunction(test) or inspect.isgeneratorfunction(test):
            raise TypeError(f"{self.program} is no plain function: in a World, blocking calls are simply made")
        if hasattr(test, "is_hypothesis_test"):
            raise TypeError(
                f"{self.program}: explore() takes the place of @given: give its strategies as defaults of parameters, "
                "as in n=st.integers()"
            )
        self.refuse_decorators(test)
        self.face: Any = None  # what stands in the test's place
        parameters = inspect.signature(test).parameters
        strategies = {
            name: parameter.default
            for name, parameter in parameters.items()
            if hasattr(parameter.default, "example") and hasattr(parameter.default, "filter")
        }
        self.data = [name for name, strategy in strategies.items() if repr(strategy) == "data()"]
        self.arguments = {name: strategy for name, strategy in strategies.items() if name not in self.data}
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        free = [
            name
            for name, parameter in parameters.items()
            if name not in strategies and name != "self" and parameter.kind in named
        ]
        if not free:
            raise TypeError(f"{self.program} takes no World: give it a first parameter, w, that can be given by name")
        self.world = "w" if "w" in free else free[0]
        self.distinct: set[str] = set()
        self.examples = 0
        self.checked = 0
        self.recorded: tuple[Choices, dict[str, Any]] | None = None

    def refuse_decorators(self, test: Any) -> None:
        for mark, advice in REFUSED.items():
            if hasattr(test, mark):
                raise TypeError(f"{self.program}: {advice}")

    def signature(self) -> inspect.Signature:
        """What is left for pytest's fixtures."""
        signature = inspect.signature(self.test)
        ours = {self.world, *self.arguments, *self.data}
        left = [p for p in signature.parameters.values() if p.name not in ours]
        return signature.replace(parameters=left, return_annotation=None)

    def run(self, args: Any, kwargs: dict[str, Any]) -> None:
        """The whole search; or the one schedule that was asked for."""
        if world_here() is not None:
            raise RuntimeError("a World inside of a World: one example can have only one")
        given = Config.schedule
        strategy = self.options["strategy"]
        if given is not None:
            strategy = Replay(given)
        if isinstance(strategy, Replay):
            self.replay(strategy.fresh(), args, kwargs)
            return
        import hypothesis

        self.refuse_decorators(self.face)
        if hypothesis.currently_in_test_context():
            raise RuntimeError(
                f"{self.program}: explore() inside of Hypothesis's @given: a search in each example of another one. "
                "Give the strategies as defaults of parameters, as in n=st.integers()"
            )
        self.distinct.clear()
        self.examples = 0
        self.recorded = None
        search = self.search(strategy, args, kwargs)
        if self.options["seed"] is not None:
            search = hypothesis.seed(self.options["seed"])(search)
        search()
        self.check_determinism(args, kwargs)

    def search(self, strategy: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The test that Hypothesis runs."""
        import hypothesis
        from hypothesis import HealthCheck, Phase, settings

        @functools.wraps(self.test)
        def example(**drawn: Any) -> None:
            source = drawn.pop(self.world)
            world = source.world(program=self.program + Config.parameters, **self.world_options, strategy=strategy)
            self.examples += 1
            kept = self._keep(drawn) if self.examples >= self._next_check() else None
            try:
                self.run_once(world, args, {**kwargs, **drawn}, drawn)
                if kept is not None:
                    self.checked = self.examples
                    self.recorded = world.choices, kept
            finally:
                key = world.choices.schedule()
                hypothesis.event("a schedule seen before" if key in self.distinct else "a new schedule")
                self.distinct.add(key)

        example.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in (self.world, *self.arguments)]
        )
        example.__dict__.pop("__wrapped__", None)
        name = f"{self.test.__module__}.{self.test.__qualname__}"
        digest = getattr(self.test, DIGEST, name.encode())  # the plugin's, for one of several parameters
        setattr(example, DIGEST, digest)
        for mark in MARKS:
            if hasattr(self.face, mark):
                setattr(example, mark, getattr(self.face, mark))
        source = sources()
        wanted = settings(
            max_examples=Config.examples or self.options["max_examples"],
            deadline=None,
            report_multiple_bugs=False,
            print_blob=True,
            phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink),
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
        )
        if "database" in self.options:
            wanted = settings(wanted, database=self.options["database"])
        return wanted(hypothesis.given(**{self.world: source}, **self.arguments)(example))

    def _next_check(self) -> int:
        """The number of the next example that is to be kept for `check_determinism`."""
        return 2 if self.recorded is None else 4 * self.checked

    def _keep(self, drawn: dict[str, Any]) -> dict[str, Any]:
        try:
            return copy.deepcopy(drawn)
        except Exception:  # values that can't be copied
            return drawn

    def run_once(self, world: World, args: Any, kwargs: dict[str, Any], drawn: dict[str, Any]) -> None:
        """One example."""
        world.choices.values += [literal(drawn[name]) for name in self.arguments]
        ours = {self.world: world, **{name: Data(world) for name in self.data}}
        with _without_subtests(args):
            run_in(world, functools.partial(self.test, *args, **ours, **kwargs))

    def replay(self, strategy: Replay, args: Any = (), kwargs: dict[str, Any] | None = None) -> World:
        """Run one schedule."""
        if strategy.program.partition("-")[0] != fingerprint(self.program):
            raise ScheduleError(f"the schedule is of another program than {self.program}: {strategy.schedule!r}")
        world = World(Choices(strategy, self.program + Config.parameters), **self.world_options)
        drawn = {name: strategy.value() for name in self.arguments}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Using `\w+` outside")  # of Hypothesis's test, which this is none of
            self.run_once(world, args, {**(kwargs or {}), **drawn}, drawn)
        if strategy.unused():
            raise ScheduleError(
                f"{self.program} ended after {world.choices.count} choices, and the schedule has more (or values): "
                "the program has changed, or is another one"
            )
        return world

    def check_determinism(self, args: Any, kwargs: dict[str, Any]) -> None:
        """Run one of the examples, which have passed, twice more, and compare the logs."""
        if self.recorded is None:
            return
        choices, drawn = self.recorded
        text = choices.schedule()
        logs: list[Any] = []

        def again(_: None) -> None:
            strategy = Replay(text)
            strategy.skip(len(self.arguments))
            world = World(Choices(strategy, self.program), **self.world_options)
            self.run_once(world, args, {**kwargs, **self._keep(drawn)}, drawn)
            logs.append(world._log.lines)

        if Replay(text).values is None:
            return  # drawn values that no string holds: Hypothesis alone can repeat them
        for _ in range(2):
            _in_hypothesis(again)
        one, two = logs
        for number, (before, after) in enumerate(zip(one, two, strict=False), 1):
            if before != after:
                raise Nondeterministic(
                    f"the same choices gave two logs, which differ in line {number}:\n  {before[1]}: {before[2]}\n"
                    f"  {after[1]}: {after[2]}\nThe program depends on something that the kit does not choose: real "
                    "time, random numbers, the order of a set, what an earlier run has left behind"
                )
        if len(one) != len(two):
            raise Nondeterministic("the same choices gave two logs, one longer than the other")


@contextlib.contextmanager
def _without_subtests(args: Any) -> Iterator[None]:
    """A test case of unittest keeps what fails in its subTest for the end of all examples: here it fails its own."""
    case: Any = args[0] if args else None
    if not hasattr(case, "subTest"):
        yield
        return
    case.subTest = lambda *_, **params: contextlib.nullcontext()
    try:
        yield
    finally:
        del case.subTest


def _in_hypothesis(test: Callable[[None], None]) -> None:
    """Run something once where ``hypothesis.assume`` and its like may be called."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    once = settings(
        max_examples=1, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    with contextlib.ExitStack() as stack:
        try:  # in the statistics, the search is what counts
            from hypothesis.statistics import collector

            stack.enter_context(collector.with_value(None))
        except (ImportError, AttributeError):
            pass
        once(given(st.none())(test))()


class Data:
    """What a test with ``st.data()`` is given: its draws are the world's, guarded and written down."""

    def __init__(self, world: World) -> None:
        self._world = world

    def draw(self, strategy: Any, label: str | None = None) -> Any:
        return self._world.draw(strategy, label)

    def __repr__(self) -> str:
        return "data(...)"


class Source:
    """Where a world's choices and values come from, in one example."""

    def __init__(self, random: Any, data: Any) -> None:
        self.random = random
        self.data = data

    def world(
        self,
        *,
        strategy: str = "auto",
        max_steps: int = 20_000,
        early_timers: int = 4,
        starvation: int | None = None,
        program: str = "",
    ) -> World:
        """The world. ``program`` is what its schedule strings are for."""
        return World(
            Choices(strategy_for(strategy, self.random), program),
            max_steps=max_steps,
            early_timers=early_timers,
            starvation=starvation,
            draw_value=self.data.draw,
        )

    def __repr__(self) -> str:
        return "<World>"


def sources() -> Any:
    """The strategy of sources."""
    from hypothesis import strategies as st

    return st.composite(lambda draw: Source(draw(_random(st)), draw(st.data())))()


def _random(st: Any) -> Any:
    """Random numbers that Hypothesis draws, and says nothing about."""
    return st.randoms(use_true_random=False, note_method_calls=False)


def run_in(world: World, body: Callable[[], object]) -> None:
    """Run the body in the world. Findings are raised here, in one place."""
    world.open()
    error: BaseException | None = None
    try:
        body()
    except BaseException as raised:
        error = raised
    final = world.conclude(error)
    del error
    if final is not None:
        try:
            raise final
        finally:
            del final


def strategy_for(strategy: str, random: Any) -> Strategy:
    """The strategy of that name, drawing from the random numbers."""
    return KINDS[strategy](random.randrange)


def check_options(strategy: Any, max_steps: Any, early_timers: Any, starvation: Any) -> None:
    """Raise for options that can't be meant."""
    if not isinstance(strategy, str) or strategy not in KINDS:
        raise ValueError(f"unknown strategy {strategy!r}: give one of {', '.join(KINDS)}, or to explore() a Replay")
    for name, value, least in (
        ("max_steps", max_steps, 1),
        ("early_timers", early_timers, 0),
        ("starvation", starvation, 1),
    ):
        if value is None and name == "starvation":
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} is a number of steps or times, not {value!r}")
        if value < least:
            raise ValueError(f"{name} is at least {least}, not {value}")


@overload
def explore(
    test: Callable[..., object],
    /,
    *,
    max_examples: int = ...,
    strategy: str | Replay = ...,
    max_steps: int = ...,
    early_timers: int = ...,
    starvation: int | None = ...,
    seed: int | None = ...,
    **more: Any,
) -> Callable[..., None]: ...
@overload
def explore(
    test: None = None,
    /,
    *,
    max_examples: int = ...,
    strategy: str | Replay = ...,
    max_steps: int = ...,
    early_timers: int = ...,
    starvation: int | None = ...,
    seed: int | None = ...,
    **more: Any,
) -> Callable[[Callable[..., object]], Callable[..., None]]: ...
def explore(
    test: Any = None,
    /,
    *,
    max_examples: int = 100,
    strategy: str | Replay = "auto",
    max_steps: int = 20_000,
    early_timers: int = 4,
    starvation: int | None = None,
    seed: int | None = None,
    **more: Any,
) -> Any:
    """Let Hypothesis choose the schedule of a test, the values, the time and the faults.

    The test takes a `World`, ``w``; parameters whose defaults are Hypothesis strategies are drawn, all others are for
    pytest's fixtures.

    ``max_examples``: how many schedules to try. ``strategy``: how they are chosen: ``"auto"``, ``"pct"``, ``"gap"``,
    ``"walk"``, ``"all"`` (every schedule of a tiny program: then it is a proof), or a `Replay`. ``max_steps``: more
    steps (operations and switches) than that are a `StepLimit`. ``early_timers``: how often time may jump to the next
    timer although somebody could run. ``starvation``: more steps than that in one wait are a `Starvation`.
    ``seed``: for a search that is the same each time.

    Raises what the test raises, with the shortest schedule that leads there in its notes; or a `Finding`.

    >>> @explore(max_examples=300)
    ... def test_meeting(w):
    ...     ch = flower.channel()
    ...     w.go(ch.send, 1)
    ...     assert ch.receive() == 1
    """
    check_options("auto" if isinstance(strategy, Replay) else strategy, max_steps, early_timers, starvation)
    if not set(more) <= {"database"}:
        raise TypeError(f"explore() has no option {', '.join(sorted(set(more) - {'database'}))}")
    options = {
        "max_examples": max_examples,
        "strategy": strategy,
        "max_steps": max_steps,
        "early_timers": early_timers,
        "starvation": starvation,
        "seed": seed,
        **more,
    }

    def decorate(test: Callable[..., Any]) -> Callable[..., None]:
        if not hasattr(test, "__qualname__"):
            raise TypeError(f"explore() makes a test of a function, not of {test!r}; its options are given by name")
        plan = Plan(test, options)

        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            plan.run(args, kwargs)

        run.__dict__.pop("__wrapped__", None)
        run.__signature__ = plan.signature()  # type: ignore[attr-defined]
        run.flower_plan = plan  # type: ignore[attr-defined]
        plan.face = run
        _introduce(run, test)
        return run

    return decorate if test is None else decorate(test)


def _introduce(run: Any, test: Any) -> None:
    """Have Hypothesis's pytest plugin take it for a test of Hypothesis's: for its decorators and its statistics."""
    try:
        from hypothesis import HealthCheck, settings
    except ImportError:  # replays do without
        return
    run.is_hypothesis_test = True
    run.hypothesis = types.SimpleNamespace(inner_test=test)
    run._hypothesis_internal_use_settings = settings(
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
    )


def replay(test: Any, schedule: str | Replay, *args: Any, **kwargs: Any) -> World:
    """Run one schedule of an explored test, without Hypothesis; returns the World, whose ``log()`` tells what happened.

    ``schedule`` is the string that a report ends with. Further arguments are the test's own (its ``self``, fixtures).

    Raises what the test raises on that schedule; ScheduleError for a string that is damaged, of another version or of
    another test; TypeError for a test that is not explored.
    """
    plan = getattr(test, "flower_plan", None)
    if not isinstance(plan, Plan):
        raise TypeError(f"replay() needs a test decorated with explore(), not {test!r}")
    strategy = schedule.fresh() if isinstance(schedule, Replay) else Replay(schedule)
    return plan.replay(strategy, args, kwargs)


def schedules(
    *, strategy: str = "auto", max_steps: int = 20_000, early_timers: int = 4, starvation: int | None = None
) -> Any:
    """A Hypothesis strategy of Worlds, for ``@given`` and state machines; the options are those of `explore`.

    The world is in force inside of its ``with`` block.

    >>> @given(w=schedules(), n=st.integers(1, 3))
    ... def test_meeting(w, n):
    ...     with w:
    ...         ...
    """
    from hypothesis import strategies as st

    options = {"max_steps": max_steps, "early_timers": early_timers, "starvation": starvation}
    check_options(strategy, **options)
    return st.composite(lambda draw: draw(sources()).world(strategy=strategy, **options))()
