"""An RPC stream of 64 KiB values, beside a bare transfer of as many bytes by uvloop's own protocols."""

from __future__ import annotations

from benchmarks.registry import Stopwatch, Subject
from benchmarks.subjects import _rpc

SUBJECT = Subject("rpc_blocks", "RPC, a stream of 64 KiB values", "ns", "value")

SIZE = 64 * 1024

# Sends as many blocks as it is asked for, in a line, as fast as the transport takes them.
RAW = """
import asyncio, uvloop

BLOCK = bytes(64 * 1024)

class Sender(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.left, self.paused = transport, 0, False

    def data_received(self, data):
        self.left = int(data)
        self.send()

    def send(self):
        while self.left and not self.paused:
            self.left -= 1
            self.transport.write(BLOCK)

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        self.send()

async def main():
    server = await asyncio.get_running_loop().create_server(Sender, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

uvloop.run(main())
"""


@SUBJECT.by("flower", 4_000)
def flower(n: int, watch: Stopwatch) -> None:
    from flower import rpc

    with _rpc.server(_rpc.FLOWER) as url, rpc.connect(url) as peer:
        peer.call("add", 1, 1)
        with watch:
            total = 0
            for block in peer.stream("blocks", n, SIZE):
                total += len(block)
        assert total == n * SIZE


@SUBJECT.by("uvloop", 4_000, "bare transfer")
def uvloop(n: int, watch: Stopwatch) -> None:
    import asyncio

    from benchmarks.subjects._peers import run_asyncio

    class Receiver(asyncio.Protocol):
        def __init__(self, done: asyncio.Future[None]) -> None:
            self.left = n * SIZE
            self.done = done

        def data_received(self, data: bytes) -> None:
            self.left -= len(data)
            if self.left == 0:
                self.done.set_result(None)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        transport, _ = await loop.create_connection(lambda: Receiver(done), _rpc.HOME, int(port))
        with watch:
            transport.write(b"%d\n" % n)
            await done
        transport.close()

    with _rpc.server(RAW) as port:
        run_asyncio(main)


SUBJECT.no("go", "net/rpc has no streams")
SUBJECT.at_most("64 KiB values, in a bare transfer", ("flower", ""), ("uvloop", "bare transfer"), 1 / 0.8)
