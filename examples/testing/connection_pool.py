"""A connection pool that leaks on a timeout: who gives up does not give back.

The kit moves the time: a query that is slower than its time limit is one draw away, and so is a moment between the
answer and the giving back.

Prints a report such as

    AssertionError: the pool has 1 of its 2 connections left
    The schedule (nobody ran out of turn, 16 steps):
         ...
         4     0.000 s  client-1  receive on 'pool' -> 'connection 0'
         5     0.000 s  client-1  sleep: waits
         6     0.000 s  client-2  receive on 'pool' -> 'connection 1'
         7     0.000 s  client-2  sleep: waits
         8     0.000 s  client-3  receive on 'pool': waits
         9     0.100 s  client-1  sleep: goes on
        10     0.100 s  client-1  send('connection 0') on 'pool'
        11     0.100 s  client-2  sleep: goes on
        12     0.100 s  client-2  send('connection 1') on 'pool'
        13     0.100 s  client-3  receive on 'pool' -> 'connection 0'
        14     0.100 s  client-3  sleep: waits
        15     1.000 s  client-3  sleep: goes on
        16    30.000 s  test      sleep: goes on
"""

import traceback

from hypothesis import strategies as st

import flower
import flower.testing as ft


class Pool:
    def __init__(self, size):
        self.size = size
        self.idle = flower.channel(size, label="pool")
        for n in range(size):
            self.idle.send(f"connection {n}")

    def query(self, seconds):
        connection = self.idle.receive()
        flower.time.sleep(seconds)  # the database at work
        self.idle.send(connection)


class TidyPool(Pool):
    """The fix: what was taken is given back, however the query ends."""

    def query(self, seconds):
        connection = self.idle.receive()
        try:
            flower.time.sleep(seconds)
        finally:
            self.idle.try_send(connection)  # there is room, and a cancelled tasklet may not wait


def clients(w, pool):
    def client():
        seconds = w.draw(st.sampled_from([0.1, 0.5, 3.0]))
        with flower.move_on(1.0):
            pool.query(seconds)

    for n in range(3):
        w.go(client, name=f"client-{n + 1}")
    w.advance(30)
    left = len(pool.idle)
    assert left == pool.size, f"the pool has {left} of its {pool.size} connections left"


@ft.explore(max_examples=300, database=None)
def test_pool(w):
    clients(w, Pool(2))


@ft.explore(max_examples=300, database=None)
def test_tidy_pool(w):
    clients(w, TidyPool(2))


if __name__ == "__main__":
    try:
        test_pool()
    except AssertionError as finding:
        print("".join(traceback.format_exception_only(finding)))
    test_tidy_pool()
    print("tidy pool: nothing found")
