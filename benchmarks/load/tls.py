"""The load for servers that speak TLS: as load.c's ``echo``. Its own cost is not what is measured."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from typing import Any

import uvloop

port, connections, size, n, warmup, pid = map(int, sys.argv[1:])
CPU_OF_PID = (~pid << 3) | 2  # what clock_getcpuclockid(3) gives, on Linux
request = b"x" * size
begun: list[float] = []


async def main() -> None:
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    left = n + warmup

    class Client(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.missing = size

        def data_received(self, data: bytes) -> None:
            nonlocal left
            self.missing -= len(data)
            if self.missing == 0:
                left -= 1
                if left == n:
                    begun.extend([time.monotonic(), time.clock_gettime(CPU_OF_PID)])
                if left == 0:
                    over.set_result(None)
                elif left > 0:
                    self.missing = size
                    self.transport.write(request)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    clients = [(await loop.create_connection(Client, "127.0.0.1", port, ssl=context))[0] for _ in range(connections)]
    for transport in clients:
        transport.write(request)
    await over
    wall, cpu = time.monotonic() - begun[0], time.clock_gettime(CPU_OF_PID) - begun[1]
    print(json.dumps({"wall": wall, "cpu": cpu}))
    for transport in clients:
        transport.close()
    await asyncio.sleep(0.05)


uvloop.run(main())
