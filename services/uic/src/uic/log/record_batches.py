"""Record batches of Kafka's format v2 to records, several times faster than the client library's reader.

Every event passes through here. Compiled code finds where its parts lie (`mimn.rows.records.parse_batch`). Without it,
and for batches with anything unusual, this is one loop over the batch's bytes with the common case, a varint of one
byte, spelled out, and a record is a tuple of the five things that a fold needs. Checksums, transactions and positions
are the library's (`batch_hook`). The batch format: https://kafka.apache.org/documentation/#recordbatch
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mimn.rows.library import library
from mimn.rows.records import BatchHeader, parse_batch
from uic.core.event import Record
from uic.core.record_headers import Headers, read_headers, varint
from uic.core.records import BatchRecord, Records
from uic.log.compression import Undecodable, decompress
from uic.settings import MAX_BATCH_BYTES

LEAST, MOST = -(2**63), 2**63 - 1
"""What 64 bits hold."""


class UnreadableBatch(NamedTuple):
    """Handed out in place of the records of a batch that cannot be read; nothing of its partition follows it."""

    offset: int
    """Where reading stopped: of the batch's first record that was wanted."""
    next_offset: int
    """Where the next batch begins; `offset` if even that cannot be told."""
    reason: str


class Malformed(ValueError):
    """A batch's bytes are not what its header says, or cannot be decompressed."""


def read_records(batch: Any, payload: bytes, most_bytes: int = MAX_BATCH_BYTES) -> Sequence[Record]:
    """The records of a batch of format v2, in columns where they can be.

    Args:
        batch: the client library's view of the header.
        payload: what follows the header, compressed as the header says.
        most_bytes: the most that it may be when decompressed.

    Raises:
        Malformed: the message says why.
    """
    try:
        if batch.compression_type:
            payload = decompress(batch.compression_type, payload, most_bytes)
        header = _header(batch)
        built = library()
        columns = None if built is None else parse_batch(built, header, payload)
        if columns is not None:
            return Records(columns, (payload,))
        return _records(header, payload)
    except Undecodable as error:
        raise Malformed(str(error)) from error
    except (ValueError, IndexError) as error:
        raise Malformed(f"malformed records: {error!r}") from error


def _header(batch: Any) -> BatchHeader:
    append_ms = batch.max_timestamp if batch.timestamp_type == batch.LOG_APPEND_TIME else None
    return BatchHeader(batch.base_offset, batch.first_timestamp, append_ms, batch.records_count)


def _records(header: BatchHeader, data: bytes) -> list[BatchRecord]:
    base_offset, first_ms, append_ms, count = header
    found = []
    at = 0
    for _ in range(count):
        # Numbers are zigzag varints: of one byte below 128, which is 2n for n >= 0 and -2n - 1 below.
        number = data[at]
        at += 1
        if number > 127:
            number, at = varint(data, at - 1)
        end = at + (number >> 1)
        at += 1  # attributes, of which none are defined
        number = data[at]
        at += 1
        if number > 127:
            number, at = varint(data, at - 1)
        timestamp = first_ms + ((number >> 1) ^ -(number & 1)) if append_ms is None else append_ms
        if not LEAST <= timestamp <= MOST:  # brokers and Java's clients add in 64 bits, where such a sum is a time, too
            timestamp = (timestamp - LEAST) % 2**64 + LEAST
        number = data[at]
        at += 1
        if number > 127:
            number, at = varint(data, at - 1)
        offset = base_offset + ((number >> 1) ^ -(number & 1))
        if not 0 <= offset <= MOST:
            raise ValueError(f"{offset} is no offset")
        number = data[at]
        at += 1
        if number > 127:
            number, at = varint(data, at - 1)
        key = value = None
        if not number & 1:
            key = data[at : at + (number >> 1)]
            at += number >> 1
        number = data[at]
        at += 1
        if number > 127:
            number, at = varint(data, at - 1)
        if not number & 1:
            value = data[at : at + (number >> 1)]
            at += number >> 1
        headers: Headers = ()
        if data[at]:
            headers, at = read_headers(data, at)
        else:
            at += 1
        if at != end:
            raise ValueError(f"a record that should end at byte {end} ends at {at}")
        found.append(BatchRecord(offset, timestamp, key, value, headers))
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes after the last record")
    return found
