"""The fold of whole partitions: from all records of a log, as Arrow, to every user's state and the next progress.

Pure: no I/O and no clock. The arithmetic is UIC's own: `ordering.take` and `decode` make batches, `fold.Round` folds
them in waves, `advance` makes the progress record. What differs is the size of a batch. A service must commit often,
so its waves are narrow; here a batch is a large piece of the log of several partitions, and a wave holds all of their
users. States are a function of (log, lineage, offset), so the bytes are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Protocol
from zlib import crc32

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mimn.state import HEADERS, Progress, encode_states
from uic.core.advance import CaughtUp, advance
from uic.core.cache import NOT_CACHED
from uic.core.event import Reason
from uic.core.fold import ERASED_ROW, Part, Round
from uic.core.ordering import Batch, Bounds, decode, take
from uic.fold.rounds import Model
from uic.log.record_batches import BatchRecord

RECORDS: Final = pa.schema(
    [
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", pa.list_(pa.struct([pa.field("name", pa.string()), pa.field("value", pa.binary())]))),
    ]
)
"""Raw records of the log: what Kafka has of each, nothing decoded. `timestamp`: milliseconds since 1970, -1 for none;
`headers` is null for a record without headers."""
UNBOUNDED: Final = Bounds(1 << 31, 1 << 31, 1 << 31)
"""A batch is what one Arrow batch holds: nothing is written before the end."""
FIRST_CAPACITY: Final = 1024
ENCODED_AT_ONCE: Final = 4096


@dataclass(frozen=True, slots=True)
class PartitionLog:
    """One partition's records, and what its fold begins from."""

    partition: int
    begin: Progress
    """Of a new lineage: nothing folded yet. `next_offset` and `base` are where the records begin."""
    records: Iterable[pa.RecordBatch]
    """Of schema `RECORDS`, in log order; none spans a gap."""
    erased: Mapping[bytes, int] = field(default_factory=dict)
    """Key → offset up to which the user's events are left out."""
    gap_ends: Sequence[int] = ()
    """Where ranges of offsets end that are missing from `records`, rising: states that go on behind one are
    `partial`."""
    end: int = 0
    """Where the log goes on: above the last record's offset + 1 when markers of transactions follow it."""


@dataclass(slots=True)
class Tally:
    """What became of a partition's records."""

    records: int = 0
    folded: int = 0
    erasures: int = 0
    erased_later: int = 0
    """Events left out because their user was erased later in the log."""
    ignored: int = 0
    """Events with an action that the bundle names and does not fold."""
    rejected: dict[Reason, int] = field(default_factory=dict)
    """Records that are no events: dead letters of a live UIC."""

    def add(self, batch: Batch) -> None:
        """Count a folded batch."""
        folded = int(np.count_nonzero(batch.items))
        self.folded += folded
        self.erasures += len(batch.items) - folded
        self.erased_later += batch.erased_later
        self.ignored += batch.ignored
        for _, reason in batch.rejected:
            self.rejected[reason] = self.rejected.get(reason, 0) + 1


class Rows(Protocol):
    """States by row."""

    @property
    def headers(self) -> NDArray[np.void]:
        """[n] of dtype `HEADERS`."""

    @property
    def tensors(self) -> NDArray[np.float32]:
        """[n, F]"""


@dataclass(frozen=True, slots=True)
class FoldedPartition:
    """Every user's state after a partition's records."""

    partition: int
    progress: Progress
    users: list[bytes]
    """Record keys."""
    rows: NDArray[np.int64]
    """By user: row in `states`, which other partitions share."""
    states: Rows
    tally: Tally

    @property
    def headers(self) -> NDArray[np.void]:
        """By user, of dtype `HEADERS`; a copy."""
        return self.states.headers[self.rows]

    @property
    def tensors(self) -> NDArray[np.float32]:
        """By user; a copy. [n, F]"""
        return self.states.tensors[self.rows]

    def values(self, model: Model) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Users and their states as they are stored, some thousand at a time."""
        headers, tensors = self.states.headers, self.states.tensors
        for at in range(0, len(self.users), ENCODED_AT_ONCE):
            rows = self.rows[at : at + ENCODED_AT_ONCE]
            yield (
                self.users[at : at + ENCODED_AT_ONCE],
                encode_states(headers[rows], tensors[rows], model.fingerprint, model.layout),
            )


def fold_partition(log: PartitionLog, model: Model, *, shard: tuple[int, int] = (0, 1)) -> FoldedPartition:
    """`fold_partitions` of one partition."""
    return fold_partitions([log], model, shard=shard)[0]


def fold_partitions(
    logs: Sequence[PartitionLog], model: Model, *, shard: tuple[int, int] = (0, 1)
) -> list[FoldedPartition]:
    """The states that UIC would have stored after folding these partitions from `begin`, and its progress.

    Several partitions are folded side by side, one Arrow batch of each at a time: the most active user of a partition
    makes waves of one row at the end of each batch, and partitions share those waves.

    Args:
        logs: distinct partitions; they are read once.
        model: what folds.
        shard: (i, n): only the users whose key's CRC-32 is i modulo n, to bound the memory for states by 1/n. Progress
            is the same for all shards.

    Raises:
        OutOfOrder: offsets do not rise, or begin below `begin`.
    """
    states = _States(len(model.initial_state))
    tables = [_Table(log, states, shard) for log in logs]
    streams = [iter(log.records) for log in logs]
    while True:
        some = [(table, next(stream, None)) for table, stream in zip(tables, streams, strict=True)]
        read = [(table, records) for table, records in some if records is not None]
        if not read:
            return [table.result() for table in tables]
        _fold([(table, records) for table, records in read if len(records)], states, model)


class _States:
    """All states of a fold by row: what `Round` reads as its cache. Grows, and never evicts."""

    def __init__(self, floats: int) -> None:
        self.headers: NDArray[np.void] = np.empty(FIRST_CAPACITY, HEADERS)
        self.tensors: NDArray[np.float32] = np.empty((FIRST_CAPACITY, floats), np.float32)
        self.free: list[int] = []
        self._fresh = 0

    def take_row(self) -> int:
        """A free row."""
        if self.free:
            return self.free.pop()
        if self._fresh == len(self.headers):
            self.headers, self.tensors = _doubled(self.headers), _doubled(self.tensors)
        self._fresh += 1
        return self._fresh - 1


def _doubled(array: NDArray[Any]) -> NDArray[Any]:
    grown = np.empty((2 * len(array), *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


class _Table:
    """One partition on its way: which user is in which row, and the progress so far."""

    def __init__(self, log: PartitionLog, states: _States, shard: tuple[int, int]) -> None:
        self.log = log
        self._states = states
        self.progress = log.begin
        self.rows: dict[bytes, int] = {}
        self.tally = Tally()
        self._gap_ends = list(log.gap_ends)
        self._shard = shard

    def records_of(self, some: pa.RecordBatch) -> list[BatchRecord]:
        """The records of this shard, and progress moved behind a gap that ends before them."""
        offsets = some.column("offset").to_pylist()
        while offsets and self._gap_ends and self._gap_ends[0] <= offsets[0]:
            end = self._gap_ends.pop(0)
            self.progress = replace(self.progress, next_offset=end, gap_end=end, gaps=self.progress.gaps + 1)
        records = list(
            map(
                _record,
                zip(
                    offsets,
                    some.column("timestamp").to_pylist(),
                    some.column("key").to_pylist(),
                    some.column("value").to_pylist(),
                    _headers(some.column("headers")),
                    strict=True,
                ),
            )
        )
        mine, shards = self._shard
        return records if shards == 1 else [r for r in records if crc32(r.key or b"") % shards == mine]

    def absorb(self, some: pa.RecordBatch) -> None:
        """Progress after all records of an Arrow batch, those of other shards included."""
        [last] = some.slice(len(some) - 1).to_pylist()
        record = BatchRecord(last["offset"], last["timestamp"], last["key"], last["value"], ())
        self.progress = advance(
            self.progress,
            writer=self.progress.writer,
            last=record,
            position=None,
            caught_up=CaughtUp(record.offset + 1, max(record.timestamp, 0)),
        )
        self.tally.records += len(some)

    def keep(self, part: Part, work: Round) -> None:
        """Take over the results of a round."""
        states, to, of = self._states, [], []
        for key, row in zip(part.batch.keys, part.row_of.tolist(), strict=True):
            if row == ERASED_ROW:
                if (gone := self.rows.pop(key, None)) is not None:
                    states.free.append(gone)
            elif row >= 0:
                at = self.rows.get(key)
                if at is None:
                    at = self.rows[key] = states.take_row()
                to.append(at)
                of.append(row)
        states.headers[to] = work.headers[of]
        states.tensors[to] = work.tensors[work.place[of]]
        self.tally.add(part.batch)

    def result(self) -> FoldedPartition:
        """What all records came to."""
        progress = replace(self.progress, next_offset=max(self.progress.next_offset, self.log.end))
        rows = np.fromiter(self.rows.values(), np.int64, len(self.rows))
        return FoldedPartition(self.log.partition, progress, list(self.rows), rows, self._states, self.tally)


_record = partial(tuple.__new__, BatchRecord)
"""A record of its five values, without Python for each."""


def _fold(read: Sequence[tuple[_Table, pa.RecordBatch]], states: _States, model: Model) -> None:
    """Fold one Arrow batch of each of several partitions into their tables."""
    fronts = [
        take(
            table.records_of(some),
            floor=table.progress.next_offset,
            partition=table.log.partition,
            partitions=table.progress.partitions,
            known=table.rows,
            erased=table.log.erased,
            bounds=UNBOUNDED,
        )
        for table, some in read
    ]
    batches = decode(fronts, model.actions) if fronts else []
    while batches:
        parts = [
            Part(batch, table.progress, np.array([table.rows.get(key, NOT_CACHED) for key in batch.keys], np.intp))
            for (table, _), batch in zip(read, batches, strict=True)
        ]
        work = Round(model.initial_state, states)
        work.plan(parts)
        work.run(model.step, model.vectors, model.forget, model.counting, model.ledger)
        if any(part.not_finite for part in parts):
            batches = [
                part.batch.without(part.not_finite, Reason.NON_FINITE) if part.not_finite else part.batch
                for part in parts
            ]
            continue
        for (table, some), part in zip(read, parts, strict=True):
            table.keep(part, work)
            table.absorb(some)
        return


def _headers(column: pa.Array) -> Sequence[Sequence[tuple[str, bytes | None]]]:
    """By record, name and value of each header."""
    if column.null_count == len(column):
        return [()] * len(column)
    return [() if some is None else [(h["name"], h["value"]) for h in some] for some in column.to_pylist()]
