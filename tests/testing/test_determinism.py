"""The same choices give the same log: in any process, with any hash seed, whatever the collector and threads do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.testing.support import COMPILED

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = """
import gc, hashlib, logging, random, sys, threading
import flower, flower.testing as ft
from flower import rpc
from flower.net import Dial, Listen
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers

# Hypothesis also draws numbers that it finds in the sources of the program, and so in Flower's where it is uncompiled.
providers._get_local_constants = providers.Constants

logging.disable()
mode = sys.argv[1]
if mode == "collector":
    gc.set_threshold(1)
if mode == "threads":
    over = threading.Event()
    for _ in range(3):
        threading.Thread(target=lambda: [sum(range(100)) for _ in iter(over.is_set, True)], daemon=True).start()
if mode == "failures":
    for seed in range(3):
        try:
            ft.explore(max_examples=20, database=None, seed=seed)(lambda w: w.go(flower.channel().receive))()
        except ft.Deadlock:
            pass


def channels(w, n=st.integers(1, 3)):
    work, stop = flower.channel(n), flower.channel(label="stop")

    def worker():
        while True:
            ch, value = flower.select(work, stop, timeout=5)
            if ch is stop or value > 5:
                return
            flower.time.sleep(value)

    with flower.group() as group:
        for _ in range(3):
            group.go(worker)
        for number in range(n):
            work.send(number)
        with flower.move_on(2):
            for _ in range(3):
                stop.send(random.random())
        group.cancel()


def network(w):
    def serve(conn):
        for chunk in conn:
            conn.send(chunk)

    def server():
        with Listen(("server", 1)) as listener:
            listener.serve(serve)

    w.net.faults("reset", "half-close", "partition", "slow", "refuse")
    w.net.at("server").go(server, daemon=True)
    w.settle()

    def client(n):
        try:
            with Dial("tcp", ("server", 1)) as conn:
                conn.send(b"0123456789")
                conn.read_exactly(10, timeout=20)
        except (OSError, EOFError, flower.ChannelClosed):
            pass

    for n in range(3):
        w.net.at("client").go(client, n)


def calls(w):
    class Service:
        def wait(self, n):
            flower.time.sleep(n)
            return n

        def count(self, n):
            yield from range(n)

    def server():
        with rpc.serve("tcp://server:80", Service()):
            flower.never().receive()

    w.net.at("server").go(server, daemon=True)
    w.settle()
    peer = rpc.connect("tcp://server:80")
    w.go(peer.call, "wait", 1)
    with flower.move_on(0.5):
        peer.call("wait", 2)
    for i in peer.stream("count", 5):
        w.draw(st.booleans())
    w.advance(10)
    peer.close()


for program in (channels, network, calls):
    logs = []

    def test(w, **values):
        try:
            program(w, **values)
        finally:
            logs.append(w.log() + w.schedule())

    test.__signature__ = __import__("inspect").signature(program)
    try:
        ft.explore(max_examples=40, database=None, seed=3)(test)()
    except Exception as error:
        logs.append(repr(error))
    print(program.__name__, len(logs) > 20, hashlib.sha256("\\n".join(logs).encode()).hexdigest())
if mode == "threads":
    over.set()
"""


@pytest.mark.slow
def test_the_same_choices_give_the_same_log_everywhere() -> None:
    def run(mode: str, seed: str, pure: bool = False) -> str:
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), **({"FLOWER_PURE": "1"} if pure else {})}
        command = [sys.executable, "-c", PROGRAM, mode]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    plain = run("plain", "0")
    assert plain.count("True") == 3, plain
    assert run("collector", "1") == plain
    assert run("threads", "2") == plain
    assert run("failures", "3") == plain
    if COMPILED:
        assert run("plain", "4", pure=True) == plain
