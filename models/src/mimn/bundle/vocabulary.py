"""Maps ids to embedding vectors: a sorted id array and its vectors, both memory-mapped.

Row 0 of the vectors is the unknown id; row i + 1 belongs to `ids[i]`. Sorted arrays need no separate index, so
all processes of a host share a table of hundreds of millions of rows through the page cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimn.bundle.arrays import finite
from mimn.bundle.specs import BundleError

UNKNOWN_ROW = 0
UNKNOWN_ID = 2**64 - 1
"""An id that tables usually do not have."""


@dataclass(frozen=True)
class EmbeddingTable:
    """Vectors of one kind of id.

    ids: [n] uint64, strictly rising. vectors: [n + 1, E] float32.
    """

    ids: NDArray[np.uint64]
    vectors: NDArray[np.float32]

    @property
    def width(self) -> int:
        """E: values in one vector."""
        return int(self.vectors.shape[1])

    def check(self, what: str) -> None:
        """Raises BundleError when the two arrays do not match, or a number is not finite; `what` names them in the
        message."""
        if self.ids.ndim != 1 or self.ids.dtype != np.uint64:
            raise BundleError(f"{what}: ids must be one axis of uint64, not {self.ids.dtype} {self.ids.shape}")
        if self.vectors.dtype != np.float32 or self.vectors.ndim != 2 or len(self.vectors) != len(self.ids) + 1:
            raise BundleError(
                f"{what}: vectors must be float32 [{len(self.ids) + 1}, E] (row 0 is the unknown id), "
                f"not {self.vectors.dtype} {self.vectors.shape}"
            )
        if len(self.ids) > 1 and not bool(np.all(self.ids[1:] > self.ids[:-1])):
            raise BundleError(f"{what}: ids must rise strictly")
        if not finite(self.vectors):
            bad = np.flatnonzero(~np.isfinite(self.vectors).all(axis=1))
            of = f"id {self.ids[bad[0] - 1]}" if bad[0] != UNKNOWN_ROW else "an unknown id"
            raise BundleError(
                f"{what}: {len(bad)} of {len(self.vectors)} vectors have a number that is not finite, such as that of "
                f"{of}: look for where the training diverged, and export an earlier checkpoint"
            )

    def drawn(self, random: np.random.Generator, count: int) -> NDArray[np.uint64]:
        """`count` ids: each of the table's, and `UNKNOWN_ID`, is as likely as any other. The table, which may have
        hundreds of millions, is not copied. → [count]"""
        places = random.integers(0, len(self.ids) + 1, count)
        known = places < len(self.ids)
        ids = np.full(count, UNKNOWN_ID, np.uint64)
        ids[known] = self.ids[places[known]]
        return ids

    def rows(self, ids: NDArray[np.uint64]) -> NDArray[np.intp]:
        """The row of each id, `UNKNOWN_ROW` for those outside the vocabulary. [k] uint64 → [k]."""
        if not len(self.ids):
            return np.zeros(len(ids), np.intp)
        at = self.ids.searchsorted(ids)
        return np.where(self.ids.take(at, mode="clip") == ids, at + 1, UNKNOWN_ROW)
