"""What a service exports, and what it never does."""

from __future__ import annotations

import functools
import math
import threading
from typing import Any

import pytest

from flower import rpc
from flower.errors import RemoteError
from flower.rpc._service import exports
from tests.rpc.support import served


class Base:
    def inherited(self) -> str:
        return "inherited"

    @rpc.method
    def marked(self) -> str:
        return "marked"

    @rpc.method
    def hidden(self) -> str:
        return "hidden"

    @rpc.method
    def overridden(self) -> str:
        return "base"


class Service(Base):
    attribute = 5
    hidden = None  # type: ignore[assignment]

    class Nested:
        pass

    def __init__(self) -> None:
        self.instance_attribute = print
        self.field = 1

    def public(self) -> str:
        return "public"

    @rpc.method
    def both(self) -> str:
        return "both"

    def overridden(self) -> str:
        return "own"

    @staticmethod
    def static() -> str:
        return "static"

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__

    @property
    def prop(self) -> str:
        raise AssertionError("a property is never evaluated")

    def _private(self) -> str:
        return "private"

    def __dunder__(self) -> str:
        return "dunder"

    def __call__(self) -> str:
        return "call"


EXPORTED = {
    "public": "public",
    "both": "both",
    "marked": "marked",
    "overridden": "own",
    "static": "static",
    "of_class": "Service",
}


def test_exactly_the_public_methods_are_exported() -> None:
    assert {name: function() for name, function in exports(Service()).items()} == EXPORTED


@pytest.mark.usefixtures("loop")
def test_exported_methods_can_be_called() -> None:
    with served(Service()) as (_, peer):
        assert {name: peer.call(name) for name in EXPORTED} == EXPORTED


@pytest.mark.parametrize(
    "name",
    [
        "inherited",
        "hidden",
        "attribute",
        "Nested",
        "instance_attribute",
        "field",
        "prop",
        "_private",
        "__dunder__",
        "__call__",
        "__init__",
        "__class__",
        "__getattribute__",
        "public.__globals__",
        "",
        "public\0",
        "\udcff",
    ],
)
@pytest.mark.usefixtures("loop")
def test_nothing_else_can_be_called(name: str) -> None:
    with served(Service()) as (_, peer), pytest.raises(RemoteError, match="unknown method"):
        peer.call(name)


def test_what_a_library_class_brings_along_is_not_exported() -> None:
    class Worker(threading.Thread):
        def status(self) -> str:
            return "fine"

    assert set(exports(Worker())) == {"status"}


def test_no_service_exports_nothing() -> None:
    assert exports(None) == {}
    assert exports(object()) == {}


def test_mark_of_a_private_name_is_refused() -> None:
    with pytest.raises(ValueError, match="private"):

        class Bad:
            @rpc.method
            def _private(self) -> None: ...


@pytest.mark.parametrize("what", [5, None, "name"])
def test_only_methods_can_be_marked(what: Any) -> None:
    with pytest.raises(TypeError, match="marks a method"):
        rpc.method(what)


def test_marks_of_static_and_class_methods() -> None:
    class Parent:
        @rpc.method
        @staticmethod
        def one() -> int:
            return 1

        @classmethod
        @rpc.method
        def two(cls) -> int:
            return 2

    class Child(Parent):
        pass

    assert {name: function() for name, function in exports(Child()).items()} == {"one": 1, "two": 2}


def test_a_marked_method_may_be_wrapped() -> None:
    class Cached:
        @rpc.method
        @functools.lru_cache  # noqa: B019
        def f(self) -> int:
            return 1

    assert exports(Cached())["f"]() == 1
    with pytest.raises(TypeError, match="marks a method"):
        rpc.method(functools.partial(print))


@pytest.mark.parametrize("service", [5, {"add": max}, math, len, "text", []])
def test_what_can_export_nothing_is_no_service(service: object) -> None:
    with pytest.raises(TypeError, match="a service is an object"):
        exports(service)
