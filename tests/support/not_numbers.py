"""Float32 values that are not numbers: each has a sign and a payload, and bit tricks may take either for digits."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

_EXPONENT = 0x7F800000
NOT_NUMBERS = np.array(
    [0x7FC00000, 0xFFC00000, 0xFFFFFFFF, 0x7FFFFFFF, 0x7F800001, 0xFF800001, 0x7FC00101, 0x7FA5A5A5], np.uint32
).view(np.float32)
"""Quiet and signaling ones, of both signs, with the payload at either end, whole or mixed."""
SUBNORMAL = np.array([1, 0x80000001, 0x00400000, 0x807FFFFF], np.uint32).view(np.float32)


def not_numbers() -> st.SearchStrategy[np.float32]:
    """Any of them."""
    payloads, signs = st.integers(1, (1 << 23) - 1), st.sampled_from([0, 1 << 31])
    words = st.builds(lambda payload, sign: payload | sign | _EXPONENT, payloads, signs)
    return words.map(lambda word: np.float32(np.uint32(word).view(np.float32)))
