"""Dial: connections to whoever is there, and clear words about those who are not."""

from __future__ import annotations

import asyncio
import errno
import math
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import flower
from flower.errors import Timeout
from flower.net import Dial, Listen
from flower.net._address import check_host_port
from flower.net._loop import io_poller, wait
from flower.net._open import _DIAL, _LISTEN
from flower.net._options import Options
from flower.net._tcp import Settings, _Race, connect_first, in_turn
from tests.net.certificates import certificates
from tests.net.support import HOME, NEVER, in_thread, listening, output, rounds

pytestmark = pytest.mark.usefixtures("loop")

SOON = 0.005  # seconds; a timeout that a test waits for

BAD_ADDRESSES = [
    (5, TypeError),
    (None, TypeError),
    ("127.0.0.1:80", TypeError),
    ((HOME,), TypeError),
    ((HOME, "80"), TypeError),
    ((HOME, 80.0), TypeError),
    ((HOME, True), TypeError),
    ((5, 80), TypeError),
    ((b"127.0.0.1", 80), TypeError),
    ((HOME, -1), ValueError),
    ((HOME, 65_536), ValueError),
    (("::1", 80, 0, True), TypeError),
    (("::1", 80, 0, "1"), TypeError),
    (("a\0b", 80), ValueError),
    (("." * 5, 80), (ValueError, OSError)),
    (("x" * 100, 80), (ValueError, OSError)),
]


@pytest.mark.parametrize(("address", "error"), BAD_ADDRESSES)
def test_bad_addresses(address: Any, error: Any) -> None:
    for attempt in (lambda: Dial("tcp", address), lambda: Listen(address, "tcp")):
        with pytest.raises(error) as caught:
            attempt()
        shown = address[0] if isinstance(address, tuple) and isinstance(address[0], str) else address
        assert ascii(shown)[1:-1] in str(caught.value)


@pytest.mark.parametrize("proto", ["", "TCP", "sctp", 5, None, [], b"tcp"])
def test_unknown_protocols(proto: Any) -> None:
    for attempt in (lambda: Dial(proto, (HOME, 80)), lambda: Listen((HOME, 0), proto)):
        with pytest.raises(ValueError, match="unknown protocol") as caught:
            attempt()
        assert repr(proto) in str(caught.value)
        assert "tcp" in str(caught.value)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOME, 0))
        port: int = sock.getsockname()[1]
        return port


def test_a_refused_connection_names_the_address() -> None:
    port = free_port()
    with pytest.raises(ConnectionRefusedError, match=f"{HOME}:{port}"):
        Dial("tcp", (HOME, port))


def test_a_connection_to_itself_is_a_refused_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may choose the port for this end that nobody listens at: the two ends are then one."""
    port = free_port()
    with monkeypatch.context() as patch:
        patch.setattr(Settings, "apply", lambda _self, sock: sock.bind((HOME, port)))
        with pytest.raises(ConnectionRefusedError, match=f"{HOME}:{port}"):
            Dial("tcp", (HOME, port))
    Listen((HOME, port)).close()  # and nothing of it is left


def test_an_address_that_can_not_be_reached_is_named() -> None:
    with pytest.raises(OSError, match=r"can't connect to tcp 224\.0\.0\.1:9") as caught:
        Dial("tcp", ("224.0.0.1", 9))  # of a group: no connection leads there
    assert caught.value.errno == errno.ENETUNREACH


def test_a_name_that_is_not_known() -> None:
    with pytest.raises(socket.gaierror, match=r"name-that-is-not-known\.invalid:80") as caught:
        Dial("tcp", ("name-that-is-not-known.invalid", 80))
    assert "Unknown error" not in str(caught.value)  # the resolver's numbers are not the system's


def test_the_last_port() -> None:
    assert check_host_port("tcp", (HOME, 65_535)) == (HOME, 65_535)


def test_dial_parks_only_its_caller() -> None:
    with listening() as listener:
        order: list[str] = []

        def dialer() -> None:
            conn = Dial("tcp", listener.addr())
            order.append("connected")
            conn.close()

        t = flower.go(dialer)
        flower.go(lambda: order.append("another"))
        t.join(NEVER)
        listener.receive(NEVER).close()
    assert order == ["another", "connected"]


def full_backlog() -> Any:
    """A listening socket that answers nobody: its queue is full, so a connection to it hangs."""
    sock = socket.socket()
    sock.bind((HOME, 0))
    sock.listen(0)
    fill = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(sock.getsockname())
        fill.append(filler)
    return sock, fill


@pytest.mark.parametrize("how", ["timeout", "scope", "kill"])
def test_a_dial_that_is_given_up_leaves_nothing(how: str) -> None:
    sock, fill = full_backlog()
    address = sock.getsockname()
    try:
        if how == "timeout":
            with pytest.raises(Timeout, match=f"{HOME}:{address[1]}"):
                Dial("tcp", address, timeout=SOON)
        elif how == "scope":
            with flower.move_on(SOON) as scope:
                Dial("tcp", address)
            assert scope.expired
        else:
            t = flower.go(Dial, "tcp", address)
            rounds(2)
            assert t.blocked
            t.kill()
            rounds(2)
            assert not t.alive
    finally:
        sock.close()
        for filler in fill:
            filler.close()


def test_dial_from_several_tasklets_at_once() -> None:
    with listening() as listener:
        dialers = [flower.go(Dial, "tcp", listener.addr()) for _ in range(20)]
        far = [listener.receive(NEVER) for _ in range(20)]
        near = [t.join(NEVER) for t in dialers]
        assert {c.local_addr() for c in near} == {c.remote_addr() for c in far}
        for conn in near + far:
            conn.close()


# -- Several addresses, RFC 8305


def infos_of(*addresses: tuple[Any, ...]) -> list[Any]:
    six = [socket.AF_INET6 if ":" in address[0] else socket.AF_INET for address in addresses]
    return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", a) for family, a in zip(six, addresses, strict=True)]


def test_the_families_take_turns() -> None:
    a, b, c, d = ("::1", 1), ("::2", 1), ("127.0.0.1", 1), ("::3", 1)
    assert [info[4] for info in in_turn(infos_of(a, b, c, d))] == [a, c, b, d]
    assert [info[4] for info in in_turn(infos_of(c, a))] == [c, a]
    assert [info[4] for info in in_turn(infos_of(c, a, b, d))] == [c, a, b, d]


def test_an_address_that_refuses_costs_no_time() -> None:
    with listening() as listener:
        infos = infos_of(("::1", listener.addr()[1]), listener.addr())  # nobody listens on ::1
        with (
            flower.timeout(NEVER),
            wait(connect_first(io_poller(), "tcp", infos, [], Settings(True, True), HOME)) as sock,
        ):
            assert sock.getpeername() == listener.addr()
        listener.receive(NEVER).close()


def test_an_address_that_does_not_answer_is_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flower.net._tcp.STAGGER", SOON)
    silent, fill = full_backlog()
    try:
        with listening() as listener:
            infos = infos_of(silent.getsockname(), listener.addr())
            with wait(connect_first(io_poller(), "tcp", infos, [], Settings(True, True), HOME)) as sock:
                assert sock.getpeername() == listener.addr()
            listener.receive(NEVER).close()
        rounds(3)
    finally:
        silent.close()
        for filler in fill:
            filler.close()


class Won:
    """What an attempt gives."""

    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("cancelled", [False, True])
def test_of_a_race_nothing_is_left_but_the_winner(monkeypatch: pytest.MonkeyPatch, cancelled: bool) -> None:
    """Two may answer at once, and who dials may be cancelled in the turn in which one does."""
    monkeypatch.setattr("flower.net._tcp.STAGGER", 0.0)  # until the second begins
    first, second = Won(), Won()

    async def dial() -> Any:
        both = asyncio.get_running_loop().create_future()

        async def begin_first() -> Any:
            monkeypatch.setattr("flower.net._tcp.STAGGER", NEVER)
            await both
            return first

        async def begin_second() -> Any:
            both.set_result(None)
            return second

        async def begin_third() -> Any:
            pytest.fail("it is over")

        race = _Race(poller, [begin_first, begin_second, begin_third])
        if cancelled:
            race._outcome.add_done_callback(lambda _: running.cancel())
        running = asyncio.ensure_future(race.run())
        await asyncio.wait([running])
        assert race._timer.cancelled()
        return None if running.cancelled() else running.result()

    poller = io_poller()
    winner = wait(dial())
    rounds(3)
    assert [won.closed for won in (first, second)] == [won is not winner for won in (first, second)]
    assert (winner is None) is cancelled


def test_the_next_attempt_of_a_race_gets_all_its_time_where_the_one_before_has_failed() -> None:
    timers: list[Any] = []

    async def fail() -> Any:
        timers.append(race._timer)
        raise ConnectionRefusedError

    async def win() -> Any:
        return "won"

    async def fail_too() -> Any:
        timers.append(race._timer)
        raise ConnectionRefusedError

    race = _Race(io_poller(), [fail, fail_too, win])
    assert wait(race.run()) == "won"
    assert [timer.cancelled() for timer in timers] == [True, True]


def test_when_all_fail_all_are_named() -> None:
    port = free_port()
    infos = infos_of(("127.0.0.1", port), ("127.0.0.2", port))
    with pytest.raises(ConnectionRefusedError) as caught:
        wait(connect_first(io_poller(), "tcp", infos, [], Settings(True, True), ("somewhere", port)))
    assert f"tcp somewhere:{port} (tried 127.0.0.1:{port}, 127.0.0.2:{port})" in str(caught.value)


def test_a_name_is_looked_up_beside_other_tasklets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = flower.channel(1)
    answer = flower.channel(1)
    real = socket.getaddrinfo
    ours = threading.get_ident()

    def slow(host: str, *args: Any, flags: int = 0, **kwargs: Any) -> Any:
        if host == "slow.example" and not flags & socket.AI_NUMERICHOST:
            asked.send(threading.get_ident())
            host = answer.receive()
        return real(host, *args, flags=flags, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with listening() as listener:
        t = flower.go(Dial, "tcp", ("slow.example", listener.addr()[1]))
        assert asked.receive(NEVER) != ours
        with Dial("tcp", listener.addr()), listener.receive(NEVER):  # the network goes on meanwhile
            pass
        with flower.move_on(SOON) as scope:
            Dial("tcp", ("slow.example", 9))
        assert scope.expired
        answer.send(HOME)
        with t.join(NEVER) as conn:
            assert conn.remote_addr() == listener.addr()
        answer.send(HOME)
        asked.receive(NEVER)


# -- Options


def test_local_addr() -> None:
    with listening() as listener, Dial("tcp", listener.addr(), local_addr=("127.0.0.2", 0)) as conn:
        assert conn.local_addr()[0] == "127.0.0.2"
        with listener.receive(NEVER) as far:
            assert far.remote_addr() == conn.local_addr()
        with pytest.raises(OSError, match=r"from 192\.0\.2\.77:0"):
            Dial("tcp", listener.addr(), local_addr=("192.0.2.77", 0))
        with pytest.raises(OSError, match=r"from \[::1\]:0"):
            Dial("tcp", listener.addr(), local_addr=("::1", 0))
        with pytest.raises(TypeError, match="local_addr"):
            Dial("tcp", listener.addr(), local_addr=5)


def test_options_can_be_declined() -> None:
    declined = {"nodelay": False, "keepalive": False}
    with Listen((HOME, 0), **declined) as listener, Dial("tcp", listener.addr(), **declined) as near:
        with listener.receive(NEVER) as far:
            for conn in (near, far):
                sock = conn._stream._sock
                assert not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_reuse_port() -> None:
    with Listen((HOME, 0), reuse_port=True) as one, Listen(one.addr(), reuse_port=True) as other:
        assert one.addr() == other.addr()
    with Listen((HOME, 0), "udp", reuse_port=True) as here, Listen(here.addr(), "udp", reuse_port=True) as there:
        assert here.addr() == there.addr()


def test_the_defaults_are_those_of_the_docstrings() -> None:
    defaults = Options()
    assert (defaults.backlog, defaults.handshake_timeout) == (1024, 10.0)
    assert defaults.bounds == (256 * 1024, 64 * 1024)


@pytest.mark.parametrize("proto", ["tcp", "tls", "pipe", "socktcp", "sockpipe"])
def test_a_connection_holds_as_much_as_the_options_of_both_ends_say(proto: str, tmp_path: Path) -> None:
    near_holds: dict[str, Any] = {"read_buffer": 1000, "write_buffer": 2000}
    far_holds: dict[str, Any] = {"read_buffer": 3000, "write_buffer": 4000}
    if proto == "tls":
        made = certificates()
        near_holds |= {"ca": made.ca}
        far_holds |= {"cert": made.server, "key": made.server_key}
    address: Any = str(tmp_path / "socket") if "pipe" in proto else (HOME, 0)
    with Listen(address, proto, **far_holds) as listener:
        where = listener.addr()
        if proto.startswith("sock"):
            where = socket.socket(socket.AF_UNIX if proto == "sockpipe" else socket.AF_INET)
            where.connect(listener.addr())
        with Dial(proto, where, **near_holds) as near, listener.receive(NEVER) as far:
            assert near._stream.bounds == (1000, 2000)
            assert far._stream.bounds == (3000, 4000)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"backlog": -1}, ValueError),
        ({"backlog": 2**31}, ValueError),
        ({"backlog": "5"}, TypeError),
        ({"backlog": True}, TypeError),
        ({"read_buffer": 0}, ValueError),
        ({"read_buffer": 2**63}, ValueError),
        ({"read_buffer": 1.5}, TypeError),
        ({"write_buffer": -1}, ValueError),
        ({"write_buffer": 2**63}, ValueError),
        ({"nodelay": "no"}, TypeError),
        ({"keepalive": 0}, TypeError),
        ({"reuse_port": None}, TypeError),
        ({"broadcast": 1}, TypeError),
        ({"timeout": -1}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"timeout": math.nan}, ValueError),
        ({"cert": 5}, TypeError),
        ({"key": 5}, TypeError),
        ({"ca": 5}, TypeError),
        ({"server_name": b"x"}, TypeError),
        ({"context": "x"}, TypeError),
        ({"handshake_timeout": -1}, ValueError),
    ],
)
def test_bad_options(options: dict[str, Any], error: Any) -> None:
    """Whatever protocol has the option, the public function's name, the protocol's and its own are in the text."""
    (name,) = options
    tried = 0
    for table, attempt in ((_DIAL, Dial), (_LISTEN, lambda proto, addr, **options: Listen(addr, proto, **options))):
        for proto, (_, known) in table.items():
            if name in known.split():
                function = "Dial" if table is _DIAL else "Listen"
                with pytest.raises(error, match=rf"^{function}\('{proto}'\): {name}: "):
                    attempt(proto, (HOME, 9), **options)
                tried += 1
    assert tried


def test_an_unknown_option_names_the_known_ones() -> None:
    with pytest.raises(TypeError, match="Dial has no option 'timout' for tcp: it has timeout, local_addr"):
        Dial("tcp", (HOME, 9), timout=5)
    with pytest.raises(TypeError, match="Listen has no option 'certs' for tls: it has cert, key"):
        Listen((HOME, 0), "tls", certs="x")
    with pytest.raises(TypeError, match="Dial has no option 'nodelay' for pipe: it has timeout, read_buffer, write_"):
        Dial("pipe", "/nowhere", nodelay=False)


def test_every_option_of_a_protocol_has_a_default() -> None:
    known = {name for table in (_LISTEN, _DIAL) for _, names in table.values() for name in names.split()}
    assert known == set(Options._fields)


def test_a_plain_server() -> None:
    def serve(sock: socket.socket) -> bytes:
        conn, _ = sock.accept()
        with conn:
            conn.settimeout(NEVER)
            data = conn.recv(100)
            conn.sendall(data.upper())
            return data

    with socket.create_server((HOME, 0)) as sock:
        finish = in_thread(serve, sock)
        with Dial("tcp", sock.getsockname()) as conn:
            conn.write("hello")
            assert conn.read() == b"HELLO"
            assert conn.read() == b""
        assert finish() == b"hello"


def test_the_defaults_of_a_connection() -> None:
    with listening() as listener, Dial("tcp", listener.addr()) as near, listener.receive(NEVER) as far:
        for conn in (near, far):
            sock = conn._stream._sock
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_the_next_address_is_tried_where_a_socket_cant_be_made() -> None:
    with listening() as listener:
        where = listener.addr()
        infos = [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_UDP, "", where),  # there is no such socket
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where),
        ]
        with wait(connect_first(io_poller(), "tcp", infos, [], Settings(True, True), where)) as sock:
            assert sock.getpeername() == where
        with pytest.raises(OSError, match=f"{HOME}:{where[1]}"):
            wait(connect_first(io_poller(), "tcp", infos[:1], [], Settings(True, True), where))


def test_without_a_free_descriptor_the_error_names_the_address() -> None:
    assert (
        output("""
        import os, resource
        import flower.time
        from flower.net import Dial, Listen
        listener = Listen(("127.0.0.1", 0))
        flower.time.sleep(0.001)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        for attempt in (lambda: Dial("tcp", listener.addr()), lambda: Listen(listener.addr())):
            try:
                attempt()
            except OSError as error:
                print(f"127.0.0.1:{listener.addr()[1]}" in str(error))
        for fd in taken:
            os.close(fd)
        listener.close()
        """)
        == "True\nTrue\n"
    )


@pytest.mark.parametrize("looks", range(6))
def test_a_kill_while_the_connection_is_made_leaves_nothing_behind(looks: int) -> None:
    with listening() as listener:
        dialing = flower.go(Dial, "tcp", listener.addr())
        for _ in range(looks):
            flower.time.idle()
        dialing.kill()
        try:
            dialing.join().close()
        except flower.TaskletKilled:
            pass
        flower.time.idle()
        accepted = flower.select(listener, default=None)[1]
        if accepted is not None:
            with accepted:
                with suppress(OSError):
                    assert accepted.read(timeout=NEVER) == b""
