"""Stored values one behind another, as C writes them, and each by itself."""

from __future__ import annotations

from itertools import pairwise
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

    def apart(self) -> list[bytes]:
        """Each by itself. [n]"""
        ends = self.ends.tolist()
        sizes = (end - begin for begin, end in pairwise([0, *ends]))
        return list(Struct("%ds" * len(ends) % tuple(sizes)).unpack_from(self.values.data))  # slices take twice as long
