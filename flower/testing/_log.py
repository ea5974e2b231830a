"""The log of one example: who ran, what it did on which channel, and where it was pre-empted."""

from __future__ import annotations

import re
from typing import Any

LONGEST_LOG = 120  # lines of a report; of a longer log, the first and the last are shown
LONGEST_TEXT = 40  # characters of a value
_TIME = re.compile(r"\d+\.\d+")
_PLAIN = (int, float, complex, bool, str, bytes, type(None))


class Log:
    """Lines ``(time, tasklet, text, out of order)``, in the order in which things happened."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str, str, bool]] = []

    def add(self, now: float, who: str, text: str, mark: bool = False) -> None:
        self.lines.append((now, who, text, mark))

    def text(self) -> str:
        """The log as people read it."""
        lines = self.lines
        left_out = len(lines) - LONGEST_LOG
        width = min(max((len(who) for _, who, _, _ in lines), default=0), 24)
        timed = any(now for now, _, _, _ in lines)
        shown = []
        for number, (now, who, text, mark) in enumerate(lines, 1):
            if left_out > 0 and number == LONGEST_LOG // 2:
                shown.append(f"      ... {left_out} lines left out")
            if left_out > 0 and LONGEST_LOG // 2 <= number < LONGEST_LOG // 2 + left_out:
                continue
            clock = f"{now:9.3f} s  " if timed else ""
            shown.append(f"{'>' if mark else ' '}{number:5} {clock}{who:{width}}  {text}")
        return "\n".join(shown)

    def cycle(self) -> tuple[str, ...]:
        """What the log's end repeats, three times or more, as lines; empty if it repeats nothing.

        As it is, or else but for the times in it, as a ticker sends them.
        """
        recent = [f"{who}: {text}" for _, who, text, _ in self.lines[-600:]]
        for lines in (recent, [_TIME.sub("", line) for line in recent]):
            for length in range(1, len(recent) // 3 + 1):
                last = lines[-length:]
                if lines[-2 * length : -length] == last and lines[-3 * length : -2 * length] == last:
                    return tuple(recent[-length:])
        return ()


def show(value: Any) -> str:
    """A value in a log: alike in each run, so without addresses."""
    if type(value) in _PLAIN:
        text = repr(value)
    elif type(value) in (tuple, list) and len(value) <= 8:
        inner = ", ".join(show(item) for item in value)
        text = f"({inner}{',' * (len(value) == 1)})" if type(value) is tuple else f"[{inner}]"
    elif isinstance(value, BaseException):
        text = type(value).__name__
    else:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 3] + "..."
