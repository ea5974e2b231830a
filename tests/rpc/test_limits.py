"""What is held for a peer is bounded, and a peer that keeps to its part loses nothing by that."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
import tracemalloc
from typing import Any

import msgpack
import pytest

import flower
from flower import rpc
from flower.errors import Overloaded, ProtocolError, RemoteError, Timeout
from flower.rpc import _serving
from flower.rpc._hello import Settings
from flower.rpc._pulse import Pulse
from flower.rpc._session import DEFAULTS
from flower.rpc._wire import Wire
from tests.net.support import NEVER, Program, failing, in_thread, rounds, until
from tests.rpc import link
from tests.rpc.support import URL, Calc, pair, raw_client, raw_server, served, settle

pytestmark = pytest.mark.usefixtures("loop")


def answers(sock: socket.socket) -> list[Any]:
    """All that a peer answers until it hangs up."""
    unpacker = msgpack.Unpacker()
    found: list[Any] = []
    while data := sock.recv(65536):
        unpacker.feed(data)
        found += unpacker
    return found


def ask(address: Any, requests: list[Any]) -> list[Any]:
    """A plain client: sends all in one go, says that this was all, and reads the answers."""
    with socket.create_connection(address, NEVER) as sock:
        sock.sendall(b"".join(map(msgpack.packb, requests)))
        sock.shutdown(socket.SHUT_WR)
        return answers(sock)


# -- Requests


def test_too_many_requests_at_once_are_refused() -> None:
    calc = Calc()
    with served(calc, Settings(max_inflight=3), Settings(plain=True)) as (_, peer):
        replies = [peer.start("wait", i) for i in range(5)]
        for reply in replies[3:]:
            with pytest.raises(RemoteError, match="overloaded"):
                reply.receive(NEVER)
        for _ in range(3):
            calc.gate.send(None, NEVER)
        assert [reply.receive(NEVER) for reply in replies[:3]] == [0, 1, 2]
        assert peer.call("add", 1, 1) == 2


def test_no_more_calls_are_made_than_the_peer_takes() -> None:
    """It would refuse them; that is known here already."""
    with raw_server(settings=Settings()) as (peer, raw):
        assert raw.receive()[2] == "$/hello"
        raw.send([1, 1, None, {"v": 1, "max_inflight": 2}])
        until(lambda: peer._session.peer_is == "flower")
        replies = [peer.start("m", i) for i in range(2)]
        assert [raw.receive()[1] for _ in replies] == [2, 3]
        for call in (peer.call, peer.start, peer.stream):
            with pytest.raises(Overloaded, match="2 calls wait") as caught:
                call("m", 3)
            assert caught.value.not_run
        pings = [flower.go(peer.ping) for _ in range(2)]
        assert [raw.receive()[2] for _ in pings] == ["$/ping", "$/ping"]
        raw.send([1, 2, None, "first"])
        assert replies[0].receive(NEVER) == "first"
        peer.start("m", 4)  # the pings, which have no answer yet, are no calls to the peer
        assert raw.receive()[1:3] == [6, "m"]
        raw.send([1, 4, None, None], [1, 5, None, None])
        for ping in pings:
            ping.join(NEVER)


def test_requests_that_came_in_one_piece_are_served() -> None:
    with served() as (server, _):
        finish = in_thread(ask, server.address, [[0, i, "add", [i, 1]] for i in range(3000)])
        assert sorted(finish()) == [[1, i, None, i + 1] for i in range(3000)]


def test_refusals_reach_a_peer_that_ended_its_sending() -> None:
    calc = Calc()
    with served(calc) as (server, _):
        count = DEFAULTS.max_inflight + 300
        finish = in_thread(ask, server.address, [[0, i, "wait", []] for i in range(count)])
        until(lambda: calc.gate.balance == -DEFAULTS.max_inflight and len(server._sessions) == 2)
        for _ in range(DEFAULTS.max_inflight):
            calc.gate.send(None, NEVER)
        found = finish()
        assert len(found) == count
        assert sum(error is None for _, _, error, _ in found) == DEFAULTS.max_inflight
        assert all(error is None or error.startswith("overloaded") for _, _, error, _ in found)


def test_requests_are_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_serving, "AT_MOST", 10_000)
    calc = Calc()
    with served(calc) as (_, peer):
        replies = [peer.start("wait", "x" * 4000) for _ in range(4)]
        for reply in replies[2:]:
            with pytest.raises(RemoteError, match=r"overloaded: 9.* bytes"):
                reply.receive(NEVER)
        for _ in range(2):
            calc.gate.send(None, NEVER)
        assert [len(reply.receive(NEVER)) for reply in replies[:2]] == [4000] * 2
        assert peer.call("note", "x" * 20_000) is None  # one alone may be larger


# -- Answers


class Blobs(Calc):
    """Gives answers that fill a connection, and counts how many it was asked for."""

    made = 0

    def blob(self, size: int = 100_000) -> bytes:
        self.made += 1
        return bytes(size)


@pytest.mark.slow
def test_no_more_answers_are_made_than_the_peer_reads() -> None:
    blobs = Blobs()
    with served(blobs) as (server, peer):
        with socket.create_connection(server.address, NEVER) as sock:
            sock.sendall(b"".join(msgpack.packb([0, i, "blob", []]) for i in range(500)))
            until(lambda: any(session.serving.room.balance < 0 for session in server._sessions))
            rounds(20)
            assert blobs.made < 300
            assert max(session.serving.unsent for session in server._sessions) < 2 * _serving.ENOUGH
            assert peer.call("add", 1, 1) == 2  # nobody else is held back
            sock.shutdown(socket.SHUT_WR)
            finish = in_thread(answers, sock)  # and now it reads
            assert sorted(msgid for _, msgid, _, _ in finish()) == list(range(500))


def test_a_peer_that_never_reads_is_held_back_and_costs_nobody_else() -> None:
    with served() as (server, peer):
        with raw_client(server) as raw:
            message = msgpack.packb([2, "no such", ["x" * 100_000]])
            raw.send(*[msgpack.packb([0, i, "echo", ["x" * 50_000]]) for i in range(1, 200)])
            until(lambda: any(session.serving.proceed.balance < 0 for session in server._sessions))
            sender = flower.go(lambda: [raw.conn.send(message) for _ in range(1000)])
            rounds(50)
            assert sender.blocked
            assert peer.call("add", 1, 1) == 2
            sender.kill()
            raw.conn.abort()
        until(lambda: len(server.peers) == 1)


def test_answers_that_are_all_ready_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_serving, "AT_MOST", 1_000_000)
    calc = Calc()
    with served(calc) as (server, _), socket.create_connection(server.address, NEVER) as sock:
        until(lambda: len(server.peers) == 2)
        (session,) = [s for s in server._sessions if s.conn.remote_addr() == sock.getsockname()]
        sock.sendall(b"".join(msgpack.packb([0, i, "wait", ["x" * 9_000]]) for i in range(100)))
        sock.shutdown(socket.SHUT_WR)
        until(lambda: calc.gate.balance == -100)
        session.serving.unsent += 900_000  # as if these waited for the peer to read
        for _ in range(100):
            calc.gate.send(None, NEVER)
        session.serving.unsent -= 900_000
        finish = in_thread(answers, sock)
        found = finish()
    assert len(found) == 100
    settle()


@pytest.mark.slow
def test_while_we_wait_for_an_answer_a_peer_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_serving, "ENOUGH", 1_000)
    monkeypatch.setattr(_serving, "AT_MOST", 50_000)
    with raw_server(Calc()) as (peer, raw):
        t = flower.go(peer.call, "question")
        assert raw.receive()[2] == "question"
        with pytest.raises(ProtocolError, match="does not read the answers"):
            for start in range(1, 1_000_000, 500):
                with contextlib.suppress(ConnectionError):  # it was cut off while it waited for room
                    raw.send(*[[0, i, "echo", ["x" * 1_000]] for i in range(start, start + 500)])
                rounds(1)
                if not t.alive:
                    t.join()


def test_short_answers_that_wait_are_counted_with_what_they_take() -> None:
    """The answer to a ping is five bytes, and takes twenty times as many where it waits."""
    a, b = link.linked({}, {})
    link.deliver_all(a, b)
    waiting = flower.go(b.call, "question")
    link.settle()
    b.serving.most = _serving.ENOUGH
    for number in range(1, 2000):
        a.conn.sent += msgpack.packb([0, number, "$/ping", []])
        a.conn.deliver(1 << 30)
        link.settle()
        if b.fault is not None:
            break
        if number == 1:  # no room from here on
            b.conn.sent += bytes(link.ROOM)
    assert 500 < number < 1900
    with pytest.raises(ProtocolError, match="does not read the answers"):
        waiting.join()
    a.conn.cut(None)
    link.settle()


# -- Notifications


def test_a_backlog_of_notifications_holds_back_its_sender() -> None:
    calc = Calc()
    with served(calc) as (server, peer):
        (session,) = server._sessions
        peer.notify("wait")
        data = "x" * 10_000
        sender = flower.go(lambda: [peer.notify("note", data) for _ in range(3000)])
        until(lambda: session.serving.proceed.balance == -1)
        rounds(20)
        assert session.serving.backlog < 3 * _serving.ENOUGH
        assert sender.blocked
        with rpc.connect(server.url) as other:
            assert other.call("add", 1, 1) == 2  # nobody else is held back
        calc.gate.send(None, NEVER)
        sender.join(NEVER)
        until(lambda: len(calc.log) == 3000)


def test_behind_a_backlog_answers_still_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_serving, "A_LOOK", 1000 * NEVER)
    calc = Calc()
    with raw_server(calc) as (peer, raw):
        note = msgpack.packb([2, "note", ["x" * 10_000]])
        raw.send([2, "wait", []], *[note] * 60)
        until(lambda: peer._session.serving.proceed.balance == -1)
        t = flower.go(peer.call, "question")
        assert raw.receive()[2] == "question"
        raw.send(*[note] * 60, [1, 1, None, "answer"])
        assert t.join(NEVER) == "answer"
        calc.gate.send(None, NEVER)
        until(lambda: len(calc.log) == 120)


def test_while_we_wait_for_an_answer_a_peer_that_notifies_too_much_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_serving, "ENOUGH", 1_000)
    monkeypatch.setattr(_serving, "AT_MOST", 50_000)
    with raw_server(Calc()) as (peer, raw):
        t = failing(peer.call, "question")
        assert raw.receive()[2] == "question"
        raw.send([2, "wait", []], *[[2, "note", ["x" * 1_000]]] * 100)
        error = t.join(NEVER)
        assert isinstance(error, ProtocolError)
        assert "faster than they are served" in str(error)
        with contextlib.suppress(ConnectionError):
            assert raw.receive() is None


def test_who_is_held_back_learns_of_the_close_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_serving, "A_LOOK", 1000 * NEVER)
    with raw_server(Calc()) as (peer, raw):
        raw.send([2, "wait", []], *[[2, "note", ["x" * 10_000]]] * 60)
        until(lambda: peer._session.serving.proceed.balance == -1)
        peer.close()
        until(lambda: flower.getruncount() == 1)
        assert peer._session.serving.proceed.balance == 0


def test_an_answer_that_nobody_waits_for_is_no_reason_to_read_on() -> None:
    """A call that had timed out, and was never answered, let the peer send until it was cut off."""
    calc = Calc()
    with raw_server(calc) as (peer, raw):
        with pytest.raises(Timeout):
            peer.call("question", timeout=0)
        assert raw.receive()[2] == "question"
        raw.send([2, "wait", []], *[[2, "note", ["x" * 10_000]]] * 60)
        until(lambda: peer._session.serving.proceed.balance == -1)
        calc.gate.send(None, NEVER)
        until(lambda: len(calc.log) == 60)


def test_two_peers_that_have_given_up_their_calls_do_not_wait_for_each_other() -> None:
    """Neither read on, since its answers had not left: so nothing came through any more, of channels neither."""
    gates: Any = [flower.channel(), flower.channel()]
    log: list[Any] = []

    def service(gate: Any) -> Any:
        return {"long": lambda: gate.receive(NEVER) or b"x" * 8_000_000, "note": log.append}

    with rpc.serve(URL, service(gates[0])) as server, rpc.connect(server.url, service(gates[1])) as peer:
        peer.ping(NEVER)
        peers = peer, *server.peers
        replies = [each.start("long") for _ in range(4) for each in peers]
        until(lambda: all(gate.balance == -4 for gate in gates))
        for n in range(4):
            for each, gate in zip(peers, gates, strict=True):
                gate.send(None, NEVER)
                flower.schedule()
                flower.go(each.notify, "note", n)
        for reply in replies:
            reply.receiver.close()
        until(lambda: len(log) == 8)
    settle()


@pytest.mark.parametrize("end", ["close", "half", "garbage"])
def test_notifications_before_the_peers_end_are_served(end: str, caplog: pytest.LogCaptureFixture) -> None:
    calc = Calc()
    with served(calc) as (server, _):
        with socket.create_connection(server.address, NEVER) as sock:
            sock.sendall(msgpack.packb([2, "wait", []]) + b"".join(msgpack.packb([2, "note", [i]]) for i in range(10)))
            if end == "garbage":
                sock.sendall(b"\xc1")
            if end != "close":
                sock.shutdown(socket.SHUT_WR)
            until(lambda: len(server.peers) == 1)
        until(lambda: calc.gate.balance == -1)
        calc.gate.send(None, NEVER)
        until(lambda: calc.log == list(range(10)))


def test_run_goes_on_until_the_last_notifications_of_a_peer_are_served() -> None:
    class Slow(Calc):
        def slow(self, value: int) -> None:
            rounds(3)
            self.log.append(value)

    slow = Slow()
    with raw_server(slow) as (_, raw):
        raw.send(*[[2, "slow", [i]] for i in range(5)])
        raw.conn.close()
        flower.run()
        assert slow.log == list(range(5))


def test_nothing_more_is_served_to_a_peer_that_we_closed() -> None:
    calc = Calc()
    with pair(calc) as (a, b):
        for i in range(5):
            b.notify("wait")
            b.notify("note", i)
        until(lambda: calc.gate.balance == -1)
        a.close()
        until(lambda: calc.gate.balance == 0)  # the one that ran was cancelled
        until(lambda: b.closed)
    assert calc.log == []


@pytest.mark.parametrize("count", [3, 20])
@pytest.mark.parametrize("how", ["kill", "exit", "cancel"])
def test_a_notification_that_ends_its_tasklet_does_not_stop_the_rest(how: str, count: int) -> None:
    class Ending(Calc):
        def note(self, value: Any) -> None:
            self.log.append(len(value))
            if len(self.log) == 1:
                self.gate.receive(NEVER)
                if how == "kill":
                    flower.getcurrent().kill()
                elif how == "exit":
                    raise SystemExit(3)
                else:
                    raise flower.Cancelled

    ending = Ending()
    with served(ending) as (server, peer):
        (session,) = server._sessions
        sender = flower.go(lambda: [peer.notify("note", b"x" * 30_000) for _ in range(count)])
        until(lambda: ending.gate.balance == -1)
        if count == 3:  # and no other comes
            assert peer.call("add", 1, 2) == 3
        else:
            until(lambda: session.serving.proceed.balance == -1)
        ending.gate.send(None, NEVER)
        sender.join(NEVER)
        until(lambda: len(ending.log) == count)
        assert peer.call("add", 1, 2) == 3


# -- Peers that are gone


def test_14_the_kernel_notices_that_the_peers_machine_is_gone() -> None:
    with served() as (server, peer):
        assert peer.call("add", 1, 2) == 3
        (session,) = server._sessions
        for end in (peer._session, session):
            sock = end.conn._stream._sock  # the options themselves: no other machine here can vanish
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        conn = peer._session.conn
        conn.keep_alive(5, 2, 2)
        assert conn._stream._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 9_000


def test_14_a_peer_that_gives_no_sign_of_life_is_given_up() -> None:
    with raw_server(settings=Settings(plain=True, heartbeat=0.02)) as (peer, raw):
        waiting = failing(peer.call, "m")
        assert raw.receive()[2] == "m"
        for _ in range(3):
            _, msgid, method, _ = raw.receive()
            assert method == "$/ping"
            raw.send([1, msgid, "what is that?", None])  # that is one
        with pytest.raises(ConnectionResetError):
            while raw.receive()[2] == "$/ping":
                pass
        assert "no sign of life for 0.04 s" in str(waiting.join(NEVER))


def test_14_any_byte_is_a_sign_of_life() -> None:
    with raw_server(settings=Settings(plain=True, heartbeat=0.02)) as (peer, raw):
        message = msgpack.packb([2, "m", ["x" * 20]])
        for at in range(len(message)):
            raw.send(message[at : at + 1])
            flower.time.sleep(0.005)
        assert not peer.closed
        assert peer._session.calls.made == 0


@pytest.mark.parametrize("why", ["not let in", "held back"])
def test_14_who_is_not_heard_is_not_given_up(why: str) -> None:
    """What it sends is not looked at."""
    calc = Calc()
    token = "secret" if why == "not let in" else None
    with rpc.serve(URL, calc, token=token) as server, raw_client(server) as raw:
        until(lambda: bool(server._sessions))
        (session,) = server._sessions
        if why == "held back":
            raw.send([2, "wait", []], *[[2, "note", ["x" * 10_000]]] * 60)
            until(lambda: session.serving.proceed.balance == -1)
        pulse = Pulse(session, 1000 * NEVER)
        for _ in range(3):
            pulse._look(pulse._due)
        pulse.stop()
        assert session.fault is None
        assert not session.outstanding
        if why == "held back":
            calc.gate.send(None, NEVER)
            until(lambda: len(calc.log) == 60)


def test_14_looking_for_signs_of_life_keeps_no_program_going() -> None:
    with served(ours=Settings(heartbeat=0.005)) as (server, peer):
        assert peer.call("add", 1, 2) == 3
        server._listener.close()
        with flower.timeout(NEVER):
            flower.run()
        assert not peer.closed


def test_14_a_peer_that_holds_us_back_says_that_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """It did not read what it was asked, and was given up."""
    monkeypatch.setattr(_serving, "A_LOOK", 0.005)
    calc = Calc()
    with served(calc, ours=Settings(heartbeat=0.05)) as (server, peer):
        (session,) = server._sessions
        peer.notify("wait")
        for _ in range(30):
            peer.notify("note", "x" * 10_000)
        until(lambda: session.serving.proceed.balance == -1)
        since = time.monotonic()
        until(lambda: time.monotonic() > since + 0.2 or peer.closed)  # it would have been given up by now
        assert not peer.closed
        calc.gate.send(None, NEVER)
        until(lambda: len(calc.log) == 30)


@pytest.mark.slow
def test_14_a_late_loop_of_our_own_proves_nothing() -> None:
    with served(settings=Settings(heartbeat=0.02), ours=Settings(heartbeat=0.02)) as (_, peer):
        assert peer.call("add", 1, 2) == 3
        flower.time.sleep(0.03)  # it has been asked
        time.sleep(0.2)  # this program does nothing at all
        flower.time.sleep(0.1)
        assert not peer.closed
        assert peer.call("add", 1, 2) == 3


@pytest.mark.slow
def test_14_a_program_that_is_stopped_is_noticed() -> None:
    with Program(STOPPABLE) as program:
        with rpc.connect(str(flower.blocking(program.line)), heartbeat=0.05) as peer:
            assert peer.call("add", 1, 2) == 3
            waiting = failing(peer.call, "wait")
            os.kill(program.process.pid, signal.SIGSTOP)
            assert "no sign of life" in str(waiting.join(NEVER))
            program.kill()


STOPPABLE = """
import flower
from flower import rpc

class Service:
    def add(self, a, b):
        return a + b

    def wait(self):
        flower.never().receive()

server = rpc.serve("tcp://127.0.0.1:0", Service())
print(server.url, flush=True)
flower.run()
"""


def test_14_a_ping_is_answered_while_every_method_waits() -> None:
    calc = Calc()
    with served(calc) as (_, peer):
        replies = [peer.start("wait") for _ in range(50)]
        until(lambda: calc.gate.balance == -50)
        assert peer._session.ping(NEVER) >= 0
        for _ in replies:
            calc.gate.send(None, NEVER)


# -- What bytes can become


@pytest.mark.slow
@pytest.mark.parametrize("tiny", [b"\x90", b"\x80", b"\xa0", b"\xc4\x00", b"\xd4\x47t"], ids=lambda tiny: tiny.hex())
def test_a_megabyte_of_tiny_values_is_refused_before_they_are_made(tiny: bytes) -> None:
    """They would become fifty megabytes, or what is allowed of it: 8 times the longest message."""
    count = 1_000_000 // len(tiny)
    wire = Wire(1024 * 1024)
    wire.codec.flower = True
    data = b"\x93\x02\xa1m\x91\xdd" + count.to_bytes(4, "big") + tiny * count
    tracemalloc.start()
    try:
        (event,) = wire.feed(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert event[0] == -1
    assert "of memory" in event[1]
    assert peak < 100_000
