"""When a label is known, which clicks count, and when each was seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mimn.data.events import DataError
from mimn.data.tables import Columns


def labels_known(impressions: Columns, window_ms: int) -> NDArray[np.int64]:
    """When each label is known: the end of its window. [n] ms

    Raises:
        DataError: a window ends before its impression.
    """
    if "window_end" not in impressions:
        return impressions["time"] + window_ms
    known: NDArray[np.int64] = impressions["window_end"]
    early = known < impressions["time"]
    if bool(early.any()):
        raise DataError(
            f"`impressions.window_end`: {int(early.sum())} windows end before their impression: the column holds the "
            "time until which a click counts"
        )
    return known


def known_labels(impressions: Columns, known_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """The labels of impressions whose clicks count within the window alone. [n] 0 or 1"""
    label = impressions["label"].astype(np.int64)
    if "label_time" in impressions:
        label[impressions["label_time"] > known_ms] = 0
    return label


def clicks_seen(impressions: Columns, known_ms: NDArray[np.int64], label: NDArray[np.int64]) -> NDArray[np.int64]:
    """When each click was seen, and `known_ms` without one. [n] ms

    A click without a time of its own is known when its window is over, and none is seen before its impression:
    otherwise a rate would count clicks of the future, or more clicks than impressions.
    """
    if "label_time" not in impressions:
        return known_ms
    clicked = impressions["label_time"]
    seen: NDArray[np.int64] = np.where(
        (label == 1) & (clicked >= 0), np.maximum(clicked, impressions["time"]), known_ms
    )
    return seen
