# cython: nonecheck=False
# (No field is read through None: the same source, uncompiled, would raise AttributeError, and its tests pass.)
"""The channels that go through one connection, by their ids; and their ends as values of messages.

Ext type 70 holds ``[kind, id, items, bytes, opts]``: 1, you get the sending end; 2, the receiving end; 3, an end with
your own id comes home. ``items`` and ``bytes`` are the credit that the sender has from the start. Ids are odd from the
side that connected, even from the other, and never used again. Flower's users pass `channel.sender` or
`channel.receiver`, and get one of these.

Ends that are packed are ``fresh`` until their message has been sent: then `commit` brings them to life, and if it was
not, `roll_back` undoes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgpack

from flower.channels._channel import channel
from flower.channels._ends import Receiver, Sender
from flower.errors import ChannelBroken, ProtocolError
from flower.rpc._faults import BRIEF, brief, fault, packed, rebuild_abort
from flower.rpc._inbound import MAX_HELD, MAX_REASON, MORE_ITEMS, Inbound
from flower.rpc._outbound import DROPPED, Outbound
from flower.rpc._wire import Unmade, short

if TYPE_CHECKING:
    from flower.rpc._session import Session

SENDING = 1
RECEIVING = 2
HOME = 3
# Ids are no larger than what every MessagePack implementation has, with room for none ever to run out.
MAX_ID = 2**53
# Bytes of an end in a message; ours have fewer than 50.
MAX_END = 1024
# Ended channels of which it is known how many values were sent. Where more have their ends on the way home, the oldest
# are broken.
MOST_ENDED = 1024
# Bytes that an end of a channel that is over takes, about, beside what the message was looked at for.
CLOSED_COST = 800

# What is to be done with an end when its message was sent, and when it was not.
Fresh = tuple[Callable[[], object], Callable[[], object]]


class Home:
    """On a user's own channel whose sending end was passed on: who sends into it from elsewhere."""

    __slots__ = ("_was_external", "members")

    def __init__(self, ch: channel[Any]) -> None:
        self.members: list[Inbound] = []
        self._was_external = ch._external
        ch._feeder = self
        ch._low = int(min(ch.capacity, MAX_HELD)) + 1  # the last that was too many is taken
        ch._on_wait = self.on_wait
        ch._set_external(True)  # whoever waits on it may be woken from outside

    def leave(self, ch: channel[Any], member: Inbound) -> None:
        if member in self.members:
            self.members.remove(member)
        if not self.members:
            ch._feeder = ch._on_wait = None
            ch._low = 0
            ch._set_external(self._was_external)

    def on_wait(self) -> None:
        for member in list(self.members):
            if member.meets:
                member.on_wait()

    def on_low(self) -> None:
        for member in list(self.members):
            member.on_low()

    def on_close(self) -> None:
        self.on_stop(None, 0)

    def on_stop(self, reason: Any, dropped: int) -> None:
        for member in list(self.members):
            member.session.here(lambda member=member: member.stop(reason, None))  # type: ignore[misc]


class Streams:
    """The channels of a `Session`."""

    def __init__(self, session: Session, dialed: bool) -> None:
        self.session = session
        self.inbound: dict[int, Inbound] = {}
        self.outbound: dict[int, Outbound] = {}
        self.spare = (MORE_ITEMS - 1) * session.settings.channel_items  # values of credit beyond the settings'
        self._parity = 1 if dialed else 0  # of our ids
        self._next = 1 if dialed else 2
        self._given = self._taken = 0  # channels that we opened, and the peer, whose last word has not left, or come
        self._ended: dict[int, Any] = {}  # channels of ours that ended: how many values were sent, or what failed
        self.partial = 0  # bytes of values that have not come whole
        self.kept = 0  # bytes of values that may come home

    def __len__(self) -> int:
        return len(self.inbound) + len(self.outbound)

    def choke(self) -> None:
        """So much waits to be sent that no channel has room."""
        for each in list(self.outbound.values()):
            each.choke()

    def post(self, kind: str, params: list[Any], told: Any = None) -> None:
        """Send a control frame."""
        session = self.session
        if session.fault is None:
            session.outbox.post(self.telling(kind, params), told, True)

    def telling(self, kind: str, params: list[Any]) -> bytes:
        """A control frame. If the last of the params is an error, that is shortened for a peer that takes no more.

        Where much is said of channels and waits, reasons and errors are, too: all that are open can be told of then,
        before the reader is held up, and the peer's, which would wait for it, with all that it has to say.
        """
        if self.session.outbox.words > self.session.serving.most_words // 2:
            params = [_in_brief(each) for each in params]

        def pack(last: Any) -> bytes:
            data = self.session.wire.notify(kind, [*params[:-1], last])
            ends = self.session.take_fresh(data)
            if ends is not None:
                self.roll_back(ends)
                raise TypeError("an end of a channel is no reason and no error")
            return data

        return packed(pack, params[-1])

    # -- Ends in messages that we send

    def at_once(self, function: Callable[[Any], Any], value: Any) -> Any:
        return self.session.at_once(function, value)

    def is_end(self, value: Any) -> bool:
        """Whether it is an end of a channel (or a channel, which `export` refuses)."""
        return isinstance(value, Sender | Receiver | channel)

    def export(self, value: Any, fresh: list[Fresh]) -> bytes:
        """An end as it stands in a message. What is done with it when that is sent, or is not, goes into ``fresh``.

        Raises TypeError and ValueError for one that can't be passed.
        """
        if isinstance(value, channel):
            raise TypeError(f"a channel is passed as one of its ends: {value.label or 'channel'}.sender or .receiver")
        theirs = self.session.theirs
        if theirs is None or "channels" not in theirs.features:
            raise TypeError("this peer does not know channels")
        export = self._export_sender if isinstance(value, Sender) else self._export_receiver
        packed = export(value, fresh)
        most = min(theirs.max_channels, self.session.settings.max_channels)
        if self._given > most:
            raise ValueError(f"{most} channels are open through {self.session.name}, which is the most")
        data: bytes = msgpack.packb(packed)
        return data

    def _export_sender(self, value: Sender[Any], fresh: list[Fresh]) -> list[Any]:
        ch = value._channel
        outlet = ch._outlet
        if isinstance(outlet, Outbound) and outlet.streams is self and not outlet.here:
            if not (outlet._take_now() or outlet.over or len(ch) or ch.balance > 0):
                self.session.outbox.hurry(outlet)
                fresh.append((lambda: self._came_home(outlet, ch), _nothing))
                return [HOME, outlet.id, 0, 0, {}]
        number = self._new_id()
        inbound = Inbound(self, number, ch, meets=ch.capacity == 0)
        if isinstance(ch._outlet, Outbound):
            inbound.granted = max(0, ch._credit)
        elif inbound.meets:
            inbound.granted = max(0, -ch.balance)
        self.inbound[number] = inbound
        fresh.append((lambda: self._bind(ch, inbound), lambda: self._forget(inbound)))
        return [SENDING, number, inbound.granted, inbound.granted_bytes, {}]

    def _export_receiver(self, value: Receiver[Any], fresh: list[Fresh]) -> list[Any]:
        ch = value._channel
        feeder = ch._feeder
        if ch._outlet is not None or (isinstance(feeder, Inbound) and feeder.ref() is not ch):
            raise ValueError(f"{value!r} has been passed on already, and is somebody else's")
        if ch.balance < 0:
            raise ValueError(f"{value!r} can't be passed on: a tasklet waits for a value of it")
        # What was told to be taken, and has come back from where it went on to, the other side has no more.
        if isinstance(feeder, Inbound) and feeder.streams is self and feeder.told <= feeder._taken():
            away = feeder.pack_up()
            fresh.append((lambda: self._moved(feeder, ch), lambda: feeder.stay(ch, away)))
            return [HOME, feeder.id, feeder._taken(), 0, {}]
        number = self._new_id()
        outbound = Outbound(self, number, ch, here=True)
        outbound.hold = ch
        self.outbound[number] = outbound
        theirs = self.session.theirs
        assert theirs is not None
        meets = ch.capacity == 0 and feeder is None
        items, size = (0 if meets else theirs.channel_items), theirs.channel_bytes
        fresh.append((lambda: self._start(outbound, ch, items, size), lambda: self._undo(outbound, ch)))
        return [RECEIVING, number, items, size, {"meet": True} if meets else {}]

    def _new_id(self) -> int:
        number = self._next
        self._next += 2
        self._given += 1
        return number

    def _start(self, outbound: Outbound, ch: channel[Any], items: int, size: int) -> None:
        feeder = ch._feeder
        if isinstance(feeder, Home):
            outbound.followers.extend(feeder.members)
        elif isinstance(feeder, Inbound) and feeder.meets:
            outbound.followers.append(feeder)  # who has no credit but that of whom it goes on to
        outbound.start(items, size)

    def _bind(self, ch: Any, inbound: Inbound) -> None:
        if ch.closing:
            inbound.stop(ch.reason, None)
            return
        inbound.hold = None
        outlet = ch._outlet
        if isinstance(outlet, Outbound):
            inbound.hold = ch
            outlet.followers.append(inbound)
        else:
            home = ch._feeder if isinstance(ch._feeder, Home) else Home(ch)
            if inbound not in home.members:
                home.members.append(inbound)
        inbound.look()

    def stay(self, ch: channel[Any], followers: list[Any]) -> None:
        """The channel goes on here, and not elsewhere: who puts values into it goes by that."""
        for each in followers:
            if not isinstance(each, Inbound):
                ch._feeder = each
            elif each.here:
                self._bind(ch, each)
        if ch._feeder is not None:
            ch._feeder.on_low()

    def unbind(self, ch: channel[Any], inbound: Inbound) -> None:
        """The `Inbound` puts no more into the user's channel."""
        outlet = ch._outlet
        if isinstance(outlet, Outbound) and inbound in outlet.followers:
            outlet.followers.remove(inbound)
        if isinstance(ch._feeder, Home):
            ch._feeder.leave(ch, inbound)
        if isinstance(outlet, Outbound):
            outlet.set_credit()  # it holds the channel no longer, if that was the last

    def last_word(self, number: int) -> list[Fresh]:
        """What is told when the last word on a channel has left: before that, it is open to the peer."""
        return [(lambda: self._gone(number), _nothing)]

    def _gone(self, number: int) -> None:
        if number & 1 == self._parity:
            self._given -= 1
        else:
            self._taken -= 1

    def _forget(self, inbound: Inbound) -> None:
        if self.inbound.pop(inbound.id, None) is not None:
            self._gone(inbound.id)
        inbound.narrow()
        inbound.drop_parts()
        inbound.stopped = True
        inbound.hold = None

    def _undo(self, outbound: Outbound, ch: channel[Any]) -> None:
        if self.outbound.pop(outbound.id, None) is not None:
            self._gone(outbound.id)
        outbound.over = True
        self.stay(ch, outbound.leave())

    def _came_home(self, outbound: Outbound, _: channel[Any]) -> None:
        """Until now the channel was held, by whoever is to call this: it is not dropped on its way."""
        outbound.home = True

    def _moved(self, inbound: Inbound, ch: channel[Any]) -> None:
        """Our receiving end has gone home. What still comes for it is dropped: the other side has kept it."""
        inbound._settle()
        ch._abandon("it was passed back")

    def commit(self, fresh: list[Fresh]) -> None:
        """The message with these ends has been sent."""
        for place, (alive, _) in enumerate(fresh, 1):
            try:
                alive()
            except BaseException:  # of what it let leave; the others are alive as well
                self.commit(fresh[place:])
                raise

    def roll_back(self, fresh: list[Fresh] | None) -> None:
        """The message with these ends has not been sent."""
        for _, undo in reversed(fresh or []):
            undo()

    def was_packed(self, data: bytes, fresh: list[Fresh]) -> None:
        """A message with these ends was packed: its sender takes them, by `Line.take_fresh`."""
        self.session.fresh[id(data)] = data, fresh

    # -- Ends in messages that we receive

    def load(self, data: bytes) -> Any:
        """The end that a message holds. Raises ValueError for one that breaks the protocol."""
        if len(data) > MAX_END:
            raise ValueError(f"an end of a channel takes less than {len(data)} bytes")
        told = msgpack.unpackb(data, strict_map_key=False)
        if not isinstance(told, list) or len(told) < 2:
            raise ValueError("an end of a channel is an array")
        kind, number, items, size, opts = (told + [0, 0, {}])[:5]
        if type(number) is not int or not 0 < number < MAX_ID or type(items) is not int or type(size) is not int:
            raise ValueError("an end of a channel has an id, and numbers for its credit")
        if kind == HOME:
            return self._come_home(number, items)
        if number & 1 == self._parity:
            raise ValueError(f"id {number} is of this side, and not of the peer's")
        if number in self.inbound or number in self.outbound:
            raise ValueError(f"id {number} is in use by another channel")
        if self._taken >= self.session.settings.max_channels:
            raise ValueError(f"more than {self.session.settings.max_channels} channels at a time")
        self._taken += 1
        if kind == SENDING:
            proxy: channel[Any] = channel(0, f"channel {number} to {self.session.name}")
            outbound = self.outbound[number] = Outbound(self, number, proxy, here=False)
            outbound.start(items, size)
            return proxy.sender
        meets = kind == RECEIVING and isinstance(opts, dict) and bool(opts.get("meet"))
        inbound = self.inbound[number] = Inbound(self, number, None, meets)
        receiver = inbound.hand_out().receiver
        if kind != RECEIVING:  # it is there until the peer's last word
            receiver.close("this kind of channel is not known here")
        return receiver

    def turn_away(self, value: Any, reason: str) -> None:
        """Stop the ends in what the peer sent, and nobody takes."""
        if isinstance(value, Receiver):
            feeder = value._channel._feeder
            if isinstance(feeder, Inbound) and not feeder.here:
                value.close(reason)
        elif isinstance(value, Sender):
            outlet = value._channel._outlet
            if isinstance(outlet, Outbound) and not outlet.here:
                outlet.fail(fault("failed", reason))
        elif isinstance(value, list | tuple | set | frozenset):
            for each in value:
                self.turn_away(each, reason)
        elif isinstance(value, dict):
            self.turn_away(list(value.values()), reason)

    def _come_home(self, number: int, taken: int) -> Any:
        inbound = self.inbound.get(number)
        ch = None if inbound is None or not inbound.here else inbound.ref()
        if ch is not None:
            return ch.sender
        outbound = self.outbound.get(number)
        if outbound is not None and outbound.here:
            if outbound.ref() is not None:
                return outbound.come_home(taken).receiver
            outbound.fail(DROPPED)  # which was still to be told
            outbound = None
        codec = self.session.wire.codec
        codec.budget -= CLOSED_COST
        if codec.budget < 0:  # of those that are open there are not more than may be
            raise ValueError("ends of channels that are over, which take too much memory")
        is_sender = outbound is not None or inbound is not None
        told = self._ended.pop(number, 0 if is_sender else None)
        reason: Any = "the channel is over"
        if told is None:
            text = "a channel ended long before its receiving end came home, and which values are lost is not known"
            reason = ChannelBroken(f"{self.session.name}: {text}")
        elif isinstance(told, dict):
            reason = self.session.at_once(rebuild_abort, told)
        elif told > taken:
            lost = told - taken
            text = f"{self.session.name}: a channel ended as its receiving end came home, and {lost} values are lost"
            reason = ChannelBroken(text, lost)
        closed: channel[Any] = channel(0, "a remote channel")
        closed._abandon(reason)
        return closed.sender if is_sender else closed.receiver

    def note_end(self, number: int, told: Any) -> None:
        """A channel has ended, or failed, whose receiving end may be on its way home."""
        self._ended[number] = brief(told, MAX_REASON) if isinstance(told, dict) else told
        if len(self._ended) > MOST_ENDED:
            del self._ended[next(iter(self._ended))]

    # -- What the peer says about a channel

    def on_data(self, event: list[Any]) -> None:
        """`$/d`."""
        params = event[2]
        if type(params) is Unmade:
            params = [params.rest[0], params]
        inbound = self.inbound.get(params[0])
        if inbound is None:
            raise ProtocolError(f"{self.session.name}: a value for channel {short(params[0])}, which is not open")
        inbound.on_data(params, event[4])

    def on_credit(self, params: list[Any]) -> None:
        """`$/w`. For a channel that has ended meanwhile it is nothing new."""
        number, items, size, taken = params
        if not (type(items) is int and type(size) is int and type(taken) is int):
            raise ValueError("credit is numbers")
        outbound = self.outbound.get(number)
        if outbound is not None:
            outbound.on_credit(items, size, taken)

    def on_end(self, params: list[Any]) -> None:
        """`$/end`."""
        number, count = params
        inbound = self._ending(number)
        inbound.on_end(count)
        self._forget(inbound)

    def on_reset(self, params: list[Any]) -> None:
        """`$/rst`."""
        number, error = params
        inbound = self._ending(number)
        inbound.on_reset(error)
        self._forget(inbound)

    def _ending(self, number: Any) -> Inbound:
        inbound = self.inbound.get(number)
        if inbound is None:
            raise ProtocolError(f"{self.session.name}: the end of channel {short(number)}, which is not open")
        return inbound

    def on_stop(self, params: list[Any]) -> None:
        """`$/stop`. For a channel that has ended meanwhile it is nothing new."""
        number, _, reason, error = params
        outbound = self.outbound.get(number)
        if outbound is not None:
            outbound.on_stop(reason, error)

    def fail(self, text: str) -> None:
        """The connection is over."""
        self.partial = 0
        outbound, self.outbound = self.outbound, {}
        for each in outbound.values():
            each.broken(text)
        inbound, self.inbound = self.inbound, {}
        for other in inbound.values():
            other.broken(text)


def _in_brief(value: Any) -> Any:
    return brief(value) if isinstance(value, dict) else value[:BRIEF] if isinstance(value, str) else value


def _nothing() -> None:
    pass
