"""Memory of an idle session at a server, beside that of a bare idle connection.

The growth of the server's resident memory over 500 clients, which are connections of one process.
"""

from __future__ import annotations

from benchmarks.registry import Stopwatch, Subject
from benchmarks.subjects import _rpc

SUBJECT = Subject("rpc_memory", "Memory of an idle RPC session at its server", "bytes", "session", rounds=3)

SESSION, BARE, BEYOND = "session", "bare connection", "session beyond its connection"

RESIDENT = """
import gc, os

def resident():
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
"""

RPC = RESIDENT + _rpc.FLOWER.replace(
    "    told = 0\n", "    told = 0\n\n    def resident(self):\n        return resident()\n"
)

# A listener whose connections are each read by a tasklet, and an RPC server that tells of the process's memory.
CONNECTIONS = (
    RESIDENT
    + """
import flower
from flower import rpc
from flower.net import Listen

def read(conn):
    for data in conn:
        conn.send(data)

listener = Listen(("127.0.0.1", 0))
flower.tasklet(listener.serve)(read)
server = rpc.serve("tcp://127.0.0.1:0", {"resident": resident})
print(server.url, listener.addr()[1], flush=True)
flower.run()
"""
)


def _of_sessions(n: int) -> float:
    from flower import rpc

    with _rpc.server(RPC) as url, rpc.connect(url) as peer:
        peers = []
        before = 0
        for number in range(n + 50):  # the first ones make what all of them share
            if number == 50:
                before = peer.call("resident")
            peers.append(rpc.connect(url))
            peers[-1].call("add", 1, 1)
        after: int = peer.call("resident")
        for other in peers:
            other.close()
    return (after - before) / n


def _of_connections(n: int) -> float:
    from flower import rpc
    from flower.net import Dial

    with _rpc.server(CONNECTIONS) as told:
        url, port = told.split()
        with rpc.connect(url) as peer:
            conns = []
            before = 0
            for number in range(n + 50):
                if number == 50:
                    before = peer.call("resident")
                conns.append(Dial("tcp", (_rpc.HOME, int(port))))
                conns[-1].send(b"x" * 20)
                conns[-1].receive()
            after: int = peer.call("resident")
            for conn in conns:
                conn.close()
    return (after - before) / n


@SUBJECT.by("flower", 500, SESSION, repeats=1)
def session(n: int, watch: Stopwatch) -> None:
    watch.value = _of_sessions(n)


@SUBJECT.by("flower", 500, BARE, repeats=1)
def bare(n: int, watch: Stopwatch) -> None:
    watch.value = _of_connections(n)


@SUBJECT.by("flower", 500, BEYOND, repeats=1)
def beyond(n: int, watch: Stopwatch) -> None:
    watch.value = max(1.0, _of_sessions(n) - _of_connections(n))


SUBJECT.at_most("an idle session beyond its connection: 24 KiB", ("flower", BEYOND), None, 24 * 1024)
