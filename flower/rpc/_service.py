"""What a service exports: the only methods that a peer can call.

The table is made once, from an object's class, a module or a dict of functions. A peer's string is looked up in
it and never used as an attribute's name.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

from flower.rpc._middleware import Call, Middleware, chain

if not cython.compiled:

    def call_with(function: Callable[..., Any], args: Sequence[Any]) -> Any:
        """Call the function with the arguments, which are in a list or a tuple."""
        return function(*args)


F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__flower_rpc_method__"
_KINDS = (types.FunctionType, staticmethod, classmethod, functools.partialmethod, functools.singledispatchmethod)
# Characters of a docstring or a signature that are told to a peer that asks.
MAX_DOC = 8 * 1024


class InvalidArguments(TypeError):
    """Inside this package: the arguments of a call do not fit the method; it has not run.

    Its name is what callers see, and so that of the error that a Flower peer makes of it.
    """

    __module__ = "flower.errors"


def method(function: F) -> F:
    """Mark a method of a service as one that peers may call.

    Needed for methods that the service's class inherits, and for functions that a module imports: of its own,
    all that have a public name are exported anyway. A name that begins with an underscore is never exported:
    ValueError.

    >>> class Base:
    ...     @rpc.method
    ...     def ping(self): return "pong"
    """
    inner = getattr(function, "__func__", function)
    name = getattr(inner, "__name__", None)
    if not callable(inner) or name is None or not hasattr(function, "__get__"):
        raise TypeError(f"rpc.method marks a method, not {function!r}")
    if name.startswith("_"):
        raise ValueError(f"{name!r} is private, and can't be exported")
    setattr(inner, _MARK, True)
    return function


class Method:
    """One exported method: it is called with a peer's arguments, after a look whether they fit."""

    def __init__(self, name: str, function: Callable[..., Any], middleware: Sequence[Middleware] = ()) -> None:
        self.name = name
        self.function = function
        plain = getattr(function, "__func__", function)
        if inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):
            raise TypeError(f"the service's {name!r} is a coroutine function; a plain one may call flower.wait")
        self.streams = inspect.isgeneratorfunction(plain)
        self._chain = chain(middleware, self._last) if middleware else None
        # What really takes the arguments: a wrapper may take others than what it wraps, unless it is written in C.
        self._takes = _signature(function, follow_wrapped=False) or _signature(function)
        self._told = hasattr(function, "__signature__")  # then it may take more than it tells
        self._least, self._most = _positional(self._takes)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(args, kwargs)

    def call(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
        """Call it, through the middleware. Raises `InvalidArguments`, and what the method raises."""
        if self._chain is not None:
            return self._chain(Call(self.name, tuple(args), dict(kwargs or {})))
        if kwargs:
            if self._told:
                self.check(args, kwargs)
            try:
                return self.function(*args, **kwargs)
            except TypeError:  # its own, or it was not called
                self.check(args, kwargs)
                raise
        if not self._least <= len(args) <= self._most:
            self.check(args, {})
        return call_with(self.function, args)

    def _last(self, call: Call) -> Any:
        self.check(call.args, call.kwargs)
        return self.function(*call.args, **call.kwargs)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raises `InvalidArguments` where the method could not be called with these."""
        if self._takes is None or (not kwargs and self._least <= len(args) <= self._most):
            return
        try:
            self._takes.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArguments(f"{self.name}{_text(self._takes)}: {error}") from None

    @property
    def signature(self) -> str:
        """Its parameters as they were written, for a peer that asks."""
        signature = _signature(self.function)
        return _text(signature) if signature is not None else "(...)"

    @property
    def doc(self) -> str:
        """Its docstring, for a peer that asks; "" without one."""
        doc = (inspect.getdoc(self.function) or "")[:MAX_DOC]
        return doc.encode("utf-8", "backslashreplace").decode()  # one half of a surrogate pair goes over no wire

    def __repr__(self) -> str:
        return f"<Method {self.name} of {self.function!r}>"


def exports(service: object, middleware: Sequence[Middleware] = ()) -> dict[str, Method]:
    """The methods of a service that peers may call, by name.

    - An object: the functions (and static and class methods, and what decorators such as `functools.cache` put in
      their place) with public names that its own class defines, and the marked ones that this inherits. Attributes
      of the object itself, properties and nested classes are none.
    - A module: the functions with public names that it defines itself (of these, the ones in ``__all__`` where
      there is one), and the marked ones that it imports.
    - A dict: what it says, name by name.
    """
    if service is None:
        return {}
    if isinstance(service, Mapping):
        found = dict(_of_mapping(service))
    elif isinstance(service, types.ModuleType):
        found = dict(_of_module(service))
    else:
        found = _of_object(service)
    return {name: Method(name, function, middleware) for name, function in found.items()}


def _of_object(service: object) -> dict[str, Callable[..., Any]]:
    if isinstance(service, type):
        raise TypeError(f"a service is an object, not a class: give {service.__name__}()")
    own = type(service)
    if own.__module__ == "builtins" and own is not object:  # a number, a list, a function ...
        raise TypeError(
            f"a service is an object of a class with methods to call, a module, or a dict of functions, not {service!r}"
        )
    found: dict[str, Callable[..., Any]] = {}
    for cls in reversed(own.__mro__):
        for name, member in vars(cls).items():
            if not name.startswith("_") and (_marked(member) or (cls is own and _is_function(member))):
                found[name] = member.__get__(service, own)
            else:
                found.pop(name, None)  # something else of that name hides it
    return found


def _of_module(module: types.ModuleType) -> Iterator[tuple[str, Callable[..., Any]]]:
    members = vars(module)
    public = members.get("__all__", members)
    for name, member in members.items():
        function = isinstance(member, types.BuiltinFunctionType) or _is_function(member)
        own = function and getattr(member, "__module__", None) == module.__name__ and name in public
        if not name.startswith("_") and callable(member) and (own or _marked(member)):
            yield name, member


def _of_mapping(functions: Mapping[Any, Any]) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, function in functions.items():
        if not isinstance(name, str):
            raise TypeError(f"a method's name is a str, not {name!r}")
        if not name or any(part.startswith("_") for part in name.split(".")):
            raise ValueError(f"{name!r} is private, and can't be exported")
        if name.startswith("$"):
            raise ValueError(f"{name!r}: names that begin with $ are the protocol's own")
        if not callable(function):
            raise TypeError(f"the service's {name!r} is no function, but {function!r}")
        yield name, function


def _is_function(member: Any) -> bool:
    """Whether a class has it as a method: a function, or an object that is called and bound as one."""
    return isinstance(member, _KINDS) or (
        callable(member) and hasattr(member, "__get__") and not isinstance(member, type | functools.partial)
    )


def _marked(member: Any) -> bool:
    inner = getattr(member, "__func__", member)
    return getattr(inner, _MARK, False) is True and hasattr(member, "__get__")


def _signature(function: Callable[..., Any], follow_wrapped: bool = True) -> inspect.Signature | None:
    """None where Python does not know it, as of many functions that are written in C."""
    try:
        return inspect.signature(function, follow_wrapped=follow_wrapped)
    except (TypeError, ValueError):
        return None


def _positional(signature: inspect.Signature | None) -> tuple[float, float]:
    """How many positional arguments, and no others, fit for certain: the least and the most."""
    if signature is None:
        return 0, math.inf
    least: float = 0
    most: float = 0
    for parameter in signature.parameters.values():
        required = parameter.default is parameter.empty
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = math.inf
        elif parameter.kind is parameter.KEYWORD_ONLY:
            least = math.inf if required else least
        elif parameter.kind is not parameter.VAR_KEYWORD:
            least += required
            most += 1
    return least, most


class _Bare(str):
    """An annotation that was kept as a string: shown as it was written."""

    def __repr__(self) -> str:
        return str(self)


def _bare(annotation: Any) -> Any:
    return _Bare(annotation) if type(annotation) is str else annotation


def _text(signature: inspect.Signature) -> str:
    parameters = [p.replace(annotation=_bare(p.annotation)) for p in signature.parameters.values()]
    shown = signature.replace(parameters=parameters, return_annotation=_bare(signature.return_annotation))
    try:
        return str(shown)[:MAX_DOC]
    except Exception:  # the repr of a default fails
        return "(...)"
