"""TLS: who is believed, what a peer of another make sees, and what a peer that breaks the rules costs."""

from __future__ import annotations

import _ssl
import asyncio
import ctypes
import errno
import gc
import logging
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

import flower
from flower.errors import ChannelClosed, Timeout
from flower.net import Conn, Dial, Listen, Listener
from flower.net._acceptor import REFUSALS
from flower.net._stream import PARTING
from flower.net._tls import TlsLayer
from tests.net.certificates import certificates
from tests.net.support import (
    HOME,
    NEVER,
    Program,
    connected,
    echo,
    failing,
    fill,
    in_thread,
    plain_peer,
    read_all,
    receive_all,
    receive_exactly,
    reset,
    rounds,
    until,
)

pytestmark = pytest.mark.usefixtures("loop")

SOON = 0.05  # seconds; a time limit that a test waits for


@contextmanager
def listening(**options: Any) -> Iterator[Listener]:
    made = certificates()
    with Listen((HOME, 0), "tls", cert=made.server, key=made.server_key, **options) as listener:
        yield listener


@contextmanager
def serving(**options: Any) -> Iterator[Listener]:
    """A TLS server that echoes."""
    with listening(**options) as listener:
        t = flower.go(listener.serve, echo)
        yield listener
        listener.close()
        t.join(NEVER)


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates().ca)


def alive(listener: Listener) -> bool:
    """Whether the server still serves."""
    with Dial("tls", listener.addr(), ca=certificates().ca) as conn:
        conn.write("alive?")
        return conn.read_exactly(6, timeout=NEVER) == b"alive?"


def alive_at_last(listener: Listener) -> bool:
    """As `alive`, of a server that gives handshakes so little time that on a busy machine we may be late, too."""
    with flower.timeout(NEVER):
        while True:
            try:
                return alive(listener)
            except ConnectionError:
                pass


# -- Who is believed


@pytest.mark.parametrize("name", [None, "localhost"])
def test_the_servers_certificate_is_verified(name: str | None) -> None:
    with serving() as listener, Dial("tls", listener.addr(), ca=certificates().ca, server_name=name) as conn:
        conn.write("hello")
        assert conn.read(timeout=NEVER) == b"hello"
        assert conn.certificate is not None
        assert ("DNS", "localhost") in conn.certificate["subjectAltName"]
        assert conn.tls_version == "TLSv1.3"
        assert conn.protocol is None


@pytest.mark.parametrize("why", ["an unknown authority", "another name", "signed by itself"])
def test_a_certificate_that_is_not_right(why: str, caplog: pytest.LogCaptureFixture) -> None:
    made = certificates()
    cert, key = (made.stranger, made.stranger_key) if why == "signed by itself" else (made.server, made.server_key)
    options = {} if why == "an unknown authority" else {"ca": made.ca}
    name = "example.org" if why == "another name" else None
    with Listen((HOME, 0), "tls", cert=cert, key=key) as listener:
        address = f"{HOME}:{listener.addr()[1]}"
        with pytest.raises(ssl.SSLCertVerificationError, match=address) as caught:
            Dial("tls", listener.addr(), server_name=name, **options)
        assert caught.value.verify_message
        assert isinstance(caught.value, OSError)
        until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "while accepting" in record.getMessage()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_the_scope_of_an_address_is_no_part_of_its_name() -> None:
    made = certificates()
    with Listen(("::1", 0), "tls", cert=made.server, key=made.server_key) as listener:
        with Dial("tls", (*listener.addr()[:3], 1), ca=made.ca), listener.receive(NEVER):
            pass


def test_the_dot_at_the_end_of_a_host_is_no_part_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **kwargs: real(host.rstrip("."), *args, **kwargs))
    with listening() as listener, Dial("tls", ("localhost.", listener.addr()[1]), ca=certificates().ca):
        listener.receive(NEVER).close()


def test_mutual_tls() -> None:
    made = certificates()
    with listening(ca=made.ca) as listener:
        with Dial("tls", listener.addr(), ca=made.ca, cert=made.client, key=made.client_key) as near:
            with listener.receive(NEVER) as far:
                assert far.certificate is not None
                assert far.certificate["subject"] == ((("commonName", "Flower tests client"),),)
                far.write("known")
                assert near.read(timeout=NEVER) == b"known"


@pytest.mark.parametrize("who", ["nobody", "a stranger"])
def test_a_client_without_a_right_certificate(who: str, caplog: pytest.LogCaptureFixture) -> None:
    made = certificates()
    own = {} if who == "nobody" else {"cert": made.stranger, "key": made.stranger_key}
    with listening(ca=made.ca) as listener:
        # In TLS 1.3 the client is done before the server has looked at its certificate: it learns when it reads.
        with Dial("tls", listener.addr(), ca=made.ca, **own) as conn:
            with pytest.raises(OSError, match=f"{HOME}:{listener.addr()[1]}"):
                conn.read(timeout=NEVER)
        with pytest.raises(Timeout):
            listener.receive(0.01)
    assert "while accepting" in caplog.text


def test_alpn() -> None:
    ca = certificates().ca
    with listening(alpn=["h2", "http/1.1"]) as listener:
        for offer, agreed in ((["http/1.1"], "http/1.1"), (["spdy", "h2"], "h2"), (["other"], None), ([], None)):
            with Dial("tls", listener.addr(), ca=ca, alpn=offer) as near, listener.receive(NEVER) as far:
                assert near.protocol == far.protocol == agreed


def test_a_context_of_the_users_own() -> None:
    made = certificates()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.server, made.server_key)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    with Listen((HOME, 0), "tls", context=server) as listener:
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        with Dial("tls", listener.addr(), context=trusting) as near, listener.receive(NEVER) as far:
            assert near.tls_version == far.tls_version == "TLSv1.2"
            near.write("x" * 100_000)
            assert len(far.read_exactly(100_000, timeout=NEVER)) == 100_000
            near.close_write()
            assert far.read(timeout=NEVER) == b""
            far.write("still")
            assert near.read(timeout=NEVER) == b"still"


def test_bad_options() -> None:
    made = certificates()
    context = client_context()
    for options, error, text in (
        ({}, ValueError, "needs cert"),
        ({"key": made.server_key}, ValueError, "needs cert"),
        ({"cert": "/nowhere/cert.pem"}, FileNotFoundError, "/nowhere/cert.pem"),
        ({"cert": made.server_key}, ssl.SSLError, "server.key"),
        ({"cert": made.server, "key": made.client_key}, ssl.SSLError, "chain.pem"),
        ({"cert": made.server, "key": made.server_key, "ca": "/nowhere/ca"}, FileNotFoundError, "/nowhere/ca"),
        ({"cert": made.server, "key": made.server_key, "alpn": "h2"}, TypeError, "alpn"),
        ({"cert": made.server, "key": made.server_key, "handshake_timeout": -1}, ValueError, "handshake_timeout"),
        ({"context": context, "cert": made.server}, ValueError, "belong into the context"),
        ({"context": context}, ValueError, "is a client's"),
        ({"context": 5}, TypeError, "SSLContext"),
    ):
        with pytest.raises(error, match=text):
            Listen((HOME, 0), "tls", **options)  # type: ignore[arg-type]
    for alpn in ([""], ["x" * 256], ["ü"]):
        with pytest.raises(ValueError, match="names in alpn"):
            Dial("tls", (HOME, 9), alpn=alpn)
    with listening() as listener, connected() as (near, far):
        for name in ("x" * 64, ".x", "a..b", "a\0b"):
            for attempt in (
                lambda name=name: Dial("tls", listener.addr(), server_name=name),
                lambda name=name: near.start_tls(server_name=name),
            ):
                with pytest.raises(ValueError, match="server_name can't be"):
                    attempt()
        servers = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        with pytest.raises(ValueError, match="is a server's"):
            Dial("tls", listener.addr(), context=servers)
        with pytest.raises(ValueError, match="is a server's"):
            near.start_tls(server_name="localhost", context=servers)
        with pytest.raises(TypeError, match="server_name"):
            near.start_tls(server_name=5)  # type: ignore[arg-type]
        near.send(b"as before")
        assert far.read(timeout=NEVER) == b"as before"
    with pytest.raises(ValueError, match="key belongs to a cert"):
        Dial("tls", (HOME, 9), key=made.client_key)


# -- Sockets that somebody else has opened


@pytest.mark.parametrize("by", ["socket", "descriptor"])
def test_a_listening_socket_that_is_given(by: str) -> None:
    made = certificates()
    sock = socket.create_server((HOME, 0))
    address = sock.getsockname()
    given: Any = sock.detach() if by == "descriptor" else sock
    with Listen(given, "tls", cert=made.server, key=made.server_key) as listener:
        assert listener.addr() == address
        near = Dial("tls", address, ca=made.ca)
        with near, listener.receive(NEVER) as far:
            assert (near.tls_version, far.tls_version) == ("TLSv1.3", "TLSv1.3")
            near.write("over a given socket")
            assert far.read_exactly(19, timeout=NEVER) == b"over a given socket"
    assert sock.fileno() == -1  # it was the listener's, and is closed
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, NEVER)


@pytest.mark.slow
def test_a_listening_socket_that_was_inherited() -> None:
    """As systemd hands them over: by number, to a program that knows no address."""
    made = certificates()
    with socket.create_server((HOME, 0)) as sock:
        program = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys\nfrom flower.net import Listen\n"
                "with Listen(int(sys.argv[1]), 'tls', cert=sys.argv[2], key=sys.argv[3]) as listener:\n"
                "    conn = listener.receive()\n    conn.write(conn.read())\n    conn.close()\n",
                str(sock.fileno()),
                made.server,
                made.server_key,
            ],
            pass_fds=[sock.fileno()],
        )
        with Dial("tls", sock.getsockname(), ca=made.ca) as conn:
            conn.write("inherited")
            assert conn.read_exactly(9, timeout=NEVER) == b"inherited"
        assert in_thread(program.wait)() == 0


@pytest.mark.parametrize("by", ["socket", "descriptor"])
def test_a_connected_socket_that_is_given(by: str) -> None:
    made = certificates()
    with listening() as listener:
        sock = socket.create_connection(listener.addr(), NEVER)
        given: Any = sock.detach() if by == "descriptor" else sock
        with Dial("tls", given, ca=made.ca, server_name="localhost") as near, listener.receive(NEVER) as far:
            near.write("x")
            assert far.read(timeout=NEVER) == b"x"
        sock = socket.create_connection(listener.addr(), NEVER)
        given = sock.detach() if by == "descriptor" else sock
        with pytest.raises(ssl.SSLCertVerificationError, match=r"other\.example"):
            Dial("tls", given, ca=made.ca, server_name="other.example")
        assert sock.fileno() == -1
        with socket.create_connection(listener.addr(), NEVER) as sock, pytest.raises(ValueError, match="server_name"):
            Dial("tls", sock, ca=made.ca)
        with socket.create_server((HOME, 0)) as silent:
            sock = socket.create_connection(silent.getsockname(), NEVER)
            with pytest.raises(Timeout, match=r"tls socket .* not connected within"):
                Dial("tls", sock, ca=made.ca, server_name="localhost", timeout=SOON)


def test_what_can_not_be_given() -> None:
    made = certificates()
    with socket.socket() as lonely, socket.socket(socket.AF_UNIX) as unix:
        for given, error in ((unix, ValueError), (unix.fileno(), ValueError), (999_999, OSError), (-1, ValueError)):
            with pytest.raises(error, match="tls"):
                Listen(given, "tls", cert=made.server, key=made.server_key)
            with pytest.raises(error, match="tls"):
                Dial("tls", given, ca=made.ca, server_name="x")
        with pytest.raises(OSError, match="tls") as caught:
            Dial("tls", lonely, ca=made.ca, server_name="x")
        assert caught.value.errno == errno.ENOTCONN
        for sock in (unix, lonely):
            assert sock.fileno() >= 0  # what is refused is left as it was
            assert sock.getblocking()


def test_a_socket_of_pythons_ssl_can_not_be_given() -> None:
    """What is written to its descriptor would leave as plain text."""
    context = ssl.create_default_context()
    near, far = socket.socketpair()
    with far, context.wrap_socket(near, server_hostname="x", do_handshake_on_connect=False) as sock:
        for proto, options in (("tls", {"server_name": "x"}), ("socktcp", {}), ("sockpipe", {})):
            with pytest.raises(TypeError, match=f"{proto} takes no socket that speaks TLS already"):
                Dial(proto, sock, **options)
        for proto in ("socktcp", "sockpipe"):
            with pytest.raises(TypeError, match=f"{proto} takes no socket that speaks TLS already"):
                Listen(sock, proto)
        assert sock.fileno() >= 0
        assert sock.getblocking()


# -- Peers that break the rules


def test_a_plain_text_client_costs_its_own_connection_alone(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as listener:
        with socket.create_connection(listener.addr(), NEVER) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            in_thread(receive_all, sock)()  # an alert, perhaps, and the end
        until(lambda: caplog.records)
        assert f"of {HOME}:" in caplog.records[0].getMessage()
        assert alive(listener)


def test_a_flood_of_refused_clients_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def knock(count: int) -> None:
        for _ in range(count):
            with socket.create_connection(listener.addr(), NEVER) as sock:
                sock.sendall(b"no TLS at all\r\n")
            rounds(3)
        until(lambda: not listener._acceptor._shaking)

    with serving() as listener:
        knock(REFUSALS + 5)
        assert len(caplog.records) == REFUSALS
        monkeypatch.setattr("flower.net._acceptor.MINUTE", 0.0)
        listener._acceptor._refusals._until = 0.0  # a minute later
        knock(2)
        assert [record.getMessage().count("(5 more") for record in caplog.records[REFUSALS:]] == [1, 0]
        assert alive(listener)


def test_a_listener_that_closes_cuts_the_handshakes(caplog: pytest.LogCaptureFixture) -> None:
    with listening() as listener:
        socks = [socket.create_connection(listener.addr(), NEVER) for _ in range(3)]
        until(lambda: len(listener._acceptor._shaking) == 3)
    for sock in socks:
        with sock, suppress(ConnectionResetError):
            assert in_thread(sock.recv, 10)() == b""
    rounds(2)
    assert not caplog.records  # it was our doing


def test_a_listener_that_closes_as_a_handshake_is_lost() -> None:
    async def close(listener: Listener, steps: int) -> None:
        for _ in range(steps):
            await asyncio.sleep(0)
        listener.close()

    for steps in range(6):
        with listening() as listener:
            sock = socket.create_connection(listener.addr(), NEVER)
            until(lambda: listener._acceptor._shaking)
            reset(sock)
            flower.wait(close(listener, steps))


@pytest.mark.parametrize("how", ["close", "reset", "silence"])
def test_a_client_that_never_finishes_its_handshake(how: str, caplog: pytest.LogCaptureFixture) -> None:
    with serving(handshake_timeout=SOON if how == "silence" else NEVER) as listener:
        with socket.create_connection(listener.addr(), NEVER) as sock:
            sock.sendall(b"\x16\x03\x01")
            rounds(2)
            if how == "close":
                sock.close()
            elif how == "reset":
                reset(sock)
            until(lambda: caplog.records)
            text = caplog.records[0].getMessage()
            assert {"close": "closed it", "reset": "reset by peer", "silence": f"within {SOON} s"}[how] in text
        assert alive_at_last(listener)


def test_a_handshake_that_is_done_as_the_listener_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []

    class Late(TlsLayer):
        async def handshake(self) -> None:
            await super().handshake()
            listener.close()

    monkeypatch.setattr("flower.net._secure.TlsLayer", Late)
    context = client_context()
    with listening() as listener, socket.create_connection(listener.addr(), NEVER) as sock:

        def client() -> bytes:
            with suppress(ConnectionError), context.wrap_socket(sock, server_hostname="localhost") as secure:
                return secure.recv(100)
            return b""

        finish = in_thread(client)
        poller = listener._acceptor.poller
        poller.loop.set_exception_handler(lambda loop, context: reported.append(context))
        try:
            assert finish() == b""
            until(lambda: listener.closed and not poller.resources and not poller._tasks)
            gc.collect()
            rounds(1)
        finally:
            poller.loop.set_exception_handler(poller._on_error)
    assert reported == []


def test_many_silent_clients_do_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:

        def silence(count: int) -> None:
            for _ in range(count):
                stack.enter_context(socket.create_connection(listener.addr(), NEVER))

        with serving(handshake_timeout=NEVER) as listener:
            silence(200)
            assert alive(listener)  # though more than the listener holds are in the middle of it
        monkeypatch.setattr("flower.net._acceptor.HANDSHAKES", 10)
        with serving(handshake_timeout=SOON) as listener:
            silence(20)
            assert alive_at_last(listener)  # when the time of some is up
        with listening(handshake_timeout=NEVER) as listener:
            silence(20)
            shaking = listener._acceptor._shaking
            until(lambda: len(shaking) >= 10)
            rounds(5)
            assert len(shaking) == 10
        until(lambda: not shaking)  # they are cut


def test_who_closes_after_the_peer_s_end_says_so() -> None:
    with listening() as listener, Dial("tls", listener.addr(), ca=certificates().ca) as near:
        with listener.receive(NEVER) as far:
            near.write("question")
            near.close_write()
            assert read_all(far) == b"question"
            far.write("answer")
        assert read_all(near) == b"answer"


@pytest.mark.parametrize("loop", ["asyncio"], indirect=True)  # which shows its timers
def test_a_handshake_that_is_done_has_no_time_limit_any_more() -> None:
    with serving() as listener:
        loop: Any = listener._acceptor.poller.loop
        with Dial("tls", listener.addr(), ca=certificates().ca) as conn:
            conn.write("hello")
            assert conn.read(timeout=NEVER) == b"hello"
            assert [timer for timer in loop._scheduled if "_too_late" in repr(timer) and not timer.cancelled()] == []


def test_a_server_that_never_answers() -> None:
    with socket.create_server((HOME, 0)) as server:
        port = server.getsockname()[1]
        for options, text in (({"handshake_timeout": SOON}, "handshake"), ({"timeout": SOON}, "not connected")):
            with pytest.raises(Timeout, match=text) as caught:
                Dial("tls", (HOME, port), **options)
            assert f"{HOME}:{port}" in str(caught.value)
        with flower.move_on(SOON):
            Dial("tls", (HOME, port))


def test_a_server_is_told_why_its_certificate_is_refused() -> None:
    made = certificates()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.server, made.server_key)
    with socket.create_server((HOME, 0)) as server:

        def serve() -> str:
            sock, _ = server.accept()
            with sock, pytest.raises(ssl.SSLError) as caught:
                context.wrap_socket(sock, server_side=True)
            return str(caught.value)

        finish = in_thread(serve)
        with pytest.raises(ssl.SSLCertVerificationError):
            Dial("tls", server.getsockname())
        assert "UNKNOWN_CA" in finish()


def test_what_is_no_tls_ends_a_connection_whose_peer_reads_nothing() -> None:
    """At once: what was written to it can't leave."""
    with listening() as listener:

        def client() -> socket.socket:
            sock = socket.create_connection(listener.addr(), NEVER)
            secure = client_context().wrap_socket(sock, server_hostname="localhost")
            return socket.socket(fileno=secure.detach())

        finish = in_thread(client)
        with listener.receive(NEVER) as conn, finish() as raw:
            fill(conn)
            raw.sendall(b"this is no record of TLS")
            with pytest.raises(ssl.SSLError):
                conn.receive(NEVER)
            until(lambda: conn._stream._transport is None)


def test_a_server_that_speaks_no_tls() -> None:
    with socket.create_server((HOME, 0)) as server:

        def serve() -> None:
            sock, _ = server.accept()
            with sock:
                sock.sendall(b"220 mail.example.org ESMTP\r\n")
                receive_all(sock)

        finish = in_thread(serve)
        with pytest.raises(ssl.SSLError, match=f"{HOME}:{server.getsockname()[1]}"):
            Dial("tls", server.getsockname())
        finish()


def test_a_connection_that_is_cut_is_no_end_of_file() -> None:
    """Whoever closes the TCP connection under TLS, an attacker say, can't make us take it for the end."""
    with listening() as listener:
        raw = socket.create_connection(listener.addr(), NEVER)

        def client() -> ssl.SSLSocket:
            return client_context().wrap_socket(raw, server_hostname="localhost")

        finish = in_thread(client)
        conn = listener.receive(NEVER)
        sock = finish()
        sock.sendall(b"half of")
        assert conn.read(timeout=NEVER) == b"half of"
        sock.shutdown(socket.SHUT_WR)  # without unwrap: no close_notify
        for _ in range(2):
            with pytest.raises(ConnectionAbortedError, match="close_notify"):
                conn.read(timeout=NEVER)
        conn.close()
        sock.close()


def flood_of_key_updates(address: Any, ended: threading.Event, reads: bool = False) -> int:
    """A client that asks for new keys, and without end if it reads nothing: Python's ssl can't, OpenSSL can."""
    library = ctypes.CDLL(_ssl.__file__)
    sock = socket.create_connection(address, NEVER)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls: Any = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(65536))
    pointer = ctypes.c_void_p(ctypes.cast(id(tls._sslobj) + 24, ctypes.POINTER(ctypes.c_void_p))[0])
    sent = 0
    with sock:
        try:
            while sent < (2000 if reads else 1_000_000):
                for _ in range(100):
                    library.SSL_key_update(pointer, 1)
                    library.SSL_do_handshake(pointer)
                sock.sendall(outgoing.read())
                sent += 100
                if reads:
                    sock.recv(65536)
            tls.write(b"that was all")
            sock.sendall(outgoing.read())
        except OSError:
            pass
        ended.wait(NEVER)
    return sent


@pytest.mark.slow
def test_a_flood_of_requests_for_new_keys_is_cut() -> None:
    """Each has to be answered, and the answers would fill the memory where the peer reads none of them."""
    ended = threading.Event()
    with listening() as listener:
        finish = in_thread(flood_of_key_updates, listener.addr(), ended)
        with listener.receive(NEVER) as conn:
            with pytest.raises(ConnectionAbortedError, match=f"{HOME}:.*asks for new keys again and again"):
                conn.read(timeout=NEVER)
    ended.set()
    assert 0 < finish() < 1_000_000


def test_many_requests_for_new_keys_over_time_are_answered() -> None:
    ended = threading.Event()
    with listening() as listener:
        finish = in_thread(flood_of_key_updates, listener.addr(), ended, True)
        with listener.receive(NEVER) as conn:
            try:
                assert conn.read_exactly(12, timeout=NEVER) == b"that was all"
            finally:
                ended.set()
                assert finish() == 2000


@pytest.mark.parametrize("paused", [False, True])
def test_what_comes_after_the_end_is_not_read(paused: bool) -> None:
    """It would fill the memory: nobody takes it."""
    with listening(read_buffer=1 if paused else 65_536) as listener:
        with Dial("tls", listener.addr(), ca=certificates().ca) as near, listener.receive(NEVER) as far:
            near.send(b"the end")
            near.close_write()
            until(lambda: far._stream.at_eof)
            assert far._stream._paused == paused
            assert read_all(far) == b"the end"
            far._stream._resume()  # as a reader in another thread has it called, who was quick
            assert far.status == "writeonly"
            raw = near._stream._sock
            for sock, option in (raw, socket.SO_SNDBUF), (far._stream._sock, socket.SO_RCVBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, 65_536)
            sent = refused = 0
            while refused < 50:
                try:
                    sent += raw.send(b"x" * 65_536)
                except BlockingIOError:
                    refused += 1
                rounds(1)
                assert sent < 10_000_000
            far.write("still open")
            assert near.read(timeout=NEVER) == b"still open"


def test_garbage_in_the_middle() -> None:
    with listening() as listener, Dial("tls", listener.addr(), ca=certificates().ca) as near:
        with listener.receive(NEVER) as far:
            near._stream._sock.send(b"\x17\x03\x03\x00\x10" + b"?" * 16)
            with pytest.raises(ssl.SSLError, match=f"{HOME}:{listener.addr()[1]}"):
                far.read(timeout=NEVER)
            with pytest.raises(OSError):
                far.send(b"x")
            with pytest.raises((OSError, ChannelClosed)):
                near.read(timeout=NEVER)


# -- In the middle of a connection


def upgrade(near: Conn, far: Conn) -> None:
    made = certificates()
    with flower.group() as g:
        g.go(lambda: far.start_tls(server_side=True, cert=made.server, key=made.server_key, alpn=["x"]))
        g.go(lambda: near.start_tls(server_name="localhost", ca=made.ca, alpn=["x"]))


def test_start_tls() -> None:
    with connected() as (near, far):
        near.write("STARTTLS\r\n")
        assert far.read_until(b"\r\n") == b"STARTTLS\r\n"
        far.write("ok\r\n")
        assert near.read_until(b"\r\n") == b"ok\r\n"
        upgrade(near, far)
        assert near.protocol == far.protocol == "x"
        assert near.certificate
        assert "tls" in repr(near)
        near.write("secret")
        assert far.read(timeout=NEVER) == b"secret"
        with pytest.raises(RuntimeError, match="speaks TLS already"):
            near.start_tls(server_name="localhost")
        near.close()
        assert far.read(timeout=NEVER) == b""


def test_what_others_send_while_tls_begins_goes_through_it() -> None:
    made = certificates()
    with connected() as (near, far):
        flower.select((near, b"in plain"), timeout=NEVER)
        assert far.receive(NEVER) == b"in plain"
        starting = flower.go(near.start_tls, server_name="localhost", ca=made.ca)
        flower.schedule()
        senders = [
            flower.go(near.send, b"sent;"),
            flower.go(flower.select, (near, b"selected;")),
            flower.go(near.write, "written;"),
        ]
        rounds(5)
        assert all(t.blocked for t in senders)
        assert not near._stream.offer(b"in plain", urgent=True)
        far.start_tls(server_side=True, cert=made.server, key=made.server_key)
        starting.join(NEVER)
        for t in senders:
            t.join(NEVER)
        assert far.read_exactly(22, timeout=NEVER) == b"sent;selected;written;"


def test_what_was_written_in_the_turn_in_which_tls_begins_leaves_in_plain() -> None:
    made = certificates()
    with connected() as (near, far):

        def start() -> None:
            near.write("220 ")
            near.write("go ahead\n")
            near.start_tls(server_name="localhost", ca=made.ca)

        t = flower.go(start)
        assert far.read_until() == b"220 go ahead\n"
        far.start_tls(server_side=True, cert=made.server, key=made.server_key)
        t.join(NEVER)


def test_the_end_of_writing_that_is_said_while_tls_begins_comes_through_it() -> None:
    made = certificates()
    with connected() as (near, far):
        t = flower.go(near.start_tls, server_name="localhost", ca=made.ca)
        flower.schedule()
        near.close_write()
        far.start_tls(server_side=True, cert=made.server, key=made.server_key)
        t.join(NEVER)
        assert far.read(timeout=NEVER) == b""
        far.write("the other way it is open")
        assert near.read(timeout=NEVER) == b"the other way it is open"


def test_tls_begins_where_reading_was_paused() -> None:
    with Listen((HOME, 0), read_buffer=1) as listener, Dial("tcp", listener.addr()) as near:
        with listener.receive(NEVER) as far:
            near.write("STARTTLS\n")
            until(lambda: len(far._incoming))
            assert far.receive() == b"STARTTLS\n"
            assert far._stream._paused
            upgrade(near, far)


def test_those_who_send_while_tls_begins_learn_that_it_failed() -> None:
    with connected() as (near, far):
        starting = failing(near.start_tls)
        assert isinstance(starting.join(NEVER), ValueError)
        near.send(b"still plain")
        t = flower.go(lambda: failing(lambda: near.start_tls(server_name="localhost", handshake_timeout=SOON)).join())
        rounds(1)
        sender = failing(near.send, b"never")
        assert near.certificate is near.protocol is None
        assert isinstance(t.join(NEVER), Timeout)
        assert "no TLS handshake within" in str(sender.join(NEVER))
        with pytest.raises(Timeout, match="no TLS handshake within"):
            near.send(b"too late")
        with pytest.raises(Timeout, match="no TLS handshake within"):
            near.read(timeout=NEVER)
        assert near.certificate is near.protocol is None
        assert far.read_exactly(11, timeout=NEVER) == b"still plain"


def test_start_tls_takes_what_came_early_for_tls() -> None:
    """Of a client that does not wait: its first bytes of TLS may be here before we begin."""
    made = certificates()
    with plain_peer() as (conn, sock):

        def client() -> bytes:
            sock.sendall(b"STARTTLS\n")
            with client_context().wrap_socket(sock, server_hostname="localhost") as secure:
                secure.sendall(b"hello")
                return receive_exactly(secure, 5)

        finish = in_thread(client)
        assert conn.read_exactly(4) == b"STAR"
        assert conn.read_until() == b"TTLS\n"
        until(lambda: len(conn._incoming) or conn._front)
        conn.start_tls(server_side=True, cert=made.server, key=made.server_key)
        assert conn.read_exactly(5) == b"hello"
        conn.write("world")
        assert finish() == b"world"
        conn.close()


def test_start_tls_that_is_refused_takes_nothing() -> None:
    async def coroutine() -> None:
        with pytest.raises(RuntimeError, match="would block the I/O tasklet"):
            near.start_tls(server_name="localhost")

    with connected() as (near, far):
        far.write("hello")
        assert near.read(1) == b"h"
        flower.wait(coroutine())
        assert near.read(9, timeout=NEVER) == b"ello"


def test_plain_text_that_was_slipped_in_before_tls_is_no_command() -> None:
    made = certificates()
    with plain_peer() as (conn, sock):
        sock.sendall(b"STARTTLS\nDELETE everything\n")
        assert conn.read_until() == b"STARTTLS\n"
        with pytest.raises(ssl.SSLError):
            conn.start_tls(server_side=True, cert=made.server, key=made.server_key)
        with pytest.raises(OSError):
            conn.read()
        assert conn.status == "closed"


def test_plain_text_before_tls_is_for_no_reader_that_comes_after_its_beginning() -> None:
    made = certificates()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.server, made.server_key)
    with plain_peer() as (conn, sock):
        sock.sendall(b"STARTTLS\n")
        assert conn.receive() == b"STARTTLS\n"
        sock.sendall(b"DELETE everything\n")
        until(lambda: len(conn._incoming))
        starting = failing(lambda: conn.start_tls(server_side=True, context=context))
        reading = failing(conn.receive)
        assert isinstance(starting.join(NEVER), ssl.SSLError)
        assert isinstance(reading.join(NEVER), ssl.SSLError)


@pytest.mark.parametrize("how", ["timeout", "scope", "kill", "close", "reset"])
def test_start_tls_that_fails_cuts_the_connection(how: str) -> None:
    made = certificates()
    with plain_peer() as (conn, sock):

        def start() -> None:
            conn.start_tls(
                server_side=True,
                cert=made.server,
                key=made.server_key,
                handshake_timeout=SOON if how == "timeout" else NEVER,
            )

        if how == "scope":
            with flower.move_on(SOON) as scope:
                start()
            assert scope.expired
        else:
            t = flower.go(start)
            rounds(3)
            if how == "kill":
                t.kill()
                until(lambda: not t.alive)
            elif how == "reset":
                reset(sock)
            elif how == "close":
                sock.shutdown(socket.SHUT_WR)
            if how != "kill":
                with pytest.raises((Timeout, ConnectionError)):
                    t.join(NEVER)
        until(lambda: conn.status == "closed")


def test_start_tls_that_is_killed_before_it_began() -> None:
    """Its turn in the event loop had not come, if we were quick enough. The connection is cut nevertheless."""
    context = client_context()  # to make one takes longer than a turn
    with connected() as (near, far):
        t = flower.go(lambda: near.start_tls(server_name="localhost", context=context))
        flower.schedule()
        sender = failing(near.send, b"x")
        flower.schedule()
        t.kill()
        assert isinstance(sender.join(NEVER), ConnectionAbortedError)
        with pytest.raises(ConnectionAbortedError, match="TLS was begun here, and given up"):
            near.read()
        with suppress(ConnectionResetError):  # where its turn had come, the beginning of a handshake, and an end
            assert read_all(far)


def test_start_tls_that_is_killed_in_the_turn_in_which_it_began() -> None:
    context = client_context()
    with connected() as (near, far):
        killed = []

        def start() -> None:
            flower.go(lambda: killed.append(t.kill()))  # comes before the event loop does, if we are quick enough
            near.start_tls(server_name="localhost", context=context)

        t = flower.go(start)
        until(lambda: not t.alive)
        assert killed == [None]
        assert isinstance(failing(near.send, b"x").join(NEVER), ConnectionAbortedError)
        with suppress(ConnectionResetError):
            read_all(far)


@pytest.mark.parametrize("how", ["kill", "cancel"])
def test_start_tls_that_is_given_up_tells_the_others(how: str) -> None:
    with connected() as (near, _far):
        scope = flower.move_on()

        def start() -> None:
            with scope:
                near.start_tls(server_name="localhost")

        t = flower.go(start)
        rounds(3)
        others = [failing(near.send, b"x"), failing(near.receive)]
        rounds(1)
        if how == "kill":
            t.kill()
        else:
            scope.cancel()
        others.append(failing(near.read))
        for other in others:
            error = other.join(NEVER)
            assert isinstance(error, ConnectionAbortedError)
            assert "TLS was begun here, and given up" in str(error)
        until(lambda: not t.alive)


@pytest.mark.parametrize("end", ["close", "abort", "reset"])
def test_an_end_while_tls_begins_is_told_at_once(end: str) -> None:
    kinds = {"close": ChannelClosed, "abort": ConnectionAbortedError, "reset": ConnectionResetError}
    with connected() as (near, far):
        near.send(b"plain")
        assert far.read(timeout=NEVER) == b"plain"
        starting = failing(lambda: near.start_tls(server_name="localhost"))
        rounds(3)
        tasklets = [starting, failing(near.send, b"x"), failing(near.receive)]
        rounds(1)
        if end == "reset":
            far.abort()
        else:
            getattr(near, end)()
        for t in tasklets:
            error = t.join(PARTING / 2)
            assert type(error) is kinds[end]
            assert near._stream.describe() in str(error)
        if end == "close":
            assert starting.join().channel is near


def test_a_half_close_while_tls_begins_comes_after_it() -> None:
    made = certificates()
    with connected() as (near, far):
        starting = flower.go(lambda: near.start_tls(server_name="localhost", ca=made.ca))
        rounds(3)
        sender = failing(near.send, b"x")
        rounds(1)
        near.close_write()
        assert isinstance(sender.join(NEVER), ChannelClosed)
        far.start_tls(server_side=True, cert=made.server, key=made.server_key)
        starting.join(NEVER)
        assert far.read(timeout=NEVER) == b""
        far.send(b"the other way")
        assert near.read(timeout=NEVER) == b"the other way"
        assert near.status == "readonly"


def test_a_reset_in_the_handshake_names_the_address() -> None:
    with socket.create_server((HOME, 0)) as server:

        def accept() -> None:
            sock, _ = server.accept()
            sock.recv(1)
            reset(sock)

        finish = in_thread(accept)
        with pytest.raises(ConnectionResetError, match=f"{HOME}:{server.getsockname()[1]}"):
            Dial("tls", server.getsockname(), ca=certificates().ca)
        finish()


KILLED = """
    import socket, ssl, sys
    context = ssl.create_default_context(cafile=sys.argv[2])
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    sock = context.wrap_socket(sock, server_hostname="localhost")
    while True:
        sock.sendall(b"x" * 100_000)
"""


def test_a_peer_killed_in_the_middle_is_no_end_of_file() -> None:
    with listening() as listener, Program(KILLED, str(listener.addr()[1]), certificates().ca) as program:
        with listener.receive(NEVER) as conn:
            total = 0
            while total < 2_000_000:
                total += len(conn.receive(NEVER))
            program.kill()
            with pytest.raises((ConnectionAbortedError, ConnectionResetError), match=f"{HOME}:"):
                while True:
                    assert conn.read(timeout=NEVER).strip(b"x") == b""


def test_start_tls_after_the_end() -> None:
    made = certificates()
    for end in ("close", "close_write"):
        with connected() as (near, _far):
            getattr(near, end)()
            with pytest.raises(ChannelClosed, match="closed here") as caught:
                near.start_tls(server_name="localhost", ca=made.ca)
            assert caught.value.channel is near
    with connected() as (near, _far), pytest.raises(ValueError, match="server_name"):
        near.start_tls(ca=made.ca)


# -- Peers of another make


def test_openssl_s_client() -> None:
    with serving(alpn=["echo"]) as listener:
        program = subprocess.Popen(
            [
                *("openssl", "s_client", "-connect", f"{HOME}:{listener.addr()[1]}", "-servername", "localhost"),
                *("-CAfile", certificates().ca, "-verify_return_error", "-alpn", "echo", "-quiet", "-ign_eof"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert program.stdin is not None and program.stdout is not None and program.stderr is not None
        finish = in_thread(program.stdout.read, 100_000)
        in_thread(program.stdin.write, b"x" * 100_000)()
        in_thread(program.stdin.flush)()
        assert finish() == b"x" * 100_000
        program.kill()
        program.communicate()


def test_openssl_s_server() -> None:
    made = certificates()
    with socket.socket() as free:
        free.bind((HOME, 0))
        port = free.getsockname()[1]
    program = subprocess.Popen(
        [
            *("openssl", "s_server", "-accept", f"{HOME}:{port}", "-naccept", "1", "-rev", "-quiet"),
            *("-cert", made.server, "-cert_chain", made.server, "-key", made.server_key, "-CAfile", made.ca),
            *("-Verify", "2", "-verify_return_error"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )

    def dial() -> Conn:
        while True:
            try:
                return Dial("tls", (HOME, port), ca=made.ca, cert=made.client, key=made.client_key)
            except ConnectionRefusedError:
                flower.time.sleep(0.01)

    try:
        with flower.timeout(NEVER), dial() as conn:
            conn.write("olleh\n")
            assert conn.read_until() == b"hello\n"
    finally:
        program.kill()
        program.communicate()


def test_curl() -> None:
    def handle(conn: Conn) -> None:
        while conn.read_until(b"\r\n") != b"\r\n":
            pass
        conn.write("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nflower")

    with listening(alpn=["http/1.1"]) as listener:
        t = flower.go(listener.serve, handle)
        url = f"https://localhost:{listener.addr()[1]}/"
        done = in_thread(
            lambda: subprocess.run(
                [
                    "curl",
                    "-sS",
                    "--noproxy",
                    "*",
                    "--cacert",
                    certificates().ca,
                    "--resolve",
                    f"localhost:{listener.addr()[1]}:{HOME}",
                    url,
                ],
                capture_output=True,
            )
        )()
        assert (done.stdout, done.stderr) == (b"flower", b"")
        listener.close()
        t.join(NEVER)


def test_pythons_own_server() -> None:
    made = certificates()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.server, made.server_key)

    def serve() -> bytes:
        with server:
            raw, _ = server.accept()
        with context.wrap_socket(raw, server_side=True) as sock:
            data = receive_all(sock)
            sock.sendall(data.upper())
            return data

    server = socket.create_server((HOME, 0))
    finish = in_thread(serve)
    with Dial("tls", server.getsockname(), ca=made.ca) as conn:
        conn.write("from flower")
        conn.close_write()
        assert conn.read_exactly(11) == b"FROM FLOWER"
        assert finish() == b"from flower"
