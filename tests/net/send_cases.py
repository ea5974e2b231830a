"""The part of the conformance suite about a connection as a case to send to in a select."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest

import flower
from flower.errors import ChannelClosed, Timeout
from flower.net import Conn
from tests.net.support import NEVER, failing, fill, in_thread, read_all, rounds


class SendCases:
    """Each test gets both ends of a connection, as Conns of this thread."""

    def connected(self, **options: Any) -> AbstractContextManager[tuple[Conn, Conn]]:
        """Both ends, which are closed on leaving."""
        raise NotImplementedError

    def test_a_case_to_send_is_ready_while_there_is_room(self) -> None:
        with self.connected() as (near, far):
            for data in (b"one ", bytearray(b"two "), memoryview(b"three"), b""):
                result = flower.select(flower.never(), (near, data), timeout=NEVER)
                assert (tuple(result), result.index) == ((near, None), 1)
            assert far.read_exactly(13, timeout=NEVER) == b"one two three"
            assert flower.select((near, b"four"), default="no")[0] is near
            assert far.read_exactly(4, timeout=NEVER) == b"four"

    def test_a_select_that_lost_has_sent_nothing(self) -> None:
        with self.connected() as (near, far):
            total = fill(near)
            other, quit = flower.channel(1), flower.channel()
            with pytest.raises(Timeout):
                flower.select((near, b"no"), timeout=0.002)
            assert flower.select((near, b"no"), default="full") == (None, "full")
            other.send(1)
            assert flower.select((near, b"no"), other)[0] is other
            parked = flower.go(flower.select, (near, b"no"), quit)
            rounds(1)
            quit.send("lost")
            assert parked.join(NEVER) == (quit, "lost")
            with flower.move_on(0.002) as scope:
                flower.select((near, b"no"), (near, b"nor this"))
            assert scope.expired
            killed = flower.go(flower.select, (near, b"no"), quit)
            rounds(1)
            killed.kill()
            finish = flower.go(far.read_exactly, total + 3)
            assert flower.select((near, b"yes"), timeout=NEVER)[0] is near
            assert finish.join(NEVER) == b"x" * total + b"yes"
            near.close()
            assert far.read(timeout=NEVER) == b""

    def test_selects_and_plain_senders_wait_in_one_line(self) -> None:
        with self.connected() as (near, far):
            total = fill(near)
            pieces = [bytes([48 + i]) * 40_000 for i in range(6)]
            waiting = [
                flower.go(near.send, data) if i % 2 else flower.go(flower.select, (near, data), (None, b"never"))
                for i, data in enumerate(pieces)
            ]
            rounds(1)
            assert all(t.blocked for t in waiting)
            assert far.read_exactly(total + 240_000, timeout=NEVER)[total:] == b"".join(pieces)
            for t in waiting:
                t.join(NEVER)

    @pytest.mark.parametrize("end", ["close", "close_write", "abort", "peer"])
    @pytest.mark.parametrize("parked", [True, False])
    def test_a_case_to_send_learns_of_the_end(self, end: str, parked: bool) -> None:
        with self.connected() as (near, far):
            fill(near)
            kinds = {"abort": ConnectionAbortedError, "peer": ConnectionError}
            kind: Any = kinds.get(end, ChannelClosed)
            t = failing(flower.select, flower.never(), (near, b"x"))
            rounds(1)
            far.abort() if end == "peer" else getattr(near, end)()
            error = t.join(NEVER)
            if not parked:
                error = failing(flower.select, flower.never(), (near, b"x")).join(NEVER)
            assert isinstance(error, kind), error
            assert near._stream.describe() in str(error)
            if kind is ChannelClosed:
                assert error.channel is near
            elif not parked:
                again = failing(flower.select, (near, b"x")).join(NEVER)
                assert again is not error  # each has its own traceback
            near.abort()

    @pytest.mark.parametrize("data", ["text", None, 3, ["x"]])
    def test_a_case_to_send_takes_bytes_alone(self, data: Any) -> None:
        with self.connected() as (near, far):
            with pytest.raises(TypeError, match="takes bytes"):
                flower.select((near, data))
            total = fill(near)
            t = failing(flower.select, (near, data))
            rounds(1)
            assert len(far.read_exactly(total, timeout=NEVER)) == total
            assert isinstance(t.join(NEVER), TypeError)
            near.send(b"y")
            assert far.read_exactly(1, timeout=NEVER) == b"y"

    def test_a_case_to_send_belongs_to_the_connections_thread(self) -> None:
        with self.connected() as (near, _far):
            with pytest.raises(RuntimeError, match="belongs to another thread: only that one may send"):
                in_thread(flower.select, (near, b"x"))()

    def test_one_select_sends_and_receives(self) -> None:
        """A tasklet that holds one chunk, and reads ahead of nobody: what proxies are made of."""
        data = bytes(range(256)) * 4000
        with self.connected(write_buffer=10_000) as (a, b), self.connected(read_buffer=10_000) as (c, d):

            def relay() -> None:
                held: list[bytes] = []
                at_end = False
                while held or not at_end:
                    out = (c, held[0]) if held else None
                    source = b if len(held) < 3 and not at_end else None
                    try:
                        which, value = flower.select(source, out)
                    except ChannelClosed as error:
                        assert error.channel is b
                        at_end = True
                    else:
                        if which is c:
                            held.pop(0)
                        else:
                            held.append(value)
                c.close_write()

            def write() -> None:
                for at in range(0, len(data), 30_000):
                    a.send(data[at : at + 30_000])
                a.close_write()

            with flower.group() as g:
                g.go(relay)
                g.go(write)
                assert read_all(d) == data
