"""Asks for confirmation at the terminal before something is done that cannot be undone."""

from __future__ import annotations

import sys


def confirmed(command: str, question: str) -> bool:
    """Whether the answer to `question` is yes. Its end (Ctrl-D) is no; without a terminal it is no, and stderr says how
    to go on."""
    if not sys.stdin.isatty():
        print(
            f"{command}: stdin is not a terminal, so it cannot ask for confirmation: repeat with --yes", file=sys.stderr
        )
        return False
    try:
        return input(f"{question} [y/N] ").strip().lower() == "y"
    except EOFError:
        print(file=sys.stderr)  # the shell's prompt gets a line of its own
        return False
