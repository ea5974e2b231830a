"""Peers that are killed, that flood, that never read; a process that has nothing left."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
from contextlib import ExitStack, suppress

import pytest

import flower
from flower.net import Conn, Dial, Listen
from tests.net.certificates import certificates
from tests.net.support import (
    HOME,
    NEVER,
    Program,
    echo_server,
    fill,
    in_thread,
    listening,
    output,
    plain_peer,
    read_all,
    receive_all,
    reset,
    rounds,
    until,
)

pytestmark = pytest.mark.usefixtures("loop")

TALKER = """
    import socket, sys
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    print("connected")
    while True:
        sock.sendall(b"x" * 65536)
"""
LISTENER = """
    import socket, sys, time
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    print("connected")
    time.sleep(1000)
"""


@pytest.mark.parametrize("code", [TALKER, LISTENER])
def test_a_peer_that_is_killed_in_the_middle(code: str) -> None:
    with listening() as listener, Program(code, str(listener.addr()[1])) as peer:
        assert in_thread(peer.line)() == "connected"
        with listener.receive(NEVER) as conn:
            if code is TALKER:
                assert len(conn.read_exactly(1_000_000, timeout=NEVER)) == 1_000_000
                peer.kill()
                read_all(conn)  # the system closes for it: all it had sent, then the end
            else:
                blocked = flower.go(lambda: (fill(conn), conn.flush()))
                until(lambda: blocked.blocked)
                peer.kill()
                with pytest.raises(ConnectionError, match=f":{listener.addr()[1]}"):
                    blocked.join(NEVER)


def test_a_server_that_is_killed_in_the_middle() -> None:
    code = """
        import flower
        from flower.net import Listen
        listener = Listen(("127.0.0.1", 0))
        print(listener.addr()[1])
        conn = listener.receive()
        while True:
            conn.write(b"x" * 65536)
    """
    with Program(code) as server:
        with Dial("tcp", (HOME, int(in_thread(server.line)()))) as conn:
            assert len(conn.read_exactly(1_000_000, timeout=NEVER)) == 1_000_000
            server.kill(signal.SIGKILL)
            read_all(conn)


def test_what_a_program_has_closed_before_its_end_is_not_cut_by_what_the_peer_sends() -> None:
    code = """
        import sys
        from flower.net import Dial
        conn = Dial("tcp", ("127.0.0.1", int(sys.argv[1])))
        conn.write(b"x" * 1_000_000)
        conn.flush()
        conn.close()
        print("closed")
    """
    with socket.create_server((HOME, 0)) as server, Program(code, str(server.getsockname()[1])) as client:
        sock, _ = server.accept()
        with sock:
            assert client.line() == "closed"
            with suppress(subprocess.TimeoutExpired):  # were it to end at once, it would do so in this time
                client.process.wait(0.2)
            sock.sendall(b"the kernel would answer with a reset")
            got = 0
            while data := sock.recv(65_536):
                got += len(data)
        assert got == 1_000_000
        client.end()


def test_what_leaves_after_the_end_of_a_program_is_not_cut_by_what_the_peer_sends() -> None:
    """The time that the program's other connections have is over by then."""
    code = """
        import sys
        from flower.net import Dial, _loop
        _loop.CLOSING_TIME = 0.0
        conn = Dial("tcp", ("127.0.0.1", int(sys.argv[1])))
        conn.write(b"x" * 30_000_000)
        conn.close()
        print("closed")
    """
    with socket.create_server((HOME, 0)) as server, Program(code, str(server.getsockname()[1])) as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        sock, _ = server.accept()
        with sock:
            assert client.line() == "closed"
            got = 0
            while got < 29_000_000:  # the rest is with the program's kernel
                got += len(sock.recv(65_536))
            with suppress(subprocess.TimeoutExpired):  # were it to end then, it would do so in this time
                client.process.wait(0.2)
            sock.sendall(b"the kernel would answer with a reset")
            while data := sock.recv(65_536):
                got += len(data)
        assert got == 30_000_000
        client.end()


def memory() -> int:
    """The most that this process has had in memory, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.slow
def test_peers_that_flood_and_peers_that_never_read_hold_a_bounded_amount() -> None:
    """Forty of each; each could hold what its bounds say, and the kernel's buffers are not ours."""
    with listening() as listener, ExitStack() as stack:
        before = memory()
        for _ in range(40):
            sock = stack.enter_context(socket.create_connection(listener.addr(), NEVER))
            sock.setblocking(False)
            conn = stack.enter_context(listener.receive(NEVER))
            for _ in range(10):
                try:
                    while True:
                        sock.send(b"x" * 100_000)
                except BlockingIOError:
                    rounds(1)
            fill(conn)
        assert memory() - before < 40 * 1_000_000


def test_a_peer_that_never_reads_does_not_hold_up_the_others() -> None:
    with echo_server() as listener, socket.create_connection(listener.addr(), NEVER) as silent:
        silent.setblocking(False)
        try:
            while True:
                silent.send(b"x" * 65_536)
        except BlockingIOError:
            pass
        for i in range(5):
            with Dial("tcp", listener.addr()) as conn:
                conn.write(str(i))
                assert conn.read(timeout=NEVER) == str(i).encode()


def test_a_full_backlog_turns_nobody_away_for_good() -> None:
    """More connections than the kernel queues, before anybody accepts."""
    with Listen((HOME, 0), backlog=2) as listener, ExitStack() as stack:
        socks = []
        for _ in range(8):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.addr())
            socks.append(sock)
        conns = [stack.enter_context(listener.receive(NEVER)) for _ in socks[:3]]
        assert all(conn.status == "open" for conn in conns)


@pytest.mark.parametrize("when", ["idle", "sending", "receiving"])
def test_a_reset_names_the_connection(when: str) -> None:
    with plain_peer() as (conn, sock):
        where = f"tcp {HOME}:{conn.local_addr()[1]} -> {HOME}:{conn.remote_addr()[1]}"
        if when == "sending":
            fill(conn)
            t = flower.go(conn.send, b"x")
        else:
            t = flower.go(conn.receive)
        if when != "idle":
            rounds(1)
        reset(sock)
        with pytest.raises(ConnectionResetError, match=where) as caught:
            t.join(NEVER)
        assert caught.value.errno is not None
        with pytest.raises(ConnectionError, match=where):
            conn.send(b"x")


def test_a_peer_that_still_pushes_when_we_have_answered_gets_the_answer() -> None:
    """As a web server that refuses an upload: the client must see why, and not a reset."""
    with plain_peer() as (conn, sock):

        def upload() -> bytes:
            try:
                sock.sendall(b"x" * 10_000_000)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            return receive_all(sock)

        finish = in_thread(upload)
        assert len(conn.read_exactly(100, timeout=NEVER)) == 100
        conn.write("413 too large")
        conn.close()
        assert finish() == b"413 too large"


def test_a_peer_that_pushes_without_end_is_cut_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flower.net._stream.PARTING", 0.02)
    with plain_peer() as (conn, sock):

        def push() -> None:
            while True:
                sock.sendall(b"x" * 65_536)

        finish = in_thread(push)
        conn.write("enough")
        conn.close()
        with pytest.raises(ConnectionError):
            finish()
    flower.run()


def test_without_a_descriptor_for_the_loop_the_rest_goes_on() -> None:
    """The first wait of all comes when nothing is left: uvloop's loop can't be entered then."""
    assert (
        output("""
        import logging, os, resource, socket
        import flower
        from flower.net import Listen

        logging.disable()  # the listener says that it can accept nobody for now

        with Listen(("127.0.0.1", 0)) as listener:
            peer = socket.create_connection(listener.addr())
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            taken = []
            try:
                while True:
                    taken.append(os.dup(0))
            except OSError:
                pass
            ch = flower.channel()
            flower.go(ch.send, "tasklets run")
            print(ch.receive())
            flower.time.sleep(0.02)
            try:
                listener.receive(0.02)
            except flower.Timeout:
                print("time passes")
            for fd in taken:
                os.close(fd)
            listener.receive(30).close()
            print("works")
        peer.close()
        """)
        == "tasklets run\ntime passes\nworks\n"
    )


def test_with_one_descriptor_left_a_loops_first_connection_is_served() -> None:
    assert (
        output("""
        import logging, os, resource, socket
        import flower
        from flower.net import Listen

        logging.disable()  # the listener says that it can accept nobody more for now

        with Listen(("127.0.0.1", 0)) as listener:
            flower.time.sleep(0.001)
            peer = socket.create_connection(listener.addr(), 30)
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            taken = []
            try:
                while True:
                    taken.append(os.dup(0))
            except OSError:
                os.close(taken.pop())
            with listener.receive(30) as conn:
                conn.write("served")
                print(peer.recv(10))
            for fd in taken:
                os.close(fd)
        peer.close()
        """)
        == "b'served'\n"
    )


def test_a_thread_that_can_not_have_a_loop_says_so() -> None:
    """Without a descriptor, the first use of the network in a thread fails, and a later one works."""
    assert (
        output("""
        import errno, os, resource, threading
        import flower
        from flower.net import Listen

        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

        def body():
            taken = []
            try:
                while True:
                    taken.append(os.dup(0))
            except OSError:
                pass
            for attempt in (lambda: Listen(("127.0.0.1", 0)), lambda: flower.net.Dial("tcp", ("127.0.0.1", 9))):
                try:
                    attempt()
                except OSError as error:
                    print(errno.errorcode[error.errno])
            flower.time.sleep(0.001)
            for fd in taken:
                os.close(fd)
            with Listen(("127.0.0.1", 0)):
                print("works")

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        """)
        == "EMFILE\nEMFILE\nworks\n"
    )


SHORT_OF_DESCRIPTORS = """
    import errno, gc, logging, os, resource, socket, sys
    import flower, flower.io, flower.process
    from flower.net import Dial, Listen

    proto, cert, key, ca = sys.argv[1:]
    HOME, PATIENCE = "127.0.0.1", 0.2
    logging.disable()  # the listener says that it can accept nobody for now

    def talk():
        if proto == "udp":
            with Listen((HOME, 0), "udp") as here, Dial("udp", here.addr()) as there:
                there.send(b"x")
                assert here.receive(30)[0] == b"x"
        elif proto == "reader":
            near, far = socket.socketpair()
            with near, far:
                far.send(b"x")
                flower.io.wait_read(near)
                with flower.io.reader(near) as conn:
                    assert conn.read() == b"x"
        elif proto == "process":
            assert flower.process.run([sys.executable, "-c", "print(5)"]).stdout == b"5\\n"
        else:
            where = "\\0flower-%d" % os.getpid() if proto == "pipe" else (HOME, 0)
            secure, trust = ({"cert": cert, "key": key}, {"ca": ca}) if proto == "tls" else ({}, {})
            with Listen(where, proto, **secure) as listener:
                with Dial(proto, listener.addr(), timeout=patience, **trust) as near, listener.receive(patience) as far:
                    near.send(b"x")
                    assert far.read(timeout=patience) == b"x"

    def descriptors():
        return {int(fd) for fd in os.listdir("/proc/self/fd")}

    patience = 30
    talk()
    flower.time.sleep(0.01)
    before = descriptors()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = 0
    while True:
        taken = []
        while not taken or taken[-1] < max(before):
            taken.append(os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1 + spare, hard))
        patience = PATIENCE
        try:
            talk()
            outcome = "works"
        except flower.Timeout:
            outcome = "waits"  # whoever accepts does so until there is a descriptor
        except OSError as error:
            outcome = errno.errorcode[error.errno]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        for fd in taken:
            os.close(fd)
        gc.collect()
        for _ in range(100):
            flower.time.sleep(0.001)
            if descriptors() <= before:
                break
        else:
            print("left:", descriptors() - before)
        patience = 30
        talk()  # and again without want
        print(spare, outcome)
        if outcome == "works":
            break
        spare += 1
"""


@pytest.mark.slow
@pytest.mark.parametrize("proto", ["tcp", "tls", "pipe", "udp", "reader", "process"])
def test_short_of_descriptors_at_every_step(proto: str) -> None:
    """With none to spare, with one, and so on: a failure is told of and leaves nothing; with some it works again."""
    made = certificates()
    lines = output(SHORT_OF_DESCRIPTORS, proto, made.server, made.server_key, made.ca).split("\n")[:-1]
    outcomes = [line.partition(" ")[2] for line in lines]
    assert [line.split()[0] for line in lines] == [str(n) for n in range(len(lines))]
    assert outcomes[0] == "EMFILE"
    assert outcomes[-1] == "works"
    assert set(outcomes[1:-1]) <= {"EMFILE", "waits"}


def test_many_short_connections_by_many_peers() -> None:
    def client() -> int:
        total = 0
        for _ in range(20):
            with socket.create_connection(address, NEVER) as sock:
                sock.sendall(b"hello")
                total += len(sock.recv(100))
        return total

    def greet(conn: Conn) -> None:
        conn.write(conn.read())

    with listening() as listener:
        address = listener.addr()
        server = flower.go(listener.serve, greet)
        clients = [in_thread(client) for _ in range(4)]
        assert [finish() for finish in clients] == [100] * 4
        listener.close()
        server.join(NEVER)
