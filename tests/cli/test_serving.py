"""The command line serves."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from tests.cli.support import in_process, run, serving, start
from tests.net.certificates import certificates
from tests.net.support import HOME, NEVER
from tests.test_examples import ended

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("target", "method"), [("aservice:calc.add", None), ("aservice", "function"), ("aservice:functions", "double")]
)
def test_what_can_be_served(folder: Path, capsys: pytest.CaptureFixture[str], target: str, method: str | None) -> None:
    if method is None:
        code, out, err = run("serve", target, folder=folder)
        assert (code, out) == (2, "")
        assert "a service is an object of a class with methods to call, a module, or a dict" in err
        return
    with serving(folder, target) as (_, url):
        assert in_process(capsys, "call", url, method, "4") == (0, "8\n", "")
        assert in_process(capsys, "call", url, "_private")[0] == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["no_such_module:x"], "no module 'no_such_module'"),
        (["aservice:nothing"], "aservice has no 'nothing'"),
        (["aservice:calc.nothing"], "aservice has no 'calc.nothing'"),
        (["fileless"], "fileless has nothing to call: no public functions or methods of its own; an object in it"),
        (["aservice:"], "not an object to serve: 'aservice:'"),
        (["./aservice"], "not an object to serve: './aservice'"),
        (["aservice:calc", "--on", "here"], "not a server's address: 'here'"),
    ],
)
def test_what_cant_be_served(folder: Path, words: list[str], text: str) -> None:
    code, out, err = run("serve", *words, folder=folder)
    assert (code, out) == (2, "")
    assert err.startswith("flower: ")
    assert text in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("target", "where", "what"),
    [("broken:x", "broken.py", "no_such_module_at_all"), ("fileless:Service", "fileless.py", "/no/such/file")],
)
def test_code_that_fails_as_it_is_loaded_says_where(folder: Path, target: str, where: str, what: str) -> None:
    code, _, err = run("serve", target, folder=folder)
    assert code == 2
    assert where in err
    assert what in err
    assert f"flower: {target} can't be served: its code failed with " in err


def test_a_file_that_cant_be_read_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = in_process(capsys, "call", f"tls://{HOME}:1", "add", "--ca", "/no/such/file")
    assert code == 3
    assert err == "flower: the authorities' file can't be read: No such file or directory: /no/such/file\n"


def test_an_address_that_is_taken(folder: Path) -> None:
    with socket.create_server((HOME, 0)) as taken:
        code, out, err = run("serve", "aservice:Calc", "--on", f"tcp://{HOME}:{taken.getsockname()[1]}", folder=folder)
    assert (code, out) == (1, "")
    assert "in use" in err


@pytest.mark.parametrize("again", [False, True])
def test_a_server_lets_calls_end_unless_it_is_told_twice(folder: Path, again: bool) -> None:
    seconds = "60" if again else "0.3"
    with serving(folder, "aservice:Calc") as (server, url), ended(start("call", url, "slow", seconds)) as caller:
        assert server.stdout
        assert server.stdout.readline() == "begun\n"
        server.send_signal(signal.SIGTERM)
        if again:
            time.sleep(0.1)  # signals of one kind are not counted
            server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=NEVER)
        assert (server.returncode, out, err) == (0, "" if again else "done\n", "")
        out, err = caller.communicate(timeout=NEVER)
        assert (caller.returncode, out) == ((3, "") if again else (0, "rested\n"))


def test_a_token(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWER_TOKEN", raising=False)
    with serving(folder, "aservice:Calc", "--token", "secret") as (_, url):
        assert in_process(capsys, "call", url, "add", "1", "2", "--token", "secret") == (0, "3\n", "")
        for words in (["--token", "wrong"], []):
            code, out, err = in_process(capsys, "call", url, "add", "1", "2", *words)
            assert (code, out) == (3, "")
            assert "token" in err
        monkeypatch.setenv("FLOWER_TOKEN", "secret")
        assert in_process(capsys, "ping", url, "-c", "1")[0] == 0
        monkeypatch.setenv("FLOWER_TOKEN", "")
        for words in (["call", url, "add", "1"], ["serve", "json:JSONDecoder"]):
            code, out, err = in_process(capsys, *words)
            assert (code, out) == (2, "")
            assert "the token is empty" in err
        assert in_process(capsys, "call", url, "add", "1", "2", "--token", "secret") == (0, "3\n", "")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_server_ends_well(folder: Path, signum: signal.Signals) -> None:
    with serving(folder, "aservice:Calc") as (process, _):
        process.send_signal(signum)
        out, err = process.communicate(timeout=NEVER)
        assert (process.returncode, out, err) == (0, "", "")


def test_unix_and_tls(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(folder, "aservice:Calc", "--on", f"unix:{tmp_path}/socket") as (_, url):
        assert url == f"unix:{tmp_path}/socket"
        assert in_process(capsys, "call", url, "add", "1", "2") == (0, "3\n", "")
    files = certificates()
    words = ["--cert", files.server, "--key", files.server_key, "--ca", files.ca]
    with serving(folder, "aservice:Calc", "--on", f"tls://{HOME}:0", *words) as (_, url):
        words = ["--ca", files.ca, "--cert", files.client, "--key", files.client_key]
        assert in_process(capsys, "call", url, "add", "1", "2", *words) == (0, "3\n", "")
        for bad in (["--ca", files.ca], [], [*words, "--server-name", "example.org"]):
            code, out, err = in_process(capsys, "call", url, "add", "1", "2", *bad)
            assert (code, out) == (3, "")
            assert "Traceback" not in err
    code, out, err = in_process(capsys, "call", "tcp://a:1", "add", "--ca", files.ca)
    assert (code, out) == (2, "")
    assert "for a URL such as tls://host:port" in err
