"""RPC with 64 calls in flight over one connection, server and client a process each."""

from __future__ import annotations

from benchmarks.registry import Stopwatch, Subject
from benchmarks.subjects import _rpc

SUBJECT = Subject("rpc_calls", "RPC, 64 calls in flight", "ns", "call")


@SUBJECT.by("flower", 30_000)
def flower(n: int, watch: Stopwatch) -> None:
    import flower
    from flower import rpc

    def caller(count: int) -> None:
        for i in range(count):
            peer.call("add", i, 1)

    with _rpc.server(_rpc.FLOWER) as url, rpc.connect(url) as peer:
        peer.call("add", 1, 1)
        with watch, flower.group() as group:
            for i in range(_rpc.IN_FLIGHT):
                group.go(caller, n // _rpc.IN_FLIGHT + (i < n % _rpc.IN_FLIGHT))


@SUBJECT.by("grpc.aio", 1_500)
def grpc_aio(n: int, watch: Stopwatch) -> None:
    import asyncio

    import grpc.aio

    async def main(port: str) -> None:
        async with grpc.aio.insecure_channel(f"{_rpc.HOME}:{port}") as channel:
            add = channel.unary_unary("/service/add")

            async def caller(count: int) -> None:
                for _ in range(count):
                    await add(b"\x93\xa3add\x01\x01")

            await caller(1)
            with watch:
                await asyncio.gather(
                    *(caller(n // _rpc.IN_FLIGHT + (i < n % _rpc.IN_FLIGHT)) for i in range(_rpc.IN_FLIGHT))
                )

    with _rpc.server(_rpc.GRPC) as port:
        asyncio.run(main(port))


SUBJECT.go(60_000)
SUBJECT.no("gevent", "it has no RPC of its own")
SUBJECT.faster("64 in flight, faster than Go's net/rpc", ("flower", ""), ("go", ""), 1.5)
SUBJECT.faster("64 in flight, faster than grpc.aio", ("flower", ""), ("grpc.aio", ""), 30)
