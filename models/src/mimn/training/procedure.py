"""The training procedure: from a configuration and a task to a finished run folder, the same for every task.

    check the folder        a run may start there, or go on
    find the start          of a warm run: the run whose weights it begins with (`mimn.training.warm`)
    load the task           its data, and what ids and fields mean there; of a warm run, grown from those of its start
    draw the model          from the seed; of a warm run, with the weights of its start
    write what it began with, `config.toml` last: it says that there is a run to resume
    fit                     `mimn.training.loop`: the best model and a checkpoint after each epoch
    write what came of it, `metrics.json` last: it says that the run is finished

Until `config.toml` is there nothing of the run is: what cannot be trained is refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch

from mimn import run, run_files
from mimn.config_file import HasToml
from mimn.data.fields import FittedFields
from mimn.data.prepared import Prepared
from mimn.data.vocabulary import KnownIds
from mimn.nn.model import ClickModel
from mimn.training.disk import named_if_full
from mimn.training.folder import alone_in, check_folder, draw_curves, log, logged
from mimn.training.loop import ONCE, Running, Task, check_processes, fit
from mimn.training.schedule import Schedule
from mimn.training.settings import TrainingSettings
from mimn.training.warm import Origin, Start


class TrainingConfig(HasToml, Protocol):
    """The configuration of a run, whatever its task is."""

    @property
    def name(self) -> str:
        """What the model is called in tables."""

    @property
    def training(self) -> TrainingSettings:
        """Table `[training]`."""


class RunTask(Task, Protocol):
    """A task with its data, its model, and what a run folder says of them."""

    curves: bool
    """Whether the run folder gets `curves.png`."""
    prepared: Prepared
    known: KnownIds
    """The ids that the model knows."""
    fitted: FittedFields
    """What the values of fields mean."""
    counts: str
    """How much each part has to judge a model by, for the log."""
    doubts: Sequence[str]
    """What makes figures of this data doubtful: warnings."""
    hashes: str
    """Beginnings of the hashes of what is read, for the log."""

    def untrained(self) -> ClickModel:
        """The model with weights drawn from torch's generator."""

    def save(self, folder: Path) -> None:
        """Write what evaluation and export need besides the ids, the model and the configuration."""

    def record(self, model: ClickModel, schedule: Schedule, commit: str) -> dict[str, Any]:
        """What `metrics.json` says of the run of `model`, which the source at `commit` trained."""


def train_run(
    config: TrainingConfig,
    output: Path,
    load: Callable[[Origin | None], RunTask],
    running: Running = ONCE,
    *,
    resume: bool = False,
    start: Start | None = None,
) -> dict[str, Any]:
    """Train `config` on the task that `load` reads into the folder `output`; returns what `metrics.json` says.

    `load` is told what a warm run begins with. `start`: the finished run whose weights this one begins with.

    Raises:
        ConfigError, DataError: the configuration or the data set cannot be used; nothing is written then.
        TrainingFailed: the folder is taken, there is nothing to resume, or `start` cannot be started from, and nothing
            is written; or the loss is not finite.
        DiskFull: what is written has no room.
    """
    with ExitStack() as held:
        return _train_run(config, output, load, running, held, resume=resume, start=start)


def _train_run(
    config: TrainingConfig,
    output: Path,
    load: Callable[[Origin | None], RunTask],
    running: Running,
    held: ExitStack,
    *,
    resume: bool,
    start: Start | None,
) -> dict[str, Any]:
    """As `train_run`; `held` gets what keeps other processes out of the folder."""
    torch.set_num_threads(1)
    processes, resolved, commit = running.processes, config.to_toml(), run.commit()
    with processes.first_alone():
        if processes.first:
            check_folder(output, config, resume=resume)
        origin = Origin.of(output, start, resume=resume)
        if origin is not None:
            origin.check(config.architecture)
        task = load(origin)
        torch.manual_seed(config.training.seed)
        model = task.untrained()
        check_processes(model, processes)
        starting_over = [] if origin is None else origin.give(model, task.known.ids, task.fitted)
        if processes.first:
            with named_if_full(output, "continue with --resume" if resume else "start again"):
                output.mkdir(parents=True, exist_ok=True)
                held.enter_context(alone_in(output))
                check_folder(output, config, resume=resume)  # another run may have begun while the data was read
                task.known.ids.save(output)
                task.save(output)
                if origin is not None:
                    origin.save(output)
                run.write_text(output / run.CONFIG, resolved)
    with named_if_full(output, "continue with --resume"), logged(output, file=processes.first):
        task.prepared.say_refused(log)
        for doubt in task.doubts:
            log.warning("%s: %s", task.prepared.description.name, doubt)
        if starting_over:
            log.warning("crosses of fields whose vocabulary grew start over: %s", ", ".join(starting_over))
        log.info(
            "%s on %s: %d items, %d categories, %d parameters, %s, %s",
            config.name,
            task.prepared.description.name,
            len(task.known.ids.items),
            len(task.known.ids.categories),
            sum(parameter.numel() for parameter in model.parameters()),
            task.counts,
            task.hashes,
        )
        begun = None if origin is None else origin.source.run
        schedule = fit(model, task, config.training, output, running, resume=resume, start=begun)
        record = task.record(model, schedule, commit)
        if origin is not None:
            record["from"] = origin.record(schedule.start)
        if processes.first:
            if task.curves:
                draw_curves(schedule, output / run.CURVES, config.name)
            record[run_files.FILES] = run_files.hashes(output)
            run.write_json(output / run.METRICS, record)
            (output / run.CHECKPOINT).unlink(missing_ok=True)
        return record
