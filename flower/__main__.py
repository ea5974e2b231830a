"""``python -m flower``: the command line, as `flower.cli` describes it."""

from __future__ import annotations

import sys

from flower.cli import main

sys.exit(main())
