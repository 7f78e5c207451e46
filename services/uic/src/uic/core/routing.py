"""Whether producers put records where their keys belong, and when too many do not to go on reading.

A few misrouted records are dead letters. Many mean that a whole fleet of producers partitions differently, or that the
topic has another partition count: then going on would move every one of their events to the dead letters, and an
operator has to accept that first.
"""

from __future__ import annotations

from collections import deque


class MisroutedWindow:
    """Counts misrouted records among the last `size`.

    Invariant: `misrouted` is the count within the newest batches that together hold at least `size` records, or within
    all if there were fewer.
    """

    def __init__(self, share: float, size: int = 10_000) -> None:
        """`share` of `size` is the most that is tolerated; 1 tolerates all."""
        self._limit = share * size
        self._size = size
        self._batches: deque[tuple[int, int]] = deque()
        self._records = 0
        self.misrouted = 0

    def exceeded_by(self, misrouted: int) -> bool:
        """Whether `misrouted` more would be too many. The share is of the full window, so that the first few records
        of a process cannot stop it."""
        return misrouted > 0 and self.misrouted + misrouted > self._limit

    def add(self, records: int, misrouted: int) -> None:
        """Take a committed batch into account."""
        self._batches.append((records, misrouted))
        self._records += records
        self.misrouted += misrouted
        while self._records - self._batches[0][0] >= self._size:
            old_records, old_misrouted = self._batches.popleft()
            self._records -= old_records
            self.misrouted -= old_misrouted
