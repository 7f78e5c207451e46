"""Neighbors of items: which other items of a user speak for an item, and which against it.

The weights are those of EASE (H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, eq. 8): of all
matrices B with a diagonal of 0 the one with the smallest |X - X B|² + l2 |B|², where X says which user has which item.
Unlike counts of pairs they account for each other: of two neighbors that always come together, each says half. With
P = (X'X + l2)^-1 the weight of item j for item i is -P_ij / P_ii. Of each item the largest K are kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix

from mimn.bundle.item_table import Neighbors

MOST_ITEMS = 10_000
"""Rarer items have no neighbors and are none. A matrix of so many items squared takes 0.8 GB, and there are two."""
ROWS_AT_ONCE = 512

Floats = NDArray[np.float64]


def neighbors_of(has: csr_matrix, count: int, l2: float) -> Neighbors:
    """The neighbors of items, by descending size of their weights. `has` [U, I]: 1 where a user has an item.

    The cost grows with the cube of the smaller of U and I.
    """
    items = has.shape[1]
    rows, weights = np.zeros((items + 1, count), np.int32), np.zeros((items + 1, count), np.float32)
    buyers = np.asarray(has.sum(0)).ravel()
    kept = np.sort(np.argsort(-buyers, kind="stable")[:MOST_ITEMS])
    matrix = csr_matrix(has[:, kept], dtype=np.float64)
    held = min(count, len(kept) - 1)
    if held < 1:
        return Neighbors(rows, weights)
    for at, part in _weights(matrix, l2):
        largest = np.argpartition(-np.abs(part), held - 1, axis=1)[:, :held]
        largest.sort(axis=1)  # so that the order of equal weights is always the same
        sizes = np.take_along_axis(part, largest, 1)
        order = np.argsort(-np.abs(sizes), axis=1, kind="stable")
        weights[kept[at] + 1, :held] = np.take_along_axis(sizes, order, 1)
        rows[kept[at] + 1, :held] = kept[np.take_along_axis(largest, order, 1)] + 1
    rows[weights == 0] = 0
    return Neighbors(rows, weights)


def _weights(matrix: csr_matrix, l2: float) -> Iterator[tuple[NDArray[np.intp], Floats]]:
    """Some items at a time, and the weights of all items for each of them. [U, I] → [r], [r, I]"""
    users, items = matrix.shape
    few_items = items <= users
    if few_items:
        inverse = _inverse((matrix.T @ matrix).toarray(), l2)
    else:
        # (X'X + l2)^-1 = (1 - X' (XX' + l2)^-1 X) / l2: only a matrix of the users is inverted.
        solved = matrix.T @ _inverse((matrix @ matrix.T).toarray(), l2)
    for begin in range(0, items, ROWS_AT_ONCE):
        at = np.arange(begin, min(begin + ROWS_AT_ONCE, items))
        own = at - begin, at
        part = -inverse[at] if few_items else (matrix.T @ solved[at].T).T
        scale = -part[own] if few_items else 1 - part[own]
        part /= scale[:, np.newaxis]
        part[own] = 0
        yield at, part


def _inverse(gram: Floats, l2: float) -> Floats:
    """Of gram + l2, which is positive definite."""
    gram[np.diag_indices_from(gram)] += l2
    found: Floats = cho_solve(cho_factor(gram, lower=True, overwrite_a=True), np.eye(len(gram)), overwrite_b=True)
    return found
