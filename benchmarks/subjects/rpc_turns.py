"""RPC, one call at a time, beside a bare echo of the same bytes."""

from __future__ import annotations

from benchmarks.registry import Stopwatch, Subject
from benchmarks.subjects import _rpc

SUBJECT = Subject("rpc_turns", "RPC, one call at a time", "ns", "call")

# The bytes of peer.call("add", i, 1) to a Flower peer: an i of three bytes, an id of three.
REQUEST = b"\x94\x00\xcd\x12\x34\xa3add\x92\xcd\x12\x34\x01"


@SUBJECT.by("flower", 10_000)
def flower(n: int, watch: Stopwatch) -> None:
    from flower import rpc

    with _rpc.server(_rpc.FLOWER) as url, rpc.connect(url) as peer:
        call = peer.call
        call("add", 1, 1)
        with watch:
            for i in range(n):
                call("add", i, 1)


@SUBJECT.by("flower.net", 10_000, "bare echo")
def echo(n: int, watch: Stopwatch) -> None:
    from flower.net import Dial

    with _rpc.server(_rpc.FLOWER_ECHO) as port, Dial("tcp", (_rpc.HOME, int(port))) as conn:
        send, receive = conn.send, conn.receive
        send(REQUEST)
        receive()
        with watch:
            for _ in range(n):
                send(REQUEST)
                receive()


@SUBJECT.by("grpc.aio", 1_000)
def grpc_aio(n: int, watch: Stopwatch) -> None:
    import asyncio

    import grpc.aio

    async def main(port: str) -> None:
        async with grpc.aio.insecure_channel(f"{_rpc.HOME}:{port}") as channel:
            add = channel.unary_unary("/service/add")
            await add(b"")
            with watch:
                for _ in range(n):
                    await add(b"\x93\xa3add\x01\x01")

    with _rpc.server(_rpc.GRPC) as port:
        asyncio.run(main(port))


SUBJECT.go(10_000)
SUBJECT.at_most("one at a time, in bare echoes", ("flower", ""), ("flower.net", "bare echo"), 1 / 0.85)
SUBJECT.faster("one at a time, faster than Go's net/rpc", ("flower", ""), ("go", ""), 1.0)
