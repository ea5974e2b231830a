"""The handshake: who we are, what we can hold, and whether we may come in. No I/O here, and no tasklets.

The connecting side's first message is ``[0, id, "$/hello", [map]]``, and the answer is the other's map. A peer that
answers with an error is a plain one. `Handshake` is where a connection stands in this; `_NEXT` has the transitions:

==========  =======================================  ==========================================================
state       what it means                            what moves it
==========  =======================================  ==========================================================
GREETING    we connected, and have sent our hello    its answer, however late: a map -> FLOWER; an error -> PLAIN
                                                     (or REFUSED)
WAITING     we accepted; plain until it says hello   its hello -> FLOWER
LOCKED      as WAITING, and nothing else is served   its hello, with what proves it -> FLOWER; else -> REFUSED
FLOWER      both are Flower peers                    nothing: a second hello breaks the protocol
PLAIN       the peer is a plain one                  nothing
REFUSED     somebody is not who he says he is        nothing: the connection is closed
==========  =======================================  ==========================================================
"""

from __future__ import annotations

import dataclasses
import hmac
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from flower.errors import AuthError
from flower.rpc._types import END
from flower.rpc._wire import MAX_MESSAGE, Wire

VERSION = 1
HELLO = "$/hello"
FEATURES = ("call", "cancel", "channels", "types", "bye")

GREETING = "greeting"
WAITING = "waiting"
LOCKED = "locked"
FLOWER = "flower"
PLAIN = "plain"
REFUSED = "refused"

_NEXT = {
    (GREETING, "hello"): FLOWER,
    (GREETING, "no hello"): PLAIN,
    (GREETING, "refused"): REFUSED,
    (WAITING, "hello"): FLOWER,
    (LOCKED, "hello"): FLOWER,
    (LOCKED, "refused"): REFUSED,
}

# Bytes in a message of somebody who has not authenticated himself.
LOCKED_MESSAGE = 16 * 1024
# Bytes of a token, of a node's name.
MAX_TOKEN = 4 * 1024
MAX_NAME = 256
# The least that a peer may announce, so that everything of ours fits, errors too.
LEAST_MESSAGE = 1024
LEAST_FRAME = 256

INCARNATION = int.from_bytes(os.urandom(6), "big")  # of this process; a forked child has that of its parent


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a side of a connection says about itself, and what it takes of its peer.

    - ``max_message``: bytes in one message that we take. ``max_inflight``: calls of the peer that are served at a
      time; more are refused as overloaded.
    - ``max_channels``: channels that each side may have opened at a time. ``channel_items`` and ``channel_bytes``: how
      many values, and bytes of them, may be under way to us in each; 16 times as many values, and 4 times the bytes,
      where the receiver would have to wait. ``max_frame``: bytes of a value that come in one go, so that a large one
      holds up nobody.
    - ``token``: what we prove with that we may come in; where we serve, what everybody has to who has no certificate
      that was verified. ``verify(token, hello)``: decides in its place, on those with a certificate too; it gives True
      or a dict, which becomes the context's ``identity``, or else False. It may not block. ``handshake_timeout``:
      seconds that a peer has to come in; where we connect, that calls wait for an answer to our hello if they can't do
      without.
    - ``heartbeat``: seconds between two looks at the connection. A peer of which nothing has come since the look
      before is asked for a sign of life, and given up where there is none at the next: two to three times as many
      seconds after its last. None: only the kernel watches, which does not notice a program that is stopped.
    - ``plain``: no hello; the peer is taken for a plain MessagePack-RPC peer. ``metadata``: a dict of plain data,
      which the peer sees, of less than 16 KiB with what else is in a hello. ``node``: our name; the host's and the
      process id if none is given. ``tracebacks``: whether peers are told the tracebacks of our methods' errors.
    """

    max_message: int = MAX_MESSAGE
    max_inflight: int = 1024
    max_channels: int = 16_384
    channel_items: int = 64
    channel_bytes: int = 256 * 1024
    max_frame: int = 64 * 1024
    token: str | bytes | None = None
    verify: Callable[[bytes | None, Hello], Any] | None = None
    plain: bool = False
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    node: str = ""
    tracebacks: bool = True
    handshake_timeout: float = 10.0
    heartbeat: float | None = None

    def __post_init__(self) -> None:
        least = {"max_message": LEAST_MESSAGE, "max_frame": LEAST_FRAME, "channel_items": 1, "channel_bytes": 1}
        for name in ("max_message", "max_inflight", "max_channels", "channel_items", "channel_bytes", "max_frame"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} is a whole number, not {value!r}")
            if not least.get(name, 0) <= value <= 2**31:
                raise ValueError(f"{name} is at least {least.get(name, 0)} and at most 2**31, not {value}")
        if self.token is not None and not 1 <= len(as_token(self.token)) <= MAX_TOKEN:  # an empty one lets all in
            raise ValueError(f"a token has at least 1 byte and at most {MAX_TOKEN}")
        for name in ("handshake_timeout", "heartbeat"):
            value = getattr(self, name)
            if value is None and name == "heartbeat":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} is a number of seconds, not {value!r}")
            if not value > 0:
                raise ValueError(f"{name} is a number of seconds above 0, not {value!r}")
        if not isinstance(self.node, str) or not isinstance(self.metadata, Mapping):
            raise TypeError(f"node is a str and metadata a dict, not {self.node!r} and {self.metadata!r}")
        if self.verify is not None and not callable(self.verify):
            raise TypeError(f"verify is a function of a token and a hello, not {self.verify!r}")
        if self.metadata or self.node:  # else it fits; what does not would cost us each connection
            try:
                Wire(LOCKED_MESSAGE).call(HELLO, [self.announce(with_token=True)])
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"metadata and node can't be told to a peer: {error}") from None

    @property
    def demands(self) -> bool:
        """Whether everybody who connects has to prove who he is."""
        return self.token is not None or self.verify is not None

    def announce(self, with_token: bool) -> dict[str, Any]:
        """Our hello. The token goes to the side that we connect to only."""
        told = {
            "v": VERSION,
            "node": self.node or f"{socket.gethostname()[:200]}:{os.getpid()}",
            "incarnation": INCARNATION,
            "ext": END,
            "chan_items": self.channel_items,
            "chan_bytes": self.channel_bytes,
            "max_frame": self.max_frame,
            "max_msg": self.max_message,
            "max_inflight": self.max_inflight,
            "max_chans": self.max_channels,
            "feat": list(FEATURES),
        }
        if self.metadata:
            told["meta"] = dict(self.metadata)
        if with_token and self.token is not None:
            told["auth"] = as_token(self.token)
        return told


@dataclasses.dataclass(frozen=True)
class Hello:
    """What the peer has said of itself. We keep to its limits; what it left out has MessagePack-RPC's meaning: none."""

    node: str
    incarnation: int
    max_message: int
    max_inflight: int
    max_channels: int
    channel_items: int
    channel_bytes: int
    max_frame: int
    features: frozenset[str]
    metadata: dict[str, Any]


class BadHello(Exception):
    """The peer's hello can't stand; the text says why."""


def read_hello(told: Any) -> tuple[Hello, bytes | None]:
    """A peer's hello and its token. Keys that are not known are ignored. Raises `BadHello`."""
    if not isinstance(told, dict):
        raise BadHello("a hello is a map")
    if not isinstance(told.get("v"), int) or told["v"] < 1:
        raise BadHello("a hello has a version, from 1 on")
    node, metadata, features = told.get("node", ""), told.get("meta", {}), told.get("feat", [])
    if not isinstance(node, str) or not isinstance(metadata, dict) or not isinstance(features, list):
        raise BadHello("in a hello, node is a string, meta a map and feat an array")
    auth = told.get("auth")
    if auth is not None and (not isinstance(auth, str | bytes) or len(auth) > MAX_TOKEN):
        raise BadHello("auth is a string or bytes, and not long")
    hello = Hello(
        node[:MAX_NAME],
        _number(told, "incarnation", 0, 0),
        _number(told, "max_msg", MAX_MESSAGE, LEAST_MESSAGE),
        _number(told, "max_inflight", 1024, 0),
        _number(told, "max_chans", 0, 0),
        _number(told, "chan_items", 0, 0),
        _number(told, "chan_bytes", 0, 0),
        _number(told, "max_frame", 64 * 1024, LEAST_FRAME),
        frozenset(f for f in features if isinstance(f, str)) if told.get("ext") == END else frozenset(),
        metadata,
    )
    return hello, None if auth is None else as_token(auth)


def _number(told: dict[str, Any], key: str, default: int, least: int) -> int:
    value = told.get(key, default)
    if type(value) is not int or not least <= value < 2**53:
        raise BadHello(f"{key} is a number from {least} on")
    return value


def as_token(token: str | bytes) -> bytes:
    """A token as bytes."""
    if isinstance(token, str):
        return token.encode("utf-8", "surrogatepass")
    if not isinstance(token, bytes):
        raise TypeError(f"a token is a str or bytes, not {type(token).__name__}")
    return token


class Handshake:
    """Where one connection stands.

    ``theirs`` is the peer's hello, from FLOWER on; ``identity`` what ``verify`` gave for it.
    """

    __slots__ = ("identity", "settings", "state", "theirs")

    def __init__(self, settings: Settings, dialed: bool, authenticated: bool = False) -> None:
        self.settings = settings
        self.theirs: Hello | None = None
        self.identity: Any = None
        if dialed:
            self.state = PLAIN if settings.plain else GREETING
        elif settings.demands and not (authenticated and settings.verify is None):  # who verifies decides on all
            self.state = LOCKED
        else:
            self.state = WAITING

    def greeted(self, params: Any) -> dict[str, Any]:
        """The peer said hello: our answer. Raises `BadHello` (it broke the protocol), `AuthError`."""
        if self.state not in (WAITING, LOCKED):
            raise BadHello("a hello where none is due")
        if not isinstance(params, list) or len(params) != 1:
            raise BadHello("a hello has one param, a map")
        hello, token = read_hello(params[0])
        if self.state is LOCKED and not self._admits(hello, token):
            self.state = _NEXT[self.state, "refused"]
            raise AuthError("the token is not the one that is wanted here")
        self.theirs = hello
        self.state = _NEXT[self.state, "hello"]
        return self.settings.announce(with_token=False)

    def answered(self, error: Any, result: Any) -> None:
        """The answer to our hello. Raises `BadHello`; `AuthError` if the peer does not want us."""
        if error is None:
            self.theirs, _ = read_hello(result)
            self.state = _NEXT[self.state, "hello"]
        elif isinstance(error, dict) and error.get("auth"):
            self.state = _NEXT[self.state, "refused"]
            raise AuthError(f"the peer refused us: {str(error.get('m'))[:200]}")
        else:
            self.state = _NEXT[self.state, "no hello"]

    def _admits(self, hello: Hello, token: bytes | None) -> bool:
        settings = self.settings
        if settings.verify is not None:
            found = settings.verify(token, hello)
            self.identity = found if isinstance(found, Mapping) else None
            return found is True or isinstance(found, Mapping)
        wanted = as_token(settings.token or b"")
        return hmac.compare_digest(wanted, b"" if token is None else token)  # in constant time
