"""RPC sessions over the simulated network: every call, stream and channel ends, and as it is documented to.

What is drawn is drawn before there is a peer, or in its ``with`` block: a draw is where Hypothesis ends an example that
has become too long, and what is open then is not closed.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import strategies as st

import flower
from flower import rpc
from flower.errors import ChannelBroken, RemoteAbort, RemoteError
from flower.testing import Deadlock, World, explore
from flower.time import sleep
from tests.explored.support import EXAMPLES

URL = "tcp://server:9000"
LOST = (OSError, ChannelBroken, RemoteAbort, flower.Timeout)  # what a call may end with when the network fails


def explored(test: Any) -> Any:
    """Explore it half as often as the tests of the core: it takes longer."""
    return pytest.mark.slow(explore(max_examples=EXAMPLES // 2, database=None, seed=5)(test))


class Service:
    def __init__(self) -> None:
        self.done: list[int] = []
        self.made = 0
        self.ended: list[str] = []

    def add(self, n: int) -> int:
        self.done.append(n)
        sleep(0.1)
        return n + 1

    def fail(self) -> None:
        raise KeyError("no such thing")

    def count(self, n: int) -> Iterator[int]:
        try:
            for i in range(n):
                self.made += 1
                yield i
        finally:
            self.ended.append("count")

    def fill(self, sender: Any, n: int) -> None:
        for i in range(n):
            sender.send(i)
        sender.close()

    def total(self, receiver: Any) -> int:
        return sum(receiver)


def served(w: World, service: Any, ping: bool = True) -> Any:
    """A peer on the host "client", of a server on the host "server"."""

    def server() -> None:
        with rpc.serve(URL, service):
            flower.never().receive()

    w.net.at("server").go(server, daemon=True, name="server")
    w.settle()
    with w.net.at("client"):
        peer = rpc.connect(URL)
    if ping:
        peer.ping()  # they know each other from here on
    return peer


@explored
def test_calls_at_once(w: World) -> None:
    service = Service()
    peer = served(w, service)
    results: dict[int, Any] = {}

    def call(n: int) -> None:
        results[n] = peer.call("add", n)

    def fail() -> None:
        with pytest.raises(RemoteError, match="no such thing"):
            peer.call("fail")

    for n in range(3):
        w.go(call, n, name=f"caller-{n}")
    w.go(fail, name="failing")
    w.advance(30)
    assert results == {0: 1, 1: 2, 2: 3}
    assert sorted(service.done) == [0, 1, 2]
    peer.close()


@explored
def test_a_stream_arrives_in_order_and_waits_for_its_reader(w: World) -> None:
    n = w.draw(st.sampled_from([0, 1, 5, 40]))
    service = Service()
    peer = served(w, service)
    got = []
    for i in peer.stream("count", n):
        got.append(i)
        if i == 2:
            sleep(1)
    assert got == list(range(n)) and service.made == n
    peer.close()
    w.advance(30)
    assert service.ended == ["count"]


@explored
def test_a_stream_that_nobody_wants_any_more_ends_there(w: World) -> None:
    how = w.draw(st.sampled_from(["close", "drop", "hang up"]))
    service = Service()
    peer = served(w, service)
    stream = peer.stream("count", 10**6)
    for i in stream:
        if i == 3:
            break
    if how == "close":
        stream.close()
    elif how == "hang up":
        peer.close()
    del stream
    w.advance(30)
    assert service.ended == ["count"] and service.made < 10**6
    peer.close()


@explored
def test_a_stream_that_is_asked_for_before_the_hello_is_answered(w: World) -> None:
    """The answer to the hello comes first, whatever the server's tasklets do: else its stream says nothing to us."""
    peer = served(w, Service(), ping=False)
    assert list(peer.stream("count", 3)) == [0, 1, 2]
    peer.close()


@explored
def test_channels_in_messages(w: World) -> None:
    ch: flower.channel[int] = flower.channel(w.draw(st.integers(0, 3)), label="theirs to fill")
    numbers: flower.channel[int] = flower.channel(w.draw(st.integers(0, 3)), label="theirs to sum")
    peer = served(w, Service())
    reply = peer.start("fill", ch.sender, 6)
    assert list(ch) == list(range(6))
    reply.receive()
    total = peer.start("total", numbers.receiver)
    for i in range(5):
        numbers.send(i)
    numbers.close()
    assert total.receive() == 10
    peer.close()


@pytest.mark.slow
@explore(max_examples=20, early_timers=0, database=None, seed=5)
def test_credit_grows_for_a_receiver_that_waits_for_what_is_far_away(w: World) -> None:
    """A stream of 3,000 values takes 92 round trips with credit for 64. It doubles up to 1,024 instead."""
    service = Service()
    peer = served(w, service)
    w.net.link("client", "server", 1.0)
    began = w.now
    got = list(peer.stream("count", 3000))
    assert got == list(range(3000))
    assert w.now - began < 35
    peer.close()


@pytest.mark.slow
@explore(max_examples=20, early_timers=0, database=None, seed=5)
def test_credit_does_not_grow_for_a_receiver_that_is_slow(w: World) -> None:
    """However far away it is, and however much it has received: no more is under way than the settings say."""
    service = Service()
    peer = served(w, service)
    w.net.link("client", "server", 0.1)
    stream = peer.stream("count", 3000)
    for i in range(1000):
        assert stream.receive() == i
        assert service.made <= i + 1 + 64 + 2
        sleep(0.1)
    stream.close()
    peer.close()


@explored
def test_whatever_breaks_everything_ends(w: World) -> None:
    """A call that was answered has been carried out; one that was not, once at most; a stream is whole, or fails."""
    trouble = w.draw(st.sampled_from(["none", "partition", "crash", "close"]))
    moment, outage = w.draw(st.sampled_from([0, 0.05, 0.15])), w.draw(st.sampled_from([1, 40]))
    service = Service()
    peer = served(w, service)
    w.net.faults("reset", "half-close", "partition")
    ended: list[str] = []
    answered: list[int] = []

    def call(n: int) -> None:
        try:
            assert peer.call("add", n, timeout=20) == n + 1
            answered.append(n)
        except LOST:
            pass
        ended.append("call")

    def read() -> None:
        got: list[int] = []
        try:
            for i in peer.stream("count", 8, timeout=20):
                got.append(i)
        except LOST:
            assert got == list(range(len(got)))
        else:
            assert got == list(range(8))
        ended.append("stream")

    def fill() -> None:
        ch: flower.channel[int] = flower.channel(1, label="theirs to fill")
        got: list[int] = []
        try:
            reply = peer.start("fill", ch.sender, 4, timeout=20)
            for i in ch:
                got.append(i)
            reply.receive()
            assert got == list(range(4))
        except LOST:
            assert got == list(range(len(got)))
        ended.append("channel")

    w.go(call, 1, name="caller-1")
    w.go(call, 2, name="caller-2")
    w.go(read, name="reader")
    w.go(fill, name="filler")
    sleep(moment)
    if trouble == "partition":
        w.net.partition("client", "server")
        w.advance(outage)
        w.net.heal()
    elif trouble == "crash":
        w.net.crash("server")
    elif trouble == "close":
        peer.close()
    w.advance(300)  # longer than any partition
    assert sorted(ended) == ["call", "call", "channel", "stream"]
    assert set(answered) <= set(service.done)
    assert len(service.done) == len(set(service.done))
    peer.close()


class Pusher:
    """Sends for ever to whom it is given, and receives nothing."""

    def push(self, sender: Any) -> None:
        for i in itertools.count():
            sender.send(i)

    def push_back(self) -> None:
        """Has the caller push to us, and pushes to it."""
        context = rpc.context()
        assert context is not None
        inward: flower.channel[int] = flower.channel(1, label="to the server")
        pushed = context.peer.start("push", inward.sender)
        outward: flower.channel[int] = flower.channel(1, label="to the client")
        told = context.peer.start("hold", outward.receiver)
        for i in itertools.count():
            outward.send(i)
        del pushed, told


class Holder(Pusher):
    def __init__(self) -> None:
        self.held: Any = None

    @rpc.method
    def push(self, sender: Any) -> None:
        super().push(sender)

    def hold(self, receiver: Any) -> None:
        self.held = receiver


def test_17_two_handlers_that_only_send_to_each_other_are_named_by_the_deadlock_report() -> None:
    @explore(max_examples=5, database=None, seed=5)
    def both(w: World) -> None:
        w.net.at("server").go(lambda: rpc.serve(URL, Pusher()) and flower.never().receive(), daemon=True)
        w.settle()
        holder = Holder()
        with w.net.at("client"):
            peer = rpc.connect(URL, holder)
        with peer:
            peer.call("push_back")

    with pytest.raises(Deadlock) as caught:
        both()
    text = str(caught.value)
    assert re.search(r"push waits in send\(\d+\) on 'channel \d+ to peer server", text), text
    assert re.search(r"push_back waits in send\(\d+\) on 'to the client'", text), text


@explored
def test_17_a_timeout_ends_two_handlers_that_only_send_to_each_other(w: World) -> None:
    """The deadline is passed on: it ends both, and the caller learns it."""
    w.net.at("server").go(lambda: rpc.serve(URL, Pusher()) and flower.never().receive(), daemon=True)
    w.settle()
    holder = Holder()
    with w.net.at("client"):
        peer = rpc.connect(URL, holder)
    with pytest.raises(flower.Timeout):
        peer.call("push_back", timeout=5)
    w.advance(20)
    if holder.held is not None:  # else it was too late for that
        with pytest.raises((ChannelBroken, RemoteAbort, RemoteError)):
            for _ in holder.held:
                pass
    assert not peer._session.inflight
    peer.close()


@explored
def test_a_deadline_ends_the_call_on_both_sides(w: World) -> None:
    started: list[str] = []

    class Slow:
        def wait(self) -> None:
            started.append("begun")
            try:
                sleep(50)
            finally:
                started.append("ended")

    timeout = w.draw(st.sampled_from([0.5, 5]))
    peer = served(w, Slow())
    with pytest.raises(flower.Timeout):
        peer.call("wait", timeout=timeout)
    w.advance(20)
    assert started in ([], ["begun", "ended"])
    peer.close()


@explored
def test_what_is_given_up_at_any_moment_leaves_nothing_at_either_side(w: World) -> None:
    """Before the handshake is done, too: every method that nobody waits for is cancelled, every channel stopped."""
    begun: list[str] = []
    ended: list[str] = []

    class Slow:
        def wait(self) -> None:
            begun.append("call")
            try:
                flower.never().receive()
            finally:
                ended.append("call")

        def fill(self, sender: Any) -> None:
            begun.append("channel")
            try:
                for i in itertools.count():
                    sender.send(i)
            finally:
                ended.append("channel")

    servers: list[Any] = []

    def server() -> None:
        with rpc.serve(URL, Slow()) as serving:
            servers.append(serving)
            flower.never().receive()

    w.net.at("server").go(server, daemon=True, name="server")
    w.settle()
    with w.net.at("client"):
        peer = rpc.connect(URL, handshake_timeout=1000)
    moment = st.sampled_from([0, 0.01, 0.1, 1])

    def call() -> None:
        with flower.move_on(w.draw(moment)):
            peer.call("wait")

    def start() -> None:
        reply = peer.start("wait")
        sleep(w.draw(moment))
        reply.receiver.close()

    def channel() -> None:
        mine: flower.channel[int] = flower.channel(w.draw(st.integers(0, 2)))
        reply = None
        with flower.move_on(w.draw(moment)):
            reply = peer.start("fill", mine.sender)
            mine.receive()
        mine.receiver.close()
        if reply is not None:
            with contextlib.suppress(flower.ChannelClosed, RemoteError):
                reply.receive()

    with peer:  # also when Hypothesis has had enough, and ends an example in a draw
        kinds = w.draw(st.lists(st.sampled_from([call, start, channel]), min_size=1, max_size=3))
        for number, kind in enumerate(kinds):
            w.go(kind, name=f"{kind.__name__}-{number}")
        w.advance(30)
        (session,) = servers[0]._sessions
        for side in (session, peer._session):
            assert not side.inflight
            assert not side.calls.pending
            assert not len(side.streams)
        assert sorted(begun) == sorted(ended)
