"""The report of engines: medians over the rounds, no time for what was saturated, and rounds that add up."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loadtest.engines_report import Engine, Found, OtherFigures, Turn, markdown, read, table, write
from loadtest.report import Origin

ORIGIN = Origin({"cpu": "some", "cores": 2}, "abc1234", "ctr load", datetime(2026, 11, 26, tzinfo=UTC), 61.0)


def turn(cpu_us: float, *, p50_ms: float | None = 1.0, highest_per_s: float = 400.0) -> Turn:
    return Turn(2 * cpu_us, cpu_us, 900.0, 0.01, 2, 400, 0, p50_ms, None if p50_ms is None else 3.0, highest_per_s, 0.2)


RTP = Engine("rtp", "RTP", "one process", "", [turn(400), turn(500), turn(2_000)])
SLOW = Engine("slow", "Slow", "as it comes", "1.2", [turn(5_000, p50_ms=None, highest_per_s=0.0)] * 3)
FOUND = Found([RTP, SLOW], 100.0, 10.0, 100)


def test_figures_are_medians_with_their_spread_and_as_multiples_of_rtp() -> None:
    rtp, slow = (row.strip("| ").split(" | ") for row in table(FOUND)[2:])
    assert rtp[:3] == ["RTP: one process", "500 [400, 2,000]", "1.0"]
    assert slow[:3] == ["Slow 1.2: as it comes", "5,000 [5,000, 5,000]", "10.0"]


def test_what_was_saturated_has_no_time_and_what_never_held_no_rate() -> None:
    (slow,) = (row.strip("| ").split(" | ") for row in table(FOUND)[3:])
    assert slow[-3:] == ["saturated", "saturated", "below 100"]


def test_rounds_without_a_time_are_said_beside_those_with_one() -> None:
    mixed = Engine("mixed", "Mixed", "now and then", "", [turn(400), turn(400), turn(400, p50_ms=None)])
    (row,) = (row.strip("| ").split(" | ") for row in table(Found([mixed], 100.0, 10.0, 100))[2:])
    assert row[-3] == "1.00 [1.00, 1.00], saturated in 1 of 3"


def test_a_report_is_read_back_and_gets_more_rounds(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    write(tmp_path, FOUND, ORIGIN)
    before = read(tmp_path)
    assert before == FOUND
    both = FOUND.after(before)
    assert [len(engine.turns) for engine in both.engines] == [6, 6]
    assert "Medians of 6 rounds" in markdown(both, ORIGIN)


def test_rounds_at_another_rate_or_of_other_engines_are_refused() -> None:
    for other in (replace(FOUND, rate=50.0), replace(FOUND, engines=[RTP])):
        with pytest.raises(OtherFigures, match="--output"):
            FOUND.after(other)
