"""A leader election over a partitioned network: who has not heard from the leader makes itself the next.

Three nodes, each with a patience of its own. The test draws which links break. Two nodes that hear neither the leader
nor each other both become leader of the same term; with votes, of which a term needs a majority, at most one can.

Prints a report such as

    AssertionError: term 2 has two leaders: b and c
    The schedule (nobody ran out of turn, 165 steps):
         ...
    >   44     2.000 s  the network   a <-/-> b: partitioned
    >   45     2.000 s  the network   a <-/-> c: partitioned
    >   46     2.000 s  the network   b <-/-> c: partitioned
"""

import traceback

from hypothesis import strategies as st

import flower
import flower.testing as ft
from flower.net import Dial, Listen

NODES = {"a": 1.5, "b": 2.0, "c": 2.5}  # seconds without a word from the leader, after which a node stands up itself
LINKS = [("a", "b"), ("a", "c"), ("b", "c")]


class Node:
    def __init__(self, name, leaders):
        self.name = name
        self.others = [other for other in NODES if other != name]
        self.leaders = leaders  # of each term, for the test
        self.term = self.voted = 0
        self.heard = flower.channel(1, label=f"{name} has heard")

    def run(self):
        flower.tasklet(self.serve, daemon=True)()
        while True:
            try:
                self.heard.receive(timeout=NODES[self.name])
            except flower.Timeout:
                self.term += 1
                if self.wins(self.term):
                    self.lead(self.term)

    def wins(self, term):
        return True

    def lead(self, term):
        self.leaders.setdefault(term, []).append(self.name)
        while self.term == term:
            for other in self.others:
                self.tell(other, "lead", term)
            flower.time.sleep(1.0)

    def serve(self):
        with Listen((self.name, 1)) as listener:
            listener.serve(self.answer)

    def answer(self, conn):
        what, term = conn.read_until(b"\n").split()
        conn.send(b"yes" if self.agrees(what.decode(), int(term)) else b"no ")

    def agrees(self, what, term):
        if term < self.term or (what == "vote" and term <= self.voted):
            return False
        self.term = term
        if what == "vote":
            self.voted = term
        self.heard.try_send(None)
        return True

    def tell(self, other, what, term):
        """Whether the other node agrees; False when it does not answer."""
        try:
            with flower.timeout(0.2), Dial("tcp", (other, 1)) as conn:
                conn.send(f"{what} {term}\n".encode())
                return conn.read_exactly(3) == b"yes"
        except (OSError, EOFError):  # Timeout is an OSError
            return False


class VotingNode(Node):
    """The fix: a leader needs the votes of a majority, and nobody votes twice in one term."""

    def wins(self, term):
        if self.voted >= term:
            return False
        self.voted = term
        votes = 1 + sum(self.tell(other, "vote", term) for other in self.others)
        return self.term == term and 2 * votes > len(NODES)


def election(w, kind):
    leaders = {}
    for name in NODES:
        w.net.at(name).go(kind(name, leaders).run, name=f"node {name}", daemon=True)
    w.advance(2)
    for link in w.draw(st.lists(st.sampled_from(LINKS), unique=True)):
        w.net.partition(*link)
    w.advance(3)
    w.net.heal()
    w.advance(2)
    for term, names in leaders.items():
        assert len(names) == 1, f"term {term} has two leaders: {' and '.join(names)}"


@ft.explore(max_examples=300, database=None)
def test_election(w):
    election(w, Node)


@ft.explore(max_examples=300, database=None)
def test_election_by_vote(w):
    election(w, VotingNode)


if __name__ == "__main__":
    try:
        test_election()
    except AssertionError as finding:
        print("".join(traceback.format_exception_only(finding)))
    test_election_by_vote()
    print("election by vote: nothing found")
