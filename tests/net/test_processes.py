"""Connections between processes: peers that are killed, and peers that know nothing of Flower."""

from __future__ import annotations

import signal
from typing import Any

import pytest

import flower
from flower.net import Dial
from tests.net.support import NEVER, echo_server, listening, output, read_all, rounds, start

pytestmark = pytest.mark.usefixtures("loop")

CLIENT = """
    import socket, sys
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    {body}
    """


def client(listener: Any, body: str) -> Any:
    return start(CLIENT.format(body=body), str(listener.addr()[1]))


def end(program: Any) -> None:
    program.kill()
    program.communicate()


def test_a_peer_killed_while_it_is_silent() -> None:
    with listening() as listener:
        program = client(listener, "sys.stdin.read()")
        try:
            with listener.receive(NEVER) as conn:
                t = flower.go(conn.read)
                rounds(1)
                program.send_signal(signal.SIGKILL)
                assert t.join(NEVER) == b""  # the kernel closed it: an end like any other
        finally:
            end(program)


def test_a_peer_killed_in_the_middle_of_sending() -> None:
    with listening() as listener:
        program = client(listener, "while True: sock.sendall(b'x' * 100_000)")
        try:
            with listener.receive(NEVER) as conn:
                total = 0
                while total < 3_000_000:
                    total += len(conn.receive(NEVER))
                program.send_signal(signal.SIGKILL)
                assert read_all(conn).strip(b"x") == b""
        finally:
            end(program)


def test_a_peer_killed_with_our_bytes_unread() -> None:
    with listening() as listener:
        program = client(listener, "sock.recv(1); sys.stdin.read()")
        try:
            with listener.receive(NEVER) as conn:

                def flood() -> None:
                    while True:
                        conn.send(b"x" * 65_536)

                t = flower.go(flood)
                rounds(20)
                program.send_signal(signal.SIGKILL)
                with pytest.raises(ConnectionError):  # unread bytes make it a reset
                    t.join(NEVER)
                with pytest.raises(ConnectionError):
                    conn.read()
        finally:
            end(program)


def test_a_server_goes_on_when_its_clients_are_killed() -> None:
    with echo_server() as listener:
        programs = [
            client(listener, "while True: sock.sendall(b'x' * 10_000); sock.recv(100)") for _ in range(3)
        ]
        try:
            rounds(50)
            for program in programs:
                program.send_signal(signal.SIGKILL)
            with Dial("tcp", listener.addr()) as conn:
                conn.write("still there?")
                assert conn.read(timeout=NEVER) == b"still there?"
        finally:
            for program in programs:
                end(program)


def test_echo_to_a_program_that_uses_sockets() -> None:
    with echo_server() as listener:
        body = "sock.sendall(b'hello'); print(sock.recv(100)); sock.shutdown(1); print(sock.recv(1))"
        program = client(listener, body)
        out, err = flower.blocking(program.communicate)
        assert (out, err) == ("b'hello'\nb''\n", "")


@pytest.mark.slow
def test_echo_between_two_programs() -> None:
    server = start(
        """
        import flower
        from flower.net import Listen
        def echo(conn):
            for data in conn:
                conn.send(data)
            conn.close()
        with Listen(("127.0.0.1", 0)) as listener:
            print(listener.addr()[1])
            conn, err = listener.accept()
            flower.go(echo, conn).join()
        """
    )
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        got = output(
            """
            import sys
            from flower.net import Dial
            conn = Dial("tcp", ("127.0.0.1", int(sys.argv[1])))
            for i in range(3):
                conn.write("hello")
                print(conn.read())
            conn.close()
            """,
            port,
        )
        assert got == "b'hello'\n" * 3
        out, err = server.communicate(timeout=NEVER)
        assert (out, err, server.returncode) == ("", "", 0)
    finally:
        end(server)
