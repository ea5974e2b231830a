"""The codecs without connections: bytes in, messages out, whatever the pieces."""

from __future__ import annotations

import struct
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower.net import LengthPrefixed, Lines, MessagePack

TEXT = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=20)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
    | st.binary(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)
KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "lines": (Lines(), TEXT),
    "lines of bytes": (Lines(None, end="\r\n"), TEXT.map(str.encode)),
    "length 1": (LengthPrefixed(1), st.binary(max_size=20)),
    "length 4": (LengthPrefixed(), st.binary(max_size=20)),
    "length 8, little": (LengthPrefixed(8, byteorder="little"), st.binary(max_size=20)),
    "msgpack": (MessagePack(), PLAIN),
}


def cut(data: bytes, places: list[int]) -> Iterator[bytes]:
    """The data in pieces, none of them empty."""
    start = 0
    for place in sorted({place % (len(data) + 1) for place in places} | {len(data)}):
        if place > start:
            yield data[start:place]
            start = place


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_messages_come_back_whatever_the_pieces(kind: str) -> None:
    codec, messages = KINDS[kind]

    @settings(max_examples=60, deadline=None)
    @given(st.lists(messages, max_size=8), st.lists(st.integers(0, 10_000), max_size=10))
    def check(sent: list[Any], places: list[int]) -> None:
        data = b"".join(map(codec.encode, sent))
        for pieces in [data] if data else [], cut(data, places), (data[i : i + 1] for i in range(len(data))):
            assert list(codec.decode(iter(pieces))) == sent

    check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_bytes_end_in_messages_or_a_value_error(kind: str) -> None:
    codec, _ = KINDS[kind]

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.binary(min_size=1, max_size=50), max_size=5))
    def check(chunks: list[bytes]) -> None:
        try:
            list(codec.decode(iter(chunks)))
        except ValueError:
            pass

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_is_given_before_the_next_chunk_is_asked_for(kind: str) -> None:
    codec, _ = KINDS[kind]
    message = b"abc" if "bytes" in kind or "length" in kind else "abc"
    asked = 0

    def chunks() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield codec.encode(message) * 2

    decoded = codec.decode(chunks())
    assert [next(decoded) for _ in range(3)] == [message] * 3
    assert asked == 2


# -- Lines


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_of_both_kinds(end: bytes) -> None:
    assert list(Lines().decode([b"a" + end + end + b"b" + end])) == ["a", "", "b"]


def test_a_carriage_return_inside_is_kept() -> None:
    assert list(Lines().decode([b"a\rb\r", b"\nc\r\r\n"])) == ["a\rb", "c\r"]


def test_a_last_line_without_end() -> None:
    assert list(Lines().decode([b"a\nlast"])) == ["a", "last"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"bytes", TypeError),
        (None, TypeError),
        ("two\nlines", ValueError),
        ("a return at the end\r", ValueError),
        ("x" * 11, ValueError),
        ("\udcff", ValueError),
    ],
)
def test_what_is_no_line(line: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Lines(max_size=10).encode(line)
    Lines(max_size=10).encode("x" * 10)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ValueError, match="can't decode"):
        list(Lines().decode([b"\xff\n"]))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_longest_line(end: bytes) -> None:
    longest = b"x" * 10
    for chunks in [longest + end], [longest, end], [longest, end[:1], end[1:]]:
        assert list(Lines(max_size=10).decode(filter(None, chunks))) == ["x" * 10]
    for chunks in [longest + b"x" + end], [longest, b"x" + end], [longest + b"xx"], [longest, b"x"]:
        with pytest.raises(ValueError, match="a line longer than 10 bytes"):
            list(Lines(max_size=10).decode(chunks))
    with pytest.raises(ValueError, match="a line longer than 10 bytes"):
        list(Lines(max_size=10).decode(refuse_more(longest + b"xx")))


def refuse_more(*chunks: bytes) -> Iterator[bytes]:
    yield from chunks
    pytest.fail("it waits for more")


@pytest.mark.parametrize("codec", [Lines(), LengthPrefixed(), MessagePack()])
def test_a_chunk_is_let_go_of_before_the_next_is_waited_for(codec: Any) -> None:
    held = []

    def chunks() -> Iterator[bytes]:
        for _ in range(2):
            chunk = bytes(bytearray(b"\0\0\0\5he"))
            count = sys.getrefcount(chunk)
            yield chunk
            held.append(sys.getrefcount(chunk) - count)

    with suppress(ValueError):
        list(codec.decode(chunks()))
    assert held == [0, 0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Lines(end="\r"),
        lambda: Lines("utf-16"),
        lambda: Lines("no such encoding"),
        lambda: Lines(max_size=0),
        lambda: Lines(max_size=1.5),  # type: ignore[arg-type]
        lambda: LengthPrefixed(5),
        lambda: LengthPrefixed(byteorder="middle"),  # type: ignore[arg-type]
        lambda: MessagePack(max_size=-1),
        lambda: MessagePack(max_size=True),
    ],
)
def test_bad_options(make: Any) -> None:
    with pytest.raises((ValueError, TypeError, LookupError)):
        make()


# -- Lengths


def test_a_length_that_is_too_long() -> None:
    with pytest.raises(ValueError, match="a message of 4294967295 bytes; 1048576 is the most"):
        list(LengthPrefixed().decode([b"\xff" * 4]))
    with pytest.raises(ValueError, match="a message of 256 bytes; 255 is the most"):
        LengthPrefixed(1).encode(b"x" * 256)
    with pytest.raises(TypeError):
        LengthPrefixed().encode("text")  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0\5", b"\0\0\0\5hell"])
def test_an_end_in_the_middle(data: bytes) -> None:
    with pytest.raises(ValueError, match="an end in the middle of a message"):
        list(LengthPrefixed().decode([data]))


# -- MessagePack


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1",  # reserved
        b"\xdd\xff\xff\xff\xff",  # an array of 2**32 - 1
        b"\xdf\xff\xff\xff\xff",  # a map of as many
        b"\xdb\xff\xff\xff\xff",  # a string of as many bytes
        b"\xa1\xff",  # no UTF-8
        b"\x81\x90\x01",  # a list as a key
        b"\x91" * 5000,  # too deep
        b"\x92\x01",  # cut off
    ],
)
def test_what_is_no_messagepack(data: bytes) -> None:
    with pytest.raises(ValueError):
        list(MessagePack().decode([data]))


def test_a_message_that_is_too_long() -> None:
    most = MessagePack(max_size=100)
    assert list(most.decode([msgpack.packb(b"x" * 98)])) == [b"x" * 98]
    for data in msgpack.packb(b"x" * 99), msgpack.packb([b"x" * 50, b"x" * 50]):
        for chunks in [data], [data[i : i + 1] for i in range(len(data))], [data[:-1]]:
            with pytest.raises(ValueError, match=r"long|exceeds|end in the middle"):
                list(most.decode(chunks))
        with pytest.raises(ValueError, match="100 is the most"):
            most.encode(msgpack.unpackb(data))


@pytest.mark.parametrize("message", [object(), {1, 2}, 2**64, "\udcff"])
def test_what_messagepack_can_not_carry(message: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        MessagePack().encode(message)


def test_keys_of_any_plain_type() -> None:
    message = {1: "int", b"b": "bytes", None: "none"}
    assert list(MessagePack().decode([MessagePack().encode(message)])) == [message]


# -- Bounds


def endless(piece: bytes, total: int) -> Iterator[bytes]:
    for _ in range(total // len(piece)):
        yield piece


@pytest.mark.parametrize(
    ("codec", "chunk"),
    [
        (Lines(), b"x" * 4096),
        (LengthPrefixed(), struct.pack(">I", 1024 * 1024) + b"x" * 4096),
        (MessagePack(), b"\x91" * 100 + b"\xc6\x00\x10\x00\x00" + b"x" * 4096),
    ],
)
def test_memory_is_bounded(codec: Any, chunk: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            list(codec.decode(endless(chunk, 64 * 1024 * 1024)))
            pytest.fail("it took everything")
        assert tracemalloc.get_traced_memory()[1] < 6 * 1024 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "data"),
    [
        (Lines(max_size=1 << 20), b"x" * 200_000 + b"\n"),
        (LengthPrefixed(), LengthPrefixed().encode(b"x" * 200_000)),
        (MessagePack(), MessagePack().encode([b"x" * 200_000])),
    ],
)
def test_a_byte_at_a_time_costs_linear_time(codec: Any, data: bytes) -> None:
    begin = time.process_time()
    list(codec.decode(data[i : i + 1] for i in range(len(data))))
    assert time.process_time() - begin < 2.0  # seconds; were each piece to cost the whole message, far more
