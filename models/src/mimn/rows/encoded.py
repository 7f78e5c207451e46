"""Stored values one behind another, as C writes them, and each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from struct import Struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]


class Encoded(NamedTuple):
    """Stored values one behind another."""

    values: Bytes
    """Perhaps with room behind the last."""
    ends: Integers
    """[n]: where each ends."""
    largest: int
    """Bytes that none exceeds."""

    @classmethod
    def of(cls, values: Sequence[bytes]) -> Encoded:
        """A copy of these."""
        ends = np.fromiter(accumulate(map(len, values)), np.int64, len(values))
        return cls(np.frombuffer(b"".join(values), np.uint8), ends, max(map(len, values), default=0))

    def apart(self) -> list[bytes]:
        """Each by itself. [n]"""
        ends = self.ends.tolist()
        sizes = (end - begin for begin, end in pairwise([0, *ends]))
        return list(Struct("%ds" * len(ends) % tuple(sizes)).unpack_from(self.values.data))  # slices take twice as long
