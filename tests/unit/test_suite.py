"""The table at the end of `make test` says what ran, and what is published is what the record of a full run says."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

import suite
from suite import Outcome
from support import skips
from torture.stage import Tally

PASSED = Outcome("tests/unit/test_a.py::test_a", "passed")
TALLY = asdict(Tally(trials=2, faults=3))


def run_of(*outcomes: Outcome, static: bool = True) -> suite.Run:
    return suite.summed(outcomes, "abc", False, {"static": static}, 12.0)


def test_a_failure_of_a_check_or_a_test_is_a_failed_run() -> None:
    assert run_of(PASSED).held
    assert not run_of(PASSED, static=False).held
    assert not run_of(PASSED, Outcome("tests/unit/test_a.py::test_b", "failed")).held
    assert not run_of().held


def test_the_table_counts_and_names_failures_and_skips() -> None:
    failed, skipped = Outcome("tests/e2e/t.py::x", "failed"), Outcome("tests/e2e/t.py::y", "skipped", skips.NO_WRK)
    lines = suite.table(run_of(PASSED, failed, skipped), None).splitlines()
    assert lines[-1] == "1 passed, 1 failed, 1 skipped"
    assert "  failed: tests/e2e/t.py::x" in lines
    assert f"  1 skipped: {skips.NO_WRK}" in lines


def test_without_kafka_the_table_names_the_promises_and_settings() -> None:
    skipped = Outcome("tests/integration/t.py::y", "skipped", skips.NO_KAFKA)
    assert suite.UNTESTED in suite.table(run_of(PASSED, skipped), None)
    assert suite.UNTESTED not in suite.table(run_of(PASSED), None)


def test_parts_of_a_scenario_add_up_and_a_loss_is_shown() -> None:
    part = Outcome("tests/torture/t.py::a", "passed", torture={"scenario": "kills", "tally": TALLY})
    lossy = replace(part, torture={"scenario": "floods", "tally": {**TALLY, "lost": 4, "wrong": ["4 lost"]}})
    run = run_of(part, part, lossy)
    assert run.scenarios["kills"]["faults"] == 6
    assert "| 6 of 9, 4 events lost, 0 doubled ³ |" in suite.with_row(f"a\n{suite.README_ROW} | b |\nc", run)
    assert "**did not hold**" in suite.page(run)
    assert f"{run.commit}`, {run.date}" in suite.table(run, run)


def test_a_run_that_breaks_off_counts_as_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(suite, "ROOT", tmp_path)  # which has no tests
    [broken] = suite.tests("not alone", "tests", full=False)
    assert broken.outcome == "failed"


def test_the_published_page_and_row_are_made_from_the_record() -> None:
    record = suite.last_record()
    assert record
    readme = suite.README.read_text("utf-8")
    assert suite.PAGE.read_text("utf-8") == suite.page(record)
    assert suite.with_row(readme, record) == readme
