"""flower.io: readiness of real descriptors."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import flower
import flower.io
from flower import channel
from flower.channels._scheduler import current_scheduler
from flower.io import READABLE, WRITABLE, IOChannel, wait_read, wait_write
from flower.net import Listen
from flower.net._loop import io_poller
from tests.net.support import HOME, NEVER, in_thread, output, pipe, rounds, until, waiting

pytestmark = pytest.mark.usefixtures("loop")


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        yield near, far


def fill(sock: socket.socket) -> None:
    while True:
        try:
            sock.send(b"x" * 65_536)
        except BlockingIOError:
            return


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
