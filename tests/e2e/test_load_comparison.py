"""`make load` on a real stack, as small as shows its claims: a state's latency ignores the length of its history, and
the latency of a model that reads the events does not.

Only ratios of one run are judged, of requests that took turns, so that a busy machine slows all of them alike. What a
request costs the server is judged by its CPU time, which such a machine moves by some hundredths; medians of waiting
times wander by a tenth there, so of those it is asked what they show for certain.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.comparison import MODELS, Sizes, compare
from loadtest.report import Comparison, p50, server_cpu
from loadtest.result import Result

pytestmark = [pytest.mark.servers, pytest.mark.alone, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
SIZES = Sizes(lengths=(10, 1_000, 10_000), users=2, lengths_s=4.0, rate_s=1.0, least=5, factor=3.0, halvings=0)


@pytest.fixture(scope="module")
def found() -> Comparison:
    """Every model on one log."""
    return measured(*MODELS)


def measured(*names: str) -> Comparison:
    return compare({name: ROOT / MODELS[name] for name in names}, SIZES, say=print)


def certain_growth(longer: Result, shorter: Result) -> float:
    """What the ratio of the two medians is at least: the near ends of their 95 % intervals, by order statistics."""
    low, high = (0.98 / result.count**0.5 for result in (longer, shorter))
    return longer.quantile_ms(0.5 - low) / shorter.quantile_ms(0.5 + high)


def test_a_state_answers_as_fast_after_ten_thousand_events_as_after_ten() -> None:
    """The state is one value of one size."""
    mimn = measured("MIMN").of("MIMN")
    assert server_cpu(mimn, 10_000) <= 1.1 * server_cpu(mimn, 10)
    assert certain_growth(mimn.lengths[10_000], mimn.lengths[10]) <= 1.1


@pytest.mark.full
def test_a_model_that_reads_the_events_pays_for_each(found: Comparison) -> None:
    """DIEN reads a thousand events one after the other, for a hundred candidates, which is tens of times MIMN's head.
    A request is also a door, a GET and an answer, which cost both the same; several times the whole are left."""
    mimn, dien = found.of("MIMN"), found.of("DIEN")
    assert server_cpu(dien, 1_000) >= 4 * server_cpu(mimn, 1_000)
    assert p50(dien, 1_000) >= 4 * p50(mimn, 1_000)
    assert certain_growth(dien.lengths[1_000], dien.lengths[10]) >= 1.5


@pytest.mark.full
def test_a_list_that_is_cut_costs_no_more_however_long_the_history(found: Comparison) -> None:
    for name in ("DIN", "DIEN"):
        model = found.of(name)
        assert model.kept == 1_000
        assert server_cpu(model, 10_000) <= 1.2 * server_cpu(model, 1_000)
