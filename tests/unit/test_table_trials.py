"""Trials on made-up data: rows of a plan against the first of their stage, on validation users alone."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimn.data.instances import Instances
from mimn.table import trials
from support import datasets

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sum pooling with and without a sketch, on two folds."""
    folder = tmp_path_factory.mktemp("trials")
    text = datasets.smoke_text(folder)
    head, _, rest = text.partition("[model]\n")
    model = 'variant = "pooling"\nmemory_induction = false\nutilization = false\nembedding_dim = 8\n\n'
    (folder / "synthetic_pooling.toml").write_text(f"{head}[model]\n{model}{rest[rest.index('[windows]') :]}")
    path = folder / "plan.toml"
    path.write_text(
        f'configs = "{folder}"\nrecords = "{folder}/records"\nruns = "{folder}/runs"\n'
        "training = { epochs = 1, compile = false }\n"
        '[[stages]]\ndataset = "synthetic"\nrows = ["pooling", "counting"]\nfolds = [0, 3]\nlengths = [20, 50]\n'
        '[variations.counting]\nconfig = "pooling"\nname = "counting"\ntraining = { epochs = 2 }\n'
        "model = { sketch_category_cells = 8, sketch_item_cells = 16 }\n"
    )
    return path


def test_trials_read_validation_users_and_compare_with_a_stages_first_row(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = Instances.of

    def never_test_users(self: Instances, part: Any, *rest: Any) -> Instances:
        assert part != "test"
        return of(self, part, *rest)

    monkeypatch.setattr(Instances, "of", never_test_users)
    assert trials.main([str(plan)]) == 0
    folder = plan.parent / "records"
    with (folder / "trials.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["row"], line["fold"], line["length"]) for line in lines] == [
        (row, fold, length) for fold in "03" for row in ("pooling", "counting") for length in ("20", "50")
    ]
    with (folder / "differences.csv").open(newline="") as file:
        differences = list(csv.DictReader(file))
    for found in differences:
        of_row: dict[str, list[float]] = {"counting": [], "pooling": []}
        for line in lines:
            if line["length"] == found["length"]:
                of_row[line["row"]].append(float(line["validation_auc"]))
        expected = np.mean(of_row["counting"]) - np.mean(of_row["pooling"])
        assert (found["difference"], found["folds"]) == ("counting - pooling", "2")
        assert float(found["auc"]) == pytest.approx(expected, abs=2e-5)

    def must_not_run(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("a finished run was trained or scored again")

    monkeypatch.setattr(trials, "train", must_not_run)
    monkeypatch.setattr(trials, "predict", must_not_run)
    assert trials.main([str(plan)]) == 0
