"""Exceptions stay whole, and each tasklet's own, across any number of switches; so do context variables."""

from __future__ import annotations

import contextvars
import sys
import traceback
from typing import Any

import pytest

import flower
from flower import channel, go, schedule

from .support import NEVER, settle


class Boom(Exception):
    pass


def names(error: BaseException) -> list[str]:
    return [f.name for f in traceback.extract_tb(error.__traceback__)]


def test_a_raised_error_keeps_its_traceback_over_thousands_of_switches() -> None:
    def raises(i: int) -> None:
        raise Boom(i)

    def middle(i: int) -> None:
        schedule()
        raises(i)

    def worker(i: int) -> Any:
        try:
            middle(i)
        except Boom as e:
            before = names(e)
            for _ in range(50):
                schedule()
                assert sys.exc_info()[1] is e
            assert names(e) == before
            return e

    tasklets = [go(worker, i) for i in range(50)]
    for i, t in enumerate(tasklets):
        error = t.join()
        assert error.args == (i,)
        assert names(error) == ["worker", "middle", "raises"]
        assert error.__context__ is None and error.__cause__ is None


def test_chained_errors_keep_their_chain() -> None:
    def worker(i: int) -> None:
        try:
            try:
                raise KeyError(i)
            except KeyError:
                schedule()
                raise IndexError(i)
        except IndexError as e:
            schedule()
            raise Boom(i) from e

    tasklets = [go(worker, i) for i in range(100)]

    def collect(t: Any, i: int) -> None:
        with pytest.raises(Boom) as caught:
            t.join()
        chain: Any = caught.value
        kinds = []
        while chain is not None:
            assert chain.args == (i,)
            kinds.append(type(chain))
            chain = chain.__context__
        assert kinds == [Boom, IndexError, KeyError]
        assert type(caught.value.__cause__) is IndexError

    with flower.group() as g:
        for i, t in enumerate(tasklets):
            g.go(collect, t, i)  # joins before the error comes


def test_exc_info_never_shows_another_tasklets() -> None:
    def handles(i: int) -> None:
        for _ in range(20):
            assert sys.exc_info() == (None, None, None)
            try:
                raise Boom(i)
            except Boom as e:
                schedule()
                assert sys.exc_info()[1] is e
                try:
                    schedule()
                    raise KeyError(i)
                except KeyError as inner:
                    schedule()
                    assert sys.exc_info()[1] is inner
                    assert inner.__context__ is e
                schedule()
                assert sys.exc_info()[1] is e
            schedule()

    def innocent() -> None:
        for _ in range(60):
            schedule()
            assert sys.exc_info() == (None, None, None)
            try:
                raise LookupError
            except LookupError as e:
                assert e.__context__ is None

    with flower.group() as g:
        for i in range(20):
            g.go(handles, i)
            g.go(innocent)
    assert sys.exc_info() == (None, None, None)


def test_a_tasklet_that_is_made_in_an_except_block_does_not_see_the_exception() -> None:
    seen: list[Any] = []
    try:
        raise Boom
    except Boom as e:
        go(lambda: seen.append(sys.exc_info()[0])).join()
        t = go(lambda: seen.append(sys.exc_info()[0]))
        t.run()
        assert sys.exc_info()[1] is e
    assert seen == [None, None]


def test_reraise_after_a_switch() -> None:
    def worker(i: int) -> None:
        try:
            raise Boom(i)
        except Boom:
            schedule()
            try:
                raise KeyError
            except KeyError:
                schedule()
            schedule()
            raise

    def collector(i: int) -> Any:
        with pytest.raises(Boom) as caught:
            with flower.group() as g:
                g.go(worker, i)
        return caught.value.args

    tasklets = [go(collector, i) for i in range(50)]
    assert [t.join() for t in tasklets] == [(i,) for i in range(50)]


def test_an_exception_through_a_channel_arrives_whole() -> None:
    ch = channel()

    def source(i: int) -> None:
        try:
            raise KeyError(i)
        except KeyError as e:
            raise Boom(i) from e

    def sender() -> None:
        for i in range(200):
            try:
                source(i)
            except Boom:
                ch.send_throw(*sys.exc_info())

    go(sender)
    for i in range(200):
        with pytest.raises(Boom) as caught:
            ch.receive()
        assert caught.value.args == (i,)
        assert isinstance(caught.value.__cause__, KeyError)
        assert "source" in names(caught.value)
        assert names(caught.value)[0] == "test_an_exception_through_a_channel_arrives_whole"
    settle()


def test_a_traceback_does_not_grow_with_the_tasklets_that_it_passed() -> None:
    ch = channel()

    def relay(source: Any, out: Any) -> None:
        try:
            source.receive()
        except Boom as e:
            out.send_throw(type(e), e, None)

    first = ch
    for _ in range(10):
        out = channel()
        go(relay, ch, out)
        ch = out
    go(first.send_exception, Boom, "relayed")
    with pytest.raises(Boom) as caught:
        ch.receive()
    assert caught.value.args == ("relayed",)
    settle()


def test_generators_keep_their_exception_state_across_tasklets() -> None:
    def numbers() -> Any:
        try:
            raise Boom("generator's")
        except Boom as e:
            for i in range(10):
                yield i
                assert sys.exc_info()[1] is e

    shared = numbers()
    got: list[int] = []

    def consume() -> None:
        for i in shared:
            got.append(i)
            assert sys.exc_info()[1] is None
            schedule()

    def consume_in_handler() -> None:
        try:
            raise KeyError
        except KeyError as e:
            for i in shared:
                got.append(i)
                assert sys.exc_info()[1] is e
                schedule()

    with flower.group() as g:
        g.go(consume)
        g.go(consume_in_handler)
    assert got == list(range(10))


def test_tracing_of_a_failed_tasklet_names_the_users_frames() -> None:
    def outer() -> None:
        inner()

    def inner() -> None:
        raise Boom

    t = go(outer)
    with pytest.raises(Boom) as caught:
        t.join()
    assert names(caught.value)[-2:] == ["outer", "inner"]


def test_deep_recursion_in_one_tasklet_is_its_own_error() -> None:
    def endless() -> None:
        endless()

    def healthy() -> str:
        for _ in range(10):
            schedule()
        return "healthy"

    t = go(healthy)
    with pytest.raises(RecursionError), flower.group() as g:
        g.go(endless)
    assert t.join() == "healthy"


# -- Context variables

var: contextvars.ContextVar[Any] = contextvars.ContextVar("var", default="default")


def test_a_tasklet_starts_with_a_copy_of_its_creators_context() -> None:
    token = var.set("creator's")
    try:
        t = go(lambda: (var.get(), var.set("its own"), var.get())[::2])
        var.set("changed after the creation")
        assert t.join() == ("creator's", "its own")
        assert var.get() == "changed after the creation"
    finally:
        var.reset(token)
    assert var.get() == "default"


def test_contexts_stay_apart_over_switches() -> None:
    def worker(i: int) -> None:
        token = var.set(i)
        for _ in range(20):
            schedule()
            assert var.get() == i
            var.set(i)
        var.reset(token)
        assert var.get() == "default"

    with flower.group() as g:
        for i in range(50):
            g.go(worker, i)
    assert var.get() == "default"


def test_context_in_a_blocking_call_is_the_callers() -> None:
    def worker() -> Any:
        var.set("the caller's")
        return flower.blocking(var.get)

    assert go(worker).join() == "the caller's"


def test_a_grandchild_inherits() -> None:
    def child() -> Any:
        var.set("child's")
        return go(var.get)

    assert go(child).join().join() == "child's"
    assert var.get() == "default"


def test_a_timeout_error_tells_what_was_waited_for_and_has_no_stray_context() -> None:
    with pytest.raises(flower.Timeout) as caught:
        channel(label="slow one").receive(timeout=0)
    assert caught.value.__context__ is None
    with pytest.raises(flower.Timeout) as caught, flower.timeout(0):
        channel().receive(timeout=NEVER)
    assert str(caught.value)
