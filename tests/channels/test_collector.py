"""The garbage collector need not look at tasklets that wait for their first turn; it knows of all others."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from flower import channel, go, schedule, tasklet

from .support import in_thread, output


class Own(tasklet):
    """A subclass, which has a ``__dict__``, and so can be in a cycle of its own."""


def nothing(*args: Any) -> None:
    pass


def known(t: Any) -> bool:
    return gc.is_tracked(t) and any(o is t for o in gc.get_objects())


def cyclic(function: Any = nothing) -> Any:
    t = Own(function)
    t.itself = t  # type: ignore[attr-defined]
    return t


def gone(watch: Any) -> bool:
    gc.collect()
    return watch() is None


@pytest.mark.compiled
@pytest.mark.parametrize("start", [go, lambda f: tasklet(f)(), lambda f: Own(f).setup()], ids=["go", "call", "setup"])
def test_a_queued_tasklet_is_known_from_its_first_turn_on(start: Any) -> None:
    ch = channel()
    t = start(ch.receive)
    assert not known(t)
    schedule()
    assert t.blocked and known(t)
    ch.send(1)
    schedule()
    assert not t.alive and known(t)


@pytest.mark.parametrize("kind", [tasklet, Own])
def test_one_that_leaves_the_queue_is_known_again(kind: Any) -> None:
    t = kind(nothing)()
    t.remove()
    assert known(t)
    t.insert()
    schedule()
    assert not t.alive and known(t)
    t.bind(nothing)()
    t.kill()
    assert not t.alive and known(t)


def test_one_that_is_dropped_with_its_thread_is_known_again() -> None:
    with pytest.warns(ResourceWarning):
        kept = in_thread(lambda: go(nothing))
    assert not kept.alive and known(kept)


def test_what_is_queued_holds_what_it_needs() -> None:
    class Argument:
        pass

    argument = Argument()
    watch = weakref.ref(argument)
    seen: list[Any] = []
    go(seen.append, argument)
    del argument
    gc.collect()
    schedule()
    assert seen == [watch()] != [None]


@pytest.mark.parametrize("end", [schedule, None], ids=["ended", "killed"])
def test_a_cycle_of_one_that_was_queued_is_collected(end: Any) -> None:
    t = cyclic()
    watch = weakref.ref(t)
    t()
    gc.collect()
    assert watch() is t
    t.kill() if end is None else end()
    del t
    assert gone(watch)


def test_a_cycle_of_one_that_was_taken_out_of_the_queue_is_collected() -> None:
    t = cyclic()
    watch = weakref.ref(t)
    t(t)
    t.remove()
    del t
    assert gone(watch)


def test_a_cycle_of_one_that_was_bound_anew_is_collected() -> None:
    t = cyclic()
    watch = weakref.ref(t)
    t(t).remove()
    t.bind(nothing, (t,))
    del t
    assert gone(watch)


def test_a_cycle_of_one_whose_thread_has_ended_is_collected() -> None:
    with pytest.warns(ResourceWarning):
        watch = in_thread(lambda: weakref.ref(cyclic()()))
    assert gone(watch)


def test_a_dead_tasklet_that_its_finalizer_starts_again_runs() -> None:
    ran = []

    class Again(Own):
        def __del__(self) -> None:
            if not ran:
                self(1)

    t = Again(ran.append)
    t.itself = t  # type: ignore[attr-defined]
    del t
    gc.collect()
    gc.collect()
    schedule()
    assert ran == [1]
    gc.collect()


def test_what_is_started_while_a_thread_ends_is_collected() -> None:
    code = """
        import gc, threading, warnings, weakref, flower
        warnings.simplefilter("ignore")
        watches = []
        class Thing:
            pass
        def waits():
            try:
                flower.channel().receive()
            finally:
                thing = Thing()
                t = flower.go(lambda thing: None, thing)
                watches.extend([weakref.ref(thing), weakref.ref(t), weakref.ref(t.sched)])
        def body():
            flower.go(waits)
            flower.schedule()
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        gc.collect()
        print([watch() for watch in watches])
    """
    assert output(code) == "[None, None, None]\n"
