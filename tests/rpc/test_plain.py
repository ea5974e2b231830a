"""Plain values are written and read as msgpack does it, to the byte."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower.rpc._plain import Pen, Reader

EDGES = [edge + step for edge in (2**n for n in range(4, 65)) for step in (-1, 0, 1)]
INTEGERS = sorted({value for edge in EDGES for value in (edge, -edge) if -(2**63) <= value < 2**64})
SIZES = [0, 1, 15, 16, 31, 32, 255, 256, 900, 1023, 1024, 65_535, 65_536]

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5) | st.integers(0, 300), inner, max_size=4)
    ),
    max_leaves=30,
)


def check(value: Any) -> bool:
    """Whether the value could be written; what was written, and what is read, is what msgpack has."""
    packed: bytes = msgpack.packb([2, "m", [value]])
    for data in (packed, bytearray(packed)):
        assert Reader().message(data, 0, 7, 8) == [2, "m", [value], 7, 8]
    assert Reader().message(b"\x90" + packed, 1, 7, 8) == [2, "m", [value], 7, 8]
    pen = Pen()
    written = pen.notification("m", [value])
    assert written in (None, packed)
    for request in (pen.request(99_999, "m", (value,)), pen.request(99_999, "m", [value])):
        assert request in (None, msgpack.packb([0, 99_999, "m", [value]]))
    assert pen.response(7, None, value) in (None, msgpack.packb([1, 7, None, value]))
    assert pen.response(7, value, None) in (None, msgpack.packb([1, 7, value, None]))
    return written is not None


@pytest.mark.parametrize(
    "value", [None, True, False, 0.5, math.inf, "\u20ac \U0001f33b", "\udcff", {}, [], [[{"a": b""}]]]
)
def test_plain_values(value: Any) -> None:
    data = msgpack.packb([2, "m", [value]], unicode_errors="surrogateescape")
    assert Pen().notification("m", [value]) == data
    assert Reader().message(data, 0, 0, 0)[:-2] == [2, "m", [value]]


def test_integers_of_all_widths() -> None:
    for value in INTEGERS:
        if -(2**63) <= value < 2**64:
            assert check(value) is (value < 2**63)


@pytest.mark.slow
def test_sizes_of_all_widths() -> None:
    for size in SIZES:
        for value in (b"x" * size, "x" * size, [None] * size, dict.fromkeys(range(size))):
            assert check(value) is (len(msgpack.packb([2, "m", [value]])) <= 1024), (size, type(value))


def test_a_float_of_32_bits() -> None:
    assert Reader().message(b"\xca\x3f\xc0\x00\x00", 0, 0, 0) == 1.5


@pytest.mark.parametrize(
    "value", [(1,), {1}, object(), 2**64, -(2**63) - 1, bytearray(b"x"), type("Int", (int,), {})()]
)
def test_what_is_left_to_others(value: object) -> None:
    for nested in (value, [value], {"a": value}):
        assert Pen().request(1, "m", [nested]) is None
        assert Pen().response(1, None, nested) is None


def test_depth_is_bounded() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert Pen().request(1, "m", loop) is None


@pytest.mark.slow
@given(values)
def test_any_plain_value(value: Any) -> None:
    check(value)
