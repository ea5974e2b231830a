"""A key-value store in a process of its own, with streams that tell of each change.

``watch`` is a generator, so it streams: each change of a key is a value on a channel at the client, and waits in
a ``select`` beside anything else. A watcher that reads too slowly does not hold up those who write: it is told
that it has missed something, by an error that can't be taken for a clean end.

Run without arguments it starts the store as a process, and two clients in this one.

Prints:

    process ... serves the store
    set 3 keys; colour = green
    the watcher of colour saw: red, green, (deleted)
    the watcher of everything saw 5 changes
    increments by 10 tasklets of 2 clients: 1000
    a watcher that never reads: SlowWatcher
    no watcher is left
"""

import subprocess
import sys

import flower
from flower import rpc

BACKLOG = 1000  # changes that may wait for one watcher


class SlowWatcher(Exception):
    """There were more changes than this watcher has read."""


class Store:
    """What the store offers."""

    def __init__(self):
        self._values = {}
        self._watchers = []

    def get(self, key, default=None):
        return self._values.get(key, default)

    def set(self, key, value):
        self._values[key] = value
        self._tell(key, value)

    def delete(self, key):
        del self._values[key]
        self._tell(key, None)

    def increment(self, key, by=1):
        # No other tasklet runs between the two: a tasklet gives way only where it waits.
        self.set(key, self._values.get(key, 0) + by)
        return self._values[key]

    def watch(self, key=None):
        """The changes of one key, or of all: pairs of the key and its new value."""
        changes = flower.channel(BACKLOG)
        watcher = (key, changes)
        self._watchers.append(watcher)
        try:
            yield from changes
            raise SlowWatcher(f"{BACKLOG} changes were waiting")
        finally:
            self._watchers = [other for other in self._watchers if other is not watcher]

    def watchers(self):
        return len(self._watchers)

    def _tell(self, key, value):
        for wanted, changes in self._watchers:
            if wanted in (None, key) and not changes.closing and not changes.try_send((key, value)):
                changes.close()


def serve():
    with rpc.serve("tcp://127.0.0.1:0", Store()) as server:
        print(server.url, flush=True)
        flower.blocking(sys.stdin.read)  # until whoever started us has gone


def watch_and_change(client, other):
    everything, colour = client.stream("watch"), client.stream("watch", key="colour")
    client.call("watchers")  # both are there
    seen = {everything: [], colour: []}

    other.call("set", "colour", "red")
    other.call("set", "colour", "green")
    other.call("set", "size", 5)
    print("set 3 keys; colour =", other.call("get", "colour"))
    other.call("delete", "colour")
    other.call("set", "size", 6)

    while len(seen[everything]) < 5 or len(seen[colour]) < 3:
        source, change = flower.select(everything, colour, timeout=10.0)
        seen[source].append(change)
    print("the watcher of colour saw:", ", ".join(value or "(deleted)" for _, value in seen[colour]))
    print("the watcher of everything saw", len(seen[everything]), "changes")
    everything.close()
    colour.close()


def count_together(clients):
    def count(client):
        for _ in range(100):
            client.call("increment", "counter")

    with flower.group() as group:
        for number in range(10):
            group.go(count, clients[number % 2])
    print("increments by 10 tasklets of 2 clients:", clients[0].call("get", "counter"))


def read_too_slowly(client):
    lazy = client.stream("watch", "counter")
    for _ in range(2 * BACKLOG):
        client.notify("increment", "counter")
    client.call("watchers")  # all of them have been carried out
    try:
        for _ in lazy:
            pass
    except rpc.RemoteError as error:
        print("a watcher that never reads:", error.type.rpartition(".")[2])


def main():
    command = [sys.executable, __file__, "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as store:
        print("process", store.pid, "serves the store")
        url = store.stdout.readline().strip()
        with rpc.connect(url) as client, rpc.connect(url) as other:
            watch_and_change(client, other)
            count_together([client, other])
            read_too_slowly(client)
            print("no watcher is left" if client.call("watchers") == 0 else "a watcher was left behind")


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
