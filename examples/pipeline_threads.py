"""A pipeline whose stages run in OS threads of their own, joined by channels.

Channels are the one thing that tasklets of different threads may share: a send in one thread wakes a
receiver in another. The stages here compress and hash, which Python does outside its global lock, so they
really run side by side. The channels have little room, so a slow stage holds back the ones before it and
the memory in use stays small.

Shows: channels between threads, room as backpressure, ``close`` passed down the pipeline.

Prints a line per block of text, in order, and what was saved:

    block 0: 51000 bytes, compressed to ..., sha256 ...
    ...
    8 blocks, 408000 bytes, compressed to ... %
"""

import hashlib
import threading
import zlib

import flower

BLOCKS = 8
ROOM = 2  # blocks that may wait between two stages


def produce(sink):
    for number in range(BLOCKS):
        sink.send((number, f"{number} green bottles, ".encode() * 3000))
    sink.close()


def compress(source, sink):
    for number, block in source:
        sink.send((number, len(block), zlib.compress(block)))
    sink.close()


def digest(source, sink):
    for number, size, packed in source:
        sink.send((number, size, len(packed), hashlib.sha256(packed).hexdigest()))
    sink.close()


def main():
    blocks, compressed, digested = (flower.channel(ROOM) for _ in range(3))
    stages = [
        threading.Thread(target=produce, args=(blocks.sender,)),
        threading.Thread(target=compress, args=(blocks.receiver, compressed.sender)),
        threading.Thread(target=digest, args=(compressed.receiver, digested.sender)),
    ]
    for stage in stages:
        stage.start()

    before = after = count = 0
    for number, size, packed, sha256 in digested:
        print(f"block {number}: {size} bytes, compressed to {packed}, sha256 {sha256[:12]}")
        before, after, count = before + size, after + packed, count + 1
    print(f"{count} blocks, {before} bytes, compressed to {after / before:.1%}")
    for stage in stages:
        stage.join()


if __name__ == "__main__":
    main()
