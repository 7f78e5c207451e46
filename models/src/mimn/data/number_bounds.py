"""The bounds of a numeric field: how far its numbers usually reach.

A few wrong numbers (1e300 for a price, a timestamp for an age) would stretch the field's scale until its ordinary
numbers are all alike, and a model extrapolates without limit beyond the numbers that it was trained on. So numbers are
clipped, in training as in serving, to bounds that nearly all numbers of training keep.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

PER_MILLE: Final = ((50, 950), (10, 990), (1, 999), (0, 1000))
"""The quantiles that a width is taken from, in the order in which they are tried."""


def quantiles(
    x: NDArray[np.float64], weight: NDArray[np.int64], parts: NDArray[np.int64], of: int
) -> NDArray[np.float64]:
    """The numbers below which `parts` of `of` of the weight lie. x, weight [n], n at least 1; parts [k] → [k]"""
    order = np.argsort(x, kind="stable")
    mass = np.cumsum(weight[order])
    at = np.searchsorted(mass, parts * mass[-1] / of, "right")
    found: NDArray[np.float64] = x[order][np.minimum(at, len(mass) - 1)]
    return found


def usual_bounds(x: NDArray[np.float64], weight: NDArray[np.int64]) -> tuple[float, float]:
    """The lowest and the highest number that are no further from the middle 90 % than these are wide.

    Of a normal distribution that is everything, up to 4.9 deviations on each side. Where the middle 90 % are one
    number, as of a count that is mostly 0, the middle 98 % are taken, then 99.8 %, then all.

    Args:
        x: finite numbers [n], after the field's transform.
        weight: how often each was shown [n], above 0.
    """
    found = quantiles(x, weight, np.array(PER_MILLE).ravel(), 1000).reshape(-1, 2)
    low, high = next((pair for pair in found.tolist() if pair[0] < pair[1]), found[-1].tolist())
    with np.errstate(over="ignore"):
        width = np.float64(high) - low
        inside = x[(x >= low - width) & (x <= high + width)]
    return float(inside.min()), float(inside.max())
