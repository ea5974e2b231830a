"""Mutual TLS: the client knows that it talks to the server, and the server knows who calls.

An authority signs a certificate for the server, and one for each client. The server lets in only those who show a
certificate of this authority, and finds in ``rpc.context()`` whose it is. Everything is made by the ``openssl``
command in a folder that goes away at the end; real authorities keep their keys to themselves.

Prints:

    alice may deposit: the balance is 100
    bob may not: PermissionError: bob may only look
    bob looks: the balance is 100
    nobody without a certificate: refused
    nobody with one that he has made himself: refused
    the client does not talk to just anybody: SSLCertVerificationError
"""

import logging
import ssl
import subprocess
import tempfile
from pathlib import Path

from flower import rpc


class Account:
    """What the bank offers: everybody may look, alice may deposit."""

    def __init__(self):
        self._balance = 0

    def balance(self):
        return self._balance

    def deposit(self, amount):
        name = caller()
        if name != "alice":
            raise PermissionError(f"{name} may only look")
        self._balance += amount
        return self._balance


def caller():
    """The name in the certificate of whoever has called."""
    subject = dict(pair for (pair,) in rpc.context().certificate["subject"])
    return subject["commonName"]


def demonstrate(url, authority):
    def client(name):
        return rpc.connect(url, timeout=10.0, ca=authority.ca, **authority.certify(name))

    with client("alice") as alice, client("bob") as bob:
        print("alice may deposit: the balance is", alice.call("deposit", 100))
        try:
            bob.call("deposit", 1_000_000)
        except PermissionError as error:
            print("bob may not:", error)
        print("bob looks: the balance is", bob.call("balance"))


def refused(*args, **options):
    # A client of TLS 1.3 learns with its first call that the server did not want its certificate.
    try:
        with rpc.connect(*args, timeout=10.0, **options) as peer:
            peer.call("balance")
    except ssl.SSLCertVerificationError as error:
        return type(error).__name__
    except OSError:
        return "refused"
    return "let in!"


class Authority:
    """Signs certificates, in a folder."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.ca = str(self.folder / "ca.pem")
        usage = ["-addext", "keyUsage=critical,keyCertSign"]  # Python 3.13 wants to see it, and who has signed what
        self._openssl("req", "-x509", *self._key("ca"), "-subj", "/CN=the authority", *usage, "-out", "ca.pem")
        (self.folder / "signer").write_text("authorityKeyIdentifier=keyid\n")

    def certify(self, name, *, host=None):
        """A certificate and its key, as `flower.net` takes them."""
        extension = ["-addext", f"subjectAltName={host}"] if host else []
        self._openssl("req", "-new", *self._key(name), "-subj", f"/CN={name}", *extension, "-out", f"{name}.csr")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-copy_extensions", "copy"]
        signed += ["-extfile", "signer"]
        self._openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
        return {"cert": str(self.folder / f"{name}.pem"), "key": str(self.folder / f"{name}.key")}

    def _key(self, name):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]

    def _openssl(self, *words):
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)


def main():
    logging.getLogger("flower.net").setLevel(logging.ERROR)  # it would warn of each one who is refused
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as his:
        authority, forger = Authority(ours), Authority(his)
        ca = authority.ca
        with rpc.serve("tls://127.0.0.1:0", Account(), ca=ca, **authority.certify("bank", host="IP:127.0.0.1")) as bank:
            demonstrate(bank.url, authority)
            print("nobody without a certificate:", refused(bank.url, ca=ca))
            print("nobody with one that he has made himself:", refused(bank.url, ca=ca, **forger.certify("alice")))
            print("the client does not talk to just anybody:", refused(bank.url, ca=forger.ca))


if __name__ == "__main__":
    main()
