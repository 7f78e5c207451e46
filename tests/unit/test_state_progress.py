"""Progress record, keys, partitioner and hashes: inverses, named errors, and pinned bytes."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafka_python_murmur2

from mimn.state import (
    EMPTY_DIGEST,
    REMOVAL,
    BeingRemoved,
    CorruptProgress,
    Keys,
    Progress,
    decode_progress,
    encode_progress,
    extend_digest,
    murmur2,
    namespace,
    partition_of,
    user_hash,
    witness,
)
from mimn.state.progress import PROGRESS_BYTES

GOLDEN = Path(__file__).parents[1] / "golden"
PROGRESS = Progress(
    partitions=64,
    next_offset=1_000_000_008,
    last_offset=1_000_000_007,
    witness=0xFEDCBA9876543210,
    topic_id=bytes(range(16)),
    lineage=0x0123456789ABCDEF,
    era=2,
    writer=0x1122334455667788,
    base=10,
    gap_end=500,
    gaps=1,
    as_of_ms=1_320_000_000_000,
    misrouted_to=900,
)
U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
I64 = st.integers(-1, 2**63 - 1)


@given(
    st.builds(
        Progress,
        partitions=U32,
        next_offset=I64,
        last_offset=I64,
        witness=U64,
        topic_id=st.binary(min_size=16, max_size=16),
        lineage=U64,
        era=U32,
        writer=U64,
        base=I64,
        gap_end=I64,
        gaps=U32,
        as_of_ms=I64,
        misrouted_to=I64,
    )
)
def test_decode_inverts_encode(progress: Progress) -> None:
    assert decode_progress(encode_progress(progress)) == progress


@given(st.integers(0, PROGRESS_BYTES - 1), st.integers(1, 255))
def test_any_flipped_byte_is_noticed(at: int, flip: int) -> None:
    record = bytearray(encode_progress(PROGRESS))
    record[at] ^= flip
    with pytest.raises(CorruptProgress):
        decode_progress(bytes(record))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_the_named_error(record: bytes) -> None:
    with pytest.raises(CorruptProgress):
        decode_progress(record)


def test_the_reserved_bytes_are_zero_and_their_content_is_ignored() -> None:
    """Earlier versions wrote a number there."""
    written = encode_progress(PROGRESS)
    assert written[6:8] == bytes(2)
    body = written[:6] + b"\x08\x00" + written[8:-4]
    assert decode_progress(body + crc32(body).to_bytes(4, "little")) == PROGRESS


def test_a_removals_mark_is_told_from_a_damaged_record() -> None:
    with pytest.raises(BeingRemoved, match="being removed"):
        decode_progress(REMOVAL + b"0123456789abcdef")


def test_stored_bytes_are_pinned() -> None:
    golden = (GOLDEN / "progress.bin").read_bytes()
    assert encode_progress(PROGRESS).hex() == golden.hex()
    assert decode_progress(golden) == PROGRESS


def test_a_record_of_version_1_is_read_as_one_in_which_no_misrouted_record_was_accepted() -> None:
    old = (GOLDEN / "progress_1.bin").read_bytes()
    assert decode_progress(old) == PROGRESS._replace(misrouted_to=0)
    for at in range(len(old)):
        with pytest.raises(CorruptProgress):
            decode_progress(old[:at] + bytes([old[at] ^ 1]) + old[at + 1 :])


@pytest.mark.parametrize(("base", "gap_end", "expected"), [(0, 0, 0), (7, 0, 7), (0, 9, 9), (7, 9, 9), (9, 7, 9)])
def test_events_may_be_missing_below_the_later_of_base_and_gap(base: int, gap_end: int, expected: int) -> None:
    progress = Progress(partitions=1, next_offset=9, lineage=1, writer=1, base=base, gap_end=gap_end, as_of_ms=0)
    assert progress.complete_from == expected


@given(st.binary(max_size=200))
def test_murmur2_is_kafkas(key: bytes) -> None:
    assert murmur2(key) == kafka_python_murmur2(key) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("key", "expected"),
    # From Apache Kafka's own UtilsTest.
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536), (b"abc", 479470107)],
)
def test_murmur2_agrees_with_kafkas_published_cases(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0xFFFFFFFF


def test_partition_ignores_the_hashs_sign_bit() -> None:
    assert partition_of(b"21", 64) == (-973932308 & 0x7FFFFFFF) % 64


def test_keys_of_one_partition_share_a_cluster_hash_tag_and_are_pinned() -> None:
    keys = Keys(namespace("a1b2c3d4e5f60718" + "0" * 48, 3))
    assert keys.state(7, "user{x}") == "uic:{a1b2c3d4e5f60718-3.7}:s:user{x}"
    assert keys.progress(7) == "uic:{a1b2c3d4e5f60718-3.7}:progress"
    assert keys.bad(7) == "uic:{a1b2c3d4e5f60718-3.7}:bad"
    assert keys.meta == "uic:a1b2c3d4e5f60718-3:meta"
    assert keys.namespaces == "uic:namespaces"
    assert Keys("n", prefix="p").state(0, "u") == "p:{n.0}:s:u"


def test_digest_is_pinned_and_depends_on_order_offset_and_bytes() -> None:
    once = extend_digest(EMPTY_DIGEST, 5, b"event")
    assert once.hex() == "ba8f410a8f3fcbe7"
    assert extend_digest(once, 6, b"other").hex() == "f4ab1db54f9a78ac"
    others = {
        once,
        extend_digest(EMPTY_DIGEST, 6, b"event"),
        extend_digest(EMPTY_DIGEST, 5, b"evenT"),
        extend_digest(once, 5, b"event"),
    }
    assert len(others) == 4


def test_witness_tells_null_from_empty_and_key_from_value() -> None:
    records = [(None, b"v", 1), (b"", b"v", 1), (b"v", b"", 1), (b"v", None, 1), (b"k", b"v", 1), (b"k", b"v", 2)]
    assert len({witness(*record) for record in records}) == len(records)
    assert witness(b"k", b"v", 1) == 0x81C5E050B280EC33


def test_user_hash_is_pinned() -> None:
    assert user_hash("user-1") == 0x88E1EA21865AAC9A
