"""`ctr data ...`: data sets that a description names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

VERBS = {
    "check": "what a described data set holds, and what to fix",
    "prepare": "read a described data set's files once",
    "sample": "a few rows as a model sees them",
    "convert": "write the files of a published data set that a description alone cannot read",
}
"""Verb of `mimn.data` → what it does."""
_WIDTH = max(map(len, VERBS))
USAGE = "\n".join(
    ["usage: ctr data VERB [--help] ...", "", *(f"  {verb:<{_WIDTH}}  {text}" for verb, text in VERBS.items()), ""]
)


def main(arguments: Sequence[str]) -> int:
    """Run the verb that is named first; the rest goes to `mimn.data`."""
    if arguments and arguments[0] in VERBS:
        return int(import_module("mimn.data.__main__").main(list(arguments)))
    asked = bool(arguments) and arguments[0] in ("-h", "--help")
    print(USAGE, file=sys.stdout if asked else sys.stderr, end="")
    return 0 if asked else 2
