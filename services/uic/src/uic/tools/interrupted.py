"""What a command says when a signal ends it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

BY_SIGNAL = 128
"""An exit status above it says which signal ended the command; `ctr` raises SystemExit with it."""


@contextmanager
def says_if_interrupted(command: str, what: str) -> Iterator[None]:
    """Say on stderr that a signal has ended the body.

    Args:
        command: as it is called, such as `ctr import`.
        what: what is left, and what the same command does when it is run again.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, KeyboardInterrupt) or (isinstance(ended.code, int) and ended.code > BY_SIGNAL):
            with suppress(OSError):  # the terminal may be gone, which is what SIGHUP says
                print(f"{command}: interrupted: {what}", file=sys.stderr, flush=True)
        raise
