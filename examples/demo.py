"""The demonstration: what ``make demo`` runs. It ends by itself, with exit code 0 if all went well.

    1. an echo server and its client (``echo_server.py``, ``echo_client.py``), as two processes that talk over TCP
    2. many connections to that server at once, from tasklets of this process
    3. an RPC server and its client, as two processes
    4. a pipeline of tasklets in this process, watched by one ``select`` over results, a ticker and a deadline

The processes that it starts are gone when it ends, however it ends.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import flower
from flower.net import Dial

HERE = Path(__file__).resolve().parent
PORT = 8000  # the two echo programs say so
TIME_LIMIT = 25.0  # seconds; after that something hangs, and the demonstration has failed
CONNECTIONS = 64
BUSY_SECONDS = 1.0  # how long each measured part keeps going
WORKERS = 4


class DemoFailed(Exception):
    """A part did not do what it should."""


def say(text=""):
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever reads it has had enough, as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def title(number, text):
    say(f"\n[{number}/4] {text}")


# -- Processes


class Children:
    """The processes that were started here and still run."""

    def __init__(self):
        self._running = []

    def start(self, *command):
        child = subprocess.Popen(
            [sys.executable, "-u", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self._running.append(child)
        return child

    def run(self, *command):
        """Run a client to its end; what it printed."""
        child = self.start(*command)
        out, err = flower.blocking(child.communicate, None, TIME_LIMIT)
        self._running.remove(child)
        if child.returncode:
            raise DemoFailed(f"{command[0]} ended with {child.returncode}:\n{err}")
        return out

    def stop(self, child, name):
        """End a server as Ctrl-C does, and expect it to end well."""
        child.send_signal(signal.SIGINT)
        out, err = flower.blocking(child.communicate, None, 5)
        self._running.remove(child)
        if child.returncode or err:
            raise DemoFailed(f"the {name} ended with {child.returncode}:\n{err}")
        return out

    def kill_all(self):
        """Kill them, and wait until they are gone (a moment only: this also runs in a signal handler)."""
        for child in self._running:
            child.kill()
        for child in self._running:
            child.wait(2)


def environment():
    """This process's, so that the others find the same flower."""
    path = [str(Path(flower.__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def any_free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def await_server(child, port):
    """Return once somebody listens on the port."""
    began = time.perf_counter()
    while time.perf_counter() - began < 10:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return time.perf_counter() - began
        except OSError:
            pass
        try:
            child.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        raise DemoFailed(f"the echo server ended with {child.returncode}:\n{child.stderr.read()}")
    raise DemoFailed(f"nobody listens on port {port} after 10 s")


# -- 1 and 2: echo


def echo_programs(folder):
    """The two echo programs and their port; a copy with another port where theirs is taken."""
    programs = [HERE / "echo_server.py", HERE / "echo_client.py"]
    if is_free(PORT):
        return *programs, PORT
    port = any_free_port()
    say(f"      port {PORT} is taken: a copy of the two programs runs with port {port} in its place")
    copies = []
    for program in programs:
        copies.append(Path(folder) / program.name)
        copies[-1].write_text(program.read_text().replace(str(PORT), str(port)))
    return *copies, port


def echo(children, folder):
    title(1, "An echo server and its client, as two processes")
    server_program, client_program, port = echo_programs(folder)
    server = children.start(server_program)
    seconds = await_server(server, port)
    say(f"      {server_program.name}: process {server.pid}, on port {port} after {seconds:.2f} s")
    began = time.perf_counter()
    out = children.run(client_program)
    say(f"      {client_program.name}: a process that said, in {time.perf_counter() - began:.2f} s:")
    for line in out.splitlines():
        say(f"        {line}")
    if out != "sent hello\necho: b'hello'\n" * 3:
        raise DemoFailed("that is not what it should say")

    title(2, f"{CONNECTIONS} connections to that server at once, one tasklet each")
    counts = [0] * CONNECTIONS
    until = time.perf_counter() + BUSY_SECONDS
    began, cpu = time.perf_counter(), time.process_time()
    with flower.group() as group:
        for index in range(CONNECTIONS):
            group.go(chat, port, index, counts, until)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    total = sum(counts)
    say(f"      {total:,} messages went there and back in {wall:.2f} s: {total / wall:,.0f} a second")
    say(f"      each connection had {min(counts):,} to {max(counts):,}; this process used {cpu:.2f} s of CPU")
    if not min(counts):
        raise DemoFailed("a connection was never served")
    children.stop(server, "echo server")
    say("      server stopped with Ctrl-C; it ended cleanly")


def chat(port, index, counts, until):
    """One connection: send a message, read it back whole, again and again."""
    conn = Dial("tcp", ("127.0.0.1", port))
    message = f"message of connection {index}".encode()
    while time.perf_counter() < until:
        conn.write(message)
        answer = b""
        while len(answer) < len(message):
            data = conn.read()
            if not data:
                raise DemoFailed("the server hung up")
            answer += data
        if answer != message:
            raise DemoFailed(f"{message!r} came back as {answer!r}")
        counts[index] += 1
    conn.close()


# -- 3: RPC


def remote_calls(children):
    title(3, "Calls from one process to another, over MessagePack-RPC")
    server = children.start(HERE / "rpc_server.py")
    line = server.stdout.readline().strip()
    if not line.startswith("serving on "):
        raise DemoFailed(f"the RPC server said {line!r}:\n{server.stderr.read()}")
    say(f"      rpc_server.py: process {server.pid}, {line}")
    say("      rpc_client.py: a process that said:")
    for said in children.run(HERE / "rpc_client.py", line.removeprefix("serving on ")).splitlines():
        say(f"        {said}")
    out = children.stop(server, "RPC server")
    if "client says: hello" not in out:
        raise DemoFailed(f"the notification did not arrive; the server said {out!r}")
    say("      the server got the client's notification, and ended cleanly")


# -- 4: a pipeline of tasklets


def source(numbers, quit):
    """Send 0, 1, 2, ... until told to stop: a select with a send and a receive."""
    number = 0
    while True:
        ready, _ = flower.select((numbers, number), quit)
        if ready is quit:
            numbers.close()
            return
        number += 1


def squarer(numbers, squares):
    for number in numbers:
        squares.send(number * number)


def all_squarers(numbers, squares):
    with flower.group() as group:
        for _ in range(WORKERS):
            group.go(squarer, numbers, squares)
    squares.close()


def run_pipeline(seconds, progress):
    """Let numbers flow for so long; how many came out at the end. Each must have come through once."""
    numbers, squares, quit = flower.channel(), flower.channel(), flower.channel()
    flower.go(source, numbers, quit)
    flower.go(all_squarers, numbers, squares)

    ticker, end = flower.tick(seconds / 4), flower.after(seconds)
    count = total = 0
    while True:
        ready, value = flower.select(squares, ticker, end)  # a result, time to report, or the end
        if ready is squares:
            count += 1
            total += value
        elif ready is ticker:
            progress(count)
        else:
            break
    quit.send(None)
    for value in squares:  # what is still under way
        count += 1
        total += value
    if total != sum(number * number for number in range(count)):
        raise DemoFailed(f"{count} values came through the pipeline, but not each of them once")
    return count


def pipeline():
    title(4, f"A pipeline in this process: a source, {WORKERS} workers, one select over all that can happen")
    began = time.perf_counter()
    cpu = time.process_time()
    count = run_pipeline(BUSY_SECONDS, lambda so_far: say(f"      {so_far:,} values so far"))
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    say(f"      {count:,} values came through, each once, in {wall:.2f} s: {count / wall:,.0f} a second")
    say(f"      {1e6 * cpu / count:.2f} us of CPU per value, for two hand-overs and two selects")

    switches = 0

    def count_switch(previous, following):
        nonlocal switches
        switches += 1

    before = flower.set_schedule_callback(count_switch)
    try:
        count = run_pipeline(BUSY_SECONDS / 10, lambda so_far: None)
    finally:
        flower.set_schedule_callback(before)
    each = switches / count
    say(f"      counted in a second run: {switches:,} switches for {count:,} values, {each:.1f} each")


def main():
    began = time.perf_counter()
    say(f"Flower's demonstration: Python {sys.version.split()[0]}, process {os.getpid()}")
    children = Children()

    def too_late():
        say(f"FAILED: not done after {TIME_LIMIT:.0f} s")
        children.kill_all()
        os._exit(1)

    def terminated(signum, frame):
        children.kill_all()
        os._exit(128 + signum)

    signal.signal(signal.SIGTERM, terminated)
    watchdog = threading.Timer(TIME_LIMIT, too_late)
    watchdog.daemon = True
    watchdog.start()
    flower.ignore_thread(watchdog)
    try:
        with tempfile.TemporaryDirectory(prefix="flower-demo-") as folder:
            echo(children, folder)
        remote_calls(children)
        pipeline()
    except (DemoFailed, OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        say(f"\nFAILED: {error}")
        return 1
    except KeyboardInterrupt:
        say("\ninterrupted")
        return 130
    finally:
        children.kill_all()
        watchdog.cancel()
    say(f"\nAll of it worked, in {time.perf_counter() - began:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
