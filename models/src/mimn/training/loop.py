"""The training loop: epochs of steps, validation after each, the best model and a checkpoint on disk.

Each epoch draws from generators seeded by (seed, epoch), so a run that is resumed after an epoch continues as if it had
never stopped, and a checkpoint needs no generator state.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from mimn import run
from mimn.config import ConfigError
from mimn.data.batches import Batches
from mimn.nn.model import Batch, ClickModel, Losses
from mimn.training.checkpoint import Past, load_checkpoint, save_best, save_checkpoint
from mimn.training.folder import TrainingFailed
from mimn.training.memory import keep_freed_memory
from mimn.training.optimizers import Optimizers
from mimn.training.processes import ALONE, Processes
from mimn.training.schedule import Epoch, Measure, Schedule
from mimn.training.settings import TrainingSettings

log = logging.getLogger("mimn.train")
F = TypeVar("F", np.float32, np.float64)
TOO_GOOD = 0.99
"""With such a validation AUC a task may doubt its data; more training is no advice then."""


@dataclass(frozen=True)
class Step:
    """What one step of the optimizers reads."""

    batch: Batch | None
    """This process's share of the windows; None if it has none."""
    counts: dict[str, int]
    """What the whole batch is, by name; the first is called samples."""


class Task(Protocol):
    """What a model is trained on: the data, how it becomes batches, and how a model is judged."""

    measure: Measure
    first_epoch: int
    """What the first epoch is called in the seed of its generator."""
    too_good: str | None
    """What a validation AUC of `TOO_GOOD` or more most likely means, and what to do; None if it may well be true."""

    def steps(self, rng: np.random.Generator) -> Batches[Step]:
        """One epoch in random order: a function of the generator alone."""

    def validate(self, model: ClickModel) -> dict[str, float]:
        """Figures on the validation part, `measure` among them; the same in all processes."""

    @property
    def data_sha256(self) -> str:
        """Hash of what is trained on: a run is resumed on the same data."""


class Watcher(Protocol):
    """Is told how training goes, in the first process."""

    def begin(self, step: int) -> None:
        """Called before the first step; a resumed run has taken `step` of them before."""

    def step(self, step: int, loss: float) -> None:
        """Called after each step; `step` counts over all epochs from 1."""

    def epoch(self, number: int, step: int, epoch: Epoch, learning_rate: float, per_second: float) -> None:
        """Called after each epoch; `number` counts from 1. `per_second`: samples a second of wall time, by all
        processes."""


@dataclass(frozen=True)
class Running:
    """How a training runs. None of it changes what is learned."""

    processes: Processes = ALONE
    progress_bar: bool = False
    watchers: Sequence[Watcher] = ()


ONCE = Running()
"""One process, and silent."""


def check_processes(model: ClickModel, processes: Processes) -> None:
    """Whether so many processes can train a model.

    Raises:
        ConfigError: they cannot.
    """
    if processes.count > 1 and any(isinstance(part, nn.BatchNorm1d) for part in model.modules()):
        raise ConfigError(
            "head_norm = 'batch' normalizes by the rows of one process alone: train in one process, or set it to 'none'"
        )


def fit(
    model: ClickModel,
    task: Task,
    settings: TrainingSettings,
    folder: Path,
    running: Running = ONCE,
    *,
    resume: bool = False,
    start: str | None = None,
) -> Schedule:
    """Train `model` until the schedule is over. The epoch that validation chose is then in `folder` as `run.MODEL`.

    `start`: the run whose weights the model has. They are epoch 0, which is kept if none is better.

    Raises:
        TrainingFailed: the loss is not finite, or the checkpoint cannot be resumed.
    """
    keep_freed_memory()
    processes = running.processes
    model.to(processes.device)
    optimizers, schedule = Optimizers(model, settings), Schedule(settings, task.measure)
    checkpoint, steps = folder / run.CHECKPOINT, 0
    if resume and checkpoint.exists():
        past = load_checkpoint(checkpoint, model, optimizers, task.data_sha256)
        schedule.curve, schedule.start, steps = past.curve, past.start, past.steps
        log.info("resumed after epoch %d", len(schedule.curve))
    if settings.compile:
        model.compile_steps()
    epochs = Epochs(model, task, schedule, optimizers, running, steps)
    for watcher in epochs.watchers:
        watcher.begin(steps)
    if start is not None and not schedule.curve:
        schedule.start = task.validate(model)
        if processes.first:
            save_best(model, folder / run.MODEL)
        log.info("epoch 0, the weights of %s: %s", start, figures_said(schedule.start))
    while not schedule.over:
        epoch = epochs.run()
        if processes.first:
            if schedule.last_is_best:
                save_best(model, folder / run.MODEL)
            past = Past(schedule.curve, epochs.steps, schedule.start)
            save_checkpoint(checkpoint, model, optimizers, past, task.data_sha256)
        log.info("epoch %d: %s", len(schedule.curve), said(epoch))
    if task.too_good is not None and schedule.best_auc >= TOO_GOOD:
        log.warning("%s: a validation AUC of %.5f is hardly ever true: %s", folder, schedule.best_auc, task.too_good)
    elif schedule.last_is_best:
        log.warning(
            "%s: the last of %d epochs is the best on validation, so more training may give a better model: raise "
            'training.epochs, or set epochs = "auto" to stop by validation',
            folder,
            len(schedule.curve),
        )
    if schedule.start is not None and schedule.best_epoch == 0:
        log.warning(
            "%s: no epoch is better than %s on today's validation part, so its weights are kept: train on new data "
            "alone (of impressions by `train_from` in `[split]`), or with a lower training.learning_rate",
            folder,
            start,
        )
    return schedule


def finite(scores: NDArray[F]) -> NDArray[F]:
    """Validation scores as they are. [n] → [n]

    Raises:
        TrainingFailed: one is not a number. After the last step no loss shows that the weights ran away, and such an
            epoch would be compared with the others as if it could be the best.
    """
    if not np.isfinite(scores).all():
        raise TrainingFailed("scores of the validation part are not finite: lower training.learning_rate")
    return scores


def said(epoch: Epoch) -> str:
    """The epoch as a line of the log."""
    figures = figures_said(epoch.validation)
    counts = ", ".join(f"{value} {name}" for name, value in epoch.counts.items())
    return f"loss {epoch.loss:.5f}, {figures}, {counts}, {epoch.cpu_s:.1f} CPU s"


def figures_said(validation: dict[str, float]) -> str:
    """Figures on the validation part as a piece of such a line."""
    return ", ".join(f"validation {name} {value:.5f}" for name, value in validation.items())


@dataclass
class Epochs:
    """Runs one epoch after another; the schedule's curve grows by one each time."""

    model: ClickModel
    task: Task
    schedule: Schedule
    optimizers: Optimizers
    running: Running = ONCE
    steps: int = 0
    """Steps taken, for the watchers."""

    @property
    def watchers(self) -> Sequence[Watcher]:
        """Those that this process tells."""
        return self.running.watchers if self.running.processes.first else ()

    def run(self) -> Epoch:
        """One pass over newly drawn windows, then validation.

        Raises:
            TrainingFailed: the loss is not finite.
        """
        settings, number = self.schedule.settings, len(self.schedule.curve) + 1
        rng = np.random.default_rng([settings.seed, self.task.first_epoch + number - 1])
        # Windows are drawn alike everywhere; dropout must not repeat itself in the processes' shares.
        torch.manual_seed(int(rng.integers(2**62)) + self.running.processes.rank)
        learning_rate = self.schedule.learning_rate
        self.optimizers.set_learning_rate(learning_rate)
        self.model.train()
        began, wall, total, weight = time.process_time(), time.perf_counter(), 0.0, 0.0
        counts: dict[str, int] = {}
        with tqdm(
            self.task.steps(rng),
            f"epoch {number}",
            disable=not (self.running.progress_bar and self.running.processes.first),
            unit="batch",
            leave=False,
            file=sys.stderr,
        ) as bar:
            for step in bar:
                loss, labels = self.take_step(step.batch)
                total, weight = total + loss * labels, weight + labels
                counts = {name: counts.get(name, 0) + value for name, value in step.counts.items()}
                self.steps += 1
                for watcher in self.watchers:
                    watcher.step(self.steps, loss)
                name, samples = next(iter(counts.items()))
                rate = samples / (time.perf_counter() - wall)
                bar.set_postfix_str(f"{rate:,.0f} {name}/s, loss {total / max(weight, 1e-9):.4f}", refresh=False)
        per_second = next(iter(counts.values()), 0) / (time.perf_counter() - wall)
        cpu_s = self._of_all(time.process_time() - began)
        epoch = Epoch(
            loss=total / weight,
            validation=self.task.validate(self.model),
            counts=counts,
            cpu_s=round(cpu_s, 2),
        )
        self.schedule.curve.append(epoch)
        for watcher in self.watchers:
            watcher.epoch(number, self.steps, epoch, learning_rate, per_second)
        return epoch

    def take_step(self, batch: Batch | None) -> tuple[float, float]:
        """One step of the optimizers on this process's share of a batch: the whole batch's click loss, and its weight.

        Raises:
            TrainingFailed: the loss is not finite.
        """
        settings, processes = self.schedule.settings, self.running.processes
        self.optimizers.zero_grad()
        if batch is None:
            part = torch.zeros(3, dtype=torch.float64, device=processes.device)
            click = torch.zeros(1, device=processes.device)
            whole = processes.add_up(part)
        else:
            losses = self.model.loss(batch.to(processes.device))
            part = _weights(batch).to(processes.device)
            whole = processes.add_up(part.clone())
            share = (part / whole.clamp_min(1e-9)).float()
            click = (losses.click.detach() * share[0]).reshape(1)
            (losses.total if processes.count == 1 else _weighted(losses, share)).backward()  # type: ignore[no-untyped-call]
        loss = float(processes.add_up(click))
        if not math.isfinite(loss):
            number = len(self.schedule.curve) + 1
            raise TrainingFailed(f"the loss is {loss} in epoch {number}: lower training.learning_rate")
        self.optimizers.add_up_gradients(processes)
        self.optimizers.clip(settings.gradient_clip)
        self.optimizers.step()
        return loss, float(whole[0])

    def _of_all(self, value: float) -> float:
        return float(
            self.running.processes.add_up(
                torch.tensor([value], dtype=torch.float64, device=self.running.processes.device)
            )
        )


def _weights(batch: Batch) -> Tensor:
    """What each part of the loss is a mean over: weights of labels, windows, and pairs of events. → [3] float64"""
    labels = batch.labels.numel() if batch.weights is None else float(batch.weights.sum())
    windows = len(batch.items)
    pairs = windows if batch.lengths is None else int((batch.lengths - 1).clamp_min(0).sum())
    return torch.tensor([labels, windows, pairs], dtype=torch.float64)


def _weighted(losses: Losses, share: Tensor) -> Tensor:
    """This process's part of the whole batch's loss."""
    return losses.click * share[0] + losses.utilization * share[1] + losses.auxiliary * share[2]
