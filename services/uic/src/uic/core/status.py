"""What UIC says of itself to operators, health checks and metrics: frozen values, replaced whole."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Action = Literal["continue", "rebuild"]
"""What an operator can decide about a broken partition."""


class Phase(StrEnum):
    """Where a partition stands."""

    TAKING_UP = "taking_up"
    """Reading progress, asking the log for its bounds."""
    CLAIMING = "claiming"
    """Storing a new progress record before the first read."""
    VERIFYING = "verifying"
    """Waiting for the record that must carry the witness."""
    FOLDING = "folding"
    UNSURE = "unsure"
    """A commit had no answer; progress is read until it is known what became of it."""
    OWNERSHIP_LOST = "ownership_lost"
    """Another process wrote; waiting for newer leases."""
    BROKEN = "broken"
    """The log is not the one that was folded, or its records are misrouted; an operator decides."""


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One assigned partition."""

    partition: int
    phase: Phase
    reason: str
    """Why it does not fold; empty while it does."""
    next_offset: int | None
    """None before progress is known."""
    end_offset: int | None
    """End of the log as of the last question; None if that had no answer."""
    as_of_ms: int | None
    lineage: int | None
    era: int | None
    base: int | None
    gaps: int | None
    unfolded_from: int | None
    """Where the log's records begin that are not folded: `next_offset`, except in a log that is not the one that was
    folded. None while that is not known."""

    @property
    def lag(self) -> int | None:
        """Records of the log that are not folded; None while unknown."""
        if self.unfolded_from is None or self.end_offset is None:
            return None
        return max(0, self.end_offset - self.unfolded_from)


@dataclass(frozen=True, slots=True)
class Status:
    """The whole process."""

    serving: bool
    """What the health service says. An outage of the store or the broker is no reason for False: it ends by itself."""
    reasons: tuple[str, ...]
    """Why not serving, or what is degraded; empty when all is well."""
    partitions: tuple[PartitionStatus, ...]
    """Assigned ones, in order."""
    ahead_ms: int = 0
    """Our clock less the store's when they were last compared; 0 until then."""
    workers: tuple[str, ...] = ()
    """All that hold a lease on the namespace, this one included, in order; empty while this one holds none."""


STARTING = Status(False, ("starting",), ())
