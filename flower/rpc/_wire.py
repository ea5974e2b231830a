"""MessagePack-RPC as a protocol without I/O: bytes in, events out; and the other way, bytes to send.

Two rules for this file: it does no I/O and knows no tasklet, and whatever the peer sends, it ends in an
event; what the user of this file does wrong is an exception.

An event is the message as it came, a list. Behind it stand what it costs in memory, about, and its length, in bytes:

================================================  ======================================================
``[REQUEST, msgid, method, params, cost, size]``  the peer calls us, and waits for `reply` or `refuse`
``[RESPONSE, msgid, error, result, cost, size]``  the answer to our request; error is None for a result
``[NOTIFICATION, method, params, cost, size]``    the peer calls us, and wants no answer
``[VIOLATION, reason]``                           the peer broke the protocol; nothing more can be read
================================================  ======================================================

In place of params or a result that can't be made here of what the peer sent stands an `Unmade`.

States: a `Wire` is OPEN until the peer's bytes end (ENDED) or break the protocol (FAILED); `_NEXT` has the
transitions. A decoder can't find the next message after a broken one, so FAILED is for good: the last event
says why, and the events before it are still good. What we send is not affected by either.

Goals: time and space are bounded by what was received and by the limits below, which hold before anything is
decoded (see `_scan`). A message that is not complete costs its bytes once, however small the pieces.

Invariants: ``_calls`` has the ids of our requests that the peer has not answered, ``_serving`` those of the
peer's that we have not; an id is in use as long as it is there, whoever still waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

try:
    import cython
except ImportError:
    from flower.channels import _nocython as cython

import msgpack

from flower.rpc._scan import Scanner, measure
from flower.rpc._types import Codec, NotPlain, Packing, new_packer, unpack

# Message types.
REQUEST = 0
RESPONSE = 1
NOTIFICATION = 2
VIOLATION = -1

# Ids are unsigned 32-bit integers. We never use 0: pynvim answers a message that it could not read with id 0.
MAX_ID = 2**32 - 1
# The same, in C.
_LAST_ID, _REQUEST, _RESPONSE, _NOTIFICATION = MAX_ID, REQUEST, RESPONSE, NOTIFICATION

# Bytes in one message, sent or received; 16 MiB, four times gRPC's, which its users meet in production.
MAX_MESSAGE = 16 * 1024 * 1024
# As a bound beside what the peer takes: none.
NO_LIMIT = 2**62
# What a message's values may take in memory, in times of its longest length. A list of floats takes 3.6 times its
# bytes, one of short strings 8, empty arrays would take 64.
MEMORY_FACTOR = 8
# Bytes of a message that is copied into the decoder's buffer; a longer one is read where it is.
FED = 4 * 1024
# A buffer that has grown beyond this many bytes is given back.
KEPT_BUFFER = 64 * 1024

# A peer that takes messages of so many bytes has room for all that `pack_plain` makes.
ROOMY = 8 * 1024
# Values whose cost is not looked at.
FEW = 16

# States.
OPEN = "open"
ENDED = "ended"
FAILED = "failed"

_NEXT = {
    (OPEN, "message"): OPEN,
    (OPEN, "end"): ENDED,
    (OPEN, "violation"): FAILED,
}

Event = list[Any]

if not cython.compiled:

    def pack_plain(kind: int, msgid: Any, first: Any, second: Any) -> bytes | None:
        """A message packed, if it is short and holds plain values. Uncompiled, all is the library's."""

    def decoded_first(scanner: Scanner) -> Any:
        """The message that the rest of the data begins with, if that is short and it is whole, plain, and may stand.

        Uncompiled, all is the library's.
        """

    def unpack_plain(data: Any, start: int, end: int, tail: Any) -> Any:
        """The message in ``data[start:end]``, which may end in the tail, if it holds plain values.

        Uncompiled, all is the library's.
        """

    def whole(value: Any) -> int:
        """The value, if it is an integer from 0 to MAX_ID, and no bool; else -1."""
        return value if type(value) is int and 0 <= value <= MAX_ID else -1

    def discard(numbers: set[int], value: int) -> bool:
        """Take the value out of the set; says whether it was in there."""
        found = value in numbers
        numbers.discard(value)
        return found


class Unmade:
    """Stands for values that the peer sent, and that can't be made here; ``error`` says why.

    ``rest`` is what could be made, with None in place of the others.
    """

    def __init__(self, error: Exception, rest: Any) -> None:
        self.error = error
        self.rest = rest

    def __repr__(self) -> str:
        return f"<Unmade: {self.error}>"


class _Broken(Exception):
    """Inside this file: what was received can't stand. The text becomes the violation's reason."""


class Wire:
    """One side of a MessagePack-RPC connection.

    ``max_message``: bytes in a message that is received; ``most_sent``, in one that is sent.

    >>> ours, theirs = Wire(), Wire()
    >>> msgid, data = ours.call("add", [1, 2])
    >>> list(theirs.feed(data))
    [[0, 1, 'add', [1, 2], 220, 10]]
    >>> list(ours.feed(theirs.reply(msgid, 3)))
    [[1, 1, None, 3, 88, 5]]
    """

    def __init__(self, max_message: int = MAX_MESSAGE, codec: Codec | None = None) -> None:
        self.codec = codec if codec is not None else Codec()
        self.state = OPEN
        self.most_sent = max_message
        self._calls: set[int] = set()
        self._serving: set[int] = set()
        self._last_id = 0
        self.packed = b""
        self._found = False  # a message that was found is still to be read
        self._scanner = Scanner(max_message, MEMORY_FACTOR * max_message)
        self._tools = _tools_of_thread()

    def limit(self, max_message: int) -> None:
        """From now on a message that is received may have so many bytes."""
        self._scanner.most = max_message
        self._scanner.most_cost = MEMORY_FACTOR * max_message

    # -- Receiving

    def take(self, data: bytes) -> None:
        """Take received bytes: `next_event` gives what they complete. Raises RuntimeError when no longer open."""
        if self.state is not OPEN:
            raise RuntimeError(f"this wire has {self.state}, and takes no more bytes")
        self._scanner.take(data)

    def next_event(self) -> Any:
        """The next event of the bytes that were taken, decoded now; None after the last. A violation is the last.

        What is done for one may say how the next is to be read. All must be asked for before more is taken.
        """
        return self._next(False)

    def next_plain(self) -> Any:
        """The next event, if it is made of plain values, which runs no code of others. None: see `has_more`."""
        if not self._found and self._scanner.is_drained():
            return None
        return self._next(True)

    def has_more(self) -> bool:
        """Whether `next_event` has something to give, after `next_plain` had nothing."""
        return self._found or self._scanner.fault is not None

    def _next(self, plain: bool) -> Any:
        if self.state is not OPEN:
            return None
        scanner = self._scanner
        message = None
        if not self._found:
            message = decoded_first(scanner)
            if message is not None:
                pass
            elif scanner.fault is None and scanner.find():
                message = unpack_plain(scanner.data, scanner.start, scanner.at, scanner.tail)
            elif scanner.fault is None or plain:
                return None
            else:
                return self._violated(scanner.fault)
        self._found = plain and message is None
        if self._found:
            return None
        try:
            return self._event(message)
        except _Broken as broken:
            return self._violated(str(broken))

    def feed(self, data: bytes) -> Iterator[Event]:
        """`take`, and then every `next_event`."""
        self.take(data)
        event = self.next_event()
        while event is not None:
            yield event
            event = self.next_event()

    def end(self) -> list[Event]:
        """The peer's bytes have ended. That is a violation in the middle of a message, else no event."""
        if self.state is not OPEN:
            return []
        if not self._scanner.is_between():
            return [self._violated("the connection ended in the middle of a message")]
        self.state = _NEXT[self.state, "end"]
        return []

    def _decode(self, data: Any, cost: int, keyed: bool) -> Any:
        """One value, whole. Leaves what the contents of its ext types may still take in ``codec.budget``."""
        codec = self.codec
        codec.budget = self._scanner.most_cost - cost
        tools = self._tools.borrow(codec)
        try:
            if keyed or len(data) > FED:
                return unpack(data, codec, keyed)
            tools.feed(data)
            return tools.unpack()
        except BaseException as error:  # of several kinds: a timestamp that is none, the contents of an ext type
            tools.renew()  # the old one may hold half a message
            if not isinstance(error, Exception):
                raise
            raise _Broken(f"no valid MessagePack: {type(error).__name__}: {error}") from None
        finally:
            tools.busy = False

    def _event(self, message: Any) -> Event:
        """The message that the scanner has found, if it may stand; None: it is not plain, and still to be decoded."""
        scanner = self._scanner
        cost = scanner.cost
        if message is None:
            message = self._decode(scanner.message(), cost, scanner.keyed)
            cost = scanner.most_cost - self.codec.budget
        if type(message) is not list or not message:
            raise _Broken(f"a message is an array with a type, not {short(message)}")
        event: Event = message
        kind = whole(event[0])
        if not 0 <= kind <= 2:
            raise _Broken(f"{short(event[0])} is no message type")
        length = 3 if kind == _NOTIFICATION else 4
        if len(event) != length:
            raise _Broken(f"a message of type {kind} has {length} elements, not {len(event)}")
        if kind == _RESPONSE:
            self._check_response(event)
        else:
            at = length - 2  # of the method
            if type(event[at]) is bytes:  # pynvim sends its first
                event[at] = event[at].decode("utf-8", "surrogateescape")
            if kind == _REQUEST:
                _check_id(event[1])
            if type(event[at]) is not str:
                raise _Broken(f"a method's name is a string, not {short(event[at])}")
            if type(event[at + 1]) is not list:
                raise _Broken(f"params are an array, not {short(event[at + 1])}")
            if kind == _REQUEST:
                served = len(self._serving)
                self._serving.add(event[1])
                if len(self._serving) == served:
                    raise _Broken(f"id {event[1]} is in use by a request that has no answer yet")
        if self.codec.problem is not None:
            problem, self.codec.problem = self.codec.problem, None
            event[length - 1] = Unmade(problem, event[length - 1])
        event.append(cost)
        event.append(scanner.at - scanner.start)
        return event

    def _check_response(self, event: Event) -> None:
        msgid = event[1]
        _check_id(msgid)
        if not discard(self._calls, msgid):
            error = event[2]
            told = f": {short(error)}" if error is not None else ""
            raise _Broken(f"an answer to id {msgid}, which was not asked{told}")

    def _violated(self, reason: str) -> Event:
        self.state = _NEXT[self.state, "violation"]
        return [VIOLATION, reason]

    # -- Sending

    def call(self, method: str, params: Any) -> tuple[int, bytes]:
        """A request: its id, which is in use until the answer is received, and its bytes.

        ``params`` is a list, or a tuple. Raises TypeError or ValueError for what MessagePack can't carry, and for
        what a peer of this kind could not read; then nothing has changed.
        """
        before = self._last_id
        msgid = self._next_id()
        self._last_id = number = msgid  # now: what is packed may have a finalizer that calls, too
        self._calls.add(msgid)
        try:
            return msgid, self._pack(REQUEST, msgid, method, params, NO_LIMIT)
        except BaseException:
            self._calls.discard(msgid)
            if self._last_id == number:
                self._last_id = before
            raise

    def call_plain(self, method: str, params: Any) -> Any:
        """`call`, where it is short and holds plain values: its id, or None. Its bytes are ``packed``."""
        if self.most_sent < ROOMY or type(method) is not str:
            return None
        msgid = self._next_id()
        data = pack_plain(REQUEST, msgid, method, params)
        if data is None:
            return None
        self._last_id = msgid
        self._calls.add(msgid)
        self.packed = data
        return msgid

    def _next_id(self) -> int:
        number = self._last_id
        while True:
            number = number + 1 if number < _LAST_ID else 1
            msgid = number
            if msgid not in self._calls:
                return msgid

    def take_back(self, msgid: int) -> None:
        """The request of this id was never sent: nobody will answer it."""
        self._calls.remove(msgid)

    def notify(self, method: str, params: Any) -> bytes:
        """A notification. Raises as `call` does."""
        return self._pack(NOTIFICATION, None, method, params, NO_LIMIT)

    def reply(self, msgid: int, result: Any, most: int = NO_LIMIT) -> bytes:
        """The answer to the peer's request of this id. Raises as `call` does; ValueError without one.

        ``most``: bytes that it may have, where that is less than may be sent anyway.
        """
        return self._answer(msgid, None, result, most)

    def refuse(self, msgid: int, error: Any) -> bytes:
        """The answer that the peer's request of this id failed. ``error`` must be true: pynvim tests that."""
        if not error:
            raise ValueError(f"an error must be true, and {error!r} is not")
        return self._answer(msgid, error, None, NO_LIMIT)

    def reopen(self, msgid: int) -> None:
        """The answer to the peer's request of this id was never sent: it waits for another."""
        self._serving.add(msgid)

    def _answer(self, msgid: int, error: Any, result: Any, most: int) -> bytes:
        if self.most_sent >= ROOMY:
            plain = pack_plain(RESPONSE, msgid, error, result)
            if plain is not None and len(plain) <= most and discard(self._serving, msgid):
                return plain
        if msgid not in self._serving:
            raise ValueError(f"id {msgid} is of no request that waits for an answer")
        data = self._pack_any(RESPONSE, msgid, error, result, most)
        self._serving.discard(msgid)
        return data

    def pack_value(self, value: Any) -> bytes:
        """A value alone. Raises as `call` does."""
        packing = Packing(self.codec)
        data: bytes = new_packer(packing).pack(value)
        if packing.fresh and self.codec.ends is not None:  # they stay here
            self.codec.ends.roll_back(packing.fresh)
        return data

    def unpack_value(self, data: bytes) -> Any:
        """A value alone, an `Unmade` if it can't be made here. Raises ValueError for what breaks a limit."""
        codec = self.codec
        scanner = measure(data, self._scanner.most, self._scanner.most_cost)
        try:
            value = self._decode(data, scanner.cost, scanner.keyed)
        except _Broken as broken:
            raise ValueError(str(broken)) from None
        if codec.problem is not None:
            problem, codec.problem = codec.problem, None
            return Unmade(problem, value)
        return value

    def _pack(self, kind: int, msgid: Any, first: Any, second: Any, most: int) -> bytes:
        """``first`` and ``second``: a method and its params; of an answer, the error and the result."""
        if kind != _RESPONSE and not isinstance(first, str):
            raise TypeError(f"a method's name is a str, not {short(first)}")
        if self.most_sent >= ROOMY:
            plain = pack_plain(kind, msgid, first, second)
            if plain is not None and len(plain) <= most:
                return plain
        return self._pack_any(kind, msgid, first, second, most)

    def _pack_any(self, kind: int, msgid: Any, first: Any, second: Any, most: int) -> bytes:
        """`_pack`, of what is not plain, or too long."""
        tools = self._tools.borrow(self.codec)
        ends: Any = self.codec.ends
        try:
            if kind == RESPONSE:
                data = self._packed(tools, [kind, msgid, first, second], (first, second), most)
            else:
                params = list(second)
                message = [kind, first, params] if kind == NOTIFICATION else [kind, msgid, first, params]
                data = self._packed(tools, message, params, most)
            if tools.fresh:
                ends.was_packed(data, tools.fresh)
            return data
        except BaseException:
            if tools.fresh:
                ends.roll_back(tools.fresh)
            raise
        finally:
            if tools.fresh:
                tools.fresh = []
            tools.busy = False

    def _packed(self, tools: _Tools, message: list[Any], values: Any, most: int) -> bytes:
        most = min(most, self.most_sent)
        try:
            data: bytes = tools.pack(message)
        except BaseException as error:
            tools.renew()  # the old one may hold half a message
            if isinstance(error, OverflowError):  # an integer of more than 64 bits
                raise ValueError(f"MessagePack can't carry this: {error}") from None
            if isinstance(error, NotPlain) or not isinstance(error, TypeError):
                raise
            raise TypeError(str(error)) from None
        if len(data) > KEPT_BUFFER:
            tools.renew()  # the old one would keep its large buffer
        if len(data) > most:
            raise ValueError(f"a message of {len(data)} bytes; {max(most, 0)} is the most")
        if len(data) > KEPT_BUFFER or not _are_plain(values):
            try:
                measure(data, self.most_sent, MEMORY_FACTOR * self.most_sent)
            except ValueError as error:  # the encoder lets pass what no peer takes, which would cost us the connection
                raise (TypeError if "key" in str(error) else ValueError)(f"no peer could read this: {error}") from None
        return data


def _are_plain(values: Any) -> bool:
    """Whether the values are few, and of types that any peer can read. The others may hold what it can't."""
    if len(values) > FEW:
        return False
    for value in values:
        kind = type(value)
        if not (kind is str or kind is int or value is None or kind is bytes or kind is bool or kind is float):
            return False
    return True


def _check_id(msgid: Any) -> None:
    if whole(msgid) < 0:
        raise _Broken(f"an id is an unsigned 32-bit integer, not {short(msgid)}")


class _Tools(Packing):
    """A thread's encoder and decoder: they are large, and idle between two calls, so all its connections share them.

    Each call is for one whole message, which is of the connection whose ``codec`` they were borrowed for.
    """

    def __init__(self) -> None:
        Packing.__init__(self, Codec())
        self.busy = False
        self.renew()

    def borrow(self, codec: Codec) -> _Tools:
        """These, for one message; others while they are busy: a finalizer, or a class's ``to``, may send or call."""
        tools = _Tools() if self.busy else self
        tools.codec = codec
        tools.busy = True
        return tools

    def renew(self) -> None:
        """Start with fresh ones."""
        unpacker = msgpack.Unpacker(
            raw=False,
            strict_map_key=False,
            unicode_errors="surrogateescape",  # Neovim's strings are str even where they are no UTF-8
            ext_hook=lambda code, data: self.codec.load(code, data),
            read_size=4096,
            max_buffer_size=0,  # what it is fed has been looked at (see `_scan`)
        )
        self.pack = new_packer(self, 4096).pack
        self.feed, self.unpack = unpacker.feed, unpacker.unpack


_thread = threading.local()


def _tools_of_thread() -> _Tools:
    tools: _Tools | None = getattr(_thread, "tools", None)
    if tools is None:
        tools = _thread.tools = _Tools()
    return tools


def short(value: Any) -> str:
    """A value for an error's text, whatever its size."""
    if isinstance(value, list | dict):
        return f"{'an array' if isinstance(value, list) else 'a map'} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 64:  # Python writes out no number of thousands of digits
        return f"an integer of {value.bit_length()} bits"
    if not isinstance(value, str | bytes | int | float | None):
        return f"a {type(value).__name__}"
    text = ascii(value[:80] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 100 else text[:97] + "..."
