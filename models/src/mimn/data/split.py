"""Which part of a data set a user belongs to: decided by the user id alone, so no list has to be kept.

There is one split (eight tenths train, one validates, one is tested), and there are five folds, each of which tests
other users: over all five, every user is tested once.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
FOLDS = 5


def part_of(user_id: int, fold: int | None = None) -> Part:
    """The user's part by `residue = sha256("split-v1:" + user_id) % 10`, the id in decimal.

    Without a fold, 0 to 7 train, 8 validation, 9 test. Fold s tests the residues 2s and 2s + 1, validates on the next
    one (0 follows 9) and trains on the other seven.
    """
    residue = int(hashlib.sha256(f"split-v1:{user_id}".encode()).hexdigest(), 16) % 10
    if fold is None:
        return "train" if residue < 8 else "validation" if residue == 8 else "test"
    if residue // 2 == fold:
        return "test"
    return "validation" if residue == (2 * fold + 2) % 10 else "train"


def parts_of(user_ids: NDArray[np.int64], fold: int | None = None) -> NDArray[np.int8]:
    """Each user's place in `PARTS`. [U] → [U] int8."""
    return np.array([PARTS.index(part_of(int(user), fold)) for user in user_ids], np.int8)
