"""Whether the poll thread is blocked; pure, with no clock of its own.

All that it waits for has a time limit but one: its client's own thread, which reads the TLS files and looks names up,
and waits there for as long as the system does, as for a mount that hangs. A thread that waits cannot say so. So it
records when it last went on, and the fold thread compares that time with a bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from uic.core.ports import LogBlocked

_GOES_ON = LogBlocked("")
UNWATCHED_S: Final = 5.0
"""A pause of this length between two judgments is one of the whole process, as by SIGSTOP or a frozen container, or the
fold thread waits, too: neither says anything about the poll thread."""


@dataclass(slots=True)
class Blocked:
    """Of one worker. Times are monotonic, in seconds. The poll thread calls `goes_on`, the fold thread `judge`."""

    bound_s: float
    """Longer than the poll thread waits for anything that has a time limit."""
    to_see: str
    """What an operator has to look at."""
    _last: float | None = None
    """When it last went on; None before it began."""
    _judged: float | None = None
    """When it was last judged."""
    _watched_from: float = 0.0
    """From when on it was judged without a pause."""
    _told: LogBlocked = _GOES_ON

    def goes_on(self, now: float) -> None:
        """The thread begins something, or is done with it."""
        self._last = now

    def judge(self, now: float) -> LogBlocked | None:
        """What is to be told, if it is another thing than before: each second, while it lasts."""
        if (last := self._last) is None:
            return None
        if self._judged is not None and now - self._judged > UNWATCHED_S:
            self._watched_from = now
        self._judged = now
        blocked_s = now - max(last, self._watched_from)
        found = _GOES_ON
        if blocked_s >= self.bound_s:
            words = f"the thread that reads the log has been blocked for {blocked_s:.0f} s: {self.to_see}"
            found = LogBlocked(words)
        if found == self._told:
            return None
        self._told = found
        return found
