# cython: boundscheck=False, wraparound=False, nonecheck=False, cdivision=True
"""Where a MessagePack message ends, and what it will cost: read off its bytes, before anything is decoded.

A decoder makes objects as it goes, and a byte of input can make a hundred bytes of them (an empty array is one
byte, and 64 in memory). So every limit is held here, from the headers alone: the length of a message, as soon as
a header claims it; its depth; what its objects will take; that a map's key is none that could not be one. What
is let through is decoded without further limits.

This file decodes nothing and knows no RPC. It is compiled: a step for each value, not for each byte.

Invariants: ``pending`` are the bytes of the message that is not complete, and only those. ``at`` is where its next
header stands (perhaps behind the end of ``pending``: the value before is still coming). ``left`` counts the values
that the innermost container still lacks, and ``outer`` those of the containers around it, each twice itself, plus one
for a map: a key comes next when the count of a map is even.
"""

from __future__ import annotations

from typing import Any

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

# What kinds of values a header can begin.
FIXED, BYTES, EXTENDED, LIST, DICT = 0, 1, 2, 3, 4


class Scanner:
    """Cuts a stream of bytes into messages. After `feed` has set ``fault``, it is of no more use.

    >>> scanner = Scanner(1000, 8000)
    >>> scanner.feed(msgpack.packb([1, 2]) + b"\\x93")
    (b'\\x92\\x01\\x02', [72, 3])
    """

    pending: Any
    at: int
    left: int
    is_map: bool
    outer: Any
    cost: int
    most: int
    most_cost: int
    fault: Any

    def __init__(self, most: int, most_cost: int) -> None:
        self.pending = bytearray()
        self.outer = []
        self.at = self.cost = 0
        self.left = 1
        self.is_map = False
        self.most = most
        self.most_cost = most_cost
        self.fault = None

    def feed(self, data: bytes) -> tuple[Any, list[int]]:
        """Take bytes; give those of the messages that are now complete.

        And for each of them two numbers: what it will cost in memory, and its length, in bytes.
        """
        costs: list[int] = []
        if self.pending:
            self.pending += data
            end = self.walk(self.pending, len(self.pending), costs)
            if end == 0:
                return b"", costs
            complete = bytes(self.pending[:end])
            del self.pending[:end]
            return complete, costs
        size = len(data)
        end = self.walk(data, size, costs)
        if end == size:
            return data, costs
        self.pending += data[end:]
        return data[:end], costs

    def walk(self, data: Any, size: int, costs: list[int]) -> int:
        """Go from header to header; give where the last complete message ends. ``at`` is then relative to that."""
        p = data
        at = self.at
        left = self.left
        is_map = self.is_map
        cost = self.cost
        start = 0
        while True:
            if left == 0:  # that was the message's last value, but its bytes may still be coming
                if at > size:
                    break
                costs.append(cost)
                costs.append(at - start)
                start = at
                cost = 0
                left = 1
                is_map = False
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
            if is_map and left & 1 == 0 and (kind == LIST or kind == DICT):
                self.fault = "a map's key is an array or a map"
                break
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
                if len(self.outer) >= MAX_DEPTH:
                    self.fault = f"a message nested more than {MAX_DEPTH} deep"
                    break
                self.outer.append(left << 1 | is_map)
                is_map = kind == DICT
                left = count << is_map
                continue
            while left == 0 and self.outer:
                left = self.outer.pop()
                is_map = left & 1
                left >>= 1
        self.at = at - start
        self.left = left
        self.is_map = is_map
        self.cost = cost
        return start

    def is_between(self) -> bool:
        """Whether no message has begun that is not complete."""
        return not self.pending


def measure(data: bytes, most: int, most_cost: int) -> str | None:
    """What is wrong with one whole message of our own, that nobody could read it; None if nothing is."""
    scanner = Scanner(most, most_cost)
    scanner.feed(data)
    fault: str | None = scanner.fault
    return fault
