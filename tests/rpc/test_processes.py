"""Two, three and ten processes on one machine, each a server and a client of the next."""

from __future__ import annotations

import os
import signal
from collections import Counter
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


# -- A side that dies, or sleeps, while 1,000 calls and 100 streams run

CALLS, STREAMS = 1000, 100

BUSY = """
import flower
from flower import rpc
from flower.time import sleep

class Busy:
    def echo(self, value):
        return value

    def slow(self, value):
        sleep(0.01)
        return value

    def never(self):
        flower.channel().receive(60)

    def count(self):
        number = 0
        while True:
            yield number
            number += 1

    def idle(self):
        yield -1
        flower.channel().receive(60)

server = rpc.serve("tcp://127.0.0.1:0", Busy(), max_inflight=2000)
print(server.url, flush=True)
try:
    flower.run()
except KeyboardInterrupt:
    server.close()
"""


@contextmanager
def busy() -> Iterator[tuple[Program, rpc.Peer]]:
    with Program(BUSY) as program:
        with rpc.connect(str(flower.blocking(program.line))) as peer:
            yield program, peer
    settle()


def load(peer: rpc.Peer, outcomes: list[str]) -> list[flower.tasklet]:
    """Start the calls and the streams, each of which says how it ended. Returns when the streams are open."""
    opened: list[int] = []

    def call(number: int) -> None:
        method = ("echo", "slow", "never")[number % 3]
        try:
            while True:
                assert peer.call(method, *[number] * (method != "never")) == number
        except Disconnected as error:
            outcomes.append(f"call: {type(error).__name__}")

    def stream(number: int) -> None:
        expected = 0
        try:
            values = peer.stream("count" if number % 2 else "idle")
            opened.append(number)
            for value in values:
                assert value in (expected, -1)
                expected += 1
            outcomes.append("stream: a clean end")
        except Disconnected as error:
            outcomes.append(f"stream: {type(error).__name__}")

    tasklets = [flower.go(call, number) for number in range(CALLS)]
    tasklets += [flower.go(stream, number) for number in range(STREAMS)]
    until(lambda: len(opened) == STREAMS)
    return tasklets


def test_a_server_is_killed_under_load() -> None:
    outcomes: list[str] = []
    with busy() as (program, peer):
        tasklets = load(peer, outcomes)
        flower.time.sleep(0.3)
        assert outcomes == []
        program.kill(signal.SIGKILL)
        for t in tasklets:
            t.join(NEVER)
        assert Counter(outcomes) == {"call: Disconnected": CALLS, "stream: ChannelBroken": STREAMS}
        assert peer.closed


def test_a_server_sleeps_under_load_and_wakes() -> None:
    outcomes: list[str] = []
    with busy() as (program, peer):
        tasklets = load(peer, outcomes)
        flower.time.sleep(0.2)
        program.kill(signal.SIGSTOP)
        late = []
        for number in range(20):
            with pytest.raises(flower.Timeout):
                peer.call("echo", number, timeout=0.005)
            late.append(number)
        assert outcomes == []
        program.kill(signal.SIGCONT)
        assert [peer.call("echo", -number, timeout=NEVER) for number in range(20)] == [-number for number in range(20)]
        assert outcomes == []  # neither has a late answer gone to somebody else
        peer.close()
        for t in tasklets:
            t.join(NEVER)
        assert Counter(outcomes) == {"call: Disconnected": CALLS, "stream: ChannelBroken": STREAMS}
        program.kill(signal.SIGINT)
        flower.blocking(program.end)


CLIENT = """
import sys
import flower
from flower import rpc

with rpc.connect(sys.argv[1]) as peer:
    for number in range(1000):
        flower.go(peer.call, ("echo", "never")[number % 2], *[number] * (number % 2 == 0), timeout=60)
    for number in range(100):
        stream = peer.stream(("count", "idle")[number % 2])
        flower.go(lambda stream: [None for _ in stream], stream)
    print("under way", flush=True)
    flower.channel().receive(60)
"""


class Served:
    """What the client calls; it counts what goes on."""

    def __init__(self) -> None:
        self.running = 0
        self.echoed = 0
        self.gate = flower.channel()

    def echo(self, value: int) -> int:
        self.echoed += 1
        return value

    def never(self) -> None:
        self.running += 1
        try:
            self.gate.receive(NEVER)
        finally:
            self.running -= 1

    def count(self) -> Iterator[int]:
        self.running += 1
        try:
            yield from range(10**9)
        finally:
            self.running -= 1

    def idle(self) -> Iterator[int]:
        self.running += 1
        try:
            yield 0
            self.gate.receive(NEVER)
        finally:
            self.running -= 1


def test_a_client_is_killed_under_load() -> None:
    service = Served()
    with rpc.serve("tcp://127.0.0.1:0", service, max_inflight=2000) as server:
        with Program(CLIENT, server.url) as program:
            assert flower.blocking(program.line) == "under way"
            until(lambda: service.running == 600 and service.echoed == 500)
            program.kill(signal.SIGKILL)
            until(lambda: service.running == 0 and not server.peers)
        with rpc.connect(server.url) as peer:
            assert peer.call("echo", 1) == 1
    settle()
