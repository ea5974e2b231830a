"""A bank transfer that reads, reports to the ledger, and then writes what it had read.

Sending to the ledger lets other tasklets run, and their transfers are overwritten. The sum of all accounts is an
invariant, which is looked at after each step.

Prints a report such as

    AssertionError: a has 40, and not 45
    The schedule (one switch out of turn, 8 steps):
         1 teller-1  send(('a', 'b', 10)) on 'ledger'
    >    2 teller-1  is pre-empted
         3 teller-2  send(('b', 'a', 10)) on 'ledger'
         4 teller-3  send(('a', 'b', 5)) on 'ledger'
"""

import traceback

import flower
import flower.testing as ft


class Bank:
    def __init__(self):
        self.accounts = {"a": 50, "b": 50}
        self.ledger = flower.channel(100, label="ledger")

    def transfer(self, source, target, amount):
        left = self.accounts[source] - amount
        more = self.accounts[target] + amount
        self.ledger.send((source, target, amount))  # others run here
        self.accounts[source] = left
        self.accounts[target] = more


class CarefulBank(Bank):
    """The fix: nothing that lets others run stands between reading and writing."""

    def transfer(self, source, target, amount):
        self.accounts[source] -= amount
        self.accounts[target] += amount
        self.ledger.send((source, target, amount))


def business(w, bank):
    w.go(bank.transfer, "a", "b", 10, name="teller-1")
    w.go(bank.transfer, "b", "a", 10, name="teller-2")
    w.go(bank.transfer, "a", "b", 5, name="teller-3")
    w.settle()
    total = sum(bank.accounts.values())
    assert total == 100, f"the bank has {total}, and not 100"
    assert bank.accounts["a"] == 45, f"a has {bank.accounts['a']}, and not 45"


@ft.explore(max_examples=300, database=None)
def test_bank(w):
    business(w, Bank())


@ft.explore(max_examples=300, database=None)
def test_careful_bank(w):
    business(w, CarefulBank())


if __name__ == "__main__":
    try:
        test_bank()
    except AssertionError as finding:
        print("".join(traceback.format_exception_only(finding)))
    test_careful_bank()
    print("careful bank: nothing found")
