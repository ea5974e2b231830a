"""The I/O tasklet: timers, wake-ups, idleness, strange loops, interrupts, threads and forks."""

from __future__ import annotations

import _thread
import asyncio
import gc
import math
import os
import signal
import socket
import threading
import time
from typing import Any

import pytest

import flower
import flower.time
from flower.channels._scheduler import current_scheduler
from flower.net import Dial, Listen
from flower.net._loop import LoopPoller, _new_event_loop, io_poller, wait
from flower.net._transport import Sockets
from tests.net.support import (
    HOME,
    NEVER,
    Program,
    connected,
    echo_server,
    in_thread,
    listening,
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


# -- The end of a program


@pytest.mark.slow
def test_what_was_written_leaves_though_the_program_ends() -> None:
    code = """
        import sys
        from flower.net import Dial
        conn = Dial("tcp", ("127.0.0.1", int(sys.argv[1])))
        conn.write(b"x" * 3_000_000)
        conn.close()
        """
    with listening() as listener, Program(code, str(listener.addr()[1])) as program:
        with listener.receive(NEVER) as conn:
            assert sum(len(chunk) for chunk in conn) == 3_000_000
        assert in_thread(program.end)() == ""  # the loop goes on, and closes the connection


def test_a_program_may_end_with_everything_open() -> None:
    assert (
        output(
            """
            import flower
            from flower.net import Dial, Listen
            listener = Listen(("127.0.0.1", 0))
            near = Dial("tcp", listener.addr())
            far = listener.receive()
            flower.go(far.receive)
            flower.schedule()
            print("end")
            """
        )
        == "end\n"
    )


def test_a_thread_may_end_with_everything_open() -> None:
    before = len(os.listdir("/proc/self/fd"))

    def body() -> Any:
        listener = Listen((HOME, 0))
        near = Dial("tcp", listener.addr())
        far = listener.receive()
        near.send(b"x")
        far.receive()
        return listener, near, far

    kept = in_thread(body)()
    listener, near, far = kept
    assert listener.closed
    assert near.status == far.status == "closed"
    assert len(os.listdir("/proc/self/fd")) <= before + 1


INTERRUPTED = """
    import flower, signal
    from flower.net import Listen
    def of_the_program(signum, frame):
        raise KeyboardInterrupt
    {handler}
    listener = Listen(("127.0.0.1", 0))
    try:
        while True:
            try:
                flower.go(print, "ready")
                listener.accept()
            except KeyboardInterrupt:
                print("interrupted")
                break
    finally:
        listener.close()
    flower.run()
    print("end")
"""


@pytest.mark.parametrize("handler", ["", "signal.signal(signal.SIGINT, of_the_program)"])
def test_ctrl_c_reaches_the_main_tasklet_in_accept(handler: str) -> None:
    with Program(INTERRUPTED.format(handler=handler)) as program:
        assert program.line() == "ready"
        program.kill(signal.SIGINT)
        assert program.end() == "interrupted\nend\n"


EXITS = """
    import flower, signal
    from flower.net import Listen
    def leave(signum, frame):
        raise SystemExit(0)
    signal.signal(signal.SIGTERM, leave)
    listener = Listen(("127.0.0.1", 0))
    flower.go(print, "ready")
    try:
        {wait}
    except SystemExit:
        print("left")
        raise
    finally:
        listener.close()
"""


@pytest.mark.parametrize(
    "wait", ["listener.accept()", "flower.go(listener.accept); flower.run()", "flower.after(30).receive()"]
)
def test_a_signal_handler_that_exits_ends_the_program(wait: str) -> None:
    with Program(EXITS.format(wait=wait)) as program:
        assert program.line() == "ready"
        program.kill(signal.SIGTERM)
        assert program.end() == "left\n"


ALARMED = """
    import flower, signal
    from flower.net import Listen
    def alarm(signum, frame):
        raise ArithmeticError("alarm")
    signal.signal(signal.SIGTERM, alarm)
    listener = Listen(("127.0.0.1", 0))
    flower.go(print, "ready")
    try:
        {wait}
    except ArithmeticError as error:
        print(error)
    finally:
        listener.close()
    flower.schedule()
    print("end")
"""


@pytest.mark.parametrize(
    "wait", ["listener.accept()", "flower.go(flower.never().receive); listener.accept()", "flower.after(30).receive()"]
)
def test_what_a_signal_handler_raises_is_raised_where_main_waits(wait: str) -> None:
    with Program(ALARMED.format(wait=wait)) as program:
        assert program.line() == "ready"
        program.kill(signal.SIGTERM)
        assert program.end() == "alarm\nend\n"


def test_a_timeout_of_a_signal_handler_is_not_that_of_what_main_waits_for() -> None:
    def alarm(*args: Any) -> None:
        raise flower.Timeout("of the alarm")

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with connected() as (near, _):
            signal.setitimer(signal.ITIMER_REAL, 10 * SOON)
            with pytest.raises(flower.Timeout, match="of the alarm"):
                near.receive(NEVER)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.leaves("descriptors")  # as above
def test_a_callback_that_exits_ends_what_main_waits_for() -> None:
    def leave() -> None:
        raise SystemExit(3)

    io_poller().loop.call_soon(leave)
    with pytest.raises(SystemExit) as caught:
        flower.channel().receive(NEVER)
    assert caught.value.code == 3
    rounds(3)  # it is raised once


def test_who_wakes_somebody_when_the_program_has_ended_does_it_for_nobody() -> None:
    program = """
        import atexit
        late = []
        @atexit.register
        def _():
            for act in late:
                act()
            print("end")
        import flower
        from flower import rpc
        with rpc.serve("tcp://127.0.0.1:0", {}) as server:
            peer = rpc.connect(server.url, reconnect=True)
        while peer._session._sessions:
            flower.time.sleep(0.001)
        scope = flower.move_on()
        def wait():
            with scope:
                flower.channel().receive()
        flower.go(wait)
        flower.schedule()
        late += [scope.cancel, peer.close]
    """
    assert output(program) == "end\n"


EXITS_ELSEWHERE = """
    import asyncio, os, signal, flower
    from flower.net import Listen
    tasks = []
    def leave(*_):
        raise SystemExit(0)
    async def exits():
        raise SystemExit(0)
    async def busy():
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass
    async def spawn(coroutine):
        tasks.append(asyncio.create_task(coroutine))
    async def with_callback():
        tasks.append(asyncio.create_task(exits()))
        tasks[0].add_done_callback(lambda task: task.result())
    async def awaits():
        await asyncio.create_task(exits())
    def waits():
        try:
            flower.wait(awaits())
        except SystemExit:
            print("a tasklet has it, too")
            raise
    signal.signal(signal.SIGTERM, leave)
    listener = Listen(("127.0.0.1", 0))
    times = 0
    try:
        {what}
        listener.accept()
    except SystemExit:
        times += 1
    try:
        flower.after(0.05).receive()
    except SystemExit:
        times += 1
    listener.close()
    for task in tasks:
        task.exception()
    print("main left", times)
"""


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("flower.wait(spawn(exits()))", "main left 1\n"),
        ("flower.wait(spawn(busy()))", "main left 1\n"),
        ("flower.wait(awaits())", "main left 1\n"),
        ("flower.wait(exits())", "main left 1\n"),
        ("flower.go(waits)", "a tasklet has it, too\nmain left 1\n"),
    ],
)
def test_an_exit_of_a_coroutine_is_lost_nowhere_and_told_of_once(what: str, told: str) -> None:
    with Program(EXITS_ELSEWHERE.format(what=what)) as program:
        assert program.end() == told


def test_an_exit_that_a_callback_passes_on_ends_what_main_waits_for() -> None:
    with Program(EXITS_ELSEWHERE.format(what="flower.wait(with_callback())")) as program:
        assert program.end().startswith("main left ")  # the task ends so, and then its callback


ENDS_OF_EXITS = {
    "in a group's coroutine": """
        import asyncio, os, signal, flower
        def leave(*_):
            raise SystemExit(3)
        async def busy():
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):
                pass
        async def service():
            await asyncio.create_task(busy())
        signal.signal(signal.SIGTERM, leave)
        try:
            with flower.group() as g:
                g.go(flower.wait, service())
        except SystemExit as error:
            print("left with", error.code)
    """,
    "the same one twice": """
        import asyncio, flower
        EXIT = SystemExit(3)
        def leave():
            raise EXIT
        async def plan():
            asyncio.get_running_loop().call_soon(leave)
        for begin in (lambda: flower.wait(plan()), lambda: flower.go(leave)):
            try:
                begin()
                for _ in range(5):
                    flower.wait(asyncio.sleep(0))
            except SystemExit as error:
                print("left with", error.code)
    """,
    "Ctrl-C in a task": """
        import asyncio, os, signal, sys, flower
        def interrupt(*_):
            raise KeyboardInterrupt("mine")
        async def busy():
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass
        async def waits():
            await asyncio.create_task(busy())
        signal.signal(signal.SIGINT, interrupt)
        for begin in (lambda: flower.wait(waits()), lambda: flower.go(flower.wait, waits())):
            for step in (begin, lambda: [flower.wait(asyncio.sleep(0)) for _ in range(5)]):
                try:
                    step()
                except KeyboardInterrupt as error:
                    print("left with", error)
    """,
    "main kills who waits": """
        import asyncio, flower
        async def exits():
            raise SystemExit(3)
        async def waits():
            async with asyncio.TaskGroup() as group:
                group.create_task(exits())
        try:
            t = flower.go(flower.wait, waits())
            try:
                flower.channel().receive(5)
            finally:
                t.kill()
        except SystemExit as error:
            print("left with", error.code)
    """,
    "as who waits is killed": """
        import asyncio, os, signal, flower
        from flower.net._loop import wait
        def leave(*_):
            raise SystemExit(3)
        async def work():
            begun.try_send(None)
            try:
                await asyncio.sleep(60)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                for _ in range(1000):
                    pass
        signal.signal(signal.SIGTERM, leave)
        begun = flower.channel(1)
        for waits in (flower.wait, wait):
            try:
                t = flower.go(waits, work())
                begun.receive()
                t.kill()
                flower.channel().receive(5)
            except SystemExit as error:
                print("left with", error.code)
    """,
}


@pytest.mark.parametrize(
    ("which", "told"),
    [
        ("in a group's coroutine", ["3"]),
        ("the same one twice", ["3", "3"]),
        ("Ctrl-C in a task", ["mine", "mine"]),
        ("main kills who waits", ["3"]),
        ("as who waits is killed", ["3", "3"]),
    ],
)
def test_an_exit_ends_main_once(which: str, told: list[str]) -> None:
    with Program(ENDS_OF_EXITS[which]) as program:
        assert program.end().splitlines() == [f"left with {code}" for code in told]


@pytest.mark.parametrize("kills", [1, 2, 3])
def test_one_that_waits_for_a_coroutine_is_killed_again_and_again(kills: int) -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(NEVER)
        except asyncio.CancelledError:
            pass
        return "made"

    async def never() -> None:
        raise AssertionError

    disposed: list[str] = []
    for begun in (True, False):
        t = flower.go(wait, stubborn() if begun else never(), disposed.append)
        if begun:
            rounds(3)
        else:
            flower.schedule()
        for _ in range(kills):
            t.kill(pending=True)
            flower.schedule()
        until(lambda: not t.alive)  # noqa: B023
        gc.collect()  # it would complain of a coroutine that was never awaited
    assert disposed == ["made"]


# -- Fork

FORK = """
    import os, sys, warnings, flower
    from flower.net import Dial, Listen
    listener = Listen(("127.0.0.1", 0))
    near = Dial("tcp", listener.addr())
    far = listener.receive()
    near.send(b"before")
    assert far.receive(10) == b"before"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        for broken in (lambda: near.send(b"x"), lambda: far.receive(), lambda: listener.receive()):
            try:
                broken()
            except (ConnectionAbortedError, flower.ChannelClosed) as error:
                pass
            else:
                print("the child used the parent's connection", file=sys.stderr)
        own = Listen(("127.0.0.1", 0))
        mine = Dial("tcp", own.addr())
        theirs = own.receive(10)
        mine.send(b"child")
        assert theirs.receive(10) == b"child"
        near.close(); far.close(); listener.close()
        mine.close(); theirs.close(); own.close()
        print("child", flush=True)
        {leave}
    else:
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        near.send(b"after")
        assert far.receive(10) == b"after"
        again = Dial("tcp", listener.addr())
        third = listener.receive(10)
        again.close()
        assert third.read() == b""
        third.close(); near.close()
        assert far.read() == b""
        far.close(); listener.close()
        print("parent")
"""


@pytest.mark.slow
@pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit(0)", "pass"])
def test_a_fork_leaves_the_parents_connections_alone(leave: str) -> None:
    assert output(FORK.format(leave=leave)) == "child\nparent\n"


@pytest.mark.slow
def test_a_fork_in_a_callback_leaves_the_parents_connections_alone() -> None:
    code = """
        import os, warnings, flower
        from flower.net import Dial, Listen
        warnings.simplefilter("ignore")
        listener = Listen(("127.0.0.1", 0))
        near = Dial("tcp", listener.addr())
        far = listener.receive()
        children = []
        flower.set_error_handler(lambda t, error: children.append(os.fork()))
        def fails():
            raise ValueError
        flower.go(fails)
        flower.time.sleep(0.001)
        assert children[0], "main goes on in the child"
        print(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
        near.send(b"after")
        print(far.receive(10))
        near.close(); far.close(); listener.close()
    """
    assert output(code) == "0\nb'after'\n"


@pytest.mark.slow
def test_a_child_does_not_take_the_parents_signals() -> None:
    assert (
        output(
            """
            import os, signal, warnings, flower, flower.time
            from flower.net._loop import io_poller, wait
            async def nothing(): pass
            io_poller()
            wait(nothing())
            warnings.simplefilter("ignore")
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                os.read(read, 1)
                os._exit(0 if signal.set_wakeup_fd(-1) == -1 else 1)
            os.write(write, b"x")
            print(os.waitpid(child, 0)[1])
            """
        )
        == "0\n"
    )


def test_a_thread_that_threading_does_not_know_leaves_it_nothing_to_know() -> None:
    """A thread object that it would make never ends, and hides each Deadlock."""
    done: flower.channel[bool] = flower.channel(1)
    before = threading.enumerate()

    def listens() -> None:
        Listen(("127.0.0.1", 0)).close()
        done.send(True)

    _thread.start_new_thread(listens, ())
    assert done.receive(NEVER)
    assert threading.enumerate() == before
