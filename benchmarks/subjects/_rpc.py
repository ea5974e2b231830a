"""What the RPC subjects share: servers in processes of their own, and the peers' sides of them.

Client and server are a process each, so that on a machine of two cores each has one. The client is timed. The
server says where it listens in one line, and ends when its standard input does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

HOME = "127.0.0.1"
IN_FLIGHT = 64


@contextmanager
def server(program: str) -> Iterator[str]:
    """Run a server, a program in Python; gives the line that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        assert process.stdout
        line = process.stdout.readline().strip()
        if not line:
            raise RuntimeError("the server did not start")
        yield line
    finally:
        process.kill()
        process.wait()


# Flower's own. It lives as long as the client does not kill it.
FLOWER = """
import flower
from flower import rpc

class Service:
    told = 0

    def add(self, a, b):
        return a + b

    def tell(self, value):
        self.told += 1

    def told_so_far(self):
        return self.told

    def count(self, n):
        yield from range(n)

    def blocks(self, n, size):
        block = bytes(size)
        for _ in range(n):
            yield block

    def wait(self, value):
        GATE.receive()
        return value

    def open(self, n):
        for _ in range(n):
            GATE.send(None)

GATE = flower.channel()
server = rpc.serve("tcp://127.0.0.1:0", Service(), max_inflight=20_000)
print(server.url, flush=True)
flower.run()
"""

# The same bytes back, with nothing of RPC.
FLOWER_ECHO = """
from flower.net import Listen

def echo(conn):
    for data in conn:
        conn.send(data)

listener = Listen(("127.0.0.1", 0))
print(listener.addr()[1], flush=True)
listener.serve(echo)
"""

# gRPC without Protocol Buffers: the messages are bytes, which is the least that it can have to do.
GRPC = """
import asyncio
import grpc, grpc.aio

class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(add)

async def add(request, context):
    return request

async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()

asyncio.run(main())
"""
