"""Two tasklets play ping-pong: a ball goes back and forth over two channels.

A channel without room is a meeting point: ``send`` returns when the other side has the value, so the two take
turns and no lock is needed. Each hit costs one switch between the tasklets; the last line shows how fast
that is here.

Shows: two channels as a dialogue, ``run(main)``, ``close`` as the end of the game.

Prints:

    ping 1
    pong 2
    ping 3
    pong 4
    ping 5
    pong 6
    100000 hits: ... a second
"""

import time

import flower


def player(name, incoming, outgoing, last, spoken):
    """Return each ball with one hit more, and stop the game after the last one."""
    for hits in incoming:
        hits += 1
        if spoken:
            print(name, hits)
        if hits == last:
            outgoing.close()
            return
        outgoing.send(hits)


def play(hits, spoken=True):
    left, right = flower.channel[int](), flower.channel[int]()
    ping = flower.go(player, "ping", left.receiver, right.sender, hits, spoken)
    pong = flower.go(player, "pong", right.receiver, left.sender, hits, spoken)
    left.send(0)  # serve
    ping.join()
    pong.join()


def main():
    play(6)
    hits = 100_000
    began = time.perf_counter()
    play(hits, spoken=False)
    print(f"{hits} hits: {hits / (time.perf_counter() - began):,.0f} a second")


if __name__ == "__main__":
    flower.run(main)
