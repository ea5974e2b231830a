"""The addresses of RPC servers, as URLs: ``tcp://host:port``, ``tcp://[::1]:port``."""

from __future__ import annotations

import re
from typing import Any

_TCP = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^\[\]/:@?#\s]*)):(?P<port>\d{1,5})/?", re.ASCII)
MAX_PORT = 65_535


def parse(url: str) -> tuple[str, Any]:
    """The protocol and the address for `flower.net.Dial` and `Listen`; or ValueError, with the URL in it."""
    if not isinstance(url, str):
        raise TypeError(f"an address of a server is a str such as 'tcp://127.0.0.1:9000', not {url!r}")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme != "tcp":
        raise ValueError(f"not a server's address: {url!r}; it looks like tcp://host:port")
    found = _TCP.fullmatch(rest)
    if found is None or int(found["port"]) > MAX_PORT:
        raise ValueError(f"not a host and a port: {url!r}; it looks like tcp://host:port")
    return "tcp", (found["six"] or found["host"], int(found["port"]))


def unparse(proto: str, address: Any) -> str:
    """The URL of an address."""
    host, port = address[0], address[1]
    return f"{proto}://[{host}]:{port}" if ":" in host else f"{proto}://{host}:{port}"
