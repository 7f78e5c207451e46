"""The report shows no time for what is saturated, and never a list that was cut as a longer one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from hdrh.histogram import HdrHistogram

from loadtest.report import Comparison, Measured, Origin, markdown, write
from loadtest.result import Result, Run

ORIGIN = Origin({"cpu": "some", "cores": 2}, "abc1234", "make load", datetime(2026, 11, 25, tzinfo=UTC), 61.0)


def result(name: str, latency_ms: float, *, keeps_up: bool = True, span_s: float = 1.0) -> Result:
    made = Result(name, 100, span_s, span_s if keeps_up else 4.0)
    for _ in range(100):
        made.answered(latency_ms / 1000)
    made.server_cpu_s = 0.05
    return made


def model(name: str, times: tuple[float, float], kept: int | None = None) -> Measured:
    return Measured(
        name,
        f"{name.lower()}/1",
        kept,
        {10: result("10 events", times[0]), 10_000: result("10000 events", times[1])},
        [Run([result("fixed", 2.0)]), Run([result("fixed", 777.0, keeps_up=False)])],
        100.0,
        Run([result("fixed", 3.0, span_s=0.2)]),
    )


FOUND = Comparison([model("MIMN", (1.0, 1.1)), model("DIEN", (2.0, 22.0), kept=1_000)], 20_000)


def rows(said: str) -> list[list[list[str]]]:
    """The tables, each a list of rows of cells."""
    tables: list[list[list[str]]] = [[]]
    for line in said.splitlines():
        if line.startswith("|"):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif tables[-1]:
            tables.append([])
    return [table for table in tables if table]


def test_every_row_has_the_columns_of_its_table() -> None:
    tables = rows(markdown(FOUND, ORIGIN))
    assert len(tables) == 3
    for table in tables:
        assert {len(row) for row in table} == {len(table[0])}


def test_a_saturated_rate_has_no_time() -> None:
    said = markdown(FOUND, ORIGIN)
    (row,) = [row for row in rows(said)[2] if row[0] == "MIMN" and "**saturated**" in row]
    assert row[3:7] == ["**saturated**", "", "", ""]
    assert "777" not in said


def test_the_claims_are_ratios_and_name_the_papers() -> None:
    said = markdown(FOUND, ORIGIN)
    assert "1.00 → 1.10 ms (1.10x) for 10 → 10,000 events" in said
    assert "20.0 times MIMN's p50" in said
    assert "200 ms for DIEN and 19 ms" in said
    assert "10,000 (reads 1,000)" in said


def test_what_is_written_can_be_read_back(tmp_path: Path) -> None:
    write(tmp_path / "new", FOUND, ORIGIN)
    stored = json.loads((tmp_path / "new/report.json").read_text())
    histograms = json.loads((tmp_path / "new/histograms.json").read_text())
    assert (stored["commit"], stored["events"]) == ("abc1234", 20_000)
    dien = stored["models"][1]
    for kind in (*dien["lengths"].values(), *dien["rates"][0]["phases"]):
        assert HdrHistogram.decode(histograms[kind["histogram"]]).get_total_count() == 100
    for name in ("latency-against-length.png", "latency-against-rate.png"):
        assert (tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG")
