"""Limits how many fetched records wait for the fold: a partition whose share is used up is paused until there is room.

Records are counted by tag, so those fetched before a rewind or for an earlier assignment do not count against the new
one. All methods belong to the poll thread and its rebalance listener, except `took`.
"""

from __future__ import annotations


class Backpressure:
    """Counts for the partitions that are being read; each may use an equal share of the queue."""

    def __init__(self, queue_records: int) -> None:
        """`queue_records`: fetched records that may wait for the fold, over all partitions."""
        self._queue_records = queue_records
        self._given: dict[int, int] = {}
        self._full: dict[int, int] = {}
        # Written by the fold thread, read by the poll thread:
        self._taken: dict[int, int] = {}

    def begin(self, tag: int) -> None:
        """A partition is read under a new tag."""
        self._given[tag] = 0

    def forget(self, tag: int) -> None:
        """The partition with this tag is no longer read, or under another tag."""
        self._given.pop(tag, None)
        self._full.pop(tag, None)
        for old in [tag for tag in list(self._taken) if tag not in self._given]:
            self._taken.pop(old, None)

    def gave(self, tag: int, records: int) -> None:
        """Records were queued for the fold."""
        if tag in self._given:  # else a rebalance ended this reading meanwhile
            self._given[tag] += records

    def took(self, tag: int, records: int) -> None:
        """The fold thread took records from the queue."""
        self._taken[tag] = self._taken.get(tag, 0) + records

    def overflows(self, tag: int, partition: int) -> bool:
        """Whether the partition must be paused; then `relieved` will name it."""
        if self._waiting(tag) <= self._share():
            return False
        self._full[tag] = partition
        return True

    def is_full(self, tag: int) -> bool:
        """Whether the partition with this tag is paused for lack of room."""
        return tag in self._full

    def relieved(self) -> list[int]:
        """The paused partitions that may be read again, each named once."""
        relieved = {t: p for t, p in list(self._full.items()) if self._waiting(t) <= self._share() // 2}
        for tag in relieved:
            self._full.pop(tag, None)
        return list(relieved.values())

    def _waiting(self, tag: int) -> int:
        return self._given.get(tag, 0) - self._taken.get(tag, 0)

    def _share(self) -> int:
        return self._queue_records // max(1, len(self._given))
