"""String ids to 64 bits: one rule for training, serving and every client, so that all of them name the same row.

    id(text) = XXH64(text in UTF-8, seed 0), and 1 in place of 0

Item 0 means "malformed" on the wire, so no string may become 0. `docs/formats/ids.md` has test vectors for clients in
other languages. Two strings with one id cannot be told apart; `collisions` counts such strings with a second hash.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xxhash
from numpy.typing import NDArray


def string_id(text: str) -> int:
    """The id of one string: 1 to 2^64 - 1."""
    return xxhash.xxh64_intdigest(text.encode()) or 1


def string_ids(texts: Iterable[str]) -> NDArray[np.uint64]:
    """The ids of strings. [n] → [n] uint64"""
    digest = xxhash.xxh64_intdigest
    return np.array([digest(text.encode()) or 1 for text in texts], np.uint64)


def second_hashes(texts: Iterable[str]) -> NDArray[np.uint64]:
    """XXH3-64 of strings: independent of `string_ids`, so equal ids with different second hashes are a collision."""
    digest = xxhash.xxh3_64_intdigest
    return np.array([digest(text.encode()) for text in texts], np.uint64)


def collisions(ids: NDArray[np.uint64], seconds: NDArray[np.uint64]) -> int:
    """How many distinct strings share an id with another one. [n], [n]: of any strings, repeated or not."""
    pairs = np.unique(np.stack([ids, seconds], 1), axis=0)
    return len(pairs) - len(np.unique(pairs[:, 0]))
