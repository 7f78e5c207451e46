"""Which users an arm has: buckets of a salted hash, held as ranges so that one arm's growth moves no other arm's users.

    bucket = XXH64(salt ‖ user id in UTF-8, seed 0) mod 10,000

The release in service has every bucket that no arm has. An arm that grows takes buckets from it alone, and one that
shrinks gives its highest ones back to it. A shadow has the highest buckets, so that it shares users with an arm only
if they have more than all of them; it answers no user, so none has to stay. Test vectors: docs/formats/rollout.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import xxhash

BUCKETS = 10_000
Buckets = tuple[tuple[int, int], ...]
"""Ranges [begin, end), ascending, not empty, and neither overlapping nor touching."""


def bucket_of(salt: bytes, user_id: str) -> int:
    """The bucket of a user, from 0 to `BUCKETS` - 1."""
    return xxhash.xxh64_intdigest(salt + user_id.encode()) % BUCKETS


def size(buckets: Buckets) -> int:
    """How many buckets these are."""
    return sum(end - begin for begin, end in buckets)


def resized(buckets: Buckets, others: Iterable[Buckets], count: int) -> Buckets:
    """`buckets` with `count` buckets: the lowest free ones are added, or the highest ones are given back.

    `others` are the buckets of the other arms, which are not free.

    Raises:
        ValueError: fewer than `count` are not another arm's.
    """
    own = [bucket for begin, end in buckets for bucket in range(begin, end)]
    if count <= len(own):
        return _ranges(own[:count])
    taken = {bucket for ranges in (buckets, *others) for begin, end in ranges for bucket in range(begin, end)}
    free = [bucket for bucket in range(BUCKETS) if bucket not in taken]
    missing = count - len(own)
    if missing > len(free):
        raise ValueError(
            f"{count / BUCKETS:.2%} of the users are wanted, {(len(own) + len(free)) / BUCKETS:.2%} are free"
        )
    return _ranges(sorted(own + free[:missing]))


def table(arms: Iterable[Buckets]) -> bytes:
    """[BUCKETS] bytes: the number of the arm that has a bucket, from 1 in the given order; 0 for the rest."""
    numbers = bytearray(BUCKETS)
    for number, buckets in enumerate(arms, 1):
        for begin, end in buckets:
            numbers[begin:end] = bytes([number]) * (end - begin)
    return bytes(numbers)


def _ranges(ascending: Iterable[int]) -> Buckets:
    def joined() -> Iterator[tuple[int, int]]:
        begin = end = -1
        for bucket in ascending:
            if bucket != end:
                if end > begin:
                    yield begin, end
                begin = bucket
            end = bucket + 1
        if end > begin:
            yield begin, end

    return tuple(joined())
