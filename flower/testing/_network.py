"""The simulated network: byte streams between named hosts, under unmodified `flower.net` and `flower.rpc`.

In a world, `flower.net.Listen` and `Dial` come here. What they give are the real `Listener` and `Conn`, on the real
stream; simulated are the socket and the event loop's transport below (`_wire`). A stream never reorders, loses or
doubles a byte, as TCP never does; what may happen is chosen, "nothing" being the plain choice:

- a write arrives in pieces, or later than others; the write buffer is full for a while;
- if the test allows it (`Network.faults`): a reset or an end of one direction in the middle of a write, a one-way
  partition for a while, a refused or a slow connect.

Lasting partitions, crashes and the like are the test's to order.
"""

from __future__ import annotations

import contextvars
import errno
import math
import ssl
import zlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import flower
from flower.channels import _hub
from flower.channels._waiting import Alarm
from flower.errors import TaskletExit
from flower.net._acceptor import Acceptor
from flower.net._address import check_host_port, check_path, format_address
from flower.net._conn import Conn
from flower.net._listener import Listener
from flower.net._secure import check_context
from flower.net._stream import Stream
from flower.testing._wire import ListeningSocket, Socket, Transport, connect, shake_hands

if TYPE_CHECKING:
    from flower.net._options import Options
    from flower.testing._world import World

HOME = "local"  # the host that a test's own code is on
FIRST_PORT = 49_152  # of those that are given to who asks for port 0 (IANA's dynamic ports)
CONNECT_TIME = 120.0  # seconds until a connect that nothing answers fails, as Linux's does
SLOW = 1.0  # seconds that a slow connect takes
DELAYS = (0.001, 0.01, 0.1, 1.0)  # seconds by which a write may be late
OUTAGES = (0.1, 1.0, 10.0, 100.0)  # seconds that a drawn partition lasts
FAULTS = ("reset", "half-close", "partition", "refuse", "slow")

_hosts: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("flower.testing.hosts", default=(HOME,))


class Network:
    """The simulated network of a world, ``w.net``.

    A host is a name. The test's own code is on the host ``"local"``; `at` puts code, and what it starts, elsewhere.

    >>> w.net.at("server").go(serve)
    >>> w.net.partition("client", "server")
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.loop = SimulatedLoop(self)
        self.transports: list[Transport] = []
        self._listeners: dict[Any, Acceptor] = {}
        self._ports: dict[str, int] = {}
        self._crashes: dict[str, int] = {}
        self._latency: dict[tuple[str, str], float] = {}
        self._cut: set[tuple[str, str]] = set()
        self._out: dict[tuple[str, str], float] = {}  # drawn partitions, and when they end
        self._held: set[tuple[str, str]] = set()
        self._faults: set[str] = set()
        self._news: flower.channel[None] = flower.channel(label="the network to heal")

    # -- what tests use

    def at(self, host: str) -> Host:
        """The host of that name, on which code can be put."""
        return Host(self, host)

    def faults(self, *names: str) -> None:
        """Let these happen, from now on.

        - ``"reset"``: in the middle of a write, the connection is gone.
        - ``"half-close"``: in the middle of a write, this direction ends, as if the writer had closed it; the other
          goes on. The writer gets BrokenPipeError when it writes again.
        - ``"partition"``: of a write or a connect, nothing gets through one way any more, for up to 100 s.
        - ``"refuse"`` and ``"slow"``: of a connect.
        """
        for name in names:
            if name not in FAULTS:
                raise ValueError(f"unknown fault {name!r}: give some of {', '.join(FAULTS)}")
        self._faults |= set(names)

    def link(self, a: str, b: str, latency: float) -> None:
        """Bytes take so many seconds between the two hosts, each way."""
        _check_hosts(a, b)
        if isinstance(latency, bool) or not isinstance(latency, (int, float)):
            raise TypeError(f"a latency is a number of seconds, not {latency!r}")
        if not 0 <= latency < math.inf:
            raise ValueError(f"a latency is a number of seconds, at least 0, not {latency!r}")
        self._latency[a, b] = self._latency[b, a] = float(latency)

    def partition(self, a: str, b: str, both: bool = True) -> None:
        """Nothing gets through from a to b any more (``both``: nor back). Streams wait; they do not break."""
        _check_hosts(a, b)
        ways = {(a, b), (b, a)} if both else {(a, b)}
        self._cut |= ways
        self._say(f"{a} {'<-/->' if both else '-/->'} {b}: partitioned")
        self._relieve(ways)

    def heal(self, a: str | None = None, b: str | None = None) -> None:
        """End the partition of the two hosts, or all partitions. What waits gets through, in order."""
        if a is None and b is None:
            self._cut.clear()
            self._out.clear()
        elif a is None or b is None:
            raise TypeError("heal() takes the two hosts of a partition, or none for all partitions")
        else:
            self._cut -= {(a, b), (b, a)}
            self._out.pop((a, b), None)
            self._out.pop((b, a), None)
        self._say("healed" if a is None else f"{a} <-> {b}: healed")
        self._pump()

    def hold(self, a: str, b: str) -> None:
        """Hold back what is sent from a to b, until `release`; connects get through."""
        _check_hosts(a, b)
        self._held.add((a, b))
        self._say(f"{a} -> {b}: held back")
        self._relieve({(a, b)})

    def release(self, a: str, b: str) -> None:
        """Let what was held back get through."""
        _check_hosts(a, b)
        self._held.discard((a, b))
        self._say(f"{a} -> {b}: released")
        self._pump()

    def crash(self, host: str) -> None:
        """End everything on the host: its connections are reset, its listeners gone, its tasklets killed.

        The tasklet that calls this is killed last, if it is on the host; the test itself goes on.
        """
        _check_hosts(host)
        self._say(f"{host}: crashes")
        self._crashes[host] = self._crashes.get(host, 0) + 1
        for key in [key for key in self._listeners if key[0] == host]:
            self._listeners[key].close()
        for transport in self.transports:
            if transport.host == host:
                transport.crash()
        me = self.world._scheduler.current
        for t in [*self.world._names, *_hub.queued(self.world._scheduler)]:  # some have not been seen yet
            if t.alive and t is not me and not t.is_main and self._host_of(t) == host:
                t.kill()
        if me is not None and not me.is_main and here() == host:
            raise TaskletExit

    def _host_of(self, t: Any) -> str:
        """The host that a tasklet, which is not running, is on."""
        context = t.context if t.carrier is None else self.world.contexts.get(t)
        if t.carrier is not None:
            try:
                context = t.carrier.gr_context
            except ValueError:  # to greenlet, one that runs nothing but compiled code looks as if it were running
                pass
        return HOME if context is None else context.get(_hosts, (HOME,))[-1]

    def restart(self, host: str, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        """Start ``fn(*args)`` on the host that has crashed; returns the tasklet. Options as of ``w.go``."""
        self._say(f"{host}: restarts")
        return self.at(host).go(fn, *args, **options)

    # -- used by flower.net

    def open(self, what: str, proto: str, addr: Any, options: Options) -> Any:
        """`Listen` or `Dial`, in a world."""
        if proto not in ("tcp", "tls", "pipe"):
            raise RuntimeError(f"{what}: {proto} is not simulated, and a World has no other network")
        host, port = self._address(proto, addr)
        tls = None
        if proto == "tls":
            o = options
            server_name = None if what == "Listen" else o.server_name or addr[0] or "127.0.0.1"
            tls = check_context(o.context, what == "Listen", server_name, o.ca, o.cert, o.key, o.alpn), server_name
        if what == "Listen":
            return self._listen(proto, host, port, options.bounds, tls)
        bounds, timeout = options.bounds, options.timeout
        name = f"{proto} {format_address(addr)}"
        if timeout is None:
            return self._dial(proto, host, port, bounds, name, tls)
        try:
            with flower.timeout(timeout) as scope:
                return self._dial(proto, host, port, bounds, name, tls)
        except flower.Timeout:
            if not scope.expired:
                raise
            raise flower.Timeout(f"{name}: not connected within {timeout} s") from None

    def identity(self) -> tuple[str, int]:
        """Of whoever asks: the host, and a number that is another for each host, and after each of its crashes."""
        host = here()
        return host, zlib.crc32(host.encode()) << 16 | self._crashes.get(host, 0)

    def _address(self, proto: str, addr: Any) -> tuple[str, Any]:
        if proto == "pipe":
            return here(), check_path(addr)
        host, port = check_host_port(proto, addr)
        if host in ("", "0.0.0.0", "::", "localhost", "::1") or host.startswith("127."):
            host = here()
        return host, port

    def _listen(self, proto: str, host: str, port: Any, bounds: Any, tls: Any) -> Listener:
        if port == 0:
            port = self._new_port(host)
        known = self._listeners.get((host, port))
        if known is not None and not known.closed:
            raise OSError(errno.EADDRINUSE, f"Address already in use: can't listen on {proto} {host}:{port}")
        sock: Any = ListeningSocket(host, port, (host, port) if proto != "pipe" else port)
        sock.tls = tls and tls[0]
        acceptor = Acceptor(self.poller(host), sock, proto, bounds)  # type: ignore[arg-type]
        acceptor.connections.label = f"listener {host}:{port}"
        self._listeners[host, port] = acceptor
        sock.acceptor = acceptor
        return Listener(acceptor)

    def _dial(self, proto: str, host: str, port: Any, bounds: Any, name: str, tls: Any) -> Conn:
        near = here()
        wait = self.latency(near, host) + self.latency(host, near)
        if self._happens("slow"):
            wait += SLOW
        flower.time.sleep(wait)
        self.may_part(near, host)
        until = self.world.now + CONNECT_TIME
        while self._parted(near, host) or self._parted(host, near):
            try:
                self._news.receive(timeout=until - self.world.now)
            except flower.Timeout:
                raise TimeoutError(errno.ETIMEDOUT, f"Connection timed out: can't connect to {name}") from None
        acceptor = self._listeners.get((host, port))
        if acceptor is None or acceptor.closed or self._happens("refuse"):
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"Connection refused: can't connect to {name}")
        listening: Any = acceptor._sock
        local = (near, self._new_port(near)) if proto != "pipe" else ""
        ours, theirs = connect(self, near, local, host, listening.getsockname())
        accepted = (tls is None and listening.tls is None) or self._secure(tls, listening, ours, theirs, name)
        stream = Stream(self.poller(near), ours, proto, bounds)  # type: ignore[arg-type]
        self.poller(near).attach(ours, stream)
        if accepted:
            listening.arrive(theirs)
        else:
            theirs.close()
        return Conn(stream)

    def _secure(self, client: Any, listening: Any, ours: Socket, theirs: Socket, name: str) -> bool:
        """One end of a new connection is one of TLS, or both are. Says whether the server takes it.

        Whoever speaks TLS to one who does not, or is not believed, loses this connection, and nothing else happens.
        """
        if client is None:
            return False
        try:
            if listening.tls is None:
                listening.arrive(theirs)
                text = f"{name}: the peer closed it in the TLS handshake"
                raise ConnectionResetError(errno.ECONNRESET, text)
            ours.tls, theirs.tls = shake_hands(client[0], client[1], listening.tls)
        except OSError as error:
            ours.close()
            if isinstance(error, ssl.SSLError):
                error.strerror = f"{error.strerror}: {name}"
                error.args = (error.errno, error.strerror)
            error._flower_conn = True  # type: ignore[attr-defined]
            raise
        return theirs.tls is not None

    def _new_port(self, host: str) -> int:
        port = self._ports.get(host, FIRST_PORT - 1) + 1
        while (host, port) in self._listeners:  # by its number
            port += 1
        self._ports[host] = port
        return port

    def poller(self, host: str) -> SimulatedPoller:
        return SimulatedPoller(self)

    # -- used by the wire

    def latency(self, a: str, b: str) -> float:
        return self._latency.get((a, b), 0.0)

    def blocked(self, a: str, b: str) -> bool:
        """Whether nothing gets from a to b now."""
        return self._parted(a, b) or (a, b) in self._held

    def _parted(self, a: str, b: str) -> bool:
        return (a, b) in self._cut or (a, b) in self._out

    def may_part(self, a: str, b: str) -> None:
        """The two hosts talk: a one-way partition may come over them, and pass."""
        if not self._happens("partition"):
            return
        way = (b, a) if self.world.choose("v", 2) else (a, b)
        seconds = OUTAGES[self.world.choose("v", len(OUTAGES))]
        until = self._out[way] = max(self.world.now + seconds, self._out.get(way, 0.0))
        self._say(f"{way[0]} -/-> {way[1]}: partitioned for {seconds:g} s")

        def pass_by() -> None:
            if self._out.get(way) == until:
                del self._out[way]
                self._say(f"{way[0]} -> {way[1]}: through again")
                self._pump()

        self.loop.call_later(until - self.world.now, pass_by)

    def cuts(self, way: str, size: int) -> list[int]:
        """The sizes of the pieces in which so many bytes arrive."""
        if size < 2 or not self.world.choose("n", 2):
            return [size]
        first = 1 + self.world.choose("v", min(size - 1, 64))
        pieces = [first, size - first]
        if size - first > 1 and self.world.choose("n", 2):
            pieces = [first, *[1] * min(size - first - 1, 8), max(size - first - 8, 1)]
        self._say(f"{way}: a write of {size} bytes comes in pieces of {', '.join(map(str, pieces))}")
        return pieces

    def delay(self, way: str) -> float:
        """How much later than others a write arrives."""
        if not self.world.choose("n", 2):
            return 0.0
        late = DELAYS[self.world.choose("v", len(DELAYS))]
        self._say(f"{way}: {late:g} s late")
        return late

    def fills(self, a: str, b: str) -> bool:
        """Whether the write buffer counts as full until the bytes have arrived."""
        if (a, b) in self._cut | self._held or not self.world.choose("n", 2):  # who ends that may wait for the writer
            return False
        self._say(f"{a} -> {b}: the write buffer is full")
        return True

    def reset_at(self, size: int) -> int | None:
        """After how many bytes of a write the connection is reset, if it is."""
        return self.world.choose("v", size + 1) if self._happens("reset") else None

    def half_close_at(self, size: int) -> int | None:
        """After how many bytes of a write this direction ends, if it does."""
        return self.world.choose("v", size + 1) if self._happens("half-close") else None

    def _happens(self, fault: str) -> bool:
        if fault in self._faults and self.world.choose("n", 2):
            self._say(f"fault: {fault}")
            return True
        return False

    def _say(self, text: str) -> None:
        self.world.log_line("the network", text, True)

    def _relieve(self, ways: set[tuple[str, str]]) -> None:
        """What is in flight on these ways stays as long as the test wants: no buffer counts as full for that."""
        for transport in self.transports:
            if (transport.host, transport.other) in ways:
                self.loop.call_soon(transport.relieve)

    def _pump(self) -> None:
        for transport in self.transports:
            transport.pump()
        while self._news.balance < 0:
            self._news.try_send(None)

    def shut_down(self) -> None:
        """The world is over: nothing of the network is left."""
        for acceptor in list(self._listeners.values()):
            acceptor.close()
        for transport in self.transports:
            transport.vanish()


class Host:
    """One host of the simulated network."""

    def __init__(self, network: Network, name: str) -> None:
        _check_hosts(name)
        self._network = network
        self.name = name

    def go(self, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        """``w.go``, on this host. What the tasklet starts is on this host too."""
        with self:
            return self._network.world.go(fn, *args, **options)

    def __enter__(self) -> Host:
        """The body of ``with w.net.at("server"):`` runs on the host."""
        _hosts.set((*_hosts.get(), self.name))
        return self

    def __exit__(self, *exc: Any) -> None:
        _hosts.set(_hosts.get()[:-1])


def _check_hosts(*names: Any) -> None:
    for name in names:
        if not isinstance(name, str) or not name:
            raise TypeError(f"a host is a name, not {name!r}")


def here() -> str:
    """The host that the running code is on."""
    return _hosts.get()[-1]


class SimulatedPoller:
    """What `flower.net`'s streams and acceptors know of the I/O tasklet."""

    def __init__(self, network: Network) -> None:
        self.loop = network.loop
        self.scheduler = network.world._scheduler
        self.thread = self.scheduler.thread_id
        self.resources: set[Any] = set()
        self.gathered = None  # each write is one of the wire's pieces

    def call_here(self, function: Callable[[], object]) -> None:
        function()

    def attach(self, sock: Any, protocol: Any) -> None:
        protocol.tls = sock.tls
        sock.transport.start(protocol)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine that waits for nothing: the simulated loop does at once whatever it is asked for."""
        try:
            coroutine.send(None)
        except StopIteration:
            return
        coroutine.close()
        raise RuntimeError("a coroutine of flower.net waits for something that is not simulated")


class SimulatedLoop:
    """What `flower.net` uses of an event loop, on the world's clock."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def call_later(self, seconds: float, function: Callable[[], object]) -> Handle:
        return Handle(self._network.world._scheduler, seconds, function)

    def call_soon(self, function: Callable[[], object]) -> Handle:
        return Handle(self._network.world._scheduler, 0.0, function)

    def add_reader(self, sock: Any, function: Callable[[], object]) -> None:
        sock.reader = function
        if sock.pending:
            self.call_soon(sock.read)

    def remove_reader(self, sock: Any) -> None:
        sock.reader = None


class Handle:
    """A call that is still to be made."""

    def __init__(self, scheduler: Any, seconds: float, function: Callable[[], object]) -> None:
        self._scheduler = scheduler
        self._alarm = Alarm(lambda now: function())
        scheduler.set_alarm(self._alarm, scheduler.now() + seconds)

    def cancel(self) -> None:
        self._scheduler.clear_alarm(self._alarm)
