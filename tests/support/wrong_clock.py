"""A process whose clock is wrong: its `time.time` and `time.time_ns` are off by what a file says, read at each look.

Only Python's own functions are moved, by a `sitecustomize` that the process imports first. What is read in C, such as
`datetime.now` for log lines, is the machine's clock still, and so are timers. gRPC sets its deadlines in C and reads
them through `time.time`, so the machine's clock is what it sees, too; its own frames are compiled and not on the stack,
so the caller is the module that asks for the time that remains.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

_MOVED: Final = """
import sys
import time

FILE, SECOND, ASKS_FOR_THE_TIME_LEFT = {file!r}, 1_000_000_000, ("uic.doors.servicer",)
real_s, real_ns = time.time, time.time_ns


def ahead_s():
    try:
        with open(FILE) as file:
            return int(file.read() or 0)
    except FileNotFoundError:
        return 0


time.time_ns = lambda: real_ns() + ahead_s() * SECOND
time.time = lambda: real_s() + (0 if sys._getframe(1).f_globals["__name__"] in ASKS_FOR_THE_TIME_LEFT else ahead_s())
"""


class WrongClock:
    """The clock of processes that are started with `variables`; right until it is set."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds what moves the clock."""
        folder.mkdir(parents=True)
        self._file = folder / "ahead-s"
        (folder / "sitecustomize.py").write_text(_MOVED.format(file=str(self._file)))
        self.variables: dict[str, Any] = {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))
        }

    def ahead(self, seconds: int) -> None:
        """Set the clock so far ahead of this machine's; a negative number sets it behind."""
        new = self._file.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._file)
