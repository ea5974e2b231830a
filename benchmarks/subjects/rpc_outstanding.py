"""RPC with very many calls outstanding over one connection: a call must cost what it costs among few.

Each of the calls waits at the server until all are there; then they are let go, and answered. Their start, their
wait and their answer are timed together.

The target is for a server that has had as many before. Beside it stands what it costs the first time, when a greenlet
is made for each: of a hundred at a time, that is the price of one in a hundred.
"""

from __future__ import annotations

from typing import Any

from benchmarks.registry import Stopwatch, Subject
from benchmarks.subjects import _rpc

SUBJECT = Subject("rpc_outstanding", "RPC, many calls outstanding", "ns", "call", rounds=3)

FEW, MANY, FIRST = "100 outstanding", "10,000 outstanding", "10,000 outstanding, the first time"


def _outstanding(n: int, watch: Stopwatch, at_a_time: int, first: bool = False) -> None:
    from flower import rpc

    with _rpc.server(_rpc.FLOWER) as url, rpc.connect(url) as peer:
        peer.call("add", 1, 1)
        if not first:
            _wave(peer, at_a_time)
        with watch:
            for _ in range(0, n, at_a_time):
                _wave(peer, at_a_time)


def _wave(peer: Any, at_a_time: int) -> None:
    replies = [peer.start("wait", i) for i in range(at_a_time)]
    peer.call("open", at_a_time)
    for reply in replies:
        reply.receive()


@SUBJECT.by("flower", 10_000, FEW)
def few(n: int, watch: Stopwatch) -> None:
    _outstanding(n, watch, min(n, 100))


@SUBJECT.by("flower", 10_000, MANY)
def many(n: int, watch: Stopwatch) -> None:
    _outstanding(n, watch, min(n, 10_000))


@SUBJECT.by("flower", 10_000, FIRST)
def first(n: int, watch: Stopwatch) -> None:
    _outstanding(n, watch, min(n, 10_000), first=True)


SUBJECT.at_most("10,000 outstanding, in calls among 100", ("flower", MANY), ("flower", FEW), 1.25)
