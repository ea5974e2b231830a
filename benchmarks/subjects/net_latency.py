"""The 99th percentile of an echo's latency, at half of the requests each second that the server can do."""

from __future__ import annotations

from typing import Any

from benchmarks.registry import Stopwatch, Subject
from benchmarks.subjects import _servers
from benchmarks.subjects._net import measured

SUBJECT = Subject("net_latency", "Latency of an echo at half load, 99th percentile", "ms", "request")

N = 10_000


def _add(library: str, serve: Any) -> None:
    def function(n: int, watch: Stopwatch) -> None:
        full = measured(serve, n, Stopwatch(), "echo", 64, 1024)
        found = measured(serve, n, Stopwatch(), "paced", 64, 1024, str(n / full["wall"] / 2))
        watch.value = found["p99"]

    SUBJECT.add(library, function, N)


for _library, _serve in {
    "flower": _servers.flower,
    "uvloop protocol": _servers.uvloop_protocol,
    "asyncio+uvloop": _servers.asyncio_streams,
    "gevent": _servers.gevent,
}.items():
    _add(_library, _serve)

SUBJECT.at_most("p99, in a raw Protocol's", ("flower", ""), ("uvloop protocol", ""), 2)
