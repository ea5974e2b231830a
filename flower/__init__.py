"""Go-style concurrency for Python: tasklets that talk over channels, near and far.

>>> import flower
>>> ch = flower.channel()
>>> t = flower.go(ch.send, "hello, world")
>>> ch.receive()
'hello, world'
"""

from __future__ import annotations

from flower import _pure

_pure.install()

from flower import channels, time  # noqa: E402, F401  (flower.time needs no import of its own)
from flower.channels import *  # noqa: E402, F403
from flower.errors import Cancelled, ChannelClosed, Deadlock, TaskletExit, TaskletKilled, Timeout  # noqa: E402

__all__ = ["Cancelled", "ChannelClosed", "Deadlock", "TaskletExit", "TaskletKilled", "Timeout"]
__all__ += channels.__all__
