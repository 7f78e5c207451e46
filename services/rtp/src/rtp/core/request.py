"""A request as a value, after it was decoded and checked, and the limits that it was checked against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MAX_CANDIDATES = 512
MAX_USER_ID_BYTES = 128
MAX_REQUEST_ID_CHARACTERS = 128
MAX_CONTEXT_FEATURES = 64
MAX_CONTEXT_BYTES = 8192
MAX_ID = 2**64 - 1


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A caller's question: how likely is this user to click each of these candidates?

    Invariant: 1 to `MAX_CANDIDATES` candidates, a user id of 1 to `MAX_USER_ID_BYTES` bytes, finite context values.
    """

    user_id: str
    item_ids: NDArray[np.uint64]
    """[C]"""
    category_ids: NDArray[np.uint64]
    """[C]"""
    request_id: str | None = None
    context: Mapping[str, float] = field(default_factory=dict)
    require_state: bool = False
    """Fail rather than score without the stored state."""
