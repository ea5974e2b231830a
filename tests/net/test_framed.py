"""framed: messages over real connections, and who waits for them."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

import flower
from flower.errors import ProtocolError
from flower.net import Conn, LengthPrefixed, Lines, MessagePack, framed
from tests.net.support import (
    NEVER,
    Frozen,
    connected,
    fill,
    framed_plain,
    in_thread,
    receive_all,
    receive_exactly,
    reset,
    rounds,
    waiting,
)

pytestmark = pytest.mark.usefixtures("loop")

CODECS: dict[str, tuple[Any, list[Any]]] = {
    "lines": (Lines(), ["", "one", "x" * 60_000, "grün", ""]),
    "length-prefixed": (LengthPrefixed(), [b"", b"\0\n", b"x" * 500_000, b""]),
    "msgpack": (MessagePack(), [None, 1, {"a": [True, b"b", "c"]}, "x" * 500_000, []]),
}


# -- Messages


@pytest.mark.parametrize("kind", CODECS)
def test_messages_both_ways(kind: str) -> None:
    codec, messages = CODECS[kind]

    def echo(conn: Conn) -> None:
        with framed(conn, codec) as peer:
            for message in peer:
                peer.send(message)

    with connected() as (near, far), framed(near, codec) as client:
        t = flower.go(echo, far)
        for message in messages:
            client.send(message)
            assert client.receive(NEVER) == message
        sender = flower.go(lambda: [client.send(message) for message in messages])  # and all at once
        assert [client.receive(NEVER) for _ in messages] == messages
        sender.join(NEVER)
        client.close()
        t.join(NEVER)


def test_pieces_as_the_network_cuts_them() -> None:
    with framed_plain(Lines()) as (messages, sock):
        for piece in b"on", b"e\ntwo\nth", b"ree\n":
            sock.sendall(piece)
            rounds(2)
        assert [messages.receive(NEVER) for _ in range(3)] == ["one", "two", "three"]


def test_iteration_ends_with_the_peer() -> None:
    with framed_plain(Lines()) as (messages, sock):
        sock.sendall(b"one\ntwo\nno end")
        sock.shutdown(socket.SHUT_WR)
        assert list(messages) == ["one", "two", "no end"]
        assert list(messages) == []
        messages.send("still open")
        assert sock.recv(100) == b"still open\n"


def test_a_codec_of_one_s_own() -> None:
    class JSONLines:
        lines = Lines()

        def encode(self, message: Any) -> bytes:
            return self.lines.encode(json.dumps(message))

        def decode(self, chunks: Iterator[bytes]) -> Iterator[Any]:
            return map(json.loads, self.lines.decode(chunks))

    with framed_plain(JSONLines()) as (messages, sock):
        messages.send({"a": 1})
        assert sock.recv(100) == b'{"a": 1}\n'
        sock.sendall(b"[2, 3]\nno json\n")
        assert messages.receive(NEVER) == [2, 3]
        with pytest.raises(ProtocolError, match="Expecting value") as caught:
            messages.receive(NEVER)
        assert isinstance(caught.value.__cause__, json.JSONDecodeError)


@pytest.mark.parametrize("codec", [Lines, None, "lines", object()])
def test_what_is_no_codec(codec: Any) -> None:
    with connected() as (near, _far), pytest.raises(TypeError, match="a codec has the methods encode and decode"):
        framed(near, codec)


def test_what_is_no_connection() -> None:
    with pytest.raises(TypeError, match="methods read and send, and 5 is none"):
        framed(5, Lines())  # type: ignore[arg-type]


def test_a_message_that_can_not_be_sent() -> None:
    with framed_plain(Lines(max_size=10)) as (messages, sock):
        for message in 42, "two\nlines", "x" * 11:
            with pytest.raises((TypeError, ValueError)):
                messages.send(message)
        messages.send("good")
        assert sock.recv(100) == b"good\n"


# -- Waiting, and ceasing to wait


def test_select() -> None:
    with framed_plain(Lines()) as (messages, sock):
        assert flower.select(messages, default="nothing") == (None, "nothing")
        sock.sendall(b"one\ntwo\n")
        deadline = flower.after(NEVER)
        for line in "one", "two":
            source, value = flower.select(messages, deadline)
            assert source is messages
            assert value == line
        sock.close()
        with pytest.raises(flower.ChannelClosed) as caught:
            flower.select(messages, deadline)
        assert caught.value.channel is messages
        with pytest.raises(flower.ChannelClosed) as caught:
            flower.select(deadline, messages)
        assert caught.value.channel is messages


def test_select_to_send() -> None:
    with framed_plain(Lines()) as (messages, sock):
        quit = flower.channel()
        for line in "one", "two":
            assert flower.select(quit, (messages, line), timeout=NEVER)[0] is messages
        messages.send("three")
        assert in_thread(receive_exactly, sock, 14)() == b"one\ntwo\nthree\n"
        assert isinstance(messages.conn, Conn)
        filler = fill(messages.conn)
        assert flower.select(quit, (messages, "four"), timeout=NEVER)[0] is messages  # the writer holds one
        with pytest.raises(flower.Timeout):
            flower.select(quit, (messages, "no room"), timeout=0.002)
        finish = in_thread(receive_exactly, sock, filler + 10)
        assert flower.select(quit, (messages, "five"), timeout=NEVER)[0] is messages
        assert finish()[filler:] == b"four\nfive\n"


@pytest.mark.parametrize("end", ["close", "close_write"])
def test_what_a_select_has_sent_leaves_though_others_have_filled_the_room(end: str) -> None:
    with framed_plain(Lines()) as (messages, sock):
        assert isinstance(messages.conn, Conn)
        flower.select((messages, "one"))
        rounds(1)  # the writer has found room for the next
        filler = fill(messages.conn)
        flower.select((messages, "two"))
        rounds(1)
        getattr(messages, end)()
        data = in_thread(receive_all, sock)()
        assert (data[:4], data[filler + 4 :]) == (b"one\n", b"two\n")


def test_a_select_to_send_when_it_has_ended() -> None:
    for end in "close", "close_write", "reset":
        with framed_plain(Lines()) as (messages, sock):
            assert isinstance(messages.conn, Conn)
            fill(messages.conn)
            t = waiting(flower.select, (messages, "never"))
            reset(sock) if end == "reset" else getattr(messages, end)()
            with pytest.raises(flower.ChannelClosed, match="takes no more") as caught:
                t.join(NEVER)
            assert caught.value.channel is messages
            with pytest.raises(flower.ChannelClosed):
                flower.select((messages, "never"))
            messages.conn.abort()  # what filled it
    with framed_plain(Lines()) as (messages, _sock):
        messages.close()
        with pytest.raises(flower.ChannelClosed):
            flower.select((messages, "never"), default="no room")
    with framed_plain(Lines()) as (messages, sock):
        flower.select((messages, "one"), timeout=NEVER)
        assert sock.recv(100) == b"one\n"
        reset(sock)
        with pytest.raises(ConnectionResetError):
            messages.receive(NEVER)
        with pytest.raises(flower.ChannelClosed):
            flower.select((messages, "never"), timeout=NEVER)


def test_a_select_in_another_thread_may_not_send() -> None:
    with framed_plain(Lines()) as (lines, sock):
        for _ in range(2):
            with pytest.raises(RuntimeError, match="belongs to another thread: only that one may send"):
                in_thread(lambda: flower.select((lines, "theirs"), timeout=NEVER))()
            assert flower.select((lines, "ours"), timeout=NEVER)[0] is lines
            assert in_thread(receive_exactly, sock, 5)() == b"ours\n"


def test_a_select_sends_what_the_codec_refuses() -> None:
    seen: list[BaseException] = []
    before = flower.set_error_handler(lambda t, error: seen.append(error))
    try:
        with framed_plain(Lines()) as (messages, sock):
            flower.select((messages, 42))
            flower.select((messages, "good"))
            assert in_thread(receive_exactly, sock, 5)() == b"good\n"
    finally:
        flower.set_error_handler(before)
    (error,) = seen
    assert isinstance(error, TypeError)
    assert error.__notes__ == ["This message was sent by a select, and is dropped: 42"]


class Silent:
    def __repr__(self) -> str:
        raise LookupError("no words")


@pytest.mark.parametrize("message", [1, Silent()])
def test_a_select_sends_what_has_no_note(message: Any) -> None:
    class Strict(Lines):
        def encode(self, message: Any) -> bytes:
            if not isinstance(message, str):
                raise Frozen(1)
            return super().encode(message)

    seen: list[BaseException] = []
    before = flower.set_error_handler(lambda t, error: seen.append(error))
    try:
        with framed_plain(Strict()) as (messages, sock):
            flower.select((messages, message))
            flower.select((messages, "good"))
            assert in_thread(receive_exactly, sock, 5)() == b"good\n"
    finally:
        flower.set_error_handler(before)
    assert seen == [Frozen(1)]


def test_a_select_sends_what_the_codec_makes_no_bytes_of() -> None:
    class Careless(Lines):
        def encode(self, message: Any) -> Any:
            return message

    seen: list[BaseException] = []
    before = flower.set_error_handler(lambda t, error: seen.append(error))
    try:
        with framed_plain(Careless()) as (messages, sock):
            with pytest.raises(TypeError, match="takes bytes, not str"):
                messages.send("text")
            flower.select((messages, "text"))
            flower.select((messages, b"good\n"))
            assert in_thread(receive_exactly, sock, 5)() == b"good\n"
    finally:
        flower.set_error_handler(before)
    assert [str(error) for error in seen] == ["a connection takes bytes, not str"]


def test_half_close() -> None:
    with framed_plain(Lines()) as (messages, sock):
        messages.send("last")
        messages.close_write()
        assert in_thread(receive_all, sock)() == b"last\n"
        sock.sendall(b"an answer\n")
        assert messages.receive(NEVER) == "an answer"
        with pytest.raises(flower.ChannelClosed):
            messages.send("too late")


def test_timeouts_lose_nothing() -> None:
    with framed_plain(Lines()) as (messages, sock):
        for line in b"one\n", b"two\n":
            sock.sendall(line[:2])
            with pytest.raises(flower.Timeout, match=r"^<Framed Lines over .*>: nothing came within 0\.002 s$"):
                messages.receive(0.002)
            with pytest.raises(flower.Timeout):
                flower.select(messages, timeout=0)
            sock.sendall(line[2:])
            assert messages.receive(NEVER) == line.decode().strip()


def test_a_send_that_times_out_has_sent_nothing() -> None:
    with framed_plain(LengthPrefixed()) as (messages, sock):
        assert isinstance(messages.conn, Conn)
        filler = fill(messages.conn)
        with pytest.raises(flower.Timeout):
            messages.send(b"never", timeout=0.002)
        finish = in_thread(receive_all, sock)
        messages.send(b"later", timeout=NEVER)
        messages.close()
        assert finish()[filler:] == b"\0\0\0\x05later"


def test_receivers_in_turn() -> None:
    with framed_plain(Lines()) as (messages, sock):
        receivers = [waiting(messages.receive) for _ in range(5)]
        sock.sendall(b"0\n1\n2\n3\n4\n")
        assert [t.join(NEVER) for t in receivers] == list("01234")


@pytest.mark.parametrize("seed", range(5))
def test_receivers_that_give_up_lose_nothing(seed: int) -> None:
    """Receivers are killed, cancelled, timed out or lose a select while bytes come in pieces."""
    dice = random.Random(seed)
    got: list[int] = []
    over = flower.channel()

    def receiver() -> None:
        how = dice.randrange(4)
        with flower.move_on(dice.choice([0.0, 0.0005])) if how == 0 else flower.shield():
            try:
                if how == 1:
                    message = messages.receive(dice.choice([0, 0.0005]))
                elif how == 2:
                    message = flower.select(messages, over, flower.after(dice.random() / 1000))[1]
                else:
                    message = messages.receive()
            except flower.Timeout:
                return
            if isinstance(message, int):
                got.append(message)

    with framed_plain(MessagePack()) as (messages, sock):
        data = b"".join(map(MessagePack().encode, range(300)))
        tasklets: list[flower.tasklet] = []
        while data:
            length = dice.randrange(20)
            sock.sendall(data[:length])
            data = data[length:]
            tasklets += [flower.go(receiver) for _ in range(dice.randrange(8))]
            rounds(dice.randrange(2))
            victim = dice.choice(tasklets) if tasklets else None
            if victim is not None and victim.alive and dice.random() < 0.5:
                victim.kill()
        sock.shutdown(socket.SHUT_WR)
        for t in tasklets:
            if t.alive:
                t.kill()
        got += messages
    assert got == sorted(got)
    assert got == list(range(300))
