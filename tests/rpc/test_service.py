"""What a service exports, and what it never does."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import operator
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import pytest

from flower import rpc
from flower.errors import RemoteError
from flower.rpc._middleware import Call
from flower.rpc._service import InvalidArguments, exports
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


def test_what_stands_for_a_method_is_exported_as_one() -> None:
    class Binds:
        """A decorator that is a class."""

        def __init__(self, function: Any) -> None:
            self.function = function

        def __get__(self, owner: Any, cls: Any) -> Any:
            return types.MethodType(self.function, owner)

        def __call__(self, *args: Any) -> Any:
            raise AssertionError("it is called as a method")

    class Inner:
        def __get__(self, owner: Any, cls: Any) -> Any:
            raise AssertionError("it is a nested class's")

    class Various(Service):
        @functools.cache  # noqa: B019
        def cached(self, a: int) -> int:
            return a + self.field

        @functools.cache  # noqa: B019
        def _hidden(self) -> None: ...

        @functools.cached_property
        def lazy(self) -> Any:
            raise AssertionError("a property is never evaluated")

        @Binds
        def bound(self, a: int) -> int:
            return a * 2

        @functools.singledispatchmethod
        def by_type(self, a: object) -> str:
            return "object"

        more = functools.partialmethod(cached, 10)
        by_type.register(int)(lambda self, a: "int")
        Thing = Inner
        function = print
        of_one = functools.partial(print)

    table = exports(Various())
    assert set(table) == {"cached", "bound", "by_type", "more", "both", "marked"}
    assert [table["cached"](1), table["bound"](4), table["by_type"](1), table["more"]()] == [2, 8, "int", 11]
    assert table["cached"].signature == "(a: int) -> int"
    with pytest.raises(InvalidArguments, match="too many"):
        table["cached"](1, 2)


@pytest.mark.parametrize("service", [5, len, "text", []])
def test_what_can_export_nothing_is_no_service(service: object) -> None:
    with pytest.raises(TypeError, match="a service is an object"):
        exports(service)


# -- Modules and dicts


def module(source: str, name: str = "aservice") -> types.ModuleType:
    made = types.ModuleType(name)
    exec(source, vars(made))
    return made


def test_a_module_exports_the_functions_that_it_defines() -> None:
    made = module(
        """
from functools import cache
from os.path import join
from operator import add
from flower import rpc

class Thing: pass
CONSTANT = 5
alias = len

def public(): return 1
@cache
def cached(): return 1
def _private(): return 2
"""
    )
    assert set(exports(made)) == {"public", "cached"}

    @rpc.method
    def marked() -> None: ...

    vars(made).update(marked=marked, _hidden=marked)  # as imported
    assert set(exports(made)) == {"public", "cached", "marked"}


def test_all_of_a_module_narrows_what_it_exports() -> None:
    made = module("__all__ = ['one']\ndef one(): pass\ndef two(): pass")
    assert set(exports(made)) == {"one"}


def test_a_module_written_in_c() -> None:
    assert {"sqrt", "hypot"} <= set(exports(math))
    assert "_operator" not in exports(operator)
    assert not set(exports(sys)) & {"stdout", "modules", "_getframe"}


def test_a_dict_exports_what_it_says() -> None:
    found = exports({"add": operator.add, "text.upper": str.upper, "make": dict})
    assert set(found) == {"add", "text.upper", "make"}
    assert found["add"](1, 2) == 3
    assert found["make"](a=1) == {"a": 1}


@pytest.mark.parametrize(
    ("service", "error", "text"),
    [
        ({5: len}, TypeError, "a method's name is a str, not 5"),
        ({"_private": len}, ValueError, "private"),
        ({"a.__class__": len}, ValueError, "private"),
        ({"": len}, ValueError, "private"),
        ({"$/hello": len}, ValueError, "protocol's own"),
        ({"five": 5}, TypeError, "'five' is no function"),
        ({"later": asyncio.sleep}, TypeError, "'later' is a coroutine function; a plain one may"),
    ],
)
def test_what_a_dict_may_not_say(service: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        exports(service)


# -- Arguments


class Signatures:
    def __init__(self) -> None:
        self.ran = 0

    def two(self, a: int, b: int = 2) -> list[int]:
        self.ran += 1
        return [a, b]

    def named(self, a: int, *, key: int, other: int = 3) -> list[int]:
        self.ran += 1
        return [a, key, other]

    def only(self, a: int, /) -> int:
        self.ran += 1
        return a

    def rest(self, *args: int, **kwargs: int) -> list[Any]:
        self.ran += 1
        return [list(args), kwargs]

    def count(self, n: int) -> Iterator[int]:
        """Count to n.

        From nought.
        """
        yield from range(n)


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "result"),
    [
        ("two", [1], {}, [1, 2]),
        ("two", [1, 5], {}, [1, 5]),
        ("two", [], {"b": 1, "a": 3}, [3, 1]),
        ("named", [1], {"key": 2}, [1, 2, 3]),
        ("named", [], {"key": 2, "a": 0, "other": 1}, [0, 2, 1]),
        ("only", [1], {}, 1),
        ("rest", [], {}, [[], {}]),
        ("rest", [1, 2], {"args": 4}, [[1, 2], {"args": 4}]),
    ],
)
def test_arguments_that_fit(name: str, args: list[Any], kwargs: dict[str, Any], result: Any) -> None:
    assert exports(Signatures())[name].call(args, kwargs) == result


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "text"),
    [
        ("two", [], {}, r"two\(a: int, b: int = 2\) -> list\[int\]: missing a required argument: 'a'"),
        ("two", [1, 2, 3], {}, "too many positional arguments"),
        ("two", [1], {"a": 1}, "multiple values for argument 'a'"),
        ("two", [1], {"c": 1}, "unexpected keyword argument 'c'"),
        ("named", [1], {}, "missing a required.* argument: 'key'"),
        ("named", [1, 2], {}, "too many positional arguments"),
        ("only", [], {"a": 1}, "'a'"),
        ("two", [1], {"self": 1}, "unexpected keyword argument 'self'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_it_runs(
    name: str, args: list[Any], kwargs: dict[str, Any], text: str
) -> None:
    service = Signatures()
    with pytest.raises(InvalidArguments, match=text):
        exports(service)[name].call(args, kwargs)
    assert service.ran == 0


def test_a_wrapper_is_asked_itself_and_what_it_wraps_is_shown() -> None:
    def with_user(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(self: Any, text: str) -> Any:
            return function(self, "user", text)

        return wrapper

    class Service:
        @with_user
        def say(self, user: str, text: str) -> str:
            return f"{user}: {text}"

    say = exports(Service())["say"]
    assert say("hello") == "user: hello"
    assert say.signature == "(user: str, text: str) -> str"


def test_a_method_is_described() -> None:
    table = exports(Signatures())
    count = table["count"]
    assert (count.signature, count.streams) == ("(n: int) -> Iterator[int]", True)
    assert count.doc == "Count to n.\n\nFrom nought."
    assert (table["only"].doc, table["only"].streams) == ("", False)
    assert exports({"max": max})["max"].signature == "(...)"

    class Unprintable:
        def __repr__(self) -> str:
            raise ValueError

    def f(a: Any = Unprintable()) -> None: ...  # noqa: B008

    assert exports({"f": f})["f"].signature == "(...)"


def test_a_docstring_that_no_wire_carries_is_told_all_the_same() -> None:
    def odd() -> None: ...

    odd.__doc__ = "\ud800 is half a character"  # Python 3.13 compiles no such docstring
    with served({"odd": odd, "len": len}) as (_, peer):
        assert peer.call("$/list")["odd"]["doc"] == r"\ud800 is half a character"


# -- Middleware of a service


def test_middleware_is_nested_in_the_order_given() -> None:
    log: list[Any] = []

    def layer(name: str) -> Any:
        def around(call: Call, proceed: Any) -> Any:
            log.append(f"{name} {call.method}")
            try:
                return proceed(call)
            finally:
                log.append(f"{name} done")

        return around

    table = exports({"add": operator.add}, [layer("outer"), layer("inner")])
    assert table["add"](1, 2) == 3
    assert log == ["outer add", "inner add", "inner done", "outer done"]


def test_middleware_may_change_the_call_its_result_and_its_arguments() -> None:
    def strip(call: Call, proceed: Any) -> Any:
        token, *rest = call.args
        if token != "secret":
            raise PermissionError("who are you?")
        call.args = tuple(rest)
        return -proceed(call)

    add = exports({"add": operator.add}, [strip])["add"]
    assert add("secret", 1, 2) == -3
    with pytest.raises(PermissionError):
        add("public", 1, 2)
    with pytest.raises(InvalidArguments):
        exports({"f": lambda: 1}, [strip])["f"]("secret", 1)


@pytest.mark.parametrize(("middleware", "text"), [(len, r"give \[len\]"), ([5], "a layer of middleware is a function")])
def test_what_is_no_middleware(middleware: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        exports({"add": operator.add}, middleware)


def test_a_type_error_of_the_methods_own_is_not_one_of_its_arguments() -> None:
    ran = []

    def method(a: int, *, b: int) -> int:
        ran.append((a, b))
        return a + b

    table = exports({"method": method})
    with pytest.raises(TypeError, match="unsupported operand") as caught:
        table["method"].call([1], {"b": "text"})
    assert type(caught.value) is TypeError
    for args, kwargs in (([], {"b": 1}), ([1], {"a": 1, "b": 1}), ([1], {"c": 1}), ([1, 2], {"b": 1})):
        with pytest.raises(InvalidArguments):
            table["method"].call(args, kwargs)
    assert ran == [(1, "text")]


def test_a_signature_that_is_told_is_kept_to() -> None:
    def method(*args: int, **kwargs: int) -> int:
        raise AssertionError("it was called")

    method.__signature__ = inspect.signature(lambda a, *, b=1: None)  # type: ignore[attr-defined]
    with pytest.raises(InvalidArguments):
        exports({"method": method})["method"].call([1], {"c": 1})
