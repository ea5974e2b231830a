"""The command line: serve an object, and call, list, ping and stream from any MessagePack-RPC peer.

    flower serve MODULE[:OBJECT] --on URL     serve until Ctrl-C or SIGTERM, then let running calls end; twice: at once
    flower call URL METHOD [ARG ...]          call, and print the result
    flower notify URL METHOD [ARG ...]        call, and want no answer
    flower stream URL METHOD [ARG ...]        print each value of a stream as it comes
    flower list URL                           what can be called there
    flower help URL METHOD                    how it is called
    flower ping URL                           whether it answers, and how fast

An ARG is JSON where it can be read as such (``5``, ``true``, ``'[1, "two"]'``, ``'"5"'``), and else a string.
``name=ARG`` gives a keyword argument. With ``--strings`` each is a string as it stands.

Exit codes
    0    it went well
    1    the method failed, a ping had no answer, the address can't be served on, or the output can't be written
    2    the command line makes no sense, or the object to be served can't be had
    3    no connection, or it was lost
    4    no answer within --timeout
    130  interrupted by Ctrl-C; serve and ping take it for their end
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import errno
import importlib
import io
import json
import math
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import flower
from flower import rpc
from flower.errors import ChannelClosed, InvalidArguments, RemoteError, Timeout
from flower.rpc._service import exports

__all__ = ["main"]

OK, FAILED, USAGE, NO_CONNECTION, TOO_LATE, INTERRUPTED = 0, 1, 2, 3, 4, 130
GRACE = 10.0  # seconds that running calls have to end when a server is told to
ANSWER = 10.0  # seconds that we wait for a sign of life of a peer that need not answer
TOKEN_HELP = "what proves that one may come in; better in the environment, as FLOWER_TOKEN"
NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")  # an ARG and no option
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of our output: no connection fails with these
MOST_BITS = 14_000  # of an integer in JSON: Python writes out no more than 4300 digits, which have some more
PATIENCE = 1.0  # seconds after which a terminal is told that we are waiting


class Unusable(Exception):
    """What the user asked for can't be done: its text is all that he needs."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``flower ARGV...``, by default that of this process; gives the exit code.

    >>> main(["call", "tcp://127.0.0.1:9000", "add", "1", "2"])
    3
    0
    """
    _open_standard_streams()
    words = sys.argv[1:] if argv is None else argv
    commands = _commands()
    try:
        top = argparse.ArgumentParser("flower", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
        top.add_argument(
            "command", choices=commands, metavar="COMMAND", help="and what it needs: flower COMMAND --help"
        )
        parser = commands[top.parse_args(words[:1]).command]
        options = parser.parse_intermixed_args(words[1:])
    except SystemExit as end:  # --help, or no usage; argparse has said what
        return int(end.code or 0)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        code = command(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except RemoteError as error:  # before what it may be besides, such as a BrokenPipeError of the method
        if error.kind == "deadline":
            return _complain(f"the time is over: {_remote(error)}", TOO_LATE)
        return _complain(_remote(error), FAILED)
    except BrokenPipeError:  # whoever read our output has gone, as `head` does
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Unusable as error:
        return _complain(str(error), USAGE)
    except Timeout as error:
        return _complain(str(error), TOO_LATE)
    except OSError as error:
        failed = command is serve or error.errno in UNWRITABLE
        text = error.strerror or str(error)
        if error.filename is not None:
            text += f": {error.filename}"
        return _complain(text, FAILED if failed else NO_CONNECTION)
    except (ValueError, TypeError) as error:
        return _complain(str(error), USAGE)


def _open_standard_streams() -> None:
    """Where one was closed, as by ``>&-``, write into nothing: else a connection would get its number.

    A character that the output's encoding does not have is no error, either.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):  # what its encoding lacks is escaped, as it is in standard error
        sys.stdout.reconfigure(errors="backslashreplace")


def _complain(text: str, code: int) -> int:
    print(f"flower: {text}", file=sys.stderr)
    return code


def _remote(error: RemoteError) -> str:
    trace = None if isinstance(error, InvalidArguments) else getattr(error, "traceback", None)  # it has not run
    return f"{error}\n{trace.rstrip()}" if trace else str(error)


def _commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command's words. Those of `main` and not subparsers, which can't have options among ARGs."""
    commands: dict[str, argparse.ArgumentParser] = {}

    def add(name: str, command: Callable[[argparse.Namespace], int], what: str) -> argparse.ArgumentParser:
        made = commands[name] = argparse.ArgumentParser(f"flower {name}", description=what)
        made._negative_number_matcher = NEGATIVE  # else -1e3 is an option
        made.set_defaults(command=command)
        made.add_argument("--ca", metavar="FILE", help="tls: the authorities whose certificates count")
        made.add_argument("--cert", metavar="FILE", help="tls: our certificate, and its chain")
        made.add_argument("--key", metavar="FILE", help="tls: its key")
        made.add_argument("--token", metavar="TOKEN", default=os.environ.get("FLOWER_TOKEN"), help=TOKEN_HELP)
        return made

    def add_client(name: str, command: Callable[[argparse.Namespace], int], what: str) -> argparse.ArgumentParser:
        made = add(name, command, what)
        made.add_argument("url", metavar="URL", help="tcp://host:port, tls://host:port or unix:/path")
        made.add_argument("--server-name", metavar="NAME", help="tls: whose the server's certificate must be")
        made.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="give up after so long")
        return made

    def add_call(name: str, command: Callable[[argparse.Namespace], int], what: str) -> argparse.ArgumentParser:
        made = add_client(name, command, what)
        made.add_argument("method", metavar="METHOD")
        what = "JSON, or a string; name=ARG is a keyword argument"
        made.add_argument("args", metavar="ARG", nargs="*", default=[], help=what)  # the default: else it is "required"
        made.add_argument("--strings", action="store_true", help="each ARG is a string as it stands")
        return made

    serving = add("serve", serve, "Serve an object's methods until Ctrl-C or SIGTERM.")
    serving.add_argument("target", metavar="MODULE[:OBJECT]", help="an object, a class (one is made), a dict, a module")
    serving.add_argument("--on", metavar="URL", default="tcp://127.0.0.1:0", help="where (default: %(default)s)")
    serving.add_argument(
        "--grace", type=_seconds, metavar="SECONDS", default=GRACE, help="for running calls at the end (%(default)s)"
    )
    calling = add_call("call", call, "Call a method and print its result.")
    calling.add_argument("--json", action="store_true", help="print JSON, in one line")
    add_call("notify", notify, "Call a method and want no answer.")
    streaming = add_call("stream", stream, "Call a method that streams, and print each value as it comes.")
    streaming.add_argument("--json", action="store_true", help="print JSON, a line for each value")
    streaming.add_argument("--limit", type=_count, metavar="N", help="stop after N values")
    listing = add_client("list", list_methods, "List what can be called.")
    listing.add_argument("--json", action="store_true", help="print JSON")
    helping = add_client("help", help_method, "Show a method's signature and description.")
    helping.add_argument("method", metavar="METHOD")
    helping.add_argument("--json", action="store_true", help="print JSON")
    pinging = add_client("ping", ping, "Ask whether it answers, and how fast.")
    pinging.add_argument("-c", "--count", type=_count, metavar="N", default=4, help="so often; 0: until Ctrl-C (4)")
    pinging.add_argument("-i", "--interval", type=_seconds, metavar="SECONDS", default=1.0, help="between two (1)")
    return commands


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        value = float(text)
        if 0 <= value < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        value = int(text)
        if value >= 0:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")


# -- Serving


def serve(options: argparse.Namespace) -> int:
    try:
        service = load(options.target)
    except Unusable:
        raise
    except Exception as error:
        traceback.print_exc()  # of the code that is to be served: it says where
        raise Unusable(f"{options.target} can't be served: its code failed with {type(error).__name__}") from None
    if not exports(service):
        hint = "" if ":" in options.target else "; an object in it is named as in module:object"
        raise Unusable(f"{options.target} has nothing to call: no public functions or methods of its own{hint}")
    stop = flower.signals(signal.SIGINT, signal.SIGTERM)
    try:
        with rpc.serve(options.on, service, **credentials(options)) as server:
            print(f"serving {options.target} on {server.url}", flush=True)
            stop.receive()
            with flower.move_on() as patience:
                flower.tasklet(_hurry, daemon=True)(stop, patience)
                server.close(options.grace)
    finally:
        stop.close()
    return OK


def _hurry(stop: Any, patience: flower.move_on) -> None:
    """Who tells the server to stop a second time does not want to wait."""
    for _ in stop:
        patience.cancel()


def load(target: str) -> Any:
    """The object that ``module:object`` names; a class is called to make one."""
    name, colon, path = target.partition(":")
    if not name or name.startswith(".") or (colon and not path):
        raise Unusable(f"not an object to serve: {target!r}; it looks like module:object, or module")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # the entry point's script lies elsewhere
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise  # something that it imports is missing
        raise Unusable(f"no module {name!r} in {os.getcwd()} or where Python looks for modules") from None
    for part in path.split(".") if path else []:
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Unusable(f"{name} has no {path!r}") from None
    return found() if isinstance(found, type) else found


# -- Calling


@contextlib.contextmanager
def _connected(options: argparse.Namespace) -> Iterator[rpc.Peer]:
    with rpc.connect(options.url, timeout=options.timeout, **credentials(options)) as peer:
        yield peer


def credentials(options: argparse.Namespace) -> dict[str, Any]:
    """What `rpc.serve` and `rpc.connect` are to be told, and only what was given."""
    if options.token == "":
        raise Unusable("the token is empty: give --token or FLOWER_TOKEN a value, or neither")
    given = {name: getattr(options, name, None) for name in ("ca", "cert", "key", "server_name", "token")}
    return {name: value for name, value in given.items() if value is not None}


def call(options: argparse.Namespace) -> int:
    args, kwargs = arguments(options)
    with _connected(options) as peer:
        with _patience(lambda: f"waiting for {options.method}"):
            result = peer.using(timeout=options.timeout).call(options.method, *args, **kwargs)
        if hasattr(result, "receive"):
            raise Unusable(f"{options.method} gives a stream of values: use flower stream")
        print(shown(result, options.json)) if result is not None or options.json else None
    return OK


def notify(options: argparse.Namespace) -> int:
    args, kwargs = arguments(options)
    with _connected(options) as peer:
        answers = _answers(peer, options.timeout)  # so it has let us in
        peer.using(timeout=options.timeout).notify(options.method, *args, **kwargs)
        if answers:
            with contextlib.suppress(OSError):  # it may leave, being told to
                _answers(peer, options.timeout)  # so it has read this: some drop what they have not as we hang up
    return OK


def _answers(peer: rpc.Peer, timeout: float | None) -> bool:
    """Whether it answers. It need not; but not to do so within the ``--timeout`` is an error."""
    try:
        peer.ping(ANSWER if timeout is None else timeout)
    except RemoteError:  # not known to it: that is an answer, too
        pass
    except Timeout:
        if timeout is not None:
            raise
        return False
    return True


def stream(options: argparse.Namespace) -> int:
    args, kwargs = arguments(options)
    count = 0
    with _connected(options) as peer:
        values = peer.using(timeout=options.timeout).stream(options.method, *args, **kwargs)
        aside = not sys.stdout.isatty()  # the values are not where we tell of them
        with _patience(lambda: f"{count} values of {options.method}", aside):
            while options.limit is None or count < options.limit:
                try:
                    with _patience(lambda next=count + 1: f"waiting for value {next}", not aside):  # type: ignore[misc]
                        value = values.receive()
                except ChannelClosed:
                    break
                print(shown(value, options.json), flush=True)
                count += 1
    return OK


def list_methods(options: argparse.Namespace) -> int:
    with _connected(options) as peer:
        methods = described(peer, options.timeout)
    if options.json:
        print(shown(methods, True))
    else:
        for name, about in sorted(methods.items()):
            summary = about["doc"].strip().partition("\n")[0]
            print(name + about["signature"] + (f"\n    {summary}" if summary else ""))
    return OK


def help_method(options: argparse.Namespace) -> int:
    with _connected(options) as peer:
        methods = described(peer, options.timeout)
    about = methods.get(options.method)
    if about is None:
        raise RemoteError(f"no method {options.method} at {options.url}; there are: {', '.join(sorted(methods)[:20])}")
    if options.json:
        print(shown(about, True))
    else:
        text = options.method + about["signature"] + ("  (streams)" if about.get("streams") else "")
        print(text + (f"\n\n{about['doc']}" if about["doc"] else ""))
    return OK


def described(peer: rpc.Peer, timeout: float | None) -> dict[str, dict[str, Any]]:
    """What can be called, name by name: as Flower's peers tell it, or as Neovim does."""
    try:
        methods = peer.call("$/list", timeout=timeout)
    except RemoteError as first:
        try:
            methods = _of_neovim(peer.call("nvim_get_api_info", timeout=timeout))
        except RemoteError:
            raise Unusable(f"it does not tell what can be called there ({first})") from None
    if not isinstance(methods, dict) or not all(
        isinstance(name, str)
        and isinstance(about, dict)
        and isinstance(about.get("signature"), str)
        and isinstance(about.get("doc"), str)
        for name, about in methods.items()
    ):
        raise RemoteError(f"what it says can be called there makes no sense: {repr(methods)[:80]}")
    return methods


def _of_neovim(told: Any) -> Any:
    """The same from what Neovim tells of its API; what is not of that form, as it is."""
    found = {}
    try:
        for function in told[1]["functions"]:
            parameters = ", ".join(f"{name}: {kind}" for kind, name in function["parameters"])
            since = function.get("deprecated_since")
            found[function["name"]] = {
                "signature": f"({parameters}) -> {function['return_type']}",
                "doc": f"Deprecated since API level {since}." if since is not None else "",
            }
    except (TypeError, ValueError, LookupError, AttributeError):
        return told
    return found


def ping(options: argparse.Namespace) -> int:
    times: list[float] = []
    sent = 0
    with _connected(options) as peer:
        try:
            while options.count == 0 or sent < options.count:
                if sent:
                    flower.time.sleep(options.interval)
                began = time.perf_counter()
                sent += 1
                try:
                    peer.call("$/ping", timeout=options.timeout)
                except RemoteError:
                    pass  # not known to it: that is an answer, too
                except Timeout:
                    print(f"no answer within {options.timeout} s", flush=True)
                    continue
                times.append((time.perf_counter() - began) * 1e3)
                print(f"answer from {options.url}: {times[-1]:.3f} ms", flush=True)
        except KeyboardInterrupt:
            print()
    if times:
        least, mean, most = min(times), sum(times) / len(times), max(times)
        print(f"{sent} sent, {len(times)} answered; {least:.3f} / {mean:.3f} / {most:.3f} ms least, mean, most")
    else:
        print(f"{sent} sent, none answered")
    return OK if times and len(times) == sent else FAILED


@contextlib.contextmanager
def _patience(what: Callable[[], str], wanted: bool = True) -> Iterator[None]:
    """Where a person watches, say after a while what goes on, and for how long."""
    if not wanted or not sys.stderr.isatty():
        yield
        return
    began = time.monotonic()

    def tell() -> None:
        for _ in flower.tick(PATIENCE):
            text = f"\r{what()}: {time.monotonic() - began:.0f} s; Ctrl-C gives up"
            print(text, end="\x1b[K", file=sys.stderr, flush=True)

    teller = flower.tasklet(tell, daemon=True)()
    try:
        yield
    finally:
        teller.kill()
        if time.monotonic() - began >= PATIENCE:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# -- Values: from words of the command line, and back to text


def arguments(options: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
    """The positional and keyword arguments that the words mean."""
    if options.strings:
        return list(options.args), {}
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for word in options.args:
        name, equals, rest = word.partition("=")
        if equals and name.isidentifier():
            kwargs[name] = _value(rest)
        elif kwargs:
            raise Unusable(f"positional arguments come first: {word!r} stands after {next(iter(kwargs))}=")
        else:
            args.append(_value(word))
    return args, kwargs


def _value(word: str) -> Any:
    try:
        return json.loads(word, parse_constant=str)  # NaN and Infinity are words
    except (ValueError, RecursionError):
        return word


def shown(value: Any, as_json: bool) -> str:
    """A result as text: JSON, or what is easiest to read and to hand to another program.

    In JSON, bytes become ``{"$bytes": base64}``, other peers' own types ``{"$ext": [code, base64]}``, NaN and the
    infinities null, as in JavaScript and jq, and what JSON does not know otherwise its ``repr``. An integer of
    thousands of digits, which Python writes out in no other way, is hexadecimal, in JSON a string.
    """
    if as_json:
        return json.dumps(_jsonable(value), allow_nan=False)
    if isinstance(value, str):
        return value
    if isinstance(value, list | dict | tuple | bool) or value is None:
        return json.dumps(_jsonable(value), indent=2 if isinstance(value, list | dict | tuple) else None)
    return _repr(value)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else json.dumps(_jsonable(key)): _jsonable(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        if hasattr(value, "code") and hasattr(value, "data"):  # msgpack's ExtType
            return {"$ext": [value.code, base64.b64encode(value.data).decode()]}
        return [_jsonable(item) for item in value]
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return hex(value)
    if value is None or isinstance(value, str | int | float):
        return value
    return _repr(value)


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:
        if isinstance(value, int):
            return hex(value)
        return f"<{type(value).__name__} with an integer of thousands of digits>"
