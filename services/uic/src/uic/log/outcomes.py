"""How transactions ended, for reading where the broker does not say it yet: behind the start of one that is open.
Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Hashable


class Outcomes:
    """The markers at which producers' transactions ended in partitions, as far as they were read.

    A producer has one transaction at a time in a partition, so the first of its markers behind a record is that of the
    record's transaction.
    """

    def __init__(self) -> None:
        self._markers: defaultdict[tuple[Hashable, int], list[int]] = defaultdict(list)
        """By partition and producer id, the markers' offsets, ascending."""
        self._commits: set[tuple[Hashable, int]] = set()
        """The partition and offset of each marker that says commit."""

    def note(self, partition: Hashable, producer_id: int, offset: int, *, commits: bool) -> None:
        """A marker was read. Those of a partition come in the order of their offsets, once or more often."""
        offsets = self._markers[partition, producer_id]
        if not offsets or offset > offsets[-1]:
            offsets.append(offset)
            if commits:
                self._commits.add((partition, offset))

    def committed(self, partition: Hashable, producer_id: int, offset: int) -> bool:
        """Whether the record at `offset`, which a producer wrote in a transaction, was committed. False if it was
        aborted, or if the transaction is still open."""
        offsets = self._markers.get((partition, producer_id), [])
        at = bisect_right(offsets, offset)
        return at < len(offsets) and (partition, offsets[at]) in self._commits
