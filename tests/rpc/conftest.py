"""Tests of RPC that need a loop run on both, like those of the network below it."""

from tests.net.conftest import loop, pytest_runtest_setup

__all__ = ["loop", "pytest_runtest_setup"]
