"""flower.io: the bytes of a descriptor as a channel."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
from pathlib import Path
from typing import Any

import pytest

import flower
import flower.io
from flower.io import READABLE, WRITABLE, IOChannel
from flower.net import Lines, framed
from tests.net.support import HOME, NEVER, pipe, rounds, waiting

pytestmark = pytest.mark.usefixtures("loop")


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="only epoll watches a descriptor without a touch of its flags")
def test_a_descriptor_is_not_made_non_blocking_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write of another process in that moment would fail."""
    monkeypatch.setattr(os, "set_blocking", lambda *_: None)  # nothing puts it back
    with socket.socket() as near, socket.create_server((HOME, 0)) as server:
        near.connect(server.getsockname())
        with IOChannel(near) as ready, IOChannel(near, READABLE) as readable, flower.io.reader(near) as conn:
            assert ready.receive() == WRITABLE
            t = waiting(flower.select, readable, conn)
            assert os.get_blocking(near.fileno())
            t.kill()
        assert os.get_blocking(near.fileno())


def test_a_reader() -> None:
    with pipe() as ends:
        with flower.io.reader(ends[0]) as conn:
            t = waiting(conn.receive)
            os.write(ends[1], b"hello")
            assert t.join(NEVER) == b"hello"
            os.write(ends[1], b"one\ntwo\n")
            lines = framed(conn, Lines())
            assert flower.select(lines, flower.after(NEVER))[1] == "one"
            os.close(ends[1])
            ends[1] = -1
            assert list(lines) == ["two"]
        os.read(ends[0], 1)  # the descriptor itself is still open


def test_two_readers_of_a_pipe_stall_nobody() -> None:
    with pipe() as ends, flower.io.reader(ends[0]) as one, flower.io.reader(ends[0]) as other:
        for data in (b"1", b"2", b"3"):
            t = flower.go(flower.select, one, other)
            os.write(ends[1], data)  # both are told, and one finds nothing any more
            assert t.join(NEVER)[1] == data
            rounds(2)


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux reads without waiting")
def test_a_reader_gives_another_process_no_time_between_a_look_and_the_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(fd: int, events: int) -> int:
        os.read(fd, 100)
        os.write(ends[1], b"late")  # or the read would block for good
        return READABLE

    monkeypatch.setattr("flower.net._descriptor.look", look)
    with pipe() as ends, flower.io.reader(ends[0]) as conn:
        os.write(ends[1], b"in time")
        assert conn.read(timeout=NEVER) == b"in time"


def test_a_reader_of_a_terminal() -> None:
    near, far = os.openpty()
    try:
        with flower.io.reader(far) as conn, flower.io.reader(far) as other:
            os.write(near, b"hello\n")
            assert flower.select(conn, other)[1] == b"hello\n"
            rounds(2)
            assert os.get_blocking(far)
    finally:
        os.close(near)
        os.close(far)


def test_a_terminal_whose_program_is_gone_has_ended() -> None:
    near, far = os.openpty()
    try:
        os.write(far, b"goodbye")
        os.close(far)
        with flower.io.reader(near) as conn:
            assert b"".join(conn) == b"goodbye"  # the system says EIO then
            assert conn.read() == b""
    finally:
        os.close(near)


def test_a_reader_sends_nothing() -> None:
    with pipe() as ends, flower.io.reader(ends[0]) as conn:
        conn.keep_alive()  # there is nobody to ask
        with pytest.raises(flower.ChannelClosed):
            conn.send(b"x")
        assert conn.status == "readonly"


def test_a_reader_holds_a_flood_back() -> None:
    with pipe() as ends, flower.io.reader(ends[0]) as conn:
        os.set_blocking(ends[1], False)
        sent = idle = 0
        while idle < 10:
            try:
                sent += os.write(ends[1], b"x" * 4096)
                idle = 0
            except BlockingIOError:
                idle += 1
                rounds(1)
        assert sent < 2 * 1024 * 1024
        got = 0
        while got < sent:
            got += len(conn.receive(NEVER))
        assert got == sent


def test_a_reader_that_held_a_flood_back_goes_on_though_no_descriptor_is_left() -> None:
    with pipe() as ends, flower.io.reader(ends[0]) as conn:
        sent = 0
        while not conn._stream._paused:
            sent += os.write(ends[1], b"x" * 4096)
            rounds(1)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            while sent:
                sent -= len(conn.receive(NEVER))
            os.write(ends[1], b"more")
            assert conn.receive(NEVER) == b"more"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_no_reader_can_read(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with flower.io.reader(folder) as conn, pytest.raises(IsADirectoryError):
            conn.read(timeout=NEVER)
    finally:
        os.close(folder)
    with pytest.raises(OSError, match="Bad file descriptor"):
        flower.io.reader(folder)
    with pipe() as ends, pytest.raises(OSError, match=f"descriptor {ends[1]} is open for writing alone"):
        flower.io.reader(ends[1])


def test_a_reader_that_the_loop_can_not_watch_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pipe() as ends:
        before = os.listdir("/dev/fd")
        with monkeypatch.context() as patch:
            patch.setattr("flower.net._descriptor.Watched", fail)
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                flower.io.reader(ends[0])
        assert os.listdir("/dev/fd") == before


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_a_reader_of_a_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    with open(path) as file, flower.io.reader(file) as conn:
        assert sum(map(len, conn)) == size


def test_a_reader_of_dev_null() -> None:
    with open(os.devnull) as file, flower.io.reader(file) as conn:
        assert conn.read() == b""
