"""`framed`: a channel of messages over a connection, which is a channel of bytes.

A tasklet, the *pump*, reads the connection and lets the codec make messages of it; each is handed over in a rendezvous,
so that the pump reads on when the last message of a chunk is taken. What is held for a peer is therefore one chunk,
one message, and what the connection itself holds.

The pump knows the connection, the codec and the `_Inbox`, and not the `Framed`: when the last user lets go of that,
the pump is cancelled, and the connection is as before.

(Rejected: to decode where the event loop delivers bytes. It would save the pump, and would run users' code, a whole
chunk at a time, where nothing may wait, raise, or take long.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

from flower.channels import bomb, channel, move_on, tasklet
from flower.errors import ChannelClosed, ProtocolError
from flower.net._address import format_address
from flower.net._codecs import Codec
from flower.net._conn import Conn

T = TypeVar("T")


class ByteChannel(Protocol):
    """What can be framed: a `Conn`, or what behaves like one."""

    def read(self) -> bytes: ...

    def send(self, data: bytes, timeout: float | None = None) -> None: ...

    def close(self) -> None: ...


def framed(conn: ByteChannel, codec: Codec[T]) -> Framed[T]:
    """A channel of messages over a connection.

    ``codec`` says how messages lie in the bytes: `Lines`, `LengthPrefixed`, `MessagePack`, or a `Codec` of your own.
    From here on nobody else may receive from the connection. Does not block.

    Raises TypeError for what is no codec, such as the class where an instance is needed.

    >>> chat = framed(Dial("tcp", ("127.0.0.1", 8000)), Lines())
    >>> chat.send("hello")
    >>> for line in chat:
    ...     print(line)
    """
    if isinstance(codec, type) or not (hasattr(codec, "encode") and hasattr(codec, "decode")):
        raise TypeError(f"a codec has the methods encode and decode, and {codec!r} is none")
    return Framed(conn, codec)


class Framed(Generic[T]):
    """A channel of messages over a connection; `framed` makes it.

    `receive`, iteration and ``flower.select`` give messages, `send` takes them. It ends as its connection does:
    ``ChannelClosed`` after the peer's end of file and when it is closed here, an OSError when the connection broke.
    Bytes that the codec refuses, or a message that is too long, raise ProtocolError, with the peer's address in its
    text: at each receiver, after the messages before that. Sending is still possible then, to tell the peer.

    What a peer can make us hold is bounded: the longest message, one chunk, and what the connection holds. One that
    is dropped stops reading, and leaves its connection, which is ``conn``, open.
    """

    __slots__ = ("__weakref__", "_codec", "_inbox", "conn")

    def __init__(self, conn: ByteChannel, codec: Codec[T]) -> None:
        self.conn = conn
        self._codec = codec
        self._inbox = _Inbox(conn)
        tasklet(_pump, label=f"reads {conn!r}", daemon=True)(conn, codec, self._inbox)

    # -- Receiving

    @property
    def _receive_channel(self) -> channel[T]:
        """What `flower.select` receives from, asked for at each select."""
        messages = self._inbox.messages
        if not messages.closed:
            return messages
        last: channel[T] = channel(1)
        last.try_send(bomb(self._inbox.end(self)))
        return last

    def receive(self, timeout: float | None = None) -> T:
        """The next message.

        Blocks while none is complete. When it is cancelled or times out, no message is lost.

        Raises ChannelClosed after the peer's end of file, and when it was closed here (blocked receivers get it too);
        ProtocolError for bytes that the codec refuses; ConnectionResetError and other OSErrors when the connection
        broke; Timeout after ``timeout`` seconds.
        """
        try:
            message: T = self._inbox.messages.receive(timeout)
        except ChannelClosed:
            raise self._inbox.end(self) from None
        return message

    def __iter__(self) -> Iterator[T]:
        """Message after message, until the end of file or until it is closed here."""
        return self

    def __next__(self) -> T:
        try:
            return self.receive()
        except ChannelClosed:
            raise StopIteration from None

    # -- Sending

    def send(self, message: T, timeout: float | None = None) -> None:
        """Send a message.

        Blocks as ``conn.send`` does, while the peer is slow. When it is cancelled or times out, nothing was sent.

        Raises what the codec raises for what it can't carry (TypeError, ValueError), with nothing sent; what
        ``conn.send`` raises; Timeout after ``timeout`` seconds.
        """
        self.conn.send(self._codec.encode(message), timeout)

    # -- The end

    def close(self) -> None:
        """Close the connection; never blocks. What was sent still leaves; what was not received is dropped."""
        self._inbox.close(self)
        self.conn.close()

    def __enter__(self) -> Framed[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Framed {type(self._codec).__name__} over {self.conn!r}>"

    def __del__(self) -> None:
        inbox = getattr(self, "_inbox", None)
        if inbox is not None:
            inbox.scope.cancel()


class _Inbox:
    """Where the pump puts messages, and why no more will come."""

    __slots__ = ("conn", "fault", "messages", "scope")

    def __init__(self, conn: ByteChannel) -> None:
        self.conn = conn
        self.messages: channel[Any] = channel(0, label=f"messages of {conn!r}")
        self.messages._external = True
        self.scope = move_on()
        self.fault: Exception | None = None

    def finish(self, fault: Exception | None) -> None:
        """The pump has ended. A ChannelClosed was raised by the connection that was closed here, or by ``messages``."""
        if self.fault is None:
            self.fault = fault
        if self.fault is not None and not isinstance(self.fault, ChannelClosed):
            while self.messages.balance < 0:
                self.messages.try_send(bomb(self.end(None)))
        self.messages.close()

    def close(self, framed: Framed[Any]) -> None:
        self.fault = ChannelClosed(f"{_name(self.conn)} was closed here", framed)
        self.messages.receiver.close()

    def end(self, framed: Framed[Any] | None) -> Exception:
        """What a receiver gets: a new exception each time, so that each has its own traceback."""
        fault = self.fault
        if fault is None:
            return ChannelClosed(f"{_name(self.conn)} has ended: the peer closed it", framed)
        if isinstance(fault, ChannelClosed):
            return ChannelClosed(str(fault), framed)
        if isinstance(fault, OSError):
            error: OSError = type(fault)(*fault.args)
        else:
            error = ProtocolError(f"{_name(self.conn)}: {fault}")
            error.__cause__ = fault
        error._flower_conn = True  # type: ignore[attr-defined]  # uncaught, it ends no program
        return error


def _pump(conn: ByteChannel, codec: Codec[Any], inbox: _Inbox) -> None:
    fault: Exception | None = None
    try:
        with inbox.scope:
            for message in codec.decode(_chunks(conn)):
                inbox.messages.send(message)
                del message  # while the next is waited for
    except Exception as error:  # without this frame, which would make a cycle of it and the inbox
        fault = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
    finally:
        inbox.finish(fault)


def _chunks(conn: ByteChannel) -> Iterator[bytes]:
    while chunk := conn.read():
        yield chunk
        del chunk


def _name(conn: ByteChannel) -> str:
    """The peer's address, where there is one."""
    address = conn.remote_addr() if isinstance(conn, Conn) else None
    return format_address(address) if address else repr(conn)
