"""The headers of many stored states as one array: what a migration is proved with. Needs no bundle, because every state
begins with the same 80 bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mimn.state.codec import HEADER_BYTES, MAGIC, SPARSE, WHOLE

Headers = NDArray[np.void]
"""[n] of the dtype below; `there` is False where the store has no state."""
HEADER = np.dtype(
    [
        ("there", "?"),
        ("readable", "?"),
        ("lineage", "<u8"),
        ("last_offset", "<i8"),
        ("event_count", "<u8"),
        ("digest", "<u8"),
        ("partial", "?"),
    ]
)
_STORED = np.dtype(
    {
        "names": ["magic", "version", "flags", "fingerprint", "lineage", "last_offset", "event_count", "digest"],
        "formats": ["S4", "<u2", "u1", "V16", "<u8", "<i8", "<u8", "<u8"],
        "offsets": [0, 4, 7, 8, 32, 48, 56, 72],
        "itemsize": HEADER_BYTES,
    }
)
_PARTIAL = 1


def read_headers(values: Sequence[bytes | None], fingerprint: bytes) -> Headers:
    """Headers of stored values, or of their first `HEADER_BYTES` bytes; None or empty is no state. [n]

    A header with another magic, version or `fingerprint` is there and not `readable`, and its numbers are 0. Checksums
    are not looked at: they cover the tensors too.
    """
    headers = np.zeros(len(values), HEADER)
    headers["there"] = [bool(value) for value in values]
    whole = np.array([len(value or b"") >= HEADER_BYTES for value in values], bool)
    stored = np.frombuffer(
        b"".join(value[:HEADER_BYTES] for value in values if value and len(value) >= HEADER_BYTES), _STORED
    )
    right = (
        (stored["magic"] == MAGIC)
        & np.isin(stored["version"], (WHOLE, SPARSE))
        & (stored["fingerprint"] == np.frombuffer(fingerprint, "V16", 1))
    )
    at = np.flatnonzero(whole)[right]
    headers["readable"][at] = True
    for name in ("lineage", "last_offset", "event_count", "digest"):
        headers[name][at] = stored[name][right]
    headers["partial"][at] = (stored["flags"][right] & _PARTIAL) != 0
    return headers
