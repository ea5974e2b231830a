"""Codecs: how messages lie in a stream of bytes. No I/O here, and nothing of connections.

Two rules for a codec. It keeps no state between calls, so that one serves any number of connections: what it has read
of a message is in the frame of its generator. And whatever the peer sends, it holds no more than its longest message
and one chunk; a message that is not complete costs its bytes once, however small the pieces in which it comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, Protocol, TypeVar

import msgpack

T = TypeVar("T")

# Bytes in one line, without its end. asyncio's streams and Go's bufio.Scanner have the same limit.
MAX_LINE = 64 * 1024
# Bytes in one message of the other codecs.
MAX_MESSAGE = 1024 * 1024
# Bytes handed to MessagePack's decoder at a time: what it holds of the next message is at most so much more.
SLICE = 64 * 1024


class Codec(Protocol[T]):
    """What `flower.net.framed` needs to know of messages. Write your own: a class with these two methods.

    A codec for JSON, one object a line:

    >>> import json
    >>> class JSONLines:
    ...     lines = Lines()
    ...     def encode(self, message):
    ...         return self.lines.encode(json.dumps(message))
    ...     def decode(self, chunks):
    ...         return map(json.loads, self.lines.decode(chunks))
    >>> list(JSONLines().decode([b'{"a": 1}', b'\\n[2, ', b'3]\\n']))
    [{'a': 1}, [2, 3]]
    """

    def encode(self, message: T, /) -> bytes:
        """The message's bytes. Raises TypeError or ValueError for what can't be sent; then nothing is."""
        ...

    def decode(self, chunks: Iterable[bytes], /) -> Iterator[T]:
        """The messages in the chunks, which the network has cut as it pleased; a generator, as a rule.

        The chunks end with the connection's end of file. Each is waited for when it is asked for, so ask for no more
        than the next message needs. One that ends before them takes no more: whoever receives gets ChannelClosed.
        Raises ValueError, or another Exception, for bytes that can't stand.
        """
        ...


class Lines:
    """Lines(encoding="utf-8", *, end="\\n", max_size=65536)

    Lines of text: a message is a str without its line end. ``encoding=None``: it is bytes.

    Read are lines that end with ``\\n`` or ``\\r\\n``, and a last one without end. ``end`` is what follows each line
    that is sent. ``max_size``: the bytes of the longest line, sent or received, without its end.

    >>> list(Lines().decode([b"one\\r\\ntw", b"o\\nthree"]))
    ['one', 'two', 'three']
    >>> Lines().encode("four")
    b'four\\n'
    """

    def __init__(self, encoding: str | None = "utf-8", *, end: str = "\n", max_size: int = MAX_LINE) -> None:
        if end not in ("\n", "\r\n"):
            raise ValueError(f"the end of a line is '\\n' or '\\r\\n', not {end!r}")
        self.encoding = encoding
        self.end = end.encode()
        self.max_size = _check_size(max_size)
        if encoding is not None and "\n".encode(encoding) != b"\n":
            raise ValueError(f"lines can't be found in {encoding}: its '\\n' is not one byte")

    def encode(self, line: Any) -> bytes:
        """The line with its end. Raises TypeError for another type; ValueError for an end inside, or its length."""
        kind = bytes if self.encoding is None else str
        if not isinstance(line, kind):
            raise TypeError(f"a line is {kind.__name__} here, not {type(line).__name__}")
        data: bytes = line if isinstance(line, bytes) else line.encode(self.encoding or "")
        if b"\n" in data:
            raise ValueError(f"a line with a line end inside would be several: {_short(line)}")
        if data.endswith(b"\r"):
            raise ValueError(
                f"a line's last character can't be '\\r', which is taken for a part of its end: {_short(line)}"
            )
        return _fitting(data, self.max_size) + self.end

    def decode(self, chunks: Iterable[bytes]) -> Iterator[Any]:
        """The lines in the chunks. Raises ValueError for a line that is too long, or no text of the encoding."""
        begun = bytearray()  # of a line that has no end yet
        for chunk in chunks:
            start = 0
            while (stop := chunk.find(b"\n", start)) >= 0:
                if begun:
                    begun += chunk[start:stop]
                    line = bytes(begun)
                    begun.clear()
                else:
                    line = chunk[start:stop]
                start = stop + 1
                yield self._text(line)
            begun += chunk[start:]
            del chunk  # while the next is waited for
            if len(begun) > self.max_size + 1:  # the last byte may be a \r
                raise self._too_long()
        if begun:
            yield self._text(bytes(begun))

    def _text(self, line: bytes) -> Any:
        if line.endswith(b"\r"):
            line = line[:-1]
        if len(line) > self.max_size:
            raise self._too_long()
        return line if self.encoding is None else line.decode(self.encoding)

    def _too_long(self) -> ValueError:
        return ValueError(f"a line longer than {self.max_size} bytes")


class LengthPrefixed:
    """LengthPrefixed(size=4, *, byteorder="big", max_size=1048576)

    Messages of bytes, each behind its length: an unsigned integer of ``size`` bytes.

    ``max_size``: the bytes of the longest message, sent or received, without its length.

    >>> LengthPrefixed(2).encode(b"hello")
    b'\\x00\\x05hello'
    >>> list(LengthPrefixed(2).decode([b"\\x00", b"\\x05hello\\x00", b"\\x00"]))
    [b'hello', b'']
    """

    def __init__(
        self, size: int = 4, *, byteorder: Literal["big", "little"] = "big", max_size: int = MAX_MESSAGE
    ) -> None:
        if size not in (1, 2, 3, 4, 8):
            raise ValueError(f"a length has 1, 2, 3, 4 or 8 bytes, not {size!r}")
        if byteorder not in ("big", "little"):
            raise ValueError(f"a byte order is 'big' or 'little', not {byteorder!r}")
        self.size = size
        self.byteorder = byteorder
        self.max_size = min(_check_size(max_size), 256**size - 1)

    def encode(self, message: bytes | bytearray | memoryview) -> bytes:
        """The length and the message. Raises TypeError for another type; ValueError for a message too long."""
        if not isinstance(message, bytes | bytearray | memoryview):
            raise TypeError(f"a message is bytes here, not {type(message).__name__}")
        data = _fitting(bytes(message), self.max_size)
        return len(data).to_bytes(self.size, self.byteorder) + data

    def decode(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The messages in the chunks. Raises ValueError for one too long, and for an end in the middle of one."""
        buffer = bytearray()
        wanted = self.size
        head = True  # a length comes next
        for chunk in chunks:
            buffer += chunk
            del chunk  # while the next is waited for
            while len(buffer) >= wanted:
                piece = bytes(buffer[:wanted])
                del buffer[:wanted]
                if head:
                    wanted = int.from_bytes(piece, self.byteorder)
                    if wanted > self.max_size:
                        raise ValueError(f"a message of {wanted} bytes; {self.max_size} is the most")
                    head = False
                else:
                    wanted = self.size
                    head = True
                    yield piece
                    del piece
        if buffer or not head:
            raise _cut_off()


class MessagePack:
    """MessagePack(*, max_size=1048576)

    Messages of what MessagePack can carry: None, bool, int, float, str, bytes, list, dict, and ``msgpack.ExtType``.

    A tuple arrives as a list. ``max_size``: the bytes of the longest message, sent or received. A message in memory can
    be some eighty times as long.

    >>> MessagePack().encode({"a": [1, 2]})
    b'\\x81\\xa1a\\x92\\x01\\x02'
    >>> list(MessagePack().decode([b"\\x81\\xa1a\\x92", b"\\x01\\x02\\xc0"]))
    [{'a': [1, 2]}, None]
    """

    def __init__(self, *, max_size: int = MAX_MESSAGE) -> None:
        self.max_size = _check_size(max_size)

    def encode(self, message: Any) -> bytes:
        """The message's bytes. Raises TypeError or ValueError for what MessagePack can't carry, and for its length."""
        try:
            data: bytes = msgpack.packb(message)
        except OverflowError as error:  # an integer of more than 64 bits
            raise ValueError(f"MessagePack can't carry this: {error}") from None
        return _fitting(data, self.max_size)

    def decode(self, chunks: Iterable[bytes]) -> Iterator[Any]:
        """The messages in the chunks. Raises ValueError for one too long, what is none, and an end inside of one."""
        most = self.max_size
        unpacker = msgpack.Unpacker(
            strict_map_key=False,
            max_buffer_size=most + 2 * SLICE,
            # An item has a byte at least: a header can't reserve more than the message may have.
            max_array_len=most,
            max_map_len=most // 2,
            max_str_len=most,
            max_bin_len=most,
            max_ext_len=most,
        )
        fed = done = 0  # bytes: handed over, and those of complete messages
        for chunk in chunks:
            for at in range(0, len(chunk), SLICE):
                piece = chunk[at : at + SLICE]
                unpacker.feed(piece)
                fed += len(piece)
                while (message := _next(unpacker)) is not _NOT_YET:
                    size = unpacker.tell() - done
                    done += size
                    if size > most:
                        raise _too_long(most)
                    yield message
                del piece, message
                if fed - done > most:
                    raise _too_long(most)
            del chunk  # while the next is waited for
        if fed != done:
            raise _cut_off()


_NOT_YET = object()


def _next(unpacker: Any) -> Any:
    try:
        return unpacker.unpack()
    except msgpack.OutOfData:
        return _NOT_YET
    except Exception as error:  # of many kinds: no msgpack, too deep, too long, a map's key that can't be one
        raise ValueError(f"no valid MessagePack: {type(error).__name__}: {error}") from None


def _check_size(size: Any) -> int:
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"max_size is a number of bytes, not {size!r}")
    if size < 1:
        raise ValueError(f"max_size is at least 1 byte, not {size}")
    return size


def _fitting(data: bytes, most: int) -> bytes:
    if len(data) > most:
        raise ValueError(f"a message of {len(data)} bytes; {most} is the most")
    return data


def _too_long(most: int) -> ValueError:
    return ValueError(f"a message longer than {most} bytes")


def _cut_off() -> ValueError:
    return ValueError("an end in the middle of a message")


def _short(line: Any) -> str:
    text = repr(line[:60])
    return text if len(line) <= 60 else text + "..."
