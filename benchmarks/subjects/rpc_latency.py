"""How long a call takes under half the load that the server can bear: the median and the 99th percentile.

First calls are started one by one, as fast as that goes. Then they are made at half that rate, each at its time whether
or not the one before has been answered, and each is timed from when it was due.
"""

from __future__ import annotations

from benchmarks.registry import Stopwatch, Subject
from benchmarks.subjects import _rpc

SUBJECT = Subject("rpc_latency", "Latency of RPC at half load", "ns", "call", rounds=3)

MEDIAN, TAIL = "p50", "p99"


def _latencies(n: int) -> list[float]:
    import time

    import flower
    from flower import rpc

    clock = time.perf_counter
    taken: list[float] = []

    def one(due: float) -> None:
        peer.call("add", 1, 1)
        taken.append(clock() - due)

    with _rpc.server(_rpc.FLOWER) as url, rpc.connect(url) as peer:
        for _ in range(100):
            one(0.0)
        began = clock()
        with flower.group() as group:
            for _ in range(n):
                flower.time.sleep(0)
                group.go(one, began)
        pause = 2 * (clock() - began) / n
        taken.clear()
        due = clock()
        with flower.group() as group:
            for _ in range(n):
                due += pause
                while clock() < due:
                    flower.time.sleep(0)
                group.go(one, due)
    return sorted(taken)


@SUBJECT.by("flower", 5_000, MEDIAN, repeats=1)
def median(n: int, watch: Stopwatch) -> None:
    watch.value = _latencies(n)[n // 2]


@SUBJECT.by("flower", 5_000, TAIL, repeats=1)
def tail(n: int, watch: Stopwatch) -> None:
    watch.value = _latencies(n)[n * 99 // 100]


SUBJECT.go(5_000, MEDIAN, repeats=1)
SUBJECT.go(5_000, TAIL, repeats=1)
SUBJECT.no("grpc.aio", "it is compared where calls are in flight, and one at a time")
