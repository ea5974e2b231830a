"""blocking: run a function that blocks its thread in a worker thread, and park only the tasklet."""

from __future__ import annotations

import contextvars
import queue
import threading

from flower._typing import TYPE_CHECKING, Any
from flower.channels import _deadlock, _scheduler
from flower.channels._channel import channel
from flower.channels._deadlock import ignore_thread
from flower.channels._forks import after_fork
from flower.channels._lifecycle import leave_fork

if TYPE_CHECKING:
    from collections.abc import Callable

# Worker threads at the most, as in trio; further calls wait for one to be free. Most of them sleep in the kernel.
MOST_WORKERS = 40
# A worker that has had nothing to do for so many seconds ends.
IDLE_SECONDS = 10.0


class _Workers:
    """Threads that take jobs from one queue. ``_free`` counts the workers without a job, less the waiting jobs."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # to start a worker may run finalizers, which may come here
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._free = 0
        self._count = 0

    def submit(self, job: Any) -> None:
        """Have a worker call the job; start one if none is free and there may be more."""
        with self._lock:
            if self._free <= 0 and self._count < MOST_WORKERS:
                self._start()
            _deadlock.jobs_given += 1
            self._jobs.put(job)
            self._free -= 1

    def _start(self) -> None:
        """Start one more worker. Where the system has no thread left, those that there are must do."""
        worker = threading.Thread(target=self._work, name=f"flower-worker-{self._count + 1}", daemon=True)
        try:
            worker.start()
        except RuntimeError:
            if self._count == 0:
                raise
        else:
            self._free += 1
            self._count += 1

    def _work(self) -> None:
        ignore_thread()
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._jobs.empty():
                        self._free -= 1
                        self._count -= 1
                        return
                continue
            job()
            del job
            with self._lock:
                self._free += 1
                _deadlock.jobs_given -= 1


_workers = _Workers()


@after_fork
def _after_fork() -> None:
    global _workers
    _workers = _Workers()
    _deadlock.jobs_given = 0


def blocking(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call ``func(*args, **kwargs)`` in a worker thread; only the calling tasklet waits.

    Returns its result, or raises its error. A tasklet that is killed, cancelled or timed out stops waiting; the
    function can't be stopped, and its result is dropped. It runs in a copy of the caller's context. At most 40 run at
    a time, in the whole process; further ones wait for their turn.

    Raises TypeError for a func that is not callable; RuntimeError when not one thread can be started.

    >>> blocking(sum, [1, 2, 3])
    6
    """
    return collect(begin(func, *args, **kwargs))


def begin(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> channel[Any]:
    """Have a worker call the function; for `collect`. Where it is refused, the function will not run."""
    if not callable(func):
        raise TypeError(f"blocking needs a function to call, not {func!r}")
    _scheduler.current_scheduler().check_wait()  # before the function runs
    context = contextvars.copy_context()
    answer: channel[Any] = channel(1, label=f"blocking {getattr(func, '__qualname__', func)}")
    answer._external = True
    workers = _workers

    def job() -> None:
        try:
            outcome: tuple[Any, BaseException | None] = (context.run(func, *args, **kwargs), None)
        except BaseException as error:
            outcome = (None, error)
        if workers is not _workers:  # it has forked, and the child ends with it
            leave_fork(outcome[1])
        try:
            answer.try_send(outcome)
        except BaseException as error:  # of a channel callback
            answer._abandon(error)
        finally:
            del outcome  # whose error names this frame

    workers.submit(job)
    return answer


def collect(answer: channel[Any]) -> Any:
    """Wait for what the function has given or raised."""
    result, error = answer.receive()
    if error is not None:
        try:
            raise error
        finally:
            del error
    return result
