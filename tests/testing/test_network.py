"""The simulated network, under unmodified flower.net and flower.rpc."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
from hypothesis import strategies as st

import flower
import flower.testing as ft
from flower.net import Dial, Listen
from tests.testing.support import found, holds, notes

SERVER = ("server", 80)


def echo(conn: Any) -> None:
    for chunk in conn:
        conn.send(chunk)


def serve(handler: Any = echo, **options: Any) -> None:
    with Listen(SERVER) as listener:
        listener.serve(handler, **options)


@pytest.mark.slow
def test_bytes_arrive_in_order_however_they_are_cut() -> None:
    def test(w: ft.World, data: bytes = st.binary(min_size=1, max_size=40)) -> None:  # type: ignore[assignment]
        w.net.at("server").go(serve, daemon=True)
        w.settle()
        with w.net.at("client"):
            conn = Dial("tcp", SERVER)
        assert conn.remote_addr() == SERVER and conn.local_addr()[0] == "client"
        conn.send(data)
        conn.send(data)
        conn.close_write()
        assert b"".join(conn) == data + data
        conn.close()

    holds(test, max_examples=200)


@pytest.mark.slow
def test_a_reader_that_trusts_one_read_is_found() -> None:
    def test(w: ft.World) -> None:
        got = []
        w.net.at("server").go(serve, lambda conn: got.append(conn.read()), daemon=True)
        w.settle()
        conn = Dial("tcp", SERVER)
        conn.send(b"hello")
        conn.close()
        w.advance(5)
        assert got == [b"hello"]

    found(AssertionError, test)


def test_what_is_sent_at_the_end_of_an_advance_has_arrived() -> None:
    """Also where it sets off a chain, of which each link is due at that moment."""
    got: list[bytes] = []

    def server() -> None:
        with Listen(("server", 80)) as listener, listener.receive() as conn:
            for data in conn:
                conn.send(data)

    def client() -> None:
        with Dial("tcp", ("server", 80)) as conn:
            for _ in range(3):
                flower.time.sleep(1)
                conn.send(b"beat")
                got.append(conn.read())

    with ft.virtual_clock() as w:
        w.net.at("server").go(server)
        w.net.at("client").go(client)
        w.advance(0)
        for beats in (1, 2, 3):
            w.advance(1)
            assert w.now == len(got) == beats


def test_refused_unknown_and_busy() -> None:
    def test(w: ft.World) -> None:
        with pytest.raises(ConnectionRefusedError, match="can't connect to tcp server:80"):
            Dial("tcp", SERVER)
        with Listen(("127.0.0.1", 0)) as listener:
            assert listener.addr()[0] == "local"
            with pytest.raises(OSError, match="already in use"):
                Listen(listener.addr())
            with Dial("tcp", listener.addr()) as conn, listener.receive() as other:
                assert conn.local_addr() == other.remote_addr()
        with pytest.raises(ValueError, match="unknown protocol"):
            Dial("sctp", SERVER)
        with pytest.raises(RuntimeError, match="not simulated"):
            Listen(("127.0.0.1", 0), "udp")
        with pytest.raises(ValueError, match="unknown fault"):
            w.net.faults("flood")

    holds(test, max_examples=5)


def test_a_real_event_loop_is_refused() -> None:
    async def nothing() -> None:
        pass

    def test(w: ft.World) -> None:
        from flower.net._loop import wait

        with pytest.raises(RuntimeError, match="a World has none"):
            wait(nothing())

    holds(test, max_examples=2)


@pytest.mark.slow
def test_resets_and_refusals_when_allowed() -> None:
    outcomes: set[str] = set()

    def test(w: ft.World) -> None:
        w.net.faults("reset", "refuse", "slow")
        w.net.at("server").go(serve, daemon=True)
        w.settle()
        try:
            with Dial("tcp", SERVER) as conn:
                for _ in range(3):
                    conn.send(b"0123456789")
                    assert conn.read_exactly(10) == b"0123456789"
            outcomes.add("done")
        except (OSError, EOFError) as error:
            outcomes.add(type(error).__name__)

    holds(test, max_examples=300)
    assert {"done", "ConnectionRefusedError", "ConnectionResetError"} <= outcomes


@pytest.mark.slow
def test_half_closes_when_allowed() -> None:
    """One direction ends in the middle of a write, cleanly; the other goes on until the writer writes again."""
    outcomes: set[str] = set()

    def test(w: ft.World) -> None:
        def server(conn: Any) -> None:
            try:
                got = conn.read_exactly(10)
            except flower.ChannelClosed:
                got = b""
            except EOFError:
                got = b"".join(conn)
                outcomes.add("cut")
            assert b"0123456789".startswith(got)
            w.net._faults.clear()
            conn.send(b"%d\n" % len(got))
            conn.read()

        w.net.at("server").go(serve, server, daemon=True)
        w.settle()
        w.net.faults("half-close")
        with Dial("tcp", SERVER) as conn:
            conn.send(b"0123456789")
            length = int(conn.read_until(b"\n"))
            outcomes.add("whole" if length == 10 else "answered though cut")
            if length < 10:
                with pytest.raises(OSError, match="roken"):
                    for _ in range(3):
                        conn.send(b"more")
                        w.advance(1)

    holds(test, max_examples=200, early_timers=0)
    assert outcomes == {"whole", "cut", "answered though cut"}
    assert "fault: half-close" in notes(found(AssertionError, lambda w: breaks(w, "half-close"), early_timers=0))


def breaks(w: ft.World, fault: str) -> None:
    """Fails as soon as something is different for the fault."""
    w.net.at("server").go(serve, daemon=True)
    w.settle()
    w.net.faults(fault)
    with w.net.at("client"), Dial("tcp", SERVER) as conn:
        conn.send(b"0123456789")
        try:
            got = conn.read_exactly(10, timeout=5)
        except (EOFError, flower.ChannelClosed, flower.Timeout) as error:
            raise AssertionError from error
    assert got == b"0123456789"


@pytest.mark.slow
def test_partitions_when_allowed() -> None:
    """Nothing gets through one way, for a while; then all does, in order. Another partition of the test's stays."""
    ways: set[str] = set()

    def test(w: ft.World) -> None:
        w.net.at("server").go(serve, daemon=True)
        w.settle()
        w.net.faults("partition")
        with w.net.at("client"), Dial("tcp", SERVER) as conn:
            for n in range(3):
                conn.send(b"%d" % n)
            assert conn.read_exactly(3) == b"012"
            assert w.now < 1000
            w.net.partition("client", "server")
            w.advance(300)
            conn.send(b"x")
            with pytest.raises(flower.Timeout):
                conn.read(timeout=500)
        ways.update(re.findall(r"\w+ -/-> \w+(?=: partitioned for)", w.log()))

    holds(test, max_examples=200, early_timers=0)
    assert ways == {"client -/-> server", "server -/-> client"}
    text = notes(found(AssertionError, lambda w: breaks(w, "partition"), early_timers=0))
    assert "server: partitioned for" in text or "client: partitioned for" in text


def test_wrong_use_of_the_network_is_refused() -> None:
    def test(w: ft.World) -> None:
        with pytest.raises(ValueError, match="at least 0, not -1"):
            w.net.link("a", "b", -1)
        with pytest.raises(TypeError, match="a number of seconds, not '1'"):
            w.net.link("a", "b", "1")  # type: ignore[arg-type]
        w.net.partition("a", "b")
        with pytest.raises(TypeError, match="the two hosts of a partition, or none"):
            w.net.heal("c")
        assert w.net.blocked("a", "b")
        with pytest.raises(TypeError, match="a host is a name, not 3"):
            w.net.crash(3)  # type: ignore[arg-type]
        for wrong in (w.net.partition, w.net.hold, w.net.release):
            with pytest.raises(TypeError, match="a host is a name, not None"):
                wrong("a", None)  # type: ignore[arg-type]
        with ft.connection_pair() as (near, _), pytest.raises(RuntimeError, match="a World has none"):
            near.start_tls(server_name="far")
        for address in (("a", 65_536), ("a", "http"), ("a",), "a:80"):
            for opens in (Listen, functools.partial(Dial, "tcp")):
                with pytest.raises((TypeError, ValueError), match="tcp address is"):
                    opens(address)
        host = w.net.at("twice")
        with host, host:
            assert w.net.identity()[0] == "twice"
        assert w.net.identity()[0] == "local"

    holds(test, max_examples=3)


def test_a_host_can_be_used_by_several_tasklets_at_once() -> None:
    def test(w: ft.World) -> None:
        host = w.net.at("server")
        turn = flower.channel()

        def work(operation: Any) -> None:
            with host:
                operation()
                assert w.net.identity()[0] == "server"
            assert w.net.identity()[0] == "local"

        w.go(work, turn.receive)
        w.go(work, lambda: turn.send(1))

    holds(test, max_examples=20)


def test_a_select_over_connections_of_which_something_is_left() -> None:
    """What stands for a channel gives a new one each time that it is asked: the log's is the one that is selected."""

    def test(w: ft.World) -> None:
        with ft.connection_pair() as (near, far):
            near.send(b"hello")
            assert far.read_exactly(1) == b"h"
            chosen = flower.select(None, far)
            assert chosen[0] is far and chosen.index == 1
            got = chosen[1]
            while len(got) < 4:
                got += flower.select(far, (flower.channel(), 1))[1]
            assert got == b"ello"
            assert flower.select((near, b"x"), far)[0] is near
            near.close()
            with pytest.raises(flower.ChannelClosed) as closed:
                flower.select(near)
            assert closed.value.channel is near

    holds(test, max_examples=20)


def test_a_port_that_is_taken_by_its_number_is_given_to_nobody_else() -> None:
    def test(w: ft.World) -> None:
        with Listen(("server", 49_153)), Listen(("server", 0)) as one, Listen(("server", 0)) as two:
            assert (one.addr()[1], two.addr()[1]) == (49_152, 49_154)

    holds(test, max_examples=2)


def test_a_crash_kills_whoever_is_on_the_host() -> None:
    def test(w: ft.World) -> None:
        seen: list[str] = []
        with w.net.at("server"):
            flower.go(seen.append, "has not begun")
        w.net.crash("server")

        def crashes_its_own() -> None:
            try:
                w.net.crash("server")
                seen.append("goes on")
            finally:
                seen.append("cleans up")

        w.net.at("server").go(crashes_its_own)
        w.settle()
        assert seen == ["cleans up"]
        with w.net.at("server"):
            w.net.crash("server")  # of the test itself
        w.net.crash("nobody")

    holds(test, max_examples=5)


def test_latency_partition_hold() -> None:
    def test(w: ft.World) -> None:
        w.net.link("client", "server", 0.5)
        w.net.at("server").go(serve, daemon=True)
        w.settle()
        with w.net.at("client"):
            conn = Dial("tcp", SERVER)
            assert w.now >= 1.0
            w.net.partition("client", "server")
            conn.send(b"late")
            with pytest.raises(flower.Timeout):
                conn.read(timeout=10)
            with pytest.raises(flower.Timeout):
                Dial("tcp", SERVER, timeout=5)
            with pytest.raises(TimeoutError, match="timed out"):
                Dial("tcp", SERVER)
            w.net.heal()
            assert conn.read_exactly(4) == b"late"
            w.net.hold("server", "client")
            conn.send(b"held")
            with pytest.raises(flower.Timeout):
                conn.read(timeout=10)
            w.net.release("server", "client")
            assert conn.read_exactly(4) == b"held"
            conn.close()

    holds(test, max_examples=30, early_timers=0)


@pytest.mark.parametrize("sent_first", [True, False])
@pytest.mark.parametrize("block, unblock", [("hold", "release"), ("partition", "heal")])
def test_who_lets_through_what_is_held_back_may_wait_for_the_writer(block: str, unblock: str, sent_first: bool) -> None:
    """The write buffer may count as full, but not until the test lets its bytes get through."""

    def test(w: ft.World) -> None:
        got: list[bytes] = []
        w.net.at("server").go(serve, got.extend, daemon=True)
        w.settle()
        with w.net.at("client"), Dial("tcp", SERVER) as conn:

            def writes() -> None:
                conn.send(b"one")
                conn.send(b"two")

            ways = [getattr(w.net, block)]
            if not sent_first:
                ways.pop()("client", "server")
            writer = w.go(writes)
            w.settle()
            for way in ways:
                way("client", "server")
            writer.join()
            getattr(w.net, unblock)("client", "server")
            w.advance(5)
        w.advance(5)
        assert b"".join(got) == b"onetwo"

    holds(test, max_examples=100)


@pytest.mark.slow
def test_crash_and_restart() -> None:
    def test(w: ft.World) -> None:
        ended: list[str] = []

        def server() -> None:
            try:
                serve()
            finally:
                ended.append("end")

        w.net.at("server").go(server, daemon=True)
        w.settle()
        conn = Dial("tcp", SERVER)
        conn.send(b"x")
        assert conn.read() == b"x"
        w.net.crash("server")
        w.settle()
        assert ended == ["end"]
        with pytest.raises(ConnectionResetError):
            conn.read()
        conn.close()
        with pytest.raises(ConnectionRefusedError):
            Dial("tcp", SERVER)
        w.net.restart("server", server, daemon=True)
        w.settle()
        with Dial("tcp", SERVER) as conn:
            conn.send(b"y")
            assert conn.read() == b"y"

    holds(test, max_examples=30)


@pytest.mark.slow
def test_backpressure() -> None:
    def test(w: ft.World) -> None:
        def slow(conn: Any) -> None:
            flower.time.sleep(5)
            got.append(len(b"".join(conn)))

        got: list[int] = []
        with Listen(SERVER, read_buffer=100) as listener:
            w.go(lambda: slow(listener.receive()))
            conn = Dial("tcp", SERVER, write_buffer=100)
            for n in range(10):
                conn.send(b"x" * 60)
                if n == 8:
                    assert w.now >= 5
            conn.close()
            w.advance(1)
        assert got == [600]

    holds(test, max_examples=30)


@pytest.mark.slow
def test_serve_with_a_limit_and_a_graceful_stop() -> None:
    def test(w: ft.World) -> None:
        running = [0, 0]

        def handler(conn: Any) -> None:
            running[0] += 1
            running[1] = max(running)
            try:
                for chunk in conn:
                    flower.time.sleep(1)
                    conn.send(chunk)
            finally:
                running[0] -= 1

        listener = Listen(SERVER)
        w.go(lambda: listener.serve(handler, limit=2), name="serve")

        def client(n: int) -> None:
            try:
                with Dial("tcp", SERVER) as conn:
                    conn.send(b"%d" % n)
                    assert conn.read() in (b"%d" % n, b"")
            except OSError:
                pass

        for n in range(4):
            w.go(client, n, name=f"client-{n}")
        w.advance(w.draw(st.sampled_from([0.5, 1.5, 3])))
        late = listener.stop(grace=2)
        w.advance(60)
        assert late <= 2 and running == [0, running[1]] and running[1] <= 2

    holds(test, max_examples=100)


def test_the_log_speaks_of_hosts() -> None:
    def test(w: ft.World) -> None:
        w.net.at("server").go(serve, daemon=True)
        w.settle()
        with w.net.at("client"), Dial("tcp", SERVER) as conn:
            conn.send(b"x")
            w.net.partition("client", "server")
            assert conn.read() == b"y"

    text = notes(found(ft.Finding, test, max_examples=20))
    assert "client <-/-> server: partitioned" in text
    assert "'server -> client'" in text
