"""The measurements behind the capacity model, small, on a whole stack: every price is one, and a plan follows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loadtest import scale
from loadtest.capacity import Costs, Demand, Limits, check, plan, state_bytes
from mimn.bundle import load_bundle

pytestmark = [pytest.mark.servers, pytest.mark.alone]


@pytest.mark.full
def test_what_is_measured_is_enough_to_plan_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr(scale, "COUNTS", (1,))
    monkeypatch.setattr(scale, "RATES", (300, 600))
    monkeypatch.setattr(scale, "CANDIDATES", (1, 100, 400))
    monkeypatch.setattr(scale, "DURABILITY", ("off", "everysec"))
    monkeypatch.setattr(scale, "SAMPLED", 10)
    sizes = scale.Sizes(backlog=20_000, users=5_000, seconds=2, starts=1)
    record = scale.measure(sizes, list(scale.PHASES))
    assert record["rounds"] == [{name: record[name] for name in scale.IN_ROUNDS}], "of one round the median is its own"

    costs = Costs.of(record)
    assert min(costs.fold_us, costs.drain_per_s, costs.store_event_us, costs.candidate_us) > 0
    assert costs.entry_bytes > 0, "a user's entry takes more than the value"
    off, everysec = (row["bytes_an_event"] for row in record["persistence"])
    assert off < record["state_bytes"] / 10, "a store that keeps nothing writes nothing of the events"
    short, longer, longest = (state_bytes(record, events) for events in (20, 100, 1000))
    assert short < longer < longest <= record["state_bytes"], "zeros are left out until a ledger is full"
    assert everysec > short / 4, "each batch appends the states that it changed"
    assert record["candidates"][0]["rtp_us"] < record["candidates"][-1]["rtp_us"]
    ledger = load_bundle(sizes.bundle).ledger
    assert ledger is not None
    beside_it = record["state_bytes"] - 4 * ledger.words
    assert record["memory"]["snapshot_bytes_a_user"] > beside_it / 2, "a ledger's empty places compress"
    demand = Demand(1e6, 1e4, 1e3, state_bytes=record["state_bytes"])
    assert plan(demand, costs, Limits()).uic_workers >= 1
    assert [row.what for row in check(record)] == ["UIC workers: 1", "RTP processes: 1"]
    assert record["machine"]["cores"] == os.cpu_count()
