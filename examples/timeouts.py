"""The ways to stop waiting, from one operation to a whole block of code.

Shows: a timeout on one receive; ``timeout`` and ``move_on`` around a block; a deadline as a case of a
``select``; ``join`` with a timeout; clean-up that finishes in a ``shield``.

Prints:

    receive: nothing came in 10 ms
    timeout: the block took too long
    move_on: got 2 of 3 values, then moved on
    select: the deadline came first
    join: the tasklet is still busy
    shield: the tasklet said goodbye before it ended
"""

import flower
from flower.time import sleep


def one_operation(silent):
    try:
        silent.receive(timeout=0.01)
    except flower.Timeout:
        print("receive: nothing came in 10 ms")


def block(silent):
    # A timeout covers everything inside, however many operations that is and however deep they lie.
    try:
        with flower.timeout(0.01):
            silent.receive()
    except flower.Timeout:
        print("timeout: the block took too long")


def block_that_may_end_early():
    values = flower.channel(capacity=3)
    values.send("one")
    values.send("two")
    received = []
    with flower.move_on(0.01) as scope:
        for _ in range(3):
            received.append(values.receive())
    if scope.expired:
        print(f"move_on: got {len(received)} of 3 values, then moved on")


def case_of_a_select(silent):
    deadline = flower.after(0.01)
    ready, _ = flower.select(silent, deadline)
    if ready is deadline:
        print("select: the deadline came first")


def busy(seconds):
    sleep(seconds)
    return "done"


def end_of_a_tasklet():
    tasklet = flower.go(busy, 10)
    try:
        tasklet.join(timeout=0.01)
    except flower.Timeout:
        print("join: the tasklet is still busy")
    tasklet.kill()


def guest(silent, goodbye):
    try:
        silent.receive()
    finally:
        # The scope around us has expired: without the shield, the next wait would be cancelled as well.
        with flower.shield():
            goodbye.send("shield: the tasklet said goodbye before it ended")


def clean_up(silent):
    goodbye = flower.channel()

    def visit():
        with flower.move_on(0.01):
            guest(silent, goodbye)

    flower.go(visit)
    print(goodbye.receive())


def main():
    silent = flower.channel()  # nobody ever sends here
    one_operation(silent)
    block(silent)
    block_that_may_end_early()
    case_of_a_select(silent)
    end_of_a_tasklet()
    clean_up(silent)


if __name__ == "__main__":
    main()
