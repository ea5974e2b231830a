"""TLS between a connection's `Stream` and the loop's transport, over Python's ssl with memory in place of sockets.

`TlsLayer` is a protocol to the transport and a transport to the stream, so that neither knows of the other. uvloop's
own TLS was not used: it can't end one direction alone, and takes a connection that was cut for one that has ended.

Invariants

- ``_shaken`` is set when the handshake is done; before that nothing passes to the stream, or from it.
- Whatever OpenSSL has put into ``_outgoing`` is written to the transport before a method returns.
- ``_fault`` is what the stream is told at the end, if it was not the transport's own error.

The methods that the loop calls raise nothing, as the stream's.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from flower.errors import Timeout
from flower.net._transport import Link

if TYPE_CHECKING:
    from flower.net._stream import Stream

RECORD = 16 * 1024  # bytes: TLS's longest piece of data (RFC 8446, section 5.1)
ANSWERS = 16 * 1024  # bytes of OpenSSL's own that may wait to be sent: some 700 answers to a request for new keys
HANDSHAKE_TIMEOUT = 10.0  # seconds; Go's net/http has the same for its clients


class TlsLayer(Link):
    """One connection's TLS."""

    def __init__(
        self, stream: Stream, context: ssl.SSLContext, *, server_side: bool, server_name: str | None, timeout: float
    ) -> None:
        self._stream = stream
        self._timeout = timeout
        self._transport: Any = None
        self._shaken = False
        self._unread = 0  # bytes of answers since all had left
        self._notified = False  # the peer has said that it sends no more
        self._fault: BaseException | None = None
        self._waiter = stream.poller.loop.create_future()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side, server_name)
        stream.tls = self._ssl
        self._read = self._ssl.read  # bound, for the two calls that each piece of data makes
        self._encrypt = self._ssl.write

    # -- The handshake

    async def handshake(self) -> None:
        """Wait for the end of the handshake. Raises what it failed with; then the connection is cut."""
        timer = self._stream.poller.loop.call_later(self._timeout, self._too_late)
        try:
            await self._waiter
        except BaseException:
            if self._fault is None:  # whoever began it was interrupted: the others learn why the connection ends
                self._fault = self._stream.given_up()
            self._end()
            raise
        finally:
            timer.cancel()

    def take_over(self, transport: Any, early: bytes) -> None:
        """Stand in the middle of a connection; ``early`` has arrived already. `step` and then `handshake` go on."""
        transport.set_protocol(self)
        self._transport = transport
        self._stream.replace_transport(self)
        if early:
            self._incoming.write(early)

    def _too_late(self) -> None:
        self._fail(Timeout(f"{self._stream.describe()}: no TLS handshake within {self._timeout} s"))

    def step(self) -> None:
        """Go on with the handshake, as far as what has arrived allows."""
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._pump()
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self._shaken = True
            self._pump()
            if not self._waiter.done():
                self._waiter.set_result(None)

    def _fail(self, error: BaseException) -> None:
        """Something is wrong for good: tell the peer why, and whoever waits, and end the connection."""
        self._pump()  # OpenSSL's alert
        if self._fault is None:
            if isinstance(error, ssl.SSLError):
                error.strerror = f"{error.strerror}: {self._stream.describe()}"
                error.args = (error.errno, error.strerror)
                error._flower_conn = True  # type: ignore[attr-defined]
            self._fault = error
            if not self._waiter.done():
                self._waiter.set_exception(error)
        self._end()

    def _end(self) -> None:
        transport = self._transport
        if transport is not None:
            if transport.get_write_buffer_size():
                transport.abort()
            else:
                transport.close()

    def _pump(self) -> None:
        """Send what OpenSSL has to send."""
        if self._outgoing.pending and self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._outgoing.read())

    # -- Called by the loop

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._stream.connection_made(self)
        self.step()

    def data_received(self, data: bytes) -> None:
        try:
            self._incoming.write(data)
            if not self._shaken:
                self.step()
            if self._shaken:
                self._deliver()
        except BaseException as error:
            self._fail(error)

    def _deliver(self) -> None:
        """Give the stream what can be decrypted."""
        pieces = []
        try:
            while True:
                piece = self._read(RECORD)  # a whole record, so that nothing of it stays behind
                if not piece:
                    self._notified = True
                    break
                pieces.append(piece)
                if not self._incoming.pending:
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._notified = True
        finally:
            if pieces:
                self._stream.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._outgoing.pending:
            self._answer()
        if self._notified and not self._stream.at_eof:
            self._transport.pause_reading()
            if not self._stream.eof_received():
                self.close()

    def _answer(self) -> None:
        """OpenSSL answers the peer, who has asked for new keys. Who asks on and on, and reads no answer, is cut."""
        if not self._transport.get_write_buffer_size():
            self._unread = 0
        self._unread += self._outgoing.pending
        if self._unread > ANSWERS:
            text = f"{self._stream.describe()}: the peer asks for new keys again and again, and reads nothing"
            self._fail(ConnectionAbortedError(text))
        else:
            self._pump()

    def eof_received(self) -> bool:
        stream = self._stream
        if not self._shaken:
            self._fail(ConnectionResetError(f"{stream.describe()}: the peer closed it in the TLS handshake"))
        elif not self._notified:
            self._fault = ConnectionAbortedError(
                f"{stream.describe()}: cut without TLS's close_notify: what came may not be the whole"
            )
        return self._notified and not (stream.shut or stream.half)

    def pause_writing(self) -> None:
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()

    def connection_lost(self, error: BaseException | None) -> None:
        self._stream.connection_lost(self._fault or error)
        self._transport = None
        if not self._waiter.done():
            if error is None and not self._stream.shut:
                why: BaseException = ConnectionResetError(
                    f"{self._stream.describe()}: the connection was lost in the TLS handshake"
                )
            else:
                why = self._stream.writing_fault()
            self._waiter.set_exception(why)
        if not self._waiter.cancelled():
            self._waiter.exception()  # it has been looked at, whoever waits or does not

    # -- A transport, to the stream

    def write(self, data: bytes) -> None:
        try:
            taken = self._encrypt(data)
            while taken < len(data):
                data = data[taken:]
                taken = self._encrypt(data)
        except ssl.SSLError as error:  # WantRead too: a peer that negotiates anew, which TLS 1.3 has not
            self._fail(error)
        else:
            self._transport.write(self._outgoing.read())

    def write_eof(self) -> None:
        """Say that no more comes: TLS's close_notify. The transport stays open both ways."""
        try:
            self._ssl.unwrap()
        except ssl.SSLError:  # WantRead: the peer has not said so, yet
            pass
        self._pump()

    def close(self) -> None:
        if self._shaken:
            self.write_eof()
        self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def is_closing(self) -> bool:
        return bool(self._transport.is_closing())

    def get_write_buffer_size(self) -> int:
        return int(self._transport.get_write_buffer_size())

    def set_write_buffer_limits(self, high: int) -> None:
        self._transport.set_write_buffer_limits(high=high)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._notified:  # what comes after that is for nobody, and OpenSSL would leave it where it is
            self._transport.resume_reading()
