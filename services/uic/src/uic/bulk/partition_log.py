"""One partition's records as a fold of whole partitions reads them, and how far it has come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mimn.arrow import pa
from mimn.rows.records import HEADERS, HEADERS_SIZE
from mimn.state import Progress
from uic.core.advance import CaughtUp, advance
from uic.core.event import Reason
from uic.core.record_headers import write_headers
from uic.core.records import BatchRecord, Records

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
    erased: int = 0
    """Records that erase their user."""
    erased_later: int = 0
    """Events left out because their user was erased later in the log."""
    ignored: int = 0
    """Events with an action that the bundle names and does not fold."""
    rejected: dict[Reason, int] = field(default_factory=dict)
    """Records that are no events: dead letters of a live UIC."""

    @property
    def outcomes(self) -> dict[str, int]:
        """The records that are no dead letters, named as `uic_records_total` names them."""
        return {
            "folded": self.folded,
            "erased": self.erased,
            "erased_later": self.erased_later,
            "ignored": self.ignored,
        }

    def reject(self, reason: Reason) -> None:
        """Count a record that is no event."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1


class Course:
    """A partition on its way: its progress and its tally so far."""

    def __init__(self, log: PartitionLog) -> None:
        self.log = log
        self.progress = log.begin
        self.tally = Tally()
        self._gap_ends = list(log.gap_ends)

    @property
    def partition(self) -> int:
        """The partition's number."""
        return self.log.partition

    def enter(self, offset: int) -> None:
        """Move progress behind a gap that ends before the next record, which is at `offset`."""
        while self._gap_ends and self._gap_ends[0] <= offset:
            end = self._gap_ends.pop(0)
            self.progress = self.progress._replace(next_offset=end, gap_end=end, gaps=self.progress.gaps + 1)

    def absorb(self, some: pa.RecordBatch) -> None:
        """Progress after all records of an Arrow batch, of all users."""
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

    @property
    def end(self) -> Progress:
        """Progress after all records."""
        return self.progress._replace(next_offset=max(self.progress.next_offset, self.log.end))


def records_of(some: pa.RecordBatch, shard: tuple[int, int] = (0, 1)) -> Records:
    """The records of an Arrow batch, where they lie in its memory; of shard (i, n) only those whose key's CRC-32 is i
    modulo n."""
    which = np.arange(len(some))
    mine, shards = shard
    if shards > 1:
        which = np.flatnonzero([crc32(key or b"") % shards == mine for key in some.column("key").to_pylist()])
    names = [some.column(name).to_numpy() for name in ("offset", "timestamp")]
    columns = np.stack(
        [*names, *_places(some.column("key")), *_places(some.column("value")), *np.zeros((2, len(some)), np.int64)]
    )
    payloads: list[object] = [some]
    headers = some.column("headers")
    for at in np.flatnonzero(headers.is_valid().to_numpy(zero_copy_only=False)).tolist():
        written = write_headers([(h["name"], h["value"]) for h in headers[at].as_py()])
        payloads.append(written)
        columns[HEADERS, at], columns[HEADERS_SIZE, at] = np.frombuffer(written, np.uint8).ctypes.data, len(written)
    return Records(columns if shards == 1 else np.ascontiguousarray(columns[:, which]), payloads)


_NOTHING: Final = np.zeros(1, np.uint8)


def _places(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the values of a column of binary lie, 0 for null, and their sizes."""
    _, ends, data = column.buffers()
    n = len(column)
    ends = np.frombuffer(ends, np.int32, n + 1, 4 * column.offset).astype(np.int64)
    at = ends[:-1] + (data.address if data is not None and data.address else _NOTHING.ctypes.data)
    if column.null_count:
        at[~column.is_valid().to_numpy(zero_copy_only=False)] = 0
    return at, np.diff(ends)
