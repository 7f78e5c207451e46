"""Events at the midnights of a time zone: dates that a program wrote as times of its own zone.

A click that has such a time seems to come before the impression that caused it. Midnights in UTC are read as dates
(`mimn.data.rounding`); those of another zone look like times.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DAY_MS = 86_400_000
QUARTER_MS = 900_000
"""Time zones differ by quarters of an hour."""
TIMES_OF_DATES = 2
"""Times of the day, in UTC, that the midnights of a time zone have: two, in summer and in winter."""
MANY_EVENTS = 100
"""So many events are not at the same time of the day by chance, if they are a hundredth of all, too."""


class LocalDates:
    """Counts the events at each full quarter of an hour of the day, in UTC."""

    def __init__(self) -> None:
        self._at = np.zeros(DAY_MS // QUARTER_MS, np.int64)
        self._events = 0

    def add(self, times_ms: NDArray[np.int64]) -> None:
        """Count some events by their times. [n]"""
        full = times_ms[times_ms % QUARTER_MS == 0] % DAY_MS // QUARTER_MS
        self._at += np.bincount(full, minlength=len(self._at))
        self._events += len(times_ms)

    @property
    def found(self) -> tuple[int, str] | None:
        """How many events are at midnights of a time zone, and at which times of the day in UTC; None if too few are,
        or as many at other quarters."""
        at = self._at.copy()
        at[0] = 0  # midnight in UTC
        often = np.sort(np.argsort(at)[-TIMES_OF_DATES:])
        dates = int(at[often].sum())
        if dates < max(MANY_EVENTS, self._events // 100, int(at.sum()) * 9 // 10):
            return None
        return dates, " or ".join(
            _clock(quarter * QUARTER_MS) for quarter in often.tolist() if at[quarter] * 10 > dates
        )


def _clock(ms: int) -> str:
    """A time of the day."""
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}"
