"""Which part of a data set a user belongs to: decided by the user id alone, so that no list has to be kept."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


def part_of(user_id: int) -> Part:
    """`sha256("split-v1:" + user_id) % 10`, the id in decimal: 0 to 7 train, 8 validation, 9 test."""
    digit = int(hashlib.sha256(f"split-v1:{user_id}".encode()).hexdigest(), 16) % 10
    return "train" if digit < 8 else "validation" if digit == 8 else "test"


def parts_of(user_ids: NDArray[np.int64]) -> NDArray[np.int8]:
    """Each user's place in `PARTS`. [U] → [U] int8."""
    return np.array([PARTS.index(part_of(int(user))) for user in user_ids], np.int8)
