"""Fan-in: one consumer waits on several producers at once, each with a pace of its own.

``select`` waits until one of its cases can go on, does exactly that one, and says which: it returns the
channel and the value. A channel that is closed and empty is always ready: its case raises ChannelClosed with
``.channel`` set, and the consumer drops it. ``after`` is a channel too, so a deadline is one more case.

Shows: ``select`` over any number of channels, how it tells the end of one, ``after``.

Prints nine lines in the order of arrival, and how many came from each:

    fast 0
    ...
    fast: 5, middling: 3, slow: 1
"""

import flower
from flower.time import sleep

PRODUCERS = {"fast": (0.002, 5), "middling": (0.005, 3), "slow": (0.012, 1)}
"""Seconds between two values, and how many."""


def producer(ch, seconds, count):
    for number in range(count):
        sleep(seconds)
        ch.send(number)
    ch.close()


def main():
    sources = {}
    for name, (seconds, count) in PRODUCERS.items():
        ch = flower.channel[int](label=name)
        sources[ch] = name
        flower.go(producer, ch.sender, seconds, count)

    too_late = flower.after(10)
    received = dict.fromkeys(PRODUCERS, 0)
    while sources:
        try:
            ch, number = flower.select(*sources, too_late)
        except flower.ChannelClosed as closed:
            del sources[closed.channel]  # this producer is done
            continue
        if ch is too_late:
            raise SystemExit(f"nothing came for too long; still open: {list(sources.values())}")
        print(sources[ch], number)
        received[sources[ch]] += 1
    print(", ".join(f"{name}: {count}" for name, count in received.items()))


if __name__ == "__main__":
    main()
