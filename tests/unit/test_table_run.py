"""The runner on made-up data: rows become records and a table, a run that was ended goes on, what is done stays."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimn import run
from mimn.data_set import load_data
from mimn.table import curves, slices
from mimn.table import run as table
from mimn.table.plan import cells, read_plan
from mimn.table.records import read_records
from mimn.table.trained import trained
from support import datasets

pytestmark = pytest.mark.torch

POOLING = 'variant = "pooling"\nmemory_induction = false\nutilization = false\n'


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of floors and sum pooling on two folds, its configurations beside it."""
    folder = tmp_path_factory.mktemp("table")
    text = datasets.smoke_text(folder)
    head, _, rest = text.partition("[model]\n")
    rest = rest[rest.index("[windows]") :]
    (folder / "synthetic_pooling.toml").write_text(f"{head}[model]\n{POOLING}embedding_dim = 8\n\n{rest}")
    path = folder / "plan.toml"
    path.write_text(
        f'configs = "{folder}"\nrecords = "{folder}/records"\nruns = "{folder}/runs"\n'
        "training = { epochs = 2, compile = false }\n"
        '[[stages]]\ndataset = "synthetic"\nrows = ["floors", "pooling"]\nfolds = [0, 3]\nlengths = [20, 50]\n'
    )
    return path


@pytest.fixture(scope="module")
def ceiling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of floors and boosting on one fold."""
    folder = tmp_path_factory.mktemp("ceiling")
    head, _, rest = datasets.smoke_text(folder).partition("[model]\n")
    rest = rest[rest.index("[windows]") :]
    for row, more in {"pooling": "", "pooling_ledger": 'ledger_buckets = 4\nledger_types = ["category"]\n'}.items():
        (folder / f"synthetic_{row}.toml").write_text(f"{head}[model]\n{POOLING}embedding_dim = 8\n{more}\n{rest}")
    path = folder / "plan.toml"
    path.write_text(
        f'configs = "{folder}"\nrecords = "{folder}/records"\nruns = "{folder}/runs"\n'
        '[[stages]]\ndataset = "synthetic"\nrows = ["floors", "boosting"]\nfolds = [3]\nlengths = [50]\n'
    )
    return path


@pytest.mark.full
def test_boosting_is_a_row_that_reads_the_events_and_learns_what_counting_learns(ceiling: Path) -> None:
    assert table.main(["--plan", str(ceiling)]) == 0
    boosting, floors = read_records(ceiling.parent / "records")
    assert boosting.name == "gradient boosting on the raw history"
    found = boosting.folds[3]
    assert found["state_bytes"] is None
    assert "validation_auc" not in found, "it is no model to choose"
    counts = floors.folds[3]["evaluation"]["50"]["popularity"]["counts"]["auc"]
    assert found["evaluation"]["50"]["popularity"]["auc"] > counts - 0.03
    assert "gradient boosting on the raw history" in (ceiling.parent / "records" / "AUC.md").read_text()


@pytest.mark.full
def test_slices_of_boosting_need_no_run(ceiling: Path) -> None:
    assert slices.main([str(ceiling), "--part", "validation"]) == 0
    with (ceiling.parent / "records" / "slices-validation.csv").open() as file:
        found = [line for line in csv.DictReader(file) if line["targets"] == "all"]
    assert {line["negatives"] for line in found} == {"popularity", "recent"}
    assert all(float(line["auc"]) > 0.55 for line in found)


@pytest.fixture
def complete(plan: Path) -> Path:
    """The plan, all of it run."""
    assert table.main(["--plan", str(plan)]) == 0
    return plan


def test_an_ended_run_goes_on_and_the_table_follows(
    plan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def is_ended(*arguments: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(table, "train", is_ended)
        assert table.main(["--plan", str(plan)]) == 130
    assert "continues from here" in capsys.readouterr().err

    assert table.main(["--plan", str(plan), "--cpu-minutes", "0.0000001"]) == 0
    out = capsys.readouterr().out
    assert "CPU minutes are used up" in out
    assert "synthetic pooling: folds 0, 3" in out

    assert table.main(["--plan", str(plan)]) == 0
    assert "the table is complete" in capsys.readouterr().out
    floors, pooling = read_records(plan.parent / "records")
    assert sorted(floors.folds) == sorted(pooling.folds) == [0, 3]
    for fold in (0, 3):
        assert pooling.folds[fold]["seed"] == fold
        assert pooling.folds[fold]["instances_sha256"] == floors.folds[fold]["instances_sha256"]
        rows = pooling.folds[fold]["evaluation"]["50"]["popularity"]["rows"]
        assert rows == 2 * len(floors.of_fold(fold)["user"]) == len(pooling.of_fold(fold)["50"])
        users = floors.of_fold(fold)["user"]
        assert np.unique(users).tolist() == list(range(users.max() + 1)), "records number users, and hold no ids"
    tested = [
        set(load_data(cell.config.data).instances.of("test").user_id.tolist())
        for cell in cells(read_plan(plan))
        if cell.key == "pooling"
    ]
    assert not tested[0] & tested[1]
    text = (plan.parent / "records" / "AUC-appendix.md").read_text()
    assert f"| {pooling.name} | 2 |" in text
    assert "Not run" not in text.split("## synthetic, latest 20 events")[1]

    def must_not_run(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("a finished cell was run again")

    monkeypatch.setattr(table, "run_cell", must_not_run)
    assert table.main(["--plan", str(plan)]) == 0


def test_a_run_that_died_between_epochs_is_resumed(complete: Path) -> None:
    """What an earlier process left in the run folder is used, not refused."""
    found = read_plan(complete)
    cell = next(cell for cell in cells(found) if cell.key == "pooling")
    folder = Path(found.runs) / cell.run_folder
    assert (folder / run.METRICS).exists()
    before = json.loads((folder / run.METRICS).read_text())
    (folder / run.METRICS).unlink()
    (folder / run.MODEL).unlink()
    after = table.run_cell(found, cell)
    assert after["curve"][-1]["validation_auc"] == before["curve"][-1]["validation_auc"]


def test_curves_follow_from_the_run_folders(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reading at a length is the table's own figure at that length; a delay of nothing is no delay."""
    monkeypatch.setattr(curves, "CURVE_ROWS", ("pooling", "absent"))
    models = list(trained([complete], "synthetic", curves.CURVE_ROWS))
    assert [one.cell.fold for one in models] == [0, 3]
    (at_none, late) = curves.delay_curve(models, (0, 24 * 365), length=50)
    _, pooling = read_records(complete.parent / "records")
    recorded = [pooling.folds[fold]["evaluation"]["50"]["popularity"]["auc"] for fold in (0, 3)]
    assert at_none.auc == pytest.approx(sum(recorded) / 2, abs=1e-6)
    assert at_none.low < at_none.auc < at_none.high
    assert (at_none.folds, late.folds) == (2, 2)
    assert late.auc < at_none.auc - 0.02, "a state without the last year knows one event"

    short, longer = curves.length_curve(models, (1, 40))
    assert short.positives == longer.positives
    assert short.auc < longer.auc - 0.02


def test_a_data_set_that_is_not_there_is_said_before_anything_is_trained(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second stage's folder is missing: the first stage must not have trained for minutes by then."""
    configs = tmp_path / "configs"
    configs.mkdir()
    text = (plan.parent / "synthetic_pooling.toml").read_text()
    (configs / "synthetic_pooling.toml").write_text(text)
    missing = re.sub('description = ".*"', f'description = "{tmp_path}/absent.toml"', text)
    (configs / "elsewhere_pooling.toml").write_text(missing)
    other = tmp_path / "plan.toml"
    other.write_text(
        f'configs = "{configs}"\nrecords = "{tmp_path}/records"\nruns = "{tmp_path}/runs"\n'
        '[[stages]]\ndataset = "synthetic"\nrows = ["pooling"]\nfolds = [0]\n'
        '[[stages]]\ndataset = "elsewhere"\nrows = ["pooling"]\nfolds = [0]\n'
    )

    def must_not_train(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("a row was trained before the data of all rows was read")

    monkeypatch.setattr(table, "train", must_not_train)
    assert table.main(["--plan", str(other)]) == 1
    assert "absent" in capsys.readouterr().err
