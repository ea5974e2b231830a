"""The handshake: its states, and what each side tells the other in it."""

from __future__ import annotations

import logging
from typing import Any

import msgpack
import pytest

import flower
from flower import rpc
from flower.errors import (
    AuthError,
    Disconnected,
    InvalidArguments,
    Timeout,
)
from flower.net import Listen
from flower.rpc import Settings
from flower.rpc._hello import FLOWER, GREETING, LOCKED, PLAIN, REFUSED, WAITING, BadHello, Handshake, Hello, read_hello
from tests.net.support import NEVER, failing, rounds, until
from tests.rpc import link
from tests.rpc.support import (
    HELLO,
    URL,
    Calc,
    Raw,
    raw_client,
    raw_server,
    served,
    settle,
)

pytestmark = pytest.mark.usefixtures("loop")


# -- The states


def test_who_says_hello_to_whom() -> None:
    caller, callee = Handshake(Settings(node="a"), dialed=True), Handshake(Settings(node="b"), dialed=False)
    assert (caller.state, callee.state) == (GREETING, WAITING)
    answer = callee.greeted([caller.settings.announce(True)])
    caller.answered(None, answer)
    assert (caller.state, callee.state) == (FLOWER, FLOWER)
    assert caller.theirs is not None
    assert callee.theirs is not None
    assert (caller.theirs.node, callee.theirs.node) == ("b", "a")


def test_an_error_means_a_plain_peer() -> None:
    caller = Handshake(Settings(), dialed=True)
    caller.answered("unknown method", None)
    assert caller.state is PLAIN
    assert Handshake(Settings(plain=True), dialed=True).state is PLAIN


@pytest.mark.parametrize(
    ("wanted", "given", "state"),
    [("secret", "secret", FLOWER), (b"secret", "secret", FLOWER), ("secret", "Secret", REFUSED), ("s", None, REFUSED)],
)
def test_a_token(wanted: Any, given: Any, state: str) -> None:
    callee = Handshake(Settings(token=wanted), dialed=False)
    assert callee.state is LOCKED
    hello = Settings(token=given).announce(with_token=True)
    if state is REFUSED:
        with pytest.raises(AuthError):
            callee.greeted([hello])
    else:
        assert "auth" not in callee.greeted([hello])
    assert callee.state is state


def test_a_certificate_is_as_good_as_a_token_but_who_verifies_decides_on_all() -> None:
    def state(**settings: Any) -> str:
        return Handshake(Settings(**settings), dialed=False, authenticated=True).state

    def verify(token: bytes | None, hello: Any) -> bool:
        return False

    assert state(token="secret") is WAITING
    assert state(verify=verify) is state(token="secret", verify=verify) is LOCKED


def test_a_second_hello_and_one_from_the_wrong_side() -> None:
    callee = Handshake(Settings(), dialed=False)
    callee.greeted([{"v": 1}])
    with pytest.raises(BadHello):
        callee.greeted([{"v": 1}])
    with pytest.raises(BadHello):
        Handshake(Settings(), dialed=True).greeted([{"v": 1}])


BAD = [None, [], 5, {}, {"v": "1"}, {"v": 0}, {"v": 1, "max_msg": 1}, {"v": 1, "chan_items": -1}, {"v": 1, "node": 5}]
BAD += [{"v": 1, "feat": "x"}, {"v": 1, "auth": 5}, {"v": 1, "auth": "x" * 10_000}, {"v": 1, "max_chans": 1.5}]


@pytest.mark.parametrize("told", BAD, ids=repr)
def test_a_hello_that_cant_stand(told: Any) -> None:
    with pytest.raises(BadHello):
        read_hello(told)


@pytest.mark.parametrize("params", [None, {}, [], [{"v": 1}, {"v": 1}]], ids=repr)
def test_a_hello_with_other_params_than_one_map(params: Any) -> None:
    with pytest.raises(BadHello):
        Handshake(Settings(), dialed=False).greeted(params)


@pytest.mark.parametrize(
    ("key", "least"),
    [
        ("incarnation", 0),
        ("max_msg", 1024),
        ("max_inflight", 0),
        ("max_chans", 0),
        ("chan_items", 0),
        ("chan_bytes", 0),
        ("max_frame", 256),
    ],
)
def test_what_a_peer_may_announce(key: str, least: int) -> None:
    for value in (least, 2**53 - 1):
        read_hello({"v": 1, key: value})
    for wrong in (least - 1, 2**53, True, None):
        with pytest.raises(BadHello, match=f"{key} is a number from {least} on"):
            read_hello({"v": 1, key: wrong})


def test_what_a_hello_leaves_out_is_what_any_peer_does_without() -> None:
    hello, _ = read_hello({"v": 1})
    assert hello == Hello("", 0, 16 * 1024 * 1024, 1024, 0, 0, 0, 64 * 1024, frozenset(), {})
    hello, token = read_hello({"v": 1, "node": "n" * 300, "auth": "x" * 4096, "feat": ["call"]})
    assert (hello.node, token, hello.features) == ("n" * 256, b"x" * 4096, frozenset())  # without "ext": 70
    with pytest.raises(BadHello, match="auth"):
        read_hello({"v": 1, "auth": "x" * 4097})


def test_unknown_keys_of_a_hello_are_ignored() -> None:
    hello, token = read_hello({"v": 9, "shoe size": 43})
    assert hello.features == frozenset()
    assert token is None


@pytest.mark.parametrize(
    "wrong",
    [{"max_message": 5}, {"max_inflight": -1}, {"handshake_timeout": 0}, {"token": "x" * 5000}, {"token": ""}],
)
def test_settings_that_cant_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least|above 0|at most"):
        Settings(**wrong)
    with pytest.raises(TypeError):
        Settings(max_inflight="5")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="heartbeat is a number of seconds above 0"):
        Settings(heartbeat=0)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("max_message", 1024),
        ("max_inflight", 0),
        ("max_channels", 0),
        ("channel_items", 1),
        ("channel_bytes", 1),
        ("max_frame", 256),
    ],
)
def test_the_least_and_the_most_of_a_setting(name: str, least: int) -> None:
    for value in (least, 2**31):
        assert getattr(Settings(**{name: value}), name) == value  # type: ignore[arg-type]
    for wrong in (least - 1, 2**31 + 1):
        with pytest.raises(ValueError, match=f"{name} is at least {least} and at most"):
            Settings(**{name: wrong})  # type: ignore[arg-type]
    for kind in (True, "5", 5000.0, None):
        with pytest.raises(TypeError, match=f"{name} is a whole number"):
            Settings(**{name: kind})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"node": 5}, "node is a str"),
        ({"metadata": [1]}, "metadata a dict"),
        ({"verify": True}, "verify is a function"),
        ({"handshake_timeout": "5"}, "handshake_timeout is a number of seconds, not '5'"),
        ({"handshake_timeout": None}, "handshake_timeout is a number of seconds, not None"),
        ({"heartbeat": True}, "heartbeat is a number of seconds, not True"),
    ],
)
def test_settings_of_the_wrong_kind(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        rpc.serve(URL, Calc(), **wrong)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"metadata": {"x": "y" * 20_000}}, ValueError, "a message of 20.* bytes; 16384 is the most"),
        ({"node": "n" * 20_000}, ValueError, "16384 is the most"),
        ({"metadata": {"x": "y" * 13_000}, "token": "t" * 4000}, ValueError, "16384 is the most"),
        ({"metadata": {"x": "y" * 13_000}}, None, ""),
        ({"metadata": {"x": {1}}}, TypeError, "a set can be sent to a Flower peer"),
        ({"metadata": {"x": object()}}, TypeError, "object"),
        ({"metadata": {"x": 2**70}}, ValueError, "71 bits"),
    ],
)
def test_a_hello_that_no_peer_could_take_is_refused_before_it_is_said(
    settings: dict[str, Any], error: type[Exception] | None, text: str
) -> None:
    if error is None:
        with rpc.serve(URL, Calc(), token="s", **settings) as server:
            with rpc.connect(server.url, token="s", **settings) as peer:
                assert peer.call("add", 1, 2) == 3
        settle()
        return
    for make in (rpc.serve, rpc.connect):
        with pytest.raises(error, match=f"metadata and node can't be told to a peer: .*{text}"):
            make(URL, Calc(), **settings)


# -- Over a connection


def test_two_flower_peers_know_each_other() -> None:
    class Who:
        def who(self) -> Any:
            context = rpc.context()
            assert context is not None
            return [context.node, context.metadata, context.method, context.peer.call("$/ping")]

    ours = Settings(node="client", metadata={"version": 3})
    with served(Who(), ours=ours) as (_, peer):
        assert peer.call("who") == ["client", {"version": 3}, "who", None]
        assert peer._session.peer_is == "flower"
        assert rpc.context() is None


def test_calls_go_before_the_reply_and_wait_for_it_only_where_they_must() -> None:
    with raw_server_with_hello() as (peer, raw):
        plain = flower.go(peer.call, "plain", 1)
        extended = flower.go(peer._session.call, "extended", (), {"key": 1})
        assert raw.receive()[2] == "$/hello"
        assert raw.receive() == [0, 2, "plain", [1]]
        rounds(5)
        raw.send([1, 1, None, {"v": 1}])
        assert raw.receive() == [0, 3, "$/call", ["extended", [], {"key": 1}, {}]]
        raw.send([1, 2, None, "p"], [1, 3, None, "e"])
        assert [plain.join(NEVER), extended.join(NEVER)] == ["p", "e"]


def raw_server_with_hello() -> Any:
    return raw_server(settings=Settings())


def test_a_plain_peer_is_taken_as_one() -> None:
    with raw_server_with_hello() as (peer, raw):
        t = flower.go(peer._session.call, "m", (), {"key": 1})
        assert raw.receive()[2] == "$/hello"
        raw.send([1, 1, [0, "Invalid method: $/hello"], None])
        with pytest.raises(TypeError, match="Flower peers only"):
            t.join(NEVER)
        assert peer._session.peer_is == "plain"
        with pytest.raises(TypeError, match="set can be sent to a Flower peer"):
            peer.call("m", {1, 2})


def test_values_that_a_plain_peer_gets_as_others_are_sent_once_it_is_known_to_be_one() -> None:
    with raw_server_with_hello() as (peer, raw):
        tuples = flower.go(peer.call, "m", (1, 2))
        told = flower.go(peer.notify, "n", (3,))
        large = failing(peer.call, "m", 2**70)
        sets = failing(peer.call, "m", {1})
        rounds(3)
        assert raw.receive()[2] == "$/hello"
        raw.send([1, 1, "what is that?", None])
        assert [raw.receive() for _ in range(2)] == [[0, 2, "m", [[1, 2]]], [2, "n", [[3]]]]
        raw.send([1, 2, None, 5])
        assert tuples.join(NEVER) == 5
        told.join(NEVER)
        assert isinstance(large.join(NEVER), ValueError)
        assert "a set can be sent to a Flower peer" in str(sets.join(NEVER))


def test_what_was_given_up_before_the_answer_to_hello_is_cancelled_after_it() -> None:
    with raw_server_with_hello() as (peer, raw):
        with flower.move_on(0.005):
            peer.call("m")
        with flower.move_on(0.005):
            peer.start("m").receive()
        peer.start("m").receiver.close()
        answered = peer.start("m")
        answered.receiver.close()
        assert raw.receive()[2] == "$/hello"
        assert [raw.receive()[1] for _ in range(4)] == [2, 3, 4, 5]
        raw.send([1, 5, None, None], [1, 1, None, {"v": 1}])
        assert raw.receive() == [2, "$/cancel", [2, "cancelled"]]
        assert raw.receive() == [2, "$/cancel", [4, "cancelled"]]


def test_hello_twice_costs_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "flower.rpc"), served() as (server, _), raw_client(server) as raw:
        raw.send(HELLO, [0, 2, *HELLO[2:]])
        assert raw.receive()[2] is None
        assert raw.receive() is None
    assert "a hello where none is due" in caplog.text


def test_nothing_is_served_before_the_token() -> None:
    calc = Calc()
    with rpc.serve(URL, calc, settings=Settings(token="secret")) as server:
        with raw_client(server) as raw:
            raw.send([2, "note", [1]], [0, 1, "echo", ["hi"]])
            _, msgid, error, result = raw.receive()
            assert (msgid, result) == (1, None)
            assert "first message" in error
            raw.send([0, 2, "$/hello", [{"v": 1, "auth": "wrong"}]])
            assert raw.receive()[2]["auth"] is True
            assert raw.receive() is None
        with pytest.raises(AuthError, match="refused"):
            rpc.connect(server.url, settings=Settings(token="wrong"))
        with rpc.connect(server.url, settings=Settings(token=b"secret")) as peer:
            assert peer.call("echo", 1) == 1
    assert calc.log == []


def test_who_has_not_been_let_in_is_none_of_the_servers_peers() -> None:
    with rpc.serve(URL, Calc(), token="secret") as server, raw_client(server) as raw:
        raw.send([0, 1, "echo", ["hi"]])
        assert raw.receive()[1] == 1  # so it has been accepted
        assert server.peers == ()
        raw.send([0, 2, "$/hello", [{"v": 1, "auth": "secret"}]])
        assert raw.receive()[:3] == [1, 2, None]
        (peer,) = server.peers
        peer.notify("news")
        assert raw.receive()[1] == "news"


def test_verify_decides_and_says_who_it_is() -> None:
    class Who:
        def who(self) -> Any:
            context = rpc.context()
            assert context is not None
            return context.identity

    def verify(token: bytes | None, hello: Any) -> Any:
        return {"user": hello.node} if token == b"ok" else None

    with rpc.serve(URL, Who(), settings=Settings(verify=verify)) as server:
        with rpc.connect(server.url, settings=Settings(token="ok", node="ada")) as peer:
            assert peer.call("who") == {"user": "ada"}
        with rpc.connect(server.url) as peer, pytest.raises(AuthError):
            peer.call("who")


@pytest.mark.parametrize("given", [True, {}, {"user": "ada"}, False, None, b"", 0, "", [], {1}])
def test_verify_lets_in_with_true_or_a_dict_alone(given: Any) -> None:
    """Of ``token and compare_digest(token, ...)`` comes, for an empty token, that."""
    callee = Handshake(Settings(verify=lambda token, hello: given), dialed=False)
    if given is True or isinstance(given, dict):
        callee.greeted([{"v": 1}])
        assert callee.state is FLOWER
    else:
        with pytest.raises(AuthError):
            callee.greeted([{"v": 1}])
        assert callee.state is REFUSED


def test_an_error_of_verify_costs_that_peer_its_connection_alone(caplog: pytest.LogCaptureFixture) -> None:
    def verify(token: bytes | None, hello: Any) -> Any:
        return {"ok": {}}[(token or b"").decode()]

    with caplog.at_level(logging.ERROR, "flower.rpc"), rpc.serve(URL, Calc(), verify=verify) as server:
        with pytest.raises(Disconnected):
            rpc.connect(server.url, token="not known")
        assert "KeyError: 'not known'" in caplog.text
        with rpc.connect(server.url, token="ok") as peer:
            assert peer.call("add", 1, 2) == 3
    settle()


def test_arguments_that_do_not_fit_have_one_name_for_all() -> None:
    with served() as (server, peer), raw_client(server) as raw:
        with pytest.raises(
            InvalidArguments, match=r"^InvalidArguments: add\(a: Any, b: Any\) -> Any: missing"
        ) as caught:
            peer.call("add", 1)
        assert caught.value.type == "flower.errors.InvalidArguments"
        assert "flower.errors.InvalidArguments: add(" in (caught.value.traceback or "")
        raw.send([0, 1, "add", [1]])
        assert raw.receive()[2].startswith("InvalidArguments: add(a: Any, b: Any) -> Any: missing")


def test_who_says_no_hello_in_time_is_cut_off() -> None:
    with rpc.serve(URL, Calc(), settings=Settings(token="secret", handshake_timeout=0.01)) as server:
        with raw_client(server) as raw, pytest.raises(ConnectionResetError):
            assert raw.receive() is None
            raise ConnectionResetError


def test_a_peer_that_does_not_answer_hello_is_called_all_the_same() -> None:
    """Who it is stays open: what any peer can read is sent, and the rest says why it is not."""
    with raw_server(settings=Settings(handshake_timeout=0.01)) as (peer, raw):
        peer._session.ready()
        assert peer._session.peer_is is None
        assert raw.receive()[2] == "$/hello"
        for cant in (lambda: peer.call("m", key=1), lambda: peer.call("m", {1})):
            with pytest.raises(Timeout, match=r"no answer to our hello within 0.01 s.*plain=True"):
                cant()
        with pytest.raises(Timeout, match="no answer to our hello"):
            peer.notify("m", key=1)
        t = flower.go(peer.call, "m", timeout=NEVER)
        assert raw.receive() == [0, 2, "m", []]
        raw.send([1, 2, None, 5])
        assert t.join(NEVER) == 5


def test_a_late_answer_to_hello_counts() -> None:
    """The other side has known us since it wrote that answer: we know it since we read it."""
    with raw_server(settings=Settings(handshake_timeout=0.01)) as (peer, raw):
        peer._session.ready()
        assert raw.receive()[2] == "$/hello"
        raw.send([1, 1, None, {"v": 1, "ext": 70, "feat": ["call"]}])
        until(lambda: peer._session.peer_is == "flower")
        t = flower.go(peer.call, "m", {1}, key=1)
        assert raw.receive() == [0, 2, "$/call", ["m", [msgpack.ExtType(71, b"s\x91\x01")], {"key": 1}, {}]]
        raw.send([1, 2, None, 5])
        assert t.join(NEVER) == 5


def test_who_shows_a_token_waits_for_the_answer_and_no_longer() -> None:
    """To call a peer that has not said whether it takes us would be of no use."""
    with Listen(("127.0.0.1", 0)) as listener:
        host, port = listener.addr()
        with pytest.raises(Disconnected, match=r"no answer to our hello within 0.01 s"):
            rpc.connect(f"tcp://{host}:{port}", token="secret", handshake_timeout=0.01)
        listener.receive(NEVER).close()
    settle()


def test_who_is_not_taken_learns_it_where_there_is_no_room() -> None:
    a, b = link.linked({}, {}, Settings(token="wrong"), Settings(token="right"))
    b.conn.sent += bytes(link.ROOM - 1)
    a.conn.deliver(1 << 30)
    link.settle()
    del b.conn.sent[: link.ROOM - 1]
    b.conn.deliver(1 << 30)
    link.settle()
    assert isinstance(a.fault, AuthError)
    a.close()
    link.settle()


def test_nothing_is_called_before_the_peer_has_taken_the_token() -> None:
    with Listen(("127.0.0.1", 0)) as listener:
        conn = flower.net.Dial("tcp", listener.addr())
        with rpc.Peer(conn, dialed=True, settings=Settings(token="secret")) as peer:
            raw = Raw(listener.receive(NEVER))
            calling, noting = flower.go(peer.call, "m"), flower.go(peer.notify, "n")
            assert raw.receive()[2] == "$/hello"
            until(lambda: calling.blocked and noting.blocked)
            raw.send([1, 1, {"k": "invalid", "m": "no", "auth": True}, None])
            for each in (calling, noting):
                with pytest.raises(AuthError, match="the peer refused us: no") as caught:
                    each.join(NEVER)
                assert caught.value.not_run
            assert raw.receive() is None  # neither has left
            raw.conn.close()
    settle()


def test_who_shows_a_token_waits_no_longer_than_the_timeout() -> None:
    with Listen(("127.0.0.1", 0)) as listener:
        host, port = listener.addr()
        with pytest.raises(Timeout, match=r"no answer to our hello within 0.01 s"), flower.timeout(NEVER / 6):
            rpc.connect(f"tcp://{host}:{port}", token="secret", timeout=0.01)
        listener.receive(NEVER).close()
    settle()


@pytest.mark.parametrize("way", ["call", "start", "stream", "notify"])
def test_who_waits_for_an_answer_to_hello_in_vain_learns_it(way: str) -> None:
    with Listen(("127.0.0.1", 0)) as listener:
        host, port = listener.addr()
        with rpc.connect(f"tcp://{host}:{port}", handshake_timeout=0.01) as peer, listener.receive(NEVER):
            with pytest.raises(Timeout, match=r"no answer to our hello within 0.01 s"):
                getattr(peer.using(timeout=NEVER), way)("add", a=1)
        with rpc.connect(f"tcp://{host}:{port}") as peer, listener.receive(NEVER):
            what = "add could not be sent" if way in ("start", "notify") else "add gave no answer"
            with pytest.raises(Timeout, match=f"{what} within 0.01 s"):
                getattr(peer.using(timeout=0.01), way)("add", a=1)
    settle()


def test_nothing_of_flowers_leaves_before_the_answer_to_hello() -> None:
    """The peer reads it as one of Flower's from that answer on, and not a message before."""
    blob = "x" * 3_000_000
    with rpc.serve(URL, Calc()) as server, raw_client(server) as raw:
        until(lambda: server.peers)
        (caller,) = server.peers
        for _ in range(3):
            flower.go(caller.notify, "take", blob)  # there is no more room
        rounds(3)
        raw.send(HELLO)
        rounds(20)
        asked = flower.go(caller.start, "ask", (1, 2))  # as an array; a Flower peer gets a tuple
        came = [raw.receive() for _ in range(5)]
        asked.join(NEVER)
        answer, early = [message for message in came if message[0] == 1], [m for m in came if m[0] == 0]
        assert (answer[0][1:3], early) == ([1, None], [[0, 1, "ask", [[1, 2]]]])
        caller.start("ask", (1, 2))
        assert raw.receive() == [0, 2, "ask", [msgpack.ExtType(71, b"t\x92\x01\x02")]]


def test_a_method_that_is_called_before_the_answer_to_hello_waits_with_what_it_must() -> None:
    """A tuple, or a stream: how they are told depends on who asked."""

    class Service:
        def pair(self) -> Any:
            return (1, 2)

        def count(self) -> Any:
            yield from range(2)

    with raw_server(Service(), settings=Settings()) as (_, raw):
        assert raw.receive()[2] == "$/hello"
        raw.send([0, 5, "pair", []], [0, 6, "count", []])
        rounds(5)
        raw.send([1, 1, "what is that?", None])
        assert sorted(raw.receive() for _ in range(2)) == [[1, 5, None, [1, 2]], [1, 6, None, [0, 1]]]


def test_who_was_let_in_may_send_as_much_as_others() -> None:
    settings = Settings(token="secret")
    with served(settings=settings, ours=settings) as (_, peer):
        assert peer.call("echo", "x" * 20_000) == "x" * 20_000


@pytest.mark.parametrize("size", [14_000, 20_000])
def test_a_stranger_may_send_little(size: int) -> None:
    with rpc.serve(URL, Calc(), settings=Settings(token="secret")) as server, raw_client(server) as raw:
        raw.send([0, 1, "echo", ["x" * size]])
        answer = raw.receive()
        assert (answer is None) is (size > 16_384)


def test_we_keep_to_the_peers_limits() -> None:
    with served(Calc(), Settings(max_message=2000)) as (_, peer):
        peer.call("echo", 1)
        with pytest.raises(ValueError, match="2000 is the most"):
            peer.call("echo", "x" * 3000)
        assert peer.call("echo", "x" * 1000) == "x" * 1000


@pytest.mark.parametrize("most", [1024, 100_000])
@pytest.mark.parametrize("way", ["call", "start", "stream", "notify"])
def test_we_keep_to_them_from_the_first_message_on(way: str, most: int) -> None:
    with rpc.serve(URL, Calc(), max_message=most) as server, rpc.connect(server.url) as peer:
        with pytest.raises(ValueError, match=f"{most} is the most"):
            getattr(peer, way)("note", "x" * most)
        assert peer.call("add", 1, 2) == 3  # on the same connection
        assert not peer._session.wire._calls
    settle()
