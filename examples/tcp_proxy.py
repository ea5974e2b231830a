"""A TCP proxy: what comes in on one connection goes out on another, in both directions.

Nothing here speaks of speed, and yet no side can flood the other: ``send`` waits while its peer is slow, meanwhile
nobody receives, and so the sender at the far end comes to a halt. An end of file is passed on in its own direction
only; a connection that breaks breaks the other one, too.

Usage: tcp_proxy.py HOST PORT, of the server behind it. It serves until Ctrl-C.

Prints:

    proxy for HOST:PORT on 127.0.0.1:...
"""

import sys

import flower
from flower.net import Dial, Listen


def relay(source, target):
    for data in source:
        target.send(data)
    target.close_write()


def main():
    if len(sys.argv) != 3 or not sys.argv[2].isdecimal():
        sys.exit("usage: tcp_proxy.py HOST PORT")
    server = sys.argv[1], int(sys.argv[2])

    def handle(client):
        with Dial("tcp", server, timeout=10) as behind:
            try:
                with flower.group() as both:  # ends when both have; the first error cancels the other
                    both.go(relay, client, behind)
                    both.go(relay, behind, client)
            except* OSError:  # of one, or of both at once
                client.abort()
                behind.abort()

    with Listen(("127.0.0.1", 0)) as listener:
        print("proxy for {}:{} on {}:{}".format(*server, *listener.addr()), flush=True)
        try:
            listener.serve(handle, limit=1000)
        except KeyboardInterrupt:
            listener.stop(grace=0)


if __name__ == "__main__":
    main()
