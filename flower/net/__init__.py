"""The network: listeners are channels of connections, connections are channels of bytes.

>>> from flower.net import Dial, Listen
>>> listener = Listen(("127.0.0.1", 0), "tcp")
>>> conn = Dial("tcp", listener.addr())
"""

from __future__ import annotations

from flower.net._codecs import Codec, LengthPrefixed, Lines, MessagePack
from flower.net._conn import Conn
from flower.net._framed import Framed, framed
from flower.net._listener import Listener
from flower.net._open import Dial, Listen, dial, listen
from flower.net._udp import Datagrams

__all__ = ["Conn", "Datagrams", "Dial", "Listen", "Listener", "dial", "listen"]
__all__ += ["Codec", "Framed", "LengthPrefixed", "Lines", "MessagePack", "framed"]
