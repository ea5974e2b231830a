"""What an example ends with: whose error it is, where a tasklet waits, and what can't be ended."""

from __future__ import annotations

import os
from typing import Any

from flower.errors import Cancelled, TaskletExit
from flower.testing._findings import BlockedOutside, Finding

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # Flower's own files


def is_control(error: BaseException) -> bool:
    """Whether it belongs to the test's machinery (Hypothesis's, pytest's, Ctrl-C), and is no error of the program."""
    module = type(error).__module__
    if module.partition(".")[0] in ("hypothesis", "_pytest"):
        return True
    return not isinstance(error, (Exception, Cancelled, TaskletExit, BlockedOutside, BaseExceptionGroup))


def plain(error: Finding) -> Finding:
    """Without the place where it happened to be raised: to Hypothesis, that would make it another finding."""
    error.__traceback__ = None
    error.__context__ = error.__cause__
    return error


def show_error(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def site_of(t: Any) -> tuple[str, int, str] | None:
    """The line of the program where a tasklet waits: file, line, function."""
    frame = t.frame
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    if frame is None:
        return None
    file = frame.f_code.co_filename
    try:
        file = os.path.relpath(file)
    except (OSError, ValueError):  # on another drive, or there is no working directory any more
        pass
    return file, frame.f_lineno, frame.f_code.co_name


def keep_for_good(what: Any) -> None:
    """A tasklet that goes on after every kill would go round for good in its greenlet's finalizer, too."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(what))
