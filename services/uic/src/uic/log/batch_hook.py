"""The one hook into kafka-python's private parts: whole record batches go to our decoder.

Public `poll` makes an object of each record, which costs as much CPU as decoding and folding the event. So this module
replaces the class that reads a fetched batch. It is written for kafka-python 3.0.12, which is why the version is pinned
exactly: read this module again before another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from kafka import KafkaConsumer
from kafka.consumer.fetcher import Fetcher, IsolationLevel
from kafka.errors import CorruptRecordError, UnsupportedCodecError

from uic.core.event import Record
from uic.core.records import BatchRecord, Records
from uic.log.record_batches import Malformed, UnreadableBatch, read_records
from uic.settings import MAX_BATCH_BYTES


class PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python has no types
    """What the client fetched of one partition, record by record, or an `UnreadableBatch` where a batch is unreadable.

    The library raises instead, from a poll that reads many partitions, and raises again at every later poll: one bad
    batch would stop them all.
    """

    most_bytes: ClassVar[int] = MAX_BATCH_BYTES
    """The most that a batch may be when decompressed."""

    def _unpack_records(self, tp: Any, records: Any, *_: object) -> Iterator[Any]:
        batch = last = None
        try:
            while (batch := records.next_batch()) is not None:
                last = batch
                if self.check_crcs and not batch.validate_crc():
                    raise Malformed("the checksum does not match")
                if not self._to_skip(batch):
                    yield from self._handed_out(read_batch(batch, self.most_bytes), batch)
                elif batch.magic == 2:
                    self.next_fetch_offset = batch.next_offset
                    yield from self._left_out(batch)
        except (Malformed, CorruptRecordError, UnsupportedCodecError) as error:
            at = self.next_fetch_offset
            behind = batch.next_offset if batch is not None and batch.magic == 2 else at
            yield UnreadableBatch(at, max(at, behind), str(error))
            self.drain()
            return
        if last is not None and last.magic == 2:
            # Compaction may have removed the batch's last records: what comes next begins behind them.
            self.next_fetch_offset = last.next_offset
        self.drain()

    def _handed_out(self, records: Sequence[Record], batch: Any) -> Iterator[Any]:
        """What the client gets of a batch, whose records these are."""
        for record in records:
            self.next_fetch_offset = record.offset + 1
            yield record

    def _left_out(self, batch: Any) -> Iterator[Any]:
        """What the client gets in place of a batch without events."""
        yield from ()

    def _to_skip(self, batch: Any) -> bool:
        """Whether the batch holds no events: a transaction's marker, or part of an aborted transaction."""
        if batch.magic != 2:
            return False
        self.leader_epoch = batch.leader_epoch  # by which the brokers notice that the log was truncated below
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)


class FetchedBatch(NamedTuple):
    """Records that a broker sent together; none of what is no event: a transaction's marker, or part of an aborted
    transaction."""

    offset: int
    """Of the first, or of what is no event."""
    records: Sequence[Record]
    next_offset: int
    """Where reading goes on."""


class PartitionBatches(PartitionRecords):
    """The same batch by batch, as `FetchedBatch`es: nothing is done for a single record."""

    def _handed_out(self, records: Sequence[Record], batch: Any) -> Iterator[FetchedBatch]:
        offsets = records.offsets if isinstance(records, Records) else np.array([record.offset for record in records])
        wanted = (offsets >= self.fetch_offset).nonzero()[0]  # reading may begin in the middle of a batch
        # Compaction may have removed the batch's last records.
        self.next_fetch_offset = batch.next_offset if batch.magic == 2 else int(offsets[-1]) + 1
        if len(wanted):
            yield FetchedBatch(int(offsets[wanted[0]]), records[int(wanted[0]) :], self.next_fetch_offset)
        else:
            yield FetchedBatch(self.next_fetch_offset, (), self.next_fetch_offset)

    def _left_out(self, batch: Any) -> Iterator[FetchedBatch]:
        offset = min(max(self.fetch_offset, batch.base_offset), batch.last_offset)
        yield FetchedBatch(offset, (), batch.next_offset)

    def take(self, n: int) -> list[FetchedBatch | UnreadableBatch]:
        """Whole batches with `n` records or more, or all that are left."""
        self._maybe_raise_next_inline_exception()
        found: list[FetchedBatch | UnreadableBatch] = []
        try:
            for batch in self.record_iterator:
                found.append(batch)
                n -= len(batch.records) if isinstance(batch, FetchedBatch) else 0
                if n <= 0:
                    break
        except Exception as error:
            if not found:
                raise
            self._next_inline_exception = error
        return found


def read_batch(batch: Any, most_bytes: int = MAX_BATCH_BYTES) -> Sequence[Record]:
    """The records of a batch that the client library has framed, of at most `most_bytes` when decompressed.

    Raises:
        Malformed, CorruptRecordError, UnsupportedCodecError: the batch cannot be read.
    """
    if batch.magic != 2:
        return [BatchRecord(r.offset, r.timestamp, r.key, r.value, r.headers) for r in batch]
    return read_records(batch, bytes(memoryview(batch._buffer)[batch._pos :]), most_bytes)


def read_batches_with_uic(
    consumer: KafkaConsumer,
    reader: type[PartitionRecords] = PartitionRecords,
    *,
    most_bytes: int = MAX_BATCH_BYTES,
) -> None:
    """Make `consumer` hand out what `reader` does, of batches of at most `most_bytes` when decompressed."""
    consumer._fetcher.PartitionRecords = type(reader.__name__, (reader,), {"most_bytes": most_bytes})
