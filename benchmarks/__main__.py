"""The command line: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from benchmarks import registry, report, runner


def main() -> int:
    known = registry.names()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Flower beside its peers, measured.")
    parser.add_argument("--quick", action="store_true", help="one short round: an indication, in half a minute")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds over all competitors (5; --quick 1)")
    parser.add_argument("--only", action="append", default=[], choices=known, metavar="NAME", help=f"{known}")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="the clock of the ratios")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="rewrite that file's recorded run")
    parser.add_argument("--load", type=Path, metavar="FILE", help="report an earlier --json, run nothing")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be 1 or more")

    if options.load:
        record = json.loads(options.load.read_text(encoding="utf-8"))
    else:
        plan = (runner.Plan.quick if options.quick else runner.Plan.full)(options.only)
        if options.rounds is not None:
            plan = dataclasses.replace(plan, rounds=options.rounds)
        record = runner.run(plan, say=lambda line: print(line, file=sys.stderr, flush=True))
    print(report.text(record, options.clock))
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        report.rewrite(options.markdown, record, options.clock)
    failures = report.errors(record)
    if failures:
        print(f"\n{len(failures)} measurements failed; the first:\n{failures[0]}", file=sys.stderr)
        return 1
    missed = any(verdict.passed is False for _, verdict in report.verdicts(record, options.clock))
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
