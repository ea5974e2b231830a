"""Two, three and ten processes on one machine, each a server and a client of the next."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

import flower
from flower import rpc
from flower.errors import Disconnected
from tests.net.support import NEVER, Program, until
from tests.rpc.support import settle

pytestmark = pytest.mark.slow

# A node of a ring: it passes on to the next what it is given, and adds its own process.
NODE = """
import os
import flower
from flower import rpc

class Node:
    next = None

    def join(self, url):
        self.next = rpc.connect(url)

    def travel(self, hops, seen):
        seen = [*seen, os.getpid()]
        return self.next.call("travel", hops - 1, seen) if hops else seen

    def count(self, hops, value):
        return self.next.call("count", hops - 1, value + 1) if hops else value

    def part(self):
        self.next.close()
        self.next = None

server = rpc.serve("tcp://127.0.0.1:0", Node())
print(server.url, flush=True)
try:
    flower.run()
except KeyboardInterrupt:
    server.close()
"""


@contextmanager
def ring(count: int) -> Iterator[list[tuple[int, rpc.Peer]]]:
    """So many processes, each connected to the next and the last to the first, and a peer for each."""
    with ExitStack() as stack:
        programs = [stack.enter_context(Program(NODE)) for _ in range(count)]
        urls = [str(flower.blocking(program.line)) for program in programs]
        peers = [stack.enter_context(rpc.connect(url)) for url in urls]
        for number, peer in enumerate(peers):
            peer.call("join", urls[(number + 1) % count], timeout=NEVER)
        yield [(program.process.pid, peer) for program, peer in zip(programs, peers, strict=True)]
        for program, peer in zip(programs, peers, strict=True):
            if not peer.closed:
                peer.call("part", timeout=NEVER)
                peer.close()
                program.kill(signal.SIGINT)
                flower.blocking(program.end)
    settle()


@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_ring(count: int) -> None:
    with ring(count) as nodes:
        pids = [pid for pid, _ in nodes]
        assert nodes[0][1].call("travel", 2 * count - 1, [], timeout=NEVER) == pids * 2
        # Each of them asks all the others, many times at once.
        askers = [
            flower.go(peer.call, "count", hops, 0, timeout=NEVER) for _, peer in nodes for hops in range(2 * count)
        ]
        assert [asker.join() for asker in askers] == [hops for _ in nodes for hops in range(2 * count)]


def test_the_death_of_one_in_the_ring_is_told_to_all_who_wait_for_it() -> None:
    with ring(3) as nodes:
        (_, first), (_, second), (pid, third) = nodes
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Disconnected):
            third.call("count", 0, 0, timeout=NEVER)
        with pytest.raises(rpc.RemoteError, match=r"(peer closed|reset|[Bb]roken)"):
            first.call("travel", 2, [], timeout=NEVER)
        assert second.call("count", 0, 5, timeout=NEVER) == 5
        until(lambda: third.closed)
