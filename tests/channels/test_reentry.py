"""Programs that come back into the core where it is least expected: finalizers, callbacks, hooks and handlers."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest

import flower
from flower import channel, go, schedule, tasklet

from .support import output, settle


@pytest.fixture
def callback() -> Iterator[Any]:
    """Sets a schedule callback for the test's time."""
    yield flower.set_schedule_callback
    flower.set_schedule_callback(None)


# -- Finalizers


@pytest.mark.slow
def test_a_finalizer_sends_on_the_channel_whose_buffer_is_growing() -> None:
    code = """
        import gc, math, flower
        ch, sent = flower.channel(math.inf), []
        class Dropped:
            def __init__(self, n):
                self.n, self.itself = n, self
            def __del__(self):
                sent.append(("dropped", self.n))
                ch.send(("dropped", self.n))
        gc.disable()
        gc.set_threshold(1, 1, 1)
        hoard = [[] for _ in range(500)]  # a new list is an allocation then, which may collect
        for i in range(40):
            Dropped(i)
            sent.append(("value", i))
            gc.enable()
            ch.send(("value", i))
            gc.disable()
        gc.collect()
        ch.close()
        got = list(ch)
        print(len(got), None in got, sorted(got) == sorted(sent))
    """
    assert output(code) == "80 False True\n"


@pytest.mark.slow
def test_a_finalizer_uses_blocking_as_a_worker_is_started_for_blocking() -> None:
    code = """
        import flower, gc, threading
        ended = []
        class Dropped:
            def __init__(self):
                self.itself = self
            def __del__(self):
                ended.append(flower.blocking(sum, [1, 2]))
        class Thread(threading.Thread):
            def start(self):
                gc.collect()  # as any allocation may
                super().start()
        threading.Thread = Thread
        Dropped()
        print(flower.blocking(sum, [3, 4]), ended)
        try:
            flower.channel().receive()
        except flower.Deadlock:
            print("Deadlock")
    """
    assert output(code, limit=10.0) == "7 [3]\nDeadlock\n"


@pytest.mark.slow
@pytest.mark.compiled  # uncompiled, no other thread can do anything while a tasklet ends
def test_a_joiner_that_gives_up_as_a_finalizer_runs_is_not_told_in_its_next_wait() -> None:
    code = """
        import contextlib, gc, threading, time, flower
        gc.disable()
        ch, joining, armed, joiners, log = flower.channel(), threading.Event(), [], [], []
        def joins():
            try:
                t.join()
            except KeyError:
                ch.send("value")
                log.append("sent to nobody")
        def other():
            joiners.extend(flower.go(joins) for _ in range(5))
            flower.schedule()
            joining.set()
            for joiner in joiners:
                with contextlib.suppress(flower.ChannelClosed):
                    joiner.join()
        class Dropped:
            def __init__(self):
                self.itself = self
            def __del__(self):
                if not armed:
                    return
                if t.alive or joiners[0].blocked or joiners[-1].blocked != -1:
                    Dropped()
                    return
                armed.clear()  # some have been told
                joiners[-1].raise_exception(KeyError)
                while joiners[-1].blocked != 1:
                    time.sleep(0.001)
        def ends():
            joining.wait()
            hoard.extend([(i, i, i) for i in range(5000)])  # a new tuple is an allocation then, which may collect
            armed.append(True)
            Dropped()
            gc.set_threshold(1, 1000, 1000)
            gc.enable()
        hoard = []
        t = flower.go(ends)
        thread = threading.Thread(target=other)
        thread.start()
        flower.run()
        gc.disable()
        armed.clear()
        ch.receiver.close()  # for one who does send
        thread.join()
        print(log)
    """
    assert output(code, limit=20) == "[]\n"


@pytest.mark.slow
def test_a_finalizer_that_blocks_while_a_tasklet_starts_costs_no_tasklet() -> None:
    code = """
        import gc, sys, flower
        sys.unraisablehook = lambda report: None  # the finalizer may be refused: it may not block just anywhere
        ch, reports, ran = flower.channel(), flower.channel(), []
        class Dropped:
            def __init__(self):
                self.itself = self
            def __del__(self):
                try:
                    reports.send("gone", timeout=0.001)
                except flower.Timeout:
                    pass
        def work(i):
            ran.append(i)
            Dropped()
            ch.receive()
        tasklets = [flower.go(work, i) for i in range(100)]
        gc.set_threshold(1)
        flower.run()
        gc.disable()
        print(sorted(ran) == list(range(100)), ch.balance, all(t.blocked for t in tasklets))
    """
    assert output(code) == "True -100 True\n"


@pytest.mark.slow
def test_a_select_whose_place_a_finalizer_takes_has_not_sent() -> None:
    """The collector may run in the allocation of the channel's buffer, and a finalizer fill the channel."""
    code = """
        import gc, flower
        for threshold in range(1, 300):
            ch = flower.channel(1)
            class Dropped:
                def __del__(self):
                    ch.try_send("the finalizer's")
            x = Dropped(); x.itself = x; del x
            gc.disable(); gc.set_threshold(threshold); gc.enable()
            result = flower.select((ch, "mine"), default="full")
            gc.set_threshold(700)
            held = ch.receive()
            assert (result.index == 0) == (held == "mine"), (threshold, result.index, held)
            gc.collect()
        print("ok")
    """
    assert output(code) == "ok\n"


@pytest.mark.slow
def test_values_that_are_put_back_are_not_overwritten_by_a_finalizers() -> None:
    code = """
        import gc, flower
        from flower.channels._elsewhere import put_back
        for threshold in range(1, 200):
            ch = flower.channel(100)
            ch.send_sequence(range(5))
            said = []
            class Dropped:
                def __del__(self):
                    said.append(ch.try_send("the finalizer's"))
            x = Dropped(); x.itself = x; del x
            gc.disable(); gc.set_threshold(threshold); gc.enable()
            put_back(ch, [-2, -1])
            gc.set_threshold(700)
            gc.collect()
            got = [ch.receive() for _ in range(len(ch))]
            assert got == [-2, -1, 0, 1, 2, 3, 4, "the finalizer's"] and said == [True], (threshold, got)
        print("ok")
    """
    assert output(code) == "ok\n"


def test_the_finalizer_of_a_function_starts_its_tasklet_again() -> None:
    calls: list[Any] = []

    class Function:
        def __call__(self, *args: Any) -> None:
            calls.append(args)

        def __del__(self) -> None:
            if len(calls) < 3:
                t.bind(Function(), (len(calls),)).insert()

    t = tasklet(Function())
    t(0)
    flower.run()
    assert calls == [(0,), (1,), (2,)]
    assert not t.alive


# -- Schedule callbacks


def test_the_schedule_callback_and_the_unraisable_hook_both_raise(
    callback: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*args: Any) -> None:
        raise LookupError("fails")

    ran: list[int] = []
    tasklets = [go(ran.append, i) for i in range(5)]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "unraisablehook", fails)
        callback(fails)
        settle()
        callback(None)
    assert ran == [0, 1, 2, 3, 4]
    assert not any(t.alive for t in tasklets)
    assert "fails" in capsys.readouterr().err


@pytest.mark.parametrize("cases", [1, 2, 3])
def test_a_schedule_callback_selects_as_a_tasklet_parks_in_a_select(callback: Any, cases: int) -> None:
    """It may not wait, but it may look; and leaves the tasklet its place in the channels."""
    one, other, quiet = channel(), channel(), channel()
    for end in ("kill", "send"):
        t = go(flower.select, one, other)
        callback(lambda *_: flower.select(*[quiet] * cases, default=None))
        schedule()
        callback(None)
        assert (one.balance, other.balance, t.blocked) == (-1, -1, -1)
        if end == "kill":
            t.kill()
        else:
            other.send("a value")
            assert t.join() == (other, "a value")
        assert (one.balance, other.balance, t.alive) == (0, 0, False)
        assert not one.try_send("nobody is there")


def test_a_schedule_callback_throws_into_an_unstarted_tasklet_when_main_is_next(callback: Any) -> None:
    ran: list[str] = []

    def works(name: str) -> None:
        ran.append(name)
        schedule()
        ran.append(name.upper())

    def before(previous: Any, following: Any) -> None:
        if following is flower.getmain():
            callback(None)
            victim.throw(ValueError("thrown"), pending=True)

    a, b = go(works, "a"), go(works, "b")
    victim = tasklet(ran.append)
    victim.bind(None, ("victim",))
    callback(before)
    errors = []
    for _ in range(2):
        try:
            schedule()
            settle()
        except ValueError as e:
            errors.append(str(e))
    settle()
    assert (ran, errors) == (["a", "b", "A", "B"], ["thrown"])
    assert not (a.alive or b.alive or victim.alive)
    assert flower.getruncount() == 1


def test_a_schedule_callback_kills_or_removes_the_unstarted_tasklet_that_is_next(callback: Any) -> None:
    def before(previous: Any, following: Any) -> None:
        if following is t:
            for operation in (t.remove, lambda: t.kill(pending=True)):
                try:
                    operation()
                except BaseException as e:
                    outcomes.append(e)

    outcomes: list[BaseException] = []
    t = go(int)
    callback(before)
    settle()
    callback(None)
    settle()
    assert not t.alive
    assert all(type(e) is RuntimeError for e in outcomes), "refused, if at all, in so many words"


@pytest.mark.slow
@pytest.mark.compiled  # uncompiled, the core itself needs Python frames, and runs out of them half way
def test_at_the_recursion_limit_a_schedule_callback_costs_no_tasklet() -> None:
    code = """
        import sys, flower
        def at_depth(left, operation):
            return operation() if left <= 0 else at_depth(left - 1, operation)
        def attempt(spare, operation):
            depth, frame = 0, sys._getframe()
            while frame:
                depth, frame = depth + 1, frame.f_back
            try:
                at_depth(sys.getrecursionlimit() - depth - 2 - spare, operation)
            except RecursionError:
                return False
            return True
        sys.setrecursionlimit(300)
        sys.unraisablehook = lambda report: None
        flower.set_schedule_callback(lambda before, after: None)
        for spare in range(25):
            ran = []
            for i in range(3):
                flower.go(ran.append, i)
            attempt(spare, flower.schedule)
            flower.run()
            assert sorted(ran) == [0, 1, 2], (spare, ran)
            ch, got = flower.channel(), []
            t = flower.go(lambda: got.append(ch.receive()))
            flower.schedule()
            sent = attempt(spare, lambda: ch.send(1))
            flower.run()
            assert got == [1] if sent else (got == [] and t.blocked), (spare, sent, got, t)
            t.kill()
        print("all ran")
    """
    assert output(code) == "all ran\n"


# -- Signal handlers


def test_a_signal_handler_that_raises_while_main_takes_an_error_leaves_main_able_to_wait() -> None:
    """A tracer raises at each bytecode of the taking in turn, as a signal handler of the program's own might."""

    class Alarm(Exception):
        pass

    def sends_and_fails() -> None:
        ch.send("value")
        raise LookupError

    def taking(at: int) -> bool:
        """Says whether it got as far as that bytecode."""
        count = 0

        def trace(frame: Any, event: str, arg: Any) -> Any:
            nonlocal count
            frame.f_trace_opcodes = frame.f_code.co_name == "alerted"
            if event == "opcode":
                count += 1
                if count == at:
                    raise Alarm
            return trace

        go(sends_and_fails)
        assert ch.receive() == "value"  # main was served already: the error waits for its next park
        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for such a frame when the tracing begins
        sys.settrace(trace)
        try:
            schedule()
        except (Alarm, LookupError):
            pass
        finally:
            sys.settrace(before)
        for _ in range(3):
            try:
                schedule()
            except LookupError as e:
                assert type(e) is LookupError, "it had not been taken; and no IndexError, ever"
        return count >= at

    ch = channel()
    ch.preference = 1
    at = 1
    while taking(at):
        at += 1
    assert at > 10, "the taking was traced"


@pytest.mark.slow
def test_ctrl_c_reaches_a_busy_function_that_after_func_called() -> None:
    code = """
        import os, signal, flower, flower.time
        def busy():
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(100_000):
                pass
            print("held")
        flower.time.after_func(0.001, busy)
        try:
            flower.time.sleep(30)
        except KeyboardInterrupt:
            print("caught")
    """
    assert output(code) == "caught\n"


# -- A tasklet that is started while it is being started


class Last:
    """Something whose finalizer calls a function; what that raises is kept."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.refused: list[BaseException] = []

    def __del__(self) -> None:
        try:
            self.call()
        except RuntimeError as error:
            self.refused.append(error)


def test_the_arguments_that_a_bind_drops_start_the_tasklet() -> None:
    ran: list[Any] = []
    t = tasklet(ran.append)
    t.bind(None, (Last(lambda: t("dropped")),))
    t.bind(None, ("bound",))
    x = go(ran.append, "x")
    t.insert()
    x.join()
    settle()
    assert ran == ["bound", "x"] or ran == ["x", "bound"]
    assert not t.alive


def test_the_result_that_a_start_drops_starts_the_tasklet() -> None:
    ran: list[Any] = []
    t = tasklet(lambda: Last(lambda: (t.bind(lambda: ran.append("dropped")), t())))
    t()
    settle()
    t.bind(lambda: ran.append("bound"))
    t()
    settle()
    assert len(ran) == 1
    assert not t.alive


def test_a_tasklet_that_blocks_while_it_is_inserted_is_not_switched_to(monkeypatch: pytest.MonkeyPatch) -> None:
    ch = channel[int]()
    got: list[int] = []
    t = tasklet(lambda: got.append(ch.receive())).bind(None, ())
    real = signal.getsignal

    def getsignal(number: int) -> Any:
        monkeypatch.undo()
        t.insert()
        schedule()
        return real(number)

    monkeypatch.setattr(signal, "getsignal", getsignal)
    t.run()
    monkeypatch.undo()
    settle()
    assert (got, ch.balance) == ([], -1)
    ch.send(1)
    settle()
    assert got == [1] and not t.alive


def test_an_interrupt_while_the_first_carrier_is_made_loses_no_tasklet() -> None:
    code = """
        import flower
        from flower.channels import _scheduler
        real = _scheduler.cold.register
        def register(s):
            _scheduler.cold.register = real
            real(s)
            raise KeyboardInterrupt  # as a handler of the program's own can, in there
        _scheduler.cold.register = register
        t = flower.go(lambda: print("ran"))
        try:
            flower.schedule()
        except KeyboardInterrupt:
            print("interrupted")
        flower.schedule()
        t.join()
    """
    assert sorted(output(code).split()) == ["interrupted", "ran"]


@pytest.mark.slow
@pytest.mark.compiled  # uncompiled, it is threading.local that is made twice
@pytest.mark.parametrize("use", ["flower.getcurrent()", "io_poller()"])
def test_a_finalizer_that_runs_as_a_thread_s_scheduler_or_loop_is_made_makes_no_second_one(use: str) -> None:
    code = f"""
        import gc, threading, flower
        from flower.net._loop import io_poller
        class Garbage:
            def __init__(self):
                self.me = self
            def __del__(self):
                seen.append({use})
        def body():
            if {use!r} != "flower.getcurrent()":
                flower.getcurrent()
            Garbage()
            gc.set_threshold(objects)  # until the collector runs
            seen.append({use})
            gc.set_threshold(100_000)
            if any(each is not {use} for each in seen):
                print("two at", objects)
            flower.go(int)
            flower.schedule()
        gc.set_threshold(100_000)
        io_poller()
        for objects in range(1, 60):
            gc.collect()
            seen = []
            thread = threading.Thread(target=body)
            thread.start()
            thread.join()
        print("end")
    """
    assert output(code) == "end\n"


def test_what_a_tasklets_context_drops_may_start_tasklets_as_the_next_one_begins() -> None:
    thing: ContextVar[Any] = ContextVar("thing")
    other: ContextVar[int] = ContextVar("other")
    ran: list[int] = []

    class Thing:
        def __del__(self) -> None:
            go(ran.append, other.get())

    def look() -> None:
        other.set(1)
        go(lambda: thing.set(Thing()))
        go(other.set, 2)

    go(look)
    flower.run()
    assert ran in ([1], [2])
