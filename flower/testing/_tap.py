"""The tap: every channel operation of a world goes through here.

It carries the operation out, writes it into the log and the books, checks the channel, and then lets the world say
whether another tasklet comes first. What can never wait (try_send, try_receive, close) is no place for that: a program
may rely on it, as it may on what it does between two operations.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from flower.channels import select
from flower.channels._scheduler import Scheduler
from flower.errors import ChannelClosed
from flower.testing._books import Book, Offer
from flower.testing._log import show

if TYPE_CHECKING:
    from flower.testing._findings import Finding
    from flower.testing._world import World

_NOTHING: Any = object()


class Selected(tuple[Any, ...]):
    """What select returns where a case was a connection or an end, which stands for the channel that was selected."""

    index: int  # type: ignore[assignment]  # of the case, and not tuple's method

    def __new__(cls, case: Any, result: Any) -> Selected:
        self = super().__new__(cls, (_named(case), result[1]))
        self.index = result.index
        return self


def _named(case: Any) -> Any:
    """What the case names: a channel, or what stands for one."""
    return case[0] if isinstance(case, tuple) else case


def _on(ch: Any, case: Any) -> Any:
    """The case with its channel: what stands for one may give another the next time that it is asked."""
    if ch is None:
        return case
    return (ch, case[1]) if isinstance(case, tuple) else ch


class Tap:
    """The interposer of a world's scheduler."""

    def __init__(self, world: World, scheduler: Scheduler) -> None:
        self.world = world
        self._scheduler = scheduler
        self._books: dict[int, tuple[Any, Book]] = {}
        self._numbers: dict[str, int] = {}
        self._moment = 0
        self.doing: dict[Any, str] = {}  # what each tasklet is about, for the log
        self.parked: set[Any] = set()  # who has parked in the operation that he is about, as the world says

    # -- names and books

    def book(self, ch: Any) -> Book:
        found = self._books.get(id(ch))
        if found is not None and found[0]() is ch:
            book = found[1]
            if ch.label != book.label:  # it is used again, for something else
                book.label, book.name = ch.label, self._new_name(ch.label)
        else:
            book = Book(self._new_name(ch.label), ch.label, len(ch))
            self._books[id(ch)] = (weakref.ref(ch), book)
        if ch._outlet is not None or ch._feeder is not None:
            book.remote = True
        return book

    def _new_name(self, label: Any) -> str:
        label = label or ""
        count = self._numbers[label] = self._numbers.get(label, 0) + 1
        if not label:
            return f"channel-{count}"
        return repr(label) if count == 1 else f"{label!r}#{count}"

    def name(self, ch: Any) -> str:
        return self.book(ch).name

    def live(self) -> list[tuple[Any, Book]]:
        """The channels that still exist, with their books, in the order in which they were first used."""
        return [(ch, book) for ref, book in self._books.values() if (ch := ref()) is not None]

    def _now(self) -> int:
        self._moment += 1
        return self._moment

    # -- the operations

    def send(self, ch: Any, value: Any, timeout: Any) -> None:
        s, world = self._scheduler, self.world
        me = s.current
        book = self.book(ch)
        who = world.name_of(me)
        self.doing[me] = what = f"send({show(value)}) on {book.name}"
        waiting = ch._waiting()[1]
        offer = book.offer(value, who, self._now())
        self.parked.discard(me)
        s.passing = True
        try:
            ch.send(value, timeout)
        except BaseException as error:
            self._failed(me, ch, book, what, error, book.refused(offer))
            raise
        finally:
            s.passing = False
        book.sent(offer, self._now())
        world.log_line(who, what if me not in self.parked else f"{what}: done")
        finding = None
        if waiting and me not in self.parked:
            finding = book.served("receive", waiting, ch._waiting()[1], me)
        self._after(me, ch, book, finding, True)

    def try_send(self, ch: Any, value: Any) -> bool:
        s, world = self._scheduler, self.world
        me = s.current
        book = self.book(ch)
        what = f"try_send({show(value)}) on {book.name}"
        waiting = ch._waiting()[1]
        offer = book.offer(value, world.name_of(me), self._now())
        s.passing = True
        try:
            done = bool(ch.try_send(value))
        except BaseException as error:
            self._failed(me, ch, book, what, error, book.refused(offer))
            raise
        finally:
            s.passing = False
        finding = None
        if done:
            book.sent(offer, self._now())
            if waiting:
                finding = book.served("receive", waiting, ch._waiting()[1], me)
        else:
            finding = book.refused(offer)
        world.log_line(world.name_of(me), f"{what} -> {done}")
        self._after(me, ch, book, finding, False)
        return done

    def receive(self, ch: Any, timeout: Any) -> Any:
        s, world = self._scheduler, self.world
        me = s.current
        book = self.book(ch)
        self.doing[me] = what = f"receive on {book.name}"
        waiting = ch._waiting()[0]
        began = self._now()
        self.parked.discard(me)
        s.passing = True
        try:
            value = ch.receive(timeout)
        except BaseException as error:
            finding = book.raised(error, world.name_of(me), began, self._now())
            self._failed(me, ch, book, what, error, finding)
            raise
        finally:
            s.passing = False
        who = world.name_of(me)
        finding = book.received(value, who, began, self._now())
        world.log_line(who, f"{what} -> {show(value)}")
        if finding is None and waiting and me not in self.parked:
            finding = book.served("send", waiting, ch._waiting()[0], me)
        self._after(me, ch, book, finding, True)
        return value

    def try_receive(self, ch: Any, default: Any) -> Any:
        s, world = self._scheduler, self.world
        me = s.current
        book = self.book(ch)
        what = f"try_receive on {book.name}"
        waiting = ch._waiting()[0]
        began = self._now()
        s.passing = True
        try:
            value = ch.try_receive(_NOTHING)
        except BaseException as error:
            finding = book.raised(error, world.name_of(me), began, self._now())
            self._failed(me, ch, book, what, error, finding)
            raise
        finally:
            s.passing = False
        finding = None
        if value is not _NOTHING:
            finding = book.received(value, world.name_of(me), began, self._now())
            if finding is None and waiting:
                finding = book.served("send", waiting, ch._waiting()[0], me)
        world.log_line(world.name_of(me), f"{what} -> {'nothing' if value is _NOTHING else show(value)}")
        self._after(me, ch, book, finding, False)
        return default if value is _NOTHING else value

    def close(self, ch: Any) -> None:
        s = self._scheduler
        me = s.current
        book = self.book(ch)
        s.passing = True
        try:
            ch.close()
        finally:
            s.passing = False
        self.world.log_line(self.world.name_of(me), f"close {book.name}")
        self._after(me, ch, book, None, False)

    def abandon(self, ch: Any, reason: Any) -> None:
        s = self._scheduler
        me = s.current
        book = self.book(ch)
        book.dropped()
        s.passing = True
        try:
            ch._abandon(reason)
        finally:
            s.passing = False
        self.world.log_line(self.world.name_of(me), f"the receiver closes {book.name}")
        self._after(me, ch, book, None, False)

    def select(self, cases: Any, timeout: Any, default: Any) -> Any:
        s, world = self._scheduler, self.world
        me = s.current
        began = self._now()
        who = world.name_of(me)
        channels: list[Any] = []
        offers: list[Offer | None] = []
        words = []
        things = cases
        for case in cases:
            ch, offer, word = self._case(case, who, began)
            channels.append(ch)
            offers.append(offer)
            words.append(word)
        self.doing[me] = what = f"select({', '.join(words)})"
        cases = [_on(ch, case) for ch, case in zip(channels, things, strict=True)]
        s.passing = True
        try:
            result = select(*cases, timeout=timeout, default=default)
        except BaseException as error:
            if isinstance(error, ChannelClosed):
                names = [_named(thing) for ch, thing in zip(channels, things, strict=True) if ch is error.channel]
                error.channel = names[0] if names else error.channel
            finding = self._settle(channels, offers, -1)
            for ch in channels:
                if ch is not None and finding is None:
                    finding = self.book(ch).raised(error, who, began, self._now())
            world.log_line(who, f"{what}: {show(error)}")
            self._after_all(me, channels, finding, False)
            raise
        finally:
            s.passing = False
        index = result.index
        finding = self._settle(channels, offers, index)
        text = "default"
        if index >= 0:
            ch = channels[index]
            if offers[index] is None and ch is not None:
                book = self.book(ch)
                finding = book.received(result[1], who, began, self._now()) or finding
                text = f"received {show(result[1])} from {book.name}"
            else:
                text = words[index]
        world.log_line(who, f"{what} -> {text}")
        self._after_all(me, channels, finding, index >= 0)
        return result if index < 0 or _named(things[index]) is result[0] else Selected(things[index], result)

    def pick(self, count: int) -> int:
        """Which of a select's ready cases happens."""
        return self.world.choose("s", count)

    def failed(self, t: Any, error: BaseException, handler: Any) -> None:
        """A tasklet has ended with an error that nobody collects."""
        self.world.on_failure(t, error, handler)

    def _case(self, case: Any, who: str, began: int) -> tuple[Any, Offer | None, str]:
        """The channel that a case stands for, what it offers there, and the case in words."""
        sends = isinstance(case, tuple) and len(case) == 2
        thing = case[0] if sends else case
        ch = thing
        if not hasattr(ch, "_waiting"):
            ch = getattr(thing, "_send_channel" if sends else "_receive_channel", None)
        if ch is None or not hasattr(ch, "_waiting"):
            return None, None, "None"
        book = self.book(ch)
        if sends:
            return ch, book.offer(case[1], who, began, True), f"send({show(case[1])}) on {book.name}"
        return ch, None, book.name

    def _settle(self, channels: list[Any], offers: list[Offer | None], index: int) -> Finding | None:
        """The select is over: one of its offers was taken, or none."""
        finding = None
        for i, offer in enumerate(offers):
            if offer is not None:
                book = self.book(channels[i])
                if i == index:
                    book.sent(offer, self._now())
                else:
                    finding = book.refused(offer) or finding
        return finding

    # -- afterwards

    def _failed(self, me: Any, ch: Any, book: Book, what: str, error: BaseException, finding: Finding | None) -> None:
        self.world.log_line(self.world.name_of(me), f"{what}: {show(error)}")
        self._after(me, ch, book, finding, False)

    def _after(self, me: Any, ch: Any, book: Book, finding: Finding | None, may_switch: bool) -> None:
        self.world.after_operation(me, finding or book.check(ch), may_switch)

    def _after_all(self, me: Any, channels: list[Any], finding: Finding | None, may_switch: bool) -> None:
        for ch in channels:
            if ch is not None:
                finding = finding or self.book(ch).check(ch)
        self.world.after_operation(me, finding, may_switch)
