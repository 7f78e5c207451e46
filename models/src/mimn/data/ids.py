"""String ids to 64 bits: one rule for training, serving and every client, so that all of them name the same row.

    id(text) = XXH64(text in UTF-8, seed 0), and 1 in place of 0

Item 0 means "malformed" on the wire, so no string may become 0. `docs/formats/ids.md` has test vectors for clients in
other languages. Two strings with one id cannot be told apart; `Strings` counts such strings by a second hash.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xxhash
from numpy.typing import NDArray

from mimn.bundle.fields import code_of

TOGETHER = 256
"""Longer strings, in bytes, are hashed one by one."""
SECOND_SEED = 1
"""Of the second hash, which tells two strings apart that share an id."""
PENDING = 1 << 22
"""Strings that are gathered before repeated ones are dropped."""


def string_ids(texts: Iterable[str]) -> NDArray[np.uint64]:
    """The ids of strings: their `code_of`. [n] → [n] uint64"""
    return np.fromiter(map(code_of, texts), np.uint64)


def xxh64(data: NDArray[np.uint8], offsets: NDArray[np.int64], seed: int = 0) -> NDArray[np.uint64]:
    """XXH64 of n byte strings at once: those of one length go through the algorithm together.

    Args:
        data: all bytes, one string behind another.
        offsets: [n + 1]: string i is `data[offsets[i]:offsets[i + 1]]`.
        seed: XXH64's.

    Returns: [n] uint64.

    Source: the XXH64 algorithm description (Y. Collet, xxHash specification 0.1.1).
    """
    hashes = np.empty(len(offsets) - 1, np.uint64)
    if not len(hashes):
        return hashes
    # 16 bits are sorted by radix; what is longer goes one by one, whatever its length.
    lengths = np.minimum(np.diff(offsets), TOGETHER + 1).astype(np.uint16)
    order = np.argsort(lengths, kind="stable")
    found, first = np.unique(lengths[order], return_index=True)
    for length, rows in zip(found.tolist(), np.split(order, first[1:]), strict=True):
        if length > TOGETHER:
            hashes[rows] = [xxhash.xxh64_intdigest(data[offsets[i] : offsets[i + 1]].tobytes(), seed) for i in rows]
            continue
        padded = np.zeros((len(rows), -(-length // 8) * 8), np.uint8)
        padded[:, :length] = data[offsets[rows, np.newaxis] + np.arange(length)]
        hashes[rows] = _xxh64(padded.view("<u8").T, padded.T, length, np.uint64(seed))
    return hashes


_P1, _P2, _P3, _P4, _P5 = map(
    np.uint64,
    (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5),
)


def _xxh64(lanes: NDArray[np.uint64], octets: NDArray[np.uint8], length: int, seed: np.uint64) -> NDArray[np.uint64]:
    """[words, k] little-endian words of k strings of one length, [bytes, k] the same as bytes → [k]"""
    k = lanes.shape[1]
    zero = np.zeros(k, np.uint64)
    words = length // 8
    with np.errstate(over="ignore"):
        h = zero + (seed + _P5)
        at = 0
        if length >= 32:
            lane = [zero + (seed + start) for start in (_P1 + _P2, _P2, np.uint64(0), np.uint64(0) - _P1)]
            while at + 4 <= words:
                lane = [_round(lane[i], lanes[at + i]) for i in range(4)]
                at += 4
            h = _rotated(lane[0], 1) + _rotated(lane[1], 7) + _rotated(lane[2], 12) + _rotated(lane[3], 18)
            for one in lane:
                h = (h ^ _round(zero, one)) * _P1 + _P4
        h += np.uint64(length)
        for word in range(at, words):
            h = _rotated(h ^ _round(zero, lanes[word]), 27) * _P1 + _P4
        byte = words * 8
        if byte + 4 <= length:
            h = _rotated(h ^ (lanes[words] & np.uint64(0xFFFFFFFF)) * _P1, 23) * _P2 + _P3
            byte += 4
        for one in octets[byte:length]:
            h = _rotated(h ^ one.astype(np.uint64) * _P5, 11) * _P1
        h = (h ^ h >> np.uint64(33)) * _P2
        h = (h ^ h >> np.uint64(29)) * _P3
    return h ^ h >> np.uint64(32)


def _round(lane: NDArray[np.uint64], word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return _rotated(lane + word * _P2, 31) * _P1


def _rotated(x: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    return x << np.uint64(bits) | x >> np.uint64(64 - bits)


class Strings:
    """Counts strings that share an id, by a second hash; memory for the distinct strings, however often they come."""

    def __init__(self) -> None:
        self._hashes: tuple[NDArray[np.uint64], ...] = tuple(np.empty((2, 0), np.uint64))
        self._pending: list[tuple[NDArray[np.uint64], NDArray[np.uint64]]] = []
        self._rows = 0

    def add(self, ids: NDArray[np.uint64], seconds: NDArray[np.uint64]) -> None:
        """Note strings, repeated or not, by id and second hash. [n], [n]"""
        self._pending.append((ids, seconds))
        self._rows += len(ids)
        if self._rows >= PENDING:
            self._merge()

    @property
    def collisions(self) -> int:
        """How many distinct strings there are more than distinct ids.

        Strings are told apart by the second hash alone, which is as unlikely to be shared as an id.
        """
        self._merge()
        ids, seconds = self._hashes
        return max(0, len(seconds) - len(ids))

    def _merge(self) -> None:
        new = zip(*self._pending, strict=True) if self._pending else ((), ())
        self._hashes = tuple(
            distinct(np.concatenate([known, *more])) for known, more in zip(self._hashes, new, strict=True)
        )
        self._pending, self._rows = [], 0


def distinct(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The distinct ids, rising: `np.unique` by sorting, which for hashes is several times as fast. [n] → [k]"""
    ordered = np.sort(ids)
    new = np.ones(len(ids), np.bool_)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new]
