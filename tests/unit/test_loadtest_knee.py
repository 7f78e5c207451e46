"""The search finds the highest rate that holds, whatever that is, and never asks for more than it may."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.knee import Limits, knee, search
from loadtest.result import Result, Run


def served(capacity: float, per_s: float, *, failed: int = 0) -> Run:
    """One second at a rate, of a server with a fixed capacity and a latency of 10 ms."""
    result = Result("fixed", 1000, 1000 / per_s, max(1000 / per_s, 1000 / capacity))
    for _ in range(1000 - failed):
        result.answered(0.010)
    if failed:
        result.errors["HTTP 503"] = failed
    return Run([result])


@given(capacity=st.floats(12, 900))
def test_the_knee_is_found_to_within_the_last_halving(capacity: float) -> None:
    tried = list(search(lambda rate: served(capacity, rate), 10, 1000, Limits(), factor=2, halvings=3))
    found = knee(tried)
    assert found is not None
    # Doubling, and three times half of what lies between in the logarithm; a rate holds down to 99 % of it.
    assert found <= capacity / 0.99 + 1e-6
    assert found >= capacity / 2 ** (1 / 8) - 1e-6 or max(point.per_s for point in tried) * 2 > 1000


def test_no_more_is_asked_for_than_may_be() -> None:
    tried = list(search(lambda rate: served(1e9, rate), 10, 100, Limits(), factor=3))
    assert [point.per_s for point in tried] == [10, 30, 90]
    assert knee(tried) == 90


def test_without_a_rate_that_holds_there_is_no_knee() -> None:
    tried = list(search(lambda rate: served(5, rate), 10, 100, Limits()))
    assert [point.holds for point in tried] == [False]
    assert knee(tried) is None


@pytest.mark.parametrize(("limits", "failed", "holds"), [
    (Limits(), 0, True), (Limits(), 1, True), (Limits(), 2, False), (Limits(p99_ms=11), 0, True),
    (Limits(p99_ms=9), 0, False),
])  # fmt: skip
def test_a_rate_holds_in_time_and_without_failures(limits: Limits, failed: int, holds: bool) -> None:
    assert limits.hold(served(1e9, 100, failed=failed)) is holds
