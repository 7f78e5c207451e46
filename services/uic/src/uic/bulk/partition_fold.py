"""The fold of whole partitions: from all records of a log, as Arrow, to every user's state and the next progress.

Pure: no I/O and no clock. States are a function of (log, lineage, offset), so they are the bytes that UIC stores, and
progress is UIC's own (`advance`). What differs from a service is the size of a batch: a service must commit often;
here a batch is a large piece of the log of several partitions. Two folds give the same bytes: the compiled one
(`compiled_fold`), and, where that cannot be had, UIC's own rounds (`round_fold`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mimn.arrow import pa
from mimn.state import Progress
from uic.bulk.compiled_fold import compiled_fold
from uic.bulk.partition_log import Course, PartitionLog, Tally
from uic.bulk.round_fold import RoundFold
from uic.fold.rounds import Model


class FoldedStates(Protocol):
    """Every user's state after a partition's records. Arrays and lists run in parallel over the users."""

    @property
    def users(self) -> list[bytes]:
        """Record keys."""

    @property
    def headers(self) -> NDArray[np.void]:
        """[n] of dtype `HEADERS`; a copy."""

    @property
    def tensors(self) -> NDArray[np.float32]:
        """[n, F]; a copy."""

    def values(self) -> Iterator[tuple[pa.Array, pa.Array]]:
        """Users and their states as they are stored, some thousand at a time, as arrays of binary."""


class Fold(Protocol):
    """All states of some partitions."""

    def fold(self, read: Sequence[tuple[Course, pa.RecordBatch]]) -> None:
        """Fold one Arrow batch, which is not empty, of each of several partitions. Progress is only read, but for gaps.

        Raises:
            OutOfOrder: offsets do not rise, or begin below progress.
        """

    def folded(self, course: Course) -> FoldedStates:
        """The states of a partition's users."""

    @property
    def user_bytes(self) -> int:
        """Memory that a user takes, at most, until the fold ends."""


@dataclass(frozen=True, slots=True)
class FoldedPartition:
    """What a partition's records came to."""

    partition: int
    progress: Progress
    states: FoldedStates
    tally: Tally
    shard: tuple[int, int] = (0, 1)
    """(i, n): its users are those whose key's CRC-32 is i modulo n."""


def begin_fold(model: Model, shard: tuple[int, int] = (0, 1)) -> Fold:
    """A fold without states yet: the compiled one where it can be had."""
    return compiled_fold(model, shard) or RoundFold(model, shard)


def fold_partitions(
    logs: Sequence[PartitionLog], model: Model, *, shard: tuple[int, int] = (0, 1)
) -> list[FoldedPartition]:
    """The states that UIC would have stored after folding these partitions from `begin`, and its progress.

    Several partitions are folded side by side, one Arrow batch of each at a time.

    Args:
        logs: distinct partitions; they are read once.
        model: what folds.
        shard: (i, n): only the users whose key's CRC-32 is i modulo n, to bound the memory for states by 1/n. Progress
            is the same for all shards.

    Raises:
        OutOfOrder: offsets do not rise, or begin below `begin`.
    """
    fold = begin_fold(model, shard)
    courses = [Course(log) for log in logs]
    streams = [iter(log.records) for log in logs]
    while True:
        some = [(course, next(stream, None)) for course, stream in zip(courses, streams, strict=True)]
        read = [(course, records) for course, records in some if records is not None and len(records)]
        if all(records is None for _, records in some):
            return [FoldedPartition(c.partition, c.end, fold.folded(c), c.tally, shard) for c in courses]
        if read:
            fold.fold(read)
        for course, records in read:
            course.absorb(records)
