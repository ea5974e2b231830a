"""`Conn`: a connection as its users see it, a channel of bytes in each direction.

Only the public face lives here. What the event loop calls, and the state, is `_stream.Stream`; a `Conn` holds
that and is held by nobody, so that dropping the last reference to it closes the connection.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from flower.channels import bomb, channel
from flower.channels._task import check_timeout
from flower.errors import ChannelClosed

if TYPE_CHECKING:
    from flower.net._stream import Stream

Data = bytes | bytearray | memoryview


class Conn:
    """A connection: a channel of bytes each way.

    `receive` gives the next chunk of bytes, however the network cut it; iteration gives all of them, and
    ``flower.select`` takes a connection as a receive case. `send` takes bytes. The seed's spelling is here
    too: `read`, which gives ``b""`` at the end of file, and `write`, which takes str as UTF-8.

    How a connection ends, as a reader sees it:

    ==================  ========================  ========================
    what happened       ``receive``, ``select``   ``read``
    ==================  ========================  ========================
    the peer closed     ``ChannelClosed``         ``b""``
    the peer reset it   ``ConnectionResetError``  ``ConnectionResetError``
    it was closed here  ``ChannelClosed``         ``ChannelClosed``
    ==================  ========================  ========================

    Memory is bounded both ways: reading stops while 256 KiB wait to be received, and `send` waits while
    more than 64 KiB wait to be sent. A connection belongs to the thread that made it: others may receive
    from it and close it, and `send` raises RuntimeError there. One that is dropped without `close` before
    its end of file gives a ResourceWarning, and is closed.

    >>> conn = Dial("tcp", ("127.0.0.1", 8000))
    >>> conn.write("hello")
    >>> conn.read()
    b'hello'
    >>> conn.close()
    """

    __slots__ = ("__weakref__", "_incoming", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._incoming: channel[bytes] = stream.incoming

    @property
    def _receive_channel(self) -> channel[bytes]:
        """What `flower.select` receives from, asked for at each select."""
        return look(self._incoming, self._reading_end)

    # -- Receiving

    def receive(self, timeout: float | None = None) -> bytes:
        """The next chunk of bytes, never empty.

        Blocks while nothing has arrived. When it is cancelled or times out, no byte is lost.

        Raises ChannelClosed at the end of file, and when the connection was closed here (blocked receivers
        get it too); ConnectionResetError and other OSErrors when the connection broke, after what arrived
        before that; Timeout after ``timeout`` seconds.
        """
        try:
            incoming = self._incoming if timeout is None else self._receive_channel
            data: bytes = incoming.receive(timeout)
        except ChannelClosed:
            raise self._reading_end() from None
        return data

    def read(self, *, timeout: float | None = None) -> bytes:
        """Like `receive`, but gives ``b""`` at the end of file, however often it is called."""
        try:
            incoming = self._incoming if timeout is None else self._receive_channel
            data: bytes = incoming.receive(timeout)
        except ChannelClosed:
            end = self._reading_end()
            if isinstance(end, ChannelClosed) and not self._stream.shut:
                return b""
            raise end from None
        return data

    def __iter__(self) -> Iterator[bytes]:
        """Chunk after chunk, until the end of file or until the connection is closed here."""
        while True:
            try:
                chunk = self.receive()
            except ChannelClosed:
                return
            yield chunk

    def _reading_end(self) -> BaseException:
        fault = self._stream.reading_fault()
        if fault is not None:
            return fault
        why = "was closed here" if self._stream.shut else "has ended: the peer closed it"
        return ChannelClosed(f"{self._stream.describe()} {why}", self)

    # -- Sending

    def send(self, data: Data, timeout: float | None = None) -> None:
        """Send bytes.

        Blocks while more than 64 KiB of earlier data wait to be sent; then takes all of the data at once.
        When it is cancelled or times out, no byte was taken. The bytes leave when the tasklet next waits.

        Raises ChannelClosed when the connection was closed here; ConnectionResetError, BrokenPipeError or
        another OSError when it broke; Timeout; TypeError for anything but bytes.
        """
        if type(data) is not bytes:
            data = _as_bytes(data)
        if timeout is not None:
            timeout = check_timeout(timeout)
        try:
            self._stream.write(data, timeout)
        except ChannelClosed as error:
            error.channel = self
            raise

    def write(self, data: Data | str, *, timeout: float | None = None) -> None:
        """Like `send`; a str is sent as UTF-8."""
        self.send(data.encode() if isinstance(data, str) else data, timeout)

    def writelines(self, lines: Iterable[Data | str], *, timeout: float | None = None) -> None:
        """`write` the pieces, all at once."""
        pieces = [line.encode() if isinstance(line, str) else _as_bytes(line) for line in lines]
        self.send(b"".join(pieces), timeout)

    # -- The rest

    def close(self) -> None:
        """Close the connection; never blocks.

        What was written still leaves, in the background, for 30 s at most; `flower.run` waits for that. What
        was received and not taken is dropped. Blocked receivers and senders, and all later ones, get
        ChannelClosed. Closing twice is allowed.
        """
        self._stream.poller.call_here(self._stream.close)

    def abort(self) -> None:
        """Cut the connection; never blocks. As `close`, but what was written and has not left is dropped.

        The peer gets a reset, so that it does not take what it has for the whole.
        """
        self._stream.poller.call_here(self._stream.abort)

    @property
    def status(self) -> str:
        """``"open"``; ``"writeonly"`` after the peer's end of file; ``"closed"``."""
        return self._stream.status()

    def local_addr(self) -> Any:
        """The address of this end: for tcp ``(host, port)``, for IPv6 two items more."""
        return self._stream.local

    def remote_addr(self) -> Any:
        """The address of the other end; None if it was gone before it could be asked."""
        return self._stream.remote

    local_address = local_addr
    remote_address = remote_addr

    def __enter__(self) -> Conn:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Conn {self._stream.describe()}, {self._stream.status()}>"

    def __del__(self) -> None:
        try:
            stream = self._stream
        except AttributeError:  # __init__ failed
            return
        if stream.ended:
            return
        stream.poller.call_here(stream.close)
        if not stream.at_eof:
            warnings.warn(
                f"{stream.describe()} was dropped, and not closed", ResourceWarning, stacklevel=2, source=self
            )


def look(incoming: channel[Any], end: Callable[[], BaseException]) -> channel[Any]:
    """Somebody looks into the channel of a connection or listener, perhaps without waiting; gives what he is to see.

    Where nothing is left of what it held while its source was paused, the source goes on. Where it has ended,
    he sees the reason, as often as he looks.
    """
    if len(incoming) == 0:
        if incoming._on_wait is not None:
            incoming._on_wait()
        if incoming.closed:
            last: channel[Any] = channel(1)
            last.try_send(bomb(end()))
            return last
    return incoming


def _as_bytes(data: Any) -> bytes:
    """A copy, since the caller may change its buffer before the bytes have left."""
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"a connection takes bytes, not {type(data).__name__}")
