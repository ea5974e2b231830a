"""How a stream begins: over a connected socket, and in TLS, at once or in the middle of it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

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


def start_tls(stream: Stream, secure: Secure, early: bytes) -> Coroutine[Any, Any, None]:
    """Go on in TLS: from here on nobody receives what is plain. The coroutine shakes hands.

    ``early`` was received and not taken; it comes before what the stream holds.
    """
    layer = secure(stream)
    layer.take_over(stream._transport, early + stream.take_early())
    return _shake_hands(stream, layer)


async def _shake_hands(stream: Stream, layer: TlsLayer) -> None:
    layer.step()
    await layer.handshake()
    stream.shake_hands(False)
