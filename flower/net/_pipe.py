"""Unix sockets: `Listen` and `Dial` come here for "pipe"."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Any

from flower.net._acceptor import Acceptor
from flower.net._address import check_path, explain, format_address
from flower.net._conn import Conn
from flower.net._listener import Listener
from flower.net._loop import LoopPoller, io_poller, wait
from flower.net._opening import open_stream
from flower.net._options import Options
from flower.net._stream import Stream
from flower.net._tcp import within

RETRY = 0.01  # seconds until the next attempt where the listener's queue is full: the kernel tells nobody of room


def listen_pipe(address: Any, options: Options) -> Listener:
    """Listen on the path. A socket that is left there, with nobody behind it, is replaced."""
    path = check_path(address)
    poller = io_poller()
    _remove_stale(path)
    sock = None
    bound = False
    try:
        file = "" if path.startswith("\0") else os.path.realpath(path)  # for the end, wherever we are then
        sock = unix_socket()
        sock.bind(path)
        bound = True
        sock.listen(options.backlog)
        return Listener(Acceptor(poller, sock, "pipe", options.bounds, path=file))
    except BaseException as error:
        if sock is not None:
            sock.close()
        if bound:
            _remove_stale(path)
        if isinstance(error, OSError):
            raise explain(error, "can't listen on", "pipe", path) from None
        raise


def dial_pipe(address: Any, options: Options) -> Conn:
    """Connect to the path."""
    path = check_path(address)

    def dial() -> Conn:
        poller = io_poller()

        async def connect() -> Stream:
            return await open_stream(poller, await _connect(poller, path), "pipe", options.bounds)

        return Conn(wait(connect(), Stream.abort))

    return within(options.timeout, dial, f"pipe {format_address(path)}")


async def _connect(poller: LoopPoller, path: str) -> socket.socket:
    sock = None
    try:
        sock = unix_socket()
        while True:
            try:
                sock.connect(path)  # never under way: it is done, or there is no room for it
                return sock
            except BlockingIOError:
                later = poller.loop.create_future()
                timer = poller.loop.call_later(RETRY, later.set_result, None)
                try:
                    await later
                finally:
                    timer.cancel()
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, OSError):
            raise explain(error, "can't connect to", "pipe", path) from None
        raise


def unix_socket() -> socket.socket:
    """A Unix stream socket that does not block."""
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, "this system has no Unix sockets")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket that its process has left behind. One that somebody has open stays; so do files and links."""
    try:
        if path.startswith("\0") or not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            probe.connect(path)  # of another kind, so that whoever listens there gets no connection
    except ConnectionRefusedError:
        try:
            os.unlink(path)
        except OSError:
            pass
    except OSError:
        pass
