"""The command line calls: methods, streams, lists, pings; and Neovim."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flower
from flower import rpc
from flower.net import Listen
from tests.cli.support import in_process, seen_until, serving, start, watched
from tests.net.support import HOME, NEVER, until
from tests.rpc.support import Raw, settle
from tests.test_examples import ended, environment

NVIM = shutil.which("nvim")

pytestmark = pytest.mark.slow


# -- Calling


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["add", "1", "2"], "3\n"),
        (["add", "one", "two"], "onetwo\n"),
        (["add", '"1"', '"2"'], "12\n"),
        (["add", "[1]", "[2]"], "[\n  1,\n  2\n]\n"),
        (["same", "true"], "true\n"),
        (["same", "123456789012345678901234567890"], "123456789012345678901234567890\n"),
        (["same", "null"], ""),
        (["same", "null", "--json"], "null\n"),
        (["same", "1.5"], "1.5\n"),
        (["same", "NaN"], "NaN\n"),
        (["same", "let x = 5"], "let x = 5\n"),
        pytest.param(["same", "[" * 100_000], "[" * 100_000 + "\n", id="deep"),
        (["same", "--strings", "5"], "5\n"),
        (["same", "--strings", "x=5", "--json"], '"x=5"\n'),
        (["same", '{"a": [1, null]}', "--json"], '{"a": [1, null]}\n'),
        (["binary"], "b'\\xff\\x00'\n"),
        (["binary", "--json"], '{"$bytes": "/wA="}\n'),
        (["odd", "--json"], '[null, null, {"a": null}]\n'),
        pytest.param(["add", "1", str(10**4299)], "1" + "0" * 4298 + "1\n", id="4300 digits"),
        pytest.param(
            ["power", "20000", "--json"],
            f'["0x1{5000 * "0"}", "<set with an integer of thousands of digits>"]\n',
            id="6021 digits",
        ),
        (["same", "1e999", "--json"], "null\n"),
        (["same", "--", "-5"], "-5\n"),
        (["add", "-1e3", "-2.5E-1"], "-1000.25\n"),
        (["add", "1"], "11\n"),
        (["add", "1", "b=5"], "6\n"),
        (["echo", "1", "x=y", "z=[2]", "--json"], '[[1], {"x": "y", "z": [2]}]\n'),
    ],
)
def test_call(url: str, capsys: pytest.CaptureFixture[str], words: list[str], out: str) -> None:
    assert in_process(capsys, "call", url, *words) == (0, out, "")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["fail", "as we said"], 1, "as we said"),
        (["nothing"], 1, "nothing"),
        (["add"], 1, "missing a required argument: 'a'"),
        (["pipe"], 1, "BrokenPipeError: not ours"),
        (["count", "3"], 2, "count gives a stream of values: use flower stream"),
        (["add", "b=5", "1"], 2, "positional arguments come first: '1' stands after b="),
    ],
)
def test_calls_that_fail(url: str, capsys: pytest.CaptureFixture[str], words: list[str], code: int, text: str) -> None:
    found, out, err = in_process(capsys, "call", url, *words)
    assert (found, out) == (code, "")
    assert err.startswith("flower: ")
    assert text in err
    assert "Traceback" not in err or code == 1


def test_arguments_that_do_not_fit_have_no_traceback(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The method has not run: all lines would be Flower's own."""
    _, _, err = in_process(capsys, "call", url, "add")
    assert err == "flower: InvalidArguments: add(a, b=10): missing a required argument: 'a'\n"


def test_arguments_of_a_method_are_not_said_to_be_required(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = in_process(capsys, "call")
    assert code == 2
    assert err.endswith("error: the following arguments are required: URL, METHOD\n")


def test_notify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(folder, "aservice:calc") as (process, url):
        assert in_process(capsys, "notify", url, "log", "this") == (0, "", "")
        assert process.stdout
        assert process.stdout.readline() == "logged this\n"


@pytest.mark.parametrize(
    ("url", "code", "text"),
    [
        ("tcp://127.0.0.1:1", 3, "refused: can't connect to tcp 127.0.0.1:1"),
        ("unix:/no/such/socket", 3, "No such file or directory: can't connect to pipe /no/such/socket"),
        ("http://example.org", 2, "not a server's address: 'http://example.org'"),
    ],
)
def test_no_server(capsys: pytest.CaptureFixture[str], url: str, code: int, text: str) -> None:
    for words in (["call", url, "add"], ["list", url], ["ping", url], ["help", url, "add"], ["notify", url, "add"]):
        found, out, err = in_process(capsys, *words)
        assert (found, out) == (code, ""), words
        assert text in err


def test_no_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["no-such"], ["call"], ["call", "tcp://a:1"], ["ping", "a", "--timeout", "-1"]):
        code, out, err = in_process(capsys, *words)
        assert (code, out) == (2, "")
        assert "usage: flower" in err
    for option, given, text in (
        ("--timeout", "-1", "'-1' is no number of seconds"),
        ("--timeout", "soon", "'soon' is no number of seconds"),
        ("--count", "-1", "'-1' is no number from 0 on"),
        ("--count", "x", "'x' is no number from 0 on"),
    ):
        code, _, err = in_process(capsys, "ping", "tcp://a:1", option, given)
        assert code == 2
        assert text in err
    code, out, err = in_process(capsys, "--help")
    assert (code, err) == (0, "")
    assert "Exit codes" in out


def test_the_end_of_the_reader_of_our_output(folder: Path) -> None:
    with serving(folder, "aservice:Calc") as (_, url), ended(start("call", url, "same", "x" * 100_000)) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(NEVER) == 0


@pytest.mark.parametrize(
    ("to", "code", "text"), [("> /dev/full", 1, "flower: No space left"), (">&-", 0, ""), ("2>&-", 0, "")]
)
def test_output_that_cant_be_written(folder: Path, to: str, code: int, text: str) -> None:
    if to == "> /dev/full" and not os.path.exists("/dev/full"):
        pytest.skip("no device that is full")
    with serving(folder, "aservice:Calc") as (_, url):
        for words in ("call {} add 1 2", "stream {} count 3"):
            command = f"exec {sys.executable} -m flower {words.format(url)} {to}"
            done = subprocess.run(
                command, shell=True, cwd=folder, capture_output=True, text=True, timeout=NEVER, env=environment()
            )
            assert (done.returncode, done.stderr[: len(text)]) == (code, text)


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", rb"\xfc\udcff"), ("utf-8", b"\xc3\xbc\\udcff")])
def test_text_that_the_output_has_no_characters_for(folder: Path, encoding: str, shown: bytes) -> None:
    with serving(folder, "aservice:Calc") as (_, url):
        command = [sys.executable, "-m", "flower", "call", url, "same", '"\\u00fc\\udcff"']
        kept = environment() | {"PYTHONIOENCODING": encoding}
        done = subprocess.run(command, capture_output=True, timeout=NEVER, env=kept)
    assert (done.returncode, done.stdout.rstrip(), done.stderr) == (0, shown, b"")


def test_no_answer_in_time(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(folder, "aservice:Calc") as (_, url):
        code, out, err = in_process(capsys, "call", url, "slow", "60", "--timeout", "0.05")
    assert (code, out) == (4, "")
    assert "slow gave no answer within 0.05 s" in err


def test_a_token_is_not_taken_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((HOME, 0)) as silent:
        url = f"tcp://{HOME}:{silent.getsockname()[1]}"
        code, out, err = in_process(capsys, "call", url, "add", "--timeout", "0.05", "--token", "secret")
    assert (code, out) == (4, "")
    assert "no answer to our hello within 0.05 s" in err
    settle()


def test_a_notification_goes_to_who_has_let_us_in(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[int] = []
    with rpc.serve(f"tcp://{HOME}:0", {"hear": heard.append}, token="secret") as server:
        code, _, err = in_process(capsys, "notify", server.url, "hear", "1")
        assert code == 3
        assert "the peer refused us" in err
        assert in_process(capsys, "notify", server.url, "hear", "2", "--token", "secret") == (0, "", "")
        until(lambda: heard == [2])
    with socket.create_server((HOME, 0)) as silent:
        url = f"tcp://{HOME}:{silent.getsockname()[1]}"
        with flower.timeout(NEVER / 6):
            code, _, err = in_process(capsys, "notify", url, "hear", "n=1", "--timeout", "0.05")
        assert code == 4
        assert "no answer within 0.05 s" in err
    settle()


def test_a_notification_has_been_read_before_we_hang_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Neovim drops it else, now and then."""
    came: list[str] = []

    def answer(listener: Any) -> None:
        with listener.receive(NEVER) as conn:
            raw = Raw(conn)
            while (message := raw.receive()) is not None:
                came.append(message[-2])
                if message[0] == 0:
                    raw.send([1, message[1], "unknown", None])

    with Listen((HOME, 0)) as listener:
        answering = flower.go(answer, listener)
        assert in_process(capsys, "notify", f"tcp://{HOME}:{listener.addr()[1]}", "hear", "1") == (0, "", "")
        answering.join()
    assert came == ["$/hello", "$/ping", "hear", "$/ping"]
    settle()


def test_ctrl_c_ends_a_call(folder: Path) -> None:
    with serving(folder, "aservice:Calc") as (server, url), ended(start("call", url, "slow", "60")) as process:
        assert server.stdout
        assert server.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=NEVER)
        assert (process.returncode, out, err) == (130, "", "")


def test_stream(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process(capsys, "stream", url, "count", "3") == (0, "0\n1\n2\n", "")
    assert in_process(capsys, "stream", url, "count", "n=1000", "--limit", "2", "--json") == (0, "0\n1\n", "")
    assert in_process(capsys, "stream", url, "count", "0") == (0, "", "")
    assert in_process(capsys, "stream", url, "pairs", "--json") == (0, '["a", 1]\n["b", 2]\n', "")
    code, out, err = in_process(capsys, "stream", url, "cut_short")
    assert (code, out) == (1, "1\n")
    assert "ValueError: no more" in err
    code, out, err = in_process(capsys, "stream", url, "add", "1", "2")
    assert (code, out) == (2, "")
    assert "add gives no stream" in err
    code, out, err = in_process(capsys, "stream", url, "nothing")
    assert (code, out) == (1, "")
    code, out, err = in_process(capsys, "stream", url, "forever", "--timeout", "0.05")
    assert (code, out.splitlines()[0]) == (4, "0")
    assert "the time is over" in err


def test_ctrl_c_ends_a_stream(folder: Path) -> None:
    with serving(folder, "aservice:Calc") as (server, url), ended(start("stream", url, "forever")) as process:
        assert server.stdout and process.stdout
        assert process.stdout.readline() == "0\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=NEVER)
        assert (process.returncode, err) == (130, "")
        assert server.stdout.readline() == "ended\n"


# -- Looking around


def test_list_and_help(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = in_process(capsys, "list", url)
    assert (code, err) == (0, "")
    assert "add(a, b=10)\n    Add two values.\n" in out
    assert "echo(*args, **kwargs)\n" in out
    assert "_private" not in out
    code, out, err = in_process(capsys, "list", url, "--json")
    assert json.loads(out)["add"]["signature"] == "(a, b=10)"
    code, out, err = in_process(capsys, "help", url, "add")
    assert (code, err) == (0, "")
    assert out == "add(a, b=10)\n\nAdd two values.\n\nOf any kind that can be added.\n"
    assert in_process(capsys, "help", url, "count")[1] == "count(n)  (streams)\n"
    assert json.loads(in_process(capsys, "help", url, "add", "--json")[1])["signature"] == "(a, b=10)"
    code, out, err = in_process(capsys, "help", url, "nothing")
    assert (code, out) == (1, "")
    assert "no method nothing" in err
    assert "add, binary" in err


@pytest.mark.parametrize("told", [5, None, {"x": 5}, {"x": {}}, {1: {}}, {"x": {"signature": "()", "doc": b""}}])
@pytest.mark.parametrize("method", ["$/list", "nvim_get_api_info"])
def test_a_list_that_makes_no_sense(capsys: pytest.CaptureFixture[str], told: object, method: str) -> None:
    def answer() -> None:
        for conn in listener:
            raw = Raw(conn)
            while (request := raw.receive()) is not None:
                raw.send([1, request[1], None, told] if request[2] == method else [1, request[1], "no such", None])

    with Listen((HOME, 0)) as listener:
        flower.go(answer)
        host, port = listener.addr()
        for words in (["list"], ["help", "x"]):
            code, out, err = in_process(capsys, words[0], f"tcp://{host}:{port}", *words[1:])
            assert (code, out) == (1, "")
            assert f"what it says can be called there makes no sense: {told!r}" in err
    settle()


def test_ping(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = in_process(capsys, "ping", url, "-c", "3", "-i", "0")
    assert (code, err) == (0, "")
    *lines, last = out.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(rf"answer from {re.escape(url)}: \d+\.\d{{3}} ms", line) for line in lines)
    assert re.fullmatch(r"3 sent, 3 answered; [\d.]+ / [\d.]+ / [\d.]+ ms least, mean, most", last)


def test_ping_until_ctrl_c(folder: Path) -> None:
    command = ["-c", "0", "-i", "60"]
    with serving(folder, "aservice:Calc") as (_, url), ended(start("ping", url, *command)) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("answer from")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=NEVER)
        assert (process.returncode, err) == (0, "")
        assert "1 sent, 1 answered" in out


@pytest.mark.slow
def test_ping_without_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((HOME, 0)) as silent:
        url = f"tcp://{HOME}:{silent.getsockname()[1]}"
        code, out, err = in_process(capsys, "ping", url, "-c", "2", "-i", "0", "--timeout", "0.4")
    assert (code, err) == (1, "")
    assert out.splitlines() == ["no answer within 0.4 s"] * 2 + ["2 sent, none answered"]


# -- Neovim


@pytest.fixture
def neovim(tmp_path: Path) -> Iterator[str]:
    assert NVIM, "Neovim is not installed"
    with socket.socket() as probe:
        probe.bind((HOME, 0))
        port = probe.getsockname()[1]
    command = [NVIM, "--headless", "--clean", "-n", "--listen", f"{HOME}:{port}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + NEVER
        while True:
            try:
                socket.create_connection((HOME, port)).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        yield f"tcp://{HOME}:{port}"
    finally:
        process.kill()
        process.wait()


def test_neovim(neovim: str, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> tuple[int, str, str]:
        return in_process(capsys, *words)

    assert said("call", neovim, "nvim_eval", "6 * 7") == (0, "42\n", "")
    assert said("call", neovim, "nvim_eval", "--strings", "42") == (0, "42\n", "")
    words = ["nvim_buf_set_lines", "--", "0", "0", "-1", "true", '["one", "two"]']
    assert said("call", neovim, *words) == (0, "", "")
    lines = said("call", neovim, "nvim_buf_get_lines", "--json", "0", "0", "-1", "true")
    assert lines == (0, '["one", "two"]\n', "")
    assert said("call", neovim, "nvim_get_current_buf", "--json") == (0, '{"$ext": [0, "AQ=="]}\n', "")
    assert said("notify", neovim, "nvim_set_var", "told", "5") == (0, "", "")
    assert said("call", neovim, "nvim_get_var", "told") == (0, "5\n", "")
    code, out, err = said("call", neovim, "nvim_command", "nosuchcommand")
    assert (code, out) == (1, "")
    assert "E492" in err
    code, out, err = said("call", neovim, "nvim_set_var", "big", "123456789012345678901234567890")
    assert (code, out) == (2, "")
    assert "a plain peer takes 64" in err
    code, out, err = said("ping", neovim, "-c", "2", "-i", "0")
    assert (code, err) == (0, "")
    assert "2 sent, 2 answered" in out
    code, out, err = said("list", neovim)
    assert (code, err) == (0, "")
    assert "nvim_eval(expr: String) -> Object\n" in out
    assert said("help", neovim, "nvim_eval") == (0, "nvim_eval(expr: String) -> Object\n", "")


def test_a_person_is_told_what_goes_on(folder: Path) -> None:
    with serving(folder, "aservice:calc") as (_, url):
        with watched("call", url, "slow", "60") as (process, terminal):
            assert re.search(r"waiting for slow: \d+ s; Ctrl-C gives up", seen_until(terminal, "gives up"))
            process.send_signal(signal.SIGINT)
            assert process.wait(NEVER) == 130
        with watched("stream", url, "forever") as (_, terminal):  # its values go to a file
            assert "1 values of forever" in seen_until(terminal, "gives up")
        with watched("stream", url, "forever", stdout=True) as (_, terminal):
            assert re.search(r"0\r\n.*waiting for value 2", seen_until(terminal, "gives up"))
