"""Plants faults in the core, one at a time, and shows that the explored tests find each: `make mutants`.

The core is copied, uncompiled, into a folder of its own; a fault is a text that is replaced there. Each fault is one
that a reasonable person might make. A fault that is not found is listed, with the reason if one is known.

    python tools/mutants.py [NAME ...] [--list]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 60.0  # seconds: a suite that takes longer hangs, which is one way of finding the fault
SLOWER = 4  # times as long as without any fault, where the machine is busy


class Fault(NamedTuple):
    """What is planted: in ``module`` of flower/channels, ``old`` becomes ``new``."""

    name: str
    module: str
    old: str
    new: str
    missed: str = ""  # why the explored tests can't find it


FAULTS = [
    Fault(
        "a select's other waiters stay in their queues",
        "_task",
        "        for i in range(len(t.cases)):\n",
        "        for i in range(len(t.cases) - 1):\n",
    ),
    Fault(
        "a waiter that gives up stays in its queue",
        "_task",
        "    if not t.leave() and t.cases",
        "    if t.queue is None and t.cases",
    ),
    Fault("a channel holds one too many", "_channel", "if self.held < self.limit:", "if self.held <= self.limit:"),
    Fault(
        "a channel holds one too few",
        "_channel",
        "        if self.held < self.limit:\n            if self.ring",
        "        if self.held < self.limit - 1:\n            if self.ring",
    ),
    Fault(
        "a deadline beats a value that was delivered",
        "_task",
        "if self.state == BLOCKED and not self.decided:",
        "if self.state == 2:\n            self.error = TimeoutError()\n"
        "        if self.state == BLOCKED and not self.decided:",
    ),
    Fault(
        "a deadline that has passed is not taken out of the heap at the wake-up",
        "_scheduler",
        "        if t.slot:\n            self.timers.remove(t)\n        return 0",
        "        return 0",
    ),
    Fault(
        "a place that a receive frees wakes nobody",
        "_channel",
        "            if self.senders.count:  # the place goes to the sender that has waited longest",
        "            if self.senders.count and self.limit > 1:",
    ),
    Fault(
        "a sender's value is forgotten when its place is given to it",
        "_channel",
        "                self.store(w.value)\n                w.value = None\n                wake(t)",
        "                w.value = None\n                wake(t)",
    ),
    Fault(
        "a sender's value is left with it and sent again",
        "_channel",
        "            value = self.fetch()\n",
        "            value = self.ring[self.head]\n            if self.held > 1:\n                self.fetch()\n",
    ),
    Fault(
        "close forgets those who wait to receive, but for the first",
        "_channel",
        "                woken.append(t)\n            w = after",
        "                woken.append(t)\n                after = None\n            w = after",
    ),
    Fault(
        "close leaves a select's send case waiting",
        "_channel",
        "        self.dismiss(self.receivers, False, woken)\n        self.dismiss(self.senders, True, woken)\n",
        "        self.dismiss(self.receivers, False, woken)\n",
    ),
    Fault(
        "close turns blocked senders away",
        "_channel",
        "        self.dismiss(self.senders, True, woken)\n",
        "        self.dismiss(self.senders, False, woken)\n",
    ),
    Fault(
        "a closed channel takes values",
        "_channel",
        "        if self.shut:\n            raise self._refusal()\n        if self.receivers.count:",
        "        if self.receivers.count:",
    ),
    Fault(
        "a closed channel's end comes before what it holds",
        "_channel",
        "        if self.held:\n            value = self.fetch()",
        "        if self.shut:\n            raise self._refusal()\n"
        "        if self.held:\n            value = self.fetch()",
    ),
    Fault(
        "a closed channel is not ready in a select",
        "_channel",
        "return self.shut or self.held > 0 or self.senders.count > 0",
        "return self.held > 0 or self.senders.count > 0",
    ),
    Fault(
        "the wake-up of a rendezvous is swallowed",
        "_scheduler",
        "or s.traps or s.chooser is not None:\n        wake(t)\n",
        "or s.traps or s.chooser is not None:\n        get_here() is not s and wake(t)\n",
    ),
    Fault(
        "waiters are served last in, first out",
        "_waiting",
        '            """Put the waiter, which is in no queue, at the end."""\n',
        '            """Put the waiter, which is in no queue, at the end."""\n'
        "            if self.count == 1:\n                return self.push(w)\n",
    ),
    Fault(
        "a select reports its first case, whichever happened",
        "_channel",
        "        t.chosen = w.index\n",
        "        t.chosen = 0\n",
    ),
    Fault(
        "a select's send case that is ready is done twice",
        "_select",
        "        if not ch.put(w.value):\n",
        "        if ch.can_put():\n            ch.put(w.value)\n        if not ch.put(w.value):\n",
    ),
    Fault(
        "a select takes from each ready case",
        "_select",
        "        value = ch.take()\n        if value is NOTHING:",
        "        value = ch.take()\n        if ch.held:\n            ch.take()\n        if value is NOTHING:",
    ),
    Fault(
        "a select takes its default though a case is ready",
        "_select",
        "            if w is not None:\n                result = perform(",
        "            if w is not None and default is MISSING:\n                result = perform(",
    ),
    Fault(
        "a kill overwrites a value that was delivered",
        "_scheduler",
        "    if t.state != BLOCKED or t.decided:\n        return False\n    withdraw(t)",
        "    if t.state == 0:\n        return False\n    t.state == BLOCKED and withdraw(t)",
    ),
    Fault(
        "a cancellation is delivered once only",
        "_scope",
        "        if culprit is not None:\n            raise Cancelled(culprit)\n        return min(",
        "        if culprit is not None and not culprit.expired:\n            culprit.expired = True\n"
        "            raise Cancelled(culprit)\n        return min(",
    ),
    Fault(
        "a shield does not shield",
        "_scope",
        "                found = scope\n            scope = None if scope._shield else scope._parent",
        "                found = scope\n            scope = scope._parent",
    ),
    Fault(
        "a scope is left in its tasklet",
        "_scope",
        "            task.scope = self._parent\n",
        "",
    ),
    Fault(
        "a group ends with its first tasklet",
        "_scope",
        "        if not self._members:\n            self._ended.try_send(None)",
        "        self._members.clear()\n        self._ended.try_send(None)",
    ),
    Fault(
        "the error of a member leaves the others running",
        "_scope",
        "        if (for_main or self._errors) and",
        "        if for_main and",
    ),
    Fault(
        "a stopped timer leaves its value behind",
        "_clock",
        "            return ch.try_receive() is not None or pending",
        "            return len(ch) > 0 or pending",
    ),
    Fault(
        "a stopped timer fires nevertheless",
        "_clock",
        "            chime.ref = None\n            track(chime)\n            chime.scheduler.clear_alarm(chime)\n",
        "",
    ),
    Fault(
        "a ticker keeps its ticks for a slow receiver",
        "_clock",
        "    ch: channel[float] = channel(1, label)",
        "    ch: channel[float] = channel(9, label)",
    ),
    Fault(
        "the heap of deadlines loses its order when one is taken out",
        "_waiting",
        "            self.sink(moved, hole)\n        return 0",
        "            self.heap[hole] = moved\n            moved.slot = hole\n        return 0",
    ),
    Fault(
        "those who join are not woken",
        "_delivery",
        "    while joiners.count:\n        joiner =",
        "    while joiners.count > 1:\n        joiner =",
    ),
    Fault(
        "an operation that need not wait looks at its timeout first",
        "_channel",
        "        if self.put(value):\n            return None\n        t = may_park(timeout)",
        "        if timeout != 0 and self.put(value):\n            return None\n        t = may_park(timeout)",
    ),
    Fault(
        "a receiver that gives up leaves the senders waiting",
        "_channel",
        "        self.dismiss(self.senders, False, woken)\n        self.wake_all(woken)\n        del dropped",
        "        self.wake_all(woken)\n        del dropped",
    ),
    Fault(
        "an exception that was sent is received as a value",
        "_channel",
        "                    raise _scheduler.cold.take_error(t)\n        if isinstance(value, bomb):",
        "                    raise _scheduler.cold.take_error(t)\n                return value\n"
        "        if isinstance(value, bomb):",
    ),
    Fault(
        "a select of both ends of one channel meets itself",
        "_select",
        "    outside = False\n    for i in range(len(waiters)):\n",
        "    outside = False\n    for w in waiters:\n"
        "        if w.channel and w.sends and any(o.channel is w.channel and not o.sends for o in waiters):\n"
        "            w.channel.senders.append(w)\n            w.channel.take()\n            break\n"
        "    for i in range(len(waiters)):\n",
    ),
    Fault(
        "the chance among ready cases always falls on the first",
        "_select",
        "        skip = roll(count) if s.interposer is None else s.interposer.pick(count)",
        "        skip = 0",
        missed="whether all cases are chosen evenly is no matter of schedules: tests/channels counts it",
    ),
]


def check_texts(faults: list[Fault]) -> None:
    """Each fault's text must be there, once: the core may have changed since it was written."""
    wrong = []
    for fault in faults:
        found = (ROOT / "flower" / "channels" / f"{fault.module}.py").read_text("utf-8").count(fault.old)
        if found != 1:
            wrong.append(f"  {fault.name}: found {found} times in {fault.module}.py")
    if wrong:
        raise SystemExit("these faults no longer fit the core:\n" + "\n".join(wrong))


def plant(copy: Path, fault: Fault) -> None:
    path = copy / "flower" / "channels" / f"{fault.module}.py"
    source = path.read_text("utf-8")
    path.write_text(source.replace(fault.old, fault.new), "utf-8")


def run_suite(copy: Path, limit: float) -> tuple[bool, str]:
    """Whether the explored tests pass in the copy; and what they say first, if not."""
    env = {**os.environ, "FLOWER_PURE": "1", "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", "tests/explored"]
    try:
        done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return False, "it hangs"
    lines = done.stdout.splitlines()
    named = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    said = named[0].partition("::")[2] if named else f"it ends with {done.returncode}: {done.stderr[-200:]}"
    return done.returncode == 0, said


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Plant faults in the core, and see whether the explored tests find them."
    )
    parser.add_argument("names", nargs="*", help="only the faults whose name contains one of these")
    parser.add_argument("--list", action="store_true", help="list the faults")
    options = parser.parse_args()
    faults = [f for f in FAULTS if not options.names or any(name in f.name for name in options.names)]
    if options.list:
        print("\n".join(f"{fault.module:12} {fault.name}" for fault in faults))
        return 0
    check_texts(faults)
    unexpected = []
    missed = []
    with tempfile.TemporaryDirectory(prefix="flower-mutants-") as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "flower", copy / "flower", ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
        shutil.copytree(ROOT / "tests", copy / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        started = time.monotonic()
        passed, said = run_suite(copy, 10 * LIMIT)
        limit = max(LIMIT, SLOWER * (time.monotonic() - started))
        if not passed:
            print(f"the tests fail without any fault: {said}")
            return 1
        for fault in faults:
            path = copy / "flower" / "channels" / f"{fault.module}.py"
            source = path.read_text("utf-8")
            plant(copy, fault)
            started = time.monotonic()
            passed, said = run_suite(copy, limit)
            path.write_text(source, "utf-8")
            print(f"{'MISSED' if passed else 'found '} {time.monotonic() - started:5.1f} s  {fault.name}", flush=True)
            if not passed:
                print(f"                 by {said[:110]}", flush=True)
            else:
                missed.append(fault)
            if passed and not fault.missed:
                unexpected.append(fault)
    print(f"\n{len(faults) - len(missed)} of {len(faults)} faults found")
    for fault in missed:
        print(f"missed: {fault.name}: {fault.missed or 'no reason known'}")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
