"""State machines whose rules are tasklets."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

from hypothesis import stateful

from flower.testing._explore import Source, schedules, sources
from flower.testing._findings import Finding
from flower.testing._world import World


class machine(stateful.RuleBasedStateMachine):
    """A Hypothesis state machine in a `World`, ``self.w``: each rule starts a tasklet, which may block.

    A rule is marked with ``machine.rule(...)``, whose arguments are those of Hypothesis's ``rule``. Its body runs as a
    tasklet; the next rule comes when that one, and all before, are blocked or done. ``self.blocked()`` tells which
    still are. Preconditions and invariants are Hypothesis's own. At the end the world is looked at as in `explore`.
    Hypothesis runs ``initialize`` rules in any order, before there is a world, too: set up in `begin`.

    >>> class Pool(machine):
    ...     taken = Bundle("taken")
    ...     @machine.rule(target=taken, n=st.integers(1, 3))
    ...     def take(self, n):
    ...         return self.pool.take(n)
    ...     @machine.rule(what=consumes(taken))
    ...     def give_back(self, what): ...
    >>> TestPool = Pool.TestCase
    """

    options: ClassVar[Mapping[str, Any]] = {}
    """The options of `schedules` for this machine's worlds."""

    _world: World | None = None

    @property
    def w(self) -> World:
        """The world."""
        if self._world is None:
            raise AttributeError(
                "the World is not there yet, as Hypothesis runs initialize rules in any order: set up in begin(), "
                "where self.w.draw(...) gives values"
            )
        return self._world

    @stateful.initialize(source=sources())
    def _begin(self, source: Source) -> None:
        schedules(**self.options)  # which refuses what can't be meant
        world = source.world(**self.options)
        world.open()
        self._world = world
        self._rules: list[Any] = []
        self.begin()

    def begin(self) -> None:
        """Called at the start of each example, in the world: set up here what the rules use.

        ``self.w.draw(strategy)`` gives values for that.
        """

    @staticmethod
    def rule(*, target: Any = None, targets: Any = (), **strategies: Any) -> Callable[[Callable[..., object]], Any]:
        """Mark a method as a rule that runs as a tasklet. The arguments are strategies, as in Hypothesis's ``rule``.

        With a ``target``, or ``targets``, its result goes into these Bundles; nothing does if it is still blocked
        when the next rule comes.
        """
        bundles = [*targets] if target is None else [target, *targets]

        def decorate(fn: Callable[..., object]) -> Any:
            @functools.wraps(fn)
            def start(self: machine, **values: Any) -> Any:
                results: list[Any] = []
                self._rules.append(self.w.go(lambda: results.append(fn(self, **values)), name=fn.__name__))
                self.w.settle()
                if bundles:
                    return results[0] if results else stateful.multiple()
                return None

            return cast(Any, stateful.rule(targets=bundles, **strategies))(start)

        return decorate

    def blocked(self) -> list[Any]:
        """The rules' tasklets that have not ended, the oldest first."""
        self._rules = [t for t in self._rules if t.alive]
        return list(self._rules)

    def end(self) -> None:
        """Called at the end of an example that has not failed, in the world: let go of whoever is still blocked."""

    def teardown(self) -> None:
        """Look at what is left, as at the end of `explore`."""
        error = sys.exc_info()[1]
        if self._world is None:
            return
        if error is None:
            try:
                self.end()
            except BaseException as raised:
                error = raised
        final = self._world.conclude(error)
        if final is not None and (final is not sys.exc_info()[1] or isinstance(final, Finding)):  # as in `__exit__`
            raise final
