"""`ctr data ...`: data sets that a description names, and those that a module of `mimn.data` prepares."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

DATA_SETS = {"complete-journey": "mimn.data.complete_journey", "movielens": "mimn.data.movielens"}
"""Name → the module whose `main` prepares it."""
VERBS = {
    "check": "what a described data set holds, and what to fix",
    "prepare": "read a described data set's files once",
    "sample": "a few rows as a model sees them",
    "convert": "rewrite published files that a description alone cannot read",
}
"""Verb of `mimn.data` → what it does."""
_WIDTH = max(map(len, (*VERBS, *DATA_SETS)))
USAGE = "\n".join(
    [
        "usage: ctr data VERB|NAME [--help] ...",
        "",
        *(f"  {verb:<{_WIDTH}}  {text}" for verb, text in VERBS.items()),
        *(f"  {name:<{_WIDTH}}  prepare this data set from its package" for name in DATA_SETS),
        "",
    ]
)


def main(arguments: Sequence[str]) -> int:
    """Run the verb, or prepare the data set, that is named first; the rest goes to its module."""
    name, *rest = arguments or [""]
    if name in VERBS:
        return int(import_module("mimn.data.__main__").main([name, *rest]))
    if name in DATA_SETS:
        return int(import_module(DATA_SETS[name]).main(rest))
    asked = name in ("-h", "--help")
    print(USAGE, file=sys.stdout if asked else sys.stderr, end="")
    return 0 if asked else 2
