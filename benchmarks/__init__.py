"""Flower's benchmarks: ``python -m benchmarks [--quick] [--only NAME] [--rounds N] [--json FILE]``.

The parts, one file each:

    registry.py     what a subject, a competitor, a target and a stopwatch are
    subjects/*.py   one file per subject; importing it imports no library that it measures
    go/*.go         the Go halves, one program, one file per subject
    worker.py       the process in which one competitor is measured, and nothing else
    runner.py       starts the workers, round by round, competitors interleaved
    report.py       medians, ratios, targets; as a table, as JSON, as Markdown

docs/benchmarks.md says how to read the figures.
"""
