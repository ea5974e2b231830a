"""The I/O tasklet at the end of a program or a thread: interrupts, exits, errors of signal handlers, and forks."""

from __future__ import annotations

import _thread
import asyncio
import gc
import os
import signal
import threading
from typing import Any

import pytest

import flower
import flower.time
from flower.net import Dial, Listen
from flower.net._loop import io_poller, wait
from tests.net.support import (
    HOME,
    NEVER,
    Program,
    connected,
    in_thread,
    listening,
    output,
    rounds,
    until,
)

pytestmark = pytest.mark.usefixtures("loop")

SOON = 0.005  # seconds; a timeout that a test waits for


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


RAISES = """
    import flower, signal
    from flower.net import Listen
    def handler(signum, frame):
        raise {raised}
    signal.signal(signal.SIGTERM, handler)
    listener = Listen(("127.0.0.1", 0))
    flower.go(print, "ready")
    try:
        {wait}
    except ArithmeticError as error:
        print(error)
    except SystemExit:
        print("left")
        raise
    finally:
        listener.close()
    flower.schedule()
    print("end")
"""


@pytest.mark.parametrize(
    ("raised", "told", "wait"),
    [
        ("SystemExit(0)", "left\n", "listener.accept()"),
        ("SystemExit(0)", "left\n", "flower.go(listener.accept); flower.run()"),
        ("SystemExit(0)", "left\n", "flower.after(30).receive()"),
        ("ArithmeticError('alarm')", "alarm\nend\n", "listener.accept()"),
        ("ArithmeticError('alarm')", "alarm\nend\n", "flower.go(flower.never().receive); listener.accept()"),
        ("ArithmeticError('alarm')", "alarm\nend\n", "flower.after(30).receive()"),
    ],
)
def test_what_a_signal_handler_raises_is_raised_where_main_waits(raised: str, told: str, wait: str) -> None:
    with Program(RAISES.format(raised=raised, wait=wait)) as program:
        assert program.line() == "ready"
        program.kill(signal.SIGTERM)
        assert program.end() == told


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


@pytest.mark.leaves("descriptors")  # uvloop makes new ones when it starts again
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


TASKS = """
    import asyncio, logging, os, sys, threading, warnings, flower
    warnings.simplefilter("ignore")
    tasks = []

    async def cleans_up(clean_up):
        try:
            await asyncio.sleep(60)
        finally:
            await clean_up()

    async def begins(*clean_ups):
        tasks.extend(asyncio.create_task(cleans_up(each)) for each in clean_ups)
        await asyncio.sleep(0)

    def ends(where, *clean_ups):
        if where == "thread":
            thread = threading.Thread(target=flower.wait, args=(begins(*clean_ups),))
            thread.start()
            thread.join()
        else:
            flower.wait(begins(*clean_ups))
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["thread", "program"])
def test_a_task_that_exits_at_the_end_leaves_the_others_their_time(where: str) -> None:
    code = f"""{TASKS}
    async def exits():
        sys.exit("no more of this")

    async def takes_a_while():
        await asyncio.sleep(0.01)
        print("cleaned up")

    logging.disable()  # asyncio tells of it as well
    sys.stderr = sys.stdout
    ends({where!r}, exits, takes_a_while)
    """
    told = output(code).splitlines()
    assert told[0] == "cleaned up" and told[1].startswith("Error of a tasklet") and told[-1].endswith("no more of this")


@pytest.mark.slow
@pytest.mark.parametrize(("where", "leave", "status"), [("thread", "pass", 0), ("program", "sys.exit(3)", 3)])
def test_a_task_that_forks_at_the_end_ends_the_child(where: str, leave: str, status: int) -> None:
    code = f"""{TASKS}
    async def forks():
        child = os.fork()
        if child:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        else:
            {leave}

    ends({where!r}, forks)
    """
    assert output(code) == f"{status}\n"
