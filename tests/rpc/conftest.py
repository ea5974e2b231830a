"""RPC runs on both event loops, like the network below it."""

from tests.net.conftest import loop, pytest_runtest_setup

__all__ = ["loop", "pytest_runtest_setup"]
