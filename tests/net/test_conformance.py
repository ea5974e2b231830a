"""Every stream transport through the one suite."""

from __future__ import annotations

import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flower.errors import ChannelClosed
from flower.net import Conn, Dial, Listen
from tests.net.certificates import certificates
from tests.net.conformance import ConnectionConformance
from tests.net.support import HOME, NEVER

pytestmark = pytest.mark.usefixtures("loop")

_numbers = itertools.count()


@contextmanager
def joined(listen: Any, proto: str, dial: dict[str, Any] | None = None, **options: Any) -> Iterator[tuple[Conn, Conn]]:
    """Both ends of a connection through a listener."""
    dialing = {name: value for name, value in options.items() if name not in ("cert", "key")}
    with Listen(listen, proto, **options) as listener:
        near = Dial(proto, listener.addr(), **dialing, **(dial or {}))
        far = listener.receive(NEVER)
    with near, far:
        yield near, far


@contextmanager
def given(proto: str, pair: tuple[socket.socket, socket.socket], **options: Any) -> Iterator[tuple[Conn, Conn]]:
    with Dial(proto, pair[0], **options) as near, Dial(proto, pair[1].detach(), **options) as far:
        yield near, far


class TestTCP(ConnectionConformance):
    churn = 5000

    def connected(self, **options: Any) -> Any:
        return joined((HOME, 0), "tcp", **options)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
class TestTCP6(ConnectionConformance):
    churn = 25

    def connected(self, **options: Any) -> Any:
        return joined(("::1", 0), "tcp", **options)


class TestTLS(ConnectionConformance):
    churn = 50

    def connected(self, **options: Any) -> Any:
        made = certificates()
        return joined((HOME, 0), "tls", {"ca": made.ca}, cert=made.server, key=made.server_key, **options)


class TestPipe(ConnectionConformance):
    seen_of_abort = ChannelClosed

    def connected(self, **options: Any) -> Any:
        path = os.path.join(tempfile.gettempdir(), f"flower-{os.getpid()}-{next(_numbers)}")
        return joined(path, "pipe", **options)


class TestSockTCP(ConnectionConformance):
    churn = 25

    def connected(self, **options: Any) -> Any:
        with socket.create_server((HOME, 0)) as server:
            near = socket.create_connection(server.getsockname())
            far, _ = server.accept()
        return given("socktcp", (near, far), **options)


class TestSockPipe(ConnectionConformance):
    seen_of_abort = ChannelClosed

    def connected(self, **options: Any) -> Any:
        return given("sockpipe", socket.socketpair(), **options)
