"""What the core needs of ``typing`` at run time: to import that takes a third of the time that ``import flower`` takes.

For type checkers these are the names of ``typing`` itself.
"""

from __future__ import annotations

import types

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any as Any
    from typing import Generic as Generic
    from typing import Literal as Literal
    from typing import Protocol as Protocol
    from typing import TypeVar as TypeVar
else:
    Any = Literal = Protocol = object

    def TypeVar(name: str) -> object:
        """Stands in annotations alone, which nobody reads."""
        return name

    class Generic:
        """``Generic[T]`` is a base whose subclasses may be subscripted, in annotations."""

        __slots__ = ()

        def __class_getitem__(cls, item: object) -> object:
            return cls if cls is Generic else types.GenericAlias(cls, item)
