"""The fold of whole partitions with numpy and the step graph: UIC's own batches and rounds.

A batch is a large piece of the log of several partitions, so a wave holds all of their users. This folds where the
compiled fold cannot be had, and defines its results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final
from zlib import crc32

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mimn.state import HEADERS, encode_states
from uic.bulk.partition_log import Course, Tally, headers_of
from uic.core.cache import NOT_CACHED
from uic.core.event import Reason
from uic.core.fold import ERASED_ROW, Part, Round
from uic.core.ordering import Batch, Bounds, decode, take
from uic.core.records import BatchRecord
from uic.fold.rounds import Model

UNBOUNDED: Final = Bounds(1 << 31, 1 << 31, 1 << 31)
"""A batch is what one Arrow batch holds: nothing is written before the end."""
FIRST_CAPACITY: Final = 1024
ENCODED_AT_ONCE: Final = 4096
COPIES: Final = 4
"""Of a user's state, at most: the arrays are there twice while they grow, and a batch's results twice beside them."""
OBJECT_BYTES: Final = 2000
"""Of what is no array: the key, and the user's part of a batch."""


class RoundFold:
    """All states of a fold by row, which `Round` reads as its cache. Grows, and never evicts."""

    def __init__(self, model: Model, shard: tuple[int, int]) -> None:
        self.headers: NDArray[np.void] = np.empty(FIRST_CAPACITY, HEADERS)
        self.tensors: NDArray[np.float32] = np.empty((FIRST_CAPACITY, len(model.initial_state)), np.float32)
        self._model = model
        self._shard = shard
        self._rows: dict[int, dict[bytes, int]] = {}
        """By partition, the row of each user."""
        self._free: list[int] = []
        self._fresh = 0

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
        batches = decode(fronts, model.actions) if fronts else []
        while batches:
            parts = [
                Part(
                    batch,
                    course.progress,
                    [self._of(course).get(key, NOT_CACHED) for key in batch.keys],
                )
                for (course, _), batch in zip(read, batches, strict=True)
            ]
            work = Round(model.initial_state, self)
            work.plan(parts)
            work.run(model.step, model.vectors, model.forget, model.counting, model.ledger)
            if any(part.not_finite for part in parts):
                batches = [
                    part.batch.without(part.not_finite, Reason.NON_FINITE) if part.not_finite else part.batch
                    for part in parts
                ]
                continue
            for (course, _), part in zip(read, parts, strict=True):
                self._keep(course, part, work)
            return

    def folded(self, course: Course) -> _Folded:
        """See `Fold`."""
        rows = self._of(course)
        return _Folded(self, self._model, list(rows), np.fromiter(rows.values(), np.int64, len(rows)))

    @property
    def user_bytes(self) -> int:
        """See `Fold`."""
        return COPIES * (HEADERS.itemsize + 4 * len(self._model.initial_state)) + OBJECT_BYTES

    def _of(self, course: Course) -> dict[bytes, int]:
        return self._rows.setdefault(course.partition, {})

    def _records(self, course: Course, some: pa.RecordBatch) -> list[BatchRecord]:
        """The records of this shard."""
        columns = [some.column(name).to_pylist() for name in ("offset", "timestamp", "key", "value")]
        course.enter(columns[0][0])
        records = list(map(_record, zip(*columns, headers_of(some.column("headers")), strict=True)))
        mine, shards = self._shard
        return records if shards == 1 else [r for r in records if crc32(r.key or b"") % shards == mine]

    def _keep(self, course: Course, part: Part, work: Round) -> None:
        """Take over the results of a round."""
        to, of, rows = [], [], self._of(course)
        for key, row in zip(part.batch.keys, part.row_of, strict=True):
            if row == ERASED_ROW:
                if (gone := rows.pop(key, None)) is not None:
                    self._free.append(gone)
            elif row >= 0:
                at = rows.get(key)
                if at is None:
                    at = rows[key] = self._take_row()
                to.append(at)
                of.append(row)
        self.headers[to] = work.headers[of]
        self.tensors[to] = work.tensors[work.place[of]]
        _count(course.tally, part.batch)

    def _take_row(self) -> int:
        if self._free:
            return self._free.pop()
        if self._fresh == len(self.headers):
            self.headers, self.tensors = _doubled(self.headers), _doubled(self.tensors)
        self._fresh += 1
        return self._fresh - 1


class _Folded:
    """One partition's users."""

    def __init__(self, states: RoundFold, model: Model, users: list[bytes], rows: NDArray[np.int64]) -> None:
        self.users = users
        self._states = states
        self._model = model
        self._rows = rows

    @property
    def headers(self) -> NDArray[np.void]:
        """See `FoldedStates`."""
        return self._states.headers[self._rows]

    @property
    def tensors(self) -> NDArray[np.float32]:
        """See `FoldedStates`."""
        return self._states.tensors[self._rows]

    def values(self) -> Iterator[tuple[pa.Array, pa.Array]]:
        """See `FoldedStates`."""
        fingerprint, layout = self._model.fingerprint, self._model.layout
        for at in range(0, len(self.users), ENCODED_AT_ONCE):
            rows = self._rows[at : at + ENCODED_AT_ONCE]
            values = encode_states(self._states.headers[rows], self._states.tensors[rows], fingerprint, layout)
            yield pa.array(self.users[at : at + ENCODED_AT_ONCE], pa.binary()), pa.array(values, pa.binary())


def _count(tally: Tally, batch: Batch) -> None:
    """Count a folded batch."""
    folded = int(np.count_nonzero(batch.items))
    tally.folded += folded
    tally.erasures += len(batch.items) - folded
    tally.erased_later += batch.erased_later
    tally.ignored += batch.ignored
    for _, reason in batch.rejected:
        tally.reject(reason)


def _doubled(array: NDArray[Any]) -> NDArray[Any]:
    grown = np.empty((2 * len(array), *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


_record = partial(tuple.__new__, BatchRecord)
"""A record of its five values, without Python for each."""
