"""The figures of README.md are those of the records that it names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def record(path: str) -> Any:
    """A record, which README names or whose page beside it README names."""
    assert re.search(rf"\({re.escape(str(Path(path).with_suffix('')))}\.|/{re.escape(Path(path).parent.name)}/", README)
    return json.loads((ROOT / path).read_text())


def row(beginning: str) -> list[str]:
    """The cells of the table's row that begins so, without footnotes."""
    (line,) = (line for line in README.splitlines() if line.startswith(f"| {beginning}"))
    return [re.sub(r" ?[¹²³⁴]", "", cell).strip() for cell in line.strip("| ").split("|")][1:]


def test_latencies_and_knees_are_those_of_the_comparison() -> None:
    models = record("loadtest/results/2026-11-28_comparison/report.json")["models"]
    assert [model["name"] for model in models] == ["MIMN", "DIN", "DIEN"]
    for beginning, events in (("p50, history of 10 events", "10"), ("p50, history of 10,000 events", "10000")):
        p50 = [f"{model['lengths'][events]['quantiles_ms']['0.5']:.2f} ms" for model in models]
        assert row(beginning)[:3] == p50
    assert row("knee")[:3] == [f"{model['knee_per_s']:,.0f}" for model in models]


def test_the_fold_is_as_fast_as_the_budgets_record_says() -> None:
    rows = record("loadtest/results/2026-11-29_kafka/budgets-28.json")["rows"]
    figures = {one["budget"]["key"]: one["figure"]["value"] for one in rows if one["figure"]}
    assert row("events/s folded")[0] == f"{figures['fold_rate']:,.0f}"
    assert row("the same over Kafka Streams")[0] == f"{figures['fold_against_streams']:.1f} times"


def test_the_other_machine_is_as_its_record_says() -> None:
    rows = record("loadtest/results/2026-12-01_kafka/budgets-29.json")["rows"]
    figures = {one["budget"]["key"]: one["figure"]["value"] for one in rows if one["figure"]}
    one, eight, rate = (figures[key] for key in ("dien_request", "dien_request_under_load", "fold_rate"))
    assert f"({one:.0f} and {eight:.0f} times on [an Intel Xeon" in README
    assert f"which folded {round(rate, -2):,.0f} events/s)" in README


def test_faults_survived_are_those_of_the_last_full_torture() -> None:
    found = record("docs/torture.json")
    scenarios = found["scenarios"]
    leaving = scenarios["clients_that_go_away_leave_nothing_behind"]["faults"]
    survived = sum(one["faults"] for one in scenarios.values()) - leaving
    lost, doubled = (sum(one[kind] for one in scenarios.values()) for kind in ("lost", "doubled"))
    assert found["held"]
    assert row("injected faults")[0] == f"{survived:,} of {survived:,}, {lost} events lost, {doubled} doubled"
    assert f"{leaving:,}\nclients" in README


def test_auc_stands_in_the_table_of_models() -> None:
    told = re.findall(
        r"0\.\d{4}(?!\d)", "\n".join(line for line in README.splitlines() if "AUC" in line or "DIN has" in line)
    )
    table = (ROOT / "models/experiments/AUC.md").read_text()
    assert len(told) == 6
    assert [figure for figure in told if figure not in table] == []
