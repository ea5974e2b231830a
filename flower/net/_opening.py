"""How a stream begins: over a connected socket, and in TLS, at once or in the middle of it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from flower.net._bounds import Bounds
from flower.net._stream import Stream

if TYPE_CHECKING:
    from flower.net._loop import LoopPoller
    from flower.net._tls import TlsLayer

Secure = Callable[[Stream], "TlsLayer"]


async def open_stream(
    poller: LoopPoller,
    sock: socket.socket,
    proto: str,
    bounds: Bounds,
    secure: Secure | None = None,
) -> Stream:
    """Make a stream of a connected socket that does not block, which is the stream's from the first line on."""
    try:
        stream = Stream(poller, sock, proto, bounds)
        layer = None if secure is None else secure(stream)
        poller.attach(sock, layer or stream)
    except BaseException:
        sock.close()
        raise
    if layer is not None:
        await layer.handshake()
    return stream


async def start_tls(stream: Stream, secure: Secure, early: bytes) -> None:
    """Go on in TLS. ``early`` was received and not taken; it comes before what the stream holds."""
    stream.refuse_tls()
    early += stream.take_early()
    await secure(stream).take_over(stream._transport, early)
    stream.shake_hands(False)
