"""Addresses of servers as URLs: what is taken, what is refused, and there and back again."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from flower import rpc
from flower.errors import AuthError
from flower.rpc._url import parse, split, unparse
from tests.net.certificates import certificates
from tests.rpc.support import Calc, settle

GOOD = [
    ("tcp://127.0.0.1:9000", "tcp", ("127.0.0.1", 9000), "tcp://127.0.0.1:9000"),
    ("tcp://localhost:0/", "tcp", ("localhost", 0), "tcp://localhost:0"),
    ("tcp://[::1]:65535", "tcp", ("::1", 65535), "tcp://[::1]:65535"),
    ("tcp://[fe80::1%eth0]:1", "tcp", ("fe80::1%eth0", 1), "tcp://[fe80::1%eth0]:1"),
    ("tls://example.org:443", "tls", ("example.org", 443), "tls://example.org:443"),
    ("unix:/run/a.sock", "pipe", "/run/a.sock", "unix:/run/a.sock"),
    ("unix:///run/a.sock", "pipe", "/run/a.sock", "unix:/run/a.sock"),
    ("unix:a b/c%20:d.sock", "pipe", "a b/c%20:d.sock", "unix:a b/c%20:d.sock"),
]


@pytest.mark.parametrize(("url", "proto", "address", "again"), GOOD)
def test_there_and_back(url: str, proto: str, address: Any, again: str) -> None:
    assert parse(url) == (proto, address)
    assert unparse(proto, address) == again
    assert parse(again) == (proto, address)


@pytest.mark.parametrize(
    "url",
    [
        *("", "tcp", "tcp:", "tcp://", "tcp:/a:1", "tcp:a:1", "TCP://a:1", "http://a:1", "127.0.0.1:9000", "//a:1"),
        *("tls://a", "tls://a:65536", "tls://a:-1", "tls://a:b", "tls://u@a:1", "tls://a:1?x", "tls://[a:1"),
        *("unix:", "unix://", "unix://host/path", "unix:/a\0b", "udp://a:1", "pipe:/a"),
    ],
)
def test_what_is_refused_is_named(url: str) -> None:
    with pytest.raises(ValueError, match=r"it looks like (tcp|tls|unix):") as caught:
        parse(url)
    assert repr(url) in str(caught.value)


def test_options_of_tls_are_told_apart() -> None:
    assert split("tls://a:1", {"ca": "x", "token": "y"}) == ({"ca": "x"}, {"token": "y"})
    assert split("tcp://a:1", {"token": "y"}) == ({}, {"token": "y"})
    for call in (lambda: rpc.connect("tcp://a:1", ca="x"), lambda: rpc.serve("tcp://a:1", Calc(), ca="x")):
        with pytest.raises(ValueError, match="ca: for a URL such as tls://host:port, not for 'tcp://a:1'"):
            call()
    for call in (lambda: rpc.connect("tcp://a:1", no_such=1), lambda: rpc.serve("tcp://a:1", Calc(), no_such=1)):
        with pytest.raises(TypeError, match="no_such"):
            call()


# -- Each of them, used


@pytest.mark.usefixtures("loop")
def test_unix(tmp_path: Path) -> None:
    path = tmp_path / "a socket"
    with rpc.serve(f"unix:{path}", Calc()) as server:
        assert server.url == f"unix:{path}"
        with rpc.connect(server.url) as peer:
            assert peer.call("add", 1, 2) == 3
            assert peer.call("echo", b"x" * 1_000_000) == b"x" * 1_000_000
            assert f"unix:{path}" in repr(server)
    settle()
    assert not path.exists()
    with pytest.raises(FileNotFoundError, match="a socket"):
        rpc.connect(f"unix:{path}")


@pytest.mark.slow  # the certificates are made
@pytest.mark.usefixtures("loop")
def test_tls() -> None:
    files = certificates()
    with rpc.serve("tls://127.0.0.1:0", Calc(), cert=files.server, key=files.server_key) as server:
        assert server.url.startswith("tls://127.0.0.1:")
        with rpc.connect(server.url, ca=files.ca) as peer:
            assert peer.call("add", 1, 2) == 3
            assert peer.call("echo", b"x" * 1_000_000) == b"x" * 1_000_000
        with pytest.raises(ssl.SSLCertVerificationError):
            rpc.connect(server.url)
    settle()


@pytest.mark.slow  # the certificates are made
@pytest.mark.usefixtures("loop")
def test_mutual_tls() -> None:
    files = certificates()
    options = {"cert": files.server, "key": files.server_key, "ca": files.ca}

    class Who(Calc):
        def certificate(self) -> Any:
            context = rpc.context()
            assert context is not None
            return context.certificate

    with rpc.serve("tls://127.0.0.1:0", Who(), **options) as server:
        with rpc.connect(server.url, ca=files.ca, cert=files.client, key=files.client_key) as peer:
            assert peer.call("add", 1, 2) == 3
            assert ("commonName", "Flower tests client") in [pair for (pair,) in peer.call("certificate")["subject"]]
        # TLS 1.3 tells a client that it is refused only after the client's part of the handshake is done.
        for credentials in ({}, {"cert": files.stranger, "key": files.stranger_key}):
            with pytest.raises(OSError), rpc.connect(server.url, ca=files.ca, **credentials) as peer:
                peer.call("add", 1, 2)
        assert server.peers == ()
    settle()


@pytest.mark.slow  # the certificates are made
@pytest.mark.usefixtures("loop")
def test_a_certificate_does_without_a_token_but_not_without_verify() -> None:
    def verify(token: bytes | None, hello: Any) -> Any:
        return {"user": hello.node} if token == b"ok" else None

    def identity() -> Any:
        context = rpc.context()
        assert context is not None
        return context.identity

    files = certificates()
    options = {"cert": files.server, "key": files.server_key, "ca": files.ca}
    ours = {"cert": files.client, "key": files.client_key, "ca": files.ca}
    with rpc.serve("tls://127.0.0.1:0", Calc(), token="secret", **options) as server:
        with rpc.connect(server.url, **ours) as peer:
            assert peer.call("add", 1, 2) == 3
    with rpc.serve("tls://127.0.0.1:0", {"identity": identity}, verify=verify, **options) as server:
        with rpc.connect(server.url, **ours) as peer, pytest.raises(AuthError):
            peer.call("identity")
        with rpc.connect(server.url, token="ok", node="ada", **ours) as peer:
            assert peer.call("identity") == {"user": "ada"}
    settle()
