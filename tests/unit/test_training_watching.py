"""What is said while a model is trained: the progress bar, and TensorBoard's event files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mimn import run, train
from mimn.run_config import read_config
from mimn.training import loop
from mimn.training.loop import Running
from mimn.training.schedule import Epoch
from support.trainings import drawn

pytestmark = pytest.mark.torch


@pytest.mark.full
def test_the_progress_bar_says_samples_a_second_and_the_time_that_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_config(Path(drawn(tmp_path, windows_per_batch=8)[-1]))
    train.train(config, tmp_path / "run", Running(progress_bar=True))
    shown = capsys.readouterr().err
    assert re.search(
        r"epoch 2: +\d+%.*\d+/\d+ \[\d\d:\d\d<\d\d:\d\d, .*batch.*, [\d,]+ targets/s, loss 0\.\d+\]", shown
    )


def test_tensorboard_gets_the_curve_and_a_resumed_run_goes_on_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--config", drawn(tmp_path, windows_per_batch=8)[-1], "--output", str(tmp_path / "run")]
    arguments += ["--tensorboard", str(tmp_path / "board")]
    real = loop.Epochs.run

    def is_killed(epochs: loop.Epochs) -> Epoch:
        if epochs.schedule.curve:
            raise KeyboardInterrupt
        return real(epochs)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Epochs, "run", is_killed)
        assert train.main(arguments) == 130
    assert train.main([*arguments, "--resume"]) == 0
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    auc = board.Scalars("epoch/validation/auc")
    losses = board.Scalars("step/loss")
    curve = json.loads((tmp_path / "run" / run.METRICS).read_text())["curve"]
    assert [round(one.value, 5) for one in auc] == [round(epoch["validation_auc"], 5) for epoch in curve]
    assert auc[1].step == 2 * auc[0].step
    assert len(losses) > 2
    assert [one.step for one in losses] == sorted(one.step for one in losses)
    assert {"epoch/loss", "epoch/learning_rate", "epoch/samples_per_second"} <= set(board.Tags()["scalars"])
