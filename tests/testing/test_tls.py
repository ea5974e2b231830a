"""TLS in the simulated network: between whom it comes about, and what each end learns if it does not."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from hypothesis import strategies as st

import flower
import flower.testing as ft
from flower.net import Dial, Listen
from tests.net.certificates import Certificates, certificates
from tests.testing.support import holds

SERVER = ("server", 80)


def tls_options() -> tuple[Certificates, dict[str, Any], dict[str, Any]]:
    """Certificates, and what a listener and a client need of them."""
    made = certificates()
    return made, {"cert": made.server, "key": made.server_key}, {"ca": made.ca, "server_name": "localhost"}


def echo(conn: Any) -> None:
    for chunk in conn:
        conn.send(chunk)


@pytest.mark.slow
def test_tls_is_what_both_ends_agree_on() -> None:
    made, listens, dials = tls_options()

    def test(w: ft.World) -> None:
        listener = Listen(SERVER, "tls", alpn=["h2"], **listens, **({"ca": made.ca} if w.draw(st.booleans()) else {}))
        own = {"cert": made.client, "key": made.client_key}
        with listener, w.net.at("client"), Dial("tls", SERVER, alpn=["h1", "h2"], **dials, **own) as near:
            with listener.receive() as far:
                assert near.protocol == far.protocol == "h2" and near.tls_version == "TLSv1.3"
                assert near.certificate is not None and ("DNS", "localhost") in near.certificate["subjectAltName"]
                near.send(b"hello")
                assert far.read_exactly(5) == b"hello"
                with pytest.raises(RuntimeError, match="TLS"):
                    near.start_tls(server_name="far")

    holds(test, max_examples=20)


def test_tls_to_who_has_none_and_the_reverse_costs_that_connection_only() -> None:
    _, listens, dials = tls_options()

    def test(w: ft.World) -> None:
        secure = w.draw(st.booleans())
        proto, options, mine = ("tls", listens, {}) if secure else ("tcp", {}, dials)
        with Listen(SERVER, proto, **options) as listener:
            w.go(listener.serve, echo)
            if secure:
                with Dial("tcp", SERVER) as conn, pytest.raises(ConnectionResetError):
                    conn.read()
            else:
                with pytest.raises(ConnectionResetError, match=r"tls server:80: .* in the TLS handshake"):
                    Dial("tls", SERVER, **mine)
            with Dial(proto, SERVER, **(dials if secure else {})) as conn:
                conn.send(b"x")
                assert conn.read_exactly(1) == b"x"
            w.advance(1)

    holds(test, max_examples=20)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_refuses_whom_the_real_one_refuses(version: ssl.TLSVersion) -> None:
    made, listens, dials = tls_options()

    def test(w: ft.World) -> None:
        with pytest.raises(ValueError, match="a TLS server needs cert"):
            Listen(SERVER, "tls")
        with pytest.raises(FileNotFoundError, match="certificate's file can't be read"):
            Listen(SERVER, "tls", cert="nowhere.pem")
        with pytest.raises(ValueError, match="key belongs to a cert"):
            Dial("tls", SERVER, key="key.pem")
        with Listen(SERVER, "tls", **listens) as listener:
            for wrong in ({"server_name": "localhost"}, {"ca": made.ca}, {**dials, "server_name": "elsewhere"}):
                with pytest.raises(ssl.SSLCertVerificationError, match="server:80"):
                    Dial("tls", SERVER, **wrong)
            assert len(listener._connections) == 0
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=made.ca)
        context.load_cert_chain(made.server, made.server_key)
        context.verify_mode, context.maximum_version = ssl.CERT_REQUIRED, version
        with Listen(SERVER, "tls", context=context) as listener:
            with pytest.raises(OSError):  # of TLS 1.3, a client learns that it is not believed when it reads
                with Dial("tls", SERVER, **dials) as conn:
                    assert version is ssl.TLSVersion.TLSv1_3
                    conn.read()
            with pytest.raises(flower.Timeout):
                listener.receive(5)

    holds(test, max_examples=5)
