"""Connections between processes: peers that are killed, and peers that know nothing of Flower."""

from __future__ import annotations

import pytest

import flower
from flower.net import Dial, Listener
from tests.net.support import NEVER, Program, echo_server, listening, output, read_all, rounds

pytestmark = pytest.mark.usefixtures("loop")


def client(listener: Listener, body: str) -> Program:
    """A program that connects with Python's own socket module."""
    return Program(
        f"""
        import socket, sys
        sock = socket.create_connection(("127.0.0.1", {listener.addr()[1]}))
        {body}
        """
    )


def test_a_peer_killed_while_it_is_silent() -> None:
    with listening() as listener, client(listener, "sys.stdin.read()") as program:
        with listener.receive(NEVER) as conn:
            t = flower.go(conn.read)
            rounds(1)
            program.kill()
            assert t.join(NEVER) == b""  # the kernel closed it: an end like any other


def test_a_peer_killed_in_the_middle_of_sending() -> None:
    with listening() as listener, client(listener, "while True: sock.sendall(b'x' * 100_000)") as program:
        with listener.receive(NEVER) as conn:
            total = 0
            while total < 3_000_000:
                total += len(conn.receive(NEVER))
            program.kill()
            assert read_all(conn).strip(b"x") == b""


def test_a_peer_killed_with_our_bytes_unread() -> None:
    with listening() as listener, client(listener, "sock.recv(1); sys.stdin.read()") as program:
        with listener.receive(NEVER) as conn:

            def flood() -> None:
                while True:
                    conn.send(b"x" * 65_536)

            t = flower.go(flood)
            rounds(20)
            program.kill()
            with pytest.raises(ConnectionError):  # unread bytes make it a reset
                t.join(NEVER)
            with pytest.raises(ConnectionError):
                conn.read()


def test_a_server_goes_on_when_its_clients_are_killed() -> None:
    with echo_server() as listener:
        body = "while True: sock.sendall(b'x' * 10_000); sock.recv(100)"
        with client(listener, body) as one, client(listener, body) as other:
            rounds(50)
            one.kill()
            other.kill()
            with Dial("tcp", listener.addr()) as conn:
                conn.write("still there?")
                assert conn.read(timeout=NEVER) == b"still there?"


def test_echo_to_a_program_that_uses_sockets() -> None:
    body = "sock.sendall(b'hello'); print(sock.recv(100)); sock.shutdown(1); print(sock.recv(100))"
    with echo_server() as listener, client(listener, body + "; sock.close()") as program:
        assert flower.blocking(program.end) == "b'hello'\nb''\n"


@pytest.mark.slow
def test_echo_between_two_programs() -> None:
    server = """
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
    client = """
        import sys
        from flower.net import Dial
        conn = Dial("tcp", ("127.0.0.1", int(sys.argv[1])))
        for i in range(3):
            conn.write("hello")
            print(conn.read())
        conn.close()
        """
    with Program(server) as program:
        assert output(client, program.line()) == "b'hello'\n" * 3
        assert program.end() == ""
