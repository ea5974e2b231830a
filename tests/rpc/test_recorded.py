"""Bytes that others have sent, recorded from them: whole, byte by byte, and one peer's behind another's."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from flower.rpc._wire import Wire

# msgpack-rpc-python 0.4.1: ids from 0 on; bytes are sent as a string, whatever they are.
OLD = "940000a36164649201d1ff389302a46e6f746593a46772c3bca2ff0093cb3ff8000000000000c081a161c3"
# pynvim 0.6.0: says who it is, with the method's name in bytes; unwanted answers are asked for.
PYNVIM = (
    "9302c4146e76696d5f7365745f636c69656e745f696e666f95ae707974686f6e332d636c69656e7484a56d616a6f7200a56d696e6f7206"
    "a5706174636800aa70726572656c65617365a0a672656d6f74658082a76c6963656e7365a9417061636865207632a777656273697465b8"
    "6769746875622e636f6d2f6e656f76696d2f70796e76696d940001a36164649201d1ff389302a46e6f746593a46772c3bcc401ff93cb3f"
    "f8000000000000c081a161c3940002a361646491cf0000010000000000"
)
# Neovim 0.7.2, asked for "6 * 7", a command that it has not, the current buffer, told something that it does not
# know, and asked to ask us: an event comes first, though it was the last cause but one.
NEOVIM = (
    "9302b06e76696d5f6572726f725f6576656e749200b7496e76616c6964206d6574686f643a206e6f5f73756368940101c02a9401029200"
    "d92756696d3a453439323a204e6f7420616e20656469746f7220636f6d6d616e643a206e6f73756368c0940103c0d40001940001a361736b"
    "9281a1619501ffcb4004000000000000c0c3a1ff940104c0a26f6b"
)

NOTE = ["grü", [1.5, None, {"a": True}]]
EVENTS: dict[str, list[list[Any]]] = {
    OLD: [
        [0, 0, "add", [1, -200]],
        [2, "note", [NOTE[0], "\udcff\0", NOTE[1]]],
    ],
    PYNVIM: [
        [
            *(2, "nvim_set_client_info"),
            [
                "python3-client",
                {"major": 0, "minor": 6, "patch": 0, "prerelease": ""},
                "remote",
                {},
                {"license": "Apache v2", "website": "github.com/neovim/pynvim"},
            ],
        ],
        [0, 1, "add", [1, -200]],
        [2, "note", [NOTE[0], b"\xff", NOTE[1]]],
        [0, 2, "add", [2**40]],
    ],
    NEOVIM: [
        [2, "nvim_error_event", [0, "Invalid method: no_such"]],
        [1, 1, None, 42],
        [1, 2, [0, "Vim:E492: Not an editor command: nosuch"], None],
        [1, 3, None, msgpack.ExtType(0, b"\1")],
        [0, 1, "ask", [{"a": [1, -1, 2.5, None, True]}, "\udcff"]],
        [1, 4, None, "ok"],
    ],
}


def asked() -> Wire:
    """A wire on which four calls wait for their answers, as when Neovim was recorded."""
    wire = Wire()
    for _ in range(4):
        wire.call("anything", [])
    return wire


def meaning(events: list[Any]) -> list[Any]:
    """The messages, without what each of them cost."""
    lengths = {0: 4, 1: 4, 2: 3}
    return [event[: lengths[event[0]]] for event in events]


@pytest.mark.parametrize("recorded", EVENTS, ids=["old", "pynvim", "neovim"])
@pytest.mark.parametrize("size", [10_000, 1, 2, 7])
def test_what_others_sent(recorded: str, size: int) -> None:
    data = bytes.fromhex(recorded)
    wire = asked()
    events: list[Any] = []
    for at in range(0, len(data), size):
        events += meaning(wire.feed(data[at : at + size]))
    assert events == EVENTS[recorded]
    assert wire.end() == []


def test_one_behind_another() -> None:
    wire = asked()
    assert meaning(wire.feed(bytes.fromhex(OLD + NEOVIM))) == EVENTS[OLD] + EVENTS[NEOVIM]


@pytest.mark.parametrize("recorded", EVENTS, ids=["old", "pynvim", "neovim"])
def test_what_others_sent_and_did_not_finish(recorded: str) -> None:
    data = bytes.fromhex(recorded)
    boundaries = 0
    for end in range(len(data)):
        wire = asked()
        whole = meaning(wire.feed(data[:end]))
        assert whole == EVENTS[recorded][: len(whole)]
        last = wire.end()
        boundaries += last == []
        assert all("middle of a message" in violation[1] for violation in last)
    assert boundaries == len(EVENTS[recorded])  # the start, and between two messages
