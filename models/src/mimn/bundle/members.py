"""What a head reads of a candidate that stands for other items: how often and how recently the user touched them.

A user's state that remembers items (a ledger, a list of events) says of each item how often it was touched and when
last. Over the members of a candidate, with n_i touches of item i, the latest a_i days ago, a head reads

    log1p(sum n_i)    log1p(number of members touched)    log1p(sum n_i 2^(-a_i / h)) for each half-life h in days

The sums go from the user's items to the candidates that name them, by an index that export writes, so a request costs
its user's items times the candidates that one item belongs to, and one gather a candidate. A candidate's own number of
members costs nothing. numpy only, because the services read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimn.state.sketch import DAY_MS

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def read_width(half_lives: Sequence[int]) -> int:
    """R: what a head reads for one candidate."""
    return 2 + len(half_lives)


def as_read(sums: NDArray[np.float64]) -> Floats:
    """What a head reads of the sums over members. [..., R] → [..., R]"""
    return np.log1p(sums).astype(np.float32)


@dataclass(frozen=True)
class Touched:
    """L distinct items of one user. All arrays are [L]."""

    item: NDArray[np.uint64]
    times: Ints
    """How often each was touched."""
    last_ms: Ints
    """When last."""


class MemberIndex:
    """From items to the candidates that they belong to."""

    def __init__(self, candidates: int, candidate: Ints, item: NDArray[np.uint64]) -> None:
        """
        Args:
            candidates: K, the rows of the item table.
            candidate: [n], rows of the table: candidates; one without members has itself as its only member.
            item: [n], ids of their members.
        """
        order = np.argsort(item, kind="stable")
        self._candidates = candidates
        self._item, self._candidate = item[order], candidate[order]

    def read(self, touched: Touched, candidates: Ints, now_ms: int, half_lives: Sequence[int]) -> Floats:
        """What the head reads for candidates at a time. [C] rows of the table → [C, R]"""
        first, stop = (np.searchsorted(self._item, touched.item, side) for side in ("left", "right"))
        entry = np.repeat(np.arange(len(first)), stop - first)
        place = np.arange(len(entry)) + np.repeat(first - np.cumsum(stop - first) + (stop - first), stop - first)
        of, times = self._candidate[place], touched.times[entry]
        age = (now_ms - touched.last_ms[entry]) / DAY_MS
        weights = [times, np.ones(len(times)), *(times * np.exp2(-age / days) for days in half_lives)]
        sums = [np.bincount(of, weight, self._candidates)[candidates] for weight in weights]
        return as_read(np.stack(sums, -1).astype(np.float64))
