"""Every program in examples/ runs as people run it, in a process of its own, and prints what it says."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

import flower

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
LIMIT = 60  # seconds; the longest of them takes a few
ECHO_PORT = 8000

UNCHANGED = {
    "echo_server.py": "c3406ec3fc0187bf190ef5e8ab58d211d87aafd6de83f064fb5cf740c2824f5e",
    "echo_client.py": "88b9b3960ff213e519433f1d1ea5db53c87ad4f6ce2f83365e678c46031184d3",
}

pytestmark = pytest.mark.slow


def environment() -> dict[str, str]:
    """The environment of the programs: the flower that is tested here, and warnings are errors."""
    path = [str(Path(flower.__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONWARNINGS": "error"}


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", str(EXAMPLES / program), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a good end; what it printed."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"{process.args} did not end in {LIMIT} s\n{out}\n{err}")
    assert (process.returncode, err) == (0, ""), f"{process.args}\n{out}\n{err}"
    return out


def run(program: str, *arguments: str) -> str:
    return finish(start(program, *arguments))


def interrupt(process: subprocess.Popen[str]) -> str:
    """End a server with SIGINT: exit code 0 and no traceback; what it printed."""
    process.send_signal(signal.SIGINT)
    return finish(process)


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Leave no process behind, whatever fails."""
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def echo_port() -> Iterator[int]:
    """Hold the port of the echo programs for one test among all test runs on this machine, and see that it is free."""
    fcntl = pytest.importorskip("fcntl", reason="two test runs at once can't agree on port 8000 here")
    with open(Path(tempfile.gettempdir()) / f"flower-port-{ECHO_PORT}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", ECHO_PORT))
            except OSError as error:
                pytest.fail(f"port {ECHO_PORT}, which the echo programs use, is taken: {error}")
        yield ECHO_PORT


def await_listener(process: subprocess.Popen[str], port: int) -> None:
    """Return once the process listens on the port: it prints nothing that one could wait for."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
            pytest.fail(f"{process.args} ended with {process.returncode}:\n{finish(process)}")
    pytest.fail(f"nobody listens on port {port}")


# -- The echo programs


@pytest.mark.parametrize("name", UNCHANGED)
def test_echo_programs_are_unchanged(name: str) -> None:
    assert hashlib.sha256((EXAMPLES / name).read_bytes()).hexdigest() == UNCHANGED[name]


def test_echo_server_and_client() -> None:
    with echo_port() as port, ended(start("echo_server.py")) as server:
        await_listener(server, port)
        assert run("echo_client.py") == "sent hello\necho: b'hello'\n" * 3
        assert run("echo_client.py") == "sent hello\necho: b'hello'\n" * 3
        assert interrupt(server) == ""


def test_echo_server_serves_several_clients_at_once() -> None:
    with echo_port() as port, ended(start("echo_server.py")) as server:
        await_listener(server, port)
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=LIMIT)) for _ in range(10)
            ]
            for number, client in enumerate(reversed(clients)):
                client.sendall(b"number %d" % number)
            for number, client in enumerate(reversed(clients)):
                assert client.recv(100) == b"number %d" % number
        assert interrupt(server) == ""


def test_echo_server_is_interrupted_while_idle() -> None:
    with echo_port() as port, ended(start("echo_server.py")) as server:
        await_listener(server, port)
        assert interrupt(server) == ""


def test_hello() -> None:
    assert run("hello.py") == "hello, world\n"


# -- Programs to learn from


def test_prime_sieve() -> None:
    primes = [n for n in range(2, 100) if all(n % d for d in range(2, n))]
    assert run("prime_sieve.py") == " ".join(map(str, primes)) + "\n"


def test_worker_pool() -> None:
    *lines, last = run("worker_pool.py").splitlines()
    matches = [re.fullmatch(r"worker (\d): (\d) squared is (\d+)", line) for line in lines]
    found = sorted(tuple(map(int, match.groups()[1:])) for match in matches if match)
    assert found == [(n, n * n) for n in range(8)]
    assert {match[1] for match in matches if match} == {"0", "1", "2"}  # nobody was left without work
    assert last == "8 results, sum 140"


def test_fan_in() -> None:
    *lines, last = run("fan_in.py").splitlines()
    assert last == "fast: 5, middling: 3, slow: 1"
    for name, count in [("fast", 5), ("middling", 3), ("slow", 1)]:
        assert [line for line in lines if line.startswith(name)] == [f"{name} {n}" for n in range(count)]
    assert len(lines) == 9


def test_timeouts() -> None:
    assert run("timeouts.py").splitlines() == [
        "receive: nothing came in 10 ms",
        "timeout: the block took too long",
        "move_on: got 2 of 3 values, then moved on",
        "select: the deadline came first",
        "join: the tasklet is still busy",
        "shield: the tasklet said goodbye before it ended",
    ]


def test_ping_pong() -> None:
    *lines, last = run("ping_pong.py").splitlines()
    assert lines == ["ping 1", "pong 2", "ping 3", "pong 4", "ping 5", "pong 6"]
    assert re.fullmatch(r"100000 hits: [\d,]+ a second", last)


def test_pipeline_threads() -> None:
    *lines, last = run("pipeline_threads.py").splitlines()
    for number, line in enumerate(lines):
        assert re.fullmatch(rf"block {number}: 51000 bytes, compressed to \d+, sha256 [0-9a-f]{{12}}", line), line
    assert len(lines) == 8
    assert re.fullmatch(r"8 blocks, 408000 bytes, compressed to \d+\.\d%", last)


def test_rpc_server_and_client() -> None:
    with ended(start("rpc_server.py")) as server:
        assert server.stdout
        url = server.stdout.readline().strip().removeprefix("serving on ")
        assert re.fullmatch(r"tcp://127\.0\.0\.1:[1-9]\d*", url)
        *lines, last = run("rpc_client.py", url).splitlines()
        assert lines == [
            "add(1, 2) = 3",
            'proxy.add("to", "gether") = together',
            "three slow calls at once: [11, 12, 13]",
            "divide(1, 0): ZeroDivisionError: division by zero",
            "add_slowly with a timeout of 20 ms: no answer in time",
            "_secret: not exported",
        ]
        assert re.fullmatch(r"2000 calls, 64 at a time: [\d,]+ a second", last)
        assert interrupt(server) == "client says: hello\n"


def test_rpc_store() -> None:
    first, *lines = run("rpc_store.py").splitlines()
    assert re.fullmatch(r"process \d+ serves the store", first)
    assert lines == [
        "set 3 keys; colour = green",
        "the watcher of colour saw: red, green, (deleted)",
        "the watcher of everything saw 5 changes",
        "increments by 10 tasklets of 2 clients: 1000",
        "a watcher that never reads: SlowWatcher",
        "no watcher is left",
    ]


def test_rpc_work_queue() -> None:
    first, second, *lines = run("rpc_work_queue.py").splitlines()
    assert first == "3 workers are here"
    assert re.fullmatch(r"worker \d+ was killed at its work", second)
    assert lines == ["40 jobs done: the sum of the squares is 20540", "each of the others did some of them"]


def test_rpc_bridge() -> None:
    lines = run("rpc_bridge.py").splitlines()
    *summaries, count, stopped = [line for line in lines if line != "calibrated: 0.5"]
    assert len(lines) == len(summaries) + 3
    assert all(re.fullmatch(r"a summary of \d+ readings", line) for line in summaries)
    assert re.fullmatch(r"(2\d|[3-9]\d|\d{3,}) readings, the last is \d+\.5", count)
    assert stopped == "the sensor was stopped"


def test_rpc_tls() -> None:
    assert run("rpc_tls.py").splitlines() == [
        "alice may deposit: the balance is 100",
        "bob may not: PermissionError: bob may only look",
        "bob looks: the balance is 100",
        "nobody without a certificate: refused",
        "nobody with one that he has made himself: refused",
        "the client does not talk to just anybody: SSLCertVerificationError",
    ]


def test_rpc_neovim() -> None:
    first, *lines = run("rpc_neovim.py").splitlines()
    assert re.fullmatch(r"Neovim is here, version 0\.\d+", first)
    assert lines == [
        "2 lines: ['to be or not to be', 'that is the question']",
        "it asked us: count_words",
        "10 words",
        "it changed: ['TO BE OR NOT TO BE']",
        "its error: E492: Not an editor command: nosuchcommand",
        "Neovim has gone",
    ]


# -- The network


@contextlib.contextmanager
def serving(program: str, *arguments: str) -> Iterator[tuple[str, int]]:
    """A server of the examples: the last word of its first line is its address. Ctrl-C must end it well."""
    with ended(start(program, *arguments)) as server:
        assert server.stdout
        host, port = server.stdout.readline().split()[-1].removeprefix("http://").split(":")
        yield host, int(port)
        assert interrupt(server) == ""


def say(sock: socket.socket, *lines: str) -> None:
    sock.sendall("".join(line + "\n" for line in lines).encode())


def test_chat_server() -> None:
    with serving("chat_server.py") as address, contextlib.ExitStack() as stack:

        def client(name: str) -> tuple[socket.socket, IO[str]]:
            sock = stack.enter_context(socket.create_connection(address, timeout=LIMIT))
            file = stack.enter_context(sock.makefile("r"))
            assert file.readline() == "your name?\n"
            say(sock, name)
            return sock, file

        rose, to_rose = client("rose")
        assert to_rose.readline() == "* rose has come, we are 1\n"
        tulip, to_tulip = client("tulip")
        assert to_tulip.readline() == to_rose.readline() == "* tulip has come, we are 2\n"
        for name in "rose", "no name":
            assert client(name)[1].read() == "no\n"
        say(rose, "hello", "anybody there?")
        for file in to_rose, to_tulip:
            assert [file.readline(), file.readline()] == ["rose: hello\n", "rose: anybody there?\n"]
        say(rose, "x" * 1000, "y\r\r")  # as much as a line may hold, and what may not end one that is sent
        for file in to_rose, to_tulip:
            assert [file.readline(), file.readline()] == ["rose: " + "x" * 1000 + "\n", "rose: y\n"]
        tulip.shutdown(socket.SHUT_WR)
        assert to_rose.readline() == "* tulip has left\n"
        assert to_tulip.read() == ""
        shy = stack.enter_context(socket.create_connection(address, timeout=LIMIT))
        shy.shutdown(socket.SHUT_WR)  # without a name
        assert stack.enter_context(shy.makefile("r")).read() == "your name?\n"


def test_chat_server_drops_who_does_not_listen() -> None:
    with serving("chat_server.py") as address:
        with socket.create_connection(address, timeout=LIMIT) as deaf, socket.create_connection(address) as loud:
            say(deaf, "deaf")
            say(loud, "loud")
            file = loud.makefile("r")
            with file:
                file.readline()
                for _ in range(100_000):
                    say(loud, "x" * 900)
                    if "deaf has left" in file.readline():
                        break
                else:
                    pytest.fail("it was never dropped")


def test_http_files(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<h1>hello</h1>")
    (tmp_path / "large").write_bytes(bytes(range(256)) * 20_000)
    (tmp_path / "links").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "links" / "index.html").symlink_to("/etc/passwd")
    with serving("http_files.py", str(tmp_path)) as address:
        client = http.client.HTTPConnection(*address, timeout=LIMIT)
        for method, path, status, size, kind in [
            ("GET", "/", 200, 14, "text/html"),
            ("GET", "/large", 200, 5_120_000, "application/octet-stream"),
            ("HEAD", "/large?a=b", 200, 0, "application/octet-stream"),
            ("GET", "/missing", 404, 14, "text/plain"),
            ("HEAD", "/missing", 404, 0, "text/plain"),
            ("GET", "/%00", 404, 14, "text/plain"),
            ("GET", "/../../../../etc/passwd", 404, 14, "text/plain"),
            ("GET", "/links", 404, 14, "text/plain"),
            ("GET", "/pipe", 404, 14, "text/plain"),
            ("POST", "/", 405, 23, "text/plain"),
            ("GET", "/index%2Ehtml", 200, 14, "text/html"),
        ]:
            client.request(method, path, body=b"a body" if method == "POST" else None)
            answer = client.getresponse()
            body = answer.read()
            assert (answer.status, len(body), answer.headers["Content-Type"]) == (status, size, kind), path
        with open(tmp_path / "log", "wb") as log:  # it grows while it is sent, and is more than is on its way
            log.truncate(20_000_000)
            client.request("GET", "/log")
            answer = client.getresponse()
            log.seek(0, os.SEEK_END)
            log.write(b"more")
        assert len(answer.read()) == 20_000_000
        client.close()
        with socket.create_connection(address, timeout=LIMIT) as sock:
            sock.sendall(b"nonsense\r\n\r\n")
            assert sock.makefile("rb").read().startswith(b"HTTP/1.1 400 ")
        for _ in range(10):
            with socket.create_connection(address, timeout=LIMIT) as sock:
                sock.sendall(b"nonsense\r\n\r\n")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # it is gone at once
        with socket.create_connection(address, timeout=LIMIT) as sock:  # two requests at once
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert sock.makefile("rb").read().count(b"<h1>hello</h1>") == 2
        with socket.create_connection(address, timeout=LIMIT) as sock, sock.makefile("rb") as file:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n")
            assert file.readline().startswith(b"HTTP/1.1 100 ")
            sock.sendall(b"a body")  # which waits for that
            assert file.readline() == b"\r\n"
            assert file.readline().startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize(
    ("program", "arguments", "told"),
    [
        ("http_files.py", ["/no/such/folder"], "no such directory: /no/such/folder\n"),
        ("rpc_client.py", [], "usage: rpc_client.py URL (rpc_server.py prints it)\n"),
        ("tcp_proxy.py", ["127.0.0.1"], "usage: tcp_proxy.py HOST PORT\n"),
        ("tcp_proxy.py", ["127.0.0.1", "http"], "usage: tcp_proxy.py HOST PORT\n"),
    ],
)
def test_what_an_example_lacks_is_told(program: str, arguments: list[str], told: str) -> None:
    with ended(start(program, *arguments)) as process:
        assert process.communicate(timeout=LIMIT) == ("", told)
        assert process.returncode == 1


def test_tcp_proxy() -> None:
    with listener_on(0) as server, serving("tcp_proxy.py", *map(str, server.getsockname())) as address:
        with socket.create_connection(address, timeout=LIMIT) as client:
            behind, _ = server.accept()
            with behind:
                client.sendall(b"a question")
                client.shutdown(socket.SHUT_WR)  # the end of file goes on, in its direction
                assert behind.makefile("rb").read() == b"a question"
                behind.sendall(b"an answer")
                assert client.recv(100) == b"an answer"
        with socket.create_connection(address, timeout=LIMIT) as client:
            behind, _ = server.accept()
            with behind:
                client.settimeout(0.3)
                sent = 0
                with contextlib.suppress(TimeoutError):
                    while True:
                        sent += client.send(b"x" * 65_536)
                assert sent < 64 * 1024 * 1024  # nobody reads behind it, and it holds back
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.close()  # a reset
                with pytest.raises(ConnectionResetError):
                    while behind.recv(1 << 20):
                        pass


def test_tls_echo() -> None:
    assert run("tls_echo.py").splitlines() == [
        "the certificate is for localhost",
        "speaking TLSv1.3",
        "echo: b'hello, safely'",
        "a client that does not trust it: refused",
    ]


def test_udp_time() -> None:
    *lines, clock, last = run("udp_time.py").splitlines()
    assert lines[:2] == ["no answer, asking again"] * 2
    assert re.fullmatch(r"the time is 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", clock)
    assert last == "the clocks differ by less than a second: True"


def test_asyncio_inside() -> None:
    assert run("asyncio_inside.py").splitlines() == [
        "6 pages, by three workers",
        "/page/0 has 5 bytes",
        "/page/1 has 50 bytes",
        "/page/2 has 500 bytes",
        "...",
        "sum of all: 555555 bytes",
    ]


# -- The demonstration


def listener_on(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


def test_demo() -> None:
    with echo_port():
        began = time.monotonic()
        out = run("demo.py")
        assert time.monotonic() - began < 30
    assert "echo: b'hello'" in out
    assert "add(1, 2) = 3" in out
    assert re.search(r"[\d,]+ values came through, each once", out)
    assert re.search(r"[\d,]+ switches for [\d,]+ values", out)
    assert out.splitlines()[-1].startswith("All of it worked")
    assert_gone(out)


def test_demo_with_the_port_taken() -> None:
    with echo_port() as port, listener_on(port):
        out = run("demo.py")
    assert "port 8000 is taken" in out
    assert "echo: b'hello'" in out
    assert out.splitlines()[-1].startswith("All of it worked")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_demo_leaves_no_process_behind(signum: signal.Signals) -> None:
    with echo_port(), ended(start("demo.py")) as demo:
        assert demo.stdout
        out = ""
        while "rpc_server.py: process" not in out:  # both servers have been started by now
            line = demo.stdout.readline()
            assert line, out
            out += line
        demo.send_signal(signum)
        demo.communicate(timeout=LIMIT)
        assert demo.returncode != 0
        assert_gone(out)


def test_demo_of_which_only_the_beginning_is_read() -> None:
    with echo_port(), ended(start("demo.py")) as demo:
        assert demo.stdout and demo.stderr
        assert demo.stdout.readline().startswith("Flower's demonstration")
        demo.stdout.close()
        assert demo.stderr.read() == "" and demo.wait(LIMIT) == 1


def assert_gone(out: str) -> None:
    """The processes that the demonstration named are no more."""
    processes = [int(pid) for pid in re.findall(r"_server\.py: process (\d+)", out)]
    assert len(processes) == 2, out
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_every_example_is_tested() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [program.name for program in EXAMPLES.glob("*.py") if f'"{program.name}"' not in source] == []
