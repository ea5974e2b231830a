"""flower.io: files, read and written in worker threads."""

from __future__ import annotations

import builtins
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import flower
import flower.io
from flower import channel
from tests.net.support import NEVER, output, rounds, waiting

pytestmark = pytest.mark.usefixtures("loop")


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with flower.io.open(path, "w+", encoding="utf-8") as file:
        assert file.write("grün\n") == 5
        file.writelines(f"{n}\n" for n in range(3))
        file.flush()
        assert path.read_text("utf-8") == "grün\n0\n1\n2\n"
        assert file.seek(0) == 0
        assert file.read(4) == "grün"
        assert file.readline() == "\n"
        assert file.read() == "0\n1\n2\n"
        assert file.read() == file.readline() == ""
        assert file.tell() == 12
        assert file.truncate(6) == 6
        assert not file.closed
        assert file.fileno() > 2
        assert str(path) in repr(file)
    assert file.closed
    file.close()
    assert path.read_text("utf-8") == "grün\n"
    with pytest.raises(ValueError, match="closed file"):
        file.read()


def test_a_file_that_is_closed_gives_no_line_that_was_read_ahead(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one\ntwo\nthree\n")
    with flower.io.open(path) as file:
        assert next(file) == "one\n"
    with pytest.raises(ValueError, match="closed file"):
        next(file)


def test_errors_are_the_built_in_s(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        flower.io.open(tmp_path / "missing")
    with pytest.raises(ValueError, match="invalid mode"):
        flower.io.open(tmp_path / "file", "nonsense")
    with flower.io.open(tmp_path / "file", "w") as file, pytest.raises(OSError, match="not readable"):
        file.read()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["r", "rb"])
def test_iteration(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "file"
    path.write_text("".join(f"{n:06} grün\n" for n in range(20_000)), "utf-8")
    with open(path, mode, encoding=None if "b" in mode else "utf-8") as plain:
        expected = plain.readlines()
    with flower.io.open(path, mode, encoding=None if "b" in mode else "utf-8") as file:
        assert list(file) == expected
        assert list(file) == []


@pytest.mark.parametrize("mode", ["r+", "rb+"])
def test_what_iteration_read_ahead_does_not_show(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "file"
    path.write_text("".join(f"{n} grün\n" for n in range(10)), "utf-8")
    options = {} if "b" in mode else {"encoding": "utf-8"}
    with open(path, mode, **options) as plain, flower.io.open(path, mode, **options) as file:  # type: ignore[call-overload]
        for n, line in enumerate(file):
            assert line == plain.readline()
            if n == 4:
                break
        assert file.readline() == plain.readline()
        assert file.tell() == plain.tell()
        assert next(file) == plain.readline()
        assert file.read(3) == plain.read(3)
        assert list(file) == plain.readlines()
        file.seek(0)
        next(file)
        file.seek(file.tell())  # as Python's own text files need between reading and writing
        file.write("X" if mode == "r+" else b"X")
    assert path.read_text("utf-8").splitlines()[1] == "X grün"


def test_an_error_comes_behind_the_lines_before_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a line\n" * 3_000 + b"\xff\n")

    def lines(file: Any) -> int:
        count = 0
        with pytest.raises(UnicodeDecodeError):
            for _ in file:
                count += 1
        return count

    with open(path, encoding="utf-8") as plain, flower.io.open(path, encoding="utf-8") as file:
        good = lines(plain)
        assert lines(file) == good > 0
        file.seek(0)
        for _ in range(good):
            next(file)
        assert file.tell() == 7 * good  # the error is still to come
        with pytest.raises(UnicodeDecodeError):
            file.read()


def test_only_the_caller_waits(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    t = waiting(flower.io.open, fifo)  # opens when somebody writes
    with flower.io.open(fifo, "w") as out:
        file = t.join(NEVER)
        t = waiting(file.readline)
        out.write("hello\n")
        out.flush()
        assert t.join(NEVER) == "hello\n"
    assert file.readline() == ""
    file.close()


def test_operations_go_in_turn(tmp_path: Path) -> None:
    with flower.io.open(tmp_path / "file", "w+") as file:
        tasklets = [flower.go(file.write, f"{n}\n") for n in range(50)]
        assert [t.join(NEVER) for t in tasklets] == [2] * 10 + [3] * 40
        file.seek(0)
        readers = [flower.go(next, file) for _ in range(50)]
        assert [t.join(NEVER) for t in readers] == [f"{n}\n" for n in range(50)]


def test_a_block_that_is_cancelled_while_another_reads_closes_the_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with builtins.open(fifo, "r+b", buffering=0) as other:  # so that to open it waits for nobody
        with flower.move_on() as scope, flower.io.open(fifo, "rb", buffering=0) as file:
            t = waiting(file.read, 1)
            flower.time.after_func(0.02, other.write, b"x")
            scope.cancel()
            channel().receive()
        assert scope.cancelled
        assert file.closed
        assert t.join(NEVER) == b"x"


def test_a_cancelled_read_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("0123456789")
    got = []

    def read() -> None:
        with flower.move_on() as scope:
            scopes.append(scope)
            got.append(file.read(1))
            flower.channel().receive()

    with flower.io.open(path) as file:
        for _ in range(10):
            scopes: list[Any] = []
            t = flower.go(read)
            flower.schedule()
            scopes[0].cancel()
            t.join(NEVER)
        assert "".join(got) == "0123456789"


def test_a_kill_does_not_wait_and_leaves_the_file_in_order(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    t = waiting(flower.io.open, fifo)
    with open(fifo, "w") as out:
        file = t.join(NEVER)
        t = waiting(file.readline)
        second = waiting(file.readline)
        t.kill()
        with pytest.raises(flower.TaskletKilled):
            t.join(NEVER)
        out.write("one\ntwo\n")
        out.flush()
        assert second.join(NEVER) == "two\n"  # what the killed one had asked for is gone
        file.close()


def test_what_is_refused_leaves_the_file_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("one\ntwo\n")
    refused: list[BaseException] = []

    def in_callback(*_: Any) -> None:
        flower.set_schedule_callback(None)
        try:
            file.read()
        except RuntimeError as error:
            refused.append(error)

    def submit(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with flower.io.open(path) as file:
        flower.set_schedule_callback(in_callback)
        flower.go(int)
        rounds(1)
        (error,) = refused
        assert "callback" in str(error)
        with monkeypatch.context() as without:
            without.setattr("flower.channels._blocking._Workers.submit", submit)
            with pytest.raises(RuntimeError, match="new thread"):
                file.read()
        with flower.timeout(NEVER):
            assert file.readline() == "one\n"


@pytest.mark.slow
def test_a_forked_child_is_told_that_a_file_is_in_use_in_the_parent() -> None:
    code = """
        import os, tempfile, threading, flower
        from flower.io import File
        class Slow:
            def read(self, size):
                begun.set()
                ended.wait(30)
                return "data"
        begun, ended = threading.Event(), threading.Event()
        file, idle = File(Slow()), File(tempfile.TemporaryFile())
        t = flower.go(file.read)
        flower.blocking(begun.wait, 30)
        if os.fork() == 0:
            try:
                with flower.timeout(10):
                    file.read()
            except RuntimeError as error:
                idle.write(b"x")
                print("child:", error, flush=True)
            os._exit(0)
        os.wait()
        ended.set()
        print("parent:", t.join())
        idle.close()
        """
    child, parent = output(code).splitlines()
    assert child.startswith("child: <File <") and "was in use as the process forked" in child
    assert parent == "parent: data"


def test_an_open_that_is_given_up_closes_the_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    t = waiting(flower.io.open, fifo)
    t.kill()
    with pytest.raises(flower.TaskletKilled):
        t.join(NEVER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open(fifo, "w"):
            pass
        while any(thread.name.startswith("flower-worker") and _busy() for thread in threading.enumerate()):
            rounds(1)


def test_an_open_that_is_given_up_as_the_file_is_there_closes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[Any] = []

    def open_and_note(*args: Any) -> Any:
        files.append(open(*args))
        return files[-1]

    def too_late(job: Callable[[], object]) -> None:
        job()
        raise flower.Cancelled

    monkeypatch.setattr("flower.io.builtins", SimpleNamespace(open=open_and_note))
    monkeypatch.setattr("flower.io.blocking", too_late)
    with pytest.raises(flower.Cancelled):
        flower.io.open(tmp_path / "file", "w")
    assert files[0].closed


def _busy() -> int:
    from flower.channels import _deadlock

    return _deadlock.jobs_given


def test_run_waits_for_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def work() -> None:
        with flower.io.open(path, "w") as file:
            file.write("done")

    flower.go(work)
    flower.run()
    assert path.read_text() == "done"
