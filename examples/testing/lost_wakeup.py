"""A lost wake-up: the bell is rung before anybody listens.

The worker looks whether there is work, says in the log that it waits (which lets others run), and then waits for the
bell. ``try_send`` on a channel without a buffer is heard only by who is waiting already.

Prints a report such as

    flower.testing.Deadlock: the test has ended, and these wait for good:
      worker waits in receive on 'bell' (balance -1), at lost_wakeup.py:36 in worker
    The schedule (one switch out of turn, 6 steps):
         1 worker  send('no work: waiting') on 'log'
    >    2 worker  is pre-empted
         3 boss    try_send(None) on 'bell' -> False
         4 worker  receive on 'bell': waits
"""

import traceback

import flower
import flower.testing as ft


class Office:
    def __init__(self, bell):
        self.work = []
        self.bell = bell
        self.log = flower.channel(100, label="log")

    def boss(self):
        self.work.append("a letter")
        self.bell.try_send(None)

    def worker(self):
        while not self.work:
            self.log.send("no work: waiting")  # others run here
            self.bell.receive()
        self.work.pop()


@ft.explore(max_examples=300, database=None)
def test_bell(w):
    office = Office(flower.channel(label="bell"))
    w.go(office.worker, name="worker")
    w.go(office.boss, name="boss")


@ft.explore(max_examples=300, database=None)
def test_bell_that_goes_on_ringing(w):
    """The fix: a bell with room for one ring, which stays until somebody hears it."""
    office = Office(flower.channel(1, label="bell"))
    w.go(office.worker, name="worker")
    w.go(office.boss, name="boss")


if __name__ == "__main__":
    try:
        test_bell()
    except ft.Deadlock as finding:
        print("".join(traceback.format_exception_only(finding)))
    test_bell_that_goes_on_ringing()
    print("a bell that goes on ringing: nothing found")
