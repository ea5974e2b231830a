"""Echo over TLS: a server with a certificate, and a client that checks it.

The certificate is made here by the openssl command, and signed by itself: the client is told to trust it. Against a
public server it needs no ``ca``. Whoever speaks no TLS to the server costs only a connection of his own.

Prints:

    the certificate is for localhost
    speaking TLSv1.3
    echo: b'hello, safely'
    a client that does not trust it: refused
"""

import logging
import ssl
import tempfile

import flower
from flower import process
from flower.net import Dial, Listen


def make_certificate(folder):
    """A key, and a certificate of one day for localhost: the names of the two files."""
    key, cert = f"{folder}/key.pem", f"{folder}/cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    process.run(["openssl", "req", "-x509", *new, *subject, "-days", "1", "-keyout", key, "-out", cert])
    return key, cert


def echo(conn):
    for data in conn:
        conn.send(data)


def main():
    with tempfile.TemporaryDirectory() as folder:
        key, cert = make_certificate(folder)
        with Listen(("127.0.0.1", 0), "tls", cert=cert, key=key) as listener:
            server = flower.go(listener.serve, echo)
            address = "localhost", listener.addr()[1]

            with Dial("tls", address, ca=cert, timeout=10) as conn:
                print("the certificate is for", conn.certificate["subjectAltName"][0][1])
                print("speaking", conn.tls_version)
                conn.write("hello, safely")
                print("echo:", conn.read(timeout=10))

            logging.getLogger("flower.net").setLevel(logging.ERROR)  # the server would tell of the next one
            try:
                Dial("tls", address, timeout=10)
            except ssl.SSLCertVerificationError:
                print("a client that does not trust it: refused")
        server.join()


if __name__ == "__main__":
    main()
