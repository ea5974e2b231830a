"""Addresses of servers as URLs: what is taken, what is refused, and there and back again."""

from __future__ import annotations

from typing import Any

import pytest

from flower.rpc._url import parse, unparse

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
