"""MessagePack-RPC over Flower's connections: serve an object's methods, and call those of others.

>>> server = rpc.serve("tcp://127.0.0.1:0", Calc())
>>> peer = rpc.connect(server.url)
>>> peer.call("add", 1, 2)
3
"""

from __future__ import annotations

from flower.errors import (
    AuthError,
    ChannelBroken,
    DeadlineExceeded,
    Disconnected,
    InvalidArguments,
    Overloaded,
    ProtocolError,
    RemoteAbort,
    RemoteCancelled,
    RemoteError,
    UnknownMethod,
)
from flower.rpc._context import Context, context
from flower.rpc._hello import Settings
from flower.rpc._middleware import Call
from flower.rpc._peer import Caller, Peer, connect
from flower.rpc._server import Server, serve
from flower.rpc._service import method
from flower.rpc._types import register

__all__ = [
    "AuthError",
    "Call",
    "Caller",
    "ChannelBroken",
    "Context",
    "DeadlineExceeded",
    "Disconnected",
    "InvalidArguments",
    "Overloaded",
    "Peer",
    "ProtocolError",
    "RemoteAbort",
    "RemoteCancelled",
    "RemoteError",
    "Server",
    "Settings",
    "UnknownMethod",
    "connect",
    "context",
    "method",
    "register",
    "serve",
]
