"""`ctr data NAME ...`: prepare a data set, by the module of `mimn.data` that knows it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

DATA_SETS = {"complete-journey": "mimn.data.complete_journey"}
"""Name → the module whose `main` prepares it."""
USAGE = f"""usage: ctr data NAME [--help] ...

Prepare a data set. NAME is one of: {", ".join(DATA_SETS)}.
"""


def main(arguments: Sequence[str]) -> int:
    """Prepare the data set named first; the rest goes to its module."""
    name, *rest = arguments or [""]
    if name in DATA_SETS:
        return int(import_module(DATA_SETS[name]).main(rest))
    asked = name in ("-h", "--help")
    print(USAGE, file=sys.stdout if asked else sys.stderr, end="")
    return 0 if asked else 2
