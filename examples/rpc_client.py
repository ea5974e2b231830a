"""Call methods of an object that lives in another process: the client of ``rpc_server.py``.

Shows: a call with a timeout, the proxy, many calls in flight at once over one connection, an error that comes
back, a call that takes too long, a notification (which nobody answers).

Usage: rpc_client.py URL, as rpc_server.py prints it.

Prints:

    add(1, 2) = 3
    proxy.add("to", "gether") = together
    three slow calls at once: [11, 12, 13]
    divide(1, 0): ZeroDivisionError: division by zero
    add_slowly with a timeout of 20 ms: no answer in time
    _secret: not exported
    2000 calls, 64 at a time: ... a second
"""

import sys
import time

import flower
from flower import rpc

CALLS = 2000
IN_FLIGHT = 64


def several_at_once(peer):
    """Each tasklet waits for its own answer; all of them share one connection."""
    calls = [flower.go(peer.call, "add_slowly", 10, number, 0.01) for number in (1, 2, 3)]
    print("three slow calls at once:", [call.join() for call in calls])


def caller(peer, count):
    for number in range(count):
        assert peer.call("add", number, 1) == number + 1


def how_fast(peer):
    began = time.perf_counter()
    with flower.group() as group:
        for number in range(IN_FLIGHT):
            group.go(caller, peer, CALLS // IN_FLIGHT + (number < CALLS % IN_FLIGHT))
    print(f"{CALLS} calls, {IN_FLIGHT} at a time: {CALLS / (time.perf_counter() - began):,.0f} a second")


def main(url):
    peer = rpc.connect(url)
    peer.notify("log", "hello")
    print("add(1, 2) =", peer.call("add", 1, 2, timeout=5.0))
    print('proxy.add("to", "gether") =', peer.proxy.add("to", "gether"))
    several_at_once(peer)
    try:
        peer.call("divide", 1, 0)
    except rpc.RemoteError as error:
        print("divide(1, 0):", error)
    try:
        peer.call("add_slowly", 1, 2, 60, timeout=0.02)
    except flower.Timeout:
        print("add_slowly with a timeout of 20 ms: no answer in time")
    try:
        peer.call("_secret")
    except rpc.RemoteError:
        print("_secret: not exported")
    how_fast(peer)
    peer.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: rpc_client.py URL (rpc_server.py prints it)")
    main(sys.argv[1])
