"""The search: it finds what is planted, sees no test label, and goes on after a kill as if there had been none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from localstack.wait import until
from mimn import config_file, tune
from mimn.data.events import DataError
from mimn.data.prepared import WITHHELD
from mimn.data.split import PARTS
from mimn.data_set import load_data
from mimn.impressions.__main__ import main
from mimn.impressions.config import ImpressionConfig
from mimn.impressions.data import ImpressionData
from mimn.impressions.train import train
from mimn.impressions.trained import RunFault, TrainedRun
from mimn.run_config import read_config
from mimn.training.search import BEST, SEEN, STUDY
from support.trainings import drawn, labelled

pytestmark = pytest.mark.torch

SPACE = (
    "trials = 4\n"
    '[parameters."training.learning_rate"]\nlow = 1e-4\nhigh = 1e-1\nlog = true\n'
    '[parameters."model.head"]\nchoices = ["mlp", "deepfm"]\n'
    '[parameters."model.head_units"]\nchoices = [[8, 4], [16, 8]]\n'
    "[parameters.min_count]\nlow = 1\nhigh = 9\n"
)


def searching(folder: Path, space: str = SPACE, **made: Any) -> list[str]:
    """Arguments of a search on labelled impressions."""
    arguments = labelled(folder, epochs=2, **made)
    (folder / "space.toml").write_text(space)
    return ["tune", *arguments[3:], "--space", str(folder / "space.toml"), "--output", str(folder / "search")]


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "search" / STUDY)))
    return optuna.load_study(study_name="search", storage=storage).trials


def told(folder: Path) -> list[tuple[Any, ...]]:
    return [(one.number, one.state, one.value, one.params) for one in trials(folder)]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    assert main(searching(folder)) == 0
    return folder


def test_it_prints_the_trials_and_writes_the_best_as_a_configuration(
    searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(searching(searched)) == 0, "a finished search has nothing left to do"
    printed = capsys.readouterr().out
    found = trials(searched)
    best = min(found, key=lambda one: one.value if one.value is not None else np.inf)
    assert len(found) == 4
    assert best.value is not None
    assert f"{best.value:.5f}" in printed
    assert str(searched / "search" / BEST) in printed
    config = config_file.read(searched / "search" / BEST, ImpressionConfig)
    assert config.training.learning_rate == best.params["training.learning_rate"]
    assert config.min_count == best.params["min_count"]
    assert list(config.architecture.head_units) in ([8, 4], [16, 8])
    record = train(searched / "dataset.toml", config, searched / "again", cache=searched / "cache")
    assert record["validation_logloss"] == best.value


@pytest.mark.full
def test_flipped_test_labels_change_no_trial(searched: Path, tmp_path: Path) -> None:
    assert main(searching(tmp_path, test_labels_flipped=True)) == 0
    assert told(tmp_path) == told(searched)


def test_the_data_of_a_trial_holds_no_test_label(searched: Path) -> None:
    data = ImpressionData.load(searched / "dataset.toml", searched / "cache", SEEN)
    whole = ImpressionData.load(searched / "dataset.toml", searched / "cache")
    test = whole.rows("test")
    assert len(test) > 100
    assert set(data.labelled.impressions.label[test].tolist()) == {WITHHELD}
    assert len(data.labelled.occasions("test")) == len(data.rows("test")) == 0
    for part in SEEN:
        rows = whole.rows(part)
        assert data.rows(part).tolist() == rows.tolist()
        assert data.labelled.impressions.label[rows].tolist() == whole.labelled.impressions.label[rows].tolist()


def test_a_run_without_test_labels_cannot_be_evaluated_on_them(searched: Path, tmp_path: Path) -> None:
    config = config_file.read(searched / "search" / BEST, ImpressionConfig)
    train(searched / "dataset.toml", config, tmp_path / "run", cache=searched / "cache", parts=SEEN)
    with pytest.raises(RunFault, match="is not that of training"):
        TrainedRun.load(tmp_path / "run", searched / "cache")


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_search_that_was_killed_ends_like_an_unbroken_one(searched: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mimn.impressions", *searching(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    best, log = tmp_path / "search" / BEST, tmp_path / "search/trial/train.log"

    def is_in_the_second_trial() -> bool:
        return best.exists() and log.exists() and "epoch 1:" in log.read_text("utf-8")

    def goes_on() -> None:
        assert process.poll() is None, "it ended before it could be killed"

    until(is_in_the_second_trial, "a second trial", within_s=240, alive=goes_on)
    process.kill()
    process.wait()
    states = [one.state for one in trials(tmp_path)]
    assert states[-1] == optuna.trial.TrialState.RUNNING
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    assert told(tmp_path) == told(searched)
    assert (tmp_path / "search" / BEST).read_text("utf-8") == (searched / "search" / BEST).read_text("utf-8")


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_second_search_in_one_folder_is_told_so_and_the_first_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = searching(tmp_path, SPACE.replace("trials = 4", "trials = 1"))
    command = [sys.executable, "-m", "mimn.impressions", *arguments]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "search/trial/train.log"

    def runs() -> None:
        assert first.poll() is None, "it ended before the second began"

    until(log.exists, "a trial", within_s=240, alive=runs)
    os.kill(first.pid, signal.SIGSTOP)  # so that it is there for as long as the second runs
    try:
        assert main(arguments) == 1
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert f"another process is searching in {tmp_path / 'search'}" in capsys.readouterr().err
    _, err = first.communicate(timeout=240)
    assert first.returncode == 0, err
    assert [one.state for one in trials(tmp_path)] == [optuna.trial.TrialState.COMPLETE]
    assert main(arguments) == 0, "the lock went with the process"


def test_a_place_below_a_file_is_refused_before_data_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    search = searching(tmp_path)
    of_run = labelled(tmp_path, epochs=1)[2:]
    for command in (search, of_run):
        assert main([*command, "--output", str(tmp_path / "file/a/b")]) == 1
        said = f"{tmp_path / 'file/a/b'} cannot be a folder, because {tmp_path / 'file'} is a file: choose another"
        assert said in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


@pytest.mark.full
def test_a_search_whose_journal_a_full_disk_tore_goes_on(tmp_path: Path) -> None:
    arguments = searching(tmp_path)
    assert main([*arguments, "--trials", "1"]) == 0
    journal = tmp_path / "search" / STUDY
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "worker_id": "abc')
    assert main([*arguments, "--trials", "2"]) == 0
    assert journal.read_bytes().startswith(whole + b"{")
    assert [one.state for one in trials(tmp_path)] == [optuna.trial.TrialState.COMPLETE] * 2


def test_drawn_negatives_are_searched_on_validation_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = drawn(tmp_path)
    (tmp_path / "space.toml").write_text('trials = 9\n[parameters."training.learning_rate"]\nlow = 1e-3\nhigh = 1e-1\n')
    command = ["--config", arguments[-1], "--space", str(tmp_path / "space.toml"), "--output", str(tmp_path / "search")]
    assert tune.main([*command, "--trials", "2"]) == 0
    best = max(one.value or 0.0 for one in trials(tmp_path))
    assert best > 0.6
    assert f"{best:.5f}" in capsys.readouterr().out
    data = load_data(read_config(Path(arguments[-1])).data, SEEN)
    assert len(data.instances.of("test")) == 0 < len(data.instances.of("validation"))


def test_a_trial_that_cannot_be_trained_is_shown_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = 'trials = 2\n[parameters."training.learning_rate"]\nlow = 1e30\nhigh = 1e33\n'
    assert main(searching(tmp_path, space)) == 1
    captured = capsys.readouterr()
    assert "no trial of" in captured.err
    assert "the loss is" in captured.out


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ('[parameters."training.rate"]\nlow = 1\nhigh = 2\n', "unknown field `rate`"),
        ('[parameters."model.head"]\nchoices = ["deepfm", "deepfn"]\n', "head must be one of"),
        ('[parameters."training.seed"]\nlow = 1\nhigh = 2\n', "training.seed cannot be searched"),
        ('[parameters."training.learning_rate"]\nlow = 1\n', "a range needs `low` below `high`"),
    ],
)
def test_a_space_that_cannot_be_searched_is_named(
    space: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(searching(tmp_path, space)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "search").exists()


def test_another_search_is_not_continued(searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = searching(searched)
    other = tmp_path / "space.toml"
    other.write_text(SPACE.replace("1e-4", "1e-5"))
    arguments[arguments.index("--space") + 1] = str(other)
    assert main(arguments) == 1
    assert "is another search" in capsys.readouterr().err


def test_past_rates_leave_out_impressions_whose_labels_are_withheld(tmp_path: Path) -> None:
    """With users apart, impressions of test users lie between those of the others: unknown is not unclicked."""
    labelled(tmp_path, epochs=1)
    path = tmp_path / "dataset.toml"
    text = path.read_text("utf-8")
    path.write_text(text[: text.index("[split]")] + '[fields.item]\nclicked = { kind = "past_rate", prior = 1 }\n')
    whole, seen = (ImpressionData.load(path, tmp_path / "cache", parts) for parts in (PARTS, SEEN))
    shown, last = seen.labelled.impressions, np.argsort(seen.labelled.impressions.time_ms)[-200:]
    withheld = shown.label == WITHHELD
    assert withheld.sum() > 100
    for row in last[~withheld[last]].tolist():
        before = ~withheld & (shown.known_ms < shown.time_ms[row])
        of_item = before & (shown.item_id == shown.item_id[row])
        overall = (shown.label[before].sum() + 1.0) / (before.sum() + 100.0)
        expected = (shown.label[of_item].sum() + overall) / (of_item.sum() + 1.0)
        assert seen.rates["clicked"][row] == pytest.approx(expected)
    assert not np.array_equal(seen.rates["clicked"], whole.rates["clicked"])


def test_a_missing_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(searching(tmp_path)) == 1
    assert "pip install -e 'models[train,tune]'" in capsys.readouterr().err
    assert not (tmp_path / "search").exists()


def test_a_part_that_is_not_wanted_may_be_degenerate(tmp_path: Path) -> None:
    """A search needs no clicks in the test part, which has not happened yet when one searches."""
    labelled(tmp_path, epochs=1)
    text = (tmp_path / "dataset.toml").read_text("utf-8")
    (tmp_path / "dataset.toml").write_text(text.replace("validate_until = 2020-09-29", "validate_until = 2021-09-29"))
    with pytest.raises(DataError, match="the part test has 0 clicks"):
        ImpressionData.load(tmp_path / "dataset.toml", tmp_path / "cache")
    assert len(ImpressionData.load(tmp_path / "dataset.toml", tmp_path / "cache", SEEN).rows("validation")) > 100
