"""UDP: `Datagrams`, a channel of (data, address). `Listen` and `Dial` come here for "udp".

The socket is ours and the loop only watches it: uvloop's own datagrams have no bound on what waits to be sent,
can't be empty, and print their errors.

Invariants of the `Port`: ``_held`` is the sum of ``_costs``, of what is in ``incoming`` and of what was received since
the last one came: datagrams, and errors, each with its cost. The loop watches for room to write while somebody waits in
``_room``, and then only.
"""

from __future__ import annotations

import math
import socket
import struct
import sys
import warnings
from collections import deque
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any

from flower.channels import bomb, channel
from flower.channels import timeout as time_limit
from flower.channels._failures import is_foreign
from flower.errors import ChannelClosed, Timeout
from flower.net._address import Info, check_host_port, explain, format_address, resolve
from flower.net._conn import Data, look
from flower.net._loop import io_poller
from flower.net._options import Options
from flower.net._source import Source
from flower.net._stream import _ours, as_bytes
from flower.net._tcp import bind_like, bound_socket, within
from flower.net._transport import disown

if TYPE_CHECKING:
    from flower.net._loop import LoopPoller

LONGEST = 65_535  # bytes: what a datagram can hold at most
COST = 256  # bytes: what a held datagram costs beside its data: a tuple, and an address of its own
READS_PER_EVENT = 64  # so that a flood of datagrams does not keep the loop from the others
SO_RXQ_OVFL = 40 if sys.platform == "linux" else 0  # asks the kernel how many it has dropped

Datagram = tuple[bytes, Any]


def listen_udp(address: Any, options: Options) -> Datagrams:
    """A socket that is bound to the address."""
    host, port = check_host_port("udp", address)
    poller = io_poller()
    info = resolve("udp", host or "0.0.0.0", port, kind=socket.SOCK_DGRAM, passive=True)[0]
    sock = bound_socket("udp", info, (host, port), reuse_port=options.reuse_port, reuse_addr=options.reuse_addr)
    if options.broadcast:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    return Datagrams(Port(poller, sock, options.read_buffer))


def dial_udp(address: Any, options: Options) -> Datagrams:
    """A socket that sends to the address, and receives from there alone."""
    host, port = check_host_port("udp", address)
    if port == 0:
        raise ValueError(f"nobody can be reached at port 0, in {address!r}")
    local = None if options.local_addr is None else check_host_port("udp", options.local_addr, "local_addr")
    poller = io_poller()

    def look_up() -> tuple[list[Info], list[Info]]:
        theirs = resolve("udp", host or "127.0.0.1", port, kind=socket.SOCK_DGRAM)
        return theirs, [] if local is None else resolve("udp", *local, kind=socket.SOCK_DGRAM, passive=True)

    infos, ours = within(options.timeout, look_up, f"udp {format_address((host, port))}")
    families = {info[0] for info in ours}
    family, kind, number, _name, where = next((info for info in infos if info[0] in families), infos[0])
    sock = None
    try:
        sock = socket.socket(family, kind, number)
        sock.setblocking(False)
        if options.broadcast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if ours:
            bind_like(sock, ours)
        sock.connect(where)
    except OSError as error:
        if sock is not None:
            sock.close()
        more = "" if local is None else f" from {format_address(local)}"
        raise explain(error, "can't send to", "udp", (host, port), more) from None
    return Datagrams(Port(poller, sock, options.read_buffer))


class Port:
    """What the loop calls, and the state. It knows nothing of its `Datagrams`, which may be dropped."""

    __slots__ = (
        "_costs",
        "_held",
        "_lost",
        "_read_buffer",
        "_room",
        "_thread",
        "dropped",
        "incoming",
        "local",
        "poller",
        "remote",
        "sock",
    )

    def __init__(self, poller: LoopPoller, sock: socket.socket, read_buffer: int) -> None:
        self.poller = poller
        self.sock: socket.socket | None = sock
        self.local = sock.getsockname()
        try:
            self.remote: Any = sock.getpeername()
        except OSError:
            self.remote = None
        self.incoming: channel[Datagram] = channel(math.inf, "datagrams")
        self.incoming._external = True
        self.dropped = 0
        self._costs: deque[int] = deque()
        self._held = 0
        self._lost = 0  # dropped by the kernel, as it counts: modulo 2 to the 32nd
        self._read_buffer = read_buffer
        self._room: channel[None] = channel(0, "room to write")
        self._room._external = True
        self._room.preference = 0
        self._thread = poller.thread
        if SO_RXQ_OVFL:
            sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        poller.resources.add(self)
        poller.loop.add_reader(sock, self._on_readable)

    # -- Receiving

    def _on_readable(self) -> None:
        for count in range(READS_PER_EVENT):
            if self.sock is None:
                return
            try:
                data, extra, _flags, address = self.sock.recvmsg(LONGEST, 64)
            except (BlockingIOError, InterruptedError):
                if count == 0:
                    self._watch_again()  # it was an error, and a send has been told of it
                return
            except OSError as error:  # a peer that is not there says so, to a socket that has one
                self._watch_again()
                self._take(bomb(_ours(explain(error, "datagrams of", "udp", self.remote or self.local))), 0)
                return
            for level, kind, value in extra:
                if level == socket.SOL_SOCKET and kind == SO_RXQ_OVFL:
                    (lost,) = struct.unpack("I", value)
                    self.dropped += (lost - self._lost) & 0xFFFFFFFF
                    self._lost = lost
            if not self._take((data, address or self.remote), len(data)):
                self.dropped += 1

    def _watch_again(self) -> None:
        """libuv ceases to watch a socket that has had an error."""
        if self.sock is not None:
            self.poller.loop.remove_reader(self.sock)
            self.poller.loop.add_reader(self.sock, self._on_readable)

    def _take(self, item: Any, size: int) -> bool:
        """Put it into the channel, if that holds so much beside what is there."""
        count = len(self.incoming)
        while len(self._costs) > count:
            self._held -= self._costs.popleft()
        cost = size + COST
        if count and self._held + cost > self._read_buffer:
            return False
        self.incoming.try_send(item)
        self._costs.append(cost)
        self._held += cost
        return True

    # -- Sending

    def send(self, data: bytes, where: Any) -> None:
        """Hand the datagram to the kernel, when it has room."""
        if get_ident() != self._thread:
            raise RuntimeError(f"{self.describe()} belongs to another thread: only that one may send")
        if self._room.balance == 0 and self._try_send(data, where):
            return
        while True:
            if self.sock is None:
                raise self.end()
            self.poller.loop.add_writer(self.sock, self._on_writable)
            try:
                self._room.receive()
            except ChannelClosed as error:
                if is_foreign(error):
                    raise
                raise self.end() from None
            if self._try_send(data, where):
                return

    def _try_send(self, data: bytes, where: Any) -> bool:
        if self.sock is None:
            raise self.end()
        try:
            if where is None:
                self.sock.send(data)
            else:
                self.sock.sendto(data, where)
        except (BlockingIOError, InterruptedError):
            return False
        except OverflowError as error:  # the flow's number
            raise ValueError(f"no udp address: {where!r}: {error}") from None
        except OSError as error:
            where = where or self.remote or "nobody: no address given"
            failure = explain(error, "can't send to", "udp", where)
            raise _ours(failure) if isinstance(failure, ConnectionError) else failure from None
        return True

    def _on_writable(self) -> None:
        if self._room.balance < 0:
            self._room.try_send(None)  # one: whoever waits next asks again
        elif self.sock is not None:
            self.poller.loop.remove_writer(self.sock)

    # -- The end

    def close(self) -> None:
        sock = self.sock
        if sock is not None:
            self.poller.loop.remove_reader(sock)
            self.poller.loop.remove_writer(sock)
            self._forget()
            sock.close()

    def _forget(self) -> None:
        self.sock = None
        self.poller.resources.discard(self)
        self.incoming.close()
        self._room.close()
        while len(self.incoming):
            with suppress(ChannelClosed, OSError):  # another thread was quicker; a refusal, and more may be behind it
                self.incoming.try_receive()

    def finish(self, late: bool) -> bool:
        self.close()
        return False

    def disown(self) -> Any:
        """In a forked child: the parent goes on with this socket; here it is over."""
        sock = self.sock
        if sock is not None:
            disown(sock)
        self.sock = None
        self.incoming.close()
        self._room.close()
        return sock

    def end(self) -> ChannelClosed:
        return ChannelClosed(f"{self.describe()} is closed", self.incoming)

    def describe(self) -> str:
        there = f" -> {format_address(self.remote)}" if self.remote is not None else ""
        return f"udp {format_address(self.local)}{there}"


class Datagrams(Source):
    """A UDP socket: a channel of datagrams, each a pair ``(data, address)``.

    `receive`, iteration and ``flower.select`` give them; `send` sends one. `Listen` gives a socket that hears
    everybody, `Dial` one that sends to one address and hears only from there, and
    whose `read` and `write` have the data alone.

    As is UDP's way, datagrams may be lost, doubled, and come in any order. Those that come while 256 KiB wait to be
    received (``read_buffer``) are dropped, and `dropped` counts them, with those that the kernel had to drop.
    It belongs to the thread that made it: others may receive from it and close it. One that is dropped without
    `close` gives a ResourceWarning, and is closed.

    >>> with Listen(("127.0.0.1", 0), "udp") as here:
    ...     for data, address in here:
    ...         here.send(data, address)
    """

    __slots__ = ("__weakref__", "_incoming", "_left", "_port")

    def __init__(self, port: Port) -> None:
        self._port = port
        self._incoming: channel[Datagram] = port.incoming
        self._left = False  # it was closed, perhaps in another thread, and its own has yet to do so

    @property
    def _receive_channel(self) -> channel[Datagram]:
        """What `flower.select` receives from, asked for at each select."""
        return look(self._incoming, self._end)

    def _end(self) -> ChannelClosed:
        end = self._port.end()
        end.channel = self
        return end

    def receive(self, timeout: float | None = None) -> Datagram:
        """The next datagram, and the address that it is from.

        Blocks until there is one. When it is cancelled or times out, none is lost by that.

        Raises ChannelClosed when the socket was closed here; ConnectionRefusedError where the address that was
        dialled has told us that nobody listens there; Timeout after ``timeout`` seconds.
        """
        try:
            if timeout is None:
                return self._incoming.receive()
            datagram: Datagram = self._within(self._incoming, timeout)
        except ChannelClosed as error:
            if is_foreign(error):
                raise
            raise self._end() from None
        return datagram

    def read(self, *, timeout: float | None = None) -> bytes:
        """The data of the next datagram. As `receive`."""
        return self.receive(timeout)[0]

    def send(self, data: Data, address: Any = None, timeout: float | None = None) -> None:
        """Send one datagram to the address, or to the one that was dialled.

        Blocks while the kernel has no room for it, and where the host is a name that has to be looked up. When it is
        cancelled or times out, nothing was sent.

        Raises ChannelClosed when the socket was closed here; OSError, with the address in its text, for one that
        can't be sent (EMSGSIZE: more than 65,507 bytes; EDESTADDRREQ: no address); Timeout; TypeError for anything
        but bytes; TypeError and ValueError for what is no address.
        """
        if timeout is not None:
            try:
                with time_limit(timeout) as scope:
                    return self.send(data, address)
            except Timeout:
                if not scope.expired:
                    raise
                raise Timeout(f"{self._port.describe()}: not sent within {timeout} s") from None
        data = as_bytes(data)
        port = self._port
        try:
            port.send(data, None if address is None else self._where(port, address))
        except ChannelClosed as error:
            if not is_foreign(error):
                error.channel = self
            raise

    def write(self, data: Data | str, *, timeout: float | None = None) -> None:
        """`send` to the address that was dialled; a str is sent as UTF-8."""
        self.send(data.encode() if isinstance(data, str) else data, None, timeout)

    @staticmethod
    def _where(port: Port, address: Any) -> Any:
        """The address for the kernel, which looks up no names."""
        host, number = check_host_port("udp", address)
        if port.sock is None:
            raise port.end()
        family = port.sock.family
        try:
            socket.inet_pton(family, address[0])
            return address if isinstance(address, tuple) else tuple(address)
        except OSError:  # a name, or an address with its scope
            infos: list[Info] = resolve("udp", host, number, kind=socket.SOCK_DGRAM)
        for info in infos:
            if info[0] == family:
                return info[4]
        raise OSError(f"udp {format_address((host, number))} has no address of the kind that this socket has")

    # -- Multicast

    def join(self, group: str, interface: str = "") -> None:
        """Receive what is sent to the multicast group, too.

        ``interface``: the one to receive it from; for IPv4 its address, for IPv6 its name; else the system
        chooses. Raises OSError, with the group in its text, for what is no group or was joined already.
        """
        self._membership("join", group, interface)

    def leave(self, group: str, interface: str = "") -> None:
        """Take back `join`. Raises OSError for a group that was not joined."""
        self._membership("leave", group, interface)

    def _membership(self, verb: str, group: str, interface: str) -> None:
        sock = self._port.sock
        if sock is None:
            raise self._end()
        try:
            if sock.family == socket.AF_INET:
                option = socket.IP_ADD_MEMBERSHIP if verb == "join" else socket.IP_DROP_MEMBERSHIP
                wish = socket.inet_aton(group) + socket.inet_aton(interface or "0.0.0.0")
                sock.setsockopt(socket.IPPROTO_IP, option, wish)
            else:
                option = socket.IPV6_JOIN_GROUP if verb == "join" else socket.IPV6_LEAVE_GROUP
                index = socket.if_nametoindex(interface) if interface else 0
                wish = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index)
                sock.setsockopt(socket.IPPROTO_IPV6, option, wish)
        except OSError as error:
            raise explain(error, f"can't {verb} the group {group!r} on", "udp", self._port.local) from None

    # -- The rest

    @property
    def dropped(self) -> int:
        """How many datagrams were dropped since they came faster than they were received.

        Of those that the kernel has dropped, it tells with the next that it takes.
        """
        return self._port.dropped

    def addr(self) -> Any:
        """The address of this end."""
        return self._port.local

    local_addr = local_address = addr

    def remote_addr(self) -> Any:
        """The address that was dialled, or None."""
        return self._port.remote

    remote_address = remote_addr

    @property
    def status(self) -> str:
        """``"open"`` or ``"closed"``."""
        return "closed" if self._port.sock is None else "open"

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._port.sock is None

    def close(self) -> None:
        """Close the socket; never blocks. Datagrams that nobody has received are dropped.

        Blocked receivers and senders, and all later ones, get ChannelClosed. Closing twice is allowed.
        """
        self._left = True
        self._port.poller.call_here(self._port.close)

    def __repr__(self) -> str:
        return f"<Datagrams {self._port.describe()}, {self.status}>"

    def __del__(self) -> None:
        try:
            port = self._port
        except AttributeError:  # __init__ failed
            return
        if port.sock is not None and not self._left:
            port.poller.call_here(port.close)
            warnings.warn(f"{port.describe()} was dropped, and not closed", ResourceWarning, stacklevel=2, source=self)
