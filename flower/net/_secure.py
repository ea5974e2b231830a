"""TLS's options, and "tls" for `Listen` and `Dial`: TCP, with a `TlsLayer` between.

What a user does not say is the safe choice: a client verifies the server's certificate and its name, with the
system's authorities; TLS 1.2 is the oldest that is spoken (both are Python's own defaults).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from flower.channels._task import check_timeout
from flower.net._tls import HANDSHAKE_TIMEOUT, TlsLayer

if TYPE_CHECKING:
    from flower.net._stream import Stream

Path = str | os.PathLike[str]
LONGEST_HANDSHAKE = 86_400.0  # seconds: what stands for "no limit"


def secure(
    context: ssl.SSLContext | None,
    server_side: bool,
    server_name: str | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    alpn: Sequence[str],
    handshake_timeout: float | None = HANDSHAKE_TIMEOUT,
) -> Callable[[Stream], TlsLayer]:
    """What makes the TLS of a connection, of options that were checked here."""
    seconds = check_timeout(handshake_timeout)
    checked = check_context(context, server_side, server_name, ca, cert, key, alpn)

    def start(stream: Stream) -> TlsLayer:
        return TlsLayer(
            stream,
            checked,
            server_side=server_side,
            server_name=server_name,
            timeout=LONGEST_HANDSHAKE if seconds is None else seconds,
        )

    return start


def check_context(
    context: ssl.SSLContext | None,
    server_side: bool,
    server_name: str | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    alpn: Sequence[str],
) -> ssl.SSLContext:
    """The context that was given, or that of the options, which are checked."""
    if context is None:
        context = make_context(server_side, ca, cert, key, alpn)
    elif not isinstance(context, ssl.SSLContext):
        raise TypeError(f"context is an ssl.SSLContext, not {context!r}")
    elif ca is not None or cert is not None or key is not None or alpn:
        raise ValueError("ca, cert, key and alpn belong into the context that was given")
    if context.protocol == (ssl.PROTOCOL_TLS_CLIENT if server_side else ssl.PROTOCOL_TLS_SERVER):
        here, there = ("server", "client") if server_side else ("client", "server")
        raise ValueError(f"a {here} needs a context of its own kind, and that which was given is a {there}'s")
    if server_side and server_name is not None:
        raise ValueError("server_name is a client's: a server's names are in its certificate")
    if not server_side and server_name is None and context.check_hostname:
        raise ValueError("a client needs server_name, the name that the server's certificate must be for")
    if server_name is not None:
        _check_name(server_name)
    return context


def _check_name(name: Any) -> None:
    """Refuse what can't be a server's name, or its address."""
    if not isinstance(name, str):
        raise TypeError(f"server_name is a str, not {name!r}")
    try:
        if "\0" not in name and name.encode("idna"):
            return
    except UnicodeError:  # a label that is empty, or too long
        pass
    raise ValueError(f"server_name can't be the name of a server: {name!r}")


def make_context(
    server_side: bool, ca: Path | None, cert: Path | None, key: Path | None, alpn: Sequence[str]
) -> ssl.SSLContext:
    """Python's safe defaults, with what the options say."""
    if server_side and cert is None:
        raise ValueError("a TLS server needs cert, the file with its certificate chain")
    if key is not None and cert is None:
        raise ValueError("key belongs to a cert, which was not given")
    if isinstance(alpn, str | bytes) or not all(isinstance(name, str) for name in alpn):
        raise TypeError(f"alpn is a sequence of protocols' names, not {alpn!r}")
    if not all(name.isascii() and 0 < len(name) < 256 for name in alpn):
        raise ValueError(f"the names in alpn have 1 to 255 characters of ASCII: {alpn!r}")
    if not server_side and ca is None and cert is None:
        return _system_context(tuple(alpn))
    if server_side:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    elif ca is not None:  # these authorities, and no others
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    else:
        context = ssl.create_default_context()
    if ca is not None:
        _load("the authorities' file", ca, lambda: context.load_verify_locations(os.fspath(ca)))
        context.verify_mode = ssl.CERT_REQUIRED
    if cert is not None:
        what = "the certificate's file" if key is None else f"the certificate's file, with the key {os.fspath(key)!r},"
        _load(what, cert, lambda: context.load_cert_chain(os.fspath(cert), None if key is None else os.fspath(key)))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


@cache
def _system_context(alpn: tuple[str, ...]) -> ssl.SSLContext:
    """Made once: to load the system's authorities takes some 20 milliseconds."""
    context = ssl.create_default_context()
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def _load(what: str, path: Path, load: Callable[[], Any]) -> None:
    """Load a file, or raise the same kind of error with its path in the text."""
    try:
        load()
    except ssl.SSLError as error:
        error.strerror = f"{what} {os.fspath(path)!r} can't be used: {error.strerror}"
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise type(error)(error.errno, f"{what} can't be read: {reason}", os.fspath(path)) from None
