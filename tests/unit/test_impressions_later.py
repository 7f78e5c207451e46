"""`calibrate --on` and `evaluate --on`: a finished run on the labels of later data."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimn import run
from mimn.bundle import load_bundle
from mimn.calibration import Uncalibrated
from mimn.config import ConfigError
from mimn.data.description import read_description
from mimn.export.run import export_run, facts_of
from mimn.impressions.__main__ import main
from mimn.impressions.calibrate import calibrate
from mimn.impressions.config import ImpressionConfig, OccasionPlan
from mimn.impressions.evaluate import evaluate
from mimn.impressions.later import check_later
from mimn.impressions.measured import LATER
from mimn.impressions.progressive import Labels, progressive
from mimn.impressions.train import train
from mimn.impressions.trained import RunFault, TrainedRun, fitted_of
from mimn.run_files import DESCRIPTION
from mimn.training.settings import TrainingSettings
from support.impression_log import DAY, Log, T, context, graded, made

pytestmark = pytest.mark.torch

SECOND = 'by = "time"\ntrain_until = 2020-10-03\nvalidate_until = 2020-10-13\n'
"""The first log ends where the second begins."""
FIELDS = context("signal") + '[fields.user.rate]\nkind = "past_rate"\n[fields.item.own]\nkind = "past_rate"\n'
MODEL: dict[str, Any] = {
    "variant": "pooling",
    "memory_induction": False,
    "utilization": False,
    "embedding_dim": 4,
    "head": "deepfm",
    "head_units": [8, 4],
}


def first_log(fields: str = context("signal")) -> Log:
    return made(np.random.default_rng(0), graded, fields=fields)


def second_log() -> Log:
    """The impressions of the next 20 days, whose clicks are rarer, after the events of all 40."""
    before, log = first_log(), made(np.random.default_rng(1), lambda signal: graded(signal) / 4, split=SECOND)
    log.shown["t"] += 20 * DAY
    log.events["t"] += 20 * DAY
    log.events = {name: np.concatenate([before.events[name], values]) for name, values in log.events.items()}
    log.fields = before.fields
    return log


def trained(folder: Path, fields: str = context("signal")) -> Path:
    """The run of the first log, in `folder / "run"`."""
    config = ImpressionConfig(
        name="x",
        model=MODEL,
        windows=OccasionPlan(length=16, occasions=16),
        training=TrainingSettings(epochs=2, windows_per_batch=16, learning_rate=1e-2, validation_length=16, patience=3),
    )
    train(first_log(fields).write(folder / "first"), config, folder / "run", cache=folder / "cache")
    return folder / "run"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("weeks")
    trained(found)
    second_log().write(found / "second")
    return found


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of `folder`, whose run is not calibrated."""
    return shutil.copytree(folder, tmp_path / "copy")


def command(folder: Path, *arguments: object) -> int:
    return main([str(one) for one in (*arguments, "--run", folder / "run", "--cache", folder / "cache")])


def kept(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run" / run.METRICS).read_text())
    return found


def on(folder: Path, description: Path, length: int = 16) -> dict[str, Any]:
    return evaluate(TrainedRun.load_on(description, folder / "run", folder / "cache"), length, resamples=2)


def test_a_calibrator_of_later_labels_brings_their_clicks_into_a_release_of_the_head_alone(tmp_path: Path) -> None:
    later = second_log().write(tmp_path / "second")
    trained(tmp_path)
    assert command(tmp_path, "calibrate", "--method", "platt") == 0
    evaluate(TrainedRun.load(tmp_path / "run", tmp_path / "cache"), 16, resamples=2)
    own, files = kept(tmp_path)["evaluation"], {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*-*")}
    old = load_bundle(export_run(tmp_path / "run", tmp_path / "bundles", "shop", "1", "float32"))
    before = on(tmp_path, later)
    assert command(tmp_path, "calibrate", "--on", later, "--method", "platt") == 0
    after = on(tmp_path, later)
    assert before["overall"]["calibrated"]["pcoc"]["value"] > 2.0
    assert 0.8 < after["overall"]["calibrated"]["pcoc"]["value"] < 1.25
    assert 0.8 < after["overall"]["progressive"]["pcoc"]["value"] < 1.25
    assert after["overall"]["auc"] == before["overall"]["auc"]

    record = kept(tmp_path)
    assert record["evaluation"] == own
    assert {name: (tmp_path / "run" / name).read_bytes() for name in files} == files
    ((key, noted),) = record[LATER].items()
    fitted = fitted_of(tmp_path / "run")
    assert noted["evaluation"]["16"] == after
    assert {path.name for path in (tmp_path / "run" / LATER / key).iterdir()} == {
        "predictions-16.npz",
        "evaluation-16.png",
    }
    assert fitted is not None
    assert fitted.on is not None
    assert (fitted.on.key, fitted.on.data_sha256) == (key, noted["data_sha256"])
    assert noted["data_sha256"] != record["data_sha256"]

    new = load_bundle(export_run(tmp_path / "run", tmp_path / "bundles", "shop", "2", "float32"))
    assert new.fingerprint == old.fingerprint
    assert new.manifest.calibration == fitted.calibration != old.manifest.calibration
    said = new.manifest.training["calibrated_on"]
    assert (said["data_sha256"], said["evaluation"]["16"]) == (noted["data_sha256"], after["overall"])
    files_of = old.manifest.files, new.manifest.files
    assert files_of[0] == files_of[1], "only the manifest differs"


def test_an_impression_is_scored_alike_on_later_data_and_on_the_runs_own(folder: Path) -> None:
    log = first_log()
    log.split = log.split.replace("2020-09-28", "2020-09-30")
    own = TrainedRun.load(folder / "run", folder / "cache")
    later = TrainedRun.load_on(log.write(folder / "moved"), folder / "run", folder / "cache")
    scores = []
    for one in (own, later):
        predicted, shown = one.predict("test", 16), one.data.labelled.impressions
        rows = predicted.occasions.rows
        late = shown.time_ms[rows] >= (T + 17 * DAY) * 1000
        assert late.all() == (one is later)
        scores.append(predicted.scores[late])
    assert len(scores[0]) > 500
    assert np.allclose(scores[0], scores[1], rtol=1e-6, atol=0.0), "but for how a batch rounds"


def test_what_the_run_does_not_know_is_unknown_in_later_data_however_often_it_is_there(folder: Path) -> None:
    log = second_log()
    n = len(log.shown["u"])
    log.shown |= {"i": np.full(n, 777), "c": np.full(n, 888), "signal": ["new"] * n}
    log.events["i"] = np.where(log.events["t"] >= T + 20 * DAY, 777, log.events["i"])
    scored = TrainedRun.load_on(log.write(folder / "new"), folder / "run", folder / "cache")
    rows = scored.data.rows("test")
    assert all((of == 0).all() for of in scored.reader.candidates(rows))
    assert (scored.reader.request(rows, np.ones(len(rows), np.bool_)).rows == 0).all()
    log.shown |= {"i": np.full(n, 555), "c": np.full(n, 999), "signal": ["newer"] * n}
    other = TrainedRun.load_on(log.write(folder / "newer"), folder / "run", folder / "cache")
    assert scored.predict("test", 16).scores.tolist() == other.predict("test", 16).scores.tolist()


def test_an_items_past_rate_is_that_of_the_bundle_and_a_users_counts_the_log(tmp_path: Path) -> None:
    trained(tmp_path, FIELDS)
    before, log = first_log(), second_log()
    log.fields = FIELDS
    alone = log.write(tmp_path / "alone")
    assert command(tmp_path, "evaluate", "--on", alone) == 1  # a user's rate has nothing to count
    log.shown = {name: np.concatenate([before.shown[name], values]) for name, values in log.shown.items()}
    scored = TrainedRun.load_on(log.write(tmp_path / "both"), tmp_path / "run", tmp_path / "cache")
    rows = scored.data.rows("test")
    assert scored.reader.item_rates(rows) is None
    numbers = scored.reader.request(rows, np.ones(len(rows), np.bool_)).numbers
    assert len(np.unique(numbers)) > 100


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('[fields.context.signal]\nkind = "categorical"', "", "`fields.context.signal` is not given"),
        (
            'kind = "categorical"\n',
            'kind = "categorical"\nmin_count = 2\n',
            "`fields.context.signal.min_count` is 2 in",
        ),
        ("[split]", '[fields.context.noise]\nkind = "categorical"\n[split]', "`fields.context.noise` is described in"),
        ("[events]", 'ids = "string"\n[events]', "`ids` is 'string' in"),
        ('"1h"', '"2h"', "`impressions.window`"),
        ("2020-10-03", "2020-09-22", "`split.train_until` of .* is 2020-09-22"),
        (SECOND, 'by = "user"', "is not that of the run"),
    ],
)
def test_another_meaning_of_the_inputs_and_labels_that_trained_are_refused_by_name(
    old: str, new: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = second_log().write(folder / "other")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    stored = kept(folder)
    for arguments in (["calibrate", "--method", "platt"], ["evaluate"]):
        assert command(folder, *arguments, "--on", path) == 1
        assert re.search(message, capsys.readouterr().err)
    assert kept(folder) == stored
    assert fitted_of(folder / "run") is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('user = "u"', 'user = "visitor"'),
        ('kind = "categorical"', 'kind = "categorical"\ncolumn = "signal"'),
        ('"1h"', '"60m"'),
    ],
)
def test_what_means_the_same_may_be_written_or_named_otherwise(
    old: str, new: str, folder: Path, tmp_path: Path
) -> None:
    path = second_log().write(tmp_path / "same")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    check_later(read_description(folder / "run" / DESCRIPTION), path)


def test_later_events_may_have_a_new_action_that_is_not_folded(tmp_path: Path) -> None:
    path = second_log().write(tmp_path / "actions")
    text = path.read_text().replace(
        "[impressions]", 'action = "a"\n[actions]\nbuy = { is = "purchase" }\n[impressions]'
    )
    path.write_text(text)
    run_s = read_description(path)
    path.write_text(text.replace("[actions]", "[actions]\nhover = { weight = 0.0 }"))
    check_later(run_s, path)
    path.write_text(text.replace("[actions]", '[actions]\nhover = { is = "view", weight = 0.0 }'))
    with pytest.raises(ConfigError, match=r"`actions.hover` is described"):
        check_later(run_s, path)


def test_a_calibrator_knows_labels_until_the_last_that_it_was_fitted_to_whatever_the_cut(copy: Path) -> None:
    log = first_log()
    log.split = log.split.replace("2020-09-28", "2100-01-01")
    latest = log.write(copy / "latest")
    assert command(copy, "calibrate", "--on", latest, "--method", "platt") == 0
    fitted = fitted_of(copy / "run")
    assert fitted is not None
    assert fitted.on is not None
    assert fitted.on.validation_ms is not None
    times = log.shown["t"][log.shown["t"] >= T + 10 * DAY]
    assert fitted.on.validation_ms == (times.min() * 1000, times.max() * 1000 + 1)
    until = np.datetime64(int(times.max()) + 1, "s").item()
    with pytest.raises(RunFault, match=f"or measure on data whose `validate_until` is {until} UTC or later"):
        evaluate(TrainedRun.load(copy / "run", copy / "cache"), 16, resamples=2)
    assert "calibrated" in on(copy, copy / "second" / "dataset.toml")["overall"]


def test_figures_of_later_data_and_another_calibrator_are_named_with_on_and_those_of_the_run_are_not(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    second = copy / "second" / "dataset.toml"
    assert command(copy, "calibrate", "--method", "platt") == 0
    evaluate(TrainedRun.load(copy / "run", copy / "cache"), 16, resamples=2)
    assert command(copy, "calibrate", "--on", second, "--method", "platt") == 0
    on(copy, second)
    facts = facts_of(copy / "run").training
    assert "evaluate again" not in caplog.text, "the run's own figures are of its own calibrator, as they should be"
    assert "calibrated" in facts["calibrated_on"]["evaluation"]["16"]

    assert command(copy, "calibrate", "--on", second, "--method", "shift") == 0
    facts = facts_of(copy / "run").training
    asked = [said.partition("evaluate again with ")[2] for said in caplog.messages if "evaluate again" in said]
    assert asked == ["--on and --length 16"] * 2, "by calibrate and by export"
    assert "calibrated" not in facts["calibrated_on"]["evaluation"]["16"]


def test_a_calibrator_that_looks_at_no_label_is_of_no_later_data(copy: Path) -> None:
    assert command(copy, "calibrate", "--on", copy / "second" / "dataset.toml", "--method", "prior") == 0
    fitted = fitted_of(copy / "run")
    assert fitted is not None
    assert fitted.on is None
    assert "calibrated_on" not in facts_of(copy / "run").training


def test_impressions_that_can_still_be_clicked_are_counted_in_a_warning(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    later = TrainedRun.load_on(copy / "second" / "dataset.toml", copy / "run", copy / "cache")
    time_s = later.data.labelled.impressions.time_ms[later.data.rows("validation")] // 1000
    now = T + 29 * DAY
    still = int((time_s > now - 3600).sum())
    calibrate(later, "platt", 64, clock=lambda: now)
    assert [said.split(", ")[0] for said in caplog.messages] == [f"{still} validation impressions can still be clicked"]
    caplog.clear()
    calibrate(later, "prior", 64, clock=lambda: now)
    calibrate(later, "platt", 64, clock=lambda: now + 2 * DAY)
    assert not caplog.messages


def test_a_calibrator_that_may_know_the_test_labels_is_not_measured_on_them(tmp_path: Path) -> None:
    trained(tmp_path)
    log = first_log()
    log.split = 'by = "time"\ntrain_until = 2020-09-28\nvalidate_until = 2020-10-01\n'
    later = log.write(tmp_path / "later")
    assert command(tmp_path, "calibrate", "--on", later, "--method", "shift") == 0
    on(tmp_path, later)
    with pytest.raises(RunFault, match="may know their clicks: calibrate again"):
        evaluate(TrainedRun.load(tmp_path / "run", tmp_path / "cache"), 16, resamples=2)
    assert command(tmp_path, "calibrate", "--method", "shift") == 0
    evaluate(TrainedRun.load(tmp_path / "run", tmp_path / "cache"), 16, resamples=2)


def test_it_is_said_if_the_later_log_lacks_events_that_served_states_have_folded(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = second_log()
    TrainedRun.load_on(log.write(folder / "all"), folder / "run", folder / "cache")
    assert not caplog.messages
    late = log.events["t"] >= T + 20 * DAY
    log.events = {name: values[late] for name, values in log.events.items()}
    TrainedRun.load_on(log.write(folder / "late"), folder / "run", folder / "cache")
    assert "histories are shorter than those of served states" in caplog.text


def test_without_known_delays_a_shift_counts_closed_windows_alone() -> None:
    day, n = np.repeat(np.arange(10), 200), 2000
    labels = (np.random.default_rng(0).random(n) < 0.2).astype(np.int64)
    scores = np.full(n, 0.2)
    past = Labels(scores, labels, np.ones(n), day, day, day + 5)
    masks = (day == each for each in range(10))
    none = np.empty(0, np.int64)
    found = progressive(past, scores, day, masks, method="shift", start=Uncalibrated(), delays_ms=none)
    assert 0.15 < found.min() < found.max() < 0.25
