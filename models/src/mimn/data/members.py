"""What a candidate stands for: a coupon's products, the items of an ad or a bundle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Members:
    """The table `[members]`: n distinct pairs of a candidate and one of its members."""

    key: Ints
    """[n], rising: the candidates, as impressions name them."""
    item: Ints
    """[n], rising within a candidate: the members, as events name them."""

    def __len__(self) -> int:
        return len(self.key)

    def bounds(self, candidates: Ints) -> tuple[Ints, Ints]:
        """Each candidate's pairs: first, and first behind the last; equal for one without members. [c] → [c], [c]"""
        return np.searchsorted(self.key, candidates), np.searchsorted(self.key, candidates, "right")

    def of(self, candidates: Ints) -> tuple[Ints, Ints]:
        """The members of candidates; a candidate without any is its own. [c] → pairs: place in `candidates`, item"""
        first, stop = self.bounds(candidates)
        place, at = spans(first, stop)
        alone = np.flatnonzero(first == stop)
        return np.concatenate([place, alone]), np.concatenate([self.item[at], candidates[alone]])


NO_MEMBERS = Members(np.empty(0, np.int64), np.empty(0, np.int64))


def distinct_pairs(key: Ints, item: Ints) -> tuple[Ints, Ints]:
    """Pairs in their order, each once. [n], [n] → [k], [k]"""
    order = np.lexsort((item, key))
    key, item = key[order], item[order]
    new = np.ones(len(key), np.bool_)
    new[1:] = (key[1:] != key[:-1]) | (item[1:] != item[:-1])
    return key[new], item[new]


def spans(first: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """All places of some spans behind one another: whose they are, and the places. [k], [k] → [n], [n]"""
    size = stop - first
    of = np.repeat(np.arange(len(size)), size)
    return of, np.arange(len(of)) - np.repeat(np.cumsum(size) - size - first, size)
