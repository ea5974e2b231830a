"""The I/O tasklet: which loop, timers, wake-ups, idleness, strange loops, and coroutines that are waited for."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
from typing import Any, ClassVar

import pytest

import flower
import flower.time
from flower.channels._scheduler import current_scheduler
from flower.net import Dial, Listen
from flower.net._loop import LoopPoller, _new_event_loop, io_poller, wait
from flower.net._transport import Sockets
from flower.net._turns import Turns
from tests.net.support import (
    HOME,
    NEVER,
    Program,
    connected,
    echo_server,
    in_thread,
    output,
    plain_peer,
    receive_all,
    rounds,
    until,
)

pytestmark = pytest.mark.usefixtures("loop")

SOON = 0.005  # seconds; a timeout that a test waits for


def poller() -> LoopPoller:
    return io_poller()


# -- Which loop


@pytest.mark.parametrize("closed", [[0], [1], [0, 1, 2]])
def test_a_program_without_its_standard_descriptors_ends_well(closed: list[int]) -> None:
    with Program(
        f"""
        import os, sys, flower
        from flower.net import Dial, Listen
        said = os.dup(1)
        for fd in {closed}:
            os.close(fd)
        with Listen(("127.0.0.1", 0)) as listener, Dial("tcp", listener.addr()) as near, listener.receive(30) as far:
            near.send(b"hello")
            os.write(said, far.receive(30))
        """
    ) as program:
        out, err = program.process.communicate(timeout=NEVER)
    assert (out, program.process.returncode) == ("hello", 0), err


def test_the_environment_chooses_the_loop(loop: str) -> None:
    assert type(poller().loop).__module__.startswith(loop)


def test_without_the_variable_it_is_uvloop_where_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWER_LOOP")
    made = _new_event_loop()
    made.close()
    assert type(made).__module__.startswith("uvloop")


def test_without_uvloop_it_is_the_standard_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWER_LOOP")
    monkeypatch.setitem(__import__("sys").modules, "uvloop", None)
    made = _new_event_loop()
    made.close()
    assert type(made).__module__.startswith("asyncio")
    monkeypatch.setenv("FLOWER_LOOP", "uvloop")
    with pytest.raises(ImportError):
        _new_event_loop()


def test_an_unknown_loop_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWER_LOOP", "gevent")
    with pytest.raises(ValueError, match="gevent"):
        _new_event_loop()


# -- Time


def test_timers_and_io_live_in_one_loop() -> None:
    """A sleep of 20 ms is not delayed until bytes arrive later."""
    with connected() as (near, far):
        t = flower.go(lambda: (far.receive(NEVER), time.monotonic()))
        began = time.monotonic()
        flower.time.sleep(0.02)
        slept = time.monotonic() - began
        assert t.blocked
        near.send(b"x")
        t.join(NEVER)
    assert 0.02 <= slept < 0.2


@pytest.mark.parametrize("delay", [0.0004, 0.001, 0.0015, 0.0053, 0.01])
def test_a_timer_never_fires_early(delay: float) -> None:
    for _ in range(5):
        began = time.monotonic()
        flower.time.sleep(delay)
        assert time.monotonic() - began >= delay


def test_timers_fire_in_order_whatever_the_order_they_were_set_in() -> None:
    order: list[int] = []
    began = time.monotonic()

    def sleeper(i: int) -> None:
        flower.time.sleep(began + 0.05 + 0.005 * i - time.monotonic())
        order.append(i)

    tasklets = [flower.go(sleeper, i) for i in (3, 1, 5, 2, 4)]
    for t in tasklets:
        t.join(NEVER)
    assert order == [1, 2, 3, 4, 5]


def test_a_first_connection_is_made_though_others_are_always_ready() -> None:
    assert (
        output("""
        import socket
        import flower
        from flower.net import Dial

        def busy():
            while True:
                flower.schedule()

        flower.tasklet(busy, daemon=True)()
        flower.time.sleep(0.001)  # the thread waits already, and without an event loop
        with socket.create_server(("127.0.0.1", 0)) as server:
            with Dial("tcp", server.getsockname()) as conn:
                peer, _ = server.accept()
                with peer:
                    peer.sendall(b"served")
                    print(conn.receive(30))
        """)
        == "b'served'\n"
    )


def test_a_deadline_that_moves_away_arms_no_new_timer() -> None:
    p = poller()
    with connected() as (near, far):
        with pytest.raises(flower.Timeout):
            far.receive(SOON)
        t = flower.go(lambda: [far.receive(NEVER) for _ in range(50)])
        rounds(1)
        armed = {p._timer}
        for _ in range(50):
            near.send(b"x")
            rounds(1)
            armed.add(p._timer)
        t.join(NEVER)
        assert len(armed) < 10


IDLE = """
    import resource, time, flower, flower.time
    from flower.net import Listen
    with Listen(("127.0.0.1", 0)) as listener:
        t = flower.go(listener.accept)
        flower.time.sleep(0.01)
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        flower.time.sleep({seconds})
        after, ended = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        t.kill()
    print(after.ru_nvcsw - before.ru_nvcsw, ended - began)
"""


@pytest.mark.slow
def test_who_is_idle_sleeps_in_one_piece() -> None:
    waits, slept = map(float, output(IDLE.format(seconds=1.0)).split())
    assert slept >= 1.0
    assert waits <= 10  # of the process for the kernel: whoever looked again each millisecond had a thousand


# -- Wake-ups


def test_a_thread_wakes_a_tasklet_that_waits_in_the_loop() -> None:
    rounds(1)
    ch = flower.channel()
    go = threading.Event()
    finish = in_thread(lambda: (go.wait(NEVER), ch.send("news")))
    flower.go(lambda: go.set())
    assert ch.receive(NEVER) == "news"
    finish()


def test_many_threads_wake_the_loop_at_once() -> None:
    rounds(1)
    ch = flower.channel(math.inf)

    def send() -> None:
        for i in range(200):
            ch.send(i)

    threads = [threading.Thread(target=send) for _ in range(5)]
    for t in threads:
        t.start()
    got = [ch.receive(NEVER) for _ in range(1000)]
    for t in threads:
        t.join(NEVER)
    assert sum(got) == 5 * sum(range(200))


def test_each_thread_has_a_loop_of_its_own() -> None:
    with echo_server() as listener:

        def client() -> tuple[bytes, int]:
            with Dial("tcp", listener.addr()) as conn:
                conn.write("x")
                got = conn.read(timeout=NEVER)
                conn.close_write()
                assert conn.read(timeout=NEVER) == b""
            return got, id(current_scheduler().poller)

        clients = [in_thread(client) for _ in range(3)]
        got = [finish() for finish in clients]
    assert [data for data, _ in got] == [b"x"] * 3
    assert id(current_scheduler().poller) not in {which for _, which in got}


def test_busy_tasklets_do_not_starve_the_network() -> None:
    with echo_server() as listener, Dial("tcp", listener.addr()) as conn:
        stop = False

        def busy() -> None:
            while not stop:
                flower.schedule()

        t = [flower.go(busy) for _ in range(3)]
        conn.write("x")
        assert conn.read(timeout=NEVER) == b"x"
        stop = True
        for each in t:
            each.join(NEVER)


# -- Loops of others


def test_a_running_loop_of_somebody_else_is_refused() -> None:
    async def main() -> None:
        for attempt in (lambda: Listen((HOME, 0)), lambda: Dial("tcp", (HOME, 1))):
            with pytest.raises(RuntimeError, match="event loop"):
                attempt()

    asyncio.run(main())
    in_thread(asyncio.run, main())()  # and in a thread that had none of ours


def test_tasklets_see_no_running_loop() -> None:
    rounds(1)

    def look() -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()

    look()
    flower.go(look).join()


def test_a_tasklet_may_run_a_loop_of_its_own() -> None:
    rounds(1)

    async def main() -> str:
        await asyncio.sleep(0)
        return "done"

    assert flower.go(asyncio.run, main()).join() == "done"
    rounds(1)


@pytest.mark.leaves("descriptors")  # uvloop makes new ones when it starts again
def test_a_foreign_stop_does_not_end_the_loop() -> None:
    p = poller()
    p.loop.stop()
    rounds(2)
    p.loop.call_soon(p.loop.stop)
    rounds(2)


def test_a_turn_that_is_hit_as_it_begins_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program's signal handler may raise anywhere, in the first line of the callback that runs the tasklets too."""

    class Alarm(Exception):
        pass

    class Turns:
        def _on_turn(self) -> None:
            monkeypatch.undo()
            raise Alarm("from a signal handler")

    p = poller()
    rescued: list[bool] = []

    def rescue() -> None:  # where the turn is lost, nobody else is there to ask for one
        rescued.append(True)
        p._due = False
        p.ready()

    timer = p.loop.call_later(1.0, rescue)
    monkeypatch.setattr(p, "_on_turn", Turns()._on_turn)
    with pytest.raises(Alarm):  # it is main's, as where nobody is hit
        while True:
            flower.time.sleep(SOON)
    flower.time.sleep(SOON)  # both the sleep's end and whatever is ready need a turn
    assert not rescued
    timer.cancel()


def test_a_turn_comes_though_the_reading_before_it_was_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hit(Sockets):
        def serve(self) -> bool:
            monkeypatch.undo()
            p._sockets.serve()
            raise ArithmeticError("from a signal handler")

    p = poller()
    with plain_peer() as (conn, sock):
        t = flower.go(conn.receive, NEVER)
        rounds(1)
        monkeypatch.setattr(p, "_sockets", Hit.__new__(Hit))
        sock.sendall(b"x")
        sleeping = flower.go(flower.time.sleep, SOON)  # nothing else asks for a turn
        with pytest.raises(ArithmeticError, match="from a signal handler"):
            flower.channel().receive(NEVER)
        assert t.join(NEVER) == b"x"
        sleeping.join(NEVER)


@pytest.mark.leaves("descriptors")  # as above
@pytest.mark.parametrize("kind", [KeyboardInterrupt, ArithmeticError])
def test_what_a_signal_handler_raises_between_two_tasklets_is_mains(kind: type[BaseException]) -> None:
    p = poller()

    def swap() -> None:
        turn = p._turn

        def hit() -> float:
            p._turn = turn
            raise kind("from a signal handler")

        p._turn = hit
        p.ready()

    flower.go(swap)
    with pytest.raises(kind):
        flower.channel().receive(1.0)
    flower.time.sleep(SOON)


@pytest.mark.leaves("descriptors")  # as above
def test_a_timer_of_before_an_interruption_is_not_taken_for_one_that_is_armed() -> None:
    def hit() -> None:
        raise KeyboardInterrupt

    p = poller()
    rescued: list[bool] = []
    sleeping = flower.go(flower.time.sleep, 4 * SOON)
    flower.go(p.loop.call_soon, hit)
    with pytest.raises(KeyboardInterrupt):
        flower.channel().receive(NEVER)
    sleeping.kill()
    timer = p.loop.call_later(1.0, lambda: (rescued.append(True), p.ready()))
    flower.time.sleep(5 * SOON)  # for longer than the timer that was armed as the interruption came
    assert not rescued
    timer.cancel()


def test_a_wake_up_that_failed_is_not_taken_for_one_that_is_on_its_way() -> None:
    class Loop:
        failures: ClassVar = [RecursionError(), RuntimeError("Event loop is closed")]

        def call_soon_threadsafe(self, *args: Any, **options: Any) -> None:
            raise self.failures.pop(0)

    turns = Turns(Loop(), current_scheduler(), lambda _loop: None)
    with pytest.raises(RecursionError):
        turns.wake()
    turns.wake()  # the loop's thread has ended: nobody is there to be woken
    assert not Loop.failures


@pytest.mark.parametrize("what", ["call_soon", "call_later"])
def test_what_the_loop_was_asked_for_as_a_signal_handler_raised_is_asked_for_again(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The standard loop's methods are Python code, where a handler may run."""

    def hit(*args: Any, **options: Any) -> None:
        monkeypatch.undo()
        raise ArithmeticError("from a signal handler")

    loop = poller().loop
    rescued: list[bool] = []

    def rescue() -> None:
        rescued.append(True)
        flower.go(lambda: None)

    timer = loop.call_later(1.0, rescue)
    loop.call_soon(monkeypatch.setattr, loop, what, hit)
    with pytest.raises(ArithmeticError, match="from a signal handler"):
        while True:
            flower.time.sleep(SOON)
    flower.time.sleep(SOON)
    assert not rescued
    timer.cancel()


def test_a_callback_of_flower_that_is_hit_is_told_of_in_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where much comes in, a signal handler mostly runs in one of those that take it."""

    def hit(*args: Any) -> None:
        monkeypatch.undo()
        raise ArithmeticError("from a signal handler")

    with Listen(("127.0.0.1", 0), "udp") as here:
        monkeypatch.setattr(here._port.__class__, "_take", hit)
        here.send(b"lost", here.addr())
        with pytest.raises(ArithmeticError, match="from a signal handler"):
            here.receive(NEVER)
        here.send(b"taken", here.addr())
        assert here.receive(NEVER)[0] == b"taken"


def test_what_fails_in_a_callback_of_others_is_none_of_mains(caplog: pytest.LogCaptureFixture) -> None:
    class EventLoopPoller:
        def _on_turn(self) -> None:
            raise ArithmeticError("a library's callback")

    with connected() as (near, _):
        near.close()
        poller().loop.call_soon(EventLoopPoller()._on_turn)
        poller().loop.call_soon(near.send, b"of a coroutine's")
        rounds(3)
    assert "a library's callback" in caplog.text
    assert "was closed here" in caplog.text


def test_a_failed_future_that_another_thread_drops_costs_nobody_his_wake_up(caplog: pytest.LogCaptureFixture) -> None:
    """The loop is told of it where the garbage collector runs."""
    p = poller()
    futures = [p.loop.create_future()]
    futures[0].set_exception(ArithmeticError("never retrieved"))
    news: flower.channel[str] = flower.channel()

    def other() -> None:
        while not news.balance:
            time.sleep(SOON)
        time.sleep(SOON)  # until the loop waits
        futures.clear()
        news.send("news")

    def rescue() -> None:  # where the wake-up is lost, nobody else is there
        p._due = False
        p.ready()

    with Listen(("127.0.0.1", 0)) as listener:
        rescuer = p.loop.call_later(2.0, rescue)
        thread = threading.Thread(target=other)
        thread.start()
        assert flower.select(news, listener)[1] == "news"
        assert p.loop.time() < rescuer.when()
        thread.join()
        rescuer.cancel()
    assert "never retrieved" in caplog.text


def test_blocking_in_a_callback_is_refused() -> None:
    caught: list[BaseException] = []

    def callback() -> None:
        for attempt in (lambda: Dial("tcp", (HOME, 1)), flower.channel().receive):
            try:
                attempt()
            except RuntimeError as error:
                caught.append(error)

    poller().loop.call_soon(callback)
    until(lambda: len(caught) == 2)
    assert "a signal handler" in str(caught[1])


@pytest.mark.parametrize("closed", [True, False])
def test_what_was_sent_before_a_thread_ends_reaches_a_reader_that_comes_late(closed: bool) -> None:
    size = 8_000_000  # more than the kernel holds
    with socket.create_server((HOME, 0)) as server:

        def client() -> None:
            conn = Dial("tcp", server.getsockname())
            conn.send(b"x" * size)
            sent.set()
            if closed:
                conn.close()
            else:
                kept.append(conn)

        sent = threading.Event()
        kept: list[Any] = []
        finish = in_thread(client)
        sock, _ = server.accept()
        with sock:
            sock.settimeout(NEVER)
            assert sent.wait(NEVER)
            assert len(receive_all(sock)) == size
        finish()


# -- Waiting for coroutines


def test_wait_gives_the_result_or_raises_the_error() -> None:
    async def fine() -> int:
        await asyncio.sleep(0)
        return 5

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    assert wait(fine()) == 5
    with pytest.raises(ZeroDivisionError):
        wait(fails())


def test_wait_parks_only_its_caller() -> None:
    p = poller()
    gate = p.loop.create_future()

    async def waiting() -> str:
        await gate
        return "through"

    t = flower.go(wait, waiting())
    rounds(2)
    assert t.blocked
    gate.set_result(None)
    assert t.join(NEVER) == "through"


@pytest.mark.parametrize("how", ["kill", "scope"])
def test_a_cancelled_wait_cancels_its_task_and_waits_for_it(how: str) -> None:
    steps: list[str] = []

    async def stubborn() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    def waiter() -> None:
        try:
            wait(stubborn())
        finally:
            steps.append("left")

    if how == "scope":
        with flower.move_on(SOON):
            waiter()
    else:
        t = flower.go(waiter)
        rounds(2)
        t.kill()
        with pytest.raises(flower.TaskletKilled):
            t.join(NEVER)
    assert steps == ["cleaned up", "left"]


def test_a_result_that_came_too_late_is_disposed_of() -> None:
    disposed: list[str] = []

    async def late() -> str:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            pass
        return "result"

    with flower.move_on(SOON):
        wait(late(), disposed.append)
    assert disposed == ["result"]


@pytest.mark.leaves("descriptors")  # as above
def test_a_task_that_raises_system_exit_does_not_end_the_loop() -> None:
    async def leaves() -> None:
        raise SystemExit(5)

    with pytest.raises(SystemExit):
        wait(leaves())
    rounds(1)


def test_tasklets_keep_their_context_variables() -> None:
    import contextvars

    var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=0)

    def body(i: int) -> int:
        var.set(i)
        rounds(3)
        return var.get()

    tasklets = [flower.go(body, i) for i in range(1, 5)]
    assert [t.join(NEVER) for t in tasklets] == [1, 2, 3, 4]
    assert var.get() == 0
