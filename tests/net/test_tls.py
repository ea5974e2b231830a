"""TLS: who is believed, sockets that somebody else has opened, and peers of another make."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import subprocess
import sys
from typing import Any

import pytest

import flower
from flower.errors import Timeout
from flower.net import Conn, Dial, Listen
from tests.net.certificates import certificates
from tests.net.support import (
    HOME,
    NEVER,
    client_context,
    connected,
    in_thread,
    listening_tls,
    receive_all,
    serving_tls,
    until,
)

pytestmark = pytest.mark.usefixtures("loop")

SOON = 0.05  # seconds; a time limit that a test waits for


# -- Who is believed


@pytest.mark.parametrize("name", [None, "localhost"])
def test_the_servers_certificate_is_verified(name: str | None) -> None:
    with serving_tls() as listener, Dial("tls", listener.addr(), ca=certificates().ca, server_name=name) as conn:
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
    with listening_tls() as listener, Dial("tls", ("localhost.", listener.addr()[1]), ca=certificates().ca):
        listener.receive(NEVER).close()


def test_without_a_host_it_is_this_machine_whose_certificate_must_be_right() -> None:
    with listening_tls() as listener, Dial("tls", ("", listener.addr()[1]), ca=certificates().ca):
        listener.receive(NEVER).close()


def test_the_address_of_this_end() -> None:
    with listening_tls() as listener:
        with Dial("tls", listener.addr(), ca=certificates().ca, local_addr=("127.0.0.2", 0)) as near:
            with listener.receive(NEVER) as far:
                assert far.remote_addr() == near.local_addr()
                assert near.local_addr()[0] == "127.0.0.2"


def test_mutual_tls() -> None:
    made = certificates()
    with listening_tls(ca=made.ca) as listener:
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
    with listening_tls(ca=made.ca) as listener:
        # In TLS 1.3 the client is done before the server has looked at its certificate: it learns when it reads.
        with Dial("tls", listener.addr(), ca=made.ca, **own) as conn:
            with pytest.raises(OSError, match=f"{HOME}:{listener.addr()[1]}"):
                conn.read(timeout=NEVER)
        with pytest.raises(Timeout):
            listener.receive(0.01)
    assert "while accepting" in caplog.text


def test_alpn() -> None:
    ca = certificates().ca
    with listening_tls(alpn=["h2", "http/1.1"]) as listener:
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
    with listening_tls() as listener, connected() as (near, far):
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
    with listening_tls() as listener:
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


# -- Peers of another make


def test_openssl_s_client() -> None:
    with serving_tls(alpn=["echo"]) as listener:
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

    with listening_tls(alpn=["http/1.1"]) as listener:
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
