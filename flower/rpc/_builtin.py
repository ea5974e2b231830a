"""The methods that every Flower peer has, whoever calls: ping, list, help, health, stats."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flower.rpc._service import Method
    from flower.rpc._session import Session


def ping(session: Session, *_: Any) -> None:
    """That we are here. Any value may be sent along; it is ignored."""


def list_methods(session: Session) -> dict[str, dict[str, Any]]:
    """All methods that may be called, with their signatures and documentation."""
    return {name: describe(method) for name, method in session.exports.items()}


def help_on(session: Session, name: str) -> dict[str, Any]:
    """One method's signature and documentation."""
    return {"name": name, **describe(session.exports[name])}


def health(session: Session) -> dict[str, str]:
    """Whether new calls are taken."""
    return {"status": "draining" if session.draining else "serving"}


def stats(session: Session) -> dict[str, Any]:
    """Counts of this connection."""
    return session.stats()


BUILTIN: dict[str, Callable[..., Any]] = {
    "$/ping": ping,
    "$/list": list_methods,
    "$/help": help_on,
    "$/health": health,
    "$/stats": stats,
}


def describe(method: Method) -> dict[str, Any]:
    """The signature and documentation of an exported method."""
    return {"signature": method.signature, "doc": method.doc, "streams": method.streams}
