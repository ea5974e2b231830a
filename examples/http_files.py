"""An HTTP/1.1 server for the files of a directory, with h11 for the protocol.

h11 does no I/O: bytes go in, events come out, and the other way round. So it goes with any way of doing I/O, and with
this one the server is a plain loop. Connections are kept for further requests, with a limit on how long one may be
idle; files are read piece by piece in worker threads, and a piece is read when the one before has left.

Usage: http_files.py [DIRECTORY [PORT]], by default this directory and any free port. It serves until Ctrl-C.

Prints:

    serving DIRECTORY on http://127.0.0.1:...
"""

import mimetypes
import os
import sys
from urllib.parse import unquote, urlsplit

import h11

import flower
import flower.io
from flower.net import Listen

IDLE = 30.0  # seconds that a client may take over a request, and between two
PIECE = 64 * 1024  # bytes of a file that are sent at a time


class Client:
    """One connection, and h11's view of it."""

    def __init__(self, conn, root):
        self.conn = conn
        self.root = root
        self.http = h11.Connection(h11.SERVER)

    def serve(self):
        while self.http.our_state is h11.IDLE:
            with flower.timeout(IDLE):
                request = self.next_event()
                if isinstance(request, h11.ConnectionClosed):
                    return
                while not isinstance(self.next_event(), h11.EndOfMessage):
                    pass  # a body: nobody asked for one
            self.answer(request)
            if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
                self.http.start_next_cycle()

    def next_event(self):
        while (event := self.http.next_event()) is h11.NEED_DATA:
            if self.http.they_are_waiting_for_100_continue:
                self.send(h11.InformationalResponse(status_code=100, headers=[]))
            self.http.receive_data(self.conn.read())
        return event

    def answer(self, request):
        if request.method not in (b"GET", b"HEAD"):
            self.refuse(405, "Method Not Allowed")
            return
        try:
            path = self.find(request.target.decode())
            file = flower.io.open(path, "rb")
        except (OSError, ValueError):  # no such file, not to be read, or no file name at all
            self.refuse(404, "Not Found", request.method)
            return
        with file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            self.start(200, "OK", size, mimetypes.guess_type(path)[0] or "application/octet-stream")
            left = size if request.method == b"GET" else 0  # and no more, should the file grow
            while left and (piece := file.read(min(PIECE, left))):
                left -= len(piece)
                self.send(h11.Data(piece))
            self.send(h11.EndOfMessage())

    def find(self, target):
        """The file of that name, which lies below the root whatever dots and links are in it."""
        path = os.path.realpath(self.root + unquote(urlsplit(target).path))
        if os.path.isdir(path):
            path = os.path.realpath(os.path.join(path, "index.html"))
        if not path.startswith(os.path.join(self.root, "")):
            raise PermissionError(path)
        if not os.path.isfile(path):  # a pipe would be waited for
            raise FileNotFoundError(path)
        return path

    def refuse(self, status, reason, method=None):
        body = f"{status} {reason}\n".encode()
        self.start(status, reason, len(body), "text/plain")
        if method != b"HEAD":
            self.send(h11.Data(body))
        self.send(h11.EndOfMessage())

    def start(self, status, reason, size, kind):
        headers = [("Content-Length", str(size)), ("Content-Type", kind)]
        self.send(h11.Response(status_code=status, reason=reason, headers=headers))

    def send(self, event):
        data = self.http.send(event)
        if data:
            self.conn.send(data, timeout=IDLE)


def main():
    root = os.path.realpath(sys.argv[1] if len(sys.argv) > 1 else ".")
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    if not os.path.isdir(root):
        sys.exit(f"no such directory: {root}")

    def handle(conn):
        client = Client(conn, root)
        try:
            try:
                client.serve()
            except h11.RemoteProtocolError as error:
                if client.http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    client.refuse(error.error_status_hint, "Bad Request")
        except (flower.Timeout, ConnectionError):
            conn.abort()  # too slow, or gone

    with Listen(("127.0.0.1", port)) as listener:
        print("serving {} on http://{}:{}".format(root, *listener.addr()), flush=True)
        try:
            listener.serve(handle, limit=1000)
        except KeyboardInterrupt:
            listener.stop(grace=1)


if __name__ == "__main__":
    main()
