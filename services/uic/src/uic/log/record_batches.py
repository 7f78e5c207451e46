"""Record batches of Kafka's format v2 to records, several times faster than the client library's reader.

Every event passes through here, so it is one loop over the batch's bytes with the common case, a varint of one byte,
spelled out, and a record is a tuple of the five things that a fold needs. Checksums, decompression, transactions and
positions are the library's. The batch format: https://kafka.apache.org/documentation/#recordbatch
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from kafka import KafkaConsumer
from kafka.consumer.fetcher import Fetcher, IsolationLevel
from kafka.errors import CorruptRecordError


class LogRecord(NamedTuple):
    """One record of the log (`uic.core.event.Record`)."""

    offset: int
    timestamp: int
    """Milliseconds since 1970-01-01 UTC, -1 if the record has none."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python has no types
    """What the client fetched of one partition, handed out as `LogRecord`s."""

    def _unpack_records(self, tp: Any, records: Any, *_: object) -> Iterator[LogRecord]:
        batch = records.next_batch()
        last = None
        while batch is not None:
            last = batch
            if self.check_crcs and not batch.validate_crc():
                raise CorruptRecordError(f"batch of {tp} at offset {batch.base_offset} fails its checksum")
            if not self._to_skip(batch):
                for record in read_batch(batch):
                    self.next_fetch_offset = record.offset + 1
                    yield record
            elif batch.magic == 2:
                self.next_fetch_offset = batch.next_offset
            batch = records.next_batch()
        if last is not None and last.magic == 2:
            # Compaction may have removed the batch's last records: what comes next begins behind them.
            self.next_fetch_offset = last.next_offset
        self.drain()

    def _to_skip(self, batch: Any) -> bool:
        """Whether the batch holds no events: a transaction's marker, or part of one that was aborted."""
        if batch.magic != 2:
            return False
        self.leader_epoch = batch.leader_epoch
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)


def read_with(consumer: KafkaConsumer) -> None:
    """Make `consumer` hand out `LogRecord`s."""
    consumer._fetcher.PartitionRecords = PartitionRecords


def read_batch(batch: Any) -> list[LogRecord]:
    """The records of a batch that the client library has framed.

    Raises:
        CorruptRecordError: the bytes are not what the batch's header says.
    """
    if batch.magic != 2:
        return [LogRecord(r.offset, r.timestamp, r.key, r.value, r.headers) for r in batch]
    batch._maybe_uncompress()
    try:
        return _records(batch, bytes(batch._buffer), batch._pos)
    except (ValueError, IndexError) as error:
        raise CorruptRecordError(f"batch at offset {batch.base_offset} is malformed: {error!r}") from error


def _records(batch: Any, data: bytes, at: int) -> list[LogRecord]:
    base_offset, first_ms = batch.base_offset, batch.first_timestamp
    append_ms = batch.max_timestamp if batch.timestamp_type == batch.LOG_APPEND_TIME else None
    found = []
    for _ in range(batch.records_count):
        # Numbers are zigzag varints: of one byte below 128, which is 2n for n >= 0 and -2n - 1 below.
        number = data[at]
        at += 1
        if number > 127:
            number, at = _varint(data, at - 1)
        end = at + (number >> 1)
        at += 1  # attributes, of which none are defined
        number = data[at]
        at += 1
        if number > 127:
            number, at = _varint(data, at - 1)
        timestamp = first_ms + ((number >> 1) ^ -(number & 1)) if append_ms is None else append_ms
        number = data[at]
        at += 1
        if number > 127:
            number, at = _varint(data, at - 1)
        offset = base_offset + ((number >> 1) ^ -(number & 1))
        number = data[at]
        at += 1
        if number > 127:
            number, at = _varint(data, at - 1)
        key = value = None
        if not number & 1:
            key = data[at : at + (number >> 1)]
            at += number >> 1
        number = data[at]
        at += 1
        if number > 127:
            number, at = _varint(data, at - 1)
        if not number & 1:
            value = data[at : at + (number >> 1)]
            at += number >> 1
        headers: Sequence[tuple[str, bytes | None]] = ()
        if data[at]:
            headers, at = _headers(data, at)
        else:
            at += 1
        if at != end:
            raise ValueError(f"a record that should end at byte {end} ends at {at}")
        found.append(LogRecord(offset, timestamp, key, value, headers))
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes after the last record")
    return found


def _headers(data: bytes, at: int) -> tuple[list[tuple[str, bytes | None]], int]:
    count, at = _signed(data, at)
    if count < 0:
        raise ValueError(f"{count} headers")
    headers: list[tuple[str, bytes | None]] = []
    append = headers.append
    for _ in range(count):
        number = data[at]
        at += 1
        if number > 127:
            number, at = _varint(data, at - 1)
        if number & 1:
            raise ValueError(f"a header's name of {-(number >> 1) - 1} bytes")
        # The broker takes any bytes for a name: one that is no text must not stop what lies behind it. Nor may
        # thousands take long: `backslashreplace` would take half a microsecond for each byte that is none.
        start, at = at, at + (number >> 1)
        name = data[start:at].decode("utf-8", "replace")
        number = data[at]
        at += 1
        if number > 127:
            number, at = _varint(data, at - 1)
        if number & 1:
            append((name, None))
        else:
            start, at = at, at + (number >> 1)
            append((name, data[start:at]))
    return headers, at


def _signed(data: bytes, at: int) -> tuple[int, int]:
    number, at = _varint(data, at)
    return (number >> 1) ^ -(number & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned varint at `at`, and where it ends."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
