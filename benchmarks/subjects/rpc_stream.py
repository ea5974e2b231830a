"""RPC streams: the values of a generator, each an integer."""

from __future__ import annotations

from benchmarks.registry import Stopwatch, Subject
from benchmarks.subjects import _rpc

SUBJECT = Subject("rpc_stream", "RPC, values of a stream", "ns", "value")


@SUBJECT.by("flower", 100_000)
def flower(n: int, watch: Stopwatch) -> None:
    from flower import rpc

    with _rpc.server(_rpc.FLOWER) as url, rpc.connect(url) as peer:
        peer.call("add", 1, 1)
        with watch:
            count = 0
            for _ in peer.stream("count", n):
                count += 1
        assert count == n


SUBJECT.no("go", "net/rpc has no streams")
SUBJECT.at_most("one value of a stream: 250,000 a second", ("flower", ""), None, 4_000)
