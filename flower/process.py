"""Programs: their input and outputs are channels of bytes, their exit status is a channel.

>>> from flower import process
>>> process.run(["sort"], input="pear\\napple\\n").stdout
b'apple\\npear\\n'

A running program keeps `flower.run` going, and is something that can still wake those who wait. Its end is noticed,
and its status fetched, whoever waits for it or not: there are no zombies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import warnings
from collections.abc import Sequence
from typing import Any

from flower.channels import channel, group, ignore_thread, shield
from flower.channels import timeout as time_limit
from flower.channels._failures import is_foreign
from flower.channels._task import check_timeout
from flower.errors import ChannelClosed, Timeout
from flower.net import Conn
from flower.net._descriptor import reading_end, writing_end
from flower.net._loop import LoopPoller, io_poller

__all__ = ["Process", "run", "start"]

Args = str | bytes | os.PathLike[str] | Sequence[str | bytes | os.PathLike[str]]

# Seconds between SIGTERM and SIGKILL: what trio gives a program, too.
GRACE = 5.0
# Characters of a failed program's standard error that its exception shows.
MAX_NOTE = 2000

# Popen's options that make no sense where streams are channels of bytes.
_REFUSED = {"bufsize", "text", "universal_newlines", "encoding", "errors"}


def run(
    args: Args, *, input: bytes | str | None = None, timeout: float | None = None, check: bool = True, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, and give its status and all that it wrote.

    ``input`` is what it reads (a str as UTF-8); without, it reads ``/dev/null``. Only the calling tasklet waits. The
    result has ``args``, ``returncode`` (-9 for a program that SIGKILL ended), ``stdout`` and ``stderr``. ``options``
    are those of ``subprocess.Popen`` that have to do with bytes; ``stdout=None`` leaves an output where ours goes.

    Past ``timeout`` seconds, cancelled or killed, it ends the program as `Process.stop` does, and waits for that. What
    the program wrote is then lost.

    Raises FileNotFoundError and other OSErrors when it can't be started; ``subprocess.CalledProcessError`` when the
    status is not 0, unless ``check`` is false; Timeout; ValueError where no program is named.
    """
    name = _name(args, options)
    data = input.encode() if isinstance(input, str) else input
    if not isinstance(data, bytes | bytearray | memoryview | None):
        raise TypeError(f"a program's input is bytes or a str, not {input!r}")
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    if data is not None:
        options["stdin"] = subprocess.PIPE
    try:
        with time_limit(timeout) as scope, start(args, **options) as program:
            with group() as g:
                if data is not None:
                    g.go(_feed, program.stdin, data)
                outputs = [g.go(_read_all, conn) for conn in (program.stdout, program.stderr)]
            status = program.wait()
    except Timeout:
        if not scope.expired:
            raise
        raise Timeout(f"{name} was not done within {timeout} s") from None
    stdout, stderr = (t.join() for t in outputs)
    if check and status:
        error = subprocess.CalledProcessError(status, args, stdout, stderr)
        if stderr:
            error.add_note(stderr[-MAX_NOTE:].decode(errors="replace").rstrip())
        raise error
    return subprocess.CompletedProcess(args, status, stdout, stderr)


def start(args: Args, **options: Any) -> Process:
    """Start a program, and give its `Process`.

    ``args`` is the program and its arguments; the ``options`` are those of ``subprocess.Popen`` that have to do with
    bytes. Unless they say otherwise its standard input and output are connections to it, and its standard error goes
    where ours goes. What is piped has to be read: a program whose output nobody takes comes to a stop. Does not block.

    Raises FileNotFoundError and other OSErrors when it can't be started; ValueError where no program is named;
    TypeError for an option that would make text of the bytes; RuntimeError where somebody else's event loop runs in
    this thread.

    >>> with start(["tr", "a-z", "A-Z"]) as program:
    ...     program.stdin.write("hello")
    ...     program.stdin.close()
    ...     program.stdout.read()
    b'HELLO'
    """
    refused = _REFUSED & options.keys()
    if refused:
        raise TypeError(f"a program's streams carry bytes here: the option {min(refused)!r} is not for them")
    name = _name(args, options)
    poller = io_poller()
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, **options}
    popen = subprocess.Popen(args, bufsize=0, **options)
    try:
        return Process(poller, popen, name)
    except BaseException:
        popen.kill()
        popen.wait()
        raise
    finally:
        for file in (popen.stdin, popen.stdout, popen.stderr):
            if file is not None:
                file.close()


class Process:
    """A program that runs; `start` makes it.

    ``stdin`` is a connection that sends; ``stdout`` and ``stderr`` are connections that receive; None what is not
    piped. Closing ``stdin`` is the program's end of file. ``exit`` is a channel on which the exit status comes, once:
    for ``flower.select``. A status below 0 is the number of the signal that ended it.

    ``with start(...) as program:`` waits, at the end of its block, until the program has ended; the pipes are closed
    before that. Left by an exception (a timeout, a cancellation) it ends the program first, as `stop` does. A process
    that is dropped while it runs gives a ResourceWarning; its pipes are closed.
    """

    def __init__(self, poller: LoopPoller, popen: subprocess.Popen[bytes], name: str) -> None:
        self.args = popen.args
        self.pid = popen.pid
        self.stdin: Any = None
        self.stdout: Any = None
        self.stderr: Any = None
        self._name = f"{name}[{popen.pid}]"
        try:
            if popen.stdin is not None:
                self.stdin = writing_end(poller, os.dup(popen.stdin.fileno()), f"{self._name} stdin")
            if popen.stdout is not None:
                self.stdout = reading_end(poller, os.dup(popen.stdout.fileno()), f"{self._name} stdout")
            if popen.stderr is not None:
                self.stderr = reading_end(poller, os.dup(popen.stderr.fileno()), f"{self._name} stderr")
        except BaseException:
            self.close()
            raise
        self._child = _Child(poller, popen, self._name)
        self.exit: channel[int] = self._child.exit

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._child.status

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the program has ended; its exit status, however often it is asked for.

        Its output may still hold what it wrote. Cancelled or timed out, it changes nothing. Raises Timeout;
        ChildProcessError in a forked child, and in another thread when that of the process has ended.
        """
        try:
            self._child.ended.receive(timeout)
        except (ChannelClosed, Timeout) as error:
            if is_foreign(error):
                raise
            if isinstance(error, Timeout):
                raise Timeout(f"{self._name} has not ended within {timeout} s") from None
        if self._child.status is None:
            raise ChildProcessError(f"{self._name} {self._child.lost}")
        return self._child.status

    def send_signal(self, signum: int) -> None:
        """Send the program a signal; if it has ended, nobody gets it. Does not block."""
        self._child.popen.send_signal(signum)

    def terminate(self) -> None:
        """Ask the program to end: SIGTERM. Does not block, and does not wait."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the program: SIGKILL. Does not block, and does not wait; what it has started goes on."""
        self._child.popen.kill()

    def stop(self, grace: float = GRACE) -> int:
        """End the program, and wait for that: SIGTERM, and SIGKILL if it still runs after ``grace`` seconds.

        Gives its exit status. Cancelled meanwhile, it has sent SIGTERM only.
        """
        check_timeout(grace)
        self.terminate()
        try:
            return self.wait(grace)
        except Timeout as error:
            if is_foreign(error):
                raise
            self.kill()
            return self.wait()

    def close(self) -> None:
        """Close what is open of the pipes, which says to the program that no more comes. Does not block."""
        for conn in (self.stdin, self.stdout, self.stderr):
            if conn is not None:
                conn.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, tb: Any) -> None:
        try:
            if error is None:
                self.close()
                self.wait()
        except BaseException:
            self._end()
            raise
        if error is not None:
            self._end()

    def _end(self) -> None:
        try:
            with shield():
                self.stop()
        except BaseException as failure:
            self.kill()
            if not isinstance(failure, ChildProcessError):  # else its thread is at its end: what ends the block is told
                raise
        finally:
            if self.stdin is not None:
                self.stdin.abort()  # what it has started may have its input open, and is not waited for
            self.close()

    def __repr__(self) -> str:
        state = "running" if self.status is None else f"status {self.status}"
        return f"<Process {self._name}, {state}>"

    def __del__(self) -> None:
        child = getattr(self, "_child", None)
        if child is not None:
            self.close()
            if child.status is None and not child.ended.closed:
                warnings.warn(f"{self._name} was dropped, and still runs", ResourceWarning, stacklevel=2, source=self)


class _Child:
    """Notices the program's end, and fetches its status. It knows nothing of the `Process`, which may be dropped.

    The kernel tells of the end through a descriptor (Linux 5.3 and newer); elsewhere a thread waits for it.
    """

    def __init__(self, poller: LoopPoller, popen: subprocess.Popen[bytes], name: str) -> None:
        self.poller = poller
        self.popen = popen
        self.status: int | None = None
        self.lost = ""  # or why its status will never be known
        self.exit: channel[int] = channel(1, label=f"exit of {name}")
        self.exit._external = True
        self.ended: channel[None] = channel(0, label=f"end of {name}")  # closed when it has ended
        self.ended._external = True
        self._fd = -1
        try:
            self._fd = os.pidfd_open(popen.pid)
        except (AttributeError, OSError):
            threading.Thread(target=self._await_end, name=f"flower-child-{popen.pid}", daemon=True).start()
        else:
            poller.loop.add_reader(self._fd, self._look)
        poller.resources.add(self)
        poller.scheduler.hold()

    def _await_end(self) -> None:
        ignore_thread()
        self.popen.wait()
        self.poller.scheduler.post(self._look)

    def _look(self) -> None:
        status = self.popen.poll()
        if status is None or self.status is not None or self.lost:
            return
        self.status = status
        self._unwatch()
        self.poller.resources.discard(self)
        self.poller.scheduler.release()
        self.exit.try_send(status)
        self._close()

    def _unwatch(self) -> None:
        if self._fd >= 0:
            self.poller.loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _close(self) -> None:
        self.exit.close()
        self.ended.close()

    def finish(self, late: bool) -> bool:
        """The loop is about to end: the program goes on without us, and whoever waits in another thread learns that."""
        self.lost = "is watched no more: the thread that started it has ended"
        self._unwatch()
        self.poller.resources.discard(self)
        self._close()
        return False

    def disown(self) -> Any:
        """In a forked child: it is the parent's program."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.lost = "belongs to the parent process, since a fork"
        self._close()
        return self.popen


def _feed(conn: Conn, data: bytes) -> None:
    """Send it all. A program that does not read to the end has a reason."""
    with contextlib.suppress(BrokenPipeError), conn:
        view = memoryview(data)
        for at in range(0, len(data), 1 << 16):
            conn.send(view[at : at + (1 << 16)])
        conn.flush()


def _read_all(conn: Conn | None) -> bytes | None:
    return None if conn is None else b"".join(conn)


def _name(args: Any, options: dict[str, Any]) -> str:
    """The program, in few words; ValueError where none is named."""
    first = args
    if not isinstance(args, str | bytes | os.PathLike):
        if not isinstance(args, Sequence):
            raise TypeError(f"a program is given as its path, or as a sequence of that and its arguments, not {args!r}")
        first = args[0] if args else ""
    name = os.fsdecode(first)
    if options.get("shell"):  # a command line
        name = (name.split(None, 1) or ["?"])[0]
    elif not name.strip():
        if options.get("executable") is None:
            raise ValueError(f"no program to start: {args!r}")
        name = os.fsdecode(options["executable"])
    return os.path.basename(name)
