# cython: boundscheck=False, wraparound=False, nonecheck=False, cdivision=True
"""Where a MessagePack message ends, and what it will cost: read off its bytes, before anything is decoded.

A decoder makes objects as it goes, and a byte of input can make a hundred bytes of them (an empty array is one
byte, and 64 in memory). So every limit is held here, from the headers alone: the length of a message, as soon as
a header claims it; its depth; what its objects will take; that a map's key is none that could not be one. What
is let through is decoded without further limits.

This file decodes nothing and knows no RPC. It is compiled: a step for each value, not for each byte.

Invariants: the message that is looked at begins at ``start`` of ``data``, and its next header stands at ``at``
(perhaps behind the end of ``data``: the value before is still coming). A message whose last value came in two pieces
ends in the first bytes of ``tail``; ``size`` is its end then. ``rest``, from ``rest_at`` on, comes behind ``data``,
which then ends where a message does. ``left`` counts the values that the innermost container still lacks, and
``outer`` those of the ``depth`` containers around it, each twice itself, plus one for a map: a key comes next when the
count of a map is even.
"""

from __future__ import annotations

from typing import Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

# Nested containers. Neovim aborts at 40, msgpack's own decoder stops at 1024.
MAX_DEPTH = 128

# About what objects take in CPython, in bytes: a place in a list, a number, a string or bytes beside their
# contents, a list, a dict, a place in a dict, what an ext type decodes to.
SLOT = 8
NUMBER = 32
TEXT = 56
ARRAY = 56
MAP = 64
PAIR = 88
EXT = 160

# Bytes that are decoded with no walk before, where no more is left: a message is not decoded twice if it is longer.
SHORT = 512

# What kinds of values a header can begin.
FIXED, BYTES, EXTENDED, LIST, DICT = 0, 1, 2, 3, 4


class Scanner:
    """Cuts a stream of bytes into messages. After ``fault`` was set, it is of no more use.

    After `find` the message is ``data[start:at]``, unless there is a ``tail`` (see `message`), and ``cost`` is what it
    will take in memory, in bytes.

    >>> scanner = Scanner(1000, 8000)
    >>> scanner.take(msgpack.packb([1, 2]) + b"\\x93")
    >>> scanner.find(), scanner.data[scanner.start : scanner.at]
    (True, b'\\x92\\x01\\x02')
    >>> scanner.find()
    False
    """

    data: Any
    tail: Any
    rest: Any
    outer: Any
    fault: Any

    def __init__(self, most: int, most_cost: int) -> None:
        self.data = b""
        self.tail = self.rest = None
        if not cython.compiled:
            self.outer = [0] * MAX_DEPTH
        self.size = self.start = self.at = self.rest_at = self.cost = self.depth = 0
        self.left = 1
        self.whole = False  # the message was found, and is over
        self.is_map = False
        self.keyed = False  # a map has a key of an ext type
        self.most = most
        self.most_cost = most_cost
        self.fault = None

    def take(self, data: bytes) -> None:
        """More bytes. All messages in those before have been found."""
        if self.start == self.size:  # no message has begun
            self.data = data
            self.start = self.at = 0
            self.size = len(data)
            return
        begun = self.data
        lacks = self.at - self.size
        ends = self.left == 0 and lacks <= len(data)
        more: Any = data
        if ends and lacks < len(data):  # no more than its end is copied
            more = memoryview(data)[:lacks]
            self.rest = data
            self.rest_at = lacks
        if ends and type(begun) is bytes:  # a message in two pieces is copied as it is read
            self.tail = data
            self.size = self.at
            return
        if type(begun) is bytes:
            begun = bytearray(memoryview(begun)[self.start :])
        elif self.start:
            del begun[: self.start]
        begun += more
        self.at -= self.start
        self.start = 0
        self.data = begun
        self.size = len(begun)

    def go_on(self) -> int:
        """If the message is whole, the next one is looked at."""
        if self.whole:
            self.whole = False
            self.start = self.at
            self.cost = 0
            self.left = 1
            self.is_map = self.keyed = False
        return 0

    def is_short(self) -> bool:
        """Whether what is left is so short that the next message may be decoded without `find`, but for its limits.

        When it has been decoded, `skip` is next.
        """
        self.go_on()
        if self.tail is not None or self.rest is not None or self.fault is not None:
            return False
        left = self.size - self.at
        return 0 < left <= SHORT and self.at == self.start

    def skip(self, length: int, cost: int) -> int:
        """The next message has been decoded: it had so many bytes, and takes so many of memory."""
        self.at += length
        self.cost = cost
        self.left = 0
        self.whole = True
        return 0

    def is_drained(self) -> bool:
        """Whether nothing is left of what was taken; then none of it is held."""
        if self.at != self.size or self.rest is not None or not (self.whole or self.start == self.at):
            return False
        self.go_on()
        self.tail = None
        self.data = b""
        self.size = self.start = self.at = 0
        return True

    def find(self) -> bool:
        """Look for the end of the next message. False: it has not come yet, or there is a ``fault``."""
        self.go_on()
        if self.is_drained():
            return False
        if self.at == self.size and self.start == self.at:
            self.tail = None
            self.data, self.rest = self.rest, None
            self.start = self.at = self.rest_at
            self.size = len(self.data)
        self.walk(self.data)
        return self.whole

    def walk(self, data: Any) -> int:
        """Go from header to header, to the end of the message or of the data."""
        p = data
        size = self.size
        start = self.start
        at = self.at
        left = self.left
        is_map = self.is_map
        cost = self.cost
        depth = self.depth
        while True:
            if left == 0:  # that was the message's last value, but its bytes may still be coming
                self.whole = at <= size
                break
            if at >= size:
                break
            first = p[at]
            count = 0
            kind = FIXED
            width = 0  # bytes of the count
            after = 1  # bytes of the header, and of what follows it
            if first < 0x80 or first >= 0xE0:
                pass
            elif first < 0x90:
                kind = DICT
                count = first & 0x0F
            elif first < 0xA0:
                kind = LIST
                count = first & 0x0F
            elif first < 0xC0:
                kind = BYTES
                after += first & 0x1F
            elif first < 0xC4:
                if first == 0xC1:
                    self.fault = "no valid MessagePack: the byte 0xc1"
                    break
            elif first < 0xC7:  # bin 8, 16, 32
                kind = BYTES
                width = 1 << (first - 0xC4)
            elif first < 0xCA:  # ext 8, 16, 32
                kind = EXTENDED
                width = 1 << (first - 0xC7)
                after += 1
            elif first == 0xCA:
                after += 4
                cost += NUMBER
            elif first == 0xCB:
                after += 8
                cost += NUMBER
            elif first < 0xD4:  # uint and int, 8 to 64 bits
                after += 1 << ((first - 0xCC) & 3)
                cost += NUMBER
            elif first < 0xD9:  # ext of 1, 2, 4, 8, 16
                kind = EXTENDED
                after += 1 + (1 << (first - 0xD4))
            elif first < 0xDC:  # str 8, 16, 32
                kind = BYTES
                width = 1 << (first - 0xD9)
            elif first < 0xDE:
                kind = LIST
                width = 2 << (first - 0xDC)
            else:
                kind = DICT
                width = 2 << (first - 0xDE)
            if width:
                if at + width >= size:
                    break  # its header is not complete
                for i in range(width):
                    count = count << 8 | p[at + 1 + i]
                after += width
                if kind == BYTES or kind == EXTENDED:
                    after += count
            if is_map and left & 1 == 0 and kind >= EXTENDED:
                if kind != EXTENDED:
                    self.fault = "a map's key is an array or a map"
                    break
                self.keyed = True
            if kind == BYTES:
                cost += TEXT + after
            elif kind == EXTENDED:
                cost += EXT + after
            elif kind == LIST:
                cost += ARRAY + SLOT * count
            elif kind == DICT:
                cost += MAP + PAIR * count
            at += after
            if at - start > self.most or count > self.most:
                self.fault = f"a message longer than {self.most} bytes"
                break
            if cost > self.most_cost:
                self.fault = f"a message whose values take more than {self.most_cost} bytes of memory"
                break
            left -= 1
            if count and kind >= LIST:
                if depth >= MAX_DEPTH:
                    self.fault = f"a message nested more than {MAX_DEPTH} deep"
                    break
                self.outer[depth] = left << 1 | is_map
                depth += 1
                is_map = kind == DICT
                left = count << is_map
                continue
            while left == 0 and depth:
                depth -= 1
                left = self.outer[depth]
                is_map = left & 1
                left >>= 1
        self.at = at
        self.left = left
        self.is_map = is_map
        self.cost = cost
        self.depth = depth
        return 0

    def message(self) -> Any:
        """The bytes of the message that was found, in one piece."""
        data = self.data
        if self.tail is not None:
            return b"".join((memoryview(data)[self.start :], memoryview(self.tail)[: self.at - len(data)]))
        return data if self.at - self.start == len(data) else memoryview(data)[self.start : self.at]

    def is_between(self) -> bool:
        """Whether no message has begun that is not complete."""
        return self.start == self.size


def measure(data: bytes, most: int, most_cost: int) -> Scanner:
    """A scanner that has looked at one whole value. Raises ValueError where a limit is broken, and for other bytes."""
    scanner = Scanner(most, most_cost)
    scanner.take(data)
    if not scanner.find() or scanner.at != scanner.size:
        raise ValueError(scanner.fault or "not one value")
    return scanner
