"""Giving way to what else runs on the machine."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")


def give_way(by: int) -> None:
    """Add `by` (0 to 19) to this process's niceness. Of the thread that calls, and of those that it starts later.

    Where Linux shares processors out by session (autogroup), niceness counts within a session alone; a service that
    leads one has it to itself, so the session's share is set as well. In a control group with shares of its own neither
    counts beyond the group: give UIC fewer shares there.
    """
    if not by:
        return
    os.nice(by)
    if os.getsid(0) == os.getpid():
        with suppress(OSError):  # no such thing here, or not ours to set
            AUTOGROUP.write_text(str(by), "utf-8")
