"""A chat server: each client has one tasklet, which waits in a select for both of its directions.

A client's tasklet waits for a line from its peer and for something to tell it, whichever comes first. Who is in the
room is a plain dict: tasklets run one at a time, and change over only where they wait. A client that does not keep
up with the others loses its place, so that it holds up nobody, and no memory grows.

Talk to it with ``nc 127.0.0.1 PORT``; the first line is your name. It serves until Ctrl-C.

Usage: chat_server.py [PORT], by default any free one.

Prints:

    chatting on 127.0.0.1:...
"""

import sys

import flower
from flower.net import Lines, Listen, framed

MAX_BEHIND = 100  # messages that may wait for a slow client

room = {}  # by the client's name: its connection, and a channel of what it is to be told


def tell_all(text):
    for conn, heard in list(room.values()):
        if not heard.try_send(text):
            conn.abort()  # it is too far behind


def handle(conn):
    try:
        welcome(conn, framed(conn, Lines(max_size=1000)))
    except (flower.ChannelClosed, flower.Timeout, ConnectionError):  # it hung up, was lost, or too slow
        pass


def welcome(conn, lines):
    lines.send("your name?")
    name = lines.receive(timeout=60)
    if not name.isidentifier() or name in room:
        lines.send("no")
        return
    heard = flower.channel(MAX_BEHIND)
    room[name] = conn, heard
    tell_all(f"* {name} has come, we are {len(room)}")
    try:
        while True:
            source, text = flower.select(lines, heard)
            if source is heard:
                conn.write(f"{text}\n")  # no codec: with its name before it, a line may be too long for one
            else:
                tell_all(f"{name}: {text}")
    finally:
        del room[name]
        tell_all(f"* {name} has left")


def main():
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with Listen(("127.0.0.1", port)) as listener:
        print("chatting on {}:{}".format(*listener.addr()), flush=True)
        try:
            listener.serve(handle)
        except KeyboardInterrupt:
            listener.stop(grace=0)


if __name__ == "__main__":
    main()
