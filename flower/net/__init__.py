"""The network: listeners are channels of connections, connections are channels of bytes.

>>> from flower.net import Dial, Listen
>>> listener = Listen(("127.0.0.1", 0), "tcp")
>>> conn = Dial("tcp", listener.addr())
"""

from __future__ import annotations

from flower.net._conn import Conn
from flower.net._listener import Listener
from flower.net._open import Dial, Listen, dial, listen

__all__ = ["Conn", "Dial", "Listen", "Listener", "dial", "listen"]
