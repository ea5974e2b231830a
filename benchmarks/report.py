"""From a record (what runner.run returns, or a JSON file of it) to tables, for people and for Markdown.

The figure of a competitor is the median over the rounds. A ratio is taken within each round, between two
competitors measured a moment apart, and the median of these ratios is reported.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.registry import Subject, Target, load

Clock = Literal["wall", "cpu"]

FACTORS = {"ns": 1e9, "ms": 1e3, "bytes": 1.0}
BUSY = 1.08
"""Wall time over CPU time above which the machine is called busy; single-threaded work, 1.00 when quiet."""

BEGIN, END = "<!-- recorded run: begin -->", "<!-- recorded run: end -->"


@dataclass(frozen=True)
class Verdict:
    target: Target
    figure: float | None  # the ratio, or the figure itself where the target has no peer
    best: float | None  # the same, from everybody's best round
    passed: bool | None  # None: not judged
    why: str = ""  # it was not judged

    @property
    def word(self) -> str:
        return {True: "pass", False: "FAIL", None: "-"}[self.passed]


Results = dict[tuple[str, str], dict[str, Any]]


def by_key(entry: dict[str, Any]) -> Results:
    return {(result["library"], result["variant"]): result for result in entry["results"]}


def figures(result: dict[str, Any], clock: Clock) -> list[float]:
    return [pair[0 if clock == "wall" else 1] for pair in result["rounds"]]


def ratio(ours: dict[str, Any], peer: dict[str, Any], clock: Clock) -> float | None:
    pairs = zip(figures(ours, clock), figures(peer, clock), strict=False)
    ratios = [one / other for one, other in pairs if other > 0]
    return statistics.median(ratios) if ratios else None


def judge(target: Target, subject: Subject, results: Results, clock: Clock) -> Verdict:
    ours = results[target.ours]
    if not ours["rounds"]:
        return Verdict(target, None, None, None, f"{target.ours[0]} was not measured")
    if ours["library"] == "flower" and not ours.get("compiled", True):
        return Verdict(target, None, None, None, "the core is not compiled")
    mine = figures(ours, clock)
    if target.peer is None:
        factor = FACTORS[subject.unit]
        middle = statistics.median(mine) * factor
        return Verdict(target, middle, min(mine) * factor, middle <= target.limit)
    peer = results[target.peer]
    cost = ratio(ours, peer, clock)
    if cost is None:
        return Verdict(target, None, None, None, f"{target.peer[0]} was not measured")
    best = min(mine) / min(figures(peer, clock))
    if target.kind == "at most":
        return Verdict(target, cost, best, cost <= target.limit)
    return Verdict(target, 1 / cost, 1 / best, 1 / cost >= target.limit)


def verdicts(record: dict[str, Any], clock: Clock) -> list[tuple[Subject, Verdict]]:
    found = []
    for entry in record["subjects"]:
        subject, results = load(entry["name"]), by_key(entry)
        found += [(subject, judge(target, subject, results, clock)) for target in subject.targets]
    return found


def errors(record: dict[str, Any]) -> list[str]:
    return [
        f"{entry['name']}, {result['library']} {result['variant']}: {result['error']}"
        for entry in record["subjects"]
        for result in entry["results"]
        if "error" in result
    ]


def last_error(traceback: str) -> str:
    """The line of a traceback that names the error; notes may stand below it."""
    lines = [line for line in traceback.splitlines() if line.strip()] or ["no message"]
    return next((line for line in reversed(lines) if re.match(r"[A-Za-z_.]+: ", line)), lines[-1])


def busy(record: dict[str, Any]) -> float:
    """Median of wall over CPU time of the single-threaded work in Python: how busy the machine was."""
    shares = [
        wall / cpu
        for entry in record["subjects"]
        if entry["name"] in ("handover", "buffered", "spawn", "select", "timers")
        for result in entry["results"]
        if result["library"] != "go"
        for wall, cpu in result["rounds"]
        if cpu > 0
    ]
    return statistics.median(shares) if shares else 1.0


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


# -- Tables: a head and rows of words, the same for the terminal and for Markdown

Table = tuple[list[str], list[list[str]]]


def subject_table(subject: Subject, results: Results, clock: Clock) -> Table:
    timed = subject.unit != "bytes"
    head = ["who", "what", f"{subject.unit}/{subject.per}"] + (["CPU"] if timed else []) + ["best", "spread", "ratio"]
    factor = FACTORS[subject.unit]
    several = any(result["variant"] for result in results.values())
    rows = []
    for competitor in subject.competitors:
        result = results.get(competitor.key)
        if result is None:
            continue
        name = competitor.library
        if name == "flower" and not result.get("compiled", True):
            name = "flower (NOT compiled)"
        row = [name, competitor.variant]
        if not result["rounds"]:
            why = "error" if "error" in result else f"missing: {result.get('missing', 'not measured')}"
            rows.append(row + [why] + [""] * (len(head) - 3))
            continue
        values = figures(result, clock)
        middle = statistics.median(values)
        row.append(number(statistics.median(figures(result, "wall")) * factor))
        if timed:
            row.append(number(statistics.median(figures(result, "cpu")) * factor))
        row.append(number(min(values) * factor))
        row.append(f"{(max(values) - min(values)) / middle:.0%}" if middle else "")
        base = results.get(base_of(subject, competitor.variant))
        cost = ratio(result, base, clock) if base and base["rounds"] else None
        row.append(f"{cost:.2f}" if cost is not None else "")
        rows.append(row)
    if not several:
        head.pop(1)
        for row in rows:
            row.pop(1)
    return head, rows


def base_of(subject: Subject, variant: str) -> tuple[str, str]:
    """What a row's ratio is to: Flower in the same spelling, or in its first one."""
    spellings = [c.variant for c in subject.competitors if c.library == "flower"]
    return ("flower", variant if variant in spellings else spellings[0])


def target_table(judged: Sequence[tuple[Subject, Verdict]]) -> Table:
    rows = []
    for subject, verdict in judged:
        target = verdict.target
        bound = f"{'at most' if target.kind == 'at most' else 'at least'} {target.limit:g}"
        reached = ["" if figure is None else f"{figure:.2f}" for figure in (verdict.figure, verdict.best)]
        word = verdict.word + (f" ({verdict.why})" if verdict.why else "")
        rows.append([subject.name, target.text, *reached, bound, word])
    return ["subject", "target", "reached", "best", "must be", "verdict"], rows


def plain(table: Table) -> Iterator[str]:
    head, rows = table
    wide = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    numeric = [
        all(row[c][:1].isdigit() or not row[c] or row[c].startswith("missing") for row in rows)
        for c in range(len(head))
    ]
    for row in [head, ["-" * width for width in wide], *rows]:
        cells = (
            word.rjust(width) if right else word.ljust(width)
            for word, width, right in zip(row, wide, numeric, strict=True)
        )
        yield "  " + "  ".join(cells).rstrip()


def markdown_table(table: Table) -> Iterator[str]:
    head, rows = table
    for row in [head, ["---"] * len(head), *rows]:
        yield "| " + " | ".join(row) + " |"


def about(record: dict[str, Any]) -> Iterator[str]:
    machine, versions = record["machine"], record["versions"]
    yield f"{record['date']}, commit {record['commit']}"
    yield f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"
    yield ", ".join(f"{name} {version}" for name, version in versions.items())
    scale = "" if record["scale"] == 1 else f", {record['scale']:g} of the full length"
    share = busy(record)
    state = f"busy: wall time is {share:.2f} times CPU time" if share > BUSY else "quiet"
    yield f"{record['rounds']} rounds{scale}, {record['seconds']:.0f} s in all; the machine was {state}"


def notes(subject: Subject, results: Results) -> Iterator[str]:
    for library, why in subject.absent.items():
        yield f"no {library}: {why}"
    for result in results.values():
        if "error" in result:
            who = f"{result['library']} {result['variant']}".strip()
            yield f"ERROR, {who}: {last_error(result['error'])}"


def text(record: dict[str, Any], clock: Clock) -> str:
    lines = ["", *about(record)]
    for entry in record["subjects"]:
        subject, results = load(entry["name"]), by_key(entry)
        lines += ["", f"{subject.title}  [{subject.name}]", *plain(subject_table(subject, results, clock))]
        lines += [f"  {note}" for note in notes(subject, results)]
    judged = verdicts(record, clock)
    if judged:
        lines += ["", f"Targets ({clock} time)", *plain(target_table(judged))]
    return "\n".join(lines)


def markdown(record: dict[str, Any], clock: Clock) -> str:
    """The recorded run as Markdown, without the markers around it."""
    lines = [f"- {line}" for line in about(record)]
    lines += ["", f"### Targets ({clock} time)", "", *markdown_table(target_table(verdicts(record, clock)))]
    for entry in record["subjects"]:
        subject, results = load(entry["name"]), by_key(entry)
        lines += ["", f"### {subject.title}", ""]
        lines += markdown_table(subject_table(subject, results, clock))
        remarks = list(notes(subject, results))
        lines += ["", *(f"{remark}." for remark in remarks)] if remarks else []
    return "\n".join(lines)


def rewrite(path: Path, record: dict[str, Any], clock: Clock) -> None:
    """Replace what stands between the markers of a Markdown file.

    Raises ValueError where they are missing.
    """
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: the markers {BEGIN} and {END} are missing")
    page = f"{before}{BEGIN}\n\n{markdown(record, clock)}\n\n{END}{after}"
    path.write_text(page, encoding="utf-8")
