"""How far the log has been folded, as last read from the store, and what that says about one user's state.

A `Standing` is read in the background for all partitions at once; a request only looks its partition up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from mimn.state import CorruptProgress, Progress, UserState, decode_progress, partition_of


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


@dataclass(frozen=True, slots=True)
class StateReport:
    """What an answer says about the state it rests on."""

    status: Status
    events: int | None
    """Events folded into the state; None when it could not be read."""
    age_ms: int | None
    """How long ago the user's partition was last known to be folded up to the end of the log; None if unknown."""
    partial: bool
    """Events of the user may be missing from the state."""


UNAVAILABLE = StateReport(Status.UNAVAILABLE, None, None, partial=True)


@dataclass(frozen=True)
class Standing:
    """The progress of each of the N partitions of a namespace; None where the store has none."""

    progress: tuple[Progress | None, ...]

    @property
    def partitions(self) -> int:
        """N."""
        return len(self.progress)

    def partition_of(self, user_id: str) -> int:
        """The partition that holds a user's events and state."""
        return partition_of(user_id.encode(), len(self.progress))

    def oldest_ms(self, now_ms: int) -> int | None:
        """Age of the partition that lags most, None when one has no progress at all."""
        if any(progress is None for progress in self.progress):
            return None
        return max(max(0, now_ms - progress.as_of_ms) for progress in self.progress if progress is not None)

    def report(self, state: UserState | None, partition: int, now_ms: int, stale_after_ms: float) -> StateReport:
        """What to say about `state` (None if the store has none), read from `partition` at `now_ms`."""
        progress = self.progress[partition]
        age_ms = None if progress is None else max(0, now_ms - progress.as_of_ms)
        if state is None:
            return StateReport(Status.COLD, 0, age_ms, partial=progress is None or progress.complete_from > 0)
        header = state.header
        if progress is None or header.lineage != progress.lineage:
            # Of another start from nothing than the one that is being folded: usable, but nobody can say how old.
            return StateReport(Status.STALE, header.event_count, age_ms, partial=True)
        fresh = age_ms is not None and age_ms <= stale_after_ms
        return StateReport(
            Status.WARM if fresh else Status.STALE,
            header.event_count,
            age_ms,
            partial=header.partial or header.last_offset < progress.complete_from,
        )


def standing_from(records: Sequence[bytes | None], last: Standing | None) -> tuple[Standing, int]:
    """The standing that the N stored records describe, and how many of them are unreadable.

    An unreadable record keeps the partition's last good one.
    """
    known = last.progress if last is not None and last.partitions == len(records) else (None,) * len(records)
    progress: list[Progress | None] = []
    unreadable = 0
    for record, before in zip(records, known, strict=True):
        try:
            progress.append(None if record is None else decode_progress(record))
        except CorruptProgress:
            unreadable += 1
            progress.append(before)
    return Standing(tuple(progress)), unreadable
