"""flower.io: readiness of real descriptors, their bytes, and files."""

from __future__ import annotations

import builtins
import errno
import os
import resource
import select
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import flower
import flower.io
from flower import channel
from flower.channels._scheduler import current_scheduler
from flower.io import READABLE, WRITABLE, IOChannel, wait_read, wait_write
from flower.net import Lines, Listen, framed
from flower.net._loop import io_poller
from tests.net.support import HOME, NEVER, in_thread, output, rounds, until

pytestmark = pytest.mark.usefixtures("loop")


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        yield near, far


@contextmanager
def pipe() -> Iterator[list[int]]:
    ends = list(os.pipe())
    try:
        yield ends
    finally:
        for fd in ends:
            if fd >= 0:
                os.close(fd)


def waiting(function: Any, *args: Any) -> flower.tasklet:
    t = flower.go(function, *args)
    rounds(2)
    assert t.blocked
    return t


def fill(sock: socket.socket) -> None:
    while True:
        try:
            sock.send(b"x" * 65_536)
        except BlockingIOError:
            return


# -- Readiness


def test_wait_read() -> None:
    with pair() as (near, far):
        t = waiting(wait_read, near)
        far.send(b"x")
        t.join(NEVER)
        wait_read(near.fileno())  # still ready
        assert near.recv(1) == b"x"
        t = waiting(wait_read, near)
        far.close()
        t.join(NEVER)  # the end of file is something to read, too


def test_wait_write() -> None:
    with pair() as (near, far):
        wait_write(near)
        fill(near)
        t = waiting(wait_write, near)
        finish = in_thread(lambda: far.recv(1 << 20))
        t.join(NEVER)
        finish()


def test_timeouts_and_cancellation_change_nothing() -> None:
    with pair() as (near, far):
        with pytest.raises(flower.Timeout, match=r"descriptor \d+ was not ready within 0\.002 s"):
            wait_read(near, timeout=0.002)
        with flower.move_on(0.002) as scope:
            wait_read(near)
        assert scope.expired
        t = waiting(wait_read, near)
        t.kill()
        with pytest.raises(flower.TaskletKilled):
            t.join()
        far.send(b"x")
        wait_read(near, timeout=NEVER)


def test_several_wait_for_one_descriptor() -> None:
    with pair() as (near, far):
        tasklets = [waiting(wait_read, near) for _ in range(5)]
        tasklets.pop(0).kill()
        far.send(b"x")
        for t in tasklets:
            t.join(NEVER)


def test_reading_and_writing_are_waited_for_at_a_time() -> None:
    with pair() as (near, far):
        fill(near)
        reading = waiting(wait_read, near)
        writing = waiting(wait_write, near)
        both = waiting(IOChannel(near).receive)
        far.send(b"x")
        reading.join(NEVER)
        assert both.join(NEVER) == READABLE
        assert writing.blocked
        finish = in_thread(lambda: far.recv(1 << 20))
        writing.join(NEVER)
        finish()
        assert IOChannel(near).receive() == READABLE | WRITABLE


def test_select() -> None:
    with pair() as (near, far), IOChannel(near, READABLE) as readable:
        quit = flower.channel()
        assert flower.select(readable, default="nothing") == (None, "nothing")
        t = waiting(flower.select, quit, readable)
        far.send(b"x")
        assert t.join(NEVER) == (readable, READABLE)
        assert flower.select(quit, readable) == (readable, READABLE)
        near.recv(1)
        t = waiting(flower.select, readable, quit)
        quit.send("quit")
        assert t.join(NEVER) == (quit, "quit")
        far.send(b"x")  # nobody waits: nothing is kept
        rounds(3)
        near.recv(1)
        assert flower.select(readable, default=None).index == -1


def test_iteration_and_close() -> None:
    with pair() as (near, far):
        readable = IOChannel(near, READABLE)
        got = []

        def read() -> None:
            for _ in readable:
                got.append(near.recv(100))

        t = waiting(read)
        for data in b"one", b"two":
            far.send(data)
            rounds(3)
        readable.close()
        readable.stop()  # the seed's word for it
        t.join(NEVER)
        assert got == [b"one", b"two"]
        with pytest.raises(flower.ChannelClosed):
            readable.receive()
        assert "closed" in repr(readable)
        far.send(b"three")
        with pytest.raises(flower.ChannelClosed):
            flower.select(readable)


def test_a_descriptor_whose_other_end_is_gone_is_ready() -> None:
    with pipe() as ends:
        os.set_blocking(ends[1], False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(ends[1], b"x" * 65_536)
        t = waiting(wait_write, ends[1])
        os.close(ends[0])
        ends[0] = -1
        t.join(NEVER)
        with pytest.raises(BrokenPipeError):
            os.write(ends[1], b"x")


def test_a_file_is_always_ready(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w+") as file:
        wait_read(file)
        wait_write(file)


@pytest.mark.parametrize("thing", [None, "3", 1.5, True, object()])
def test_what_is_no_descriptor(thing: Any) -> None:
    with pytest.raises(TypeError, match="a descriptor's number is needed"):
        wait_read(thing)


@pytest.mark.parametrize("number", [-1, 2**31, 2**70])
def test_what_can_be_no_descriptor_s_number(number: int) -> None:
    for function in wait_read, flower.io.reader:
        with pytest.raises(ValueError, match=f"{number} is no open descriptor"):
            function(number)


def test_a_descriptor_that_is_closed() -> None:
    with pair() as (near, _far):
        fd = near.fileno()
        readable = IOChannel(near, READABLE)
    for attempt in (lambda: wait_read(fd)), readable.receive, (lambda: flower.select(readable)):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EBADF
    with pytest.raises(ValueError, match="no open descriptor"):
        wait_read(near)


@pytest.mark.parametrize("events", [0, 4, True, None])
def test_bad_events(events: Any) -> None:
    with pair() as (near, _far), pytest.raises(ValueError, match="the events are"):
        IOChannel(near, events)


def test_nothing_is_watched_when_nobody_waits() -> None:
    with pair() as (near, far):
        poller = current_scheduler().poller
        before = len(poller.resources)
        with IOChannel(near, READABLE) as readable:
            for leave in (flower.after(0), None):
                with suppress(flower.Timeout):
                    flower.select(readable, leave, timeout=0.001)
                assert len(poller.resources) == before
            waiters = [waiting(flower.select, readable), waiting(readable.receive)]
            assert len(poller.resources) == before + 1
            waiters[0].kill()
            assert len(poller.resources) == before + 1
            readable._watch.ready()  # as where another has read what was there
            assert waiters[1].blocked
            far.send(b"x")
            assert waiters[1].join(NEVER) == READABLE
            assert len(poller.resources) == before
            near.recv(1)
            waiters = [waiting(readable.receive)]
            near.close()  # while somebody waits the file is open
            waiters[0].kill()
            assert far.recv(1) == b""


def test_from_another_thread() -> None:
    with pair() as (near, far), IOChannel(near, READABLE) as readable:
        finish = in_thread(readable.receive, NEVER)
        rounds(3)
        far.send(b"x")
        assert finish() == READABLE
        near.recv(1)
        finish = in_thread(wait_read, near, NEVER)  # a loop of its own
        far.send(b"x")
        finish()


def test_what_comes_between_the_look_and_the_wait_of_another_thread() -> None:
    with pair() as (near, far), IOChannel(near, READABLE) as readable:
        assert readable._receive_channel is readable._ready  # it has looked ...
        readable._watch.begin()
        readable._ready._on_wait = None
        far.send(b"x")
        rounds(3)
        assert readable._ready.receive(0.1) == READABLE  # ... and waits
        near.recv(1)
        readable._watch.begin()
        far.send(b"x")
        rounds(3)
        near.recv(1)  # but what nobody waited for is forgotten at the next look
        assert flower.select(readable, default=None).index == -1


def test_all_who_are_between_the_look_and_the_wait_are_woken() -> None:
    with pair() as (near, far), IOChannel(near, READABLE) as readable:
        for _ in range(3):
            readable._watch.begin()
        readable._ready._on_wait = None
        far.send(b"x")
        rounds(3)
        assert [readable._ready.receive(0.1) for _ in range(3)] == [READABLE] * 3
        near.recv(1)
        far.send(b"x")
        rounds(3)
        near.recv(1)  # by one who was quicker
        assert flower.select(readable, default=None).index == -1
        far.send(b"x")
        assert readable._ready.receive(0.1) == READABLE


def test_who_is_refused_as_it_begins_to_wait_takes_no_other_s_watch() -> None:
    with pair() as (near, far), IOChannel(near, READABLE) as readable, IOChannel(near, READABLE) as refusing:

        def refuse() -> None:
            raise OSError(errno.EMFILE, "no descriptor is left")

        refusing._ready._on_wait = refuse
        t = waiting(readable.receive, NEVER)
        with pytest.raises(OSError, match="no descriptor is left"):
            flower.select(refusing, readable)
        with pytest.raises(OSError, match="no descriptor is left"):
            flower.select(readable, refusing)
        far.send(b"x")
        assert t.join(NEVER) == READABLE
        near.recv(1)
        waiting(readable.receive).kill()
        assert readable._watch.own == -1


@pytest.mark.slow
def test_a_fork_leaves_the_parent_s_watches_alone() -> None:
    code = """
        import os, socket, flower
        from flower.io import IOChannel, READABLE, wait_read
        near, far = socket.socketpair()
        readable = IOChannel(near, READABLE)
        idle = IOChannel(near, READABLE)  # nobody waits for it
        t = flower.go(readable.receive)
        flower.time.sleep(0.01)
        if os.fork() == 0:
            try:
                readable.receive()
            except flower.ChannelClosed:
                wait_read(near)
                idle.receive()
                print("child", flush=True)
            os._exit(0)
        far.send(b"x")
        t.join()
        os.wait()
        near.close()
        far.close()
        print("parent")
        """
    assert sorted(output(code).split()) == ["child", "parent"]


@pytest.mark.parametrize("old", [READABLE, WRITABLE, READABLE | WRITABLE])
@pytest.mark.parametrize("new", [READABLE, WRITABLE, READABLE | WRITABLE])
def test_a_descriptor_that_was_closed_does_not_hide_the_next_of_its_number(old: int, new: int) -> None:
    with pair() as (near, _), pair() as (other, peer):
        fill(near)
        fill(other)
        peer.setblocking(False)
        first = IOChannel(near, old)
        t = waiting(first.receive)
        os.dup2(other.fileno(), near.fileno())
        with IOChannel(near, new) as second:
            found = waiting(second.receive)
            peer.send(b"x")
            with suppress(BlockingIOError):
                while peer.recv(1 << 20):
                    pass
            found.join(NEVER)
        first.close()
        with pytest.raises(flower.ChannelClosed):
            t.join(NEVER)


@pytest.mark.parametrize("given", [False, True])
def test_a_wait_for_a_descriptor_hides_no_listener_of_its_number(given: bool) -> None:
    """``given``: it is the listener's own from the start, and is given to Flower while somebody waits."""
    with socket.create_server((HOME, 0)) as server, pair() as (near, _):
        number = os.dup(server.fileno() if given else near.fileno())
        t = waiting(wait_read, number)
        os.dup2(server.fileno(), number)
        with Listen(socket.socket(fileno=number), "socktcp") as listener:
            for _ in range(2):
                with socket.create_connection(listener.addr()):
                    listener.receive(NEVER).close()
                t.kill()


def test_who_waits_in_another_thread_learns_that_the_descriptor_is_watched_no_more() -> None:
    with pair() as (near, far):
        made: channel[IOChannel] = channel(1)
        gone: channel[None] = channel()

        def own() -> None:
            made.send(IOChannel(near, READABLE))
            with pytest.raises(flower.ChannelClosed):
                gone.receive(NEVER)

        thread = threading.Thread(target=flower.run, args=(own,))
        thread.start()
        readable = made.receive(NEVER)
        t = waiting(readable.receive)
        until(lambda: readable._watch.own >= 0)
        gone.close()
        with pytest.raises(flower.ChannelClosed, match="thread that watches the descriptor has ended"):
            t.join(NEVER)
        thread.join(NEVER)
        with IOChannel(near, READABLE) as other:
            far.send(b"x")
            assert other.receive(NEVER) == READABLE


def test_a_channel_of_a_thread_that_has_ended_is_watched_by_the_one_that_waits() -> None:
    with pair() as (near, far):
        made: list[IOChannel] = []
        thread = threading.Thread(target=lambda: made.append(IOChannel(near, READABLE)))
        thread.start()
        thread.join(NEVER)
        with made.pop() as readable:
            t = waiting(readable.receive)
            far.send(b"x")
            assert t.join(NEVER) == READABLE


def test_a_channel_that_another_thread_has_dropped_is_watched_no_more() -> None:
    with pair() as (near, _):
        poller = io_poller()
        before = len(poller.resources)
        box = [IOChannel(near, READABLE)]

        def wait_and_drop() -> None:
            with pytest.raises(flower.Timeout):
                box.pop().receive(0.001)

        thread = threading.Thread(target=flower.run, args=(wait_and_drop,))
        thread.start()
        thread.join(NEVER)  # this thread's loop has not had a turn meanwhile
        rounds(3)
        assert len(poller.resources) == before


def test_a_channel_of_a_descriptor_that_was_closed_can_be_closed() -> None:
    near, far = socket.socketpair()
    with far, IOChannel(near) as both:
        near.setblocking(False)
        fill(near)
        t = waiting(both.receive)
        near.close()
        both.close()
        with pytest.raises(flower.ChannelClosed):
            t.join(NEVER)


def test_a_blocking_descriptor_stays_so() -> None:
    with pipe() as ends:
        t = waiting(wait_read, ends[0])
        assert os.get_blocking(ends[0])
        t.kill()
        assert os.get_blocking(ends[0])
        with flower.io.reader(ends[0]) as conn:
            assert os.get_blocking(ends[0])
            os.write(ends[1], b"x")
            assert conn.read(timeout=NEVER) == b"x"
        assert os.get_blocking(ends[0])
        os.set_blocking(ends[0], False)
        with flower.io.reader(ends[0]):
            assert not os.get_blocking(ends[0])


# -- Bytes


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


# -- Files


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
