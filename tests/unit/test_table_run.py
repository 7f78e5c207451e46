"""The runner on made-up data: rows become records and a table, a run that was ended goes on, what is done stays."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mimn import run
from mimn.config import MimnConfig
from mimn.data_set import load_data
from mimn.nn.model import MimnModel
from mimn.scoring import predict
from mimn.table import curves, slices, slots
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


def test_a_plan_that_cannot_be_read_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main(["--plan", str(tmp_path / "absent.toml")]) == 1
    assert "absent.toml" in capsys.readouterr().err


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


def test_a_curve_shows_each_row_as_it_was_trained_longest(complete: Path, tmp_path: Path) -> None:
    """All trainings of the longer one, and none of the shorter."""
    longer = tmp_path / "longer.toml"
    longer.write_text(
        f'configs = "{complete.parent}"\nrecords = "{tmp_path}/records"\nruns = "{tmp_path}/runs"\n'
        '[[stages]]\ndataset = "synthetic"\nrows = ["pooling_long"]\nfolds = [0]\ntrainings = 2\n'
        '[variations.pooling_long]\nconfig = "pooling"\nname = "sum pooling, trained long"\n'
    )
    plans = [complete, longer]
    assert [one.cell.key for one in trained(plans, "synthetic", ["pooling"])] == ["pooling", "pooling"]

    short = next(cell for cell in cells(read_plan(complete)) if (cell.key, cell.fold) == ("pooling", 0))
    for cell in cells(read_plan(longer)):  # as if they had been trained
        shutil.copytree(complete.parent / "runs" / short.run_folder, tmp_path / "runs" / cell.run_folder)
    found = list(trained(plans, "synthetic", ["pooling"]))
    assert [(one.row, one.cell.key) for one in found] == [("pooling", "pooling_long"), ("pooling", "pooling_long_10")]
    (point,) = curves.delay_curve(found, (0,), length=50)
    assert (point.row, point.trainings) == ("sum pooling, trained long", 2)


def test_an_ended_history_lacks_exactly_the_last_hours(complete: Path) -> None:
    one = next(trained([complete], "synthetic", ["pooling"]))
    test = one.data.instances.of("test")
    ends = curves.ends_before(one.data, test, 36 * 3600)
    times = one.data.events.timestamp
    for i in range(0, len(test), 17):
        kept = [row for row in range(test.begin[i], test.end[i]) if times[row] <= test.timestamp[i] - 36 * 3600]
        assert ends[i] - test.begin[i] == max(len(kept), 1)
    assert (curves.ends_before(one.data, test, 0) == test.end).all()


def test_a_repeated_history_is_the_real_one_again_and_again(complete: Path) -> None:
    one = next(trained([complete], "synthetic", ["pooling"]))
    test = one.data.instances.of("test")
    some = test.select(np.arange(len(test)) < 5)
    events, instances = curves.repeat_histories(one.data.events, some, 200)
    for i in range(5):
        real = slice(int(some.begin[i]), int(some.end[i]))
        size = real.stop - real.start
        mine = slice(int(instances.begin[i]), int(instances.end[i]))
        assert (mine.stop - mine.start) % size == 0
        assert 200 <= mine.stop - mine.start < 200 + size
        items = events.item_id[mine].reshape(-1, size)
        assert (items == one.data.events.item_id[real]).all()
        np.testing.assert_array_equal(events.timestamp[mine][-size:], one.data.events.timestamp[real])
        assert (np.diff(events.timestamp[mine]) >= 0).all()
    # Sum pooling reads a mean: repeating whole histories leaves it, but for the count, where it is.
    (once, again) = (
        predict(one.model, one.ids, *of, samplings={"popularity": 1}, length=10_000)["popularity"]
        for of in ((one.data.events, some), (events, instances))
    )
    assert np.corrcoef(once, again)[0, 1] > 0.9


@pytest.mark.parametrize("utilization", [True, False])
def test_write_weights_are_those_that_the_cell_writes_with(utilization: bool) -> None:
    """With MUR the state keeps their mean; without, the memory itself must follow from them."""
    torch.manual_seed(0)
    config = MimnConfig(embedding_dim=3, controller_units=5, slots=4, utilization=utilization)
    model = MimnModel(config, 20, 6)
    items, categories = torch.randint(20, (3, 9)), torch.randint(6, (3, 9))
    with torch.inference_mode():
        weights = slots.write_weights(model, items, categories)
        states = model.unroll(items, categories)
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 9))
        last = model.cell.unpack(states[:, -1])
        if utilization:
            torch.testing.assert_close(weights.mean(1), last["shares"])
            return
        before, after = model.cell.unpack(states[:, -2]), last
        controls = model.cell.controls(after["controller"], None)  # type: ignore[operator]  # of variant `paper`
        w = weights[:, -1].unsqueeze(-1)
        expected = before["memory"] * (1 - w * controls.erase.unsqueeze(1)) + w * controls.add.unsqueeze(1)
        torch.testing.assert_close(after["memory"], expected)


def test_curves_need_a_trained_row(plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--plans", str(plan), "--dataset", "synthetic", "--output", str(tmp_path), "--only", "length"]
    assert curves.main([*command, "--runs", str(tmp_path)]) == 1
    assert "run `python -m mimn.table` first" in capsys.readouterr().err


def test_curves_are_written_as_csv_and_png(tmp_path: Path) -> None:
    points = [curves.Point("synthetic", "a", x, 0.5 + x / 100, 0.4, 0.7, 2, 3, 100) for x in (10, 20)]
    curves.write_csv(points, tmp_path / "new" / "a.csv")
    assert (tmp_path / "new" / "a.csv").read_text().splitlines() == [
        "dataset,row,x,auc,low,high,folds,trainings,positives",
        "synthetic,a,10,0.60000,0.40000,0.70000,2,3,100",
        "synthetic,a,20,0.70000,0.40000,0.70000,2,3,100",
    ]
    curves.draw(points, tmp_path / "a.png", x="events read", log=True)
    shares = [slots.SlotShare("synthetic", "a", slot, 0.5, 1, 10) for slot in (1, 2)]
    slots.draw_shares(shares, tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


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


def test_a_data_set_that_the_plan_does_not_name_is_rendered_by_its_key(complete: Path) -> None:
    assert read_plan(complete).datasets == {}
    assert "| synthetic |" in (complete.parent / "records" / "AUC.md").read_text()
