"""The figures of README.md, and of the section of loadtest/README.md about them, are those of the records they name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONDITIONS = (
    (ROOT / "loadtest/README.md").read_text().partition("## The figures of the front page\n")[2].split("\n## ")[0]
)
"""Where the figures come from, and those of other runs and machines."""


def record(path: str) -> Any:
    """A record that the section names, or whose page beside it."""
    named = [(ROOT / "loadtest" / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", CONDITIONS)]
    assert (ROOT / path).with_suffix("").resolve() in [one.with_suffix("") for one in named]
    return json.loads((ROOT / path).read_text())


def figures(path: str) -> dict[str, float]:
    """Those of a record of budgets, by key."""
    return {one["budget"]["key"]: one["figure"]["value"] for one in record(path)["rows"] if one["figure"]}


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
    told = figures("loadtest/results/2026-11-29_kafka/budgets-28.json")
    assert row("events/s folded")[0] == f"{told['fold_rate']:,.0f}"
    assert row("the same over Kafka Streams")[0] == f"{told['fold_against_streams']:.1f} times"


def test_the_other_machine_is_as_its_record_says() -> None:
    told = figures("loadtest/results/2026-12-01_kafka/budgets-29.json")
    one, eight, rate = (told[key] for key in ("dien_request", "dien_request_under_load", "fold_rate"))
    assert f"took {one:.0f} and {eight:.0f} times MIMN's CPU on [an Intel Xeon" in CONDITIONS
    assert f"which folded {round(rate, -2):,.0f} events/s." in CONDITIONS


def test_other_runs_are_as_their_records_say() -> None:
    before, later, warming = (
        figures(f"loadtest/results/{one}.json")
        for one in ("2026-11-28_kafka/budgets-23", "2026-11-29_kafka/budgets-25", "2026-11-29_kafka/budgets-27")
    )
    assert f"gave {later['fold_rate']:,.0f} |" in CONDITIONS
    one, other, eight = later["dien_request"], before["dien_request"], later["dien_request_under_load"]
    assert f"takes {one:.0f} to {other:.0f} times MIMN's CPU, and {eight:.0f} times with eight at once" in CONDITIONS
    one, other = later["fold_against_streams"], warming["fold_against_streams"]
    assert re.search(
        rf"\[{one:.1f}\]\([^)]+\) and \[{other:.1f}\]\([^)]+\) times as fast as with the cache", CONDITIONS
    )
    models = {one["name"]: one for one in record("loadtest/results/2026-11-27_comparison/report.json")["models"]}
    mimn, dien = (models[name]["lengths"]["10000"]["quantiles_ms"]["0.5"] for name in ("MIMN", "DIEN"))
    assert f"MIMN (without a ledger) took {mimn:.2f} ms and DIEN {dien:.0f} ms" in CONDITIONS


def test_faults_survived_are_those_of_the_last_full_torture() -> None:
    found = record("docs/torture.json")
    scenarios = found["scenarios"]
    leaving = scenarios["clients_that_go_away_leave_nothing_behind"]["faults"]
    survived = sum(one["faults"] for one in scenarios.values()) - leaving
    lost, doubled = (sum(one[kind] for one in scenarios.values()) for kind in ("lost", "doubled"))
    assert found["held"]
    assert row("injected faults")[0] == f"{survived:,} of {survived:,}, {lost} events lost, {doubled} doubled"
    assert f"And {leaving:,} clients that went away in mid-request" in README


def test_auc_stands_in_the_table_of_models() -> None:
    told = re.findall(
        r"0\.\d{4}(?!\d)", "\n".join(line for line in README.splitlines() if "AUC" in line or "DIN has" in line)
    )
    table = (ROOT / "models/experiments/AUC.md").read_text()
    assert len(told) == 6
    assert [figure for figure in told if figure not in table] == []
