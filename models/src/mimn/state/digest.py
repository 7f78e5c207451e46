"""The hashes that stored values carry: digest, witness and user hash, all BLAKE2b with 8 bytes.

The digest lets an operator check that exactly the right events were folded, once and in order, without trusting floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct

import numpy as np
from numpy.typing import NDArray

_OFFSET = Struct("<Q")
_LENGTHS = Struct("<qqq")

EMPTY_DIGEST = bytes(8)
"""The digest of a state before its first event."""


def extend_digest(digest: bytes, offset: int, value: bytes) -> bytes:
    """The digest after the record `value` at `offset` was folded: blake2b-8(digest, offset as u64 LE, value)."""
    return blake2b(digest + _OFFSET.pack(offset) + value, digest_size=8).digest()


def extend_digests(
    digests: list[bytes], of: Sequence[int], offsets: NDArray[np.int64], values: Sequence[bytes]
) -> None:
    """`extend_digest` for many records, in place: record i, `values[i]` at `offsets[i]`, extends `digests[of[i]]`."""
    packed = offsets.astype("<u8").tobytes()
    at = 0
    for to, value in zip(of, values, strict=True):
        digests[to] = blake2b(digests[to] + packed[at : at + 8] + value, digest_size=8).digest()
        at += 8


def user_hash(user_id: str) -> int:
    """The 64-bit hash that a state carries: readers use it to detect another user's state under this user's key."""
    return int.from_bytes(blake2b(user_id.encode(), digest_size=8).digest(), "little")


def user_hashes(keys: Sequence[bytes]) -> NDArray[np.uint64]:
    """`user_hash` of users given by their keys, which are their ids in UTF-8. → [n]"""
    return np.frombuffer(b"".join(blake2b(key, digest_size=8).digest() for key in keys), "<u8")


def witness(key: bytes | None, value: bytes | None, timestamp_ms: int) -> int:
    """The 64-bit hash that identifies one log record by its key, value and timestamp.

    The lengths (-1 for null) are hashed first, so two different records never have the same input.
    """
    lengths = _LENGTHS.pack(-1 if key is None else len(key), -1 if value is None else len(value), timestamp_ms)
    return int.from_bytes(blake2b(lengths + (key or b"") + (value or b""), digest_size=8).digest(), "little")
