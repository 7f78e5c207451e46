"""The intervals of a numeric field: edges between the numbers that training showed, never at one of them.

A number can reach serving with another last bit than training read: another type of column, another program that wrote
it, another machine's logarithm. An edge that is itself a number of training would then put the same number into another
interval. So an edge lies midway between two numbers of training.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mimn.data.number_bounds import quantiles

SAME: Final = 2.0**-48
"""Numbers that differ by no more, relative to the larger one, are one number that was computed or written in two ways:
0.41 and 0.41000000000000003. No edge lies between them. Sixteen units of the last place of float64."""
LOWEST: Final = float(np.finfo(np.float64).min)


def interval_edges(x: NDArray[np.float64], weight: NDArray[np.int64], intervals: int) -> NDArray[np.float64]:
    """Edges that divide numbers into at most so many intervals of about equal mass, fewer where many are alike.

    Each edge is midway between a number and the next lower one, after the field's transform: there it is compared, and
    there it is as far from both as it can be. No edge lies below the lowest number, because no number of training would
    be below it; only a column with one number has such an edge, because a table of intervals needs one.

    Args:
        x: finite numbers [n], n at least 1, after the field's transform.
        weight: how often each was shown [n], above 0.
        intervals: how many, at least 2.

    Returns:
        [k] rising, 1 <= k < intervals.
    """
    seen = np.unique(x)
    size = np.abs(seen)
    with np.errstate(over="ignore"):
        begins = 1 + np.flatnonzero(np.diff(seen) > SAME * np.maximum(size[1:], size[:-1]))
    wanted = np.searchsorted(seen, quantiles(x, weight, np.arange(1, intervals), intervals))
    group = np.searchsorted(begins, wanted, "right")
    at = begins[np.unique(group[group > 0]) - 1]
    edges: NDArray[np.float64] = np.unique(seen[at - 1] / 2 + seen[at] / 2)
    return edges if len(edges) else np.array([LOWEST])
