"""Messages of plain values, which are packed and unpacked without the library, are what the library would make."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flower.rpc._scan import measure
from flower.rpc._wire import NOTIFICATION, OPEN, REQUEST, RESPONSE, VIOLATION, Wire

_AROUND = {
    sign * 2**bits + near for bits in (5, 7, 8, 15, 16, 31, 32, 63, 64) for near in (-1, 0, 1) for sign in (1, -1)
}
EDGES = sorted(number for number in _AROUND if -(2**63) <= number < 2**64)
INTEGERS = st.one_of(st.sampled_from(EDGES), st.integers(-(2**63), 2**64 - 1))
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, st.floats(), st.text(), st.binary())
KEYS = st.one_of(st.none(), st.booleans(), INTEGERS, st.text(), st.binary())
VALUES = st.recursive(SCALARS, lambda inner: st.one_of(st.lists(inner), st.dictionaries(KEYS, inner)), max_leaves=20)
LISTS = st.one_of(st.lists(SCALARS, max_size=40), st.lists(VALUES, max_size=4))
LIMITS = 10**6


def packed(message: Any) -> bytes:
    """By the library."""
    data: bytes = msgpack.packb(message, use_bin_type=True, strict_types=True, unicode_errors="surrogateescape")
    return data


def unpacked(data: bytes) -> Any:
    """By the library, which may fail."""
    return msgpack.unpackb(data, raw=False, strict_map_key=False, unicode_errors="surrogateescape")


def same(a: Any, b: Any) -> bool:
    return repr(a) == repr(b)  # of the same types; and a NaN is one


@given(LISTS)
@example(EDGES[:20])
@example(EDGES[20:])
@example([0.0, -0.0, math.inf, math.nan, True, False, None, "", b"", "x" * 31, "x" * 32, b"x" * 255, "x" * 256])
@example(["\xe9", "\udc80", "\U0001f33a"])
@example(["x"] * 15)
@example(["x"] * 16)
@example(["x" * 500])
@example([b"x" * 70_000])
@example(["name", [1, 2], {}, {"dl": 5001}])
@example([{i: str(i) for i in range(15)}])
@example([{i: str(i) for i in range(16)}])
@example([[[[[[[[[1]]]]]]]], {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": 1}}}}}}}}])
def test_what_is_sent_and_what_comes_of_it(params: list[Any]) -> None:
    ours, theirs = Wire(), Wire()
    msgid, data = ours.call("method", params)
    assert data == packed([REQUEST, msgid, "method", params])
    [event] = theirs.feed(data)
    assert same(event[:4], [REQUEST, msgid, "method", params])
    assert event[5] == len(data)
    answer = theirs.reply(msgid, params)
    assert answer == packed([RESPONSE, msgid, None, params])
    [event] = ours.feed(answer)
    assert same(event[:4], [RESPONSE, msgid, None, params])
    assert ours.notify("method", params) == packed([NOTIFICATION, "method", params])


@pytest.mark.slow
@given(VALUES)
@example([[[[[[[[[[1]]]]]]]]]])
@example({"a": [1, {"b": []}]})
def test_any_value_comes_as_the_library_reads_it(value: Any) -> None:
    data = packed([NOTIFICATION, "method", [value]])
    [event] = Wire(LIMITS).feed(data)
    assert same(event[:3], unpacked(data))


@given(st.binary(max_size=60), st.integers(0, 3))
@example(b"\xc1", 0)
@example(b"\xdd\xff\xff\xff\xff", 0)
@example(b"\xdb\x00\x00\x00\x05ab", 0)
@example(b"\xca\x3f\x80\x00\x00", 0)
@example(b"\xd4\x01a", 0)
@example(struct.pack(">BQ", 0xCF, 2**64 - 1), 0)
@example(struct.pack(">Bq", 0xD3, -(2**63)), 0)
@example(b"\xa2\xff\xfe", 0)
def test_whatever_bytes_stand_for_a_value_are_read_as_the_library_reads_them(data: bytes, before: int) -> None:
    message = b"\x93\x02\xa1m" + bytes([0x91 + before]) + b"\x05" * before + data
    try:
        expected = unpacked(message)
    except Exception:  # of several kinds
        expected = None
    event = next(Wire(LIMITS).feed(message), [VIOLATION])
    if event[0] != VIOLATION and event[-1] == len(message):
        assert expected is not None
        assert same(event[:3], expected)


@pytest.mark.parametrize("last", [b"long" * 30, "long" * 30, [b"long" * 30], {"key": b"long" * 30}, [b"long" * 30, 1]])
@pytest.mark.parametrize("behind", [b"", b"\x93", packed([NOTIFICATION, "another", [b"x" * 30]])])
def test_a_message_in_two_pieces_is_read_as_the_library_reads_it(last: Any, behind: bytes) -> None:
    message = [NOTIFICATION, "method", [1, last]]
    data = packed([NOTIFICATION, "first", []]) + packed(message)
    for at in range(1, len(data)):
        wire = Wire(LIMITS)
        events = [*wire.feed(data[:at]), *wire.feed(data[at:] + behind)]
        assert same(events[1][:3], message)
        assert events[1][4] == len(packed(message))
        assert len(events) == (3 if len(behind) > 1 else 2)


def with_a_tap(wire: Wire, pieces: list[bytes]) -> list[Any]:
    """The events, read as a session reads them: what is plain first, and then the rest."""
    events: list[Any] = []
    for piece in pieces:
        if wire.state != OPEN:
            break
        wire.take(piece)
        while (event := wire.next_plain()) is not None:
            events.append(event)
        more = wire.has_more()
        while (event := wire.next_event()) is not None:
            assert more
            events.append(event)
    return events


@given(st.one_of(st.binary(max_size=60), VALUES.map(packed)), st.integers(0, 80))
@example(b"\x91" * 130, 0)
@example(b"\xdd\x7f\xff\xff\xff", 0)
@example(b"\xc1", 0)
@example(b"\x81\x90\x01", 0)
@example(packed([RESPONSE, 7, None, None]), 0)
def test_what_is_plain_is_read_first_and_nothing_else_changes(data: bytes, at: int) -> None:
    whole = packed([NOTIFICATION, "before", [1]]) + b"\x93\x02\xa1m\x91" + data + packed([REQUEST, 1, "after", []])
    pieces = [piece for piece in (whole[:at], whole[at:]) if piece]
    expected: list[Any] = []
    wire = Wire(10_000)
    for piece in pieces:
        if wire.state == OPEN:
            expected += wire.feed(piece)
    assert same(with_a_tap(Wire(10_000), pieces), expected)


def test_a_peer_with_little_room_is_sent_nothing_that_takes_it_more() -> None:
    """Empty strings take 57 times their bytes; a peer lets a message take 8 times what it may have."""
    wire = Wire()
    for most, count in ((1_000, 400), (100_000, 60_000)):
        wire.most_sent = most
        with pytest.raises(ValueError, match="no peer could read this"):
            wire.call("method", [""] * count)
        with pytest.raises(ValueError, match="no peer could read this"):
            wire.notify("method", [""] * count)
    wire.call("method", [""] * 4)


@given(VALUES)
@example([0.5, -1, 200, -200, 70_000, "x" * 40, b"x", {"a": [1, {}]}, [], ""])
def test_a_short_message_costs_what_its_headers_say(value: Any) -> None:
    """It is decoded with no look at its headers before, unless a long one comes behind it."""
    data = packed([NOTIFICATION, "method", [value]])
    behind = packed([NOTIFICATION, "method", [b"x" * 600]])
    [alone] = Wire(LIMITS).feed(data)
    [first, _] = Wire(LIMITS).feed(data + behind)
    assert same(alone, first)
    assert alone[3] == measure(data, LIMITS, 8 * LIMITS).cost


@pytest.mark.parametrize(
    ("most", "params", "reason"),
    [
        (60, ["x" * 60], "longer than 60 bytes"),
        (60, [[]] * 15, "take more than 480 bytes"),
        (LIMITS, [{b"": 0}, b"\x81\x90\x00"], "a map's key is an array or a map"),
    ],
)
def test_the_limits_hold_for_short_messages(most: int, params: list[Any], reason: str) -> None:
    data = packed([NOTIFICATION, "method", params]).replace(b"\xc4\x03\x81\x90\x00", b"\x81\x90\x00")
    for pieces in ([data], [data[:9], data[9:]]):
        wire = Wire(most)
        *_, (kind, told) = [event for piece in pieces for event in wire.feed(piece)]
        assert kind == VIOLATION
        assert reason in told


def test_methods_with_names_that_are_alike() -> None:
    ours, theirs = Wire(), Wire()
    names = [f"a{first}{second}z" for first in "bcd" for second in "bcd"] * 3 + ["az", "a", "", "a" * 31, "a" * 32]
    for name in names:
        msgid, data = ours.call(name, [])
        [event] = theirs.feed(data)
        assert event[2] == name
        [answer] = ours.feed(theirs.refuse(msgid, name or "empty"))
        assert answer[1:3] == [msgid, name or "empty"]


def test_many_answers_in_any_order() -> None:
    ours, theirs = Wire(), Wire()
    asked = [ours.call("method", [number])[0] for number in range(300)]
    for msgid in asked[::-3] + asked[1::3] + asked[::3]:
        theirs.reopen(msgid)
        [answer] = ours.feed(theirs.reply(msgid, -msgid))
        assert answer[1:4] == [msgid, None, -msgid]
    [answer] = ours.feed(packed([RESPONSE, asked[0], None, None]))
    assert answer[0] == VIOLATION
