"""Curves for TensorBoard while a model is trained; needs the extra `tensorboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mimn.training.folder import TrainingFailed
from mimn.training.schedule import Epoch

EVERY = 20
"""Steps whose losses are averaged into one point."""


class TensorBoard:
    """A watcher that writes event files: `step/loss`, and for each epoch its figures, learning rate and speed."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: where `tensorboard --logdir` looks.

        Raises:
            TrainingFailed: the extra is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingFailed(
                f"--tensorboard needs a package that is not installed ({error}): pip install -e "
                "'models[train,tensorboard]'"
            ) from error
        self._folder, self._kind = folder, SummaryWriter
        self._writer: Any = None
        self._losses: list[float] = []

    def begin(self, step: int) -> None:
        """Open the files. Points of a run that was killed after `step` are replaced."""
        self._writer = self._kind(str(self._folder), purge_step=step + 1)

    def step(self, step: int, loss: float) -> None:
        """Note a step's loss."""
        self._losses.append(loss)
        if len(self._losses) == EVERY:
            self._writer.add_scalar("step/loss", sum(self._losses) / EVERY, step)
            self._losses = []

    def epoch(self, number: int, step: int, epoch: Epoch, learning_rate: float, per_second: float) -> None:
        """Note an epoch."""
        del number
        figures = {"loss": epoch.loss, **{f"validation/{name}": value for name, value in epoch.validation.items()}}
        figures |= {"learning_rate": learning_rate, "samples_per_second": per_second}
        for name, value in figures.items():
            self._writer.add_scalar(f"epoch/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()
