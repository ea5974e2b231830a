"""The wire protocol alone: bytes in, events out. Messages are fed whole, byte by byte, and in a row."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flower.rpc import _wire
from flower.rpc._scan import Scanner
from flower.rpc._wire import ENDED, FAILED, MAX_ID, OPEN


class Request(NamedTuple):
    msgid: int
    method: str
    params: Any
    cost: int
    size: int


class Response(NamedTuple):
    msgid: int
    error: Any
    result: Any
    cost: int
    size: int


class Notification(NamedTuple):
    method: str
    params: Any
    cost: int
    size: int


class Violation(NamedTuple):
    reason: str


Event = Request | Response | Notification | Violation
KINDS: dict[int, Any] = {0: Request, 1: Response, 2: Notification, -1: Violation}


class Wire(_wire.Wire):
    """The wire, with names for what its events hold."""

    def feed(self, data: bytes) -> Any:
        return [KINDS[kind](*rest) for kind, *rest in super().feed(data)]

    def end(self) -> list[Any]:
        return [KINDS[kind](*rest) for kind, *rest in super().end()]


pack: Callable[[Any], bytes] = msgpack.packb


def whole(wire: Wire, data: bytes) -> list[Event]:
    return wire.feed(data)


def bytewise(wire: Wire, data: bytes) -> list[Event]:
    events: list[Event] = []
    for at in range(len(data)):
        if wire.state is not OPEN:
            break
        events += wire.feed(data[at : at + 1])
    return events


def in_halves(wire: Wire, data: bytes) -> list[Event]:
    middle = len(data) // 2
    events = wire.feed(data[:middle])
    return events + wire.feed(data[middle:]) if wire.state is OPEN else events


WAYS = [whole, bytewise, in_halves]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def feed(request: pytest.FixtureRequest) -> Callable[[Wire, bytes], list[Event]]:
    way: Callable[[Wire, bytes], list[Event]] = request.param
    return way


def bare(event: Event) -> tuple[Any, ...]:
    """The event without cost and size, and a violation without its text."""
    return (type(event).__name__,) if isinstance(event, Violation) else tuple(event)[:-2]


# -- Messages


def test_request(feed: Any) -> None:
    data = pack([0, 7, "add", [1, 2]])
    (event,) = feed(Wire(), data)
    assert bare(event) == (7, "add", [1, 2])


def test_notification(feed: Any) -> None:
    data = pack([2, "log", ["hello"]])
    (event,) = feed(Wire(), data)
    assert bare(event) == ("log", ["hello"])


def test_response(feed: Any) -> None:
    wire = Wire()
    msgid, _ = wire.call("add", [1, 2])
    data = pack([1, msgid, None, 3])
    (event,) = feed(wire, data)
    assert bare(event) == (msgid, None, 3)


def test_error_response(feed: Any) -> None:
    wire = Wire()
    msgid, _ = wire.call("add", [1, 2])
    (event,) = feed(wire, pack([1, msgid, [0, "no"], None]))
    assert isinstance(event, Response)
    assert event.error == [0, "no"]


def test_several_messages_behind_each_other(feed: Any) -> None:
    wire = Wire()
    data = b"".join(pack([2, "n", [i]]) for i in range(50)) + pack([0, 0, "m", []])
    events = feed(wire, data)
    assert [e.params for e in events[:-1]] == [[i] for i in range(50)]
    assert isinstance(events[-1], Request)
    assert events[-1].msgid == 0


def test_answers_come_in_any_order() -> None:
    wire = Wire()
    ids = [wire.call("m", [i])[0] for i in range(10)]
    for msgid in reversed(ids):
        (event,) = wire.feed(pack([1, msgid, None, msgid]))
        assert bare(event) == (msgid, None, msgid)


def test_both_sides_use_the_same_ids() -> None:
    ours, theirs = Wire(), Wire()
    mine, request = ours.call("a", [])
    yours, other = theirs.call("b", [])
    assert mine == yours
    (event,) = theirs.feed(request)
    assert isinstance(event, Request)
    assert isinstance(ours.feed(other)[0], Request)
    assert bare(ours.feed(theirs.reply(mine, "x"))[0]) == (mine, None, "x")
    assert bare(theirs.feed(ours.refuse(yours, "y"))[0]) == (yours, "y", None)


def test_a_string_that_is_no_utf8_survives() -> None:
    wire = Wire()
    (event,) = wire.feed(b"\x93\x02\xa1m\x91\xa2\xff\xfe")
    assert isinstance(event, Notification)
    assert event.params[0].encode("utf-8", "surrogateescape") == b"\xff\xfe"
    assert wire.notify("m", event.params) == b"\x93\x02\xa1m\x91\xa2\xff\xfe"


def test_unknown_ext_types_pass_through() -> None:
    wire = Wire()
    (event,) = wire.feed(pack([2, "m", [msgpack.ExtType(1, b"\x05")]]))
    assert isinstance(event, Notification)
    assert event.params == [msgpack.ExtType(1, b"\x05")]
    assert wire.notify("m", event.params) == pack([2, "m", [msgpack.ExtType(1, b"\x05")]])


def test_keys_of_maps_may_be_integers() -> None:
    (event,) = Wire().feed(pack([2, "m", [{1: 2}]]))
    assert isinstance(event, Notification)
    assert event.params == [{1: 2}]


# -- Violations: each ends in an event, and in FAILED

BROKEN = {
    "a number": pack(5),
    "nil": pack(None),
    "a map": pack({0: 1}),
    "an empty array": pack([]),
    "an unknown type": pack([3, 1, "m", []]),
    "a negative type": pack([-1, 1, "m", []]),
    "a boolean as a type": pack([False, 1, "m", []]),
    "a string as a type": pack(["0", 1, "m", []]),
    "a request of three": pack([0, 1, "m"]),
    "a request of five": pack([0, 1, "m", [], {}]),
    "a response of three": pack([1, 1, None]),
    "a notification of four": pack([2, "m", [], None]),
    "a negative id": pack([0, -1, "m", []]),
    "an id of 33 bits": pack([0, MAX_ID + 1, "m", []]),
    "a float as an id": pack([0, 1.0, "m", []]),
    "a boolean as an id": pack([0, True, "m", []]),
    "a method that is no string": pack([0, 1, 5, []]),
    "a method that is nil": pack([2, None, []]),
    "params that are a map": pack([0, 1, "m", {}]),
    "params that are nil": pack([2, "m", None]),
    "an answer that nobody asked for": pack([1, 99, None, None]),
    "an answer to id 0": pack([1, 0, "pynvim could not read this", None]),
    "a byte that is no MessagePack": b"\xc1",
    "a map whose key is an array": b"\x93\x02\xa1m\x91\x81\x90\x01",
    "a map whose key is a map": b"\x93\x02\xa1m\x91\x81\x80\x01",
    "an array of 4 billion": b"\xdd\xff\xff\xff\xff",
    "a map of 4 billion": b"\xdf\xff\xff\xff\xff",
    "arrays 100,000 deep": b"\x91" * 100_000,
    "maps 100,000 deep": b"\x81\x01" * 100_000,
    "a timestamp of two bytes": b"\x93\x02\xa1m\x91\xd5\xff\x00\x00",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_what_breaks_the_protocol(data: bytes, feed: Any) -> None:
    wire = Wire()
    *before, event = feed(wire, data)
    assert before == []
    assert isinstance(event, Violation)
    assert event.reason
    assert wire.state is FAILED


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_what_came_before_is_good(data: bytes, feed: Any) -> None:
    wire = Wire()
    events = feed(wire, pack([0, 1, "ok", []]) + pack([2, "ok", []]) + data + pack([2, "not seen", []]))
    assert [type(e) for e in events] == [Request, Notification, Violation]
    assert wire.reply(1, "still answered")


def test_the_reason_names_what_an_unasked_answer_says() -> None:
    (event,) = Wire().feed(pack([1, 0, "Received invalid message", None]))
    assert isinstance(event, Violation)
    assert "Received invalid message" in event.reason


def test_a_reason_is_short_however_large_the_value() -> None:
    (event,) = Wire().feed(pack([0, 1, ["x" * 100_000], []]) + b"")
    assert isinstance(event, Violation)
    assert len(event.reason) < 300
    (event,) = Wire().feed(pack(["x" * 100_000]))
    assert isinstance(event, Violation)
    assert len(event.reason) < 300


def test_an_id_in_use_may_not_be_used_again() -> None:
    wire = Wire()
    first, second = wire.feed(pack([0, 5, "m", []]) + pack([0, 5, "m", []]))
    assert isinstance(first, Request)
    assert isinstance(second, Violation)
    assert "5" in second.reason


def test_an_id_may_be_used_again_after_the_answer() -> None:
    wire = Wire()
    wire.feed(pack([0, 5, "m", []]))
    wire.reply(5, None)
    (event,) = wire.feed(pack([0, 5, "m", []]))
    assert isinstance(event, Request)


def test_a_second_answer_is_one_that_nobody_asked_for() -> None:
    wire = Wire()
    msgid, _ = wire.call("m", [])
    first, second = wire.feed(pack([1, msgid, None, 1]) * 2)
    assert isinstance(first, Response)
    assert isinstance(second, Violation)


# -- Each format of MessagePack: where its value ends, and about what that takes in memory


SLOT, NUMBER, TEXT, ARRAY, MAP, PAIR, EXT = 8, 32, 56, 56, 64, 88, 160  # those of `_scan`
ONE = b"\x01"
FORMATS: dict[str, tuple[bytes, int]] = {
    "positive fixint": (b"\x00", 0),
    "the last positive fixint": (b"\x7f", 0),
    "fixmap": (b"\x80", MAP),
    "the last fixmap": (b"\x8f" + 30 * ONE, MAP + 15 * PAIR),
    "fixarray": (b"\x90", ARRAY),
    "the last fixarray": (b"\x9f" + 15 * ONE, ARRAY + 15 * SLOT),
    "fixstr": (b"\xa0", TEXT + 1),
    "the last fixstr": (b"\xbf" + 31 * b"x", TEXT + 32),
    "nil": (b"\xc0", 0),
    "false": (b"\xc2", 0),
    "true": (b"\xc3", 0),
    "bin 8": (b"\xc4\x03abc", TEXT + 5),
    "bin 16": (b"\xc5\x00\x03abc", TEXT + 6),
    "bin 32": (b"\xc6\x00\x00\x00\x03abc", TEXT + 8),
    "ext 8": (b"\xc7\x03\x05abc", EXT + 6),
    "ext 16": (b"\xc8\x00\x03\x05abc", EXT + 7),
    "ext 32": (b"\xc9\x00\x00\x00\x03\x05abc", EXT + 9),
    "float 32": (b"\xca" + bytes(4), NUMBER),
    "float 64": (b"\xcb" + bytes(8), NUMBER),
    **{f"uint {8 << i}": (bytes([0xCC + i]) + bytes(1 << i), NUMBER) for i in range(4)},
    **{f"int {8 << i}": (bytes([0xD0 + i]) + bytes(1 << i), NUMBER) for i in range(4)},
    **{f"fixext {1 << i}": (bytes([0xD4 + i, 5]) + bytes(1 << i), EXT + 2 + (1 << i)) for i in range(5)},
    "str 8": (b"\xd9\x03abc", TEXT + 5),
    "str 16": (b"\xda\x00\x03abc", TEXT + 6),
    "str 32": (b"\xdb\x00\x00\x00\x03abc", TEXT + 8),
    "array 16": (b"\xdc\x00\x02" + 2 * ONE, ARRAY + 2 * SLOT),
    "array 32": (b"\xdd\x00\x00\x00\x02" + 2 * ONE, ARRAY + 2 * SLOT),
    "map 16": (b"\xde\x00\x02" + 4 * ONE, MAP + 2 * PAIR),
    "map 32": (b"\xdf\x00\x00\x00\x02" + 4 * ONE, MAP + 2 * PAIR),
    "negative fixint": (b"\xe0", 0),
    "the last negative fixint": (b"\xff", 0),
}


@pytest.mark.parametrize(("data", "cost"), FORMATS.values(), ids=FORMATS.keys())
def test_where_a_value_ends_and_what_it_takes(data: bytes, cost: int) -> None:
    scanner = Scanner(1000, 8000)
    scanner.take(data + ONE)
    assert scanner.find()
    assert (scanner.start, scanner.at, scanner.cost) == (0, len(data), cost)
    scanner = Scanner(1000, 8000)
    for at in range(len(data)):
        assert not scanner.find()
        scanner.take(data[at : at + 1])
    assert scanner.find()
    assert (scanner.at - scanner.start, scanner.cost) == (len(data), cost)
    scanner = Scanner(1000, max(0, cost - 1))
    scanner.take(data)
    assert scanner.find() is (cost == 0)


@pytest.mark.parametrize("key", [data for data, _ in FORMATS.values()], ids=FORMATS.keys())
def test_what_may_be_a_maps_key(key: bytes) -> None:
    scanner = Scanner(1000, 8000)
    scanner.take(b"\x82" + ONE + ONE + key + b"\x90")
    found = scanner.find()
    if key[0] & 0xE0 == 0x80 or 0xDC <= key[0] <= 0xDF:
        assert scanner.fault == "a map's key is an array or a map"
    else:
        assert found
        assert scanner.keyed is (0xC7 <= key[0] <= 0xC9 or 0xD4 <= key[0] <= 0xD8)


# -- The end


def test_an_end_between_messages_is_clean() -> None:
    wire = Wire()
    wire.feed(pack([2, "m", []]))
    assert wire.end() == []
    assert wire.state is ENDED


def test_an_end_within_a_message_is_a_violation() -> None:
    data = pack([0, 1, "method", ["some", "params"]])
    for length in range(1, len(data)):
        wire = Wire()
        assert wire.feed(data[:length]) == []
        (event,) = wire.end()
        assert isinstance(event, Violation)
        assert wire.state is FAILED


def test_an_end_after_a_violation_says_no_more() -> None:
    wire = Wire()
    wire.feed(b"\xc1")
    assert wire.end() == []
    assert wire.state is FAILED


@pytest.mark.parametrize("data", [b"\xc1", None], ids=["failed", "ended"])
def test_nothing_can_be_fed_after_the_end(data: bytes | None) -> None:
    wire = Wire()
    if data is None:
        wire.end()
    else:
        wire.feed(data)
    with pytest.raises(RuntimeError, match="takes no more bytes"):
        wire.feed(b"\x00")


# -- Limits


def test_the_largest_message_and_one_byte_more(feed: Any) -> None:
    room = 1000 - len(pack([2, "m", [b""]])) - 1  # a longer header for the binary
    data = pack([2, "m", [b"x" * room]])
    assert len(data) == 1000
    (event,) = feed(Wire(1000), data)
    assert isinstance(event, Notification)
    (event,) = feed(Wire(999), data)
    assert isinstance(event, Violation)
    assert "999" in event.reason


def test_a_long_message_of_small_items_is_too_long_before_it_ends() -> None:
    wire = Wire(10_000)
    header = b"\x93\x02\xa1m\xdd" + struct.pack(">I", 500_000)
    events: list[Event] = wire.feed(header)
    fed = len(header)
    while not events:
        events = wire.feed(b"\x01" * 100)
        fed += 100
    assert isinstance(events[0], Violation)
    assert fed <= 10_100


@pytest.mark.parametrize("header", [b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x05"])
def test_a_string_of_4_gb_is_refused_after_the_most_that_a_message_may_be(header: bytes) -> None:
    wire = Wire(1000)
    events: list[Event] = wire.feed(header)
    fed = len(header)
    while not events:
        events = wire.feed(b"x")
        fed += 1
    assert isinstance(events[0], Violation)
    assert fed <= 1001


@pytest.mark.slow
def test_small_messages_in_one_large_piece_are_no_large_message() -> None:
    data = pack([2, "m", [0]])
    assert len(Wire(1000).feed(data * 100_000)) == 100_000


def test_our_own_message_that_is_too_long_is_our_error() -> None:
    wire = Wire(1000)
    with pytest.raises(ValueError, match="1000 is the most"):
        wire.call("m", ["x" * 1000])
    with pytest.raises(ValueError, match="1000 is the most"):
        wire.notify("m", ["x" * 1000])
    msgid, _ = wire.call("m", [])
    assert msgid == 1  # the one that failed has used none


# -- What we send


def test_ids_start_at_one_and_count() -> None:
    wire = Wire()
    assert [wire.call("m", [])[0] for _ in range(3)] == [1, 2, 3]


def test_ids_wrap_round_skip_zero_and_those_in_use() -> None:
    wire = Wire()
    for expected in (1, 2):
        assert wire.call("m", [])[0] == expected
    wire._last_id = MAX_ID - 1  # as after four thousand million calls
    assert wire.call("m", [])[0] == MAX_ID
    assert wire.call("m", [])[0] == 3
    wire.feed(pack([1, 1, None, None]))
    wire._last_id = MAX_ID
    assert wire.call("m", [])[0] == 1


def test_a_call_that_was_never_sent_gives_its_id_back() -> None:
    wire = Wire()
    msgid, _ = wire.call("m", [])
    wire.take_back(msgid)
    (event,) = wire.feed(pack([1, msgid, None, None]))
    assert isinstance(event, Violation)


@pytest.mark.parametrize(
    ("value", "error"),
    [(object(), TypeError), ({1, 2}, TypeError), (2**64, ValueError), (-(2**63) - 1, ValueError)],
)
def test_what_messagepack_cant_carry(value: object, error: type[Exception]) -> None:
    wire = Wire()
    with pytest.raises(error):
        wire.call("m", [1, [value]])
    wire.feed(pack([0, 9, "m", []]))
    with pytest.raises(error):
        wire.reply(9, value)
    assert wire.call("m", [])[0] == 1
    assert msgpack.unpackb(wire.refuse(9, "no")) == [
        1,
        9,
        "no",
        None,
    ]  # the request waits still, and nothing is left over


def test_a_list_that_contains_itself_is_our_error() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match=r"recursion|nest|circular|deep"):
        Wire().call("m", loop)


@pytest.mark.parametrize("error", [None, "", 0, [], False])
def test_an_error_is_never_falsy(error: object) -> None:
    wire = Wire()
    wire.feed(pack([0, 1, "m", []]))
    with pytest.raises(ValueError, match="must be true"):
        wire.refuse(1, error)


def test_only_a_request_that_waits_can_be_answered() -> None:
    wire = Wire()
    with pytest.raises(ValueError, match="id 3"):
        wire.reply(3, None)
    wire.feed(pack([0, 3, "m", []]))
    wire.reply(3, None)
    with pytest.raises(ValueError, match="id 3"):
        wire.refuse(3, "twice")


def test_a_large_message_does_not_leave_its_buffer_behind() -> None:
    wire = Wire()
    before = wire._tools.pack
    wire.notify("m", ["x" * _wire.KEPT_BUFFER])
    assert wire._tools.pack is not before


# -- Hypothesis. The invariants: no input raises; how the bytes are cut changes nothing; what is read was
# sent.

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
params = st.lists(values, max_size=4)
methods = st.text(max_size=20)
messages = st.one_of(
    st.tuples(st.just(0), st.integers(0, MAX_ID), methods, params),
    st.tuples(st.just(2), methods, params),
)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(a % (len(data) + 1) for a in at), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def feed_all(wire: Wire, pieces: list[bytes]) -> list[Event]:
    events: list[Event] = []
    for piece in pieces:
        if wire.state is OPEN:
            events += wire.feed(piece)
    return events + wire.end()


@pytest.mark.slow
@given(st.lists(messages, max_size=6, unique_by=lambda m: m[1]), st.lists(st.integers(0, 10_000), max_size=10))
def test_what_is_read_was_sent(sent: list[Any], at: list[int]) -> None:
    data = b"".join(pack(m) for m in sent)
    events = feed_all(Wire(), cut(data, at))
    assert [bare(e) for e in events] == [tuple(m[1:]) for m in sent]
    assert sum(e.size for e in events if not isinstance(e, Violation)) == len(data)


@pytest.mark.slow
@given(
    st.lists(messages, min_size=1, max_size=4, unique_by=lambda m: m[1]),
    st.integers(0, 10_000),
    st.integers(0, 10_000),
)
def test_a_truncation_gives_the_complete_messages_and_a_violation(sent: list[Any], at: int, end: int) -> None:
    packed = [pack(m) for m in sent]
    data = b"".join(packed)[: end % (sum(map(len, packed)) + 1)]
    complete = 0
    left = len(data)
    while complete < len(packed) and left >= len(packed[complete]):
        left -= len(packed[complete])
        complete += 1
    events = feed_all(Wire(), cut(data, [at]))
    assert [bare(e) for e in events[:complete]] == [tuple(m[1:]) for m in sent[:complete]]
    assert [type(e) for e in events[complete:]] == ([Violation] if left else [])


@pytest.mark.slow
@given(st.binary(max_size=200), st.lists(st.integers(0, 10_000), max_size=8))
@example(b"\x94\x00\x01\xa1m\x90" * 2, [3])
@example(b"\x93\x02\xa1m\x90\xc1", [])
def test_any_bytes_end_in_events_however_they_are_cut(data: bytes, at: list[int]) -> None:
    one, other = Wire(), Wire()
    events = feed_all(one, [data])
    assert repr(feed_all(other, cut(data, at))) == repr(events)
    assert one.state is other.state
    assert all(not isinstance(e, Violation) for e in events[:-1])


@pytest.mark.slow
@given(st.lists(values, max_size=5), st.data())
def test_replies_reach_their_calls_in_any_order(results: list[Any], data: st.DataObject) -> None:
    ours, theirs = Wire(), Wire()
    sent = {ours.call("m", [i])[0]: value for i, value in enumerate(results)}
    for msgid in sent:
        theirs.feed(pack([0, msgid, "m", []]))
    answers = b"".join(theirs.reply(i, sent[i]) for i in data.draw(st.permutations(list(sent))))
    got = {e.msgid: e.result for e in bytewise(ours, answers) if isinstance(e, Response)}
    assert got == sent


def test_nan_passes() -> None:
    (event,) = Wire().feed(pack([2, "m", [math.nan]]))
    assert isinstance(event, Notification)
    assert math.isnan(event.params[0])
