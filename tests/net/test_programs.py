"""flower.process: real programs that read, write, flood, ignore, hang and are killed."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import flower
from flower import process
from flower.net import Lines, framed
from flower.process import start
from tests.net.support import NEVER, failing, in_thread, output, rounds, until

pytestmark = pytest.mark.usefixtures("loop")

SLEEPER = ["sleep", "1000"]
STUBBORN = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done"]


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-E", "-c", textwrap.dedent(code)]


def gone(pid: int) -> bool:
    """Whether there is no such process, not even a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture(params=["descriptor", "thread"])
def notice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which a program's end is noticed."""
    if request.param == "thread":
        monkeypatch.delattr(os, "pidfd_open", raising=False)


# -- run


def test_run() -> None:
    done = process.run(["sort"], input="pear\napple\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"apple\npear\n", b"")
    assert process.run(["cat"]).stdout == b""  # without input it reads an empty one
    assert process.run(["wc", "-c"], input=b"x" * 65_537).stdout.strip() == b"65537"  # one more than is sent at a time
    assert process.run("echo $((6 * 7))", shell=True).stdout == b"42\n"
    assert process.run([Path("/bin/echo"), b"hello"]).stdout == b"hello\n"


def test_run_with_a_directory_and_an_environment(tmp_path: Path) -> None:
    done = process.run(
        ["sh", "-c", "pwd; echo $FLOWER"], cwd=tmp_path, env={"FLOWER": "rose", "PATH": os.environ["PATH"]}
    )
    assert done.stdout.decode().split() == [str(tmp_path), "rose"]


@pytest.mark.slow
def test_run_with_much_of_everything() -> None:
    data = os.urandom(1 << 20) * 10
    done = process.run(["tee", "/dev/stderr"], input=data)
    assert done.stdout == data
    assert done.stderr == data


def test_a_program_that_fails() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        process.run(["sh", "-c", "echo out; echo the reason >&2; exit 3"])
    error = caught.value
    assert (error.returncode, error.stdout, error.stderr) == (3, b"out\n", b"the reason\n")
    assert error.__notes__ == ["the reason"]
    assert process.run(["false"], check=False).returncode == 1
    assert process.run(["sh", "-c", "kill -9 $$"], check=False).returncode == -9


def test_a_program_that_does_not_read_its_input() -> None:
    assert process.run(["true"], input=b"x" * 1_000_000).returncode == 0
    assert process.run(["head", "-c", "3"], input=b"x" * 1_000_000).stdout == b"xxx"


@pytest.mark.parametrize("args", [["no such program"], "no such program", ["/"]])
def test_what_is_no_program(args: Any) -> None:
    with pytest.raises(OSError, match=r"no such program|Permission denied: '/'"):
        process.run(args)


@pytest.mark.parametrize("args", [[], "", [""], ["  "]])
def test_no_program_at_all(args: Any) -> None:
    for function in (process.run, start):
        with pytest.raises(ValueError, match="no program to start") as caught:
            function(args)
        assert repr(args) in str(caught.value)


def test_a_program_s_name(tmp_path: Path) -> None:
    path = tmp_path / "a program"
    path.symlink_to("/bin/true")
    for args in (path, str(path), [str(path), "argument"]):
        with start(args) as program:
            assert f"<Process a program[{program.pid}]" in repr(program)
    if sys.version_info < (3, 13):  # later ones refuse an empty name themselves
        with start(["", "argument"], executable="/bin/true") as program:
            assert "<Process true[" in repr(program)
    with start("true argument", shell=True) as program:
        assert "<Process true[" in repr(program)


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        process.run(["true"], cwd=tmp_path / "missing")
    for option in "text", "encoding", "bufsize", "universal_newlines", "errors":
        with pytest.raises(TypeError, match=f"the option '{option}' is not for them"):
            start(["true"], **{option: None})
    with pytest.raises((TypeError, ValueError)):
        process.run(["true"], timeout="soon")  # type: ignore[arg-type]
    wrong: Any
    for wrong in ({"true"}, iter(["true"]), 5, None):
        with pytest.raises(TypeError, match="a sequence of that and its arguments"):
            start(wrong)


def test_a_bad_input_starts_no_program(tmp_path: Path) -> None:
    wrong: Any = 5
    with pytest.raises(TypeError, match="a program's input is bytes or a str, not 5"):
        process.run(["touch", str(tmp_path / "started")], input=wrong)
    assert not os.listdir(tmp_path)


def test_a_timeout_ends_the_program() -> None:
    with pytest.raises(flower.Timeout, match=r"sh was not done within 0\.05 s"):
        process.run(["sh", "-c", "echo $$; exec sleep 1000"], timeout=0.05)


def test_a_cancelled_run_ends_the_program(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with flower.move_on() as scope:
        flower.go(lambda: (until(lambda: path.exists() and path.read_text()), scope.cancel()))
        process.run(["sh", "-c", f"echo $$ > {path}; exec sleep 1000"])
        pytest.fail("not reached")
    assert gone(int(path.read_text()))


def test_a_killed_run_ends_the_program(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    t = flower.go(process.run, ["sh", "-c", f"echo $$ > {path}; exec sleep 1000"])
    until(lambda: path.exists() and path.read_text())
    t.kill()
    with pytest.raises(flower.TaskletKilled):
        t.join(NEVER)
    assert gone(int(path.read_text()))


# -- start


def test_a_conversation() -> None:
    with start(["cat"]) as program:
        for data in b"one", b"two":
            program.stdin.send(data)
            assert program.stdout.receive(NEVER) == data
        assert program.stderr is None
        assert program.status is None
        assert repr(program) == f"<Process cat[{program.pid}], running>"
        program.stdin.close()
        assert program.stdout.read(timeout=NEVER) == b""
    assert program.status == 0
    assert repr(program) == f"<Process cat[{program.pid}], status 0>"
    assert gone(program.pid)


@pytest.mark.slow
def test_lines_from_a_program() -> None:
    with start(python("for n in range(5000): print(n)")) as program:
        assert list(framed(program.stdout, Lines())) == [str(n) for n in range(5000)]


def test_standard_error() -> None:
    with start(["sh", "-c", "echo oops >&2"], stderr=subprocess.PIPE) as program:
        assert program.stderr.read(timeout=NEVER) == b"oops\n"
    with start(["sh", "-c", "echo oops >&2"], stderr=subprocess.STDOUT) as program:
        assert program.stdout.read(timeout=NEVER) == b"oops\n"


def test_what_is_not_piped() -> None:
    with start(["true"], stdin=None, stdout=subprocess.DEVNULL) as program:
        assert program.stdin is program.stdout is program.stderr is None


@pytest.mark.usefixtures("notice")
def test_the_exit_status_is_a_channel() -> None:
    with start(["sh", "-c", "read line; exit 7"]) as program:
        deadline = flower.after(NEVER)
        assert flower.select(program.exit, default=None).index == -1
        with pytest.raises(flower.Timeout, match=r"sh\[\d+\] has not ended within 0\.002 s"):
            program.wait(0.002)
        waiters = [flower.go(program.wait) for _ in range(3)]
        program.stdin.write("\n")
        assert flower.select(program.exit, deadline) == (program.exit, 7)
        assert [t.join(NEVER) for t in waiters] == [7] * 3
        assert program.wait() == program.status == 7
        assert list(program.exit) == []


@pytest.mark.usefixtures("notice")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_signals(signum: signal.Signals) -> None:
    with start(SLEEPER) as program:
        program.send_signal(signum)
        assert program.exit.receive(NEVER) == -signum
        program.send_signal(signum)  # it has ended: nobody gets it
        program.kill()
        program.terminate()


def test_stop() -> None:
    with start(SLEEPER) as program:
        wrong: Any = "soon"
        with pytest.raises(TypeError):
            program.stop(wrong)
        program.send_signal(signal.SIGVTALRM)  # of two, the kernel delivers that of the lower number first
        assert program.wait(NEVER) == -signal.SIGVTALRM
    with start(SLEEPER) as program:
        assert program.stop() == -signal.SIGTERM
        assert program.stop() == -signal.SIGTERM
    with start(STUBBORN) as program:
        assert program.stdout.receive(NEVER) == b"ready\n"
        assert program.stop(grace=0.02) == -signal.SIGKILL


def test_a_block_that_fails_ends_the_program() -> None:
    with pytest.raises(KeyError), start(SLEEPER) as program:
        raise KeyError
    assert program.status == -signal.SIGTERM


def test_a_block_that_is_cancelled_ends_the_program() -> None:
    with flower.move_on(0.01), start(SLEEPER) as program:
        flower.channel().receive()
    assert program.status == -signal.SIGTERM
    with flower.move_on(0.01), start(SLEEPER) as program:
        pass  # cancelled while it waits for the end
    assert program.status == -signal.SIGTERM


def test_the_input_of_a_program_that_was_ended_is_cut() -> None:
    with (
        pytest.raises(KeyError),
        start(["sh", "-c", "exec 3<&0; sleep 1000 <&3 & echo $!; exec sleep 1000"]) as program,
    ):
        orphan = int(program.stdout.read_until(timeout=NEVER))
        program.stdin.send(b"x" * 1_000_000)
        raise KeyError
    rounds(2)
    try:
        assert program.stdin._stream._transport is None
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_a_program_killed_with_output_unread() -> None:
    with start(["sh", "-c", "yes | head -c 60000; echo end; exec sleep 1000"]) as program:
        program.stdout.read_exactly(1, timeout=NEVER)
        program.kill()
        assert program.wait(NEVER) == -9
        rest = b"".join(program.stdout)
        assert len(rest) < 60_004
        assert program.stdout.read() == b""


def test_a_program_that_dies_while_it_is_fed() -> None:
    def feed() -> None:
        while True:
            program.stdin.send(b"x" * 65_536)

    with start(["sh", "-c", "head -c 100000 > /dev/null; kill -9 $$"]) as program:
        t = flower.go(feed)
        with pytest.raises(BrokenPipeError, match=r"sh\[\d+\] stdin"):
            t.join(NEVER)
        assert program.wait(NEVER) == -9


def test_a_program_that_closes_its_input_while_nobody_sends() -> None:
    with start(["sh", "-c", "exec <&-; echo closed; exec sleep 1000"]) as program:
        assert program.stdout.receive(NEVER) == b"closed\n"
        until(lambda: program.stdin.status == "closed")
        with pytest.raises(BrokenPipeError):
            program.stdin.send(b"x")
        program.kill()


def test_a_program_that_never_reads_holds_the_sender_back() -> None:
    with start(SLEEPER) as program:
        sent = 0
        with pytest.raises(flower.Timeout):
            while True:
                program.stdin.send(b"x" * 10_000, timeout=0.01)
                sent += 10_000
        assert sent < 1_000_000
        program.kill()


def test_a_program_that_floods_is_held_back() -> None:
    with start(["yes"]) as program:
        rounds(100)
        assert len(program.stdout._incoming) * 65_536 < 2_000_000
        received = 0
        while received < 5_000_000:
            received += len(program.stdout.receive(NEVER))
        program.stdout.close()  # SIGPIPE ends it
        assert program.wait(NEVER) == -signal.SIGPIPE


def test_a_grandchild_that_keeps_the_pipe() -> None:
    with start(["sh", "-c", "sleep 1000 & echo $!"]) as program:
        grandchild = int(program.stdout.read_until(timeout=NEVER))
        assert program.wait(NEVER) == 0
        with pytest.raises(flower.Timeout):
            program.stdout.read(timeout=0.002)
        os.kill(grandchild, signal.SIGKILL)
        assert program.stdout.read(timeout=NEVER) == b""


@pytest.mark.slow
@pytest.mark.usefixtures("notice")
def test_many_at_a_time() -> None:
    def one(n: int) -> bytes:
        return process.run(["cat"], input=str(n)).stdout

    tasklets = [flower.go(one, n) for n in range(60)]
    assert [t.join(NEVER) for t in tasklets] == [str(n).encode() for n in range(60)]


def test_only_the_caller_waits() -> None:
    begin = time.monotonic()
    tasklets = [flower.go(process.run, ["sleep", "0.1"]) for _ in range(5)]
    for t in tasklets:
        t.join(NEVER)
    assert time.monotonic() - begin < 0.4


def test_without_anybody_waiting_there_is_no_zombie() -> None:
    with start(["true"]) as program:
        until(lambda: gone(program.pid))
        assert program.wait() == 0


def test_in_another_thread() -> None:
    assert in_thread(lambda: process.run(["echo", "hello"]).stdout)() == b"hello\n"


def test_without_descriptors_left_nothing_is_left_behind() -> None:
    """However far the start of a program comes."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    failed = 0
    try:
        for more in range(30):
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, before[1]))
            try:
                program = start(SLEEPER, stderr=subprocess.PIPE)
            except OSError as error:
                assert error.errno == errno.EMFILE
                failed += 1
            else:
                program.kill()
                program.close()
                program.wait(NEVER)
                del program
            rounds(2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert 3 < failed < 30


def test_who_waits_for_room_in_a_program_s_input_goes_on() -> None:
    with start(["cat"]) as program:
        sender = flower.go(lambda: [program.stdin.send(b"x" * 65_536) for _ in range(40)])
        until(lambda: program.stdin._stream.full and sender.blocked)
        assert len(program.stdout.read_exactly(40 * 65_536, timeout=NEVER)) == 40 * 65_536
        sender.join(NEVER)


def test_the_end_of_a_program_s_input_comes_behind_what_waits_for_room() -> None:
    with start(["cat"]) as program:
        program.stdin.send(b"x" * 1_000_000)
        program.stdin.close()
        with flower.timeout(NEVER / 2):  # less than what is left to bytes that can't leave
            assert len(b"".join(program.stdout)) == 1_000_000


def test_a_program_that_can_not_be_watched_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    popen = subprocess.Popen

    def start_and_note(*args: Any, **options: Any) -> Any:
        started.append(popen(*args, **options))
        return started[-1]

    def fail(poller: Any, fd: int, name: str) -> None:
        os.close(fd)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(subprocess, "Popen", start_and_note)
    monkeypatch.setattr("flower.process.reading_end", fail)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        start(SLEEPER)
    assert gone(started[0].pid)


def test_a_dropped_process() -> None:
    program = start(SLEEPER)
    pid = program.pid
    with pytest.warns(ResourceWarning, match=r"sleep\[\d+\] was dropped, and still runs"):
        del program
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid))


# -- The scheduler


@pytest.mark.usefixtures("notice")
def test_whoever_waits_in_another_thread_learns_of_the_end_of_its_own() -> None:
    box = flower.channel(1)
    stop = flower.channel()

    def owner() -> None:
        box.send(start(SLEEPER, stdin=None, stdout=None))
        stop.receive(NEVER)

    end = in_thread(owner)
    program = box.receive(NEVER)
    waiter, selector = failing(program.wait), failing(flower.select, program.exit)
    rounds(2)
    stop.send(None)
    end()
    assert "the thread that started it has ended" in str(waiter.join(NEVER))
    assert isinstance(selector.join(NEVER), flower.ChannelClosed)
    with pytest.raises(ChildProcessError):
        program.wait(NEVER)
    program.kill()
    program._child.popen.wait()


@pytest.mark.slow
def test_a_thread_that_ends_while_a_program_runs_tells_of_no_error() -> None:
    code = """
        import threading, warnings, flower
        from flower import process
        warnings.simplefilter("ignore")
        def ends():
            flower.go(lambda: process.run(['sleep', '10']))
            flower.time.sleep(0.05)
        thread = threading.Thread(target=ends)
        thread.start()
        thread.join()
        print("the thread has ended")
        """
    assert output(code) == "the thread has ended\n"


@pytest.mark.usefixtures("notice")
def test_run_waits_for_a_program() -> None:
    program = start(["sleep", "0.02"])
    flower.run()
    assert program.status == 0
    program.close()


def test_a_program_is_something_to_wait_for() -> None:
    """No Deadlock: a program that runs could wake somebody, by a signal for one."""
    ch = flower.channel()
    with start(["sleep", "0.02"]) as program:
        t = flower.go(lambda: ch.send(program.exit.receive()))
        assert ch.receive() == 0
        t.join()
    with pytest.raises(flower.Deadlock):
        ch.receive()


@pytest.mark.slow
def test_a_program_that_outlives_us() -> None:
    code = """
        import warnings
        warnings.simplefilter("ignore")
        from flower import process
        program = process.start(["sh", "-c", "read line; echo $line"], stdout=None)
        program.stdin.write("sent before the end" * 10)
        """
    assert output(code) == "sent before the end" * 10 + "\n"


@pytest.mark.slow
def test_a_fork_leaves_the_program_to_the_parent() -> None:
    code = """
        import os, flower
        from flower import process
        with process.start(["cat"]) as program:
            program.stdin.send(b"x")
            program.stdout.receive()
            if os.fork() == 0:
                try:
                    program.wait()
                except ChildProcessError as error:
                    print("belongs to the parent" in str(error), flush=True)
                os._exit(0)
            os.wait()
            program.stdin.send(b"y")
            print(program.stdout.receive())
        print(program.status)
        """
    assert output(code) == "True\nb'y'\n0\n"


@pytest.mark.slow
def test_a_fork_while_a_pipe_is_being_closed_disowns_the_rest() -> None:
    code = """
        import os, socket, flower
        from flower import process
        from flower.net import Dial, Listen
        given, peer = socket.socketpair()
        with Listen(("127.0.0.1", 0)) as listener, process.start(["cat"]) as program, Dial("sockpipe", given):
            program.stdin.close()
            given.close()  # which is not for its giver to do
            child = os.fork()
            if child == 0:
                print(listener.closed, program.stdout.status, flush=True)
                os._exit(0)
            os.waitpid(child, 0)
            print(listener.closed, program.wait())
            peer.close()
        """
    assert output(code) == "True closed\nFalse 0\n"


@pytest.mark.slow
def test_ctrl_c_ends_the_program() -> None:
    code = """
        import os, signal, flower
        from flower import process
        flower.time.after_func(0.05, os.kill, os.getpid(), signal.SIGINT)
        try:
            with process.start(["sleep", "1000"]) as program:
                program.wait()
        except KeyboardInterrupt:
            print(program.status)
        """
    assert output(code) == "-15\n"


@pytest.mark.slow
def test_ctrl_c_while_a_program_is_started_ends_it() -> None:
    code = """
        import os, signal, flower
        from flower import process
        flower.go(int).join()
        try:
            with process.start(["sleep", "5"], preexec_fn=lambda: os.kill(os.getppid(), signal.SIGINT)) as program:
                program.wait()
        except KeyboardInterrupt:
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                print("no child is left")
        """
    assert output(code) == "no child is left\n"
