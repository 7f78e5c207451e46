"""When requests are due does not depend on the server, and the rate is the one that was asked for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.schedule import Gaps, Phase, Schedule, fixed, soak, spike, steps


def test_constant_gaps_are_even() -> None:
    (due,) = Schedule(fixed(10, 1)).due_s()
    assert due.tolist() == pytest.approx([i / 10 for i in range(10)])


def test_poisson_gaps_have_the_mean_and_the_spread_of_a_poisson_process() -> None:
    (due,) = Schedule(fixed(1000, 20), "poisson").due_s()
    gaps = np.diff(due)
    # Four standard deviations of a mean of 20,000 exponential gaps.
    assert gaps.mean() == pytest.approx(1 / 1000, rel=4 / 20_000**0.5)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05), "they spread as far as their mean"
    counts = np.bincount(due.astype(int))
    assert counts.var() == pytest.approx(counts.mean(), rel=1.2), "so do the counts of single seconds"


@given(
    phases=st.lists(st.builds(Phase, st.floats(0.5, 300), st.floats(0.5, 5)), min_size=1, max_size=4),
    gaps=st.sampled_from(["constant", "poisson"]),
    seed=st.integers(0, 1000),
)
def test_every_request_is_due_in_its_phase_and_in_order(phases: list[Phase], gaps: Gaps, seed: int) -> None:
    try:
        schedule = Schedule(tuple(phases), gaps, seed)
    except ValueError:
        assert all(int(phase.per_s * phase.seconds) == 0 for phase in phases)
        return
    due = schedule.due_s()
    assert len(due) == len(phases)
    began = 0.0
    for phase, offsets in zip(phases, due, strict=True):
        assert all(began <= offset < began + phase.seconds for offset in offsets)
        assert all(a <= b for a, b in pairwise(offsets))
        began += phase.seconds
    assert schedule.seconds == pytest.approx(began)
    for before, again in zip(due, schedule.due_s(), strict=True):
        assert before.tolist() == again.tolist(), "the same for the same seed"


def test_the_modes_are_rows_of_phases() -> None:
    assert [phase.per_s for phase in steps([10, 20, 40], 5)] == [10, 20, 40]
    assert [(phase.per_s, phase.seconds) for phase in spike(10, 90, 50)] == [(10, 20), (90, 10), (10, 20)]
    parts = soak(10, 3600)
    assert len(parts) == 10
    assert sum(phase.seconds for phase in parts) == 3600


@pytest.mark.parametrize("phase", [Phase(0, 1), Phase(-1, 1), Phase(1, 0), Phase(float("nan"), 1), Phase(1, 0.5)])
def test_a_schedule_that_asks_for_nothing_is_refused(phase: Phase) -> None:
    with pytest.raises(ValueError, match=r"positive|would be due"):
        Schedule((phase,))
