"""Ctrl-C by a real SIGINT, and the ends of processes, in each state that a program can be in."""

from __future__ import annotations

import signal

import pytest

from .support import Interrupted, output, python

# Each program prints "ready" where the signal is to find it, or just before; then "caught", and it ends well.
STATES = {
    "main blocked in receive": """
        try:
            ready(); flower.channel().receive(timeout=30)
        except KeyboardInterrupt:
            print("caught")
    """,
    "main blocked in send": """
        try:
            ready(); flower.channel().send(1, timeout=30)
        except KeyboardInterrupt:
            print("caught")
    """,
    "main blocked in select": """
        try:
            ready(); flower.select(flower.channel(), flower.after(30))
        except KeyboardInterrupt:
            print("caught")
    """,
    "main asleep": """
        try:
            ready(); flower.time.sleep(30)
        except KeyboardInterrupt:
            print("caught")
    """,
    "main in run": """
        t = flower.go(flower.time.sleep, 30)
        try:
            ready(); flower.run()
        except KeyboardInterrupt:
            print("caught")
        t.kill()
    """,
    "main in join": """
        t = flower.go(flower.time.sleep, 30)
        try:
            ready(); t.join()
        except KeyboardInterrupt:
            print("caught")
        t.kill()
    """,
    "main in a group": """
        try:
            with flower.group() as g:
                g.go(flower.time.sleep, 30)
                ready()
        except KeyboardInterrupt:
            print("caught")
    """,
    "main in a blocking call": """
        import threading
        gate = threading.Event()
        try:
            ready(); flower.blocking(gate.wait, 30)
        except KeyboardInterrupt:
            print("caught")
        gate.set()
    """,
    "main waiting for another thread": """
        import threading
        gate = threading.Event()
        thread = threading.Thread(target=gate.wait)
        thread.start()
        try:
            ready(); flower.channel().receive()
        except KeyboardInterrupt:
            print("caught")
        gate.set()
    """,
    "main computing": """
        try:
            ready()
            while True: pass
        except KeyboardInterrupt:
            print("caught")
    """,
    "tasklets exchanging values while main is blocked": """
        a, b = flower.channel(), flower.channel()
        def pump(x, y):
            while True:
                x.send(y.receive())
        ts = [flower.go(pump, a, b), flower.go(pump, b, a), flower.go(a.send, 1)]
        try:
            ready(); flower.channel().receive()
        except KeyboardInterrupt:
            print("caught")
        for t in ts: t.kill()
    """,
    "a tasklet computing while main is blocked": """
        seen = []
        def compute():
            try:
                ready()
                while True: pass
            except KeyboardInterrupt:
                seen.append("in the tasklet")
                raise
        flower.go(compute)
        try:
            flower.channel().receive()
        except KeyboardInterrupt:
            assert seen == ["in the tasklet"]
            print("caught")
    """,
    "tasklets being made and ended": """
        def spawn():
            while True:
                flower.go(int)
                flower.schedule()
        t = flower.go(spawn)
        try:
            ready(); flower.run()
        except KeyboardInterrupt:
            print("caught")
        t.kill()
    """,
    "a schedule loop in main": """
        try:
            ready()
            while True: flower.schedule()
        except KeyboardInterrupt:
            print("caught")
    """,
    "main blocked on the network": """
        from flower import net
        listener = net.Listen(("127.0.0.1", 0), "tcp")
        try:
            ready(); listener.accept()
        except KeyboardInterrupt:
            print("caught")
        listener.close()
    """,
    "main asleep after the network was used": """
        from flower import net
        listener = net.Listen(("127.0.0.1", 0), "tcp")
        client = net.Dial("tcp", listener.addr())
        listener.accept()[0].close()
        client.close(); listener.close()
        try:
            ready(); flower.time.sleep(30)
        except KeyboardInterrupt:
            print("caught")
    """,
}
HEAD = """
import flower.time
def ready():
    print("ready")
"""
# After the interrupt all works as before.
TAIL = """
ch = flower.channel()
flower.go(ch.send, "works")
assert ch.receive(timeout=30) == "works"
flower.time.sleep(0.001)
try:
    flower.channel().receive()
except flower.Deadlock:
    print("end")
"""


def dedent(code: str) -> str:
    import textwrap

    return textwrap.dedent(code)


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
def test_keyboard_interrupt(state: str) -> None:
    program = Interrupted(HEAD + dedent(STATES[state]) + TAIL)
    assert program.line() == "ready"
    program.signal(signal.SIGINT)
    status, out, err = program.finish()
    assert (status, out.split(), err) == (0, ["caught", "end"], "")


def test_keyboard_interrupt_that_nobody_catches_ends_the_process() -> None:
    program = Interrupted(HEAD + "flower.go(flower.channel().receive)\nready()\nflower.time.sleep(30)\n")
    assert program.line() == "ready"
    program.signal(signal.SIGINT)
    status, _, err = program.finish()
    assert status in (130, -signal.SIGINT)
    assert err.rstrip().endswith("KeyboardInterrupt")


HAIL = """
import faulthandler, random, signal, sys, threading, time, flower, flower.time
sys.setswitchinterval(0.0005)
main, go_on = threading.get_ident(), threading.Event()
def interrupts():
    delays = random.Random(1)
    while True:
        go_on.wait()
        go_on.clear()
        until = time.perf_counter() + delays.random() * 0.0003
        while time.perf_counter() < until: pass
        signal.pthread_kill(main, signal.SIGINT)
threading.Thread(target=interrupts, daemon=True).start()
def receive(): flower.channel().receive()
def select(): flower.select(flower.channel(), flower.after(100))
def sleep(): flower.time.sleep(100)
def schedule():
    while True: flower.schedule()
def exchange():
    while True:
        ch = flower.channel()
        flower.go(ch.send, 1)
        ch.receive()
def groups():
    while True:
        with flower.group() as g:
            g.go(int)
            g.go(flower.schedule)
rounds = 0
for i in range(100):
    faulthandler.dump_traceback_later(10, exit=True)
    try:
        go_on.set()
        {what}()
    except KeyboardInterrupt:
        rounds += 1
    flower.run()
    ch = flower.channel()
    flower.go(ch.send, i)
    assert ch.receive(timeout=5) == i
    flower.run()
print(rounds)
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["receive", "select", "sleep", "schedule", "exchange", "groups"])
def test_no_interrupt_is_lost_whenever_it_comes(what: str) -> None:
    assert output(HAIL.replace("{what}", what)) == "100\n"


ONCE = {
    "a join": "flower.go(interrupted).join()",
    "run": "flower.run(interrupted)",
    "a group": "with flower.group() as g: g.go(interrupted)",
    "a group with others": "with flower.group() as g: g.go(interrupted); g.go(flower.time.sleep, 30)",
    "a group that another one waits for": "with flower.group() as g: g.go(lambda: flower.go(interrupted).join())",
}


@pytest.mark.parametrize("where", ONCE)
@pytest.mark.parametrize("what", ["signal.raise_signal(signal.SIGINT)", "raise KeyboardInterrupt"])
def test_ctrl_c_in_a_tasklet_ends_what_main_waits_for_once(where: str, what: str) -> None:
    code = f"""
        import signal, flower, flower.time
        def interrupted():
            {what}
        flower.go(int).join()
        try:
            {ONCE[where]}
            print("as if nothing had been", end=" ")
        except KeyboardInterrupt:
            print("interrupted", end=" ")
        flower.time.sleep(0)
        print("once")
    """
    assert output(code) == "interrupted once\n"


@pytest.mark.parametrize("what", ["signal.raise_signal(signal.SIGINT)", "raise KeyboardInterrupt"])
def test_ctrl_c_that_another_tasklet_joins_still_reaches_main(what: str) -> None:
    code = f"""
        import signal, flower, flower.time
        def interrupted():
            {what}
        def joins():
            try:
                t.join()
            except KeyboardInterrupt:
                done.send("joined")
        done = flower.channel(1)
        t = flower.go(interrupted)
        flower.go(joins)
        try:
            print(done.receive(), end=" ")
            flower.time.sleep(0)
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert output(code).endswith("interrupted\n")


@pytest.mark.parametrize(
    ("starts", "told"),
    [
        ("ch.send_sequence, map(signal.raise_signal, [signal.SIGINT])", "main 1"),  # the core's own: it goes on
        pytest.param("signal.raise_signal, signal.SIGINT", "main KeyboardInterrupt()", marks=pytest.mark.compiled),
        ("threading.Thread(target=signal.raise_signal, args=[signal.SIGINT]).run", "main KeyboardInterrupt()"),
    ],
)
def test_ctrl_c_in_a_tasklet_that_has_no_frame_of_the_program(starts: str, told: str) -> None:
    code = f"""
        import signal, threading, flower, flower.time
        ch = flower.channel(5)
        t = flower.go({starts})
        try:
            flower.time.sleep(10)
        except KeyboardInterrupt:
            print("main", end=" ")
        try:
            print(t.join())
        except KeyboardInterrupt as error:
            print(repr(error))
    """
    assert output(code) == told + "\n"


def test_an_interrupted_wait_leaves_nothing_on_the_channel() -> None:
    code = """
        ch = flower.channel()
        try:
            ready(); ch.receive(timeout=30)
        except KeyboardInterrupt:
            print("caught", ch.balance, ch.try_send("lost?"))
    """
    program = Interrupted(HEAD + dedent(code) + TAIL)
    assert program.line() == "ready"
    program.signal(signal.SIGINT)
    assert program.finish() == (0, "caught 0 False\nend\n", "")


def test_a_watch_on_sigint_replaces_keyboard_interrupt_until_it_is_closed() -> None:
    code = """
        import signal
        watch = flower.signals(signal.SIGINT)
        ready()
        assert watch.receive() == signal.SIGINT
        watch.close()
        try:
            ready(); flower.time.sleep(30)
        except KeyboardInterrupt:
            print("caught")
    """
    program = Interrupted(HEAD + dedent(code) + TAIL)
    for _ in range(2):
        assert program.line() == "ready"
        program.signal(signal.SIGINT)
    assert program.finish() == (0, "caught\nend\n", "")


def test_the_users_own_sigint_handler_is_left_alone() -> None:
    code = """
        import os, signal
        calls = []
        signal.signal(signal.SIGINT, lambda *args: calls.append(args))
        flower.time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        flower.time.sleep(0.001)
        print("caught" if len(calls) == 1 else calls)
    """
    assert output(HEAD + dedent(code) + TAIL) == "caught\nend\n"


# -- Ends of processes


@pytest.mark.parametrize(
    "blocked",
    [
        "flower.channel().receive",
        "flower.channel().send, 1",
        "flower.select, flower.channel()",
        "flower.time.sleep, 1000",
        "flower.after(1000).receive",
        "flower.run, flower.channel().receive",
    ],
)
def test_the_interpreter_exits_with_blocked_tasklets(blocked: str) -> None:
    code = f"""
        import flower, flower.time
        tasklets = [flower.go({blocked}) for _ in range(3)]
        flower.schedule()
        print("end")
    """
    assert output(code) == "end\n"


def test_the_interpreter_exits_from_a_tasklet() -> None:
    code = """
        import sys, flower, flower.time
        def leave():
            print("leaving")
            sys.exit(3)
        flower.go(leave)
        flower.channel().receive()
    """
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (3, "leaving\n", "")


def test_the_interpreter_exits_with_finalizers_that_use_channels() -> None:
    code = """
        import atexit, flower, flower.time
        ch = flower.channel(10)
        def blocked():
            try:
                flower.channel().receive()
            finally:
                ch.try_send("left")
        t = flower.go(blocked)
        flower.schedule()
        atexit.register(lambda: print("atexit", flower.getruncount()))
        print("end")
    """
    lines = output(code).splitlines()
    assert lines == ["end", "atexit 1"]


@pytest.mark.parametrize(
    "wait",
    [
        "flower.channel().receive()",
        "flower.channel().receive(timeout=10)",
        "flower.time.sleep(10)",
        "flower.go(print, 'nothing more is run').join()",
        "waiting.send('to nobody')",
    ],
)
def test_after_the_end_of_the_program_a_wait_says_so(wait: str) -> None:
    code = f"""
        import atexit
        def late():
            try:
                print("waited", {wait})
            except BaseException as error:
                print(repr(error))
        atexit.register(late)  # before the import of flower: so it is called after flower has ended
        import flower, flower.time
        waiting = flower.channel()
        def receive():
            print("received", waiting.receive(), waiting.receive())
        flower.go(receive)
        flower.schedule()
        print("end")
    """
    if "waiting" in wait:  # who waits is there still, and takes it, but never runs
        assert output(code) == "end\nwaited None\n"
    else:
        assert output(code) == "end\nTaskletExit('this thread is at its end: nothing is waited for any more')\n"


def test_after_the_end_of_the_program_ctrl_c_is_not_held() -> None:
    code = """
        import atexit, signal
        def late():
            try:
                signal.raise_signal(signal.SIGINT)
                print("not interrupted")
            except KeyboardInterrupt:
                print("interrupted")
        atexit.register(late)  # before the import of flower: so it is called after flower has ended
        import flower
        flower.go(print, "ran")
        flower.run()
    """
    assert output(code) == "ran\ninterrupted\n"


def test_the_interpreter_exits_while_other_threads_are_blocked() -> None:
    code = """
        import threading, flower, flower.time
        ch = flower.channel()
        def other():
            flower.go(ch.receive)
            ch.receive()
        threading.Thread(target=other, daemon=True).start()
        while ch.balance != -2:
            flower.time.sleep(0.001)
        print("end")
    """
    assert output(code) == "end\n"


def test_threads_that_are_waited_for_at_exit_still_work() -> None:
    code = """
        import threading, flower, flower.time
        go_on = threading.Event()
        def other():
            go_on.wait()
            ch = flower.channel()
            flower.go(ch.send, "late")
            print(ch.receive())
        threading.Thread(target=other).start()
        print("end of main")
        go_on.set()
    """
    assert output(code) == "end of main\nlate\n"


@pytest.mark.slow
@pytest.mark.compiled  # uncompiled, a handler may raise between any two lines of the core's own
def test_a_handler_that_raises_again_and_again_does_not_end_the_hub() -> None:
    code = """
        import signal, time, flower
        class Alarm(Exception): pass
        def handler(_, frame):
            if frame.f_globals["__name__"] != "__main__":  # where this program could not catch it
                raise Alarm
        signal.signal(signal.SIGALRM, handler)
        alarms, end = 0, time.monotonic() + 3
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0002)
        while time.monotonic() < end:
            try:
                flower.channel().receive(timeout=0.01)
            except Alarm:
                alarms += 1
            except flower.Timeout:
                pass
        signal.setitimer(signal.ITIMER_REAL, 0)
        flower.time.sleep(0.001)
        print(alarms > 100)
    """
    assert output(code) == "True\n"


def test_the_handler_is_looked_at_for_the_first_of_many_tasklets() -> None:
    code = """
        import signal, flower
        looked, getsignal = [], signal.getsignal
        signal.getsignal = lambda signum: looked.append(signum) or getsignal(signum)
        for _ in range(1000):
            flower.go(len, "")
        print(len(looked), signal.getsignal(signal.SIGINT).__module__)
        flower.run()
    """
    assert output(code) == "1 flower.channels._lifecycle\n"


def test_an_interrupt_is_passed_on_to_main_after_a_watch_that_came_before_all_tasklets() -> None:
    code = """
        import os, signal, flower
        watch = flower.signals(signal.SIGINT)
        flower.run(int)
        watch.close()

        def interrupted():
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                print("in the tasklet")

        flower.go(interrupted)
        try:
            flower.run()
        except KeyboardInterrupt:
            print("and in main")
    """
    assert output(code) == "in the tasklet\nand in main\n"
