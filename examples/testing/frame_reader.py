"""A reader of frames that trusts one read: a length byte, then so many bytes.

On one machine each write arrives as it was made, and the reader works for years. The simulated network cuts writes, as
real networks do. Server and client are plain `flower.net` code.

Prints a report such as

    flower.testing.TaskletFailed: server ended with an error that nobody collected: AssertionError: b'' is no greeting
    The schedule (nobody ran out of turn, 13 steps):
         ...
    >    2 the network  client -> server: a write of 6 bytes comes in pieces of 1, 5
         ...
         5 the outside  try_send(b'\\x05') on 'client -> server' -> True
         6 the outside  try_send(b'hello') on 'client -> server' -> True
         ...
        17 server       failed: AssertionError: b'' is no greeting
"""

import traceback

import flower.testing as ft
from flower.net import Dial, Listen


def read_frame(conn):
    data = conn.read()  # all of it, surely
    return data[1 : 1 + data[0]]


def read_frame_exactly(conn):
    """The fix: the connection waits until all of the bytes have come."""
    (size,) = conn.read_exactly(1)
    return conn.read_exactly(size)


def greeting(w, read):
    def server():
        with Listen(("server", 4000)) as listener, listener.receive() as conn:
            words = read(conn)
            assert words == b"hello", f"{words} is no greeting"

    def client():
        with Dial("tcp", ("server", 4000)) as conn:
            conn.send(b"\x05hello")

    w.net.at("server").go(server, name="server")
    w.settle()
    w.net.at("client").go(client, name="client")


@ft.explore(max_examples=300, database=None)
def test_one_read(w):
    greeting(w, read_frame)


@ft.explore(max_examples=300, database=None)
def test_exact_reads(w):
    greeting(w, read_frame_exactly)


if __name__ == "__main__":
    try:
        test_one_read()
    except ft.TaskletFailed as finding:
        print("".join(traceback.format_exception_only(finding)))
    test_exact_reads()
    print("exact reads: nothing found")
