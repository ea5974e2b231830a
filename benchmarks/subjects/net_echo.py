"""An echo server on one core, the load on another: requests, and what each costs the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.registry import Stopwatch, Subject
from benchmarks.subjects import _servers
from benchmarks.subjects._net import measured

SUBJECT = Subject("net_echo", "Echo over TCP, one core for the server", "ns", "request")

FEW, MANY, LARGE = "64 connections, 1 KiB", "1,000 connections, 1 KiB", "64 connections, 64 KiB"
WORK = {FEW: (64, 1024, 40_000), MANY: (1000, 1024, 40_000), LARGE: (64, 65_536, 4_000)}
SERVERS: dict[str, Callable[..., None]] = {
    "flower": _servers.flower,
    "uvloop protocol": _servers.uvloop_protocol,
    "asyncio+uvloop": _servers.asyncio_streams,
    "gevent": _servers.gevent,
}


def _add(library: str, serve: Any, variant: str, connections: int, size: int, n: int) -> None:
    def function(n: int, watch: Stopwatch) -> None:
        measured(serve, n, watch, "echo", connections, size)

    SUBJECT.add(library, function, n, variant)


for _variant, (_connections, _size, _n) in WORK.items():
    for _library, _serve in SERVERS.items():
        _add(_library, _serve, _variant, _connections, _size, _n)
    SUBJECT.go(_n, _variant)
    # A target of r in requests each second is one of 1 / r in cost.
    _ours = ("flower", _variant)
    SUBJECT.at_most(f"{_variant}: of a raw Protocol's, 0.95", _ours, ("uvloop protocol", _variant), 1 / 0.95)
    if _variant != LARGE:
        SUBJECT.at_most(f"{_variant}: of Go's, 0.93", _ours, ("go", _variant), 1 / 0.93)
        SUBJECT.faster(f"{_variant}: faster than gevent", _ours, ("gevent", _variant), 1.8)
        SUBJECT.faster(f"{_variant}: faster than asyncio's streams", _ours, ("asyncio+uvloop", _variant), 1.25)
