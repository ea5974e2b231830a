"""Datagrams: a channel of (data, address), with bounds, and peers that know nothing of Flower."""

from __future__ import annotations

import errno
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

import flower
from flower.errors import ChannelClosed, Timeout
from flower.net import Datagrams, Dial, Listen
from flower.net._udp import COST
from tests.net.support import HOME, NEVER, failing, in_thread, plain_peer, rounds, until

pytestmark = pytest.mark.usefixtures("loop")

SOON = 0.005  # seconds; a timeout that a test waits for


@contextmanager
def heard(**options: Any) -> Iterator[tuple[Datagrams, Datagrams]]:
    """One that hears everybody, and one that sends to it."""
    with Listen((HOME, 0), "udp", **options) as here, Dial("udp", here.addr()) as there:
        yield here, there


@contextmanager
def plain(where: Any = (HOME, 0)) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(where)
        sock.settimeout(NEVER)
        yield sock


@pytest.mark.parametrize("size", [0, 1, 1400, 65_507])
def test_datagrams_arrive_whole_with_their_address(size: int) -> None:
    with heard() as (here, there):
        there.send(b"x" * size)
        assert here.receive(NEVER) == (b"x" * size, there.addr())
        here.send(b"y" * size, there.addr())
        assert there.receive(NEVER) == (b"y" * size, here.addr())
        there.send(b"between")
        there.send(b"")
        assert [here.read(), here.read()] == [b"between", b""]


def test_the_seeds_spelling() -> None:
    with heard() as (here, there):
        there.write("grüße")
        assert here.read(timeout=NEVER) == "grüße".encode()


def test_select_and_iteration() -> None:
    with heard() as (here, there):
        quit = flower.channel(1)
        there.write("one")
        source, (data, address) = flower.select(here, quit, timeout=NEVER)
        assert (source, data, address) == (here, b"one", there.addr())
        there.write("two")
        for data, _address in here:
            assert data == b"two"
            here.close()
        with pytest.raises(ChannelClosed, match="closed") as caught:
            flower.select(here, quit)
        assert caught.value.channel is here


def test_a_plain_peer() -> None:
    with plain() as sock, Listen((HOME, 0), "udp") as here:
        sock.sendto(b"question", here.addr())
        data, address = here.receive(NEVER)
        assert (data, address) == (b"question", sock.getsockname())
        here.send(b"answer", ("localhost", address[1]))  # a name is looked up
        assert in_thread(sock.recvfrom, 100)() == (b"answer", here.addr())


def test_socat() -> None:
    with Listen((HOME, 0), "udp") as here:
        program = subprocess.Popen(
            ["socat", "-t", "5", "-", f"UDP:{HOME}:{here.addr()[1]},shut-none"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert program.stdin is not None and program.stdout is not None
        program.stdin.write(b"hello")
        program.stdin.flush()
        data, address = here.receive(NEVER)
        here.send(data.upper(), address)
        assert in_thread(program.stdout.read, 5)() == b"HELLO"
        program.kill()
        program.communicate()


def test_ipv6() -> None:
    with Listen(("::1", 0), "udp") as here, Dial("udp", here.addr()) as there:
        there.write("six")
        data, address = here.receive(NEVER)
        here.send(data, address)
        assert there.read(timeout=NEVER) == b"six"
        with pytest.raises(OSError, match=r"127\.0\.0\.1:9"):
            here.send(b"x", (HOME, 9))
        for flow in -1, 2**20:
            with pytest.raises(ValueError, match=rf"udp address: \('::1', 9, {flow}, 0\)"):
                here.send(b"x", ("::1", 9, flow, 0))


def test_local_addr() -> None:
    with Listen((HOME, 0), "udp") as here, Dial("udp", here.addr(), local_addr=("127.0.0.2", 0)) as there:
        there.write("x")
        assert here.receive(NEVER)[1] == there.addr()
        assert there.addr()[0] == "127.0.0.2"


def test_local_addr_chooses_among_a_host_s_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def both(host: str, *args: Any, **kwargs: Any) -> Any:
        hosts = ("::1", HOME) if host == "both.example" else (host,)
        return [info for one in hosts for info in real(one, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    for local, host in (HOME, HOME), ("::1", "::1"):
        with Dial("udp", ("both.example", 9), local_addr=(local, 0)) as there:
            assert there.remote_addr()[0] == host


def test_a_slow_receiver_loses_and_knows_how_many() -> None:
    with heard(read_buffer=10 * (COST + 100)) as (here, there):
        for i in range(50):
            there.send(b"%100d" % i)
        until(lambda: len(here._incoming) + here.dropped == 50)
        assert here.dropped == 40
        assert [int(here.read()) for _ in range(10)] == list(range(10))
        there.send(b"after")
        assert here.read(timeout=NEVER) == b"after"


def test_what_is_larger_than_the_buffer_is_received_where_nothing_else_is() -> None:
    with heard(read_buffer=1) as (here, there):
        for _ in range(2):
            there.send(b"x" * 100)
            assert here.read(timeout=NEVER) == b"x" * 100
        assert here.dropped == 0


def test_a_receiver_that_is_always_a_little_behind_loses_nothing() -> None:
    with heard(read_buffer=20_000) as (here, there):
        for n in range(200):
            there.send(b"%03d" % n + b"x" * 1000)
            rounds(2)
            if n:
                assert here.receive(NEVER)[0][:3] == b"%03d" % (n - 1)
        assert here.dropped == 0


def test_what_the_kernel_dropped_is_counted_too() -> None:
    with heard() as (here, there):
        for floods in 1, 2:
            for _ in range(1000):
                there.send(b"x" * 10_000)  # nobody takes them out of the kernel meanwhile
            until(lambda: len(here._incoming))
            rounds(50)
            there.send(b"last")
            rounds(50)
            assert here.dropped > 900
            assert here.dropped + len(here._incoming) == floods * 1001
        assert len(here._incoming) <= 30


def test_timeouts_and_cancellation() -> None:
    with heard() as (here, there):
        with pytest.raises(Timeout, match=f"udp {HOME}:{here.addr()[1]}, open>: nothing came within {SOON} s"):
            here.receive(SOON)
        with pytest.raises(Timeout):
            here.read(timeout=SOON)
        with flower.move_on(SOON):
            here.receive()
        t = flower.go(here.receive)
        rounds(1)
        t.kill()
        there.write("kept")
        assert here.read(timeout=NEVER) == b"kept"


def test_a_timeout_bounds_the_look_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    held = flower.channel()
    real = socket.getaddrinfo

    def slow(host: str, *args: Any, flags: int = 0, **kwargs: Any) -> Any:
        if host == "slow.example" and not flags & socket.AI_NUMERICHOST:
            for _ in held:
                pass
            host = HOME
        return real(host, *args, flags=flags, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with Listen((HOME, 0), "udp") as here, Listen((HOME, 0), "udp") as other:
        name = "slow.example", here.addr()[1]
        with pytest.raises(Timeout, match=f"not sent within {SOON} s"):
            other.send(b"never", name, SOON)
        with pytest.raises(Timeout, match=rf"udp slow\.example:\d+: not connected within {SOON} s"):
            Dial("udp", name, timeout=SOON)
        held.close()
        other.send(b"x", name, NEVER)
        assert here.receive(NEVER) == (b"x", other.addr())


def test_a_full_kernel_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with heard() as (here, there):
        port = there._port
        full = True
        looks: list[None] = []
        on_writable = type(port)._on_writable
        monkeypatch.setattr(type(port), "_on_writable", lambda self: (looks.append(None), on_writable(self)))
        send = type(port)._try_send
        monkeypatch.setattr(type(port), "_try_send", lambda self, *args: not full and send(self, *args))
        with pytest.raises(Timeout, match=f"not sent within {SOON} s"):
            there.send(b"never", timeout=SOON)
        senders = [flower.go(there.send, b"%d" % i) for i in range(3)]
        rounds(3)
        assert all(t.alive for t in senders)
        full = False
        for t in senders:
            t.join(NEVER)
        assert sorted(here.read(timeout=NEVER) for _ in senders) == [b"0", b"1", b"2"]
        rounds(3)
        looks.clear()
        rounds(3)
        assert looks == []  # there is room, and nobody waits for it
        full = True
        blocked = failing(there.send, b"x")
        rounds(2)
        there.close()
        assert isinstance(blocked.join(NEVER), ChannelClosed)


def test_multicast() -> None:
    group = "239.192.3.7"
    with Listen(("", 0), "udp", reuse_addr=True) as here, Listen((HOME, 0), "udp") as there:
        port = here.addr()[1]
        there._port.sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(HOME))
        here.join(group, HOME)
        there.send(b"to all", (group, port))
        assert here.receive(NEVER) == (b"to all", there.addr())
        with pytest.raises(OSError, match=r"239\.192\.3\.7"):
            here.join(group, HOME)
        here.leave(group, HOME)
        there.send(b"to all others", (group, port))
        there.send(b"to you", (HOME, port))
        assert here.read(timeout=NEVER) == b"to you"
        for attempt in (lambda: here.leave(group, HOME), lambda: here.join("127.0.0.1"), lambda: here.join("none")):
            with pytest.raises(OSError, match=r"can't (join|leave) the group"):
                attempt()


def test_multicast_ipv6() -> None:
    """Not every machine has a route for it; but the kernel tells who has joined."""
    group = "ff01::7:3"

    def joined() -> bool:
        return socket.inet_pton(socket.AF_INET6, group).hex() in Path("/proc/net/igmp6").read_text()

    with Listen(("::", 0), "udp") as here:
        here.join(group, "lo")
        assert joined()
        here.leave(group, "lo")
        assert not joined()
        with pytest.raises(OSError, match="can't leave the group 'ff01::7:3' on udp"):
            here.leave(group, "lo")


def test_nobody_listens_there() -> None:
    with plain() as sock:
        where = sock.getsockname()
    with Dial("udp", where) as there:
        there.write("anybody?")
        with pytest.raises(ConnectionRefusedError, match=f"{HOME}:{where[1]}"):
            there.receive(NEVER)


@pytest.mark.parametrize("told", ["receive", "select", "send"])
def test_a_refusal_that_nobody_catches_ends_no_program(told: str) -> None:
    with plain() as sock:
        where = sock.getsockname()

    def ask() -> None:
        with Dial("udp", where) as there:
            there.write("anybody?")
            if told == "receive":
                there.receive(NEVER)
            elif told == "select":
                flower.select(there, timeout=NEVER)
            else:  # before the loop is told
                there.write("anybody?")

    before = flower.set_error_handler(None)
    try:
        t = flower.go(ask)
        with redirect_stderr(StringIO()) as err:
            until(lambda: not t.alive)
            rounds(2)  # nothing is raised here, in main
        assert "ConnectionRefusedError" in err.getvalue()
    finally:
        flower.set_error_handler(before)


def test_what_is_behind_a_refusal_is_dropped_by_a_close() -> None:
    with plain() as sock:
        where = sock.getsockname()
    with Dial("udp", where) as there:
        there.write("anybody?")
        until(lambda: len(there._incoming) == 1)
        with plain(where) as sock:
            sock.sendto(b"here", there.addr())
            until(lambda: len(there._incoming) == 2)
        there.close()
        with pytest.raises(ChannelClosed):
            there.receive()


@pytest.mark.parametrize("told", ["receive", "send"])
def test_a_refusal_is_not_the_end(told: str) -> None:
    """Whoever was told of it: when somebody listens there at last, he is heard."""
    with plain() as sock:
        where = sock.getsockname()
    with Dial("udp", where) as there:
        for _ in range(5):
            there.write("anybody?")
            with pytest.raises(ConnectionRefusedError):
                if told == "receive":
                    there.receive(NEVER)
                else:
                    while True:
                        there.write("really nobody?")
        rounds(3)
        with plain(where) as sock:
            with suppress(ConnectionRefusedError):  # of the last time
                there.write("hello")
            there.write("hello")
            data, back = sock.recvfrom(100)
            assert data == b"hello"
            sock.sendto(b"here I am", back)
            until(lambda: len(there._receive_channel))
            while True:
                try:
                    assert there.receive(NEVER) == (b"here I am", where)
                    break
                except ConnectionRefusedError:
                    pass


def test_a_refusal_that_another_of_the_same_turn_is_told_of_is_not_the_end() -> None:
    """The loop is told that there is something, and then there is nothing any more."""
    with plain() as sock:
        where = sock.getsockname()
    with Dial("udp", where) as there, plain_peer() as (conn, peer):

        def ask() -> None:
            conn.receive()
            with suppress(ConnectionRefusedError):
                there.write("nobody yet?")

        t = flower.go(ask)
        rounds(3)
        peer.sendall(b"x")
        there.write("anybody?")
        t.join(NEVER)
        rounds(3)
        with plain(where) as sock:
            with suppress(ConnectionRefusedError):
                there.write("hello")
            sock.sendto(b"here I am", there.addr())
            with flower.timeout(NEVER):
                while True:
                    with suppress(ConnectionRefusedError):
                        assert there.receive() == (b"here I am", where)
                        break


def test_refusals_that_nobody_receives_are_bounded() -> None:
    with plain() as sock:
        where = sock.getsockname()
    with Dial("udp", where, read_buffer=10 * COST) as there:
        for _ in range(50):
            with suppress(ConnectionRefusedError):
                there.write("anybody?")
            rounds(2)
        assert len(there._receive_channel) <= 10
        assert there.dropped == 0  # these were no datagrams


@pytest.mark.parametrize(
    ("address", "error"),
    [(5, TypeError), ((HOME, -1), ValueError), ((HOME, 70_000), ValueError), ((HOME, "9"), TypeError)],
)
def test_bad_addresses(address: Any, error: Any) -> None:
    with Listen((HOME, 0), "udp") as here:
        for attempt in (
            lambda: here.send(b"x", address),
            lambda: Listen(address, "udp"),
            lambda: Dial("udp", address),
        ):
            with pytest.raises(error, match="udp address"):
                attempt()


def test_nobody_is_at_port_0() -> None:
    with pytest.raises(ValueError, match=r"port 0, in \('127.0.0.1', 0\)"):
        Dial("udp", (HOME, 0))


def test_what_can_not_be_sent() -> None:
    with Listen((HOME, 0), "udp") as here:
        with pytest.raises(OSError, match=r"127\.0\.0\.1:9") as caught:
            here.send(b"x" * 70_000, (HOME, 9))
        assert caught.value.errno == errno.EMSGSIZE
        with pytest.raises(OSError, match="no address given") as caught:
            here.send(b"x")
        assert caught.value.errno == errno.EDESTADDRREQ
        with pytest.raises(TypeError, match="takes bytes"):
            here.send("text", (HOME, 9))
        with pytest.raises(socket.gaierror, match=r"unknown\.invalid:9"):
            here.send(b"x", ("unknown.invalid", 9))
        with pytest.raises(OSError, match=str(here.addr()[1])) as caught:
            Listen(here.addr(), "udp")
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError, match=r"192\.0\.2\.77:0"):
            Dial("udp", (HOME, 9), local_addr=("192.0.2.77", 0))


def test_closed() -> None:
    with heard() as (here, there):
        receiver = failing(here.receive)
        rounds(1)
        here.close()
        here.close()
        assert isinstance(receiver.join(NEVER), ChannelClosed)
        for attempt in (here.receive, here.read, lambda: here.send(b"x", (HOME, 9)), lambda: here.join("239.1.2.3")):
            with pytest.raises(ChannelClosed) as caught:
                attempt()
            assert caught.value.channel is here
        assert (here.status, here.closed, there.status) == ("closed", True, "open")
        assert list(here) == []


def test_another_thread_may_receive_and_close_but_not_send() -> None:
    with heard() as (here, there):
        with pytest.raises(RuntimeError, match="another thread"):
            in_thread(there.send, b"x")()
        there.write("y")
        assert in_thread(here.read)() == b"y"
        in_thread(here.close)()
        until(lambda: here.closed)


def test_dropped_it_warns_and_closes() -> None:
    here = Listen((HOME, 0), "udp")
    port = here._port
    with pytest.warns(ResourceWarning, match="dropped, and not closed"):
        del here
    assert port.sock is None


def test_what_it_looks_like() -> None:
    with heard() as (here, there):
        assert here and there
        assert there.remote_addr() == here.addr() == here.local_addr()
        assert here.remote_addr() is None
        assert f"udp {HOME}:{here.addr()[1]}, open" in repr(here)
        assert f"-> {HOME}:{here.addr()[1]}, open" in repr(there)
