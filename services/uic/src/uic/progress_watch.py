"""One watch for lack of progress: a process whose threads stand still ends, and its supervisor starts it again.

A thread that stands still cannot report it. So each one says when it goes on and how long its next step may take, and
the watch counts the seconds until then. States and progress are as after a kill.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Final

from process.log_lines import flush
from uic.logs import say

log = logging.getLogger("uic.progress_watch")

PATIENCE_S: Final = 60
"""How long a thread may take to go on, besides its calls to servers."""
LOOK_S: Final = 1.0
FAILED: Final = 1
"""The exit status."""


class ProgressWatch(threading.Thread):
    """Begin with `start`. The other methods may be called from any thread."""

    def __init__(self, end: Callable[[int], object] = os._exit) -> None:
        """Nothing is watched yet. `end` ends the process with a status."""
        super().__init__(name="progress watch", daemon=True)
        self._end = end
        self._due: dict[str, int] = {}
        self._looks = 0
        """Counted, and not taken from a clock: a process that was stopped, as by SIGSTOP, does not look."""

    def expect(self, what: str, within_s: float = PATIENCE_S) -> None:
        """`what` goes on; its next sign of that is due within so many seconds."""
        self._due[what] = self._looks + int(within_s / LOOK_S)

    def rests(self, what: str) -> None:
        """No sign of `what` is due any more."""
        self._due.pop(what, None)

    def run(self) -> None:
        """Look each second."""
        pause = threading.Event()
        while not pause.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """End the process if a sign is overdue."""
        self._looks += 1
        if late := [what for what, due in list(self._due.items()) if due < self._looks]:
            say(log, logging.CRITICAL, "no progress: the process ends", of=", ".join(late))
            flush()  # nothing else does where a process ends so
            self._end(FAILED)
