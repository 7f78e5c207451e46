"""The runner on made-up data: rows become records and a table, a run that was ended goes on, what is done stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mimn import run, table
from mimn.plan import cells, read_plan
from mimn.records import read_records

pytestmark = pytest.mark.torch

SYNTHETIC = Path(__file__).parents[2] / "models/configs/synthetic_mimn.toml"
POOLING = 'variant = "pooling"\nmemory_induction = false\nutilization = false\n'


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of floors and sum pooling on two folds, its configurations beside it."""
    folder = tmp_path_factory.mktemp("table")
    text = SYNTHETIC.read_text("utf-8").replace("data/instances", f"{folder}/instances")
    head, _, rest = text.partition("[model]\n")
    rest = rest[rest.index("[windows]") :]
    (folder / "synthetic_pooling.toml").write_text(f"{head}[model]\n{POOLING}embedding_dim = 8\n\n{rest}")
    path = folder / "plan.toml"
    path.write_text(
        f'records = "{folder}/records"\nruns = "{folder}/runs"\ntraining = {{ epochs = 2, compile = false }}\n'
        '[[stages]]\ndataset = "synthetic"\nrows = ["floors", "pooling"]\nfolds = [0, 3]\nlengths = [20, 50]\n'
    )
    return path


def test_an_ended_run_goes_on_and_the_table_follows(
    plan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def is_ended(*arguments: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(table, "train", is_ended)
        assert table.main(["--plan", str(plan)]) == 130
    assert "goes on from here" in capsys.readouterr().err

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
        assert rows == 2 * len(floors.of_fold(fold)["user_id"]) == len(pooling.of_fold(fold)["50"])
    assert not set(floors.of_fold(0)["user_id"].tolist()) & set(floors.of_fold(3)["user_id"].tolist())
    text = (plan.parent / "records" / "AUC.md").read_text()
    assert f"| {pooling.name} | 2 |" in text
    assert "Not run" not in text.split("## Synthetic, latest 20 events")[1]

    def must_not_run(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("a finished cell was run again")

    monkeypatch.setattr(table, "run_cell", must_not_run)
    assert table.main(["--plan", str(plan)]) == 0


def test_a_run_that_died_between_epochs_is_resumed(plan: Path) -> None:
    """What an earlier process left in the run folder is used, not refused."""
    found = read_plan(plan)
    cell = next(cell for cell in cells(found, plan.parent) if cell.key == "pooling")
    folder = Path(found.runs) / cell.run_folder
    assert (folder / run.METRICS).exists(), "the test before has trained it"
    before = json.loads((folder / run.METRICS).read_text())
    (folder / run.METRICS).unlink()
    (folder / run.MODEL).unlink()
    after = table.run_cell(found, cell)
    assert after["curve"][-1]["validation_auc"] == before["curve"][-1]["validation_auc"]


def test_a_plan_that_cannot_be_read_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main(["--plan", str(tmp_path / "absent.toml")]) == 1
    assert "absent.toml" in capsys.readouterr().err
