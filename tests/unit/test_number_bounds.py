"""Bounds keep what most numbers show, and leave out what lies far from it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimn.data.number_bounds import quantiles, usual_bounds
from mimn.data.tallies import NumberTally

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def bounds(numbers: np.ndarray) -> tuple[float, float]:
    return usual_bounds(numbers, np.ones(len(numbers), np.int64))


@given(st.lists(st.tuples(FINITE, st.integers(1, 9)), min_size=1))
def test_bounds_are_numbers_that_were_seen_and_most_rows_lie_within(rows: list[tuple[float, int]]) -> None:
    x, weight = np.array([a for a, _ in rows]), np.array([b for _, b in rows])
    low, high = usual_bounds(x, weight)
    assert {low, high} <= set(x.tolist())
    within = weight[(x >= low) & (x <= high)].sum()
    assert within >= 0.9 * weight.sum()


@given(st.lists(st.tuples(FINITE, st.integers(1, 5)), min_size=1, max_size=20))
def test_a_weight_counts_as_so_many_rows(rows: list[tuple[float, int]]) -> None:
    x, weight = np.array([a for a, _ in rows]), np.array([b for _, b in rows])
    assert usual_bounds(x, weight) == bounds(np.repeat(x, weight))


def test_a_normal_column_is_not_clipped() -> None:
    x = np.random.default_rng(0).normal(size=100_000)
    assert bounds(x) == (x.min(), x.max())


@pytest.mark.parametrize("far", [1e3, -1e9, 1e300])
def test_a_few_far_numbers_are_beyond(far: float) -> None:
    x = np.random.default_rng(0).normal(size=2_000)
    assert bounds(np.append(x, [far] * 10)) == (x.min(), x.max())


def test_a_count_that_is_mostly_0_keeps_its_other_values() -> None:
    x = np.zeros(10_000)
    x[:300] = np.arange(300) % 3 + 1
    assert bounds(x) == (0.0, 3.0)
    assert bounds(np.append(np.zeros(10_000), 1.0)) == (0.0, 1.0)
    assert bounds(np.full(9, 7.0)) == (7.0, 7.0)


def test_numbers_of_both_ends_of_float64_have_bounds() -> None:
    x = np.array([-1.7e308, 1.7e308] * 20)
    assert bounds(x) == (-1.7e308, 1.7e308)


def test_quantiles_are_numbers_of_the_column() -> None:
    x, weight = np.array([3.0, 1.0, 2.0]), np.array([1, 2, 1])
    assert quantiles(x, weight, np.array([0, 1, 2, 3, 4]), 4).tolist() == [1.0, 1.0, 2.0, 3.0, 3.0]


def test_a_tally_of_numbers_leaves_out_what_is_not_finite_and_keeps_signs() -> None:
    tally = NumberTally()
    tally.add(np.array([1.0, -2.5, np.nan, np.inf, 1.0]))
    tally.add(np.array([1e300, -2.5]))
    found = dict(zip(tally.numbers.tolist(), tally.counts.tolist(), strict=True))
    assert found.pop(1.0) == 2
    assert found.pop(-2.5) == 2
    [(huge, n)] = found.items()
    assert n == 1
    assert huge == pytest.approx(1e300, rel=1 / 4096)
