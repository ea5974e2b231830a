"""Unix sockets, and sockets that somebody else has opened: where they come from, and what is refused."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import flower
from flower.channels._scheduler import current_scheduler
from flower.errors import Timeout
from flower.net import Conn, Dial, Listen
from flower.net._acceptor import Acceptor
from flower.net._given import _taking
from flower.net._tcp import Settings
from tests.net.support import HOME, NEVER, Program, echo, in_thread, listening, receive_exactly, rounds, until

pytestmark = pytest.mark.usefixtures("loop")

SOON = 0.02  # seconds; a timeout that a test waits for


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A path for a socket, short enough for one; nothing is left there."""
    where = tmp_path_factory.mktemp("s") / "s"
    yield str(where)
    assert not where.exists()


def exchange(near: Conn, far: Conn) -> None:
    near.write("question")
    assert far.read_exactly(8, timeout=NEVER) == b"question"
    far.write("answer")
    assert near.read_exactly(6, timeout=NEVER) == b"answer"


# -- Unix sockets


def test_addresses(path: str) -> None:
    for address in (path, path.encode(), Path(path)):
        with Listen(address, "pipe") as listener, Dial("pipe", address) as near, listener.receive(NEVER) as far:
            exchange(near, far)
            assert listener.addr() == near.remote_addr() == far.local_addr() == path
            assert near.local_addr() == far.remote_addr() == ""
            assert path in repr(listener)
            assert path in repr(near)


@pytest.mark.skipif(sys.platform != "linux", reason="a name space of Linux's")
def test_abstract_names() -> None:
    name = f"\0flower-{os.getpid()}"
    with Listen(name, "pipe") as listener, Dial("pipe", name) as near, listener.receive(NEVER) as far:
        exchange(near, far)
        assert f"@flower-{os.getpid()}" in repr(listener)


def test_a_dead_socket_is_replaced_and_a_live_one_is_not(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with Listen(path, "pipe") as listener:
        with pytest.raises(OSError, match=path) as caught:
            Listen(path, "pipe")
        assert caught.value.errno == errno.EADDRINUSE
        with Dial("pipe", path) as near, listener.receive(NEVER) as far:  # the first that comes: nobody has knocked
            exchange(near, far)


def test_a_socket_that_does_not_listen_yet_is_not_replaced(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        with pytest.raises(OSError, match=path):
            Listen(path, "pipe")
        assert os.path.exists(path)
    os.unlink(path)


def test_a_relative_path_is_removed_from_wherever_we_are(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.path.dirname(path))
    listener = Listen("s", "pipe")
    assert listener.addr() == "s"
    monkeypatch.chdir("/")
    listener.close()


def test_a_file_is_not_replaced(path: str) -> None:
    Path(path).write_text("precious")
    with pytest.raises(OSError, match=path):
        Listen(path, "pipe")
    assert Path(path).read_text() == "precious"
    os.unlink(path)


def test_a_link_to_a_dead_socket_is_not_replaced(path: str) -> None:
    real = path + ".real"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(real)
    os.symlink(real, path)
    with pytest.raises(OSError, match=path):
        Listen(path, "pipe")
    assert os.path.islink(path)
    os.unlink(path)
    os.unlink(real)


def test_in_a_directory_that_is_gone_nothing_is_left(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def realpath(path: str) -> str:
        raise FileNotFoundError(errno.ENOENT, "the directory is gone")

    monkeypatch.setattr("os.path.realpath", realpath)
    with pytest.raises(FileNotFoundError, match=path):
        Listen(path, "pipe")
    assert not os.path.exists(path)


def test_a_socket_of_another_in_our_place_is_left(path: str) -> None:
    with Listen(path, "pipe"):
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)
    assert os.path.exists(path)
    os.unlink(path)


@pytest.mark.parametrize(
    ("address", "error"),
    [
        (5, TypeError),
        (None, TypeError),
        ((HOME, 80), TypeError),
        ("", ValueError),
        ("a\0b", ValueError),
        ("\0", ValueError),
        ("/nowhere/at/all", FileNotFoundError),
        ("/" + "x" * 200, OSError),
    ],
)
def test_bad_paths(address: Any, error: Any) -> None:
    for attempt in (lambda: Listen(address, "pipe"), lambda: Dial("pipe", address)):
        with pytest.raises(error) as caught:
            attempt()
        assert ascii(address)[1:-1] in str(caught.value)
        assert "None]" not in str(caught.value)


def test_nobody_listens_there(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        with pytest.raises(ConnectionRefusedError, match=path):
            Dial("pipe", path)
    os.unlink(path)


@pytest.mark.parametrize("how", ["timeout", "scope", "kill"])
def test_a_full_backlog_is_waited_for(path: str, how: str) -> None:
    with socket.socket(socket.AF_UNIX) as server, ExitStack() as stack:
        server.bind(path)
        server.listen(0)
        try:
            while True:
                filler = stack.enter_context(socket.socket(socket.AF_UNIX))
                filler.setblocking(False)
                filler.connect(path)
        except BlockingIOError:
            pass
        if how == "timeout":
            with pytest.raises(Timeout, match=path):
                Dial("pipe", path, timeout=SOON)
        elif how == "scope":
            with flower.move_on(SOON) as scope:
                Dial("pipe", path)
            assert scope.expired
        else:
            t = flower.go(Dial, "pipe", path)
            flower.time.sleep(SOON)
            assert t.alive
            server.accept()[0].close()
            t.join(NEVER).close()
    os.unlink(path)


def test_socat_as_client_and_as_server(path: str) -> None:
    with Listen(path, "pipe") as listener:
        server = flower.go(listener.serve, echo)
        done = in_thread(
            lambda: subprocess.run(
                ["socat", "-t", "5", "-", f"UNIX-CONNECT:{path}"], input=b"hello", capture_output=True
            )
        )()
        assert done.stdout == b"hello"
        listener.close()
        server.join(NEVER)
    program = subprocess.Popen(["socat", f"UNIX-LISTEN:{path}", "EXEC:cat"], stdin=subprocess.DEVNULL)
    try:
        with flower.timeout(NEVER):
            while True:  # its file is there before it listens
                try:
                    conn = Dial("pipe", path)
                    break
                except (FileNotFoundError, ConnectionRefusedError):
                    flower.time.sleep(0.005)
        with conn:
            conn.write("cat")
            assert conn.read_exactly(3, timeout=NEVER) == b"cat"
            conn.close_write()
            assert conn.read(timeout=NEVER) == b""
    finally:
        program.kill()
        program.wait()
        Path(path).unlink(missing_ok=True)


# -- Given sockets


def test_a_listening_socket_that_is_given() -> None:
    sock = socket.create_server((HOME, 0))
    address = sock.getsockname()
    for given in (sock, socket.create_server((HOME, 0)).detach()):
        with Listen(given, "socktcp") as listener:
            assert given is not sock or sock.getsockname() == address  # it can be asked meanwhile
            with Dial("tcp", listener.addr()) as near, listener.receive(NEVER) as far:
                exchange(near, far)
    assert sock.fileno() == -1  # it was ours, and is closed
    with pytest.raises(ConnectionRefusedError):
        Dial("tcp", address)


def test_a_listening_socket_that_is_given_and_closed_by_its_owner() -> None:
    def body() -> None:
        with socket.create_server((HOME, 0)) as sock:
            listener = Listen(sock, "socktcp")
        with listener, Listen((HOME, 0)) as other:  # not of its number
            for each in (listener, other):
                with Dial("tcp", each.addr()) as near, each.receive(NEVER) as far:
                    exchange(near, far)
        assert listener.closed

    in_thread(flower.run, body)()


def test_the_seeds_ways_to_give_a_socket() -> None:
    sock = socket.create_server((HOME, 0))
    address = sock.getsockname()
    with Listen(address, "socktcp", sock=sock) as listener:
        assert listener.addr() == address
    with Listen((HOME, 0), "socktcp") as listener, Dial("tcp", listener.addr()) as near:
        with listener.receive(NEVER) as far:
            exchange(near, far)


def test_a_listening_unix_socket_that_is_given(path: str) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    with Listen(sock, "sockpipe") as listener:
        with Dial("pipe", path) as near, listener.receive(NEVER) as far:
            exchange(near, far)
    assert os.path.exists(path)  # whoever made it removes it
    os.unlink(path)
    with Listen(path, "sockpipe") as listener, Dial("pipe", path) as near, listener.receive(NEVER) as far:
        exchange(near, far)


def test_a_socket_that_was_inherited() -> None:
    """As systemd hands them over: by number."""
    with socket.create_server((HOME, 0)) as sock:
        program = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys\nfrom flower.net import Listen\n"
                "with Listen(int(sys.argv[1]), 'socktcp') as listener:\n"
                "    conn = listener.receive()\n    conn.write(conn.read())\n    conn.close()\n",
                str(sock.fileno()),
            ],
            pass_fds=[sock.fileno()],
        )
        with Dial("tcp", sock.getsockname()) as conn:
            conn.write("inherited")
            assert conn.read_exactly(9, timeout=NEVER) == b"inherited"
        assert in_thread(program.wait)() == 0


def test_a_fork_while_another_thread_takes_a_socket_leaves_the_child_free_to() -> None:
    taking, forked = threading.Event(), threading.Event()

    def take() -> None:
        with _taking:
            taking.set()
            forked.wait(NEVER)

    thread = threading.Thread(target=take)
    thread.start()
    taking.wait(NEVER)
    child = os.fork()
    if child == 0:
        os._exit(0 if _taking.acquire(timeout=1) else 1)
    forked.set()
    thread.join(NEVER)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_plain_peer_of_a_socketpair() -> None:
    ours, theirs = socket.socketpair()
    with theirs, Dial("sockpipe", ours) as conn:
        conn.write("hello")
        assert in_thread(receive_exactly, theirs, 5)() == b"hello"


def test_who_has_no_address_is_shown_all_the_same() -> None:
    near, far = socket.socketpair()
    with far, Dial("sockpipe", near) as conn:
        assert repr(conn) == "<Conn sockpipe ? -> ?, open>"


def test_a_given_socket_of_which_a_file_was_made_is_closed_with_its_connection() -> None:
    ours, theirs = socket.socketpair()
    with theirs, ours.makefile("rb"):
        with Dial("sockpipe", ours):
            pass
        until(lambda: ours.fileno() < 0)
        theirs.setblocking(False)
        assert theirs.recv(1) == b""


@pytest.mark.parametrize("by", ["socket", "number"])
def test_what_was_given_is_closed_where_the_dial_is_cancelled_at_once(by: str) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        given: Any = ours if by == "socket" else ours.detach()
        with flower.move_on(0) as scope:
            Dial("sockpipe", given)
        assert scope.expired
        theirs.setblocking(False)
        assert theirs.recv(1) == b""


def test_what_can_not_be_given() -> None:
    closed = socket.socket()
    closed.close()
    with (
        socket.socket() as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        open(os.devnull) as file,
    ):
        for proto, given, error in (
            ("socktcp", "127.0.0.1:80", TypeError),
            ("socktcp", True, TypeError),
            ("socktcp", -1, ValueError),
            ("socktcp", 2**31, ValueError),
            ("socktcp", 2**70, ValueError),
            ("socktcp", closed, OSError),
            ("socktcp", 999_999, OSError),
            ("socktcp", file.fileno(), OSError),
            ("socktcp", unix, ValueError),
            ("socktcp", udp, ValueError),
            ("sockpipe", tcp, ValueError),
            ("sockpipe", tcp.fileno(), ValueError),
            ("sockpipe", None, TypeError),
        ):
            with pytest.raises(error, match=r"sock(tcp|pipe)"):
                Dial(proto, given)
            with pytest.raises(error, match=r"sock(tcp|pipe)"):
                Listen(given, proto)
        for given in (tcp, tcp.fileno()):
            with pytest.raises(OSError, match="socktcp") as caught:
                Dial("socktcp", given)  # it is connected to nobody
            assert caught.value.errno == errno.ENOTCONN
        assert tcp.getblocking()  # what is refused is left as it was
        assert tcp.fileno() >= 0


@pytest.mark.parametrize("by", ["socket", "number"])
def test_a_socket_that_is_given_twice(by: str) -> None:
    ours, theirs = socket.socketpair()
    server = socket.create_server((HOME, 0))
    given: Any = ours if by == "socket" else ours.fileno()
    bound: Any = server if by == "socket" else server.fileno()
    with theirs, Dial("sockpipe", ours) as conn, Listen(server, "socktcp") as listener:
        for function, *args in ((Dial, "sockpipe", given), (Listen, bound, "socktcp"), (Dial, "socktcp", server)):
            with pytest.raises(ValueError, match="given before, and is in use"):
                function(*args)
        theirs.send(b"x")
        assert conn.read(timeout=NEVER) == b"x"
        with Dial("tcp", listener.addr()) as near, listener.receive(NEVER) as far:
            exchange(near, far)
    until(lambda: ours.fileno() < 0 and server.fileno() < 0)
    ours, theirs = socket.socketpair()
    with theirs, Dial("sockpipe", ours) as conn:  # the number is free again
        theirs.send(b"y")
        assert conn.read(timeout=NEVER) == b"y"


@pytest.mark.parametrize("by", ["socket", "number"])
def test_a_socket_that_is_given_again_while_it_is_taken(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[Any] = []

    def apply(settings: Settings, sock: socket.socket) -> None:
        finish = in_thread(Dial, "socktcp", given)
        with pytest.raises(ValueError, match="given before, and is in use"):
            finish()
        again.append(sock)

    with listening() as listener:
        ours = socket.create_connection(listener.addr(), NEVER)
        given: Any = ours if by == "socket" else ours.detach()
        monkeypatch.setattr(Settings, "apply", apply)
        with Dial("socktcp", given) as near, listener.receive(NEVER) as far:
            exchange(near, far)
        assert len(again) == 1
        until(lambda: again[0].fileno() < 0)


@pytest.mark.parametrize("proto", ["tcp", "pipe", "socktcp"])
def test_a_listener_that_the_loop_can_not_watch_leaves_nothing(
    proto: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(acceptor: Acceptor) -> None:
        raise OSError(errno.ENOSPC, "no room to watch it")

    with socket.create_server((HOME, 0)) as server, monkeypatch.context() as patch:
        patch.setattr(Acceptor, "_watch", fail)
        rounds(1)
        held = len(current_scheduler().poller.resources)
        with pytest.raises(OSError, match=f"can't listen on {proto}") as caught:
            Listen({"tcp": (HOME, 0), "pipe": path, "socktcp": server}[proto], proto)
        assert caught.value.errno == errno.ENOSPC
        assert len(current_scheduler().poller.resources) == held
        assert not os.path.exists(path)
        patch.undo()
        assert server.getblocking()  # it is left as it was, and may be given again
        with Listen(server, "socktcp") as listener, Dial("tcp", listener.addr()) as near:
            with listener.receive(NEVER) as far:
                exchange(near, far)


# -- Processes that end


def test_the_socket_is_removed_when_the_program_ends(path: str) -> None:
    with Program(
        """
        import sys, flower
        from flower.net import Listen
        with Listen(sys.argv[1], "pipe") as listener:
            print("ready")
            listener.receive().close()
        """,
        path,
    ) as program:
        assert in_thread(program.line)() == "ready"
        with Dial("pipe", path) as conn:
            assert conn.read(timeout=NEVER) == b""
        in_thread(program.end)()
