"""The concurrent prime sieve: a chain of tasklets that grows by one for every prime found.

Each stage takes numbers from the one before it, keeps the first one (a prime), and passes on what that prime
does not divide. Nobody knows how long the chain is; closing the first channel ends all of it, stage by stage.

Shows: channels without room, one-way ends in signatures, ``close`` and iteration until closed.

Prints the primes below 100:

    2 3 5 7 11 13 17 19 23 29 31 37 41 43 47 53 59 61 67 71 73 79 83 89 97
"""

from collections.abc import Iterator

import flower


def count(numbers, limit):
    """Send 2, 3, 4, ... below the limit, and close."""
    for number in range(2, limit):
        numbers.send(number)
    numbers.close()


def sift(source, sink, prime):
    """Pass on what the prime does not divide, until the source is closed; then close the sink too."""
    for number in source:
        if number % prime:
            sink.send(number)
    sink.close()


def primes(limit) -> Iterator[int]:
    source = flower.channel[int]()
    flower.go(count, source.sender, limit)
    while True:
        try:
            prime = source.receive()
        except flower.ChannelClosed:
            return
        yield prime
        sink = flower.channel[int]()
        flower.go(sift, source.receiver, sink.sender, prime)
        source = sink


if __name__ == "__main__":
    print(*primes(100))
