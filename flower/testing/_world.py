"""The world of one example: a scheduler of its own, whose choices, clock and outside are the kit's.

A world takes the place of its thread's scheduler, and gives it back at its end. The code that runs inside is
unmodified. Where a tasklet could be switched away from, the world asks its `Choices`; when nobody can run, it moves its
clock to the next timer. What goes wrong is raised in the world's main tasklet, which is the test itself: an error
raised anywhere else, in the hub or in a tasklet that is about to wait, would leave the scheduler half way.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenlet import GreenletExit, getcurrent

import flower
from flower.channels import _hub, _lifecycle, _scheduler, _watch
from flower.channels._deadlock import REASONS, victim_of
from flower.channels._delivery import raise_in_main, throw_into
from flower.channels._scheduler import Scheduler, current_scheduler, fail, set_current_scheduler
from flower.channels._task import BLOCKED, READY, RUN, check_timeout
from flower.errors import TaskletExit
from flower.testing._choices import UNKNOWN, Choices, Replay, literal
from flower.testing._findings import BlockedOutside, Finding, Starvation
from flower.testing._history import History
from flower.testing._log import Log
from flower.testing._outcome import (
    all_asleep,
    annotate,
    describe,
    examine,
    is_control,
    keep_for_good,
    line_of,
    plain,
    show_error,
    site_of,
    step_limit,
    tasklet_failed,
)
from flower.testing._outside import Guard, OwnPoller, refusal_of_greenlet
from flower.testing._tap import Tap

if TYPE_CHECKING:
    from flower.testing._network import Network

MOST_LAST_STEPS = 1_000  # operations that all tasklets together may still make when they are killed at the end
MOST_KILLS = 20  # how often a tasklet is killed at the end that goes on after a kill

DrawValue = Callable[[Any, Any], Any]


class World:
    """What `explore` hands to the test: the tasklets, the time and the network of one example.

    It is in force for the whole example: `flower` is used as ever, in the test and in the code that it tests. The test
    itself is the main tasklet, and may block. When it returns, the world runs on until everything is done, and looks
    whether all is well.

    >>> def test(w):
    ...     ch = flower.channel()
    ...     w.go(ch.send, 1)
    ...     assert ch.receive() == 1
    """

    def __init__(
        self,
        choices: Choices,
        *,
        max_steps: int = 20_000,
        early_timers: int = 4,
        starvation: int | None = None,
        draw_value: DrawValue | None = None,
    ) -> None:
        self.choices = choices
        self._max_steps = max_steps
        self._early_timers = early_timers
        self._starvation = starvation
        self._draw_value = draw_value
        self._now = 0.0
        self._steps = 0
        self._log = Log()
        self._names: dict[Any, str] = {}
        self.contexts: dict[Any, Any] = {}  # of tasklets, as they began
        self.calling = "?"  # the line that `flower.blocking` was called in, while its function runs
        self._name_counts: dict[str, int] = {"test": 1}  # every name that is in use has one
        self._actors: set[Any] = set()
        self._since: dict[Any, int] = {}
        self._resting: dict[Any, str] = {}  # who waits in no operation, whose end would be logged, and in what
        self._settling: dict[Any, None] = {}
        self._limits: list[float] = []  # where `advance` is to end: time does not jump there early
        self._invariants: list[Callable[[], object]] = []
        self._failed: list[tuple[Any, BaseException]] = []
        self._error: BaseException | None = None  # what ends the example
        self._forced = 0
        self._busy = False  # a choice or an invariant is under way
        self._finishing = False
        self._closing = False
        self._last_steps = 0
        self._history = History(self)
        self._network: Network | None = None
        self._scheduler: Any = None
        self._main: Any = None

    # -- what tests use

    def go(self, fn: Callable[..., Any], /, *args: Any, name: str | None = None, daemon: bool = False) -> Any:
        """Start ``fn(*args)`` as a tasklet that the test is about: it must end, unless it is a ``daemon``.

        ``name`` is what reports call it. Returns the tasklet. Does not block.
        """
        if not callable(fn):
            raise TypeError(f"go() needs a function to call, not {fn!r}")
        self._in_force()
        t = flower.tasklet(fn, label=name or "", daemon=daemon)
        t(*args)
        self._register(t)
        if not daemon:
            self._actors.add(t)
        return t

    def draw(self, strategy: Any, label: str | None = None) -> Any:
        """A value of a Hypothesis strategy, chosen and shrunk together with the schedule.

        Raises RuntimeError where a switch of tasklets is under way, or trapped, as in an invariant or another draw.
        """
        s = self._in_force()
        if self._busy or s.current is None or s.traps:
            raise RuntimeError(
                "draw() inside a tasklet switch: draw in a tasklet's own code, not in an invariant, callback or draw"
            )
        if self._error is not None and s.current is self._main:
            raise self._error
        strategy_ = self.choices.strategy
        if isinstance(strategy_, Replay):
            value = strategy_.value()
        elif self._draw_value is None:
            raise RuntimeError("nothing to draw from: this world was made without Hypothesis")
        else:
            s.traps += 1
            try:
                value = self._draw_value(strategy, label)
            except BaseException as error:
                if is_control(error):
                    self.abort(error)
                else:
                    self.choices.values.append(UNKNOWN)  # no string says that a draw fails
                raise
            finally:
                s.traps -= 1
        self.choices.values.append(literal(value))
        return value

    def settle(self) -> None:
        """Let the others run until all of them are blocked; no time need pass for that. Blocks the caller."""
        s = self._in_force()
        me = s.current
        self._settling[me] = None
        try:
            s.pause()
        finally:
            self._settling.pop(me, None)

    @property
    def now(self) -> float:
        """The world's time: seconds since the example began. It is what `flower` takes for the monotonic clock."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let the time pass: everything that is due meanwhile happens first, and then all others settle.

        Blocks the caller. No timer that is due later is fired early meanwhile.
        """
        if seconds is None:
            raise TypeError("advance() needs a number of seconds")
        check_timeout(seconds)
        s = self._in_force()
        until = self._now + seconds
        self._limits.append(until)
        try:
            flower.time.sleep(seconds)
            self.settle()
            while s.deadline() <= until:  # of what was started at the last moment, and is due in it, too
                flower.time.idle()
                self.settle()
        finally:
            self._limits.remove(until)

    @property
    def steps(self) -> int:
        """How many steps (operations and switches) the example has taken."""
        return self._steps

    @property
    def net(self) -> Network:
        """The simulated network, under `flower.net` and `flower.rpc` in this world."""
        if self._network is None:
            from flower.testing._network import Network

            self._network = Network(self)
        return self._network

    def invariant(self, fn: Callable[[], object]) -> Callable[[], object]:
        """Have the function called after each step; what it raises ends the example. It may not block.

        Returns the function, so that it can be used as a decorator.
        """
        if not callable(fn):
            raise TypeError(f"invariant() needs a function to call, not {fn!r}")
        self._invariants.append(fn)
        return fn

    def record(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Call ``fn(*args)``, and enter the call into the history, under the function's name. Returns its result."""
        self._in_force()
        return self._history.record(fn, args)

    def history(self) -> list[Any]:
        """The calls made by `record`, as `Operation` objects, in the order in which they began."""
        return self._history.operations()

    def linearizable(self, model: Callable[[], Any]) -> bool:
        """Whether the recorded calls can have happened one after the other, each at once, on a model object.

        ``model()`` makes an object with methods of the recorded names. A result, or an exception's type, must be the
        model's; but a call that has not ended, or ended in TimeoutError or ConnectionError, may have had its effect or
        not. At most 30 calls. Wing and Gong's search.
        """
        return self._history.linearizable(model)

    def __repr__(self) -> str:
        return f"<World {self.choices.schedule()}>" if self._scheduler is not None else "<World>"

    def schedule(self) -> str:
        """The schedule string of the choices made so far; see `replay`."""
        return self.choices.schedule()

    def log(self) -> str:
        """What has happened so far, line by line."""
        return self._log.text()

    def _in_force(self) -> Any:
        """The world's scheduler, where it is this thread's."""
        s = self._scheduler
        if s is None or _scheduler.present() is not s:
            raise RuntimeError("the World is not in force here: it is in its with block, and in that thread only")
        return s

    # -- its life

    def __enter__(self) -> World:
        self.open()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, tb: Any) -> None:
        final = self.conclude(error)
        if final is not None and (final is not error or isinstance(final, Finding)):  # whose place `plain` has removed
            raise final

    def open(self) -> None:
        """Take the place of the thread's scheduler."""
        before = current_scheduler()
        if before.interposer is not None:
            raise RuntimeError("a World inside of a World: one example can have only one")
        if before.current is None or before.traps:
            raise RuntimeError("a World can't be entered in a callback, or under a switch trap")
        if self._scheduler is not None:
            raise RuntimeError("a World can be entered only once")
        self._guard = Guard(self)
        self._guard.install()  # first, and removed last: no finalizer of what was there before may run in the world
        self._before = before
        self._registered = _lifecycle.schedulers().get(threading.get_ident())
        self._main = main = _scheduler.task_class.__new__(_scheduler.task_class)
        self._scheduler = s = Scheduler(main)
        main.label = "test"
        self._names[main] = "test"
        s.watches = 1  # that everything is asleep is the poller's to say
        s.clock = self._read_clock
        s.chooser = self._choose
        self._poller = OwnPoller(self, s)
        s.poller = self._poller
        set_current_scheduler(s)
        s.set_poller(self._poller)
        self.tap = Tap(self, s)
        _watch.set_interposer(s, self.tap)
        self._random = random.getstate()
        random.seed(0)  # as Hypothesis does: a replay without it is to be the same

    def conclude(self, error: BaseException | None) -> BaseException | None:
        """The test's body is done, with this error or none: finish the example. Returns what it ends with."""
        try:
            if self._error is None and error is None:
                error = self._run_out()
            if self._error is not None:
                error = self._error
            if isinstance(error, Finding):
                error = plain(error)
            if error is not None and not is_control(error):
                annotate(self, error)
        finally:
            self._close()
        return error

    def _run_out(self) -> BaseException | None:
        """Let everything end that will; then look at what is left."""
        self._finishing = True
        try:
            flower.run()
            while any(fail(t, None) for t in self._names if t.blocked_in == RUN):  # a tasklet's run() is over, too
                flower.run()
        except BaseException as error:
            return error
        return examine(self)

    def _close(self) -> None:
        """Kill whatever is left, with no more choices, and give the scheduler back."""
        self._closing = True
        self.choices.stop()
        s = self._scheduler
        s.main_errors.clear()
        s.main.alert = 0
        try:
            if self._network is not None:
                self._network.shut_down()
            for t in list(self._names):
                for _ in range(MOST_KILLS):
                    if t is self._main or not t.alive:
                        break
                    try:
                        t.kill()
                    except BaseException:  # its clean-up failed: the example has its result
                        pass
        finally:
            random.setstate(self._random)
            _watch.set_interposer(s, None)
            s.chooser = None
            s.posts.clear()
            stubborn = any(t.alive for t in self._names if t is not self._main)
            if stubborn:
                keep_for_good((s, list(self._names)))
            _hub.end(s, not stubborn)
            set_current_scheduler(self._before)
            schedulers = _lifecycle._schedulers
            if self._registered is not None:
                schedulers[threading.get_ident()] = self._registered
            else:
                schedulers.pop(threading.get_ident(), None)
            self._guard.remove()

    # -- choices

    def choose(self, kind: str, size: int, tasks: Any = None) -> int:
        """One choice. What goes wrong in it (Hypothesis has had enough, the schedule does not fit) ends the example."""
        if size < 2 or self._error is not None:
            return 0
        before, self._busy = self._busy, True  # an invariant may come to a place where a fault can happen
        try:
            return self.choices.choose(kind, size, tasks)
        except BaseException as error:
            self.abort(error)
            return 0
        finally:
            self._busy = before

    def fault(self, name: str) -> bool:
        """Whether the named fault happens now."""
        if self.choose("f", 2):
            self.log_line(self.name_of(self._scheduler.current), f"fault: {name}", True)
            return True
        return False

    def abort(self, error: BaseException) -> None:
        """End the example with this error: it is raised in the main tasklet as soon as that can be."""
        if self._error is None and not self._closing:
            self._error = error
            self.choices.stop()
            s = self._scheduler
            if s.current is not self._main or self._main.state in (BLOCKED, READY):
                raise_in_main(s, error)

    # -- called by the scheduler

    def _read_clock(self) -> float:
        return self._now

    def _choose(self, ready: list[Any], directed: Any) -> Any:
        """The chooser: who runs next, or whom the program directs. With nobody to choose from, it is told who parks."""
        chosen = self._who_is_next(ready, directed)
        if chosen in self._resting:
            self.log_line(self.name_of(chosen), f"{self._resting.pop(chosen)}: goes on")
        return chosen

    def _who_is_next(self, ready: list[Any], directed: Any) -> Any:
        me = self._scheduler.current
        if me is not None and getcurrent() is not me.carrier:
            throw_into(me, refusal_of_greenlet(self))  # which is still where it was
            return me
        if directed is not None:
            return directed
        if self._closing:
            return ready[0] if ready else None
        if me is not None and not me.decided:
            self._on_switch(me)
        if not ready:
            return None
        if len(self._names) < 2 or any(t not in self._names for t in ready):
            for t in ready:
                self._register(t)
        if self._error is None:
            self._step()
        if self._scheduler.posts:
            return None
        if self._error is not None:
            if self._main in ready:
                return self._main
            return None if self._main.state == READY else ready[0]
        candidates = ready
        if self._settling:
            candidates = [t for t in ready if t not in self._settling] or ready
        if self._forced:
            others = [t for t in candidates if t is not me]
            chosen = others[min(self._forced, len(others)) - 1] if others else me
            self._forced = 0
            return chosen
        if self._may_jump(candidates):
            return None
        index = self.choose("r", len(candidates), candidates)
        if self._error is not None:
            return None
        chosen = candidates[index]
        if index:
            self.log_line(self.name_of(chosen), "runs out of turn", True)
        return chosen

    def _may_jump(self, candidates: list[Any]) -> bool:
        """Whether time jumps to the next timer now, although somebody can run."""
        when = self._scheduler.deadline()
        done = self._finishing and candidates[0] is self._main  # then all is looked at as it is
        if done or candidates[0] in self._settling or when >= min(self._limits, default=math.inf):
            return False
        if when <= self._now:  # of the network: no time need pass
            if self.choose("n", 2) == 0:
                return False
            self.log_line("the network", "is quicker than those who can run", True)
            return True
        if self._early_timers <= 0 or self.choose("t", 2) == 0:
            return False
        self._early_timers -= 1
        self._now = max(self._now, when)
        self.log_line("the clock", f"jumps to {self._now:.6g} s, while others can run", True)
        return True

    def _on_switch(self, me: Any) -> None:
        """A tasklet parks, or has called `schedule`."""
        if me.state == READY and me not in self._settling:
            self.log_line(self.name_of(me), "gives way")
        if me.state != BLOCKED:
            return
        self.tap.parked.add(me)
        self._since[me] = self._steps
        if me.blocked_in != RUN:
            if me.blocked_in in (1, 2, 3):
                what = self.tap.doing.get(me, "")
            else:
                what = self._resting[me] = REASONS[me.blocked_in]
            self.log_line(self.name_of(me), f"{what}: waits")

    def _step(self) -> None:
        """After each operation and at each switch: is everything as it must be?"""
        self._steps += 1
        if self._steps > self._max_steps:
            self.abort(step_limit(self))
            return
        self._guard.alive(self._steps)
        if self._invariants:
            self._check_invariants()
        if self._starvation is not None:
            self._check_starvation(self._starvation)

    def _check_invariants(self) -> None:
        s = self._scheduler
        s.traps += 1
        self._busy = True
        try:
            for fn in self._invariants:
                fn()
        except BaseException as error:
            self.abort(error)
        finally:
            self._busy = False
            s.traps -= 1

    def _check_starvation(self, limit: int) -> None:
        for t, since in self._since.items():
            if t.state == BLOCKED and not t.daemon and t is not self._main and self._steps - since > limit:
                self.abort(
                    Starvation(f"blocked for {self._steps - since} steps, while others went on:\n  {describe(self, t)}")
                )
                return

    def after_operation(self, me: Any, finding: Finding | None, may_switch: bool) -> None:
        """The tap has carried out an operation for this tasklet, or for the hub (None)."""
        if me is not None and getcurrent() is not me.carrier:
            raise refusal_of_greenlet(self)
        if self._closing:
            self._last_steps += 1
            if self._last_steps > MOST_LAST_STEPS and me is not self._main and me is not None:
                raise TaskletExit  # it has had time to clean up
            return
        s = self._scheduler
        if finding is not None:
            self.abort(finding)
        if me is None or s.traps:
            return
        if self._error is None:
            self._step()
        if self._error is not None:
            if me is self._main:
                raise self._error
            s.give_way()
            return
        if may_switch:
            others = flower.getruncount() - 1 - len(self._settling)
            if others > 0 and me not in self._settling:
                chosen = self.choose("p", 1 + others, (me,))
                if self._error is not None:
                    if me is self._main:
                        raise self._error
                    s.give_way()
                elif chosen:
                    self._forced = chosen
                    self.log_line(self.name_of(me), "is pre-empted", True)
                    s.give_way()

    def refuse(self, what: str, frame: Any) -> BaseException:
        """The program does what a World can't steer: this error, which names its line, is to be raised, and ends all.

        Whoever takes no notice, and comes once more, gets one that is seldom caught.
        """
        if self._error is not None or self._closing:
            return GreenletExit()
        line = self.calling if site_of(frame) is None else line_of(frame)
        self.abort(error := BlockedOutside(what.format(line=line)))
        return error

    def on_idle(self, deadline: float) -> None:
        """Nobody can run: time passes, or everything is asleep for good."""
        s = self._scheduler
        if deadline < math.inf:
            self._now = max(self._now, deadline)
            return
        main = self._main
        if self._closing:
            fail(main, None)
        elif self._error is not None:
            fail(main, self._error)
        elif self._finishing:
            fail(main, None)
        elif self._failed:
            fail(main, tasklet_failed(self))
        else:
            fail(victim_of(s), all_asleep(self))

    def on_failure(self, t: Any, error: BaseException, handler: Any) -> None:
        """An error that nobody collects, and the error handler of the moment."""
        if handler is not None and handler is not self._guard.handler:  # the program has set it, in this world
            handler(t, error)
        elif _scheduler.cold._attribute(error, "_flower_conn"):  # the loss of a peer ends no program
            self.log_line(self.name_of(t), f"ended by {show_error(error)}")
        elif is_control(error):
            self.abort(error)
        else:
            self.log_line(self.name_of(t), f"failed: {show_error(error)}")
            if isinstance(error, Exception):
                self._failed.append((t, error))
            else:
                self.abort(error)

    # -- words

    def _register(self, t: Any) -> None:
        if t in self._names:
            return
        name = t.label or getattr(t.func, "__qualname__", None) or "tasklet"
        name = str(name).rpartition("<locals>.")[2]
        count = self._name_counts.get(name, 0) + 1
        while (shown := name if count == 1 else f"{name}-{count}") in self._name_counts:
            count += 1  # another is called that by itself
        self._name_counts[name] = count
        self._names[t] = shown
        self._name_counts.setdefault(shown, 1)
        self.contexts[t] = t.context

    def name_of(self, t: Any) -> str:
        """What the log calls a tasklet; None is the hub, where timers and the network are."""
        if t is None:
            return "the outside"
        if t not in self._names:
            self._register(t)
        return self._names[t]

    def log_line(self, who: str, text: str, mark: bool = False) -> None:
        if not self._closing:
            self._log.add(self._now, who, text, mark)
