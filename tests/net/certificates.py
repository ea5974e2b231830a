"""Certificates for tests, made anew in each run by the openssl command."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

DAYS = "2"


class Certificates(NamedTuple):
    """Files in PEM. The server's is for localhost, 127.0.0.1 and ::1; its chain goes over an intermediate authority."""

    ca: str
    server: str  # the certificate, the intermediate's behind it
    server_key: str
    client: str
    client_key: str
    stranger: str  # signed by itself
    stranger_key: str


_keep: list[tempfile.TemporaryDirectory[str]] = []


@cache
def certificates() -> Certificates:
    """The certificates of this run."""
    folder = tempfile.TemporaryDirectory(prefix="flower-certificates-")
    _keep.append(folder)
    at = Path(folder.name)

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=at, check=True, capture_output=True)

    def request(name: str) -> None:
        openssl(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN=Flower tests {name}", "-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )

    def sign(name: str, issuer: str, extensions: str) -> None:
        (at / f"{name}.ext").write_text(extensions)
        by = ["-signkey", f"{name}.key"] if issuer == name else ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key"]
        serial = [] if issuer == name else ["-CAcreateserial"]
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", *by, *serial, "-days", DAYS),
            *("-extfile", f"{name}.ext", "-out", f"{name}.pem"),
        )

    authority = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\nauthorityKeyIdentifier=keyid\n"
    for name, issuer, extensions in (
        ("ca", "ca", authority),
        ("middle", "ca", authority + "authorityKeyIdentifier=keyid\n"),
        ("server", "middle", names),
        ("client", "ca", "extendedKeyUsage=clientAuth\nauthorityKeyIdentifier=keyid\n"),
        ("stranger", "stranger", "subjectAltName=DNS:localhost,IP:127.0.0.1\n"),
    ):
        request(name)
        sign(name, issuer, extensions)
    (at / "chain.pem").write_text((at / "server.pem").read_text() + (at / "middle.pem").read_text())
    files = "ca.pem chain.pem server.key client.pem client.key stranger.pem stranger.key"
    return Certificates(*(str(at / file) for file in files.split()))
