"""The whole path on made-up data: training learns, an interrupted run ends where an unbroken one does, evaluation
follows from the run folder. Under a minute.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mimn import evaluate, run, train
from mimn.bundle import load_bundle
from mimn.data import synthetic
from mimn.data.events import COLUMNS, DataError
from mimn.data.split import PARTS, parts_of
from mimn.data.vocabulary import EmbeddingIds
from mimn.data_set import DataSet, load_data
from mimn.export.__main__ import main as export_main
from mimn.export.run import export_run
from mimn.nn.checkpoint import load_model
from mimn.nn.model import ClickModel, MimnModel
from mimn.run_config import DataSettings, RunConfig, decode_config, read_config
from mimn.scoring import predict
from mimn.training import loop
from mimn.training.folder import TrainingFailed
from mimn.training.processes import ALONE
from mimn.training.schedule import Epoch, Measure, Schedule
from mimn.training.settings import AUTO_EPOCHS, TrainingSettings
from mimn.training.teachers import Teachers
from mimn.training.warm import Start
from support import datasets
from support.small_disk import no_room_for

pytestmark = pytest.mark.torch


def smoke_config(folder: Path) -> RunConfig:
    """The committed smoke configuration, its instances in `folder`, with dropout so that a resumed run must get its
    random numbers right as well."""
    config = decode_config(datasets.smoke_text(folder), "test")
    return msgspec.structs.replace(config, model=config.model | {"head_dropout": 0.1})


def epochs(config: RunConfig, number: int | Literal["auto"], **training: Any) -> RunConfig:
    return msgspec.structs.replace(config, training=msgspec.structs.replace(config.training, epochs=number, **training))


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    curve = [{name: value for name, value in epoch.items() if name != "cpu_s"} for epoch in record["curve"]]
    return {name: value for name, value in record.items() if name != "targets_per_cpu_s"} | {"curve": curve}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("smoke")


@pytest.fixture(scope="module")
def trained(folder: Path) -> dict[str, Any]:
    return train.train(smoke_config(folder), folder / "whole")


def test_training_learns_what_was_planted(trained: dict[str, Any]) -> None:
    assert trained["validation_auc"] > 0.7
    assert trained["curve"][-1]["loss"] < trained["curve"][0]["loss"] - 0.05


def test_the_run_folder_is_complete(folder: Path, trained: dict[str, Any]) -> None:
    names = {path.name for path in (folder / "whole").iterdir()}
    assert names == {
        run.CONFIG, run.METRICS, run.MODEL, run.LOG, run.CURVES, "items.ids.npy", "categories.ids.npy",
    }  # fmt: skip
    assert json.loads((folder / "whole" / run.METRICS).read_text()) == trained
    assert read_config(folder / "whole" / run.CONFIG).architecture == smoke_config(folder).architecture
    assert (folder / "whole" / run.CURVES).read_bytes().startswith(b"\x89PNG")
    assert "epoch 4" in (folder / "whole" / run.LOG).read_text()


class Interrupted(Exception):
    """Stands for a killed process."""


def train_until_killed(config: RunConfig, output: Path, patch: pytest.MonkeyPatch, *, after: int) -> None:
    """Start a run that is killed in the epoch after `after` of them."""
    real = loop.Epochs.run

    def dies(epochs: loop.Epochs) -> Epoch:
        if len(epochs.schedule.curve) == after:
            raise Interrupted
        return real(epochs)

    with patch.context() as patched:
        patched.setattr(loop.Epochs, "run", dies)
        with pytest.raises(Interrupted):
            train.train(config, output)


def test_a_resumed_run_ends_like_an_unbroken_one(
    folder: Path, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, output = smoke_config(folder), folder / "resumed"
    train_until_killed(config, output, monkeypatch, after=2)
    assert (output / run.CHECKPOINT).exists()
    assert not (output / run.METRICS).exists()

    resumed = train.train(config, output, resume=True)
    assert without_times(resumed) == without_times(trained)
    assert (output / run.MODEL).read_bytes() == (folder / "whole" / run.MODEL).read_bytes()
    assert "resumed after epoch 2" in (output / run.LOG).read_text()


def test_a_killed_run_is_neither_exported_nor_evaluated(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, output, bundles = epochs(smoke_config(folder), 3), tmp_path / "run", tmp_path / "bundles"
    train_until_killed(config, output, monkeypatch, after=1)
    assert (output / run.MODEL).exists()
    assert export_main(["--run", str(output), "--output", str(bundles), "--name", "half", "--version", "1"]) == 1
    assert evaluate.main(["--run", str(output)]) == 1
    said = capsys.readouterr().err
    assert said.count(f"{output} holds no finished run") == said.count("--resume") == 2
    assert not bundles.exists()


@pytest.mark.full
def test_a_schedule_ends_when_patience_runs_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = epochs(smoke_config(folder), "auto", patience=2, learning_rate=5e-2, learning_rate_decay=0.5)
    record = train.train(config, folder / "auto")
    assert record["epochs"] == record["best_epoch"] + 2 < AUTO_EPOCHS
    assert not [one for one in caplog.records if one.levelname == "WARNING"]


@pytest.mark.parametrize(("schedule", "lowered"), [(20, [0, 1, 2, 3, 4]), ("auto", [0, 0, 0, 1, 1])])
def test_a_schedule_chosen_by_validation_lowers_the_rate_only_after_epochs_that_were_not_the_best(
    folder: Path, schedule: int | Literal["auto"], lowered: list[int]
) -> None:
    settings = epochs(smoke_config(folder), schedule, learning_rate=1.0, learning_rate_decay=0.5).training
    aucs, rates = [0.5, 0.6, 0.6, 0.7], []
    for number in range(len(aucs) + 1):
        curve = [Epoch(loss=1.0, validation={"auc": auc}, counts={}, cpu_s=0.0) for auc in aucs[:number]]
        rates.append(Schedule(settings, Measure("auc", higher_is_better=True), curve).learning_rate)
    assert rates == [0.5**times for times in lowered]


@pytest.mark.parametrize(("schedule", "lowered"), [(20, [0, 1, 2, 3]), ("auto", [0, 1, 1, 2])])
def test_the_start_of_a_warm_run_is_an_epoch_to_beat_and_none_that_lowers_the_rate(
    folder: Path, schedule: int | Literal["auto"], lowered: list[int]
) -> None:
    settings = epochs(smoke_config(folder), schedule, learning_rate=1.0, learning_rate_decay=0.5, patience=2).training
    aucs, found = [0.6, 0.8, 0.7], []
    for number in range(len(aucs) + 1):
        curve = [Epoch(loss=1.0, validation={"auc": auc}, counts={}, cpu_s=0.0) for auc in aucs[:number]]
        found.append(Schedule(settings, Measure("auc", higher_is_better=True), curve, {"auc": 0.7}))
    assert [one.learning_rate for one in found] == [0.5**times for times in lowered]
    assert [one.best_epoch for one in found] == [0, 0, 2, 2]
    assert [one.last_is_best for one in found] == [False, False, True, False]
    assert [one.over for one in found] == [False] * 4


def taught(config: RunConfig, teachers: int, share: float = 0.5) -> RunConfig:
    training = msgspec.structs.replace(config.training, teachers=teachers, teacher_share=share)
    return msgspec.structs.replace(config, training=training)


@pytest.fixture(scope="module")
def trained_by_teachers(folder: Path) -> dict[str, Any]:
    return train.train(taught(epochs(smoke_config(folder), 1), 2), folder / "taught")


@pytest.mark.full
def test_teachers_are_trained_first_with_other_seeds_and_as_they_would_be_alone(
    folder: Path, trained_by_teachers: dict[str, Any]
) -> None:
    of_teachers = [json.loads((folder / f"taught/teachers/{i}" / run.METRICS).read_text()) for i in (1, 2)]
    told = [{"seed": one["seed"], "validation_auc": one["validation_auc"]} for one in of_teachers]
    assert trained_by_teachers["teachers"] == told
    assert len({trained_by_teachers["seed"], *(one["seed"] for one in told)}) == 3
    alone = epochs(smoke_config(folder), 1).with_seed(told[1]["seed"])
    train.train(alone, folder / "alone")
    models = [(folder / name / run.MODEL).read_bytes() for name in ("alone", "taught/teachers/2", "taught")]
    assert models[0] == models[1]
    assert models[2] != models[1]


@pytest.mark.full
def test_a_taught_run_that_was_killed_goes_on_with_its_teachers(
    folder: Path, trained_by_teachers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, output, real, died = taught(epochs(smoke_config(folder), 1), 2), folder / "taught again", loop.fit, []

    def dies(*arguments: Any, **named: Any) -> Schedule:
        name = arguments[3].name
        if name in {"2", "taught again"} and name not in died:
            died.append(name)
            raise Interrupted
        return real(*arguments, **named)

    monkeypatch.setattr("mimn.training.procedure.fit", dies)
    for _ in range(2):
        with pytest.raises(Interrupted):
            train.train(config, output, resume=(output / run.CONFIG).exists())
    record = train.train(config, output, resume=True)
    assert died == ["2", "taught again"]
    assert without_times(record) == without_times(trained_by_teachers)
    assert (output / run.MODEL).read_bytes() == (folder / "taught" / run.MODEL).read_bytes()


def test_a_taken_folder_is_refused_before_its_teachers_are_trained(folder: Path, trained: dict[str, Any]) -> None:
    assert trained
    with pytest.raises(TrainingFailed, match="already holds a run"):
        train.train(taught(smoke_config(folder), 1), folder / "whole")
    assert not (folder / "whole" / "teachers").exists()


def test_teachers_of_another_configuration_or_of_other_data_are_not_used(
    folder: Path, trained_by_teachers: dict[str, Any], tmp_path: Path
) -> None:
    config, output = taught(epochs(smoke_config(folder), 1), 2), tmp_path / "run"
    assert trained_by_teachers["teachers"]
    shutil.copytree(folder / "taught" / "teachers", output / "teachers")
    with pytest.raises(TrainingFailed, match="another configuration"):
        train.train(config.with_seed(7), output)
    record = output / "teachers" / "1" / run.METRICS
    record.write_text(json.dumps(json.loads(record.read_text()) | {"prepared_sha256": "0" * 64}))
    with pytest.raises(TrainingFailed, match="other data"):
        train.train(config, output)


def test_a_taught_batch_has_labels_between_the_datas_and_the_mean_of_the_teachers(
    folder: Path, trained_by_teachers: dict[str, Any]
) -> None:
    config = taught(epochs(smoke_config(folder), 1), 2, share=0.25)
    assert trained_by_teachers["teachers"]
    folders = [folder / f"taught/teachers/{i}" for i in (1, 2)]
    data = load_data(config.data)
    teachers = Teachers.load(folders, config, data.prepared, torch.device("cpu"))
    task = train.DrawnNegatives(config, data, ALONE)
    plain = next(step.batch for step in task.steps(np.random.default_rng(3)))
    assert plain is not None
    labels = teachers.taught(plain).labels
    with torch.no_grad():
        logits = sum(load_model(one / run.MODEL).eval().loss(plain).logits for one in folders) / 2
    torch.testing.assert_close(labels, 0.75 * plain.labels + 0.25 * torch.sigmoid(torch.as_tensor(logits)))
    assert ((labels > 0) & (labels < 1)).all()


def test_training_warns_when_the_last_epoch_is_the_best(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    validated = iter([0.5, 0.999])  # drawn negatives may be easy, so that is no reason to doubt
    monkeypatch.setattr(train.DrawnNegatives, "validate", lambda *_: {"auc": next(validated)})
    output = folder / "warned"
    train.train(epochs(smoke_config(folder), 2), output)
    said = f"{output}: the last of 2 epochs is the best"
    assert f"warning: {said}" in capsys.readouterr().err
    log = (output / run.LOG).read_text()
    assert said in log
    assert "hardly ever true" not in log


def test_data_without_a_validation_user_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    config = smoke_config(tmp_path)
    file = tmp_path / "synthetic/events.parquet"
    table = pq.read_table(file)
    user = table["user_id"].to_numpy()
    pq.write_table(table.filter(pa.array(parts_of(user) != PARTS.index("validation"))), file)
    with pytest.raises(DataError, match=r"no validation user of synthetic has a target .* too few users"):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_negatives_of_a_target_weigh_as_much_as_it(folder: Path) -> None:
    config = smoke_config(folder)
    config = msgspec.structs.replace(config, windows=msgspec.structs.replace(config.windows, negatives=3))
    data = load_data(config.data)
    task = train.DrawnNegatives(config, data, ALONE)
    batches = [step.batch for step in task.steps(np.random.default_rng(0))]
    for batch in batches:
        assert batch is not None
        assert batch.weights is not None
        assert batch.labels.shape == batch.candidate_items.shape == (*batch.positions.shape, 4)
        np.testing.assert_array_equal(batch.labels, np.broadcast_to([1, 0, 0, 0], batch.labels.shape))
        of_target, of_drawn = batch.weights[..., 0], batch.weights[..., 1:].sum(-1)
        assert set(of_target.flatten().tolist()) <= {0, 1}
        np.testing.assert_allclose(of_drawn, of_target, rtol=1e-6)


def test_training_and_validation_use_the_first_sampling_and_evaluation_all(folder: Path) -> None:
    config = epochs(smoke_config(folder), 1)
    data = msgspec.structs.replace(
        config.data,
        samplings=("recent", "popularity", "uniform"),
    )
    by_popularity = train.train(config, folder / "by popularity")
    record = train.train(msgspec.structs.replace(config, data=data), folder / "by recent")
    assert record["instances_sha256"] != by_popularity["instances_sha256"]
    assert record["curve"][0]["loss"] != by_popularity["curve"][0]["loss"]
    found = evaluate.evaluate(folder / "by recent", 50)
    assert found["test"].keys() == found["floors"].keys() == {"recent", "popularity", "uniform"}
    again = read_config(folder / "by recent" / run.CONFIG)
    assert again.data == data


@pytest.mark.full
def test_the_recipe_trains_on_the_data_set_that_the_command_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`models/configs/recipe.toml` as it is, but for its length: two epochs."""
    monkeypatch.setattr(TrainingSettings, "most_epochs", 2)
    description, output = datasets.made_up(tmp_path), tmp_path / "run"
    recipe = datasets.SMOKE.with_name("recipe.toml")
    asked = ["--config", str(recipe), "--description", str(description), "--output", str(output)]
    assert train.main(asked) == 0
    assert json.loads(capsys.readouterr().out)["validation_auc"] > 0.6
    assert read_config(output / run.CONFIG).data.description == str(description)
    assert load_bundle(export_run(output, tmp_path / "bundles", "x", "1", "float32")).manifest.ledger is not None


def test_a_training_on_a_full_disk_names_the_folder_and_says_how_to_go_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    output.mkdir()
    (output / run.CURVES).symlink_to("/dev/full")
    (tmp_path / "config.toml").write_text(epochs(smoke_config(folder), 1).to_toml())
    arguments = ["--config", str(tmp_path / "config.toml"), "--output", str(output)]
    assert train.main(arguments) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"error: {output} cannot be written, because its disk is full" in said
    assert "--resume" in said
    (output / run.CURVES).unlink()
    assert train.main([*arguments, "--resume"]) == 0


def test_a_folder_that_another_process_trains_in_is_left_alone(folder: Path, tmp_path: Path) -> None:
    config = epochs(smoke_config(folder), 1)
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / run.LOG).open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TrainingFailed, match=r"another process is training in .*run: wait until it has ended"):
            train.train(config, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [run.LOG]


def test_a_run_is_not_overwritten_nor_resumed_as_another(folder: Path, trained: dict[str, Any]) -> None:
    assert trained
    config = smoke_config(folder)
    with pytest.raises(TrainingFailed, match="already holds a run"):
        train.train(config, folder / "whole")
    with pytest.raises(TrainingFailed, match="no run to resume"):
        train.train(config, folder / "absent", resume=True)
    with pytest.raises(TrainingFailed, match="another configuration"):
        train.train(epochs(config, 9), folder / "whole", resume=True)
    with pytest.raises(TrainingFailed, match="another configuration"):
        train.train(config.with_seed(5), folder / "whole", resume=True)
    with pytest.raises(TrainingFailed, match="holds a finished run"):
        train.train(config, folder / "whole", resume=True)


def test_a_damaged_checkpoint_is_named(folder: Path) -> None:
    config, output = epochs(smoke_config(folder), 2), folder / "damaged"
    output.mkdir()
    (output / run.CONFIG).write_text(config.to_toml())
    (output / run.CHECKPOINT).write_bytes(b"not safetensors")
    with pytest.raises(TrainingFailed, match=r"checkpoint\.safetensors cannot be resumed"):
        train.train(config, output, resume=True)


def test_a_prediction_does_not_depend_on_the_other_rows(folder: Path, trained: dict[str, Any]) -> None:
    assert trained
    data, model, ids = loaded(folder)
    test = data.instances.of("test")
    some = np.arange(len(test)) % 7 == 0
    together = predict(model, ids, data.events, test, samplings={"popularity": 1}, length=30)["popularity"]
    apart = predict(model, ids, data.events, test.select(some), samplings={"popularity": 1}, length=30)["popularity"]
    np.testing.assert_allclose(apart, together[np.repeat(some, 2)], atol=2e-6)


def loaded(folder: Path) -> tuple[DataSet, ClickModel, EmbeddingIds]:
    data, model = load_data(smoke_config(folder).data), load_model(folder / "whole" / run.MODEL)
    return data, model, EmbeddingIds.load(folder / "whole")


def test_a_prediction_reads_exactly_the_latest_events(folder: Path, trained: dict[str, Any]) -> None:
    """Folding the latest ten one by one with the cell gives the same score; events before them change nothing."""
    assert trained
    data, model, ids = loaded(folder)
    assert isinstance(model, MimnModel)
    one = data.instances.of("test").select(np.arange(len(data.instances.of("test"))) == 3)
    scores = predict(model, ids, data.events, one, samplings={"popularity": 1}, length=10)["popularity"]
    end = int(one.end[0])
    with torch.inference_mode():
        state = model.cell.initial(1)
        for row in range(end - 10, end):
            item = torch.tensor(ids.item_rows(data.events.item_id[row : row + 1]))
            category = torch.tensor(ids.category_rows(data.events.category_id[row : row + 1]))
            state = model.cell(model.vectors(item, category), state)
        rows = one.candidates("popularity")
        expected = model.score(
            state,
            torch.tensor(ids.item_rows(rows.item)).unsqueeze(0),
            torch.tensor(ids.category_rows(rows.category)).unsqueeze(0),
        )[0].numpy()
    np.testing.assert_allclose(scores, expected, atol=2e-6)


def test_evaluation_and_bundle_follow_from_the_run(folder: Path, trained: dict[str, Any]) -> None:
    assert trained
    whole = folder / "whole"
    assert evaluate.main(["--run", str(whole), "--length", "50"]) == 0
    first = json.loads((whole / run.METRICS).read_text())["evaluation"]["50"]
    assert first["test"]["popularity"]["auc"] > 0.7
    assert first["floors"]["popularity"]["constant"]["auc"] == 0.5
    assert evaluate.evaluate(whole, 50)["predictions_sha256"] == first["predictions_sha256"]
    alone = evaluate.evaluate(whole, 50, parts=("test",), floors=False)
    assert alone.keys() == {"test", "predictions_sha256"}
    assert alone["test"] == first["test"]

    save = evaluate.save_predictions

    def with_another_length(path: Path, arrays: dict[str, Any]) -> None:
        if path.name == run.PREDICTIONS.format(length=40):
            evaluate.evaluate(whole, 30, parts=("test",), floors=False)
        save(path, arrays)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluate, "save_predictions", with_another_length)
        evaluate.evaluate(whole, 40, parts=("test",), floors=False)
    assert {"30", "40", "50"} <= json.loads((whole / run.METRICS).read_text())["evaluation"].keys()

    assert (
        export_main(["--run", str(whole), "--output", str(folder / "bundles"), "--name", "smoke", "--version", "1"])
        == 0
    )
    bundle = load_bundle(folder / "bundles" / "smoke" / "1")
    np.testing.assert_array_equal(bundle.items.ids, np.load(whole / "items.ids.npy"))


def test_a_run_is_evaluated_where_its_description_is_now(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A description that is named relative to a folder is not found from another one."""
    moved, here = copy, read_config(copy / run.CONFIG).data.description
    config = (moved / run.CONFIG).read_text("utf-8")
    (moved / run.CONFIG).write_text(config.replace(here, "elsewhere.toml"), "utf-8")
    asked = ["--run", str(moved), "--length", "50"]
    assert evaluate.main(asked) == 1
    assert "elsewhere.toml" in capsys.readouterr().err
    assert evaluate.main([*asked, "--description", here]) == 0
    assert read_config(moved / run.CONFIG).data.description == "elsewhere.toml", "what is recorded stays"


def test_a_model_that_reads_the_events_is_trained_and_evaluated_but_not_exported(folder: Path, capsys: Any) -> None:
    config, output = epochs(smoke_config(folder), 1), folder / "sim"
    model = {"variant": "sim", "embedding_dim": 8, "head_units": [32, 16]}
    record = train.train(msgspec.structs.replace(config, model=model), output)
    assert record["state_bytes"] is None
    found = evaluate.evaluate(output, 50)
    assert found["test"]["popularity"]["auc"] > 0.5
    assert (
        export_main(["--run", str(output), "--output", str(folder / "bundles"), "--name", "sim", "--version", "1"]) == 1
    )
    assert "variant 'sim' has no served form" in capsys.readouterr().err


def test_evaluation_refuses_what_is_no_finished_run(folder: Path, trained: dict[str, Any], capsys: Any) -> None:
    assert trained
    assert evaluate.main(["--run", str(folder / "absent")]) == 1
    assert "train it first" in capsys.readouterr().err
    assert evaluate.main(["--run", str(folder / "whole"), "--length", "0"]) == 1
    assert "length must be at least 1" in capsys.readouterr().err


@pytest.fixture
def copy(folder: Path, trained: dict[str, Any], tmp_path: Path) -> Path:
    """A finished run that a test may damage."""
    assert trained
    return shutil.copytree(folder / "whole", tmp_path / "run")


def exported(source: Path, version: str = "1") -> int:
    bundles = ["--output", str(source.parent / "bundles"), "--name", "x", "--version", version]
    return export_main(["--run", str(source), *bundles])


def test_a_damaged_or_lost_file_of_a_run_is_named(
    copy: Path, trained: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(trained["files"]) == ["categories.ids.npy", "items.ids.npy", run.MODEL]
    for name in trained["files"]:
        path = copy / name
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        for command in (exported(copy), evaluate.main(["--run", str(copy)])):
            assert command == 1
        differs = f"{path} is not the file that training wrote"
        assert capsys.readouterr().err.count(differs) == 2
        with pytest.raises(TrainingFailed, match=re.escape(differs)):
            train.train(epochs(smoke_config(folder), 1), copy.parent / "warm", start=Start(copy))
        path.unlink()
        for command in (exported(copy), evaluate.main(["--run", str(copy)])):
            assert command == 1
        assert capsys.readouterr().err.count(f"{copy} lacks {name}") == 2
        path.write_bytes(data)
    assert not (copy.parent / "bundles").exists()
    assert exported(copy) == 0
    assert "files" not in load_bundle(copy.parent / "bundles/x/1").manifest.training


def test_a_run_of_an_earlier_version_without_hashes_is_evaluated(copy: Path) -> None:
    run.update_json(copy / run.METRICS, lambda record: record.pop("files"))
    assert evaluate.main(["--run", str(copy), "--length", "50"]) == 0


def test_an_evaluation_on_a_full_disk_names_the_folder(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_room_for(run.METRICS, monkeypatch)
    asked = ["--run", str(copy), "--length", "50"]
    assert evaluate.main(asked) == 1
    assert f"error: {copy} cannot be written, because its disk is full" in capsys.readouterr().err
    monkeypatch.undo()
    assert evaluate.main(asked) == 0


def test_a_model_with_a_ledger_is_trained_evaluated_and_exported_from_its_run_folder(folder: Path) -> None:
    model = {"variant": "pooling", "memory_induction": False, "utilization": False, "ledger_buckets": 8}
    model |= {"ledger_types": ["category"], "ledger_vectors": 4, "ledger_least_users": 1, "history_product": True}
    config = smoke_config(folder)
    config = msgspec.structs.replace(epochs(config, 2), model=config.model | model)
    output = folder / "ledger"
    record = train.train(config, output)
    assert record["state_bytes"] == 4 * (17 + 8 * 12 + 8 + 1), "padded to 8 bytes"
    assert record["validation_auc"] > 0.6
    found = evaluate.evaluate(output, 40, floors=False)
    assert 0.5 < found["test"]["popularity"]["auc"] < 1
    assert (
        export_main(["--run", str(output), "--output", str(folder / "bundles"), "--name", "l", "--version", "1"]) == 0
    )
    bundle = load_bundle(folder / "bundles/l/1")
    assert bundle.reads is not None
    assert bundle.manifest.item_table is not None
    assert bundle.manifest.item_table.types == ("category",)
    assert len(bundle.reads.table.ids) == len(bundle.items.ids)


def test_a_description_of_ones_own_trains_by_drawn_negatives(tmp_path: Path) -> None:
    """Texts for ids, CSV with quotes, unsorted, milliseconds: what the made-up data set is in another shop's layout."""
    events = synthetic.make(users=120)
    lines = [
        f'"s ""{item}""",u{user},c-{category},{1000 * time + 7},{user}/{basket}'
        for user, item, category, time, basket in zip(*(getattr(events, name) for name in COLUMNS), strict=True)
    ]
    np.random.default_rng(0).shuffle(lines)
    (tmp_path / "events.csv").write_text("\n".join(["sku,uid,cat,ts,order", *lines]) + "\n", "utf-8")
    (tmp_path / "own.toml").write_text(
        'name = "own"\nids = "string"\n[events]\nfiles = ["events.csv"]\nuser = "uid"\nitem = "sku"\n'
        'category = "cat"\ntime = "ts"\ntime_unit = "ms"\ntogether = "order"\n',
        "utf-8",
    )
    config = epochs(decode_config(datasets.smoke_text(tmp_path), "test"), 3)
    config = msgspec.structs.replace(
        config,
        data=msgspec.structs.replace(
            config.data, description=str(tmp_path / "own.toml"), samplings=("popularity", "recent")
        ),
        model={"variant": "pooling", "memory_induction": False, "utilization": False, "history_product": True},
    )
    (tmp_path / "config.toml").write_text(config.to_toml(), "utf-8")
    assert train.main(["--config", str(tmp_path / "config.toml"), "--output", str(tmp_path / "run")]) == 0
    record = json.loads((tmp_path / "run" / run.METRICS).read_text())
    assert record["dataset"] == "own"
    assert record["validation_auc"] > 0.6
    assert set(evaluate.evaluate(tmp_path / "run", 50)["test"]) == {"popularity", "recent"}


@pytest.mark.parametrize(
    ("more", "fix"),
    [
        ('[impressions]\nfiles = ["events.csv"]\nuser = "u"\nitem = "i"\ntime = "t"\nlabel = "l"\nwindow = "1m"\n',
         "ctr impressions train"),
        ('[protocol]\npreset = "mimn-paper-taobao"\n', "python -m mimn.paper"),
    ],
    ids=["labels", "the authors' instances"],
)  # fmt: skip
def test_what_drawn_negatives_cannot_train_on_is_refused_with_the_fix(tmp_path: Path, more: str, fix: str) -> None:
    (tmp_path / "events.csv").write_text("u,i,t,l\n1,5,1600000000,1\n2,6,1600000000,0\n", "utf-8")
    (tmp_path / "d.toml").write_text(
        f'name = "d"\n[events]\nfiles = ["events.csv"]\nuser = "u"\nitem = "i"\ntime = "t"\n{more}', "utf-8"
    )
    with pytest.raises(DataError, match=fix):
        load_data(DataSettings(description=str(tmp_path / "d.toml")))
