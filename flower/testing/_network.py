"""placeholder"""

from __future__ import annotations

from typing import Any


class Network:
    """The simulated network of a world."""

    def __init__(self, world: Any) -> None:
        self._world = world
