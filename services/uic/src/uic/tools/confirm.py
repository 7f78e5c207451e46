"""Asks for confirmation at the terminal before something is done that cannot be undone."""

from __future__ import annotations

import sys


def confirmed(command: str, question: str) -> bool:
    """Whether the answer to `question` is yes. Without a terminal it is no, and stderr says how to go on."""
    if not sys.stdin.isatty():
        print(
            f"{command}: stdin is not a terminal, so it cannot ask for confirmation: repeat with --yes", file=sys.stderr
        )
        return False
    return input(f"{question} [y/N] ").strip().lower() == "y"
