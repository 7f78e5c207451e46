"""UIC's reader of record batches reads what the client library reads, in every codec, and names what it cannot."""

from __future__ import annotations

import contextlib
import gzip
import struct
from collections.abc import Callable
from typing import Any

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.consumer.fetcher import Fetcher, IsolationLevel
from kafka.errors import CorruptRecordError
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder
from kafka.record.util import calc_crc32c
from kafka.structs import TopicPartition

from mimn.rows.library import library
from mimn.rows.records import BatchHeader, parse_batch
from support import skips
from uic.core.record_headers import zigzag
from uic.core.records import Records
from uic.log.batch_hook import (
    FetchedBatch,
    PartitionBatches,
    PartitionRecords,
    read_batches_with_uic,
)
from uic.log.compression import GZIP, LZ4, SNAPPY, ZSTD, Undecodable, decompress
from uic.log.record_batches import UnreadableBatch
from uic.log.record_batches import _records as by_python

AT = TopicPartition("events", 3)
Told = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
CRC_AT, ATTRIBUTES_AT, LAST_DELTA_AT, PRODUCER_AT, COUNT_AT = 17, 21, 23, 43, 57
maybe = st.none() | st.binary(max_size=300)
told = st.lists(
    st.tuples(st.integers(0, 2**42), maybe, maybe, st.lists(st.tuples(st.text(max_size=9), maybe), max_size=3)),
    min_size=1,
    max_size=20,
)


def batch(records: list[Told], *, base: int = 0, compression: int = 0, **producer: Any) -> bytearray:
    """The bytes of one batch."""
    builder = MemoryRecordsBuilder(2, compression, 1 << 24, **producer)
    for timestamp, key, value, headers in records:
        builder.append(timestamp, key, value, headers)
    builder.close()
    return bytearray(struct.pack(">q", base) + builder.buffer()[8:])  # as a broker does; the checksum begins later


def sealed(data: bytearray, at: int, packed: bytes) -> bytearray:
    """`data` with some bytes replaced, and a checksum that fits."""
    data[at : at + len(packed)] = packed
    data[CRC_AT : CRC_AT + 4] = struct.pack(">I", calc_crc32c(memoryview(data)[ATTRIBUTES_AT:]))
    return data


def marker(base: int, *, abort: bool) -> bytearray:
    """The end of producer 7's transaction."""
    data = batch([(5, struct.pack(">hh", 0, int(not abort)), b"\0" * 6, [])], base=base, **TRANSACTION)
    return sealed(data, ATTRIBUTES_AT, struct.pack(">h", 0x30))


BEFORE_ALL = -(2**63)
"""Nothing is left out as read before, however low an offset is."""
TRANSACTION = {"transactional": True, "producer_id": 7, "producer_epoch": 0, "base_sequence": 0}


def read(
    reader: Any, data: bytes | bytearray, start: int = 0, piece: int = 1000, **options: Any
) -> tuple[list[Any], list[int]]:
    """All records as plain tuples, and where the client would read on after each piece: the same record by record and
    batch by batch.

    Raises:
        CorruptRecordError: a batch is unreadable; UIC's reader hands that out as a value, the library's raises.
    """
    fetched = reader(start, AT, MemoryRecords(bytes(data)), **options)
    records, positions = [], []
    while fetched:
        for found in fetched.take(piece):
            if isinstance(found, UnreadableBatch):
                raise CorruptRecordError(found.reason)
            for r in found.records if isinstance(found, FetchedBatch) else [found]:
                records.append((r.offset, r.timestamp, r.key, r.value, list(r.headers)))
        positions.append(fetched.next_fetch_offset)
    if reader is PartitionRecords:
        batches, ends = read(PartitionBatches, data, start, piece, **options)
        assert batches == records
        assert ends[-1:] == positions[-1:]
    return records, positions


def java_snappy(data: bytes) -> bytes:
    """As Java's producers write it: blocks behind a header."""
    blocks = [bytes(cramjam.snappy.compress_raw(data[at : at + 100])) for at in range(0, len(data), 100)]
    return b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1) + b"".join(struct.pack(">i", len(b)) + b for b in blocks)


COMPRESSED: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "gzip": (GZIP, gzip.compress),
    "snappy": (SNAPPY, lambda data: bytes(cramjam.snappy.compress_raw(data))),
    "snappy of Java": (SNAPPY, java_snappy),
    "lz4": (LZ4, lambda data: bytes(cramjam.lz4.compress(data))),
    "zstd": (ZSTD, lambda data: bytes(cramjam.zstd.compress(data))),
}
HEADER_BYTES = 61


def recoded(data: bytearray, codec: int, payload: bytes) -> bytearray:
    """A batch with another payload: its length, attributes and checksum fit."""
    changed = bytearray(data[:HEADER_BYTES]) + payload
    changed[8:12] = struct.pack(">i", len(changed) - 12)
    return sealed(changed, ATTRIBUTES_AT, struct.pack(">h", codec))


@given(first=told, second=told, gap=st.integers(0, 5), piece=st.integers(1, 7), gzip=st.booleans())
def test_it_reads_what_the_library_reads(
    first: list[Told], second: list[Told], gap: int, piece: int, gzip: bool
) -> None:
    data = batch(first, base=40, compression=int(gzip)) + batch(second, base=40 + len(first) + gap)
    for start in (40, 41, 40 + len(first)):
        assert read(PartitionRecords, data, start, piece) == read(Fetcher.PartitionRecords, data, start, piece)
    assert len(read(PartitionRecords, data, 40)[0]) == len(first) + len(second)


def test_the_time_of_appending_counts_where_the_topic_says_so() -> None:
    data = sealed(batch([(100, b"k", b"v", []), (200, b"k", b"v", [])]), ATTRIBUTES_AT, struct.pack(">h", 8))
    assert [r[1] for r in read(PartitionRecords, data)[0]] == [200, 200]
    assert read(PartitionRecords, data) == read(Fetcher.PartitionRecords, data)


def test_a_time_that_64_bits_hold_only_as_the_sum_of_base_and_delta_is_read_as_java_reads_it() -> None:
    times = [2**63 - 1, -(2**63) + 5, 1_700_000_000_000, 0]
    data = b"".join(
        zigzag(len(inner)) + inner
        for inner in (b"\0" + zigzag(at + 2**63) + zigzag(i) + b"\1\1\0" for i, at in enumerate(times))
    )
    found = by_python(BatchHeader(7, -(2**63), None, len(times)), data)
    assert [(r.offset, r.timestamp) for r in found] == [(7 + i, at) for i, at in enumerate(times)]
    assert Records.of(found).timestamps.tolist() == times, "columns of 64 bits hold them"


@pytest.mark.parametrize("base", [2**63 - 1, -1])
def test_an_offset_beyond_64_bits_or_below_zero_is_malformed(base: int) -> None:
    data = b"".join(zigzag(len(r)) + r for r in (b"\0\0" + zigzag(i) + b"\1\1\0" for i in range(2)))
    with pytest.raises(ValueError, match="no offset"):
        by_python(BatchHeader(base, 0, None, 2), data)


def test_reading_goes_on_behind_records_that_compaction_removed() -> None:
    data = sealed(batch([(1, b"k", b"v", [])], base=10), LAST_DELTA_AT, struct.pack(">i", 4))
    assert read(PartitionRecords, data, 10)[1][-1] == 15


@pytest.mark.parametrize("abort", [True, False])
def test_an_aborted_transaction_is_not_read_and_a_committed_one_is(abort: bool) -> None:
    inside = batch([(1, b"in", b"v", []), (2, b"in", b"v", [])], **TRANSACTION)
    data = inside + marker(2, abort=abort) + batch([(3, b"after", b"v", [])], base=3, **TRANSACTION)
    options = {"isolation_level": IsolationLevel.READ_COMMITTED, "aborted_transactions": [Aborted()] if abort else []}
    records, positions = read(PartitionRecords, data, **options)
    assert [r[2] for r in records] == ([b"after"] if abort else [b"in", b"in", b"after"])
    assert positions[-1] == 4
    assert (records, positions) == read(Fetcher.PartitionRecords, data, **options)


class Aborted:
    """Producer 7's transaction, as a broker tells of it."""

    producer_id, first_offset = 7, 0


def of_producer(producer_id: int) -> dict[str, Any]:
    return TRANSACTION | {"producer_id": producer_id}


@pytest.mark.parametrize(
    ("at", "empty"),
    [
        (0, [FetchedBatch(0, (), 2), FetchedBatch(2, (), 3)]),  # aborted, and the marker
        (1, [FetchedBatch(1, (), 2), FetchedBatch(2, (), 3)]),
        (2, [FetchedBatch(2, (), 3)]),
        (3, []),
    ],
)
def test_what_lies_where_reading_begins_is_told_if_it_is_no_event(at: int, empty: list[FetchedBatch]) -> None:
    inside = batch([(1, b"in", b"v", []), (2, b"in", b"v", [])], **TRANSACTION)
    later = batch([(3, b"after", b"v", [])], base=3) + batch([(3, b"after", b"v", [])], base=5)
    data = (inside if at < 2 else b"") + (marker(2, abort=True) if at < 3 else b"") + later
    fetched: Any = PartitionBatches(
        at,
        AT,
        MemoryRecords(bytes(data)),
        isolation_level=IsolationLevel.READ_COMMITTED,
        aborted_transactions=[Aborted()],
    )
    found = fetched.take(100)
    assert [one for one in found if not one.records] == empty
    assert [one.offset for one in found if one.records] == [3, 5]


@pytest.mark.parametrize("begins", [2, 3, 4])
def test_what_compaction_removed_where_reading_begins_is_no_marker(begins: int) -> None:
    data = sealed(batch([(1, b"k", b"v", [])], base=begins), LAST_DELTA_AT, struct.pack(">i", 4)) + marker(
        9, abort=True
    )
    fetched: Any = PartitionBatches(3, AT, MemoryRecords(bytes(data)), isolation_level=IsolationLevel.READ_COMMITTED)
    found = fetched.take(100)
    assert all(one.records or one.offset != 3 for one in found)
    assert found[-1].next_offset == 10


@given(records=told, at=st.integers(LAST_DELTA_AT, 5000), byte=st.integers(0, 255))
def test_a_changed_byte_is_noticed(records: list[Told], at: int, byte: int) -> None:
    data = batch(records)
    at = at % len(data)
    if at < ATTRIBUTES_AT or data[at] == byte:
        return
    data[at] = byte
    with pytest.raises(CorruptRecordError):
        read(PartitionRecords, data)


@given(records=told, at=st.integers(61, 5000), byte=st.integers(0, 255))
def test_malformed_records_under_a_fitting_checksum_are_refused_or_read_as_the_library_reads_them(
    records: list[Told], at: int, byte: int
) -> None:
    data = batch(records)
    data = sealed(data, 61 + at % (len(data) - 61), bytes([byte]))
    try:
        found = read(PartitionRecords, data, BEFORE_ALL)
    except CorruptRecordError:  # and no other error
        return
    assert len(found[0]) == len(records)
    if byte < 128:  # else it may be a record's attributes: one byte, which the library takes for a number of several
        try:
            theirs = read(Fetcher.PartitionRecords, data, BEFORE_ALL)
        except CorruptRecordError:  # the name of a header that is no text, which ends the library's reading for good
            return
        assert found == theirs


def test_a_header_whose_name_is_no_text_stops_nothing() -> None:
    data = batch([(1, b"k", b"v", [("@@", b"x"), ("n", None)]), (2, b"k", b"w", [])])
    records, _ = read(PartitionRecords, sealed(data, data.index(b"@@"), b"\xff\xfe"))
    assert [(key, value) for _, _, key, value, _ in records] == [(b"k", b"v"), (b"k", b"w")]
    assert records[0][4] == [("\N{REPLACEMENT CHARACTER}" * 2, b"x"), ("n", None)]


@pytest.mark.parametrize("count", [0, 2, -1])
def test_a_count_that_is_not_the_number_of_records_is_refused(count: int) -> None:
    data = sealed(batch([(1, b"k", b"v", [])]), COUNT_AT, struct.pack(">i", count))
    with pytest.raises(CorruptRecordError):
        read(PartitionRecords, data)


@given(records=told, at=st.integers(0, 5000), byte=st.integers(0, 255))
def test_compiled_code_reads_a_payload_as_python_does_or_leaves_it(records: list[Told], at: int, byte: int) -> None:
    built = library()
    if built is None:
        pytest.skip(skips.NO_COMPILED_STEP)
    payload = batch(records)[HEADER_BYTES:]
    payload[at % len(payload)] = byte
    header = BatchHeader(7, 1000, None, len(records))
    columns = parse_batch(built, header, bytes(payload))
    try:
        told = by_python(header, bytes(payload))
    except (ValueError, IndexError):
        assert columns is None
        return
    if columns is not None:
        kept = bytes(payload)
        again = parse_batch(built, header, kept)
        assert again is not None
        assert list(Records(again, (kept,))) == [record._replace(headers=record.headers or ()) for record in told]


# Compression


@pytest.mark.parametrize("name", COMPRESSED)
@given(records=told)
def test_every_codec_of_kafka_is_read(name: str, records: list[Told]) -> None:
    codec, compress = COMPRESSED[name]
    plain = batch(records, base=7)
    assert read(PartitionRecords, recoded(plain, codec, compress(bytes(plain[HEADER_BYTES:]))), 7) == read(
        PartitionRecords, plain, 7
    )


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_batch_may_decompress_to_a_bound_and_no_further(name: str) -> None:
    codec, compress = COMPRESSED[name]
    data = compress(bytes(100_000))
    assert decompress(codec, data, limit=100_000) == bytes(100_000)
    with pytest.raises(Undecodable):
        decompress(codec, data, limit=99_999)


def test_the_bound_of_a_client_is_that_of_its_batches_and_is_named() -> None:
    codec, compress = COMPRESSED["zstd"]
    plain = batch([(5, b"k", bytes(100_000), [])])
    data = recoded(plain, codec, compress(bytes(plain[HEADER_BYTES:])))

    class Client:
        def __init__(self) -> None:
            self._fetcher = Fetcher.__new__(Fetcher)

    def handed_out_within(most_bytes: int) -> Any:
        client: Any = Client()
        read_batches_with_uic(client, PartitionBatches, most_bytes=most_bytes)
        [found] = client._fetcher.PartitionRecords(0, AT, MemoryRecords(bytes(data))).take(10)
        return found

    assert isinstance(handed_out_within(200_000), FetchedBatch)
    refused = handed_out_within(99_999)
    assert isinstance(refused, UnreadableBatch)
    assert "UIC_KAFKA__MAX_BATCH_BYTES" in refused.reason


@pytest.mark.parametrize("name", COMPRESSED)
@given(data=st.binary(max_size=400), noise=st.binary(max_size=40), at=st.integers(0, 1000))
def test_damaged_compression_is_named_and_raises_nothing_else(name: str, data: bytes, noise: bytes, at: int) -> None:
    codec, compress = COMPRESSED[name]
    damaged = bytearray(compress(data))
    at %= len(damaged)
    damaged[at : at + len(noise)] = noise
    with contextlib.suppress(Undecodable):
        decompress(codec, bytes(damaged), limit=1 << 16)


# What cannot be read


def handed_out(data: bytes | bytearray, start: int = 0) -> list[Any]:
    """All that the client would hand to UIC: the same record by record and batch by batch."""
    found: dict[Any, list[Any]] = {PartitionRecords: [], PartitionBatches: []}
    for reader, records in found.items():
        fetched: Any = reader(start, AT, MemoryRecords(bytes(data)))
        while fetched:
            for each in fetched.take(1000):
                records.extend(each.records if isinstance(each, FetchedBatch) else [each])
    assert found[PartitionBatches] == found[PartitionRecords]
    return found[PartitionRecords]


def test_an_unknown_codec_is_named_behind_what_could_be_read_and_nothing_follows() -> None:
    first, last = batch([(1, b"k", b"v", [])], base=10), batch([(1, b"k", b"w", [])], base=13)
    bad = recoded(batch([(1, b"k", b"v", []), (2, b"k", b"v", [])], base=11), 5, b"whatever")
    *records, unreadable = handed_out(first + bad + last, 10)
    assert [r.offset for r in records] == [10]
    assert unreadable[:2] == (11, 13)
    assert "codec 5" in unreadable.reason


@pytest.mark.parametrize("begins", [5, 6])
def test_a_batch_that_fails_its_checksum_is_named_with_its_place(begins: int) -> None:
    data = batch([(1, b"k", b"v", []), (2, b"k", b"v", [])], base=5)
    data[-1] ^= 1
    (unreadable,) = handed_out(data, begins)
    assert unreadable[:2] == (begins, 7)
    assert "checksum" in unreadable.reason
