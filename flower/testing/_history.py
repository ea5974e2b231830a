"""Histories of calls, and whether they are linearizable.

J. M. Wing, C. Gong, "Testing and Verifying Concurrent Objects" (1993): try the calls that could have come first, each
on a copy of the model, and go on from there; states that were tried before are not tried again (G. Lowe, 2017).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flower.testing._world import World

MOST_OPERATIONS = 30  # the search is exponential


class Operation:
    """One recorded call: ``name``, ``args``, ``result`` or ``error``, and its tasklet's name ``who``.

    ``began`` and ``ended`` are the example's steps; ``ended`` is None for a call that never returned.
    """

    def __init__(self, who: str, name: str, args: tuple[Any, ...], began: int) -> None:
        self.who = who
        self.name = name
        self.args = args
        self.began = began
        self.ended: int | None = None
        self.result: Any = None
        self.error: BaseException | None = None

    def __repr__(self) -> str:
        args = ", ".join(map(repr, self.args))
        outcome = "..." if self.ended is None else repr(self.error or self.result)
        return f"<{self.who}: {self.name}({args}) -> {outcome}>"


class History:
    """The calls of one example."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._operations: list[Operation] = []
        self._moment = 0

    def record(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        who = self._world.name_of(self._world._scheduler.current)
        operation = Operation(who, getattr(fn, "__name__", repr(fn)), args, self._next())
        self._operations.append(operation)
        try:
            operation.result = fn(*args)
        except Exception as error:
            operation.error = error
            raise
        finally:
            operation.ended = self._next()
        return operation.result

    def _next(self) -> int:
        self._moment += 1
        return self._moment

    def operations(self) -> list[Operation]:
        return list(self._operations)

    def linearizable(self, model: Callable[[], Any]) -> bool:
        done = [op for op in self._operations if op.ended is not None]
        if len(self._operations) > MOST_OPERATIONS:
            raise ValueError(f"linearizable() looks at {MOST_OPERATIONS} calls at most, not {len(self._operations)}")
        pending = [op for op in self._operations if op.ended is None]
        tried: set[tuple[frozenset[int], str]] = set()

        def search(left: list[Operation], maybe: list[Operation], state: Any) -> bool:
            if not left:
                return True
            key = frozenset(id(op) for op in left + maybe), repr(getattr(state, "__dict__", state))
            if key in tried:
                return False
            tried.add(key)
            first_end = min(op.ended for op in left if op.ended is not None)
            for op in left + maybe:
                if op.began < first_end:
                    after = copy.deepcopy(state)
                    if _agrees(op, after):
                        rest, others = [o for o in left if o is not op], [o for o in maybe if o is not op]
                        if search(rest, others, after):
                            return True
            return False

        return search(done, pending, model())


def _agrees(op: Operation, state: Any) -> bool:
    """Carry the call out on the model; says whether it goes as it went."""
    try:
        result = getattr(state, op.name)(*op.args)
    except Exception as error:
        return op.ended is None or type(error) is type(op.error)
    return op.ended is None or (op.error is None and bool(result == op.result))
