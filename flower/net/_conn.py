"""`Conn`: a connection as its users see it, a channel of bytes in each direction.

Only the public face lives here. What the event loop calls, and the state, is `_stream.Stream`; a `Conn` holds
that and is held by nobody, so that dropping the last reference to it closes the connection.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from flower.channels import bomb, channel
from flower.channels import timeout as time_limit
from flower.channels._failures import is_foreign
from flower.channels._task import check_timeout
from flower.errors import ChannelClosed, IncompleteRead, Timeout, TooLong
from flower.net._loop import io_poller, wait
from flower.net._opening import start_tls
from flower.net._secure import secure
from flower.net._source import Source
from flower.net._stream import _ours, as_bytes
from flower.net._tls import HANDSHAKE_TIMEOUT

if TYPE_CHECKING:
    from flower.net._stream import Stream

Data = bytes | bytearray | memoryview
Path = str | os.PathLike[str]

MAX_PAUSE = 32_767  # seconds: what Linux takes for each of `Conn.keep_alive`'s
MAX_PROBES = 127  # and how many questions without an answer
LONGEST_LINE = 64 * 1024  # bytes: what `Conn.read_until` takes unless it is told otherwise; asyncio's own limit


class Conn(Source):
    """A connection: a channel of bytes each way.

    `receive` gives the next chunk of bytes, however the network cut it; iteration gives all of them, and
    ``flower.select`` takes a connection as a receive case. `send` takes bytes, and so does a select's case
    ``(conn, data)``, which can happen when `send` would not block. `read` and `write` are
    the same, but `read` gives ``b""`` at the end of file, and `write` takes str, too, as UTF-8. `read_exactly` and
    `read_until` cut the bytes where a protocol wants them cut.

    How a connection ends, as a reader sees it:

    ===================  ==========================  ==========================
    what happened        ``receive``, ``select``     ``read``
    ===================  ==========================  ==========================
    the peer closed      ``ChannelClosed``           ``b""``
    the peer reset it    ``ConnectionResetError``    ``ConnectionResetError``
    TLS: cut by someone  ``ConnectionAbortedError``  ``ConnectionAbortedError``
    it was closed here   ``ChannelClosed``           ``ChannelClosed``
    it was aborted here  ``ConnectionAbortedError``  ``ConnectionAbortedError``
    its thread ended     ``ConnectionAbortedError``  ``ConnectionAbortedError``
    ===================  ==========================  ==========================

    Memory is bounded both ways: reading stops while 256 KiB wait to be received, and `send` waits while
    more than 64 KiB wait to be sent (``read_buffer`` and ``write_buffer`` of `Listen` and `Dial`). A connection
    belongs to the thread that made it: others may receive from it and close it, and `send` raises RuntimeError
    there. One that is dropped without `close` before its end of file gives a ResourceWarning, and is closed.

    >>> conn = Dial("tcp", ("127.0.0.1", 8000))
    >>> conn.write("hello")
    >>> conn.read()
    b'hello'
    >>> conn.close()
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._incoming: channel[bytes] = stream.incoming
        # What was looked at and not taken. It comes before what is in `_incoming`, and is a bytearray, or a channel
        # with one piece in it that a select may take. While it is there, nobody waits in `_incoming` but its reader.
        self._front: bytearray | channel[bytes] | None = None
        self._reading = False  # a tasklet is in `_gather`, and has the reading for itself
        self._left = False  # it was closed or aborted, perhaps in another thread, and its own has yet to do so

    @property
    def _receive_channel(self) -> channel[bytes]:
        """What `flower.select` receives from, asked for at each select."""
        if self._front is not None:
            front: channel[bytes] = channel(1)
            data = self._take_front()
            if data:
                front.try_send(bytes(data))
                self._front = front
                return front
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
            if timeout is None and self._front is None:
                data: bytes = self._incoming._obtain(None)
            else:
                data = self._within(self._receive_channel, timeout)
        except ChannelClosed as error:
            if is_foreign(error):
                raise
            raise self._reading_end() from None
        return data

    def read(self, size: int | None = None, *, timeout: float | None = None) -> bytes:
        """Like `receive`, but gives ``b""`` at the end of file, however often it is called.

        With ``size``, at most so many bytes: what is left of the chunk is for the next reader. Raises
        ValueError for a negative size; RuntimeError as `read_exactly`.
        """
        try:
            if size is not None:
                return self._read_some(_check_size(size), timeout)
            if timeout is None and self._front is None:
                data: bytes = self._incoming._obtain(None)
            else:
                data = self._within(self._receive_channel, timeout)
        except ChannelClosed as error:
            if is_foreign(error):
                raise
            end = self._reading_end()
            if isinstance(end, ChannelClosed) and not self._stream.shut:
                return b""
            raise end from None
        return data

    def read_exactly(self, size: int, *, timeout: float | None = None) -> bytes:
        """``size`` bytes, however the network cut them.

        Blocks until they are all there. Cancelled, timed out, or failed, it has consumed nothing: what did arrive is
        there for the next reader. So many bytes are held, whatever the connection's own bound.

        Raises ChannelClosed when the connection ended before the first of them, IncompleteRead when it ended
        after that; OSErrors as `receive`; Timeout; ValueError for a negative size; RuntimeError when another
        tasklet is reading: bytes that belong together must not go to two.
        """
        size = _check_size(size)
        if size == 0:
            return b""
        return self._gather(lambda buffer, _seen: size if len(buffer) >= size else 0, timeout)

    def read_until(self, separator: bytes = b"\n", *, limit: int = LONGEST_LINE, timeout: float | None = None) -> bytes:
        """The bytes up to the separator, which is the end of them.

        Blocks until the separator has come. Otherwise as `read_exactly`; and raises TooLong, consuming nothing,
        where the separator is not among the first ``limit`` bytes, itself included.

        >>> conn.read_until(b"\\r\\n", limit=1024)
        b'GET / HTTP/1.1\\r\\n'
        """
        separator = as_bytes(separator)
        if not separator:
            raise ValueError("read_until() needs a separator, not an empty one")
        if _check_size(limit) < len(separator):
            raise ValueError(f"a limit of {limit} bytes has no room for the separator {separator!r}")

        def find(buffer: bytearray, seen: int) -> int:
            at = buffer.find(separator, max(0, seen - len(separator) + 1), limit)
            if at < 0 and len(buffer) >= limit:
                raise _ours(
                    TooLong(
                        errno.EMSGSIZE, f"{self._stream.describe()}: no {separator!r} among the first {limit} bytes"
                    )
                )
            return 0 if at < 0 else at + len(separator)

        return self._gather(find, timeout)

    def _take_front(self) -> bytearray:
        """Everything that was looked at and not taken. Raises RuntimeError while a tasklet reads it."""
        if self._reading:
            raise RuntimeError(f"{self._stream.describe()}: another tasklet is in the middle of reading")
        front, self._front = self._front, None
        if front is None or self._stream.shut:  # dropped, as what waits in the channel is
            return bytearray()
        if isinstance(front, channel):
            return bytearray(front.try_receive(b""))  # a select has taken it, perhaps
        return front

    def _cut(self, buffer: bytearray, size: int) -> bytes:
        """So much of what was looked at; the rest is for the next reader, and is not copied."""
        with memoryview(buffer) as view:
            taken = bytes(view[:size])
        del buffer[:size]
        self._front = buffer or None
        return taken

    def _read_some(self, size: int, timeout: float | None) -> bytes:
        self._refuse_company()
        front = self._take_front()
        if not front:
            if size == 0:
                return b""
            source = self._receive_channel
            self._reading = True
            self._front = bytearray()  # so that everybody looks, and nobody waits for what comes after the rest
            try:
                data: bytes = self._within(source, timeout)
            finally:
                self._reading = False
                self._front = None
            if len(data) <= size:
                return data
            front = bytearray(data)
        return self._cut(front, size)

    def _gather(self, find: Callable[[bytearray, int], int], timeout: float | None) -> bytes:
        """Read until ``find(buffer, seen)`` says how many bytes to take; ``seen`` were there at its last call."""
        if timeout is not None:
            try:
                with time_limit(timeout) as scope:
                    return self._gather(find, None)
            except Timeout:
                if not scope.expired:
                    raise
                raise Timeout(f"{self._stream.describe()}: what was to be read did not come in {timeout} s") from None
        self._refuse_company()
        self._front = buffer = self._take_front()
        self._reading = True
        seen = 0
        try:
            while not (end := find(buffer, seen)):
                seen = len(buffer)
                look(self._incoming, self._reading_end)  # where reading was paused, it goes on
                buffer += self._incoming.receive()
        except ChannelClosed as error:
            if is_foreign(error):
                raise
            why = self._reading_end()
            if buffer and isinstance(why, ChannelClosed) and not self._stream.shut:
                text = f"{self._stream.describe()}: ended after {len(buffer)} bytes of what was to come"
                why = _ours(IncompleteRead(text))
            raise why from None
        finally:
            self._reading = False
            if not buffer:
                self._front = None
        return self._cut(buffer, end)

    def _refuse_company(self) -> None:
        if self._incoming.balance < 0:
            raise RuntimeError(f"{self._stream.describe()}: another tasklet is waiting to read")

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
        When it is cancelled or times out, no byte was taken. The bytes leave at once, or, with more that is sent in the
        same turn, at its end, before the main tasklet goes on; or when the kernel has room: see `flush`.

        Raises ChannelClosed when the connection was closed here, by `close_write` too; ConnectionResetError,
        BrokenPipeError or another OSError when it broke; Timeout; TypeError for anything but bytes; RuntimeError
        in another thread.
        """
        if type(data) is not bytes:
            data = as_bytes(data)
        if timeout is not None:
            timeout = check_timeout(timeout)
        try:
            self._stream.send(data, timeout)
        except ChannelClosed as error:
            self._claim(error)
            raise

    def _claim(self, error: ChannelClosed) -> None:
        """To users it is of the connection, and not of its parts."""
        if not is_foreign(error):
            error.channel = self

    @property
    def _send_channel(self) -> channel[Data]:
        """What `flower.select` sends to, asked for at each select."""
        return self._stream.open_outbox()

    def write(self, data: Data | str, *, timeout: float | None = None) -> None:
        """Like `send`; a str is sent as UTF-8."""
        self.send(data.encode() if isinstance(data, str) else data, timeout)

    def writelines(self, lines: Iterable[Data | str], *, timeout: float | None = None) -> None:
        """`write` the pieces, all at once."""
        pieces = [line.encode() if isinstance(line, str) else as_bytes(line) for line in lines]
        self.send(b"".join(pieces), timeout)

    def flush(self, *, timeout: float | None = None) -> None:
        """Wait until all that was written is with the kernel; which is not yet with the peer.

        When it is cancelled or times out, the bytes leave nevertheless. Raises as `send`.
        """
        if timeout is not None:
            timeout = check_timeout(timeout)
        try:
            self._stream.flush(timeout)
        except ChannelClosed as error:
            self._claim(error)
            raise

    def close_write(self) -> None:
        """Say that no more will be sent: the peer reads to the end of file. Reading goes on. Never blocks.

        Blocked senders, and all later ones, get ChannelClosed. To call it twice is allowed; it raises as `send`
        where the connection is gone, and in another thread.
        """
        try:
            self._stream.close_write()
        except ChannelClosed as error:
            self._claim(error)
            raise

    # -- TLS

    def start_tls(
        self,
        *,
        server_side: bool = False,
        server_name: str | None = None,
        context: ssl.SSLContext | None = None,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        alpn: Sequence[str] = (),
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
    ) -> None:
        """Go on in TLS, in the middle of a connection, as SMTP's and IMAP's STARTTLS do.

        Blocks until the handshake is done. As the client it takes ``server_name``, the name that the server's
        certificate must be for; with ``server_side`` it is the server, and needs ``cert``. The other options are
        those of `Dial` and `Listen` for "tls". What has arrived and was not received yet is taken for TLS, so
        that nobody can slip in plain text before it; who sends meanwhile waits, and sends in TLS. When it is cancelled,
        times out or fails, the connection is cut: it is neither plain any more nor safe.

        Raises ssl.SSLError, of which ssl.SSLCertVerificationError is a kind; Timeout; ConnectionError;
        ChannelClosed when the connection was closed here; ValueError and TypeError for options that can't be;
        RuntimeError where TLS is on already, or another tasklet is reading.
        """
        start = secure(context, server_side, server_name, ca, cert, key, alpn, handshake_timeout)
        self._refuse_company()
        stream = self._stream
        try:
            stream.refuse_tls()
            io_poller()  # which may refuse
            early = bytes(self._take_front())
            stream.shake_hands(True)
            try:
                wait(start_tls(stream, start, early))
            except BaseException:
                stream.give_up_tls()
                raise
        except ChannelClosed as error:
            self._claim(error)
            raise

    def keep_alive(self, idle: int = 30, interval: int = 10, count: int = 3) -> None:
        """Have the kernel notice that the peer's machine is gone: no program has to be quick for that.

        After ``idle`` seconds of silence it asks, every ``interval`` seconds, and breaks the connection when it had no
        answer ``count`` times, or when what was sent is not acknowledged for as long as all that takes. Without this
        it waits for hours, and for good if nothing is sent. A Unix socket needs none of it, and nothing is done.
        Systems that know only some of these numbers keep to those.

        Raises ValueError for a number below 1, for more than 32,767 seconds, and for a count of more than 127;
        TypeError for what is no whole number.
        """
        limits = {"idle": (idle, MAX_PAUSE), "interval": (interval, MAX_PAUSE), "count": (count, MAX_PROBES)}
        for name, (value, most) in limits.items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"keep_alive: {name} is an int, not {value!r}")
            if not 1 <= value <= most:
                raise ValueError(f"keep_alive: {name} is 1 to {most}, not {value}")
        sock = self._stream._sock
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        unacknowledged = min(1000 * (idle + interval * count), 2**31 - 1)  # milliseconds, in a C int
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in zip(names, (idle, interval, count, unacknowledged), strict=True):
                number = getattr(socket, name, None)  # each system has some of them
                if number is not None:
                    sock.setsockopt(socket.IPPROTO_TCP, number, value)
        except OSError:  # it is closed already
            pass

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The peer's certificate, as ``ssl.SSLSocket.getpeercert`` gives it; empty for one that was not verified.

        None where there is no TLS, or not yet, and where the peer has shown none.
        """
        tls = self._stream.tls
        try:
            return None if tls is None else tls.getpeercert()
        except ValueError:  # they have not shaken hands
            return None

    @property
    def protocol(self) -> str | None:
        """The application protocol that TLS's ALPN agreed on, such as ``"h2"``; None without one."""
        tls = self._stream.tls
        return None if tls is None else tls.selected_alpn_protocol()

    @property
    def tls_version(self) -> str | None:
        """``"TLSv1.3"`` or another; None where there is no TLS."""
        tls = self._stream.tls
        return None if tls is None else tls.version()

    # -- The rest

    def close(self) -> None:
        """Close the connection; never blocks.

        What was written still leaves, in the background, for 30 s at most; `flower.run` waits for that. The peer
        then has 2 s to close its side: what it still sends is read and dropped, since a reset could cost it what it
        has not read yet. What was received and not taken is dropped. Blocked receivers and senders, and all later
        ones, get ChannelClosed. Closing twice is allowed.
        """
        self._left = True
        self._stream.poller.call_here(self._stream.close)

    def abort(self) -> None:
        """Cut the connection; never blocks. As `close`, but what was written and has not left is dropped.

        The peer gets a reset, so that it does not take what it has for the whole (a Unix socket has none to give:
        its peer sees an end of file). Blocked receivers and senders, and all later ones, get
        ConnectionAbortedError.
        """
        self._left = True
        self._stream.poller.call_here(self._stream.abort)

    @property
    def status(self) -> str:
        """``"open"``; ``"writeonly"`` after the peer's end, ``"readonly"`` after `close_write`; ``"closed"``."""
        stream = self._stream
        if stream.ended:
            return "closed"
        if stream.at_eof:
            return "closed" if stream.half else "writeonly"
        return "readonly" if stream.half else "open"

    def local_addr(self) -> Any:
        """The address of this end: for tcp ``(host, port)``, for IPv6 two items more; for a Unix socket its path."""
        return self._stream.local

    def remote_addr(self) -> Any:
        """The address of the other end; None if it was gone before it could be asked, "" for an unnamed socket."""
        return self._stream.remote

    def local_address(self) -> Any:
        """`local_addr`."""
        return self._stream.local

    def remote_address(self) -> Any:
        """`remote_addr`."""
        return self._stream.remote

    def __repr__(self) -> str:
        return f"<Conn {self._stream.describe()}, {self.status}>"

    def __del__(self) -> None:
        try:
            stream = self._stream
        except AttributeError:  # __init__ failed
            return
        if stream.ended or self._left:
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


def _check_size(size: Any) -> int:
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"the number of bytes to read is an int, not {size!r}")
    if size < 0:
        raise ValueError(f"the number of bytes to read is at least 0, not {size}")
    return size
