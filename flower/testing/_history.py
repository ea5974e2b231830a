"""Histories of calls, and whether they are linearizable.

J. M. Wing, C. Gong, "Testing and Verifying Concurrent Objects" (1993): try the calls that could have come first, each
on a copy of the model, and go on from there; states that were tried before are not tried again (G. Lowe, 2017).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flower.testing._world import World

MOST_OPERATIONS = 30  # the search is exponential
DEEPEST = 20  # objects inside of one another in a model's state, which may also hold itself
_UNCERTAIN = (TimeoutError, ConnectionError)  # what was asked for may be done all the same, as by an RPC server
_ATOMS = (int, float, complex, bool, str, bytes, type(None))


class Operation:
    """One recorded call: ``name``, ``args``, ``result`` or ``error``, and its tasklet's name ``who``.

    ``began`` and ``ended`` are the example's steps; ``ended`` is None for a call that never returned, because it is
    blocked still, or was killed or cancelled, and for one that ended in TimeoutError (`flower.Timeout`) or
    ConnectionError: it may have had its effect, or not, or have it yet.
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
        outcome = "..." if self.ended is None and self.error is None else repr(self.error or self.result)
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
            if not isinstance(error, _UNCERTAIN):
                operation.ended = self._next()
            raise
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
        first = model()
        for op in self._operations:
            if not callable(getattr(first, op.name, None)):
                raise TypeError(f"the model, {type(first).__name__}, has no method {op.name!r}, which was recorded")
        tried: set[tuple[frozenset[int], Any]] = set()

        def search(left: list[Operation], maybe: list[Operation], state: Any) -> bool:
            if not left:
                return True
            known = _contents(state)
            if known is not None:
                key = frozenset(id(op) for op in left + maybe), known
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

        return search(done, pending, first)


def _agrees(op: Operation, state: Any) -> bool:
    """Carry the call out on the model; says whether it goes as it went."""
    try:
        result = getattr(state, op.name)(*op.args)
    except Exception as error:
        return op.ended is None or type(error) is type(op.error)
    return op.ended is None or (op.error is None and (result is op.result or bool(result == op.result)))


def _contents(state: Any, depth: int = 0) -> Any:
    """What the state of a model holds, to be compared: alike only if the states are. None where that can't be told.

    As `copy.deepcopy` sees it, which has made the state. Not by its repr, which need not show what an object holds, and
    shows an address where another object may be by now.
    """
    kind = type(state)
    if kind in _ATOMS:
        return kind, repr(state)
    if isinstance(state, (type, FunctionType, BuiltinFunctionType)):
        return kind, state
    if depth == DEEPEST or hasattr(kind, "__deepcopy__"):
        return None
    if kind in (list, tuple):
        parts: Any = state
    elif kind is dict:
        parts = [part for item in state.items() for part in item]
    elif kind in (set, frozenset):
        parts = sorted(state, key=repr)
    else:
        try:
            reduced = state.__reduce_ex__(4)
            parts = [list(part) if hasattr(part, "__next__") else part for part in reduced]
        except Exception:  # it is copied in a way of its own
            return None
    known = [kind]
    for part in parts:
        inner = _contents(part, depth + 1)
        if inner is None:
            return None
        known.append(inner)
    return tuple(known)
