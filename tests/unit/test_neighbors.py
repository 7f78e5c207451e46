"""Neighbors of items: the solution of EASE, from whichever side, and what becomes of rare items."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from mimn.bundle.item_table import Neighbors
from mimn.data import neighbors
from mimn.data.neighbors import neighbors_of


def drawn(seed: int, users: int, items: int) -> NDArray[np.float64]:
    return (np.random.default_rng(seed).random((users, items)) < 0.3).astype(np.float64)


def dense(has: NDArray[np.float64], found: Neighbors) -> NDArray[np.float64]:
    """The weights as a matrix of items by neighbors."""
    out = np.zeros((has.shape[1] + 1, has.shape[1] + 1))
    np.put_along_axis(out, found.rows.astype(np.intp), found.weights.astype(np.float64), 1)
    return out[1:, 1:]


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(2, 12), st.sampled_from([0.5, 20.0]))
def test_with_all_neighbors_kept_no_other_weights_have_a_smaller_error(
    seed: int, users: int, items: int, l2: float
) -> None:
    has = drawn(seed, users, items)
    weights = dense(has, neighbors_of(csr_matrix(has), items, l2))
    assert not weights.diagonal().any()

    # The gradient of |X - X B|^2 + l2 |B|^2 is 0 but on the diagonal, which is held at 0. B is `weights` transposed.
    gradient = has.T @ (has @ weights.T - has) + l2 * weights.T
    np.fill_diagonal(gradient, 0)
    np.testing.assert_allclose(gradient, 0, atol=1e-4)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(2, 12), st.integers(1, 5))
def test_the_largest_weights_are_kept_and_lie_in_order(seed: int, users: int, items: int, count: int) -> None:
    has = drawn(seed, users, items)
    every, some = (neighbors_of(csr_matrix(has), k, 5.0) for k in (items, count))
    kept = min(count, items - 1)
    np.testing.assert_allclose(np.abs(some.weights[:, :kept]), np.abs(every.weights[:, :kept]), atol=1e-7)
    inside = dense(has, some) != 0
    np.testing.assert_array_equal(dense(has, some)[inside], dense(has, every)[inside])
    assert not some.weights[:, kept:].any()
    assert not some.rows[some.weights == 0].any()
    assert np.all(np.diff(np.abs(some.weights), axis=1) <= 0)


def test_of_two_items_that_always_come_together_each_says_half() -> None:
    random = np.random.default_rng(0)
    one, target = random.random((2, 5000)) < 0.5
    twice = csr_matrix(np.stack([one, one, one & target], 1).astype(float))
    once = csr_matrix(np.stack([one, one & target], 1).astype(float))
    whole = neighbors_of(once, 1, 1.0).weights[2, 0]
    np.testing.assert_allclose(neighbors_of(twice, 2, 1.0).weights[3], whole / 2, rtol=1e-2)


def test_rare_items_have_no_neighbors_and_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "MOST_ITEMS", 4)
    monkeypatch.setattr(neighbors, "ROWS_AT_ONCE", 3)
    has = drawn(5, 40, 9)
    common = np.sort(np.argsort(-has.sum(0), kind="stable")[:4])
    found = dense(has, neighbors_of(csr_matrix(has), 5, 3.0))
    inside = dense(has[:, common], neighbors_of(csr_matrix(has[:, common]), 5, 3.0))
    np.testing.assert_allclose(found[np.ix_(common, common)], inside)
    found[np.ix_(common, common)] = 0
    assert not found.any()
