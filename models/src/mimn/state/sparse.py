"""The sparse form of stored tensors, for states that are mostly zeros: which words are not zero, and those words.

A ledger of a median shopper is nine tenths free places, so its state takes a third of its bytes this way. `stored.c`
has the twins of these functions. The bytes are specified in docs/formats/state.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
_BITS = 32


def overhead(words: int) -> int:
    """How many words the sparse form of this many has besides those that are not zero: their number, and the marks."""
    return 1 + -(-words // _BITS)


def compact(words: Words) -> list[bytes | None]:
    """The sparse form of n states; None where it would not be shorter.

    Args:
        words: the stored tensors. [n, W], little-endian
    """
    n, width = words.shape
    more = overhead(width)
    marks = np.zeros((n, (more - 1) * _BITS), np.bool_)
    kept = marks[:, :width]
    np.not_equal(words, 0, out=kept)
    shorter = (more + np.count_nonzero(kept, axis=1) < width).tolist()
    size, packed = np.uint32(width).astype("<u4").tobytes(), np.packbits(marks, axis=1, bitorder="little")
    return [size + packed[i].tobytes() + words[i][kept[i]].tobytes() if shorter[i] else None for i in range(n)]


def words_of(stored: bytes | memoryview) -> int:
    """How many words there are with the zeros."""
    return int.from_bytes(stored[:4], "little")


def fits(stored: bytes | memoryview, words: int) -> bool:
    """Whether this is a sparse form of this many words."""
    more = overhead(words)
    marks = int.from_bytes(stored[4 : 4 * more], "little")
    return words_of(stored) == words and not marks >> words and len(stored) == 4 * (more + marks.bit_count())


def restore(stored: bytes, words: int) -> Words | None:
    """The tensors of a sparse form; None if it is not one of this many words. [W]"""
    if not fits(stored, words):
        return None
    more = overhead(words)
    marks = np.unpackbits(np.frombuffer(stored, np.uint8, 4 * more - 4, 4), bitorder="little").view(np.bool_)
    whole = np.zeros(words, "<u4")
    whole[marks[:words]] = np.frombuffer(stored, "<u4", offset=4 * more)
    return whole
