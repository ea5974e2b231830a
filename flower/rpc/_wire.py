"""MessagePack-RPC as a protocol without I/O: bytes in, events out; and the other way, bytes to send.

Two rules for this file: it does no I/O and knows no tasklet, and whatever the peer sends, it ends in an
event; what the user of this file does wrong is an exception.

States: a `Wire` is OPEN until the peer's bytes end (ENDED) or break the protocol (FAILED); `_NEXT` has the
transitions. A decoder can't find the next message after a broken one, so FAILED is for good: the last event
says why, and the events before it are still good. What we send is not affected by either.

Goals: time and space are bounded by what was received and by the limits below. A message that is not
complete costs its bytes once, however small the pieces in which it comes.

Invariants: ``_calls`` has the ids of our requests that the peer has not answered, ``_serving`` those of the
peer's that we have not; an id is in use as long as it is there, whoever still waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgpack

# Message types.
REQUEST = 0
RESPONSE = 1
NOTIFICATION = 2

# Ids are unsigned 32-bit integers. We never use 0: pynvim answers a message that it could not read with id 0.
MAX_ID = 2**32 - 1

# Bytes in one message, sent or received; 16 MiB, four times gRPC's, which its users meet in production.
MAX_MESSAGE = 16 * 1024 * 1024
# Items in one array or map: a header of five bytes must not reserve memory for 2**32 of them.
MAX_ITEMS = 1024 * 1024
# Bytes handed to the decoder at a time, so that what it holds unread stays small.
SLICE = 64 * 1024

# States.
OPEN = "open"
ENDED = "ended"
FAILED = "failed"

_NEXT = {
    (OPEN, "message"): OPEN,
    (OPEN, "end"): ENDED,
    (OPEN, "violation"): FAILED,
}


class Request(NamedTuple):
    """The peer calls us, and waits for `Wire.reply` or `Wire.refuse` with this id."""

    msgid: int
    method: str
    params: list[Any]
    size: int


class Response(NamedTuple):
    """The answer to our request of this id; ``error`` is None for a result."""

    msgid: int
    error: Any
    result: Any
    size: int


class Notification(NamedTuple):
    """The peer calls us, and wants no answer."""

    method: str
    params: list[Any]
    size: int


class Violation(NamedTuple):
    """The peer broke the protocol; nothing more can be read from it."""

    reason: str


Event = Request | Response | Notification | Violation


# Types that any peer can read. The others may hold what it can't.
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


class _Broken(Exception):
    """Inside this file: what was received can't stand. The text becomes the Violation's reason."""


class Wire:
    """One side of a MessagePack-RPC connection.

    >>> ours, theirs = Wire(), Wire()
    >>> msgid, data = ours.call("add", [1, 2])
    >>> theirs.feed(data)
    [Request(msgid=1, method='add', params=[1, 2], size=10)]
    >>> ours.feed(theirs.reply(msgid, 3))
    [Response(msgid=1, error=None, result=3, size=5)]
    """

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self.max_message = max_message
        self.state = OPEN
        self._calls: set[int] = set()
        self._serving: set[int] = set()
        self._last_id = 0
        self._fed = 0  # bytes received
        self._start = 0  # where the message begins that is not complete
        self._packer = _new_packer()
        self._unpacker = msgpack.Unpacker(
            raw=False,
            strict_map_key=False,
            unicode_errors="surrogateescape",  # Neovim's strings are str even where they are no UTF-8
            max_buffer_size=max_message + 2 * SLICE,
            max_str_len=max_message,
            max_bin_len=max_message,
            max_ext_len=max_message,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
        )

    # -- Receiving

    def feed(self, data: bytes) -> list[Event]:
        """Take received bytes; give the events that they complete, in order. A `Violation` is the last.

        Raises RuntimeError when the wire is no longer open.
        """
        if self.state is not OPEN:
            raise RuntimeError(f"this wire has {self.state}, and takes no more bytes")
        events: list[Event] = []
        try:
            for at in range(0, len(data), SLICE):
                self._decode(data[at : at + SLICE], events)
        except _Broken as broken:
            events.append(self._violated(str(broken)))
        return events

    def end(self) -> list[Event]:
        """The peer's bytes have ended. That is a `Violation` in the middle of a message, else no event."""
        if self.state is not OPEN:
            return []
        if self._fed != self._start:
            return [self._violated("the connection ended in the middle of a message")]
        self.state = _NEXT[self.state, "end"]
        return []

    def _decode(self, piece: bytes, events: list[Event]) -> None:
        unpacker = self._unpacker
        self._fed += len(piece)
        try:
            unpacker.feed(piece)
            while True:
                message = unpacker.unpack()
                size = unpacker.tell() - self._start
                self._start += size
                if size > self.max_message:
                    break
                events.append(self._read(message, size))
        except msgpack.OutOfData:
            if self._fed - self._start <= self.max_message:
                return
        except _Broken:
            raise
        except Exception as error:  # of many kinds: no msgpack, too deep, too long, a map's key that can't be one
            raise _Broken(f"no valid MessagePack: {type(error).__name__}: {error}") from None
        raise _Broken(f"a message longer than {self.max_message} bytes")

    def _read(self, message: Any, size: int) -> Event:
        if type(message) is not list or not message:
            raise _Broken(f"a message is an array with a type, not {_short(message)}")
        shape = _SHAPES.get(message[0]) if type(message[0]) is int else None
        if shape is None:
            raise _Broken(f"{_short(message[0])} is no message type")
        length, read = shape
        if len(message) != length:
            raise _Broken(f"a message of type {message[0]} has {length} elements, not {len(message)}")
        return read(self, message, size)

    def _read_request(self, message: list[Any], size: int) -> Request:
        _, msgid, method, params = message
        _check(msgid, method, params)
        if msgid in self._serving:
            raise _Broken(f"id {msgid} is in use by a request that has no answer yet")
        self._serving.add(msgid)
        return Request(msgid, method, params, size)

    def _read_response(self, message: list[Any], size: int) -> Response:
        _, msgid, error, result = message
        _check(msgid, "", [])
        if msgid not in self._calls:
            told = f": {_short(error)}" if error is not None else ""
            raise _Broken(f"an answer to id {msgid}, which was not asked{told}")
        self._calls.discard(msgid)
        return Response(msgid, error, result, size)

    def _read_notification(self, message: list[Any], size: int) -> Notification:
        _, method, params = message
        _check(0, method, params)
        return Notification(method, params, size)

    def _violated(self, reason: str) -> Violation:
        self.state = _NEXT[self.state, "violation"]
        return Violation(reason)

    # -- Sending

    def call(self, method: str, params: Any) -> tuple[int, bytes]:
        """A request: its id, which is in use until the answer is received, and its bytes.

        Raises TypeError or ValueError for what MessagePack can't carry, and for what a peer of this kind could
        not read; then nothing has changed.
        """
        msgid = self._last_id
        while True:
            msgid = msgid + 1 if msgid < MAX_ID else 1
            if msgid not in self._calls:
                break
        _check_method(method)
        data = self._pack((REQUEST, msgid, method, params), params)
        self._last_id = msgid
        self._calls.add(msgid)
        return msgid, data

    def take_back(self, msgid: int) -> None:
        """The request of this id was never sent: nobody will answer it."""
        self._calls.remove(msgid)

    def notify(self, method: str, params: Any) -> bytes:
        """A notification. Raises as `call` does."""
        _check_method(method)
        return self._pack((NOTIFICATION, method, params), params)

    def reply(self, msgid: int, result: Any, most: int = MAX_MESSAGE) -> bytes:
        """The answer to the peer's request of this id. Raises as `call` does; ValueError without one.

        ``most``: bytes that it may have, where that is less than `max_message`.
        """
        return self._answer(msgid, None, result, most)

    def refuse(self, msgid: int, error: Any) -> bytes:
        """The answer that the peer's request of this id failed. ``error`` must be true: pynvim tests that."""
        if not error:
            raise ValueError(f"an error must be true, and {error!r} is not")
        return self._answer(msgid, error, None)

    def _answer(self, msgid: int, error: Any, result: Any, most: int = MAX_MESSAGE) -> bytes:
        if msgid not in self._serving:
            raise ValueError(f"id {msgid} is of no request that waits for an answer")
        data = self._pack((RESPONSE, msgid, error, result), (error, result), most)
        self._serving.discard(msgid)
        return data

    def _pack(self, message: tuple[Any, ...], values: Sequence[Any], most: int = MAX_MESSAGE) -> bytes:
        try:
            data: bytes = self._packer.pack(message)
        except OverflowError as error:  # an integer of more than 64 bits
            raise ValueError(f"MessagePack can't carry this: {error}") from None
        if len(data) > SLICE:
            self._packer = _new_packer()  # the old one would keep its large buffer
        most = min(most, self.max_message)
        if len(data) > most:
            raise ValueError(f"a message of {len(data)} bytes; {max(most, 0)} is the most")
        if len(values) > MAX_ITEMS or not _PLAIN.issuperset(map(type, values)):
            _check_readable(data)
        return data


_SHAPES: dict[int, tuple[int, Callable[[Wire, list[Any], int], Event]]] = {
    REQUEST: (4, Wire._read_request),
    RESPONSE: (4, Wire._read_response),
    NOTIFICATION: (3, Wire._read_notification),
}


def _check(msgid: Any, method: Any, params: Any) -> None:
    if type(msgid) is not int or not 0 <= msgid <= MAX_ID:
        raise _Broken(f"an id is an unsigned 32-bit integer, not {_short(msgid)}")
    if type(method) is not str:
        raise _Broken(f"a method's name is a string, not {_short(method)}")
    if type(params) is not list:
        raise _Broken(f"params are an array, not {_short(params)}")


def _check_method(method: Any) -> None:
    if not isinstance(method, str):
        raise TypeError(f"a method's name is a str, not {_short(method)}")


def _check_readable(data: bytes) -> None:
    """Read our own message, as the peer will: what it can't read would cost us the connection.

    The encoder lets pass what the decoder refuses: arrays as the keys of a map, more than MAX_ITEMS.
    """
    try:
        msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            unicode_errors="surrogateescape",
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
        )
    except TypeError as error:
        raise TypeError(f"no peer could read this: a map's key is of an {error}") from None
    except ValueError as error:
        raise ValueError(f"no peer could read this: {error}") from None


def _new_packer() -> msgpack.Packer:
    return msgpack.Packer(use_bin_type=True, unicode_errors="surrogateescape")


def _short(value: Any) -> str:
    """A value for an error's text, whatever its size."""
    if isinstance(value, list | dict):
        return f"{'an array' if isinstance(value, list) else 'a map'} of {len(value)}"
    text = ascii(value[:80] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 100 else text[:97] + "..."
