"""TLS: what a peer costs that breaks the rules, floods, stops, or dies."""

from __future__ import annotations

import _ssl
import asyncio
import ctypes
import gc
import socket
import ssl
import threading
from contextlib import ExitStack, suppress
from typing import Any

import pytest

import flower
from flower.errors import ChannelClosed, Timeout
from flower.net import Dial, Listener
from flower.net._acceptor import REFUSALS
from flower.net._tls import TlsLayer
from tests.net.certificates import certificates
from tests.net.support import (
    HOME,
    NEVER,
    alive,
    alive_at_last,
    client_context,
    fill,
    in_thread,
    listening_tls,
    read_all,
    receive_all,
    reset,
    rounds,
    serving_tls,
    until,
)

pytestmark = pytest.mark.usefixtures("loop")

SOON = 0.05  # seconds; a time limit that a test waits for


# -- Peers that break the rules


def test_a_plain_text_client_costs_its_own_connection_alone(caplog: pytest.LogCaptureFixture) -> None:
    with serving_tls() as listener:
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

    with serving_tls() as listener:
        knock(REFUSALS + 5)
        assert len(caplog.records) == REFUSALS
        monkeypatch.setattr("flower.net._acceptor.MINUTE", 0.0)
        listener._acceptor._refusals._until = 0.0  # a minute later
        knock(2)
        assert [record.getMessage().count("(5 more") for record in caplog.records[REFUSALS:]] == [1, 0]
        assert alive(listener)


def test_a_listener_that_closes_cuts_the_handshakes(caplog: pytest.LogCaptureFixture) -> None:
    with listening_tls() as listener:
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
        with listening_tls() as listener:
            sock = socket.create_connection(listener.addr(), NEVER)
            until(lambda: listener._acceptor._shaking)
            reset(sock)
            flower.wait(close(listener, steps))


@pytest.mark.parametrize("how", ["close", "reset", "silence"])
def test_a_client_that_never_finishes_its_handshake(how: str, caplog: pytest.LogCaptureFixture) -> None:
    with serving_tls(handshake_timeout=SOON if how == "silence" else NEVER) as listener:
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
    with listening_tls() as listener, socket.create_connection(listener.addr(), NEVER) as sock:

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

        with serving_tls(handshake_timeout=NEVER) as listener:
            silence(200)
            assert alive(listener)  # though more than the listener holds are in the middle of it
        monkeypatch.setattr("flower.net._acceptor.HANDSHAKES", 10)
        with serving_tls(handshake_timeout=SOON) as listener:
            silence(20)
            assert alive_at_last(listener)  # when the time of some is up
        with listening_tls(handshake_timeout=NEVER) as listener:
            silence(20)
            shaking = listener._acceptor._shaking
            until(lambda: len(shaking) >= 10)
            rounds(5)
            assert len(shaking) == 10
        until(lambda: not shaking)  # they are cut


def test_who_closes_after_the_peer_s_end_says_so() -> None:
    with listening_tls() as listener, Dial("tls", listener.addr(), ca=certificates().ca) as near:
        with listener.receive(NEVER) as far:
            near.write("question")
            near.close_write()
            assert read_all(far) == b"question"
            far.write("answer")
        assert read_all(near) == b"answer"


@pytest.mark.parametrize("loop", ["asyncio"], indirect=True)  # which shows its timers
def test_a_handshake_that_is_done_has_no_time_limit_any_more() -> None:
    with serving_tls() as listener:
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
    with listening_tls() as listener:

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
    with listening_tls() as listener:
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
    with listening_tls() as listener:
        finish = in_thread(flood_of_key_updates, listener.addr(), ended)
        with listener.receive(NEVER) as conn:
            with pytest.raises(ConnectionAbortedError, match=f"{HOME}:.*asks for new keys again and again"):
                conn.read(timeout=NEVER)
    ended.set()
    assert 0 < finish() < 1_000_000


def test_many_requests_for_new_keys_over_time_are_answered() -> None:
    ended = threading.Event()
    with listening_tls() as listener:
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
    with listening_tls(read_buffer=1 if paused else 65_536) as listener:
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
    with listening_tls() as listener, Dial("tls", listener.addr(), ca=certificates().ca) as near:
        with listener.receive(NEVER) as far:
            near._stream._sock.send(b"\x17\x03\x03\x00\x10" + b"?" * 16)
            with pytest.raises(ssl.SSLError, match=f"{HOME}:{listener.addr()[1]}"):
                far.read(timeout=NEVER)
            with pytest.raises(OSError):
                far.send(b"x")
            with pytest.raises((OSError, ChannelClosed)):
                near.read(timeout=NEVER)
