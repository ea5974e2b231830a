"""Channels in messages (to come)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flower.rpc._session import Session


class Streams:
    def __init__(self, session: Session) -> None:
        self.fresh: list[Any] = []

    def __len__(self) -> int:
        return 0

    def is_end(self, value: Any) -> bool:
        return False

    def export(self, value: Any) -> bytes:
        raise NotImplementedError

    def load(self, data: bytes) -> Any:
        raise NotImplementedError

    def commit(self, fresh: Any) -> None: ...
    def roll_back(self, fresh: Any) -> None: ...
    def fail(self) -> None: ...
    def on_data(self, event: Any) -> None: ...
    def on_credit(self, params: Any) -> None: ...
    def on_end(self, params: Any) -> None: ...
    def on_reset(self, params: Any) -> None: ...
    def on_stop(self, params: Any) -> None: ...
