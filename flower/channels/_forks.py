"""What a forked child puts right before its program goes on, in the order of registration: that of the imports.

`_lifecycle` gives the child a scheduler of its own. Whatever closes, wakes or posts there is in modules that import it,
and so comes later; those that make a lock or a count anew stand anywhere. What one raises keeps none from its turn.
"""

import os

from flower._typing import Any


def after_fork(part: Any) -> Any:
    """Have it called, without arguments, in each forked child. (On Windows there are none.)"""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=part)
    return part
