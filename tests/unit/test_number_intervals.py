"""Edges lie between the numbers of training, so that a last bit moves none of them into another interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimn.data.number_intervals import LOWEST, SAME, interval_edges

FINITE = st.floats(-1e308, 1e308, allow_subnormal=False)
NUMBERS = st.one_of(
    st.lists(FINITE, min_size=1, max_size=40),
    st.lists(st.integers(-50, 50).map(lambda cents: cents / 100), min_size=1, max_size=40),
)


def edges_of(numbers: list[float], intervals: int) -> np.ndarray:
    return interval_edges(np.array(numbers), np.ones(len(numbers), np.int64), intervals)


@given(NUMBERS, st.integers(2, 12), st.integers(-8, 8))
def test_a_number_of_training_keeps_its_interval_when_its_last_bits_change(
    numbers: list[float], intervals: int, steps: int
) -> None:
    edges, x = edges_of(numbers, intervals), np.array(numbers)
    moved = x
    for _ in range(abs(steps)):
        moved = np.nextafter(moved, math.copysign(np.inf, steps))
    assert np.searchsorted(edges, moved, "right").tolist() == np.searchsorted(edges, x, "right").tolist()


@given(NUMBERS, st.integers(2, 12))
def test_edges_rise_and_each_lies_between_two_numbers_of_training(numbers: list[float], intervals: int) -> None:
    edges = edges_of(numbers, intervals)
    assert 1 <= len(edges) < intervals
    assert (np.diff(edges) > 0).all()
    assert np.isfinite(edges).all()
    if len(set(numbers)) == 1:
        assert edges.tolist() == [LOWEST]
    elif edges[0] > LOWEST:
        taken = np.bincount(np.searchsorted(edges, numbers, "right"), minlength=len(edges) + 1)
        assert (taken > 0).all(), "each interval has a number of training"


@given(st.lists(st.integers(0, 200), min_size=1, max_size=20), st.integers(2, 6))
def test_a_number_that_was_written_in_two_ways_is_in_one_interval(cents: list[int], intervals: int) -> None:
    one, other = np.array(cents) / 100, np.nextafter(np.array(cents) / 100, np.inf)
    edges = edges_of([*one, *other], intervals)
    assert np.searchsorted(edges, one, "right").tolist() == np.searchsorted(edges, other, "right").tolist()


def test_intervals_have_equal_mass_as_far_as_the_numbers_allow() -> None:
    x = np.random.default_rng(0).permutation(10_000) / 7
    edges = edges_of(x.tolist(), 8)
    assert np.bincount(np.searchsorted(edges, x, "right")).tolist() == [1250] * 8
    assert edges_of([0.0] * 90 + [1.0] * 5 + [2.0] * 5, 10).tolist() == [0.5]
    assert edges_of([1.0, 2.0, 3.0, 4.0], 4).tolist() == [1.5, 2.5, 3.5]


@pytest.mark.parametrize("number", [0.0, 7.0, -1e300, LOWEST])
def test_a_column_with_one_number_has_an_edge_below_every_number(number: float) -> None:
    assert edges_of([number] * 9, 4).tolist() == [LOWEST]
    assert edges_of([number, number * (1 + SAME / 4)], 4).tolist() == [LOWEST]
