"""A user's state as a value: a header (whose, up to which event) and the flat tensor vector. Frozen; folding returns a
new one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray


class StateHeader(msgspec.Struct, frozen=True):
    """Everything in a stored state except its tensors."""

    user: int
    """64-bit hash of the user id (`user_hash`)."""
    lineage: int
    """The partition's lineage that this state belongs to."""
    era: int
    """How many times a broken log had been accepted when this state was written."""
    last_offset: int
    """Offset of the last event folded."""
    event_count: int
    last_event_time: int
    """Milliseconds since 1970-01-01 UTC, of the last event folded."""
    digest: bytes
    """8 bytes over all events folded, in order (`extend_digest`)."""
    partial: bool = False
    """Earlier events of the user may be missing."""


HEADERS = np.dtype(
    [
        ("user", "<u8"),
        ("lineage", "<u8"),
        ("era", "<u4"),
        ("last_offset", "<i8"),
        ("event_count", "<u8"),
        ("last_event_time", "<i8"),
        ("digest", "V8"),
        ("partial", "?"),
    ]
)
"""The headers of many states as one array, fields as in `StateHeader`."""


def header_rows(headers: Sequence[StateHeader]) -> NDArray[np.void]:
    """Headers as an array of dtype `HEADERS`. → [n]"""
    return np.array(
        [
            (h.user, h.lineage, h.era, h.last_offset, h.event_count, h.last_event_time, h.digest, h.partial)
            for h in headers
        ],
        HEADERS,
    )


class UserState(msgspec.Struct, frozen=True):
    """A state: header and tensors. Invariant: `tensors` is the fold of exactly the `event_count` events that
    `header.digest` names, in order, starting from the bundle's initial state. After a migration that kept ledgers, the
    memory of a `partial` state is the fold of the last of them only."""

    header: StateHeader
    tensors: NDArray[np.float32]
    """[F] float32, the layout's flat vector; possibly a read-only view of the stored bytes."""
