"""Which part of a data set a user belongs to: decided by the user id alone, so no list has to be kept.

There is one split (eight tenths train, one validates, one is tested), and there are five folds, each of which tests
other users: over all five, every user is tested once.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mimn.data.description import TimeSplit, instant_ms

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
FOLDS = 5
LEFT_OUT = -1
"""In place of a part: an impression whose label is not known in time, before the beginning or behind the end."""


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


def time_parts(split: TimeSplit, known_ms: NDArray[np.int64], time_ms: NDArray[np.int64]) -> NDArray[np.int8]:
    """Each impression's place in `PARTS`, or `LEFT_OUT`, by its time and when its label is known. [m], [m] ms → [m]

    An impression trains if its window is over when training begins: a label that is not known yet is no label.
    """
    part = np.full(len(time_ms), LEFT_OUT, np.int8)
    begin = np.iinfo(np.int64).min if split.train_from is None else instant_ms(split.train_from)
    first, second = instant_ms(split.train_until), instant_ms(split.validate_until)
    labels = first if split.labels_until is None else instant_ms(split.labels_until)
    last = np.iinfo(np.int64).max if split.test_until is None else instant_ms(split.test_until)
    part[(time_ms >= begin) & (time_ms < first) & (known_ms <= labels)] = PARTS.index("train")
    part[(time_ms >= first) & (time_ms < second)] = PARTS.index("validation")
    part[(time_ms >= second) & (time_ms < last)] = PARTS.index("test")
    return part
