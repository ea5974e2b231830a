# cython: nonecheck=False, boundscheck=False, wraparound=False, cdivision=True
"""Plain values to MessagePack and back, without msgpack: what most messages are made of.

A small message is over before a general encoder has begun. So `Pen` writes the messages that are small and hold
nothing but None, bools, integers, floats, str, bytes, lists and dicts, and says of the others that it can't; and
`Reader` reads what has no ext types in it, of any size. Both give what msgpack would.

The `Reader` believes every header: it may be given only what a `Scanner` has found whole. Compiled, both go over memory
by pointers. Neither runs code of the user's.
"""

from __future__ import annotations

import struct
from typing import Any

# Bytes in a message that is written here.
ROOM = 1024
# Nested containers in one.
DEPTH = 16
# Integers; msgpack has larger ones too.
MOST = 2**63 - 1
LEAST = -MOST - 1

_read_float = struct.Struct(">f").unpack_from
_read_double = struct.Struct(">d").unpack_from
_pack_double = struct.Struct(">d").pack


class Reader:
    """Makes the values that bytes hold.

    >>> Reader().message(msgpack.packb([1, {"a": None}]), 0, 7, 9)
    [1, {'a': None}, 7, 9]
    """

    data: Any
    p: Any
    at: int

    def message(self, data: Any, start: int, cost: int, size: int) -> Any:
        """The value that begins there; if it is an array, a list with ``cost`` and ``size`` behind its items."""
        self.data = self.p = data
        self.at = start
        first = self.p[start]
        if 0x90 <= first < 0xA0:
            count = first - 0x90
            self.at = start + 1
            items = self.items(count, 2)
            items[count] = cost
            items[count + 1] = size
            self.data = None
            return items
        found = self.value()
        if type(found) is list:
            found += [cost, size]
        self.data = None
        return found

    def value(self) -> Any:
        """The next value."""
        first = self.p[self.at]
        self.at += 1
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first < 0x90:
            return self.pairs(first & 0x0F)
        if first < 0xA0:
            return self.items(first & 0x0F, 0)
        if first < 0xC0:
            return self.text(first & 0x1F)
        if first == 0xC0:
            return None
        if first < 0xC4:
            return first == 0xC3
        if first < 0xC7:
            return self.raw(self.number(1 << (first - 0xC4)))
        if first < 0xCC:
            self.at += 4 if first == 0xCA else 8
            return _read_float(self.data, self.at - 4)[0] if first == 0xCA else _read_double(self.data, self.at - 8)[0]
        if first < 0xD0:
            return self.number(1 << (first - 0xCC))
        if first < 0xD4:
            return self.with_sign(1 << (first - 0xD0))
        if first < 0xDC:
            return self.text(self.number(1 << (first - 0xD9)))
        if first < 0xDE:
            return self.items(self.number(2 << (first - 0xDC)), 0)
        return self.pairs(self.number(2 << (first - 0xDE)))

    def number(self, width: int) -> int:
        """An unsigned integer of so many bytes."""
        p = self.p
        at = self.at
        found = 0
        for i in range(width):
            found = found << 8 | p[at + i]
        self.at = at + width
        return found

    def with_sign(self, width: int) -> int:
        """An integer of so many bytes."""
        half = 1
        half <<= 8 * width - 1
        found = (self.number(width) ^ half) - half
        return found

    def text(self, size: int) -> Any:
        """A str. Neovim's are str even where they are no UTF-8."""
        p = self.p
        at = self.at
        self.at = at + size
        return p[at : at + size].decode("utf-8", "surrogateescape")

    def raw(self, size: int) -> Any:
        """Bytes."""
        p = self.p
        at = self.at
        self.at = at + size
        return bytes(p[at : at + size])

    def items(self, count: int, more: int) -> Any:
        """A list of so many values, and room for some more."""
        found = [None] * (count + more)
        for i in range(count):
            found[i] = self.value()
        return found

    def pairs(self, count: int) -> Any:
        """A dict of so many items."""
        found = {}
        for _ in range(count):
            key = self.value()
            found[key] = self.value()
        return found


class Pen:
    """Writes messages. One for each thread: nothing is left in it between two.

    >>> pen = Pen()
    >>> pen.request(1, "add", (1, 2)) == msgpack.packb([0, 1, "add", [1, 2]])
    True
    >>> pen.request(1, "add", ({1, 2},)) is None
    True
    """

    buffer: bytearray
    p: Any
    at: int

    def __init__(self) -> None:
        self.buffer = bytearray(ROOM)
        self.p = self.buffer
        self.at = 0

    def request(self, msgid: int, method: Any, params: Any) -> bytes | None:
        """``[0, msgid, method, params]``; the params are a list or a tuple. None where that can't be written here."""
        p = self.p
        p[0] = 0x94
        p[1] = 0
        self.at = 2
        self.integer(msgid)
        if self.put(method, 0) and self.array(params, 0):
            return self.written()
        return None

    def response(self, msgid: int, error: Any, result: Any) -> bytes | None:
        """``[1, msgid, error, result]``. None where that can't be written here."""
        p = self.p
        p[0] = 0x94
        p[1] = 1
        self.at = 2
        self.integer(msgid)
        if self.put(error, 0) and self.put(result, 0):
            return self.written()
        return None

    def notification(self, method: Any, params: Any) -> bytes | None:
        """``[2, method, params]``; the params are a list or a tuple. None where that can't be written here."""
        p = self.p
        p[0] = 0x93
        p[1] = 2
        self.at = 2
        if self.put(method, 0) and self.array(params, 0):
            return self.written()
        return None

    def written(self) -> bytes:
        """What was written."""
        p = self.p
        return bytes(p[: self.at])

    def put(self, value: Any, depth: int) -> bool:
        """Write a value; False where that can't be done here."""
        kind = type(value)
        if kind is str:
            data = value.encode("utf-8", "surrogateescape")
            return self.put_bytes(data, 0xD9)
        if kind is int:
            try:
                number = value
            except OverflowError:  # compiled, it is a C integer
                return False
            return LEAST <= number <= MOST and self.integer(number)
        if value is None or kind is bool:
            return self.byte(0xC0 if value is None else 0xC3 if value else 0xC2)
        if kind is bytes:
            return self.put_bytes(value, 0xC4)
        if kind is list:
            return self.array(value, depth + 1)
        if kind is dict:
            return self.map(value, depth + 1)
        if kind is float:
            return self.byte(0xCB) and self.copy(_pack_double(value), 8)
        return False

    def byte(self, value: int) -> bool:
        p = self.p
        if self.at >= ROOM:
            return False
        p[self.at] = value
        self.at += 1
        return True

    def big(self, first: int, number: int, width: int) -> bool:
        """A header, and a number of so many bytes."""
        p = self.p
        at = self.at
        if at + width >= ROOM:
            return False
        p[at] = first
        for i in range(width):
            p[at + width - i] = number & 0xFF
            number >>= 8
        self.at = at + width + 1
        return True

    def integer(self, number: int) -> bool:
        """In the fewest bytes."""
        if -32 <= number < 128:
            return self.byte(number & 0xFF)
        if number > 0:
            if number < 1 << 8:
                return self.big(0xCC, number, 1)
            if number < 1 << 16:
                return self.big(0xCD, number, 2)
            if number >> 32 == 0:
                return self.big(0xCE, number, 4)
            return self.big(0xCF, number, 8)
        if number >= -(1 << 7):
            return self.big(0xD0, number, 1)
        if number >= -(1 << 15):
            return self.big(0xD1, number, 2)
        if number >> 31 == -1:
            return self.big(0xD2, number, 4)
        return self.big(0xD3, number, 8)

    def put_bytes(self, data: Any, first: int) -> bool:
        """Bytes, or the bytes of a str, by the first of their headers: of 8 bits, and then of 16."""
        size = len(data)
        if first == 0xD9 and size < 32:
            done = self.byte(0xA0 | size)
        elif size < 1 << 8:
            done = self.big(first, size, 1)
        else:
            done = size < ROOM and self.big(first + 1, size, 2)
        return done and self.copy(data, size)

    def copy(self, data: Any, size: int) -> bool:
        p = self.p
        at = self.at
        source = data
        if at + size > ROOM:
            return False
        for i in range(size):
            p[at + i] = source[i]
        self.at = at + size
        return True

    def array(self, values: Any, depth: int) -> bool:
        """The items of a list or a tuple."""
        if depth > DEPTH or not self.count(0x90, 0xDC, len(values)):
            return False
        for value in values:
            if not self.put(value, depth):
                return False
        return True

    def map(self, values: Any, depth: int) -> bool:
        """The items of a dict."""
        if depth > DEPTH or not self.count(0x80, 0xDE, len(values)):
            return False
        for key, value in values.items():
            if not (self.put(key, depth) and self.put(value, depth)):
                return False
        return True

    def count(self, few: int, many: int, size: int) -> bool:
        if size < 16:
            return self.byte(few | size)
        return size < ROOM and self.big(many, size, 2)
