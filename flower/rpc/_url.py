"""The addresses of RPC servers, as URLs.

=======================  ==========================================================
``tcp://host:port``      ``tcp://[::1]:port`` for IPv6; port 0: the system chooses
``tls://host:port``      the same, over TLS
``unix:/path``           a Unix socket; also ``unix:relative/path``, ``unix:///path``
=======================  ==========================================================
"""

from __future__ import annotations

import re
from typing import Any

_HOST = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^\[\]/:@?#\s]*)):(?P<port>\d{1,5})/?", re.ASCII)
_SCHEME = re.compile(r"([a-z]+):")
MAX_PORT = 65_535

# Scheme -> the protocol's name in `flower.net`.
_PROTOS = {"tcp": "tcp", "tls": "tls", "unix": "pipe"}
_SCHEMES = {proto: scheme for scheme, proto in _PROTOS.items()}
_LOOKS = "it looks like tcp://host:port, tls://host:port or unix:/path"


def parse(url: str) -> tuple[str, Any]:
    """The protocol and the address for `flower.net.Dial` and `Listen`; or ValueError, with the URL in it."""
    if not isinstance(url, str):
        raise TypeError(f"an address of a server is a str such as 'tcp://127.0.0.1:9000', not {url!r}")
    scheme = _SCHEME.match(url)
    proto = _PROTOS.get(scheme[1]) if scheme else None
    if scheme is None or proto is None:
        raise ValueError(f"not a server's address: {url!r}; {_LOOKS}")
    rest = url[scheme.end() :]
    if proto == "pipe":
        path = rest.removeprefix("//")
        if not path or "\0" in path or (rest.startswith("//") and not path.startswith("/")):
            raise ValueError(f"not the path of a socket: {url!r}; it looks like unix:/path, or unix:relative/path")
        return proto, path
    found = _HOST.fullmatch(rest.removeprefix("//")) if rest.startswith("//") else None
    if found is None or int(found["port"]) > MAX_PORT:
        raise ValueError(f"not a host and a port: {url!r}; it looks like {scheme[1]}://host:port")
    return proto, (found["six"] or found["host"], int(found["port"]))


# What `serve` and `connect` hand on to `flower.net` for a TLS connection.
TLS_OPTIONS = frozenset({"cert", "key", "ca", "context", "server_name"})


def split(url: str, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What there is of TLS among the options, and the rest. ValueError where the URL has no use for it."""
    tls = {name: options[name] for name in options if name in TLS_OPTIONS}
    if tls and not url.startswith("tls:"):
        raise ValueError(f"{', '.join(tls)}: for a URL such as tls://host:port, not for {url!r}")
    return tls, {name: options[name] for name in options if name not in TLS_OPTIONS}


def unparse(proto: str, address: Any) -> str:
    """The URL of an address."""
    scheme = _SCHEMES[proto]
    if proto == "pipe":
        return f"{scheme}:{address}"
    host, port = address[0], address[1]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
