"""Limits how many fetched records wait for the fold: a partition that has used its share up is not read for a while.

Records are counted by tag, so those fetched before a rewind or for an earlier assignment do not count against the new
one. All methods belong to the poll thread, except `took`.
"""

from __future__ import annotations


class Backpressure:
    """Counts for the partitions that are being read; each may use an equal share of the queue."""

    def __init__(self, queue_records: int) -> None:
        """`queue_records`: fetched records that may wait for the fold, over all partitions."""
        self._queue_records = queue_records
        self._given: dict[int, int] = {}
        self._full: set[int] = set()
        # Written by the fold thread, read by the poll thread:
        self._taken: dict[int, int] = {}

    def begin(self, tag: int) -> None:
        """A partition is read under a new tag."""
        self._given[tag] = 0

    def forget(self, tag: int) -> None:
        """The partition with this tag is no longer read, or under another tag."""
        self._given.pop(tag, None)
        self._full.discard(tag)
        for old in [tag for tag in list(self._taken) if tag not in self._given]:
            self._taken.pop(old, None)

    def gave(self, tag: int, records: int) -> None:
        """Records were queued for the fold."""
        self._given[tag] += records

    def took(self, tag: int, records: int) -> None:
        """The fold thread took records from the queue."""
        self._taken[tag] = self._taken.get(tag, 0) + records

    def is_full(self, tag: int) -> bool:
        """Whether the partition with this tag has used its share up. Once it has, until half of the share is free."""
        share = self._queue_records // max(1, len(self._given))
        waiting = self._given[tag] - self._taken.get(tag, 0)
        if waiting > (share // 2 if tag in self._full else share):
            self._full.add(tag)
        else:
            self._full.discard(tag)
        return tag in self._full
