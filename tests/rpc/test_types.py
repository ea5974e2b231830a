"""Values that MessagePack has no types for, between Flower peers; and plain ones for plain peers."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flower
from flower import rpc
from flower.errors import Disconnected, InvalidArguments, RemoteError
from flower.rpc import _types
from flower.rpc._types import MAX_EXT_DEPTH, VALUE, Codec, Packing, new_packer
from flower.rpc._wire import Unmade, Wire
from tests.net.support import NEVER, until
from tests.rpc.support import PLAIN, Calc, raw_server, served


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Each test registers what it likes."""
    before = dict(_types._by_class), dict(_types._by_name)
    yield
    for table, old in zip((_types._by_class, _types._by_name), before, strict=True):
        table.clear()
        table.update(old)  # type: ignore[arg-type]


def flower_wire() -> Wire:
    wire = Wire()
    wire.codec.flower = True
    return wire


def through(value: Any) -> Any:
    """What arrives of a value."""
    sender, receiver = flower_wire(), flower_wire()
    (event,) = receiver.feed(sender.notify("m", [value]))
    assert type(event[2]) is not Unmade, event[2].error
    return event[2][0]


ZONE = datetime.timezone(datetime.timedelta(hours=-3, minutes=-30))
VALUES: list[Any] = [
    (), (1, (2,)), [(1,), [2]], {1, 2}, frozenset("ab"), {(1, 2): "x"}, 2**64, -(2**63) - 1, 10**300, Decimal("1.10"),
    uuid.UUID(int=5), datetime.datetime(2024, 2, 29, 23, 59, 59, 999_999), datetime.datetime(2024, 1, 1, tzinfo=ZONE),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2024, 10, 27, 2, 30, fold=1),
    datetime.date(1, 1, 1), datetime.time(1, 2, 3), datetime.timedelta(days=-1, microseconds=1), 1 + 2j, b"", "", True,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_arrives_as_what_it_was(value: Any) -> None:
    found = through(value)
    assert found == value
    assert type(found) is type(value)
    if isinstance(value, datetime.datetime):
        assert (found.utcoffset(), found.fold) == (value.utcoffset(), value.fold)


class Text(str):
    pass


class Whole(int):
    pass


class Number(enum.IntEnum):
    ONE = 1


class Word(str, enum.Enum):  # noqa: UP042
    ONE = "one"


def test_subclasses_arrive_as_what_they_are_built_on() -> None:
    pair = collections.namedtuple("pair", "a b")
    ordered = collections.OrderedDict(a=1)
    assert through([Text("t"), Number.ONE, pair(1, 2), ordered, bytearray(b"x")]) == ["t", 1, (1, 2), {"a": 1}, b"x"]
    assert through({Word.ONE: Word.ONE}) == {"one": "one"}
    for number in (2**63, 2**64 - 1, 2**64, -(2**63) - 1):
        (found,) = through([Whole(number)])
        assert (type(found), found) == (int, number)
    assert through({Whole(2**64): 1}) == {2**64: 1}
    with pytest.raises(ValueError, match="an integer of 65 bits; a plain peer takes 64"):
        Wire().notify("m", [Whole(2**64)])


hashables = st.one_of(st.integers(), st.text(max_size=5), st.uuids(), st.decimals(allow_nan=False), st.dates())
values = st.recursive(
    hashables | st.none() | st.binary(max_size=5) | st.datetimes() | st.timedeltas(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.sets(hashables, max_size=3)
        | st.dictionaries(hashables, inner, max_size=3)
    ),
    max_leaves=10,
)


@pytest.mark.slow
@given(values)
def test_any_of_them_arrives(value: Any) -> None:
    assert through(value) == value


# -- Registered classes


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0
    seen: list[int] = dataclasses.field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x is at least 0")


class Colour(enum.Enum):
    RED = "red"


class Odd(Exception):
    pass


class Blob:
    def __init__(self, data: bytes) -> None:
        self.data = data


def test_registered_classes() -> None:
    rpc.register(Point)
    rpc.register(name="colour")(Colour)
    rpc.register(Blob, to=lambda blob: blob.data, of=Blob)
    rpc.register(Point)  # twice is no harm
    assert through([Point(1, 2), Colour.RED]) == [Point(1, 2), Colour.RED]
    assert through(Blob(b"x")).data == b"x"


def test_what_cant_be_registered() -> None:
    with pytest.raises(TypeError, match="say how it is sent"):
        rpc.register(Blob)
    with pytest.raises(TypeError, match="takes a class"):
        rpc.register(5)  # type: ignore[call-overload]
    rpc.register(Point, name="p")
    with pytest.raises(ValueError, match="registered for another class"):
        rpc.register(Colour, name="p")


@pytest.mark.parametrize("value", [Point(1), Colour.RED, Blob(b""), object(), datetime.time(1, tzinfo=datetime.UTC)])
def test_what_is_not_registered_is_told_before_anything_is_sent(value: Any) -> None:
    with pytest.raises(TypeError, match=r"rpc.register|can't be sent"):
        flower_wire().notify("m", [value])


def unmade(contents: Any) -> str:
    (event,) = flower_wire().feed(msgpack.packb([2, "m", [msgpack.ExtType(VALUE, contents), 5]]))
    assert type(event[2]) is Unmade
    assert event[2].rest == [None, 5]
    return str(event[2].error)


def test_what_cant_be_made_here_costs_no_connection() -> None:
    rpc.register(Point, name="point")
    assert "'nobody', which is not registered" in unmade(b"r" + msgpack.packb(["nobody", {}]))
    assert "x is at least 0" in unmade(b"r" + msgpack.packb(["point", {"x": -1}]))
    assert "KeyError" in unmade(b"?" + msgpack.packb(1))
    assert "TypeError" in unmade(b"s" + msgpack.packb([[1]]))
    assert "InvalidOperation" in unmade(b"D" + msgpack.packb("abc"))
    assert "IndexError" in unmade(b"r" + msgpack.packb([]))


@pytest.mark.usefixtures("loop")
def test_it_costs_the_call_alone() -> None:
    rpc.register(Point, name="point")

    class KeyPoint(Point):
        """As the other side may have it: there, it is hashable."""

        __hash__ = object.__hash__

    _types._by_class[KeyPoint] = _types._by_class[Point]

    class Service(Calc):
        def point(self) -> Any:
            return Point(1)

    with served(Service()) as (_, peer):
        assert peer.call("point") == Point(1)
        hole = msgpack.ExtType(VALUE, b"r" + msgpack.packb(["nobody", {}]))
        with pytest.raises(InvalidArguments, match="not registered"):
            peer.call("echo", hole)
        with pytest.raises(InvalidArguments, match="a map's key that can't be one here: unhashable type: 'Point'"):
            peer.call("echo", {KeyPoint(1): 2})
        with pytest.raises(InvalidArguments, match="a map's key that can't be one here"):
            peer.call("echo", ({KeyPoint(1): 2},))
        assert peer.call("echo", Point(2)) == Point(2)
        assert peer.call("add", (1,), (2,)) == (1, 2)


@pytest.mark.usefixtures("loop")
def test_an_answer_with_what_cant_be_made_here_is_an_error() -> None:
    with raw_server(settings=rpc.Settings()) as (peer, raw):
        raw.send([1, raw.receive()[1], None, {"v": 1, "feat": ["types"], "ext": 70}])
        reply = peer.start("m")
        hole = msgpack.ExtType(VALUE, b"r" + msgpack.packb(["nobody", {}]))
        raw.send([1, raw.receive()[1], None, [1, hole]])
        with pytest.raises(TypeError, match="the answer holds an object of the class 'nobody'"):
            reply.receive(NEVER)
        assert not peer.closed


@pytest.mark.usefixtures("loop")
def test_an_error_whose_making_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    class Closing(Exception):
        def __new__(cls, *args: Any) -> Any:
            peer.close()
            return super().__new__(cls, *args)

    rpc.register(Closing, name="closing")
    calc = Calc()
    with raw_server(calc) as (peer, raw):
        reply = peer.start("m")
        error = {"k": "failed", "t": "closing", "m": "it closes", "a": []}
        raw.send([1, raw.receive()[1], error, None], [2, "note", ["too late"]])
        with pytest.raises(Disconnected, match="closed here"):
            reply.receive(NEVER)
        until(lambda: flower.getruncount() == 1)
        assert not calc.log
        raw.conn.close()
    assert not caplog.records


@pytest.mark.usefixtures("loop")
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_object_whose_making_is_interrupted_leaves_nothing_for_the_next_message(error: type[BaseException]) -> None:
    def of(data: bytes) -> str:
        if data == b"bad":
            raise error
        return "made"

    rpc.register(Blob, to=lambda blob: blob.data, of=of)
    with pytest.raises(error):
        through([Blob(b"bad"), {}, "the rest"])
    assert through([Blob(b"good"), {}]) == ["made", {}]  # all wires of a thread share one decoder


def test_registered_exceptions_are_raised_as_what_they_are() -> None:
    rpc.register(Odd)

    class Service:
        def odd(self) -> None:
            raise Odd("a", 1)

    with served(Service()) as (_, peer):
        with pytest.raises(Odd) as caught:
            peer.call("odd")
        assert isinstance(caught.value, RemoteError)
        assert caught.value.args == ("a", 1)


def test_registered_exceptions_need_not_be_made_of_what_they_keep() -> None:
    @rpc.register
    class Missing(LookupError):
        def __init__(self, key: str, *, place: str) -> None:
            super().__init__(f"no {key} in {place}")

    class Service:
        def missing(self) -> None:
            raise Missing("spoon", place="drawer")

        def decode(self) -> str:
            return (10_000 * b"a" + b"\xff").decode()

    with served(Service()) as (_, peer):
        with pytest.raises(Missing, match="no spoon in drawer") as caught:
            peer.call("missing")
        assert isinstance(caught.value, RemoteError)
        assert caught.value.args == ("no spoon in drawer",)
        with pytest.raises(UnicodeDecodeError, match="can't decode byte 0xff in position 10000"):
            peer.call("decode")


@pytest.mark.usefixtures("loop")
def test_plain_peers_get_plain_types() -> None:
    class Service(Calc):
        def pair(self) -> Any:
            return (1, (2,))

        def set(self) -> Any:
            return {1}

    with served(Service(), ours=PLAIN) as (_, peer):
        assert peer.call("pair") == [1, [2]]
        assert peer.call("echo", (1, 2)) == [1, 2]
        with pytest.raises(RemoteError, match="set can be sent to a Flower peer"):
            peer.call("set")
        for value in ({1}, uuid.uuid4(), 2**70):
            with pytest.raises((TypeError, ValueError)):
                peer.call("echo", value)


# -- Limits


def test_the_contents_of_ext_types_count_too() -> None:
    inner = msgpack.packb([[]] * 100_000)
    wire = Wire(1_000_000)
    wire.codec.flower = True
    bombs = [msgpack.ExtType(VALUE, b"t" + inner)] * 3
    (event,) = wire.feed(msgpack.packb([2, "m", bombs]))
    assert "No valid" in str(event) or "no valid" in str(event)


@pytest.mark.parametrize("tag", [b"t", b"s", b"f", b"z", b"r"])
def test_no_members_are_made_of_the_characters_of_a_text(tag: bytes) -> None:
    """A message of 16 MiB would take 740 MB."""
    rpc.register(Odd)
    text = "\u0400\u0401"
    assert "made of an array, not str" in unmade(tag + msgpack.packb(["Odd", text] if tag == b"r" else text))


@pytest.mark.parametrize("depth", [MAX_EXT_DEPTH, MAX_EXT_DEPTH + 1])
def test_ext_types_in_ext_types(depth: int) -> None:
    value: Any = ()
    for _ in range(depth - 1):
        value = (value,)
    if depth > MAX_EXT_DEPTH:
        with pytest.raises(ValueError, match="nested more than"):
            through(value)
    else:
        assert through(value) == value
    data = msgpack.packb([])
    for _ in range(depth):
        data = msgpack.packb(msgpack.ExtType(VALUE, b"t" + data if data == b"\x90" else b"t\x91" + data))
    (event,) = flower_wire().feed(b"\x93\x02\xa1m\x91" + data)
    assert (event[0] == -1) is (depth > MAX_EXT_DEPTH)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_any_contents_of_an_ext_type_end_in_an_event(data: bytes) -> None:
    codec = Codec(None)
    codec.flower = True
    for code in (VALUE, 70, 5):
        events = list(Wire(codec=codec).feed(msgpack.packb([2, "m", [msgpack.ExtType(code, data)]])))
        assert len(events) == 1


# -- Values that are made to harm


P = 2**61 - 1  # hash(n) is n modulo this


def colliding(count: int, kind: str) -> Any:
    if kind == "large integers":
        return [(i + 8) * 8 * P for i in range(count)]
    return [tuple((i >> 2 * j & 3) * P for j in range(8)) for i in range(count)]


@pytest.mark.parametrize("kind", ["large integers", "tuples"])
@pytest.mark.parametrize("tag", [b"s", b"f"])
def test_a_set_of_values_with_one_hash_is_not_made(kind: str, tag: bytes) -> None:
    """Its making would take minutes."""
    wire = Wire()
    wire.codec.flower = True
    values = new_packer(Packing(wire.codec)).pack(colliding(2_000, kind))
    (event,) = wire.feed(msgpack.packb([2, "m", [msgpack.ExtType(VALUE, tag + values)]]))
    assert "have the same hash" in str(event[2].error)


@pytest.mark.parametrize("kind", ["large integers", "tuples"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_map_of_keys_with_one_hash_ends_the_connection(kind: str, inside: bool) -> None:
    wire = Wire()
    wire.codec.flower = True
    keys = colliding(2_000, kind)
    data = b"\xdf" + len(keys).to_bytes(4, "big") + b"".join(wire.pack_value(key) + b"\x00" for key in keys)
    if inside:
        data = msgpack.packb(msgpack.ExtType(VALUE, b"t\x91" + data))
    (event,) = wire.feed(b"\x93\x02\xa1m\x91" + data)
    assert event[0] == -1
    assert "have the same hash" in event[1]


def test_honest_keys_are_made() -> None:
    wire, other = Wire(), Wire()
    wire.codec.flower = other.codec.flower = True
    span = range(-3, 2)
    grid = {(x, y, z, u): x + y for x in span for y in span for z in span for u in span}  # -1 and -2 have one hash
    large = {2**64 + i for i in range(1_000)}
    (event,) = other.feed(wire.notify("m", [grid, set(grid), large, (grid,)]))
    assert event[2] == [grid, set(grid), large, (grid,)]


@pytest.mark.parametrize("at", range(5))
def test_a_number_that_python_does_not_write_out_is_refused_like_others(at: int) -> None:
    wire = Wire()
    wire.codec.flower = True
    message: list[Any] = [0, 1, "m", []]
    huge = 1 << 100_000
    data = wire.pack_value(huge if at == 4 else [huge if i == at else part for i, part in enumerate(message)])
    (event,) = wire.feed(data)
    assert event[0] == -1
    assert "an integer of 100001 bits" in event[1]
