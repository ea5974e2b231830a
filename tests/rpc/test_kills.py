"""A process that is killed or stopped in the midst of 1,000 calls and 100 streams: everything ends, in a known way."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import Any

import pytest

import flower
from flower import channel, rpc
from flower.errors import ChannelBroken, Disconnected, Timeout
from flower.rpc import Settings
from tests.net.support import NEVER, Program, until

pytestmark = pytest.mark.slow

CALLS = 1000
STREAMS = 100
MANY = Settings(max_inflight=CALLS + STREAMS)

SERVER = """
import flower
from flower import channel, rpc
from flower.rpc import Settings

class Service:
    def __init__(self):
        self.gate = channel()

    def echo(self, value):
        return value

    def wait(self):
        self.gate.receive()

    def endless(self):
        n = 0
        while True:
            yield n
            n += 1

    def drain(self, receiver):
        for value in receiver:
            flower.schedule()

with rpc.serve("tcp://127.0.0.1:0", Service(), settings=Settings(max_inflight=1200)) as server:
    print(server.url, flush=True)
    flower.run()
"""


class Load:
    """Calls and streams in both directions on one connection, and how each ended."""

    def __init__(self, peer: Any) -> None:
        self.peer = peer
        self.ends: Counter[str] = Counter()
        self.values = 0
        self.open = 0  # streams
        self.tasks = [flower.go(self.call, i) for i in range(CALLS)]
        self.tasks += [flower.go(self.read) for _ in range(STREAMS // 2)]
        self.tasks += [flower.go(self.write) for _ in range(STREAMS // 2)]

    def note(self, what: str, work: Any) -> None:
        try:
            work()
        except Exception as error:
            self.ends[f"{what}: {type(error).__name__}"] += 1
        else:
            self.ends[f"{what}: done"] += 1

    def call(self, i: int) -> None:
        def work() -> None:
            while True:
                assert self.peer._session.call("echo" if i % 2 else "wait", (i,) if i % 2 else ()) == i

        self.note("call", work)

    def read(self) -> None:
        def work() -> None:
            values = self.peer._session.stream("endless")
            self.open += 1
            for expected, value in enumerate(values):
                assert value == expected
                self.values += 1

        self.note("read", work)

    def write(self) -> None:
        def work() -> None:
            ch = channel(4)
            self.peer._session.begin("drain", (ch.receiver,))
            while True:
                ch.send(b"x" * 100)

        self.note("write", work)

    def join(self) -> None:
        for t in self.tasks:
            t.join(NEVER)
        assert sum(self.ends.values()) == CALLS + STREAMS


def test_the_server_is_killed() -> None:
    with Program(SERVER) as program, rpc.connect(str(flower.blocking(program.line)), settings=MANY) as peer:
        load = Load(peer)
        until(lambda: load.values > 2000 and load.open == STREAMS // 2)
        program.kill()
        load.join()
        assert set(load.ends) == {"call: Disconnected", "read: ChannelBroken", "write: ChannelBroken"}
        assert not peer._session.calls.pending
        assert not len(peer._session.streams)
        with pytest.raises(Disconnected):
            peer.call("echo", 1)


def test_the_server_stops_and_goes_on() -> None:
    with Program(SERVER) as program, rpc.connect(str(flower.blocking(program.line)), settings=MANY) as peer:
        load = Load(peer)
        until(lambda: load.values > 1000)
        os.kill(program.process.pid, signal.SIGSTOP)
        with pytest.raises(Timeout):
            peer.call("echo", 1, timeout=0.3)
        before = load.values
        os.kill(program.process.pid, signal.SIGCONT)
        assert peer.call("echo", 2, timeout=NEVER) == 2
        until(lambda: load.values > before + 1000)
        assert not load.ends
        peer.close()
        load.join()
        assert all(end.split()[1] in ("Disconnected", "ChannelBroken", "ChannelClosed") for end in load.ends)


def test_the_client_is_killed() -> None:
    class Service:
        def __init__(self) -> None:
            self.gate = channel()
            self.ends: Counter[str] = Counter()

        def wait(self) -> None:
            self.gate.receive(NEVER)

        def drain(self, receiver: Any) -> None:
            try:
                for _ in receiver:
                    pass
            except ChannelBroken:
                self.ends["broken"] += 1

        def endless(self) -> Any:
            try:
                while True:
                    yield 1
            finally:
                self.ends["stopped"] += 1

    service = Service()
    with rpc.serve("tcp://127.0.0.1:0", service, settings=MANY) as server:
        client = f"""
            import flower
            from flower import channel, rpc
            peer = rpc.connect({server.url!r})
            session = peer._session
            calls = [session.begin("wait") for _ in range({CALLS})]
            ins = [session.stream("endless") for _ in range({STREAMS // 2})]
            outs = [channel(4) for _ in range({STREAMS // 2})]
            for ch in outs:
                session.begin("drain", (ch.receiver,))
                ch.send(1)
            print("ready", flush=True)
            flower.run()
            while True:
                for end in ins:
                    end.receive()
                for ch in outs:
                    ch.send(b"x" * 1000)
        """
        with Program(client) as program:
            assert str(flower.blocking(program.line)).strip() == "ready"
            until(lambda: service.gate.balance == -CALLS)
            program.kill()
            until(lambda: service.ends == {"broken": STREAMS // 2, "stopped": STREAMS // 2})
            until(lambda: service.gate.balance == 0)
            until(lambda: not server.peers)


def test_the_client_stops_and_goes_on() -> None:
    """Its streams wait with bounded memory, its calls stand, others are served; then all goes on, in order."""

    class Service:
        def __init__(self) -> None:
            self.gate = channel()
            self.made = self.taken = self.ended = 0

        def echo(self, value: Any) -> Any:
            return value

        def wait(self) -> None:
            self.gate.receive(NEVER)

        def endless(self) -> Any:
            try:
                while True:
                    self.made += 1
                    yield b"x" * 1000
            finally:
                self.ended += 1

        def drain(self, receiver: Any) -> None:
            try:
                for expected, value in enumerate(receiver):
                    assert value == expected
                    self.taken += 1
            except ChannelBroken:
                self.ended += 1

    service = Service()
    with rpc.serve("tcp://127.0.0.1:0", service, settings=MANY) as server:
        client = f"""
            import flower
            from flower import channel, rpc

            def read(stream):
                for _ in stream:
                    pass

            def write(ch):
                n = 0
                while True:
                    ch.send(n)
                    n += 1

            peer = rpc.connect({server.url!r})
            calls = [peer.start("wait") for _ in range({CALLS})]
            for _ in range({STREAMS // 2}):
                flower.go(read, peer.stream("endless"))
                ch = channel(4)
                peer.start("drain", ch.receiver)
                flower.go(write, ch)
            for reply in calls:
                reply.receive()
            print("answered", flush=True)
            flower.never().receive()
        """
        with Program(client) as program:
            until(lambda: service.gate.balance == -CALLS and service.taken > 1000 and service.made > 1000)
            os.kill(program.process.pid, signal.SIGSTOP)
            with rpc.connect(server.url) as other:
                before = -1
                while before != service.made:  # until the streams wait for credit, and what was sent is here
                    before = service.made
                    for i in range(20):
                        assert other.call("echo", i, timeout=NEVER) == i
                    flower.time.sleep(0.02)
                waiting = service.taken
                assert other.call("echo", 1, timeout=NEVER) == 1
            (session,) = (peer._session for peer in server.peers if peer._session.inflight)
            assert session.serving.waiting < 300_000
            assert session.inflight >= CALLS
            os.kill(program.process.pid, signal.SIGCONT)
            until(lambda: service.made > before + 1000 and service.taken > waiting + 1000)
            assert not service.ended
            for _ in range(CALLS):
                service.gate.send(None, NEVER)
            assert str(flower.blocking(program.line)).strip() == "answered"
            until(lambda: session.inflight == STREAMS)  # the last of them may be behind many values
            program.kill()
            until(lambda: service.ended == STREAMS and not server.peers)
