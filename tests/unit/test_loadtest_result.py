"""What is called a latency, and what is stored of it."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.result import HIGHEST_US, Result, Run


def result(latencies_ms: list[float], *, due: int | None = None, seconds: float = 1.0) -> Result:
    made = Result("fixed", len(latencies_ms) if due is None else due, 1.0, seconds)
    for latency in latencies_ms:
        made.answered(latency / 1000)
    return made


def test_quantiles_are_those_of_the_latencies() -> None:
    made = result([float(i) for i in range(1, 101)])
    assert made.quantile_ms(0.5) == pytest.approx(50, rel=1e-3)
    assert made.quantile_ms(0.99) == pytest.approx(99, rel=1e-3)
    assert made.quantile_ms(1.0) == pytest.approx(100, rel=1e-3)


def test_a_rate_that_is_not_achieved_is_saturated_and_has_no_latency() -> None:
    kept_up = result([1.0] * 99, due=100)
    assert not kept_up.saturated
    assert kept_up.to_json()["quantiles_ms"]
    fell_behind = result([1.0] * 100, seconds=1.02)
    assert fell_behind.saturated
    assert fell_behind.to_json()["quantiles_ms"] == {}
    assert "saturated" in str(fell_behind)
    assert "p99" not in str(fell_behind)
    assert result([1.0] * 98, due=100).saturated, "answers that never came are a rate that was not achieved"
    assert result([], due=100).saturated


def test_a_latency_beyond_the_histogram_counts_as_its_highest() -> None:
    assert result([1e9]).quantile_ms(1.0) >= HIGHEST_US / 1000
    assert result([0.0]).count == 1


@settings(max_examples=25)  # each encodes and decodes four histograms
@given(latencies=st.lists(st.floats(0.001, 59_000), min_size=1, max_size=200), dropped=st.integers(0, 5))
def test_a_run_survives_its_file(latencies: list[float], dropped: int) -> None:
    made = result(latencies)
    made.errors, made.dropped, made.server_cpu_s = Counter({"HTTP 503": 2}), dropped, 0.5
    run = Run([made], 0.25)
    run.late.record_value(100)
    stored = json.dumps(run.to_json())
    read = Run.from_json(json.loads(stored))
    assert json.dumps(read.to_json()) == stored
    assert read.phases[0].latencies.equals(made.latencies)
    raw = HdrHistogram.decode(json.loads(stored)["phases"][0]["histogram"])
    assert raw.get_total_count() == len(latencies), "any HdrHistogram library reads what is stored"


def test_a_run_is_trusted_only_without_failures() -> None:
    assert Run([result([1.0] * 10)]).trusted
    for spoil in ("errors", "dropped", "seconds"):
        spoilt = result([1.0] * 1000)
        if spoil == "errors":
            spoilt.errors["HTTP 504"] += 1
        else:
            setattr(spoilt, spoil, 5)
        assert not Run([result([1.0] * 10), spoilt]).trusted, spoil
