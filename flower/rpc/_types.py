"""Values that MessagePack has no types for, as ext types between Flower peers. Never pickle.

Ext type 71 holds one byte, which says what it is, and its contents as MessagePack. Tuples, sets, dates, decimals,
UUIDs and integers of any size are known; a class is if both sides have registered it (`register`), under one name.
Nothing is ever looked up by a name that a peer sends, except in that table.

This file knows no connection. A `Codec` is one connection's; the ends of channels (ext type 70) are its ``ends``.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import uuid
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple, Protocol, TypeVar, overload

import msgpack

from flower.rpc._scan import measure

# Ext types. Neovim has 0 to 2, and -1 is MessagePack's own timestamp.
END = 70
VALUE = 71

# Ext types in ext types: each level copies its contents once.
MAX_EXT_DEPTH = 32

# Members of a set, or keys of a map, with the same hash. A grid of points around 0 in 6 dimensions has 64.
MOST_ALIKE = 64

C = TypeVar("C", bound=type)
_MICROSECOND = datetime.timedelta(microseconds=1)


class NotPlain(TypeError):
    """A value that only a Flower peer could read. Nothing was sent."""


class Ends(Protocol):
    """What turns ends of channels into bytes, and back. What is to be done with them is put into ``fresh``."""

    def at_once(self, function: Callable[[Any], Any], value: Any) -> Any: ...
    def is_end(self, value: Any) -> bool: ...
    def export(self, value: Any, fresh: list[Any]) -> bytes: ...
    def load(self, data: bytes) -> Any: ...
    def was_packed(self, data: bytes, fresh: list[Any]) -> None: ...
    def roll_back(self, fresh: list[Any]) -> None: ...


class _Registered(NamedTuple):
    name: str
    to: Callable[[Any], Any]
    of: Callable[[Any], Any]


_by_class: dict[type, _Registered] = {}
_by_name: dict[str, _Registered] = {}


@overload
def register(cls: C, *, name: str | None = ..., to: Any = ..., of: Any = ...) -> C: ...
@overload
def register(cls: None = ..., *, name: str | None = ..., to: Any = ..., of: Any = ...) -> Callable[[C], C]: ...
def register(
    cls: Any = None,
    *,
    name: str | None = None,
    to: Callable[[Any], Any] | None = None,
    of: Callable[[Any], Any] | None = None,
) -> Any:
    """Let objects of a class be sent to Flower peers, as arguments, results and values of channels.

    Both sides register the class, under one name: ``name``, or else its qualified name. For a dataclass, an enum or
    an exception nothing more is needed. For others, ``to(object)`` gives a value that can be sent, and ``of(value)``
    makes the object of it; neither may block, since messages are packed and made in one go. A dataclass is made by
    calling it with its fields, so that its ``__post_init__`` checks them.

    Raises TypeError for a class that needs ``to`` and ``of``; ValueError where the name is another class's.

    >>> @rpc.register
    ... @dataclasses.dataclass
    ... class Point:
    ...     x: float
    ...     y: float
    """
    if cls is None:
        return lambda found: register(found, name=name, to=to, of=of)
    if not isinstance(cls, type):
        raise TypeError(f"rpc.register takes a class, not {cls!r}")
    if to is None and of is None:
        if dataclasses.is_dataclass(cls):
            to, of = _dataclass(cls)
        elif issubclass(cls, enum.Enum):
            to, of = (lambda member: member.value), cls
        elif issubclass(cls, BaseException):
            to, of = (lambda error: list(error.args)), (lambda args: cls(*_array(args)))
    if to is None or of is None:
        raise TypeError(f"{cls.__name__} is no dataclass and no enum: say how it is sent, with to= and of=")
    known = _Registered(name or cls.__qualname__, to, of)
    if any(other.name == known.name and owner is not cls for owner, other in _by_class.items()):
        raise ValueError(f"the name {known.name!r} is registered for another class: give name=")
    _by_class[cls] = _by_name[known.name] = known
    return cls


def _dataclass(cls: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    fields = [field.name for field in dataclasses.fields(cls) if field.init]

    def to(value: Any) -> dict[str, Any]:
        return {name: getattr(value, name) for name in fields}

    def of(contents: dict[str, Any]) -> Any:
        return cls(**contents)

    return to, of


def registered_name(cls: type) -> str | None:
    """The name that the class is registered under."""
    known = _by_class.get(cls)
    return None if known is None else known.name


def registered_class(name: str) -> Any:
    """The exception class that is registered under the name."""
    for cls, known in _by_class.items() if name in _by_name else ():
        if known.name == name and issubclass(cls, BaseException):
            return cls
    return None


# -- The known types: what byte, how it is packed, how it is made again


def _pack_datetime(value: datetime.datetime) -> list[Any]:
    """Where it has a time zone, its offset goes along, and not the zone's rules."""
    offset = value.utcoffset()
    return [value.replace(tzinfo=None).isoformat(), None if offset is None else offset // _MICROSECOND, value.fold]


def _make_datetime(contents: list[Any]) -> datetime.datetime:
    text, offset, fold = contents
    found = datetime.datetime.fromisoformat(text)
    if offset is not None:
        found = found.replace(tzinfo=datetime.timezone(offset * _MICROSECOND))
    return found.replace(fold=fold)


def _pack_time(value: datetime.time) -> Any:
    if value.tzinfo is not None:
        raise TypeError("a time of day with a time zone means nothing without its date, and can't be sent")
    return value.isoformat()


def _pack_int(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _array(contents: Any) -> list[Any]:
    """The contents, as members. Of a text each character would be one, which takes forty times its bytes."""
    if type(contents) is not list:
        raise TypeError(f"what has members is made of an array, not {type(contents).__name__}")
    return contents


def _apart(values: list[Any]) -> list[Any]:
    """The values, as members of a set: not many may have one hash, since that makes a set take quadratic time.

    Strings' hashes are secret, but those of tuples and of large integers are anybody's to choose.
    """
    if len(values) > MOST_ALIKE and max(Counter(map(hash, values)).values()) > MOST_ALIKE:
        raise ValueError(f"more than {MOST_ALIKE} keys, or members of a set, that have the same hash")
    return values


_PACK: dict[type, tuple[bytes, Callable[[Any], Any]]] = {
    tuple: (b"t", list),
    set: (b"s", list),
    frozenset: (b"f", list),
    int: (b"i", _pack_int),
    Decimal: (b"D", str),
    uuid.UUID: (b"U", lambda value: value.bytes),
    datetime.datetime: (b"d", _pack_datetime),
    datetime.date: (b"a", lambda value: value.isoformat()),
    datetime.time: (b"c", _pack_time),
    datetime.timedelta: (b"l", lambda value: value // _MICROSECOND),
    complex: (b"z", lambda value: [value.real, value.imag]),
}
_MAKE: dict[bytes, Callable[[Any], Any]] = {
    b"t": lambda values: tuple(_array(values)),
    b"s": lambda values: set(_apart(_array(values))),
    b"f": lambda values: frozenset(_apart(_array(values))),
    b"i": lambda data: int.from_bytes(data, "big", signed=True),
    b"D": Decimal,
    b"U": lambda data: uuid.UUID(bytes=data),
    b"d": _make_datetime,
    b"a": datetime.date.fromisoformat,
    b"c": datetime.time.fromisoformat,
    b"l": lambda count: count * _MICROSECOND,
    b"z": lambda parts: complex(*_array(parts)),
    b"r": lambda contents: _by_name[contents[0]].of(contents[1]),
}
# Subclasses that nobody registered go as what they are built on, as with json: an enum of strings as its value, too.
_BASES: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    dict: dict,
    list: list,
    bytes: bytes,
}


class Packing:
    """A message as it is packed: for which connection, the ends of channels in it, and how deep in ext types it is."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.fresh: list[Any] = []
        self.depth = 0

    def default(self, value: Any) -> Any:
        """What msgpack is to pack in place of a value that it does not know."""
        return self.codec.default(value, self)


class Codec:
    """How the values of one connection are packed, and made again.

    ``flower``: whether the peer is one, True or False; None while that is not known yet. `default` and `load` are
    the hooks of msgpack's packer and unpacker; they never switch tasklets. What can't be made again of what a peer
    sent is no end of the connection: ``problem`` then says why, and whoever reads the message looks at it.
    """

    def __init__(self, ends: Ends | None = None) -> None:
        self.flower: bool | None = False
        self.ends = ends
        self.budget = 0  # bytes that the contents of the message's ext types may still take
        self.depth = 0  # of ext types in ext types, in what is made
        self.problem: Exception | None = None

    # -- Sending

    def default(self, value: Any, packing: Packing) -> Any:
        """As `Packing.default`."""
        kind = type(value)
        if self.flower and self.ends is not None and self.ends.is_end(value):
            return msgpack.ExtType(END, self.ends.export(value, packing.fresh))
        known = _PACK.get(kind)
        if known is not None:
            tag, to = known
            return self._wrapped(tag, value, to, packing)
        registered = _by_class.get(kind)
        if registered is not None:
            return self._wrapped(b"r", value, lambda found: [registered.name, registered.to(found)], packing)
        for base, to in _BASES.items():
            if isinstance(value, base) and kind is not bool:
                plain = self._at_once(to, value)
                if base is int and not -(2**63) <= plain < 2**64:  # msgpack asks no second time
                    return self._wrapped(b"i", plain, _pack_int, packing)
                return plain
        if isinstance(value, tuple):
            return self._wrapped(b"t", value, list, packing)
        if self.ends is not None and self.ends.is_end(value):
            raise NotPlain(f"a channel can be sent to a Flower peer only, and not {value!r} to this one")
        raise TypeError(_cant(value))

    def _wrapped(self, tag: bytes, value: Any, to: Callable[[Any], Any], packing: Packing) -> Any:
        if not self.flower:
            kind = type(value)
            if self.flower is False and isinstance(value, tuple):
                return list(value)
            if kind is int and self.flower is False:
                raise OverflowError(f"an integer of {value.bit_length()} bits; a plain peer takes 64")
            article = "an" if kind.__name__[0] in "aeiouAEIOU" else "a"
            raise NotPlain(f"{article} {kind.__name__} can be sent to a Flower peer, and this is none")
        if packing.depth >= MAX_EXT_DEPTH:
            raise ValueError(f"a value of tuples, sets or registered classes nested more than {MAX_EXT_DEPTH} deep")
        packing.depth += 1
        try:
            return msgpack.ExtType(VALUE, tag + new_packer(packing).pack(self._at_once(to, value)))
        finally:
            packing.depth -= 1

    def _at_once(self, function: Callable[[Any], Any], value: Any) -> Any:
        """Call what may run code of a user: what he has registered, a time zone, a method of his class."""
        return function(value) if self.ends is None else self.ends.at_once(function, value)

    # -- Receiving

    def load(self, code: int, data: bytes) -> Any:
        """The value of an ext type."""
        if self.flower and code == VALUE:
            return self._make(data)
        if self.flower and code == END and self.ends is not None:
            return self.ends.load(data)
        return msgpack.ExtType(code, data)

    def _make(self, data: bytes) -> Any:
        contents = data[1:]
        if self.depth >= MAX_EXT_DEPTH:
            raise ValueError("an ext type's contents are one value, nested not too deep")
        scanner = measure(contents, len(data), self.budget)
        self.budget -= scanner.cost
        self.depth += 1
        try:
            value = unpack(contents, self, scanner.keyed)
        finally:
            self.depth -= 1
        try:
            return self._at_once(_MAKE[data[:1]], value)
        except Exception as error:
            if self.problem is None:
                self.problem = _unmade(data[:1], value, error)
            return None

    def make_map(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        """A map that has keys of ext types: they may have one hash, or none here."""
        try:
            _apart([key for key, _ in pairs])
            return dict(pairs)
        except TypeError as error:
            if self.problem is None:
                self.problem = TypeError(f"a map's key that can't be one here: {str(error)[:200]}")
            return {}


def _unmade(tag: bytes, value: Any, error: Exception) -> Exception:
    if tag == b"r" and isinstance(value, list) and value and isinstance(value[0], str) and value[0] not in _by_name:
        return TypeError(f"an object of the class {value[0][:100]!r}, which is not registered here (rpc.register)")
    return TypeError(f"a value that can't be made here: {type(error).__name__}: {str(error)[:200]}")


def _cant(value: Any) -> str:
    kind = type(value).__name__
    if dataclasses.is_dataclass(value) or isinstance(value, enum.Enum):
        return f"{kind} can't be sent: register the class on both sides, with rpc.register"
    return f"an object of the class {kind} can't be sent: {ascii(value)[:80]}"


def unpack(data: Any, codec: Codec, keyed: bool) -> Any:
    """A value of bytes that were looked at; ``keyed``: there is a map with a key of an ext type."""
    return msgpack.unpackb(
        data,
        raw=False,
        strict_map_key=False,
        unicode_errors="surrogateescape",
        ext_hook=codec.load,
        object_pairs_hook=codec.make_map if keyed else None,
    )


def new_packer(packing: Packing, buf_size: int = 512) -> msgpack.Packer:
    """A packer that asks about all but the plain types."""
    return msgpack.Packer(
        default=packing.default,
        use_bin_type=True,
        strict_types=True,
        unicode_errors="surrogateescape",
        buf_size=buf_size,
    )
