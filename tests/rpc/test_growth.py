"""Nothing is left of what has ended: calls, streams, channels, connections, by the hundred and in every way."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

import flower
from flower import channel, rpc
from flower.rpc import Settings
from tests.net.support import NEVER, until
from tests.rpc.support import URL, Calc, settle

pytestmark = pytest.mark.slow

SLACK = 16 * 1024  # bytes: a dict or a deque of ours may have grown


class Service(Calc):
    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    def fill(self, sender: Any) -> None:
        sender.send(1)
        sender.close()

    def total(self, receiver: Any) -> int:
        return sum(receiver)

    def never(self) -> None:
        flower.never().receive()


def calls(peer: rpc.Peer) -> None:
    for i in range(200):
        assert peer.call("echo", [i]) == [i]
        peer.notify("unknown", i)


def failures(peer: rpc.Peer) -> None:
    for _ in range(50):
        with suppress(ValueError):
            peer.call("fail", "why")


def timeouts(peer: rpc.Peer) -> None:
    for _ in range(20):
        with suppress(flower.Timeout):
            peer.call("never", timeout=0.001)


def in_time(peer: rpc.Peer) -> None:
    for i in range(50):
        assert peer.call("echo", i, timeout=NEVER) == i
        assert peer.start("echo", i, timeout=NEVER).receive() == i
        assert sum(peer.stream("count", 100, timeout=NEVER)) == 4950  # which have not all come with the answer


def given_up(peer: rpc.Peer) -> None:
    replies = [peer.start("never") for _ in range(50)]
    for reply in replies:
        reply.receiver.close()
    peer.ping()


def streams(peer: rpc.Peer) -> None:
    for _ in range(50):
        assert sum(peer.stream("count", 3)) == 3


def stopped_streams(peer: rpc.Peer) -> None:
    for _ in range(50):
        stream = peer.stream("count", 10**6)
        stream.receive()
        stream.close()


def dropped_streams(peer: rpc.Peer) -> None:
    for _ in range(50):
        peer.stream("count", 10**6).receive()


def channels(peer: rpc.Peer) -> None:
    for capacity in (0, 2) * 25:
        theirs: Any = channel(capacity)
        reply = peer.start("fill", theirs.sender)
        assert list(theirs) == [1]
        reply.receive()
        ours: Any = channel(capacity)
        reply = peer.start("total", ours.receiver)
        ours.send(3)
        ours.close()
        assert reply.receive() == 3


def connections(peer: rpc.Peer) -> None:
    for _ in range(10):
        with rpc.connect(peer.call("url"), heartbeat=NEVER) as other:
            other.call("echo", 1)


@pytest.mark.parametrize(
    "work",
    [calls, failures, timeouts, in_time, given_up, streams, stopped_streams, dropped_streams, channels, connections],
    ids=lambda work: work.__name__,
)
def test_what_has_ended_leaves_nothing(work: Callable[[rpc.Peer], None]) -> None:
    service: Any = Service()
    service_table = {name: getattr(service, name) for name in ("echo", "fail", "count", "fill", "total", "never")}
    with rpc.serve(URL, {**service_table, "url": lambda: server.url}, settings=Settings(max_inflight=2000)) as server:
        with rpc.connect(server.url) as peer:

            def held() -> tuple[int, int]:
                work(peer)
                until(lambda: len(server._sessions) == 1)
                (session,) = server._sessions
                until(lambda: not (session.inflight or len(session.streams) or len(peer._session.streams)))
                until(lambda: not (peer._session.calls.pending or session.serving.backlog))
                flower.time.sleep(0.005)
                gc.collect()
                return len(gc.get_objects()), tracemalloc.get_traced_memory()[0]

            tracemalloc.start()
            try:
                held()
                held()
                objects, size = held()
                for _ in range(3):
                    more, larger = held()
            finally:
                tracemalloc.stop()
            assert more - objects < 30, "objects"
            assert larger - size < SLACK, "bytes"
    settle()
