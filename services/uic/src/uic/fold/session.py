"""One partition as this process has it: progress, states, and the batch in hand. Made when an assignment is taken up,
dropped whole when anything about it is in doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from mimn.state import Progress
from uic.core.cache import Shelf
from uic.core.commit import ABSENT, Commit
from uic.core.event import Record
from uic.core.fold import Part, Round
from uic.core.ordering import Cut
from uic.core.ports import Delivery
from uic.core.status import Action, PartitionStatus, Phase
from uic.core.takeup import Begin


@dataclass(slots=True)
class Resolution:
    """An operator's word on a broken partition, and where the answer goes."""

    partition: int
    action: Action
    from_offset: int | None
    outcome: Future[Progress]


@dataclass(slots=True)
class Staged:
    """A commit on its way, and what holds once it is acknowledged."""

    commit: Commit
    progress: Progress
    round: Round | None = None
    part: Part | None = None


@dataclass(slots=True)
class Session:
    """Everything about one partition. Owned by the fold thread.

    Invariant: `known` is the encoding of `progress` once the phase is past `CLAIMING`; `shelf` holds states exactly as
    they are stored under `progress`.
    """

    partition: int
    tag: int
    """Unique in the process: tells this session's records from those of earlier ones."""
    writer: int
    shelf: Shelf
    phase: Phase = Phase.TAKING_UP
    reason: str = ""
    due: float = 0.0
    """Nothing is tried before this time (monotonic, s)."""
    asked: bool = False
    """Whether the log was asked for its bounds."""
    known: bytes = ABSENT
    progress: Progress | None = None
    begin: Begin | None = None
    resolution: Resolution | None = None
    erased: Mapping[bytes, int] = field(default_factory=dict)
    wants_erasures: bool = False

    reading: bool = False
    """Whether the log was told to read for this session."""
    pending: list[Record] = field(default_factory=list)
    position: int = 0
    cut: Cut | None = None
    letters_sent: int = 0
    """How many of the cut's rejected records were acknowledged."""
    letters_due: int = 0
    """How many of them are on their way."""
    delivery: Delivery | None = None
    staged: Staged | None = None

    end: int | None = None
    caught_up_at: tuple[int, int] | None = None
    """(end, ms): once `end` is reached, progress is as of `ms`."""
    read_back_due: float = 0.0

    def folding(self) -> Progress:
        """Progress, of a session that has one."""
        if self.progress is None:
            raise AssertionError(f"partition {self.partition} folds without progress")
        return self.progress

    def status(self) -> PartitionStatus:
        """The view for operators."""
        p = self.progress
        return PartitionStatus(
            partition=self.partition,
            phase=self.phase,
            reason=self.reason,
            next_offset=None if p is None else p.next_offset,
            end_offset=self.end,
            as_of_ms=None if p is None else p.as_of_ms,
            lineage=None if p is None else p.lineage,
            era=None if p is None else p.era,
            base=None if p is None else p.base,
            gaps=None if p is None else p.gaps,
        )
