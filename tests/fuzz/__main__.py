"""Runs the fuzz target of RPC with atheris, as `README.md` here says."""

import logging
import sys

import atheris  # type: ignore[import-not-found]  # optional: it comes with libFuzzer

import flower.net  # before it looks at what is imported: FLOWER_PURE has its own way to import

with atheris.instrument_imports(include=["flower.rpc", "tests.fuzz.rpc"]):
    from tests.fuzz import rpc

assert flower.net
logging.disable(logging.CRITICAL)
atheris.Setup(sys.argv, rpc.check)
atheris.Fuzz()
