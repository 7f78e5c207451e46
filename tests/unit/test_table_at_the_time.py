"""Negatives at the time: what several plans recorded of the test users is one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mimn.table.at_the_time import RECORDS, REPLACED, VALIDATION, at_the_time, chosen_by, differences
from mimn.table.compare import Results
from mimn.table.plan import Plan
from mimn.table.records import Record

PLAN = Plan(configs="", records="", runs="", stages=())
HEAD = "dataset,row,fold,trainings,length,negatives,targets,count,auc\n"
COMPARED = "dataset,difference,trainings,folds,length,negatives,targets,auc,low,high\n"


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def line(row: str, length: int, auc: float, negatives: str = "recent", trainings: int = 1) -> str:
    return f"films,{row},0,{trainings},{length},{negatives},all,10,{auc}\n"


def test_each_row_is_shown_as_the_first_record_has_it_with_the_longest_histories(tmp_path: Path) -> None:
    first, second, *_ = (tmp_path / path for path in RECORDS)
    put(
        first,
        HEAD
        + line("ours", 200, 0.7)
        + line("ours", 1000, 0.71, trainings=3)
        + line("ours", 1000, 0.9, "popularity", 3),
    )
    put(second, HEAD + line("ours", 1000, 0.5) + line("theirs", 200, 0.8) + line("theirs", 1000, 0.6))
    text = "\n".join(at_the_time(tmp_path, [], PLAN))
    assert "| `ours` | 0.7100 (1 of 5 folds) (3 trainings) |" in text
    assert "| `theirs` | 0.6000 (1 of 5 folds) |" in text
    assert "0.5000" not in text


def test_trainings_of_a_row_are_averaged_within_each_fold(tmp_path: Path) -> None:
    put(
        tmp_path / RECORDS[0],
        HEAD
        + line("ours", 200, 0.7)
        + line("ours_10", 200, 0.73, trainings=2)
        + line("ours", 200, 0.5).replace(",0,1,", ",3,1,")
        + line("theirs_10", 200, 0.4),
    )
    text = "\n".join(at_the_time(tmp_path, [], PLAN))
    assert "| `ours` | 0.6100 (2 of 5 folds) (1 or 3 trainings) |" in text
    assert "| `theirs_10` | 0.4000 (1 of 5 folds) |" in text


def test_differences_of_all_records_are_shown_and_none_without_them(tmp_path: Path) -> None:
    assert differences(tmp_path, PLAN) == []
    assert at_the_time(tmp_path, [], PLAN) == []
    for number, path in enumerate(RECORDS):
        compared = f'films,a - b,"1, 3",0 1,1000,recent,all,0.0{number + 1},0.001,0.03\n'
        put(tmp_path / path.with_name(f"{path.stem}-differences.csv"), COMPARED + compared)
    text = "\n".join(differences(tmp_path, PLAN))
    assert "| `a - b` | 0 1 | 1, 3 | 1,000 | all | +0.0100 [+0.0010, +0.0300] |" in text
    assert "+0.0200 [+0.0010, +0.0300]" in text


def test_rows_are_chosen_by_negatives_at_the_time_and_boosting_is_no_choice(
    tmp_path: Path,
) -> None:
    measured = (
        line("ours", 1000, 0.7) + line("ours_10", 1000, 0.73, trainings=2) + line("ours", 1000, 0.9, "popularity")
    )
    put(tmp_path / VALIDATION[0], HEAD + measured + line("ours", 200, 0.5) + line("boosting", 1000, 0.99))
    put(tmp_path / VALIDATION[1], HEAD + line("ours", 1000, 0.1) + line("theirs", 1000, 0.75))
    put(tmp_path / RECORDS[0], HEAD + line("theirs", 1000, 0.8))
    assert chosen_by(tmp_path, []) == {"films": {"ours": {0: pytest.approx(0.72)}, "theirs": {0: 0.75}}}
    assert chosen_by(tmp_path / "nothing", []) == {}


def test_figures_of_a_training_that_is_not_on_record_any_more_choose_nothing(tmp_path: Path) -> None:
    folds = {0: {"validation_auc": 0.81, "instances_sha256": None}}
    recorded: dict[str, Sequence[Record]] = {
        key: [Record("films", key, key, folds=folds)] for key in ("ours", "theirs")
    }
    measured = line("ours", 200, 0.80999, "popularity") + line("theirs", 200, 0.805, "popularity")
    measured += line("ours", 200, 0.7) + line("theirs", 200, 0.9)
    put(tmp_path / VALIDATION[0], HEAD + measured)
    found = Results("films", Record("films", "floors", "", folds=folds), recorded)
    assert chosen_by(tmp_path, [found]) == {"films": {"ours": {0: 0.7}}}


def test_a_further_training_alone_has_the_name_of_its_row(tmp_path: Path) -> None:
    put(tmp_path / RECORDS[0], HEAD + line("theirs_10", 200, 0.4))
    recorded = Results("films", Record("films", "floors", ""), {"theirs": [Record("films", "theirs", "DIEN")]})
    assert "| DIEN | 0.4000 (1 of 5 folds) |" in "\n".join(at_the_time(tmp_path, [recorded], PLAN))


def test_a_recipe_that_the_default_replaced_is_neither_shown_nor_chosen(tmp_path: Path) -> None:
    (before,) = REPLACED
    for path in (RECORDS[0], VALIDATION[0]):
        measured = line(before, 200, 0.9) + line(f"{before}_10", 200, 0.9) + line("default", 200, 0.8)
        put(tmp_path / path, HEAD + measured)
    shown = at_the_time(tmp_path, [], PLAN)
    assert [row.split(" (")[0] for row in shown if row.startswith("| `")] == ["| `default` | 0.8000"]
    assert chosen_by(tmp_path, []) == {"films": {"default": {0: 0.8}}}
