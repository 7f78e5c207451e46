"""The fold of whole partitions: from all records of a log, as Arrow, to every user's state and the next progress.

Pure: no I/O and no clock. States are a function of (log, lineage, offset), so they are the bytes that UIC stores, and
progress is UIC's own (`advance`). The fold is UIC's too (`uic.core.fold`). Only the size of a batch differs: a service
must commit often; here a batch is a large piece of the log of several partitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimn.arrow import pa
from mimn.state import Progress, StateLayout, read_headers, read_tensors
from uic.bulk.partition_log import Course, PartitionLog, Tally, records_of
from uic.core.held_states import HeldStates
from uic.core.model import Model
from uic.core.ordering import Batch, Waiting

AT_ONCE = 4096
"""Values of an Arrow array."""


class FoldedStates:
    """Every user's state after a partition's records. Arrays and lists run in parallel over the users."""

    def __init__(self, layout: StateLayout, values: dict[bytes, bytes]) -> None:
        """`values`: by user, as stored."""
        self._layout = layout
        self._values = values

    @property
    def users(self) -> list[bytes]:
        """Record keys."""
        return list(self._values)

    @property
    def headers(self) -> NDArray[np.void]:
        """[n] of dtype `HEADERS`; a copy."""
        return read_headers(list(self._values.values()))

    @property
    def tensors(self) -> NDArray[np.float32]:
        """[n, F]; a copy."""
        return read_tensors(list(self._values.values()), self._layout)

    def values(self) -> Iterator[tuple[pa.Array, pa.Array]]:
        """Users and their states as they are stored, some thousand at a time, as arrays of binary."""
        users, values = list(self._values), list(self._values.values())
        for at in range(0, len(users), AT_ONCE):
            some = slice(at, at + AT_ONCE)
            yield pa.array(users[some], pa.binary()), pa.array(values[some], pa.binary())


@dataclass(frozen=True, slots=True)
class FoldedPartition:
    """What a partition's records came to."""

    partition: int
    progress: Progress
    states: FoldedStates
    tally: Tally
    shard: tuple[int, int] = (0, 1)
    """(i, n): its users are those whose key's CRC-32 is i modulo n."""


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
    held = HeldStates(model)
    courses = [Course(log) for log in logs]
    streams = [iter(log.records) for log in logs]
    while True:
        some = [(course, next(stream, None)) for course, stream in zip(courses, streams, strict=True)]
        read = [(course, records) for course, records in some if records is not None and len(records)]
        if all(records is None for _, records in some):
            layout = model.layout
            return [
                FoldedPartition(c.partition, c.end, FoldedStates(layout, held.of(c.partition)), c.tally, shard)
                for c in courses
            ]
        waiting = [_waiting(course, records, shard) for course, records in read]
        for (course, records), batch in zip(read, held.fold(waiting, [c.progress for c, _ in read]), strict=True):
            _count(course.tally, batch)
            course.absorb(records)


def _waiting(course: Course, some: pa.RecordBatch, shard: tuple[int, int]) -> Waiting:
    """The shard's records of an Arrow batch."""
    course.enter(some.column("offset")[0].as_py())
    return Waiting(course.partition, records_of(some, shard), course.progress.next_offset, course.log.erased)


def _count(tally: Tally, batch: Batch) -> None:
    """Count a folded batch."""
    folded = int(np.count_nonzero(batch.items))
    tally.folded += folded
    tally.erased += len(batch.items) - folded
    tally.erased_later += batch.erased_later
    tally.ignored += batch.ignored
    for _, reason in batch.rejected:
        tally.reject(reason)
