"""Models of labelled impressions: what they may read, what they learn, and what is said of them afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from mimn import config_file, run
from mimn.bundle.fields import MAX_LIST, code_of
from mimn.calibration import FROM_LABELS, UNCALIBRATED, Piecewise, Platt, Prior, Uncalibrated
from mimn.data.events import DataError
from mimn.data.fields import FittedFields
from mimn.data.labelled import OccasionSampler
from mimn.data.split import PARTS
from mimn.data.vocabulary import UNKNOWN_ROW, EmbeddingIds
from mimn.export import ExportError
from mimn.export.run import facts_of
from mimn.impressions.__main__ import main
from mimn.impressions.calibrate import calibrate, note_long_histories
from mimn.impressions.config import ImpressionConfig, OccasionPlan
from mimn.impressions.data import ImpressionData, ImpressionReader
from mimn.impressions.evaluate import evaluate, probabilities_of
from mimn.impressions.figures import Rows, differences, figures
from mimn.impressions.long_histories import LongHistories
from mimn.impressions.progressive import Labels, progressive
from mimn.impressions.train import train
from mimn.impressions.trained import Fitted, RunFault, TrainedRun, fitted_of
from mimn.nn.checkpoint import load_model
from mimn.run_files import DESCRIPTION
from mimn.training.folder import TrainingFailed
from mimn.training.settings import TrainingSettings
from support import skips
from support.impression_log import DAY, SHOWN, USERS, Log, T, context, graded, made
from support.small_disk import no_room_for

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]
SHARED = os.environ.get("CTR_SHARED_DATA")
POOLING: dict[str, Any] = {
    "variant": "pooling",
    "memory_induction": False,
    "utilization": False,
    "embedding_dim": 4,
    "head_units": [16, 8],
}
DEEPFM = POOLING | {"head": "deepfm"}


def configured(model: dict[str, Any], *, epochs: int = 4, kept: float = 1.0) -> ImpressionConfig:
    return ImpressionConfig(
        name="x",
        model=model,
        windows=OccasionPlan(length=16, occasions=16, negatives_kept=kept),
        training=TrainingSettings(
            epochs=epochs, windows_per_batch=16, learning_rate=1e-2, validation_length=16, patience=3
        ),
    )


def loaded(path: Path) -> ImpressionData:
    return ImpressionData.load(path, path.parent / "cache")


@pytest.fixture(scope="module")
def signal_run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    folder = tmp_path_factory.mktemp("signal")
    path = made(np.random.default_rng(0), graded, fields=context("signal")).write(folder)
    train(path, configured(DEEPFM), folder / "run", cache=folder / "cache")
    return TrainedRun.load(folder / "run", folder / "cache")


def test_a_field_that_carries_the_signal_is_learned(signal_run: TrainedRun) -> None:
    result = evaluate(signal_run, 16, resamples=20)
    assert result["overall"]["auc"]["value"] > 0.72
    assert result["overall"]["raw"]["ne"]["value"] < 0.95
    assert 0.8 < result["overall"]["raw"]["pcoc"]["value"] < 1.25


def test_a_head_without_a_tower_begins_with_the_rate_of_rare_clicks(tmp_path: Path) -> None:
    """From 0, forty steps would not bring it near one click in thirty (decision 132)."""
    rare = made(np.random.default_rng(0), lambda signal: graded(signal) / 8, fields=context("signal"))
    path = rare.write(tmp_path)
    train(path, configured(POOLING | {"head": "fm"}), tmp_path / "run", cache=tmp_path / "cache")
    overall = evaluate(TrainedRun.load(tmp_path / "run", tmp_path / "cache"), 16, resamples=2)["overall"]
    assert 0.5 < overall["raw"]["pcoc"]["value"] < 2.0
    assert overall["auc"]["value"] > 0.55


@pytest.mark.full
def test_a_field_that_is_noise_is_not(tmp_path: Path) -> None:
    path = made(np.random.default_rng(0), graded, fields=context("noise")).write(tmp_path)
    train(path, configured(DEEPFM, epochs=2), tmp_path / "run", cache=tmp_path / "cache")
    result = evaluate(TrainedRun.load(tmp_path / "run", tmp_path / "cache"), 16, resamples=2)
    assert 0.45 < result["overall"]["auc"]["value"] < 0.55


def test_a_saved_run_scores_as_before(signal_run: TrainedRun) -> None:
    again = TrainedRun.load(signal_run.folder, signal_run.folder.parent / "cache")
    first, second = (one.predict("test", 16) for one in (signal_run, again))
    assert first.scores.tolist() == second.scores.tolist()
    assert np.isclose(
        again.record["validation_auc"], max(e["validation_auc"] for e in again.record["curve"]), atol=0.05
    )
    model = load_model(signal_run.folder / run.MODEL)
    assert model.fields is not None
    assert [spec.name for spec in model.fields.request.specs] == ["signal"]


def test_evaluation_says_each_slice_and_leaves_out_what_is_undefined(signal_run: TrainedRun) -> None:
    result = evaluate(signal_run, 16, resamples=20)
    assert set(result["slices"]) == {"history", "item", "context.signal", "day"}
    assert set(result["slices"]["context.signal"]) == {"s0", "s1", "s2", "s3"}
    rows = len(signal_run.data.rows("test"))
    for family in result["slices"].values():
        assert sum(of["rows"] for of in family.values()) == rows
    assert result["overall"]["auc"]["low"] < result["overall"]["auc"]["value"] < result["overall"]["auc"]["high"]
    assert (signal_run.folder / "evaluation-16.png").stat().st_size > 10_000
    stored = json.loads((signal_run.folder / run.METRICS).read_text())
    assert stored["evaluation"]["16"] == result


def test_calibration_is_a_step_of_its_own_and_evaluation_says_both(
    signal_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(signal_run, tmp_path / "run").folder
    arguments = ["--run", str(folder), "--cache", str(signal_run.folder.parent / "cache")]
    assert main(["calibrate", *arguments, "--method", "shift"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["asked"], printed["method"], printed["slope"], printed["length"]) == ("shift", "platt", 1.0, 16)
    assert json.loads((folder / "calibration.json").read_text()) == printed
    assert main(["calibrate", *arguments, "--method", "platt"]) == 0
    stored = fitted_of(folder)
    assert stored is not None
    fitted = stored.calibration
    assert isinstance(fitted, Platt)
    validation = signal_run.predict("validation", 16)
    assert np.isclose(fitted.apply(validation.scores).sum(), validation.labels.sum())
    capsys.readouterr()
    assert main(["evaluate", *arguments]) == 0
    overall = json.loads(capsys.readouterr().out)["overall"]
    assert overall["raw"] != overall["calibrated"]
    assert overall["progressive"] != overall["calibrated"]


def test_progressive_is_by_the_method_that_was_asked_for(signal_run: TrainedRun) -> None:
    """`platt` on scores that are calibrated already has the slope 1.0, which every `shift` has."""
    predicted = signal_run.predict("test", 16)
    found = {
        method: probabilities_of(signal_run, predicted, 16, Fitted(method, Platt(1.0, 0.0)))["progressive"].tolist()
        for method in FROM_LABELS
    }
    assert found["platt"] != found["shift"]
    assert found["platt"] != found["piecewise"]


def test_the_method_that_was_asked_for_is_stored_and_files_without_it_are_read(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    knots = Piecewise((-1.0, 0.5), (-2.0, 0.25))
    every = (
        Fitted("none", UNCALIBRATED), Fitted("prior", Prior(0.25)), Fitted("shift", Platt(1.0, -0.5)),
        Fitted("platt", Platt(1.0, 0.0)), Fitted("piecewise", knots), Fitted("piecewise", knots, 200),
    )  # fmt: skip
    for one in every:
        run.write_json(path, one.told())
        assert fitted_of(tmp_path) == one
    for damaged in (
        {"asked": "guess", "method": "prior", "rate": 0.5},
        {"asked": "prior"},
        {"asked": "prior", "length": "all", "method": "prior", "rate": 0.5},
    ):
        run.write_json(path, damaged)
        with pytest.raises(RunFault, match="calibrate again"):
            fitted_of(tmp_path)


def copied(one: TrainedRun, folder: Path) -> TrainedRun:
    """A run that a test may calibrate and evaluate."""
    shutil.copytree(one.folder, folder)
    return TrainedRun.load(folder, one.folder.parent / "cache")


def test_figures_of_an_earlier_calibrator_are_told_by_calibrate_and_left_out_by_export(
    signal_run: TrainedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = copied(signal_run, tmp_path / "run")
    folder = trained.folder
    calibrate(trained, "platt", 16)
    first = evaluate(trained, 16, resamples=2)
    assert facts_of(folder).training["evaluation"]["16"] == first["overall"]
    calibrate(trained, "platt", 16)
    assert not caplog.records, "it is the same calibrator"

    calibrate(trained, "shift", 16)
    assert "--length 16" in caplog.text
    caplog.clear()
    kept = {kind: of for kind, of in first["overall"].items() if kind not in ("calibrated", "progressive")}
    assert facts_of(folder).training["evaluation"]["16"] == kept
    (told,) = caplog.messages
    assert "--length 16" in told
    caplog.clear()
    second = evaluate(trained, 16, resamples=2)
    assert second["overall"]["calibrated"] != first["overall"]["calibrated"]
    assert facts_of(folder).training["evaluation"]["16"] == second["overall"]
    assert not caplog.records
    (folder / "calibration.json").unlink()
    assert facts_of(folder).training["evaluation"]["16"] == kept


def test_the_same_function_by_the_same_method_is_the_same_calibrator() -> None:
    one = Fitted("platt", Platt(1.5, -0.5), 16)
    assert one.sha256 == replace(one, length=8).sha256
    assert one.sha256 != replace(one, calibration=Platt(1.5, -0.4)).sha256
    assert one.sha256 != replace(one, asked="shift").sha256


def test_calibration_by_none_is_that_of_a_run_without_a_calibrator(
    signal_run: TrainedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = copied(signal_run, tmp_path / "run")
    folder = trained.folder
    calibrate(trained, "none", 16)
    found = evaluate(trained, 16, resamples=2)["overall"]
    (folder / "calibration.json").unlink()
    assert facts_of(folder).training["evaluation"]["16"] == found
    assert not caplog.records
    calibrate(trained, "platt", 16)
    assert "calibrated" not in facts_of(folder).training["evaluation"]["16"]


@pytest.mark.parametrize(
    ("aucs", "least", "doubted"), [([0.5, 0.995], 40, True), ([0.5, 0.985], 40, False), ([0.5, 0.995], 10_000, False)]
)
def test_an_auc_that_is_too_good_is_doubted_if_it_is_no_luck_and_more_training_is_no_advice(
    aucs: list[float], least: int, doubted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([{"auc": auc, "logloss": 1.0 - auc} for auc in aucs])
    monkeypatch.setattr("mimn.impressions.train.LabelledImpressions.validate", lambda *_: next(figures))
    monkeypatch.setattr("mimn.impressions.train.MANY_CLICKS", least)
    path, output = made(np.random.default_rng(10), graded).write(tmp_path), tmp_path / "run"
    train(path, configured(POOLING, epochs=2), output, cache=tmp_path / "cache")
    written = (output / run.LOG).read_text()
    assert (f"{output}: a validation AUC of {max(aucs):.5f}" in written) == doubted
    assert ("ctr data check" in written) == doubted
    assert ("raise training.epochs" in written) != doubted


def test_evaluation_says_that_the_calibrator_is_of_another_length(
    signal_run: TrainedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = copied(signal_run, tmp_path / "run")
    folder = trained.folder
    calibrate(trained, "prior", 1)  # looks at no impression
    caplog.clear()
    evaluate(trained, 8, resamples=2)
    assert not caplog.records
    calibrate(trained, "platt", 1)
    assert json.loads((folder / "calibration.json").read_text())["length"] == 1
    caplog.clear()
    evaluate(trained, 8, resamples=2)
    (told,) = caplog.messages
    assert "--length 8" in told
    caplog.clear()
    evaluate(trained, 1, resamples=2)
    assert not caplog.records


@pytest.mark.parametrize(
    ("command", "full"), [("calibrate", "calibration.json"), ("evaluate", run.PREDICTIONS.format(length=16))]
)
def test_calibrate_and_evaluate_on_a_full_disk_name_the_folder(
    command: str,
    full: str,
    signal_run: TrainedRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(signal_run.folder, folder)
    no_room_for(full, monkeypatch)
    arguments = [command, "--run", str(folder), "--cache", str(signal_run.folder.parent / "cache")]
    arguments += ["--method", "platt"] if command == "calibrate" else []
    assert main(arguments) == 1
    assert f"error: {folder} cannot be written, because its disk is full" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(arguments) == 0


def test_a_damaged_or_lost_file_of_a_run_is_named_by_each_command(
    signal_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(signal_run.folder, tmp_path / "run")
    files = json.loads((folder / run.METRICS).read_text())["files"]
    assert {run.MODEL, DESCRIPTION, "fields.json", "field.signal.codes.npy", "items.ids.npy"} <= files.keys()
    bundles = ["--output", str(tmp_path / "bundles"), "--name", "x", "--version", "1"]
    commands = (["export", *bundles], ["calibrate", "--method", "platt"], ["evaluate"])
    of_run = ["--run", str(folder), "--cache", str(signal_run.folder.parent / "cache")]
    for name in files:
        path = folder / name
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        for command in commands:
            assert main([*command, *of_run]) == 1
            assert f"error: {path} is not the file that training wrote" in capsys.readouterr().err
        path.unlink()
        for command in commands:
            assert main([*command, *of_run]) == 1
            assert f"error: {folder} lacks {name}" in capsys.readouterr().err
        path.write_bytes(data)
    assert not (tmp_path / "bundles").exists()


def test_a_run_without_its_description_is_not_exported(signal_run: TrainedRun, tmp_path: Path) -> None:
    folder = shutil.copytree(signal_run.folder, tmp_path / "run")
    run.update_json(folder / run.METRICS, lambda record: record.pop("files"))
    facts_of(folder)
    (folder / DESCRIPTION).unlink()
    with pytest.raises(ExportError, match=re.escape(f"{folder / DESCRIPTION} cannot be read")):
        facts_of(folder)


def test_calibration_says_how_many_served_states_hold_more_events_than_it_reads(
    signal_run: TrainedRun, caplog: pytest.LogCaptureFixture
) -> None:
    data, rows = signal_run.data.labelled, signal_run.data.rows("validation")
    events = (data.end - data.begin)[rows]
    calibrate(signal_run, "prior", int(events.max()))
    assert not caplog.records
    calibrate(signal_run, "prior", 2)
    share = round(100 * float((events > 2).mean()))
    assert f"{share} % of the validation impressions have more than the latest 2 events" in caplog.text
    (signal_run.folder / "calibration.json").unlink()


def test_calibrate_and_export_say_that_probabilities_of_long_histories_are_wrong(
    signal_run: TrainedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(signal_run.folder, folder)
    config = msgspec.structs.replace(signal_run.config, windows=OccasionPlan(length=2))
    trained = replace(signal_run, folder=folder, config=config, record=dict(signal_run.record))
    note_long_histories(trained, Platt(slope=1.0, intercept=0.0))
    facts_of(folder)
    assert not caplog.records
    note_long_histories(trained, Platt(slope=1.0, intercept=-6.0))
    found = json.loads((folder / run.METRICS).read_text())["long_histories"]
    assert found["more_than"] == 3
    assert 0 < found["predicted"] < found["clicks"] / 2
    facts_of(folder)
    assert [one.name for one in caplog.records] == ["mimn.calibrate", "mimn.export"]
    assert all("histories of more than 3 events, read whole: " in one.message for one in caplog.records)
    note_long_histories(trained, UNCALIBRATED)
    assert "long_histories" not in json.loads((folder / run.METRICS).read_text())


def test_commands_on_one_run_at_once_keep_what_the_others_wrote(signal_run: TrainedRun, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(signal_run.folder, folder)
    config = msgspec.structs.replace(signal_run.config, windows=OccasionPlan(length=2))
    each = [TrainedRun.load(folder, signal_run.folder.parent / "cache") for _ in range(3)]
    evaluate(each[0], 4, resamples=2)
    note_long_histories(replace(each[1], config=config), Platt(slope=1.0, intercept=-6.0))
    evaluate(each[2], 8, resamples=2)
    found = json.loads((folder / run.METRICS).read_text())
    assert {"4", "8"} <= found["evaluation"].keys()
    assert found["long_histories"]["more_than"] == 3


def test_chance_alone_seldom_warns_of_long_histories() -> None:
    def warns(clicks: int, predicted: float) -> bool:
        return LongHistories(more_than=9, impressions=200, clicks=clicks, predicted=predicted).warning is not None

    assert [warns(0, 3.0), warns(1, 3.0), warns(100, 199.0), warns(100, 51.0)] == [False] * 4
    assert [warns(0, 9.0), warns(7, 80.0), warns(100, 201.0), warns(100, 49.0)] == [True] * 4


def test_saved_probabilities_name_their_impressions(signal_run: TrainedRun) -> None:
    evaluate(signal_run, 16, resamples=2)
    predicted, shown = signal_run.predict("test", 16), signal_run.data.labelled.impressions
    with np.load(signal_run.folder / run.PREDICTIONS.format(length=16)) as saved:
        for name in ("user_id", "item_id", "time_ms"):
            assert saved[name].tolist() == getattr(shown, name)[predicted.occasions.rows].tolist()
        assert (saved["user_id"].dtype, saved["item_id"].dtype) == (np.uint64, np.uint64), "as hashes of texts are"
        assert saved["label"].tolist() == predicted.labels.tolist()
        assert saved["raw"].tolist() == predicted.scores.astype(np.float32).tolist()


def test_training_says_which_rows_it_leaves_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = made(np.random.default_rng(0), graded, fields=context("signal")).write(tmp_path)
    events = pq.read_table(tmp_path / "events.parquet")
    lost = pa.array([None, *events["u"].to_pylist()[1:]], events["u"].type)
    pq.write_table(events.set_column(events.column_names.index("u"), "u", lost), tmp_path / "events.parquet")
    record = train(path, configured(DEEPFM, epochs=1), tmp_path / "run", cache=tmp_path / "cache")
    [(reason, rows)] = record["refused"].items()
    assert (reason.startswith("events: "), rows) == (True, 1)
    assert f"1 rows are left out: {reason}" in caplog.text


def test_all_rows_and_corrected_fewer_rows_give_the_same_mean(tmp_path: Path) -> None:
    path = made(np.random.default_rng(1), graded, fields=context("signal")).write(tmp_path)
    means = []
    for kept in (1.0, 0.3):
        folder = tmp_path / f"run{kept}"
        record = train(path, configured(DEEPFM, epochs=6, kept=kept), folder, cache=tmp_path / "cache")
        assert record["negatives_kept"] == kept
        trained = TrainedRun.load(folder, tmp_path / "cache")
        calibration = calibrate(trained, "prior", 16).calibration
        assert calibration == Prior(kept)
        predicted = trained.predict("test", 16)
        means.append(float(calibration.apply(predicted.scores).mean()))
        if kept < 1.0:
            assert predicted.scores.mean() > 1.5 * means[0], "without the correction scores are too high"
    truth = graded(np.arange(4)).mean()
    assert np.isclose(means[0], means[1], rtol=0.15)
    assert np.allclose(means, truth, rtol=0.15)


def test_what_lies_behind_the_cut_changes_nothing_that_is_fitted(tmp_path: Path) -> None:
    """The vocabulary, the fields, and every batch of an epoch are the same, whatever happened after `train_until`."""
    found = []
    for folder, later in (("a", False), ("b", True)):
        log = made(np.random.default_rng(2), graded, fields=context("signal") + NUMBER)
        log.shown["price"] = np.random.default_rng(3).random(USERS * SHOWN) * 10
        for table in (log.events, log.shown):
            behind = np.asarray(table["t"]) >= T + 10 * DAY
            if later:
                for name in ("i", "c"):
                    table[name] = np.where(behind, 1000 + np.asarray(table[name]), table[name])
                if "y" in table:
                    table["y"] = np.where(behind, 1 - np.asarray(table["y"]), table["y"])
                    table["price"] = np.where(behind, 1e6, table["price"])
                    table["signal"] = [f"new{v}" if b else v for v, b in zip(table["signal"], behind, strict=True)]
        data = loaded(log.write(tmp_path / folder))
        known, fitted = data.known_ids(5), data.fit_fields()
        reader = ImpressionReader(data, known.ids, fitted, configured(DEEPFM))
        sampler = OccasionSampler(data.labelled.occasions("train"), 16, 8)
        rng = np.random.default_rng(0)
        batches = [reader.batch(windows, rng) for windows in sampler.epoch(rng, 8)]
        assert known.ids.items.max() < 1000
        found.append((known, fitted, batches))
    (known_a, fitted_a, batches_a), (known_b, fitted_b, batches_b) = found
    assert known_a.ids.items.tolist() == known_b.ids.items.tolist()
    assert known_a.ids.categories.tolist() == known_b.ids.categories.tolist()
    assert fitted_a.specs == fitted_b.specs
    assert len(batches_a) == len(batches_b) > 3
    for a, b in zip(batches_a, batches_b, strict=True):
        assert torch.equal(a.labels, b.labels)
        assert a.weights is not None
        assert b.weights is not None
        assert torch.equal(a.weights, b.weights)
        assert a.lengths is not None
        # Behind a window's end the rows are whatever comes next in the file.
        real = torch.arange(a.items.shape[1]) < a.lengths.unsqueeze(-1)
        assert torch.equal(a.items[real], b.items[real])
        assert a.request is not None
        assert b.request is not None
        assert torch.equal(a.request.rows, b.request.rows)
        assert torch.equal(a.request.numbers, b.request.numbers)


NUMBER = '[fields.context.price]\nkind = "numeric"\n'


def test_numbers_that_no_scale_can_hold_are_refused_and_infinite_ones_are_missing(tmp_path: Path) -> None:
    prices = np.random.default_rng(3).random(USERS * SHOWN) * 10
    log = made(np.random.default_rng(2), graded, fields=NUMBER)
    log.shown["price"] = np.where(np.arange(len(prices)) % 5, prices, np.inf)
    [spec] = loaded(log.write(tmp_path / "infinite")).fit_fields().specs
    assert 4 < spec.mean < 6
    assert 2 < spec.deviation < 4
    log.shown["price"] = np.where(np.arange(len(prices)) % 5, prices, -1e300)
    with pytest.raises(DataError, match=r"`fields.context.price`: its numbers reach -1e\+300, too far to be scaled"):
        loaded(log.write(tmp_path / "far")).fit_fields()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ('kind = "multi"', pa.array([[]] * (USERS * SHOWN), pa.list_(pa.string()))),
        ('kind = "numeric"', pa.nulls(USERS * SHOWN, pa.float32())),
        ('kind = "numeric"\nbuckets = 4', pa.nulls(USERS * SHOWN)),
    ],
)
def test_a_field_whose_column_is_empty_is_refused_with_the_fix(tmp_path: Path, kind: str, values: pa.Array) -> None:
    log = made(np.random.default_rng(2), graded, fields=f"[fields.context.empty]\n{kind}\n")
    log.shown["empty"] = values
    with pytest.raises(DataError, match=r"`fields.context.empty`: no train impression has a .*: fill the column, or"):
        loaded(log.write(tmp_path)).fit_fields()


def test_of_a_long_list_the_values_that_are_not_read_have_no_row(tmp_path: Path) -> None:
    log = made(np.random.default_rng(2), graded, fields='[fields.context.tags]\nkind = "multi"\n')
    read = [f"t{n}" for n in range(MAX_LIST)]
    log.shown["tags"] = [[*read, "behind"]] * (USERS * SHOWN)
    fitted = loaded(log.write(tmp_path)).fit_fields()
    assert set(fitted.codes["tags"].tolist()) == {code_of(tag) for tag in read}


def test_a_few_wrong_numbers_are_clipped_and_do_not_stretch_the_scale_of_the_others(tmp_path: Path) -> None:
    prices = np.random.default_rng(3).random(USERS * SHOWN) * 10
    log = made(np.random.default_rng(2), graded, fields=NUMBER)
    wrong = np.arange(len(prices)) % 50 == 0
    log.shown["price"] = np.where(wrong, 1e300, prices)
    data = loaded(log.write(tmp_path))
    fitted = data.fit_fields()
    [spec] = fitted.specs
    assert spec.bounds is not None
    assert 0 <= spec.bounds[0] < 1
    assert 9 < spec.bounds[1] <= 10
    assert 2 < spec.deviation < 4
    read = fitted.encoder(spec).numbers(np.array([1e300, spec.bounds[1]]))
    assert read[0] == read[1] < 3


def test_a_score_reads_only_the_latest_events_strictly_before(signal_run: TrainedRun, tmp_path: Path) -> None:
    """Events at or after an impression, older than the latest T, and labels do not move its score."""
    log = made(np.random.default_rng(0), graded, fields=context("signal"))
    shown = log.shown
    cut = T + 16 * DAY
    shown["y"] = np.where(np.asarray(shown["t"]) >= cut, 1 - np.asarray(shown["y"]), shown["y"])
    moved = np.asarray(log.events["t"]) >= cut
    log.events["i"] = np.where(moved, 1 + np.asarray(log.events["i"]) % 19, log.events["i"])
    data = loaded(log.write(tmp_path))
    ids, fitted = EmbeddingIds.load(signal_run.folder), FittedFields.load(signal_run.folder)
    changed = TrainedRun(
        signal_run.folder,
        {},
        signal_run.config,
        data,
        ImpressionReader(data, ids, fitted, signal_run.config),
        signal_run.model,
    )
    first, second = signal_run.predict("test", 16), changed.predict("test", 16)
    times = signal_run.data.labelled.impressions.time_ms[first.occasions.rows] // 1000
    early = times <= cut
    assert early.sum() > 50
    assert first.scores[early].tolist() == second.scores[early].tolist()
    assert first.scores[~early].tolist() != second.scores[~early].tolist()


def test_ids_that_training_did_not_see_share_the_unknown_row(tmp_path: Path) -> None:
    log = made(np.random.default_rng(4), graded)
    late = np.asarray(log.shown["t"]) >= T + 15 * DAY
    log.shown["i"] = np.where(late & (np.arange(len(late)) % 2 == 0), 777, log.shown["i"])
    path = log.write(tmp_path)
    train(path, configured(POOLING, epochs=1), tmp_path / "run", cache=tmp_path / "cache")
    trained = TrainedRun.load(tmp_path / "run", tmp_path / "cache")
    unseen = np.flatnonzero(trained.data.labelled.impressions.item_id == 777)
    assert len(unseen) > 50
    assert set(trained.reader.candidates(unseen)[0].tolist()) == {UNKNOWN_ROW}
    result = evaluate(trained, 16, resamples=2)
    assert result["slices"]["item"]["new"]["rows"] > 50


def test_a_new_item_with_a_row_of_fields_is_scored_by_its_fields(tmp_path: Path) -> None:
    """Items 1 to 19 are trained; 100 to 119 come later. The item's grade alone decides clicks."""
    rng = np.random.default_rng(5)
    log = made(rng, graded)
    late = np.asarray(log.shown["t"]) >= T + 15 * DAY
    log.shown["i"] = np.where(late, np.asarray(log.shown["i"]) + 100, log.shown["i"])
    log.shown["y"] = (rng.random(len(late)) < graded(np.asarray(log.shown["i"]) % 4)).astype(np.int64)
    every = np.concatenate([np.arange(1, 20), np.arange(101, 120)])
    log.items = {"i": every, "grade": [f"g{item % 4}" for item in every]}
    log.fields = '[fields.item.grade]\nkind = "categorical"\n'
    path = log.write(tmp_path)
    train(path, configured(DEEPFM), tmp_path / "run", cache=tmp_path / "cache")
    trained = TrainedRun.load(tmp_path / "run", tmp_path / "cache")
    result = evaluate(trained, 16, resamples=2)
    assert set(result["slices"]["item"]) == {"new"}
    assert trained.model.fields is not None
    rows = trained.model.fields.id_rows(torch.arange(1, 39)).tolist()
    assert rows == [*range(1, 20), *[0] * 19], "new items share the unknown embedding"
    assert result["overall"]["auc"]["value"] > 0.7


def test_a_position_is_read_in_training_and_missing_afterwards(tmp_path: Path) -> None:
    """Clicks follow the position alone, which differs within a request. Served scores do not know it."""
    log = made(np.random.default_rng(7), graded, columns='position = "signal"\nrequest = "q"')
    log.shown["signal"] = np.array([int(value[1:]) for value in log.shown["signal"]], float)
    log.shown["q"] = np.arange(USERS * SHOWN) // 5
    log.shown["t"] = np.repeat(log.shown["t"][::5], 5)
    path = log.write(tmp_path)
    train(path, configured(DEEPFM), tmp_path / "run", cache=tmp_path / "cache")
    trained = TrainedRun.load(tmp_path / "run", tmp_path / "cache")
    result = evaluate(trained, 16, resamples=2)
    assert 0.44 < result["overall"]["auc"]["value"] < 0.56
    data = trained.data.labelled
    rows = trained.data.rows("train")[:6]
    values = trained.reader.request(rows, np.zeros(6, np.bool_))
    assert values.rows[:, 0].tolist() == (data.impressions.position[rows].astype(int) + 2).tolist()
    losses = trained.record["curve"]
    assert losses[-1]["loss"] < 0.52, "the position explains the clicks of training"


def test_sample_weights_and_files_without_some_negatives_are_accounted_for(tmp_path: Path) -> None:
    columns = 'weight = "w"\nnegatives_kept = 0.5'
    log = made(np.random.default_rng(13), graded, columns=columns, fields=context("signal"))
    log.shown["w"] = np.random.default_rng(14).integers(1, 9, USERS * SHOWN).astype(float)
    path = log.write(tmp_path)
    train(path, configured(DEEPFM, epochs=3, kept=0.5), tmp_path / "run", cache=tmp_path / "cache")
    trained = TrainedRun.load(tmp_path / "run", tmp_path / "cache")
    assert calibrate(trained, "prior", 16).calibration == Prior(0.25)
    predicted = trained.predict("test", 16)
    assert predicted.weights.tolist() == np.where(predicted.labels == 1, 1.0, 2.0).tolist()
    fitted = calibrate(trained, "platt", 16).calibration
    validation = trained.predict("validation", 16)
    assert np.isclose(validation.weights @ fitted.apply(validation.scores), validation.labels.sum())
    rng = np.random.default_rng(0)
    windows = next(iter(OccasionSampler(trained.data.labelled.occasions("train"), 16, 8).epoch(rng, 8)))
    weights = trained.reader.batch(windows, rng).weights
    assert weights is not None
    real = windows.real > 0
    shown = trained.data.labelled.impressions
    assert weights.numpy()[real].tolist() == shown.weight[windows.impression[real]].tolist()
    assert not weights.numpy()[~real].any()


def test_figures_equal_those_counted_by_hand() -> None:
    labels = np.array([1, 0, 0, 1])
    p = np.array([0.8, 0.6, 0.2, 0.4])
    rows = Rows(labels, p, {"raw": p}, np.array([1, 1, 2, 2]), np.array([1.0, 2.0, 2.0, 1.0]))
    found = figures(rows, resamples=10)
    assert found["auc"]["value"] == 0.75
    assert found["gauc"]["value"] == 1.0
    loss = -(np.log(0.8) + 2 * np.log(0.4) + 2 * np.log(0.8) + np.log(0.4)) / 6
    entropy = -(np.log(1 / 3) + 2 * np.log(2 / 3)) / 3
    assert np.isclose(found["raw"]["logloss"]["value"], loss)
    assert np.isclose(found["raw"]["ne"]["value"], loss / entropy)
    assert np.isclose(found["raw"]["pcoc"]["value"], (0.8 + 1.2 + 0.4 + 0.4) / 2)
    assert np.isclose(found["raw"]["ece"]["value"], (0.2 + 2 * 0.6 + 2 * 0.2 + 0.6) / 6)


def test_the_interval_of_a_calibration_error_covers_that_of_the_population() -> None:
    """Chance makes every ECE too large, so the percentiles of resamples would lie above the truth."""
    rng, covered, above = np.random.default_rng(3), 0, 0
    for _ in range(40):
        users, rate = rng.integers(0, 150, 600), rng.uniform(0.1, 0.6, 600)
        labels, p = (rng.random(600) < rate).astype(np.int64), rate + 0.08
        ece = figures(Rows(labels, p, {"raw": p}, users, np.ones(600)), resamples=60)["raw"]["ece"]
        covered += ece["low"] <= 0.08 <= ece["high"]
        above += ece["value"] > 0.08
        assert 0.0 <= ece["low"] < ece["high"] < 0.3
    assert covered >= 30, "about 38 of 40; percentiles: 8"
    assert above > 20


def test_an_interval_over_users_is_that_of_the_exact_figures() -> None:
    rng = np.random.default_rng(8)
    users = rng.integers(0, 12, 200)
    labels, p = rng.integers(0, 2, 200), rng.random(200).round(1)
    found = figures(Rows(labels, p, {"raw": p}, users, np.ones(200)), resamples=60)
    rng = np.random.default_rng(0)
    expected = []
    for _ in range(60):
        count = rng.multinomial(12, np.full(12, 1 / 12))
        rows = np.repeat(np.arange(200), count[users])
        expected.append(figures(Rows(labels[rows], p[rows], {"raw": p[rows]}, users[rows], np.ones(len(rows))), 1))
    for name in ("auc", "raw.logloss", "raw.ne", "raw.pcoc"):
        values = []
        for one in expected:
            value: Any = one
            for part in name.split("."):
                value = value[part]
            values.append(value["value"])
        mine: Any = found
        for part in name.split("."):
            mine = mine[part]
        assert np.allclose([mine["low"], mine["high"]], np.percentile(values, [2.5, 97.5]))


def test_progressive_calibration_follows_a_drift_and_knows_no_label_too_early() -> None:
    """Ten days at twice the rate that the scores say; a label is known after two days."""
    rng = np.random.default_rng(15)
    day = np.repeat(np.arange(10), 2000)
    scores = rng.choice([0.05, 0.1, 0.2], 20_000)
    labels = (rng.random(20_000) < 2 * scores).astype(np.int64)
    masks = [day == number for number in range(10)]

    def calibrated(labels: NDArray[np.int64]) -> NDArray[np.float64]:
        past = Labels(scores, labels, np.ones(20_000), day, day + 2, day + 2)
        return progressive(past, scores, day, masks, method="platt", start=Uncalibrated(), delays_ms=np.array([2]))

    found = calibrated(labels)
    assert found[day < 2].tolist() == scores[day < 2].tolist(), "nothing is known yet"
    assert 0.9 < found[day >= 3].sum() / labels[day >= 3].sum() < 1.1
    other = calibrated(np.where(day == 5, 1 - labels, labels))
    assert other[day < 7].tolist() == found[day < 7].tolist()
    assert other[day == 7].tolist() != found[day == 7].tolist()


def test_a_shift_counts_the_clicks_of_open_windows() -> None:
    """Clicks come 0 to 4 days later, and twice as often as the scores say; no window is over before the sixth day."""
    rng = np.random.default_rng(16)
    day = np.repeat(np.arange(6), 4000)
    scores = rng.choice([0.05, 0.1, 0.2], 24_000)
    labels = (rng.random(24_000) < 2 * scores).astype(np.int64)
    delay = rng.integers(0, 5, 24_000)
    masks = [day == number for number in range(6)]

    def calibrated(labels: NDArray[np.int64], delay: NDArray[np.int64]) -> NDArray[np.float64]:
        past = Labels(scores, labels, np.ones(24_000), day, day + delay, day + 6)
        delays = np.repeat(np.arange(5), 100)
        return progressive(past, scores, day, masks, method="shift", start=Uncalibrated(), delays_ms=delays)

    found = calibrated(labels, delay)
    assert np.allclose(found[day == 0], scores[day == 0]), "nothing was seen yet"
    for number in (2, 3, 4, 5):
        assert 0.9 < found[day == number].sum() / labels[day == number].sum() < 1.1
    later = day + delay >= 3
    other = calibrated(np.where(later, 1, labels), delay)
    assert other[day <= 3].tolist() == found[day <= 3].tolist()
    assert other[day == 4].tolist() != found[day == 4].tolist()


def test_a_shift_counts_the_clicks_of_windows_that_end_as_the_day_begins() -> None:
    """In a log of whole days a window ends at midnight, which is when a click without a time counts as seen."""
    day = np.repeat(np.arange(4), 500)
    labels = (np.arange(2000) % 10 == 0).astype(np.int64)
    scores = np.full(2000, 0.1)
    past = Labels(scores, labels, np.ones(2000), day, day + 1, day + 1)
    masks = [day == number for number in range(4)]
    found = progressive(past, scores, day, masks, method="shift", start=Uncalibrated(), delays_ms=np.ones(100, int))
    assert np.allclose(found, 0.1), "the scores are the rate of clicks, and stay as they are"


def test_what_one_user_alone_says_has_no_interval() -> None:
    """Other draws of one user are the same user: an interval without width would claim that the value is certain."""
    rng = np.random.default_rng(17)
    labels, scores, users = rng.integers(0, 2, 60), rng.random(60), np.repeat(np.arange(3), 20)
    labels[20:40], labels[40:] = 0, 1
    rows = Rows(labels, scores, {"raw": scores}, users, np.ones(60))
    found = figures(rows.where(users == 0), resamples=20)
    assert found["users"] == 1
    for figure in (found["auc"], found["gauc"], *found["raw"].values()):
        assert figure.keys() == {"value"}
    found = figures(rows, resamples=20)
    assert found["auc"].keys() == {"value", "low", "high"}
    assert found["gauc"].keys() == {"value"}, "two of the three users cannot be ranked"
    over = differences(rows, rows, resamples=20)
    assert over["gauc"] == {"value": 0.0}
    assert over["auc"].keys() == {"value", "low", "high"}


def message(path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> str:
    output = path.parent / "out"
    arguments = ["--description", str(path), "--config", str(config), "--output", str(output)]
    assert main(["train", *arguments, "--cache", str(path.parent / "cache")]) == 1
    assert not output.exists()
    return capsys.readouterr().err


def test_what_cannot_be_used_is_said_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "model.toml"
    config.write_text("")
    log = made(np.random.default_rng(9), graded)
    assert "name" in message(log.write(tmp_path), config, capsys)
    config.write_text('name = "x"\n[windows]\nnegatives_kept = 0.0\n')
    assert "negatives_kept must be above 0" in message(log.write(tmp_path), config, capsys)
    config.write_text('name = "x"\n')
    clicks = log.shown["y"]
    log.shown["y"] = np.ones_like(clicks)
    assert "so there is nothing to learn" in message(log.write(tmp_path / "all"), config, capsys)
    log.shown["y"] = np.where(np.asarray(log.shown["t"]) >= T + 15 * DAY, 1, clicks)
    assert "the part test has" in message(log.write(tmp_path / "test"), config, capsys)
    log.shown["y"] = clicks
    log.shown["t"] = np.minimum(log.shown["t"], T + 14 * DAY)
    assert "the part test has 0 clicks in 0 impressions" in message(log.write(tmp_path / "empty"), config, capsys)


def acted(rng: np.random.Generator, weight: str, *, buys: str) -> Log:
    """Every user touches items of three categories alike often. Some are bought: those of a category that the user
    likes (`buys` = "category"), or all of a user who buys ("user"). Clicks follow."""
    events, shown = 9 * USERS, SHOWN * USERS
    user, category = np.repeat(np.arange(1, USERS + 1), 9), np.tile([0, 1, 2], 3 * USERS)
    viewed, asked = np.repeat(np.arange(1, USERS + 1), SHOWN), rng.integers(0, 3, shown)
    likes = rng.integers(0, 3, USERS + 1)
    bought = likes[user] == (category if buys == "category" else 0)
    clicks = likes[viewed] == (asked if buys == "category" else 0)
    log = made(rng, graded)
    log.events = {
        "u": user,
        "i": 1 + category + 3 * rng.integers(0, 4, events),
        "c": category,
        "act": np.where(bought, "buy", "pv"),
        "t": T - rng.integers(1, 9 * DAY, events),
    }
    log.shown |= {
        "i": 1 + asked + 3 * rng.integers(0, 4, shown),
        "c": asked,
        "y": (rng.random(shown) < np.where(clicks, 0.8, 0.05)) * 1,
    }
    log.split += f'[actions]\nbuy = {{ is = "purchase", weight = {weight} }}\npv = {{ is = "view" }}\n'
    return log


@pytest.mark.parametrize(
    ("weight", "buys", "model"),
    [
        pytest.param("8.0", "category", POOLING | {"history_product": True}, marks=pytest.mark.full),
        ("8.0", "category", POOLING | {"sketch_category_cells": 4}),
        ('"embedding"', "user", POOLING),
        pytest.param('"embedding"', "user", {"variant": "din", "embedding_dim": 4}, marks=pytest.mark.full),
    ],
    ids=["weights-in-means", "weights-in-counters", "vectors", "vectors-in-a-list"],
)
def test_what_a_user_did_is_learned_from_the_action(
    tmp_path: Path, weight: str, buys: str, model: dict[str, Any]
) -> None:
    path = acted(np.random.default_rng(21), weight, buys=buys).write(tmp_path)
    path.write_text(path.read_text().replace('category = "c"', 'category = "c"\naction = "act"', 1))
    record = train(path, configured(model), tmp_path / "run", cache=tmp_path / "cache")
    assert record["validation_auc"] > 0.8
    path.write_text(path.read_text().replace(f"weight = {weight}", "weight = 1.0"))
    alike = train(path, configured(model), tmp_path / "alike", cache=tmp_path / "cache")
    assert alike["validation_auc"] < 0.6, "every category was touched equally often"


def test_training_and_evaluation_go_on_with_their_own_data_alone(tmp_path: Path) -> None:
    columns = 'weight = "weight"\nlabel_time = "seen"\nposition = "place"\nrequest = "request"'
    log = made(np.random.default_rng(10), graded, fields='[fields.item.price]\nkind = "numeric"\n', columns=columns)
    n, late = USERS * SHOWN, log.shown["t"] > T + 18 * DAY
    log.shown |= {"weight": np.ones(n), "place": np.arange(n) % 5, "request": np.arange(n)}
    log.shown["seen"] = np.where(log.shown["y"] == 1, log.shown["t"] + 60, 0)
    log.items = {"i": np.arange(1, 20), "price": np.arange(1.0, 20.0)}
    path, cache = log.write(tmp_path), tmp_path / "cache"
    train(path, configured(POOLING, epochs=1), tmp_path / "run", cache=cache)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(path, configured(POOLING, epochs=1), tmp_path / "dead", cache=cache)

    def refused(shown: dict[str, Any], items: dict[str, Any]) -> None:
        replace(log, shown=log.shown | shown, items=log.items | items).write(tmp_path)
        with pytest.raises(TrainingFailed, match="was trained on other data"):
            train(path, configured(POOLING, epochs=1), tmp_path / "dead", cache=cache, resume=True)
        with pytest.raises(RunFault, match="is not that of training"):
            TrainedRun.load(tmp_path / "run", cache)

    for name in ("weight", "seen", "place", "request"):
        refused({name: log.shown[name] + (log.shown[name] > 0)}, {})
    refused({}, {"price": log.items["price"][::-1].copy()})
    refused({"y": np.where(late, 1 - log.shown["y"], log.shown["y"])}, {})
    path.write_text(path.read_text().replace('"1h"', '"2h"'))
    with pytest.raises(RunFault, match="differs from"):
        TrainedRun.load(tmp_path / "run", cache)


def test_a_run_without_history_and_one_without_an_end_are_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, cache = made(np.random.default_rng(10), graded).write(tmp_path), tmp_path / "cache"
    config = msgspec.structs.replace(configured(POOLING, epochs=1), history=False)
    train(path, config, tmp_path / "run", cache=cache)
    arguments = ["--run", str(tmp_path / "run"), "--output", str(tmp_path / "bundles"), "--name", "x", "--version", "1"]
    assert main(["export", *arguments]) == 1
    assert "was trained with history = false" in capsys.readouterr().err
    (tmp_path / "run" / run.METRICS).unlink()
    assert main(["export", *arguments]) == 1
    said = capsys.readouterr().err
    assert "holds no finished run" in said
    assert "finish it with --resume" not in said, "that would train over the finished model"
    assert not (tmp_path / "bundles").exists()


def test_a_run_that_was_killed_before_its_first_epoch_ended_is_to_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    path, cache, folder = made(np.random.default_rng(10), graded).write(tmp_path), tmp_path / "cache", tmp_path / "run"
    monkeypatch.setattr("mimn.training.procedure.fit", killed)
    with pytest.raises(KeyboardInterrupt):
        train(path, configured(POOLING, epochs=1), folder, cache=cache)
    export = ["export", "--output", str(tmp_path / "bundles"), "--name", "x", "--version", "1"]
    for command in (export, ["calibrate", "--method", "platt"], ["evaluate"]):
        assert main([*command, "--run", str(folder), "--cache", str(cache)]) == 1
        assert f"{folder} holds no finished run" in capsys.readouterr().err


def test_an_epoch_whose_last_step_ran_away_is_no_model(tmp_path: Path) -> None:
    path = made(np.random.default_rng(10), graded).write(tmp_path)
    config = configured(DEEPFM, epochs=1)
    one_step = msgspec.structs.replace(config.training, windows_per_batch=100_000, learning_rate=1e25)
    with pytest.raises(TrainingFailed, match="are not finite: lower"):
        train(path, msgspec.structs.replace(config, training=one_step), tmp_path / "run", cache=tmp_path / "cache")
    assert not (tmp_path / "run" / run.MODEL).exists()
    assert not (tmp_path / "run" / run.METRICS).exists()


@pytest.mark.parametrize(
    "model",
    [
        {"variant": "paper", "embedding_dim": 4, "head": "dcn_v2", "controller_units": 8},
        {"variant": "din", "embedding_dim": 4, "head": "wide_deep"},
        pytest.param({"variant": "dien", "embedding_dim": 4}, marks=pytest.mark.full),
    ],
    ids=["mimn", "din", "dien"],
)
def test_other_states_train_and_score(model: dict[str, Any], tmp_path: Path) -> None:
    log = made(np.random.default_rng(11), graded, fields=context("signal"))
    path = log.write(tmp_path)
    config = configured({"head_units": [8, 4], **model}, epochs=1)
    train(path, config, tmp_path / "run", cache=tmp_path / "cache")
    trained = TrainedRun.load(tmp_path / "run", tmp_path / "cache")
    assert np.isfinite(trained.predict("test", 8).scores).all()


@pytest.mark.skipif(SHARED is None, reason=skips.NO_COUPON_MAIL)
def test_the_coupon_log_is_described_in_forty_lines(tmp_path: Path) -> None:
    described = (ROOT / "models/datasets/coupon-mail.toml").read_text()
    assert len(described.splitlines()) <= 40
    path = tmp_path / "dataset.toml"
    path.write_text(described.replace("../../data/", f"{SHARED}/"))
    data = ImpressionData.load(path, tmp_path / "cache")
    labels = data.labelled.impressions.label
    found = {part: (len(rows), int(labels[rows].sum())) for part in PARTS for rows in [data.rows(part)]}
    assert found["test"] == (213_777, 681)
    assert found["validation"] == (4_758, 25)
    assert found["train"][0] == 656_802 - 213_777 - 4_758
    assert {spec.name for spec in data.fit_fields().of("item")} == {
        "department",
        "brand",
        "manufacturer_id",
        "products",
        "redeemed",
    }
    assert data.prepared.members is not None
    assert len(data.prepared.members) == 105_262


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parents[2] / "models/configs/impressions").glob("*.toml")),
    ids=lambda path: path.stem,
)
def test_a_committed_configuration_is_read(path: Path) -> None:
    assert config_file.read(path, ImpressionConfig).architecture.head != "paper"


def test_columns_of_slices_may_be_called_as_slices_are(tmp_path: Path) -> None:
    log = made(np.random.default_rng(10), graded, columns='slices = ["history", "item"]')
    odd = np.arange(USERS * SHOWN) % 2
    log.shown |= {"history": [f"h{one}" for one in odd], "item": ["known" if one else "other" for one in odd]}
    path, cache = log.write(tmp_path), tmp_path / "cache"
    train(path, configured(POOLING, epochs=1), tmp_path / "run", cache=cache)
    trained = TrainedRun.load(tmp_path / "run", cache)
    found = evaluate(trained, 16, resamples=2)["slices"]
    assert found["item"]["known"]["rows"] == len(trained.data.rows("test")), "all 19 items are known"
    assert set(found["history"]) == {"0", "1-19"}
    assert set(found["slice.item"]) == {"known", "other"}
    assert set(found["slice.history"]) == {"h0", "h1"}


def test_one_label_alone_is_said_and_not_a_traceback() -> None:
    p = np.array([0.5, 0.5])
    found = figures(Rows(np.zeros(2, np.int64), p, {"raw": p}, np.array([1, 2]), np.ones(2)), resamples=3)
    assert found["auc"] == {"undefined": "AUC needs both labels: 0 positives, 2 negatives"}
    assert "undefined" in found["raw"]["pcoc"]
    assert found["raw"]["logloss"]["value"] > 0


def test_a_vocabulary_knows_train_users_alone(tmp_path: Path) -> None:
    log = made(np.random.default_rng(12), graded, split='by = "user"\n')
    for table in (log.events, log.shown):
        table["i"] = np.asarray(table["u"]) * 100 + np.asarray(table["i"]) % 2
    data = loaded(log.write(tmp_path))
    train_users = set(data.labelled.impressions.user_id[data.rows("train")].tolist())
    known = set((data.known_ids(1).ids.items // 100).tolist())
    assert known == train_users
