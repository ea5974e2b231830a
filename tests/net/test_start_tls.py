"""TLS that begins in the middle of a connection."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

import pytest

import flower
from flower.errors import ChannelClosed, Timeout
from flower.net import Conn, Dial, Listen
from flower.net._stream import PARTING
from tests.net.certificates import certificates
from tests.net.support import (
    HOME,
    NEVER,
    Program,
    client_context,
    connected,
    failing,
    in_thread,
    listening_tls,
    plain_peer,
    read_all,
    receive_exactly,
    reset,
    rounds,
    until,
)

pytestmark = pytest.mark.usefixtures("loop")

SOON = 0.05  # seconds; a time limit that a test waits for


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
        with pytest.raises(RuntimeError, match="would stop the event loop"):
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
    with listening_tls() as listener, Program(KILLED, str(listener.addr()[1]), certificates().ca) as program:
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
