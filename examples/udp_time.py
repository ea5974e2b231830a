"""A time service over UDP, and a client that asks again when no answer comes.

Datagrams get lost. So the client waits in a select for an answer and for a deadline, and asks once more when the
deadline comes first. The server here ignores the first two questions, to have it seen.

Prints:

    no answer, asking again
    no answer, asking again
    the time is 20...
    the clocks differ by less than a second: True
"""

import time

import flower
from flower.net import Dial, Listen

PATIENCE = 0.05  # seconds until the question is asked again


def serve(socket, ignore):
    for question, address in socket:
        if ignore > 0:
            ignore -= 1
        elif question == b"time":
            socket.send(repr(time.time()).encode(), address)


def ask(address, attempts=10):
    with Dial("udp", address) as socket:
        for _ in range(attempts):
            socket.send(b"time")
            source, answer = flower.select(socket, flower.after(PATIENCE))
            if source is socket:
                return float(answer[0])
            print("no answer, asking again")
    raise TimeoutError("nobody knows the time")


def main():
    with Listen(("127.0.0.1", 0), "udp") as socket:
        server = flower.go(serve, socket, 2)
        now = ask(socket.addr())
        print("the time is", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)))
        print("the clocks differ by less than a second:", abs(now - time.time()) < 1)
    server.join()


if __name__ == "__main__":
    main()
