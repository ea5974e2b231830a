"""`framed`: a channel of messages over a connection, which is a channel of bytes.

A tasklet, the *pump*, reads the connection and lets the codec make messages of it; each is handed over in a rendezvous,
so that the pump reads on when the last message of a chunk is taken. What is held for a peer is therefore one chunk,
one message, and what the connection itself holds.

The send cases of a select have a tasklet too, from the first of them on, the *writer*. It waits for room in the
connection before it waits for a message, so that one message at most is taken for which there is no room any more.

Both know the connection, the codec and the `_Inner`, and not the `Framed`: when the last user lets go of that, they are
cancelled, and the connection is as before.

(Rejected: to decode where the event loop delivers bytes. It would save the pump, and would run users' code, a whole
chunk at a time, where nothing may wait, raise, or take long.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from flower.channels import bomb, channel, getcurrent, move_on, tasklet
from flower.channels._delivery import report
from flower.channels._failures import copy_error, is_foreign, note
from flower.channels._scheduler import current_scheduler
from flower.errors import ChannelClosed, ProtocolError, TaskletExit
from flower.net._address import format_address
from flower.net._codecs import Codec
from flower.net._conn import Conn
from flower.net._loop import LoopPoller
from flower.net._source import Source
from flower.net._stream import as_bytes

T = TypeVar("T")


class ByteChannel(Protocol):
    """What can be framed: a `Conn`, or what behaves like one."""

    def read(self) -> bytes: ...

    def send(self, data: bytes, timeout: float | None = None) -> None: ...

    def close_write(self) -> None: ...

    def close(self) -> None: ...


def framed(conn: ByteChannel, codec: Codec[T]) -> Framed[T]:
    """A channel of messages over a connection.

    ``codec`` says how messages lie in the bytes: `Lines`, `LengthPrefixed`, `MessagePack`, or a `Codec` of your own.
    From here on nobody else may receive from the connection. Does not block.

    Raises TypeError for what is no connection, or no codec, such as the class where an instance is needed.

    >>> chat = framed(Dial("tcp", ("127.0.0.1", 8000)), Lines())
    >>> chat.send("hello")
    >>> for line in chat:
    ...     print(line)
    """
    if isinstance(codec, type) or not (hasattr(codec, "encode") and hasattr(codec, "decode")):
        raise TypeError(f"a codec has the methods encode and decode, and {codec!r} is none")
    if not (hasattr(conn, "read") and hasattr(conn, "send")):
        raise TypeError(f"a connection has the methods read and send, and {conn!r} is none")
    return Framed(conn, codec)


class Framed(Source, Generic[T]):
    """A channel of messages over a connection; `framed` makes it.

    `receive`, iteration and ``flower.select`` give messages, `send` takes them, and so does a select's case
    ``(framed, message)``; a message there that the codec refuses is dropped, and the refusal handed to the error
    handler, as nobody is left to raise it at. It ends as its connection does:
    ``ChannelClosed`` after the peer's end of file and when it is closed here, an OSError when the connection broke.
    Bytes that the codec refuses, or a message that is too long, raise ProtocolError, with the peer's address in its
    text: at each receiver, after the messages before that. Sending is still possible then, to tell the peer.

    What a peer can make us hold is bounded: the longest message, one chunk, and what the connection holds. ``with``
    closes it, and its connection, which is ``conn``; one that is dropped stops reading, and leaves that open.
    """

    __slots__ = ("__weakref__", "_codec", "_inner", "conn")

    def __init__(self, conn: ByteChannel, codec: Codec[T]) -> None:
        self.conn = conn
        self._codec = codec
        self._inner = _Inner(conn)
        tasklet(_pump, label=f"reads {conn!r}", daemon=True)(conn, codec, self._inner, _Unbegun(self._inner))

    # -- Receiving

    @property
    def _receive_channel(self) -> channel[T]:
        """What `flower.select` receives from, asked for at each select."""
        messages = self._inner.messages
        if not messages.closed:
            return messages
        last: channel[T] = channel(1)
        last.try_send(bomb(self._inner.end(self)))
        return last

    def receive(self, timeout: float | None = None) -> T:
        """The next message.

        Blocks while none is complete. When it is cancelled or times out, no message is lost.

        Raises ChannelClosed after the peer's end of file, and when it was closed here (blocked receivers get it too);
        ProtocolError for bytes that the codec refuses; ConnectionResetError and other OSErrors when the connection
        broke; Timeout after ``timeout`` seconds.
        """
        try:
            messages = self._inner.messages
            message: T = messages.receive() if timeout is None else self._within(messages, timeout)
        except ChannelClosed as error:
            if is_foreign(error):
                raise
            raise self._inner.end(self) from None
        return message

    # -- Sending

    def send(self, message: T, timeout: float | None = None) -> None:
        """Send a message.

        Blocks as ``conn.send`` does, while the peer is slow. When it is cancelled or times out, nothing was sent.

        Raises what the codec raises for what it can't carry (TypeError, ValueError), with nothing sent; what
        ``conn.send`` raises; Timeout after ``timeout`` seconds.
        """
        self.conn.send(self._codec.encode(message), timeout)

    @property
    def _send_channel(self) -> channel[T]:
        """What a `flower.select` sends to, asked for at each select."""
        inner = self._inner
        if isinstance(self.conn, Conn):
            self.conn._stream._check_thread("send")
        if inner.outbox is None:
            inner.outbox = channel(0, label=f"messages for {self.conn!r}")
            inner.outbox._external = True
            if isinstance(inner.fault, ChannelClosed | OSError):
                inner.outbox.close()
            else:
                tasklet(_writer, label=f"writes {self.conn!r}", daemon=True)(self.conn, self._codec, inner)
        return inner.outbox

    def close_write(self) -> None:
        """Say that no more will be sent: the peer reads to the end of file. Receiving goes on. Never blocks.

        Blocked senders, and all later ones, get ChannelClosed. Raises as `send` where the connection is gone.
        """
        self.conn.close_write()
        self._inner.end_writing()

    # -- The end

    def close(self) -> None:
        """Close the connection; never blocks. What was sent still leaves; what was not received is dropped."""
        self._inner.close()
        self.conn.close()

    def __repr__(self) -> str:
        return f"<Framed {type(self._codec).__name__} over {self.conn!r}>"

    def __del__(self) -> None:
        inner = getattr(self, "_inner", None)
        if inner is not None:
            inner.pumping.cancel()
            inner.writing.cancel()


class _Inner:
    """Where the pump puts messages, and why no more will come; and where the writer gets them."""

    __slots__ = ("broken", "conn", "ended", "fault", "messages", "outbox", "poller", "pumping", "writing")

    def __init__(self, conn: ByteChannel) -> None:
        self.conn = conn
        self.poller = current_scheduler().poller  # the pump's, which ends with it
        self.messages: channel[Any] = channel(0, label=f"messages of {conn!r}")
        self.messages._external = True
        self.outbox: channel[Any] | None = None  # made for the first select that sends
        self.pumping = move_on()
        self.writing = move_on()
        self.fault: Exception | None = None
        self.broken = False  # the fault is the connection's own
        self.ended = False  # the peer's end of file was read
        if isinstance(self.poller, LoopPoller):
            self.poller.resources.add(self)

    def settle(self, fault: Exception | None, broken: bool, ended: bool) -> None:
        """The pump has ended. A ChannelClosed was raised by the connection that was closed here, or by ``messages``."""
        if isinstance(self.poller, LoopPoller):
            self.poller.resources.discard(self)
        if self.fault is None:
            self.fault, self.broken, self.ended = fault, broken, ended
        if self.broken:
            self.end_writing()  # first: who is told that the connection broke may run at once, and send
        try:
            if self.fault is not None and not isinstance(self.fault, ChannelClosed):
                while self.messages.balance < 0:
                    self.messages.try_send(bomb(self.end(None)))
        finally:
            self.messages.close()

    def close(self) -> None:
        self.fault = ChannelClosed(f"{_name(self.conn)} was closed here")
        self.messages.receiver.close()
        self.end_writing()

    def end_writing(self) -> None:
        """No more can be sent."""
        self.writing.cancel()
        if self.outbox is not None:
            self.outbox.receiver.close(f"{_name(self.conn)} takes no more")

    def finish(self, late: bool) -> bool:
        """The thread is about to end, and the pump with it, though it may not have begun."""
        self.settle(_thread_ended(self.conn), True, False)
        return False

    def disown(self) -> Any:
        """In a forked child: the pump goes on in the parent; here it is over."""
        text = f"{_name(self.conn)} belongs to the parent process, since a fork"
        self.fault, self.broken = ConnectionAbortedError(text), True
        self.messages.close()
        if self.outbox is not None:
            self.outbox.close()
        return None

    def end(self, framed: Framed[Any] | None) -> BaseException:
        """What a receiver gets: a new exception each time, so that each has its own traceback."""
        fault = self.fault
        if fault is None:
            why = "has ended: the peer closed it" if self.ended else "is not read any more: the codec has ended"
            return ChannelClosed(f"{_name(self.conn)} {why}", framed)
        if isinstance(fault, ChannelClosed):
            return ChannelClosed(str(fault), framed)
        error: BaseException
        if self.broken:
            error = copy_error(fault)
        else:
            error = ProtocolError(f"{_name(self.conn)}: {fault}")
            error.__cause__ = fault
        with suppress(Exception):  # a byte channel's own error may be frozen
            error._flower_conn = True  # type: ignore[attr-defined]  # uncaught, it ends no program
        return error


class _Unbegun:
    """Tells those who receive where the pump will never begin: a thread without an event loop has ended before that."""

    __slots__ = ("inner",)

    def __init__(self, inner: _Inner) -> None:
        self.inner: _Inner | None = inner

    def __del__(self) -> None:
        if self.inner is not None and not self.inner.messages.closing:
            self.inner.settle(_thread_ended(self.inner.conn), True, False)


def _pump(conn: ByteChannel, codec: Codec[Any], inner: _Inner, unbegun: _Unbegun) -> None:
    unbegun.inner = None
    fault: Exception | None = None
    chunks = _Chunks(conn)
    try:
        with inner.pumping:
            for message in codec.decode(chunks):
                inner.messages.send(message)
                del message  # while the next is waited for
    except Exception as error:  # without this frame, which would make a cycle of it and `inner`
        fault = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
    except TaskletExit:  # of a thread without an event loop
        fault, chunks.broken = _thread_ended(conn), True
        raise
    finally:
        inner.settle(fault, chunks.broken, chunks.ended)
        del inner, fault  # from Python 3.13 on, the traceback's frames hold this one


class _Chunks:
    """What comes from the connection, until its end of file. A traceback may hold it, so it does not know the rest."""

    __slots__ = ("_conn", "broken", "ended")

    def __init__(self, conn: ByteChannel) -> None:
        self._conn = conn
        self.broken = self.ended = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            chunk = self._conn.read()
        except Exception:
            self.broken = True
            raise
        if not chunk:
            self.ended = True
            raise StopIteration
        return chunk


def _writer(conn: ByteChannel, codec: Codec[Any], inner: _Inner) -> None:
    assert inner.outbox is not None
    try:
        with inner.writing:
            while True:
                conn.send(b"")  # waits for room
                message = inner.outbox.receive()
                try:
                    data = as_bytes(codec.encode(message))
                except Exception as error:
                    _say_dropped(error, message)
                    report(current_scheduler(), error, getcurrent())
                else:  # it counts as sent: others may have filled the room meanwhile, and a close is not to lose it
                    if not (isinstance(conn, Conn) and conn._stream.offer(data, urgent=True)):
                        conn.send(data)
                del message
    except (OSError, ChannelClosed):  # whoever receives, or sends, is told
        pass
    finally:
        inner.end_writing()


def _say_dropped(error: Exception, message: Any) -> None:
    note(error, lambda: f"This message was sent by a select, and is dropped: {message!r:.100}")


def _thread_ended(conn: ByteChannel) -> ConnectionAbortedError:
    return ConnectionAbortedError(f"{_name(conn)}: the thread that reads it has ended")


def _name(conn: ByteChannel) -> str:
    """The peer's address, where there is one."""
    address = conn.remote_addr() if isinstance(conn, Conn) else None
    return format_address(address) if address else repr(conn)
