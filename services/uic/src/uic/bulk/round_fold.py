"""The fold of whole partitions with numpy and the step graph: UIC's own batches and rounds.

A batch is a large piece of the log of several partitions, so a wave holds all of their users. This folds where the
compiled fold cannot be had, and defines its results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mimn.arrow import pa
from mimn.state import HEADERS, StateLayout, read_headers, read_tensors
from uic.bulk.partition_log import Course, Tally, headers_of
from uic.core.event import Reason
from uic.core.fold import ERASED_ROW, Part, Round
from uic.core.ordering import Batch, Bounds, decode, take
from uic.core.records import BatchRecord
from uic.fold.rounds import Model

UNBOUNDED: Final = Bounds(1 << 31, 1 << 31, 1 << 31)
"""A batch is what one Arrow batch holds: nothing is written before the end."""
AT_ONCE: Final = 4096
"""Values of an Arrow array."""
COPIES: Final = 4
"""Of a user's state, at most: its value, and a batch's result as tensors, as a row to be encoded, and encoded."""
OBJECT_BYTES: Final = 2000
"""Of what is no array: the key, and the user's part of a batch."""


class RoundFold:
    """All states of a fold, as stored values, which `Round` goes on from as from a cache that never evicts."""

    def __init__(self, model: Model, shard: tuple[int, int]) -> None:
        self._model = model
        self._shard = shard
        self._values: dict[int, dict[bytes, bytes]] = {}
        """By partition, the value of each user."""

    def fold(self, read: Sequence[tuple[Course, pa.RecordBatch]]) -> None:
        """See `Fold`."""
        model = self._model
        fronts = [
            take(
                self._records(course, some),
                floor=course.progress.next_offset,
                partition=course.partition,
                partitions=course.progress.partitions,
                known=self._of(course),
                erased=course.log.erased,
                bounds=UNBOUNDED,
            )
            for course, some in read
        ]
        batches = decode(fronts, model.actions, text_ids=model.text_ids) if fronts else []
        while batches:
            parts = [
                Part(batch, course.progress, list(map(self._of(course).get, batch.keys)))
                for (course, _), batch in zip(read, batches, strict=True)
            ]
            work = Round(model.initial_state, model.layout)
            work.plan(parts)
            work.run(model.step, model.vectors, model.forget, model.counting, model.ledger)
            if any(part.not_finite for part in parts):
                batches = [
                    part.batch.without(part.not_finite, Reason.NON_FINITE) if part.not_finite else part.batch
                    for part in parts
                ]
                continue
            encoded = work.states(model.fingerprint, model.layout).encoded
            for (course, _), part in zip(read, parts, strict=True):
                self._keep(course, part, encoded)
            return

    def folded(self, course: Course) -> _Folded:
        """See `Fold`."""
        values = self._of(course)
        return _Folded(self._model.layout, list(values), list(values.values()))

    @property
    def user_bytes(self) -> int:
        """See `Fold`."""
        return COPIES * (HEADERS.itemsize + 4 * len(self._model.initial_state)) + OBJECT_BYTES

    def _of(self, course: Course) -> dict[bytes, bytes]:
        return self._values.setdefault(course.partition, {})

    def _records(self, course: Course, some: pa.RecordBatch) -> list[BatchRecord]:
        """The records of this shard."""
        columns = [some.column(name).to_pylist() for name in ("offset", "timestamp", "key", "value")]
        course.enter(columns[0][0])
        records = list(map(_record, zip(*columns, headers_of(some.column("headers")), strict=True)))
        mine, shards = self._shard
        return records if shards == 1 else [r for r in records if crc32(r.key or b"") % shards == mine]

    def _keep(self, course: Course, part: Part, encoded: Sequence[bytes]) -> None:
        """Take over the results of a round."""
        values = self._of(course)
        for key, row in zip(part.batch.keys, part.row_of, strict=True):
            if row == ERASED_ROW:
                values.pop(key, None)
            elif row >= 0:
                values[key] = encoded[row]
        _count(course.tally, part.batch)


class _Folded:
    """One partition's users."""

    def __init__(self, layout: StateLayout, users: list[bytes], values: list[bytes]) -> None:
        self.users = users
        self._layout = layout
        self._values = values

    @property
    def headers(self) -> NDArray[np.void]:
        """See `FoldedStates`."""
        return read_headers(self._values)

    @property
    def tensors(self) -> NDArray[np.float32]:
        """See `FoldedStates`."""
        return read_tensors(self._values, self._layout)

    def values(self) -> Iterator[tuple[pa.Array, pa.Array]]:
        """See `FoldedStates`."""
        for at in range(0, len(self.users), AT_ONCE):
            some = slice(at, at + AT_ONCE)
            yield pa.array(self.users[some], pa.binary()), pa.array(self._values[some], pa.binary())


def _count(tally: Tally, batch: Batch) -> None:
    """Count a folded batch."""
    folded = int(np.count_nonzero(batch.items))
    tally.folded += folded
    tally.erased += len(batch.items) - folded
    tally.erased_later += batch.erased_later
    tally.ignored += batch.ignored
    for _, reason in batch.rejected:
        tally.reject(reason)


_record = partial(tuple.__new__, BatchRecord)
"""A record of its five values, without Python for each."""
