"""Serve an object to other processes over MessagePack-RPC.

A peer may call the public methods of the object's class, and nothing else of it. Each call runs in a tasklet
of its own, so a method may block, in ``sleep`` or on a channel, without holding up other calls.

Run it, and then ``rpc_client.py`` with the address that it prints. It serves until Ctrl-C.

Usage: rpc_server.py [URL], by default tcp://127.0.0.1:0: any free port.

Prints:

    serving on tcp://127.0.0.1:...
    (and what clients have it log)
"""

import sys

import flower
from flower import rpc
from flower.time import sleep


class Calc:
    """What this server offers."""

    def add(self, a, b):
        return a + b

    def divide(self, a, b):
        return a / b  # an error in here is raised at the caller

    def add_slowly(self, a, b, seconds):
        sleep(seconds)
        return a + b

    def log(self, text):
        print("client says:", text, flush=True)

    def _secret(self):
        return "not to be had by calling"


def main():
    url = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:0"
    server = rpc.serve(url, Calc())
    print("serving on", server.url, flush=True)
    try:
        flower.run()  # as long as the server is there
    except KeyboardInterrupt:
        server.close()


if __name__ == "__main__":
    main()
