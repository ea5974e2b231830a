"""A cache with a stampede: everybody who misses fetches.

Between the miss and the filling lies the fetch, which takes a while; whoever comes meanwhile misses too. The time is
virtual: the fetch of a second takes none.

Prints a report such as

    AssertionError: the page was fetched 2 times
    The schedule (nobody ran out of turn, 8 steps):
         1     0.000 s  test      sleep: waits
         2     0.000 s  reader-1  gives way
         3     0.000 s  reader-2  gives way
         4     0.000 s  reader-1  sleep: waits
         5     0.000 s  reader-2  sleep: waits
         6     1.000 s  reader-1  sleep: goes on
         7     1.000 s  reader-2  sleep: goes on
         8    20.000 s  test      sleep: goes on
"""

import traceback

from hypothesis import strategies as st

import flower
import flower.testing as ft


class Cache:
    def __init__(self):
        self.pages = {}
        self.fetches = 0

    def fetch(self, name):
        self.fetches += 1
        flower.time.sleep(1)
        return f"<{name}>"

    def get(self, name):
        if name not in self.pages:
            self.pages[name] = self.fetch(name)
        return self.pages[name]


class PatientCache(Cache):
    """The fix: the first who misses leaves a tasklet there, and everybody joins it."""

    def get(self, name):
        if name not in self.pages:
            self.pages[name] = flower.go(self.fetch, name)
        return self.pages[name].join()


def reading(w, cache):
    def read():
        flower.time.sleep(w.draw(st.sampled_from([0, 5])))
        assert cache.get("home") == "<home>"

    w.go(read, name="reader-1")
    w.go(read, name="reader-2")
    w.advance(20)
    assert cache.fetches == 1, f"the page was fetched {cache.fetches} times"


@ft.explore(max_examples=300, database=None)
def test_cache(w):
    reading(w, Cache())


@ft.explore(max_examples=300, database=None)
def test_patient_cache(w):
    reading(w, PatientCache())


if __name__ == "__main__":
    try:
        test_cache()
    except AssertionError as finding:
        print("".join(traceback.format_exception_only(finding)))
    test_patient_cache()
    print("patient cache: nothing found")
