"""Decides when too many records are in a partition that is not their key's.

A few misrouted records become dead letters. Many mean that all producers of some kind partition differently, or that
the topic has another partition count. Then continuing would move all their events to the dead letters, so an operator
must accept that first.
"""

from __future__ import annotations

from collections import deque
from typing import Final

PRODUCERS: Final = (
    "librdkafka (C, Go, .NET, confluent-kafka): set partitioner=murmur2_random; Java: set neither partitioner.class "
    "nor partitioner.ignore.keys, and give records no partition"
)
"""How each kind of producer comes to partition by murmur2."""


class MisroutedWindow:
    """Counts misrouted records among the newest `size` records.

    Invariant: `misrouted` is the count within the newest batches that together hold at least `size` records, or within
    all batches if there were fewer records.
    """

    def __init__(self, share: float, size: int = 10_000) -> None:
        """Up to `share` of `size` is tolerated; 1 tolerates all."""
        self._limit = share * size
        self._size = size
        self._batches: deque[tuple[int, int]] = deque()
        self._records = 0
        self.misrouted = 0

    def exceeded_by(self, misrouted: int) -> bool:
        """Whether `misrouted` more would be too many. The share refers to the full window, so the first few records of
        a process cannot stop it."""
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
