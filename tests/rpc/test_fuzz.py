"""The fuzz target's corpus, and mutations of it that are always the same."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import rpc as target

CORPUS = sorted((Path(target.__file__).parent / "rpc_corpus").iterdir())
MUTATIONS = 60  # of each file of the corpus


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def mutated(data: bytes, dice: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(found) + 1)
        what = dice.randrange(5)
        if what == 0 and at < len(found):
            found[at] ^= 1 << dice.randrange(8)
        elif what == 1 and at < len(found):
            found[at] = dice.choice(b"\x00\x01\x7f\x80\x90\x91\xc0\xc1\xc4\xc7\xd4\xd9\xdc\xdd\xdf\xff")
        elif what == 2:
            del found[at : at + dice.randint(1, 8)]
        elif what == 3:
            found[at:at] = bytes(dice.randrange(256) for _ in range(dice.randint(1, 5)))
        else:
            found[at:at] = found[dice.randrange(len(found) + 1) :][:20]
    return bytes(found)


def test_there_is_a_corpus() -> None:
    assert len(CORPUS) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_the_corpus_and_its_mutations(path: Path) -> None:
    data = path.read_bytes()
    target.check(data)
    target.check_memory(data)
    dice = random.Random(path.name)
    for _ in range(MUTATIONS if not path.name.startswith("found") else MUTATIONS // 10):
        target.check(mutated(data, dice))
