"""Readers and writers that are interrupted at random moments, in every way there is: no byte is lost, doubled or moved.

Each test draws from a seed. One that fails names it; the schedule follows from it, but for what the kernel does.
"""

from __future__ import annotations

import os
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest

import flower
from flower.errors import IncompleteRead
from flower.net import Conn, Dial, LengthPrefixed, Lines, Listen, framed
from tests.net.certificates import certificates
from tests.net.support import HOME, NEVER, in_thread, rounds

pytestmark = [pytest.mark.usefixtures("loop"), pytest.mark.slow]

SEEDS = range(4)
PROTOS = ["tcp", "tls", "pipe"]


@contextmanager
def connected(proto: str, **options: Any) -> Iterator[tuple[Conn, Conn]]:
    with tempfile.TemporaryDirectory() as folder:
        made = certificates()
        where: Any = os.path.join(folder, "socket") if proto == "pipe" else (HOME, 0)
        secure = {"cert": made.server, "key": made.server_key} if proto == "tls" else {}
        trust = {"ca": made.ca} if proto == "tls" else {}
        with Listen(where, proto, **secure, **options) as listener:
            near = Dial(proto, listener.addr(), **trust, **options)
            far = listener.receive(NEVER)
        with near, far:
            yield near, far


def interrupted(dice: random.Random, operation: Any) -> Any:
    """What the operation gives; None if it was timed out, cancelled, killed or lost a select before."""
    how = dice.randrange(5)
    soon = dice.choice([0.0, 0.0, 0.0002, 0.001])
    if how == 0:
        with flower.move_on(soon):
            return operation()
        return None
    if how == 1:
        try:
            with flower.timeout(soon):
                return operation()
        except flower.Timeout:
            return None
    t = flower.go(operation)
    if how == 2:
        rounds(dice.randrange(3))
        if t.alive:
            t.kill()
    try:
        return t.join(NEVER)
    except flower.TaskletKilled:
        return None


def outcome(operation: Any, *args: Any) -> flower.tasklet:
    """A tasklet whose result is the operation's, or its exception."""

    def body() -> Any:
        try:
            return operation(*args)
        except Exception as error:
            return error

    return flower.go(body)


# -- Reading


def reads(dice: random.Random, conn: Conn, limit: int) -> Any:
    """One operation that reads, and cuts in one of the ways there are."""
    kind = dice.randrange(6)
    if kind == 0:
        return conn.receive()
    if kind == 1:
        return conn.read(dice.randrange(1, 200))
    if kind == 2:
        return conn.read_exactly(dice.randrange(1, min(300, limit) + 1))
    if kind == 3:
        return conn.read_until(b"\n", limit=1000)
    if kind == 4:
        return flower.select(flower.channel(), conn)[1]
    return next(iter(conn))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("proto", PROTOS)
def test_readers_that_are_interrupted(proto: str, seed: int) -> None:
    dice = random.Random(seed)
    data = b"".join(b"%d:%s\n" % (n, b"x" * dice.randrange(100)) for n in range(1500))
    got = bytearray()
    with connected(proto, read_buffer=dice.choice([1, 1000, 256 * 1024])) as (near, far):

        def write() -> None:
            at = 0
            while at < len(data):
                size = dice.randrange(1, 3000)
                near.send(data[at : at + size])
                at += size
                rounds(dice.randrange(2))

        writer = flower.go(write)
        while len(got) < len(data):
            left = len(data) - len(got)
            got += interrupted(dice, partial(reads, dice, far, left)) or b""
        writer.join(NEVER)
    assert bytes(got) == data


@pytest.mark.parametrize("seed", SEEDS)
def test_many_readers_of_one_connection(seed: int) -> None:
    """They receive, select, and are killed; each chunk goes to one of them, and the chunks are in order."""
    dice = random.Random(seed)
    data = b"".join(b"%06d\n" % n for n in range(20_000))
    chunks: list[bytes] = []
    over = flower.channel()

    def reader(far: Conn) -> None:
        while True:
            chunks.append(flower.select(far, over)[1] if dice.random() < 0.5 else far.receive())
            if dice.random() < 0.3:
                flower.schedule()

    with connected("tcp") as (near, far):
        tasklets = [outcome(reader, far) for _ in range(5)]
        at = 0
        while at < len(data):
            size = dice.randrange(1, 5000)
            near.send(data[at : at + size])
            at += size
            rounds(dice.randrange(2))
            if dice.random() < 0.3:
                victim = tasklets.pop(dice.randrange(5))
                victim.kill()
                with pytest.raises(flower.TaskletKilled):
                    victim.join(NEVER)
                tasklets.append(outcome(reader, far))
        near.close()
        for t in tasklets:
            assert isinstance(t.join(NEVER), flower.ChannelClosed)
    assert b"".join(chunks) == data


# -- Writing


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("proto", PROTOS)
def test_writers_that_are_interrupted(proto: str, seed: int) -> None:
    """What `send` or a select returned from is received once, and nothing else is."""
    dice = random.Random(seed)
    sent: list[int] = []
    codec = LengthPrefixed()
    with connected(proto, write_buffer=dice.choice([1, 10_000, 65_536])) as (near, far):

        def write(n: int) -> None:
            payload = codec.encode(b"%d " % n + b"x" * dice.randrange(30_000))
            how = dice.random()
            if how < 0.4:
                near.send(payload)
                sent.append(n)
            elif how < 0.8:
                if flower.select((near, payload), flower.after(dice.choice([0.0, 0.001, NEVER])))[0] is near:
                    sent.append(n)
            else:
                near.flush()

        def read() -> list[int]:
            found = []
            for message in framed(far, LengthPrefixed()):
                found.append(int(message.split()[0]))
                if dice.random() < 0.1:
                    flower.time.sleep(0.0005)
            return found

        reader = flower.go(read)
        tasklets: list[flower.tasklet] = []
        for n in range(400):
            if dice.random() < 0.5:
                interrupted(dice, lambda n=n: write(n))  # type: ignore[misc]
            else:
                tasklets.append(flower.go(write, n))
            if tasklets and dice.random() < 0.3:
                victim = tasklets.pop(dice.randrange(len(tasklets)))
                victim.kill()
        for t in tasklets:
            t.join(NEVER)
        near.close_write()
        assert sorted(reader.join(NEVER)) == sorted(sent)
    assert len(sent) > 100


# -- Ends


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("proto", PROTOS)
def test_an_end_at_any_moment(proto: str, seed: int) -> None:
    """Both sides read and write; one ends it somewhere. All of them learn of it, and what was read is a beginning."""
    dice = random.Random(seed)
    data = bytes(range(256)) * 8000
    got = {0: bytearray(), 1: bytearray()}

    def write(conn: Conn) -> None:
        for at in range(0, len(data), 10_000):
            conn.send(data[at : at + 10_000])
        conn.close_write()

    def read(number: int, conn: Conn) -> None:
        while chunk := conn.read(dice.choice([None, 1000])):
            got[number] += chunk

    def until(number: int, conn: Conn) -> None:
        while True:
            got[number] += conn.read_until(b"\xff", limit=10_000)

    with connected(proto) as ends:
        tasklets = [outcome(write, conn) for conn in ends]
        tasklets += [outcome(dice.choice([read, until]), n, conn) for n, conn in enumerate(ends)]
        rounds(dice.randrange(30))
        ending = dice.choice(ends)
        with suppress(OSError, flower.ChannelClosed):  # what close_write says when it is over already
            getattr(ending, dice.choice(["close", "abort", "close_write"]))()
        rounds(dice.randrange(5))
        dice.choice(ends).close()
        for t in tasklets:
            assert isinstance(t.join(NEVER), ConnectionError | flower.ChannelClosed | IncompleteRead | None)
    for found in got.values():
        assert data.startswith(bytes(found))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("proto", PROTOS)
def test_dials_and_accepts_that_are_interrupted(proto: str, seed: int) -> None:
    """Whatever is given up, both ends are closed, and nothing stays in the loop (the fixture looks)."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        made = certificates()
        where: Any = os.path.join(folder, "socket") if proto == "pipe" else (HOME, 0)
        secure = {"cert": made.server, "key": made.server_key} if proto == "tls" else {}
        trust = {"ca": made.ca} if proto == "tls" else {}
        with Listen(where, proto, **secure) as listener:

            def accept() -> Conn | None:
                try:
                    return listener.receive(dice.choice([0, 0.0005]))
                except flower.Timeout:
                    return None

            for _ in range(40):
                conns = [interrupted(dice, partial(Dial, proto, listener.addr(), **trust))]
                if dice.random() < 0.7:
                    conns.append(interrupted(dice, accept))
                for conn in filter(None, conns):
                    conn.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_servers_that_stop_at_any_moment(seed: int) -> None:
    dice = random.Random(seed)

    def handle(conn: Conn) -> None:
        with framed(conn, Lines()) as lines:
            for line in lines:
                lines.send(line)

    listener = Listen((HOME, 0))
    server = flower.go(listener.serve, handle)
    clients = [Dial("tcp", listener.addr()) for _ in range(20)]

    def talk(conn: Conn) -> int:
        count = 0
        try:
            while True:
                conn.send(b"%d\n" % count)
                assert conn.read_until(timeout=NEVER) == b"%d\n" % count
                count += 1
        except (ConnectionError, flower.ChannelClosed, IncompleteRead):
            return count

    tasklets = [flower.go(talk, conn) for conn in clients]
    rounds(dice.randrange(50))
    listener.stop(grace=dice.choice([0, 0.001]))
    server.join(NEVER)
    for t in tasklets:
        t.join(NEVER)
    for conn in clients:
        conn.close()
    with pytest.raises(OSError):
        socket.create_connection(listener.addr(), NEVER)


def test_a_reader_in_another_thread_that_is_interrupted() -> None:
    data = b"".join(b"%06d\n" % n for n in range(30_000))
    dice = random.Random(1)

    def read(far: Conn) -> bytes:
        got = bytearray()
        while len(got) < len(data):
            try:
                got += far.receive(timeout=dice.choice([0, 0.0001, 0.001]))
            except flower.Timeout:
                pass
        return bytes(got)

    with connected("tcp", read_buffer=10_000) as (near, far):
        finish = in_thread(read, far)
        for at in range(0, len(data), 3000):
            near.send(data[at : at + 3000])
            rounds(1)
        assert finish() == data
