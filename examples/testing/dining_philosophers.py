"""Dining philosophers: everybody takes the left fork first, and then nobody gets the right one.

Each fork is a channel that holds it. As a plain run shows nothing (the philosophers eat one after the other), the
explored test chooses who runs when. ``docs/testing.md`` goes through this example step by step.

Prints a report such as

    flower.testing.Deadlock: the test has ended, and these wait for good:
      philosopher 0 waits in receive on 'fork 1' (balance -1), at dining_philosophers.py:33 in greedy
      philosopher 1 waits in receive on 'fork 2' (balance -1), at dining_philosophers.py:33 in greedy
      philosopher 2 waits in receive on 'fork 0' (balance -1), at dining_philosophers.py:33 in greedy
    The schedule (one switch out of turn, 11 steps):
         1 test           send('fork') on 'fork 0'
         2 test           send('fork') on 'fork 1'
         3 test           send('fork') on 'fork 2'
         4 philosopher 0  receive on 'fork 0' -> 'fork'
    >    5 philosopher 0  is pre-empted
         6 philosopher 2  receive on 'fork 2' -> 'fork'
         7 philosopher 2  receive on 'fork 0': waits
         8 philosopher 1  receive on 'fork 1' -> 'fork'
         9 philosopher 1  receive on 'fork 2': waits
        10 philosopher 0  receive on 'fork 1': waits
"""

import traceback

import flower
import flower.testing as ft


def greedy(left, right):
    left.receive()
    right.receive()
    # ... eats ...
    left.send("fork")
    right.send("fork")


def polite(left, right):
    """The fix: everybody takes the forks in the same order."""
    first, second = sorted((left, right), key=lambda fork: fork.label)
    greedy(first, second)


def dinner(w, philosopher):
    forks = [flower.channel(1, label=f"fork {n}") for n in range(3)]
    for fork in forks:
        fork.send("fork")
    for n in range(3):
        w.go(philosopher, forks[n], forks[(n + 1) % 3], name=f"philosopher {n}")


@ft.explore(max_examples=300, database=None)
def test_greedy(w):
    dinner(w, greedy)


@ft.explore(max_examples=300, database=None)
def test_polite(w):
    dinner(w, polite)


if __name__ == "__main__":
    try:
        test_greedy()
    except ft.Deadlock as finding:
        print("".join(traceback.format_exception_only(finding)))
    test_polite()
    print("polite philosophers: nothing found")
