"""How far UIC has folded the log, as last read from the store, and what that says about one user's state.

`FoldProgress` is read in the background for all partitions at once; a request only looks its partition up.

As-of times are written by the store's clock and compared with it. A time that lies ahead of it (the store was set back,
or failed over to a slower clock) does not tell how old the states are, so it is not believed, and stays so until UIC
writes another one: otherwise a partition whose worker died would look up to date again once the store's clock has
caught up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec
import numpy as np
from numpy.typing import NDArray

from mimn.state import CorruptProgress, Progress, UserState, decode_progress, partition_of
from rtp.errors import StoreError

NEVER = 0
"""The as-of time that UIC writes until a partition has caught up for the first time."""


class Status(Enum):
    """What the scores of an answer rest on."""

    WARM = "warm"
    """The user's stored state, of a partition that is up to date."""
    STALE = "stale"
    """The user's stored state; newer events may not be folded yet."""
    COLD = "cold"
    """The initial state: the store knows no event of this user."""
    UNAVAILABLE = "unavailable"
    """The initial state: the store is away or late, or the stored value cannot be used."""

    __hash__ = object.__hash__  # a member is one object; an enumeration's own hash is a function in Python


class StateReport(msgspec.Struct, frozen=True):
    """What an answer says about the state it rests on."""

    status: Status
    events: int | None
    """Events folded into the state; None when it could not be read."""
    age_ms: int | None
    """How long ago the user's partition was last known to be folded up to the end of the log; None if unknown."""
    partial: bool
    """Events of the user may be missing from the state."""


UNAVAILABLE = StateReport(Status.UNAVAILABLE, None, None, partial=True)


@dataclass(frozen=True, slots=True)
class PartitionProgress:
    """One partition's progress record, and how much of its as-of time is believed."""

    record: Progress
    as_of_ms: int | None
    """When the partition was last known to be caught up, by the store's clock; None if it never was, or if the record's
    time was ahead of that clock when it was first seen."""


@dataclass(frozen=True)
class FoldProgress:
    """The progress of each of the N partitions of a namespace; None where the store has none."""

    partitions: tuple[PartitionProgress | None, ...]
    topic: str
    """Whose events the states are made of."""

    @property
    def size(self) -> int:
        """N."""
        return len(self.partitions)

    @property
    def next_offsets(self) -> NDArray[np.int64]:
        """[N]: below these, every event is in the states; 0 without progress."""
        return np.array([0 if one is None else one.record.next_offset for one in self.partitions], np.int64)

    def partition_of(self, user_id: str) -> int:
        """The partition that holds a user's events and state."""
        return partition_of(user_id.encode(), len(self.partitions))

    @property
    def never_caught_up(self) -> int:
        """How many partitions were folded, and never up to the end of the log."""
        return sum(known is not None and known.record.as_of_ms == NEVER for known in self.partitions)

    def stale(self, now_ms: int, stale_after_ms: float) -> int:
        """Of how many partitions the states are stale: caught up too long ago, or it is unknown when."""
        known = (None if one is None else one.as_of_ms for one in self.partitions)
        return sum(as_of_ms is None or now_ms - as_of_ms > stale_after_ms for as_of_ms in known)

    def oldest_ms(self, now_ms: int) -> int | None:
        """Age of the partition that lags most, None if the age of one is unknown."""
        oldest = 0
        for partition in self.partitions:
            if partition is None or partition.as_of_ms is None:
                return None
            oldest = max(oldest, now_ms - partition.as_of_ms)
        return oldest

    def ahead_ms(self, now_ms: int) -> int:
        """How far the latest as-of time is ahead of `now_ms`; 0 if none is."""
        return max([0, *(known.record.as_of_ms - now_ms for known in self.partitions if known is not None)])

    def report(self, state: UserState | None, partition: int, now_ms: int, stale_after_ms: float) -> StateReport:
        """What to say about `state` (None if the store has none), read from `partition` at `now_ms`."""
        known = self.partitions[partition]
        record = None if known is None else known.record
        as_of_ms = None if known is None else known.as_of_ms
        age_ms = None if as_of_ms is None else max(0, now_ms - as_of_ms)
        if state is None:
            return StateReport(Status.COLD, 0, age_ms, partial=record is None or record.complete_from > 0)
        header = state.header
        if record is None or header.lineage != record.lineage:
            # The state was built in another lineage than the one being folded now: usable, but of unknown age.
            return StateReport(Status.STALE, header.event_count, age_ms, partial=True)
        fresh = age_ms is not None and age_ms <= stale_after_ms
        # An offset of an earlier era is one of another log, or of another reading of this log.
        reached = header.last_offset if header.era == record.era else 0
        return StateReport(
            Status.WARM if fresh else Status.STALE,
            header.event_count,
            age_ms,
            partial=header.partial or reached < record.complete_from,
        )


def fold_progress(
    records: Sequence[bytes | StoreError | None],
    topic: str,
    last: FoldProgress | None,
    now_ms: int,
    ahead_within_ms: float,
) -> tuple[FoldProgress, int]:
    """What the N stored records say, and how many of them are unreadable.

    An unreadable record, or one that the store did not give, keeps the partition's last good one. `last` is the reading
    before, `now_ms` the time of this one by the store's clock; an as-of time up to `ahead_within_ms` ahead of it
    counts as `now_ms`.
    """
    same = last is not None and len(last.partitions) == len(records)
    before = last.partitions if last is not None and same else (None,) * len(records)
    partitions: list[PartitionProgress | None] = []
    unreadable = 0
    for record, known in zip(records, before, strict=True):
        if isinstance(record, StoreError):
            partitions.append(known)
            continue
        try:
            decoded = None if record is None else decode_progress(record)
        except CorruptProgress:
            unreadable += 1
            partitions.append(known)
            continue
        if decoded is None:
            partitions.append(None)
        else:
            partitions.append(PartitionProgress(decoded, _believed(decoded.as_of_ms, known, now_ms, ahead_within_ms)))
    return FoldProgress(tuple(partitions), topic), unreadable


def _believed(as_of_ms: int, before: PartitionProgress | None, now_ms: int, ahead_within_ms: float) -> int | None:
    """What is believed of an as-of time: decided when it is first seen, and kept for as long as it stays the same."""
    if before is not None and before.record.as_of_ms == as_of_ms:
        return before.as_of_ms
    unknown = as_of_ms == NEVER or as_of_ms > now_ms + ahead_within_ms
    return None if unknown else min(as_of_ms, now_ms)
