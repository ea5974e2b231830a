"""RPC notifications: sent one after the other, counted once the server has handled them all."""

from __future__ import annotations

from benchmarks.registry import Stopwatch, Subject
from benchmarks.subjects import _rpc

SUBJECT = Subject("rpc_notify", "RPC notifications", "ns", "notification")


@SUBJECT.by("flower", 100_000)
def flower(n: int, watch: Stopwatch) -> None:
    import flower
    from flower import rpc
    from flower.time import sleep

    def tell() -> None:
        for i in range(n):
            peer.notify("tell", i)
        while peer.call("told_so_far") < n:
            sleep(0.001)

    with _rpc.server(_rpc.FLOWER) as url, rpc.connect(url) as peer:
        peer.call("add", 1, 1)
        with watch:
            flower.go(tell).join()


SUBJECT.no("go", "net/rpc has no notifications")
SUBJECT.no("grpc.aio", "gRPC has no notifications")
SUBJECT.at_most("one notification: 250,000 a second", ("flower", ""), None, 4_000)
