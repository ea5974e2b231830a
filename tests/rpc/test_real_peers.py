"""Peers that others wrote, beside Neovim: pynvim as a client, and msgpack-rpc-python 0.4.1, from 2013, both ways.

The latter needs versions of its own of msgpack and tornado, and so a folder of its own to be installed into.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flower
from flower import rpc
from flower.errors import RemoteError
from tests.net.support import HOME, NEVER, Program, until
from tests.rpc.support import URL, Calc, free_port, settle

pytestmark = [pytest.mark.usefixtures("loop"), pytest.mark.slow]


@pytest.fixture
def calc() -> Calc:
    return Calc()


def conversation(program: Program) -> str:
    """What the program prints to its end, while our server runs beside it."""
    return str(flower.blocking(program.end))


# -- pynvim

PYNVIM = """
import sys, warnings
warnings.simplefilter("ignore")  # it closes little of what it opens
from pynvim.msgpack_rpc import ErrorResponse, tcp_session

session = tcp_session("127.0.0.1", int(sys.argv[1]))
print(session.request("add", 1, 2), session.request("add", "grü", "ße"))
print(session.request("echo", [1, {"two": None}, 2.5, True, b"\\xff"]))
for bad in [("fail", "as we said"), ("no_such_method",), ("add", 1)]:
    try:
        print(session.request(*bad))
    except Exception as error:
        print(type(error).__name__)
session.request("note", "told", async_=True)
print(session.request("echo", "after the notification"))

def on_request(method, args):
    if method == "fail":
        raise ErrorResponse("said the client")
    return [method, args]

def on_notification(method, args):
    print("told", method, args)

def ask():
    print(session.request("ask_back", "double", [21]))
    print(session.request("ask_back", "fail", []))
    session.stop()

session.run(on_request, on_notification, ask)
session.close()
"""


class Caller(Calc):
    """Calls its caller back."""

    def ask_back(self, method: str, args: list[Any]) -> Any:
        context = rpc.context()
        assert context is not None
        peer = context.peer
        peer.notify("hello", 1)
        try:
            return peer.call(method, *args, timeout=NEVER)
        except RemoteError as error:
            return f"it failed: {error}"


def test_pynvim_as_a_client() -> None:
    service = Caller()
    with rpc.serve(URL, service) as server:
        with Program(PYNVIM, str(server.address[1])) as program:
            lines = conversation(program).splitlines()
        assert lines == [
            "3 grüße",
            r"[1, {'two': None}, 2.5, True, b'\xff']",
            *["Exception"] * 3,
            "after the notification",
            "told hello [1]",
            "['double', [21]]",
            "told hello [1]",
            "it failed: said the client",
        ]
        assert service.log == ["told"]
    settle()


# -- msgpack-rpc-python

# The second is for the tornado that the first demands, where Python no longer has that part itself (3.12).
PACKAGES = ["msgpack-rpc-python==0.4.1", "backports.ssl_match_hostname"]


@pytest.fixture
def old(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the folder in which msgpack-rpc-python is installed before everything else that programs import."""
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("msgpack-rpc-python-0.4.1")
    installed = folder / "installed"  # the last of all
    if not installed.exists():
        command = ["pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(folder)]
        subprocess.run([sys.executable, "-m", *command, *PACKAGES], check=True)
        installed.touch()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


OLD_CLIENT = """
import sys, warnings
warnings.simplefilter("ignore")
import msgpackrpc

client = msgpackrpc.Client(msgpackrpc.Address("127.0.0.1", int(sys.argv[1])), unpack_encoding="utf-8")
print(client.call("add", 1, 2), client.call("add", "to", "gether"))
print(client.call("echo", [1, {"two": None}, 2.5, True]))
print(client.call("echo", b"bytes"))
for bad in [("fail", "as we said"), ("no_such_method",), ("_private",), ("add", 1)]:
    try:
        print(client.call(*bad))
    except msgpackrpc.error.RPCError as error:
        print(error)
client.notify("note", "told")
replies = [client.call_async("add", i, i) for i in range(100)]
print([reply.get() for reply in replies] == [2 * i for i in range(100)])
client.close()
"""


@pytest.mark.usefixtures("old")
def test_an_old_client(calc: Calc) -> None:
    with rpc.serve(URL, calc) as server:
        with Program(OLD_CLIENT, str(server.address[1])) as program:
            lines = conversation(program).splitlines()
    settle()
    assert lines[:3] == ["3 together", "[1, {'two': None}, 2.5, True]", "bytes"]
    assert lines[3:6] == ["ValueError: as we said", "unknown method: no_such_method", "unknown method: _private"]
    assert "missing a required argument: 'b'" in lines[6]
    assert lines[7:] == ["True"]
    assert calc.log == ["told"]


OLD_SERVER = """
import sys, warnings
warnings.simplefilter("ignore")
import msgpackrpc

class Service:
    def add(self, a, b):
        return a + b
    def echo(self, value):
        return value
    def fail(self, text):
        raise ValueError(text)
    def note(self, text):
        print("told", text)
    def stop(self):
        server.close()
        server.stop()

server = msgpackrpc.Server(Service(), unpack_encoding="utf-8")
server.listen(msgpackrpc.Address("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
server.start()
"""


@pytest.mark.usefixtures("old")
def test_an_old_server() -> None:
    port = free_port()
    with Program(OLD_SERVER, str(port)) as program:
        assert program.line() == "listening"
        with rpc.connect(f"tcp://{HOME}:{port}") as peer:
            assert peer.call("add", 1, 2) == 3
            assert peer.call("echo", ["grüße", {"a": 1}, None, 2.5]) == ["grüße", {"a": 1}, None, 2.5]
            with pytest.raises(RemoteError, match="as we said"):
                peer.call("fail", "as we said")
            with pytest.raises(RemoteError, match="'nothing' method not found"):
                peer.call("nothing")
            peer.notify("note", "this")
            replies = [peer.start("add", i, i) for i in range(100)]
            assert [reply.receive(NEVER) for reply in replies] == [2 * i for i in range(100)]
            peer.notify("stop")
            assert conversation(program) == "told this\n"
            until(lambda: peer.closed)
    settle()
