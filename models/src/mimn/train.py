"""Train one model with drawn negatives: a configuration file in, a run folder out.

    python -m mimn.train --config models/configs/online_retail_mimn.toml --output runs/x [--seed 1] [--resume]
    python -m mimn.train --config models/configs/recipe.toml --description dataset.toml --output runs/y
    torchrun --nproc-per-node 2 -m mimn.train ...                     the same by two processes (docs/training.md)

The run folder holds `config.toml` (resolved), `model.safetensors` (the epoch with the best validation AUC), the id
arrays of its embedding tables, `metrics.json`, `train.log`, `curves.png`, the runs of its teachers if it has any and,
until training ends, a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mimn import metrics, run
from mimn.baselines import check_reads_fields, state_bytes
from mimn.config import ConfigError
from mimn.data import windows
from mimn.data.batches import Batches
from mimn.data.description import weights_of
from mimn.data.events import DataError
from mimn.data.ledger_reads import ledgers_of
from mimn.data.split import PARTS, Part
from mimn.data.windows import WindowSampler
from mimn.data_set import DataSet, load_data
from mimn.enough_targets import check_any, counts_said, too_few_to_choose
from mimn.event_fields import EventFields, fit_event_fields, known_ids
from mimn.nn.checkpoint import untrained
from mimn.nn.model import Batch, ClickModel
from mimn.nn.sketch import Touches
from mimn.run_config import RunConfig, read_config
from mimn.scoring import predict
from mimn.state.actions import Actions
from mimn.training.command import add_options, running, say_resume, start_of
from mimn.training.folder import TrainingFailed, check_folder, machine
from mimn.training.loop import ONCE, Running, Step, finite
from mimn.training.procedure import train_run
from mimn.training.processes import Processes
from mimn.training.schedule import Measure, Schedule
from mimn.training.teachers import FOLDER, Teachers, teacher_configs
from mimn.training.warm import Origin, Start, limits_of

VALIDATION_NEGATIVES = 4
"""All drawn negatives choose the epoch: a single one is too noisy."""


class DrawnNegatives:
    """The task: each real next event among drawn ones, in windows of train users' histories."""

    measure = Measure("auc", higher_is_better=True)
    first_epoch = 0
    too_good: str | None = None  # drawn negatives may be that easy, and `check` looks at impressions
    curves = True

    def __init__(
        self,
        config: RunConfig,
        data: DataSet,
        processes: Processes,
        *,
        origin: Origin | None = None,
        teachers: Teachers | None = None,
        parts: Sequence[Part] = PARTS,
    ) -> None:
        """`origin`: what a warm run begins with. `parts`: those that `data` was loaded with.

        Raises:
            ConfigError, DataError: the model cannot read the data's fields, or cannot begin with those weights.
        """
        self._config, self._data, self._processes, self._teachers = config, data, processes, teachers
        self.prepared, rules = data.prepared, data.action_rules
        known = known_ids(data.vocabulary, data.prepared, config.data.min_users)
        fitted = fit_event_fields(data.prepared, data.train_users)
        if fitted.specs:
            check_reads_fields(config.architecture)
        self._architecture = config.architecture
        if origin is not None:
            known, fitted = origin.grown(known, fitted, rules)
            self._architecture = limits_of(origin.config, config.architecture)
        self.known, self.fitted = known, fitted
        self.counts = f"targets after {data.min_history} events or more: {counts_said(data, parts)}"
        doubt = too_few_to_choose(data, parts, "the epoch")
        self.doubts: Sequence[str] = [] if doubt is None else [doubt]
        self.hashes = f"data {data.events.sha256[:16]}, instances {data.instances.sha256[:16]}"
        self._fields = EventFields.of(data.prepared, data.train_users, fitted) if fitted.specs else None
        ledgers = ledgers_of(config.architecture, data.events, data.train_users, data.prepared.side("item"))
        self._table = None if ledgers is None else ledgers.table
        self._sampler = WindowSampler(
            data.events,
            data.vocabulary,
            known.ids,
            data.train_users,
            config.windows,
            sketch=config.architecture.sketch,
            ledger=None if ledgers is None else ledgers.reader,
            rule=config.data.negatives,
            actions=Actions.of(weights_of(rules)) if rules else None,
        )

    @property
    def data_sha256(self) -> str:
        """Of the events, and of all that was read with them."""
        return f"{self._data.events.sha256} {self._data.prepared.sha256}"

    def untrained(self) -> ClickModel:
        """The model with weights drawn from torch's generator."""
        config, ids = self._architecture, self.known.ids
        tables = None if self._fields is None else self._fields.model(config, self.known)
        rows = len(ids.items) + 1, len(ids.categories) + 1
        return untrained(config, *rows, tables, self._data.action_rules)

    def save(self, folder: Path) -> None:
        """Write the meanings of fields and the ledger's table of items, if there are any."""
        if self.fitted.specs:
            self.fitted.save(folder)
        if self._table is not None:
            self._table.save(folder)

    def steps(self, rng: np.random.Generator) -> Batches[Step]:
        """One epoch of windows with their targets."""
        batches = self._sampler.epoch(rng, self._config.training.windows_per_batch)
        return Batches(len(batches), self._steps(batches))

    def _steps(self, batches: Batches[windows.Batch]) -> Iterator[Step]:
        for batch in batches:
            counts = {"targets": int(batch.weight.sum()), "events": int(batch.length.sum())}
            mine = batch.share(self._processes.share)
            yield Step(self._tensors(mine) if len(mine.item) else None, counts)

    def _tensors(self, batch: windows.Batch) -> Batch:
        tensors = to_tensors(batch, auxiliary=self._config.architecture.auxiliary_loss)
        if self._fields is not None:
            tensors = replace(tensors, request=self._fields.request(batch.target))
        return tensors if self._teachers is None else self._teachers.taught(tensors)

    def validate(self, model: ClickModel) -> dict[str, float]:
        """AUC on the validation users, four negatives per positive, of the first sampling."""
        instances = self._data.instances.of("validation")
        sampling = instances.samplings[0]
        scores = predict(
            model,
            self.known.ids,
            self._data.events,
            instances,
            samplings={sampling: VALIDATION_NEGATIVES},
            length=self._config.training.validation_length,
            share=self._processes.share,
            request=None if self._fields is None else self._fields.request,
            table=self._table,
        )[sampling]
        labels = instances.candidates(sampling, VALIDATION_NEGATIVES).label
        return {"auc": metrics.auc(labels, finite(self._processes.add_up_scores(scores)).astype(np.float64))}

    def record(self, model: ClickModel, schedule: Schedule, commit: str) -> dict[str, Any]:
        """What `metrics.json` says of the run."""
        config, data, ids, curve = self._config, self._data, self.known.ids, schedule.curve
        targets, cpu_s = sum(epoch.counts["targets"] for epoch in curve), sum(epoch.cpu_s for epoch in curve)
        record: dict[str, Any] = {
            "name": config.name,
            "dataset": data.name,
            "ids": data.prepared.description.ids,
            "seed": config.training.seed,
            "data_sha256": data.events.sha256,
            "instances_sha256": data.instances.sha256,
            "prepared_sha256": data.prepared.sha256,
            "refused": data.prepared.meta.refused,
            "commit": commit,
            "machine": machine(model),
            "items": len(ids.items),
            "categories": len(ids.categories),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "state_bytes": state_bytes(config.architecture),
            "epochs": len(curve),
            "best_epoch": schedule.best_epoch,
            "validation_auc": schedule.validations[schedule.best_epoch]["auc"],
            "targets_per_cpu_s": round(targets / max(cpu_s, 1e-9), 1),
            "curve": [epoch.row() for epoch in curve],
            "evaluation": {},
        }
        if self._teachers is not None:
            record["teachers"] = self._teachers.records
        return record


def train(
    config: RunConfig,
    output: Path,
    running: Running = ONCE,
    *,
    resume: bool = False,
    start: Start | None = None,
    parts: Sequence[Part] = PARTS,
) -> dict[str, Any]:
    """Train `config`, after its teachers, into the folder `output` and return what `metrics.json` says.

    `start`: the finished run whose weights this one begins with (`mimn.training.warm`). `parts`: whose instances are
    read at all.

    Raises:
        ConfigError, DataError, TrainingFailed: as `train_run`.
    """
    taught_by, processes = _teachers(config, output, running, start, parts, resume=resume), running.processes

    def load(origin: Origin | None) -> DrawnNegatives:
        data = load_data(config.data, parts)
        check_any(data, "validation", "nothing can choose an epoch")
        teachers = Teachers.load(taught_by, config, data.prepared, processes.device) if taught_by else None
        return DrawnNegatives(config, data, processes, origin=origin, teachers=teachers, parts=parts)

    return train_run(config, output, load, running, resume=resume, start=start)


def _teachers(
    config: RunConfig, output: Path, running: Running, start: Start | None, parts: Sequence[Part], *, resume: bool
) -> list[Path]:
    """The finished runs of the teachers of the run in `output`, trained or resumed where they are not finished.

    Raises:
        TrainingFailed: a finished one is of another configuration, or the run that they teach cannot go on.
    """
    configs = teacher_configs(config)
    if not configs:
        return []
    with running.processes.first_alone():
        if running.processes.first:
            check_folder(output, config, resume=resume)  # as `train_run` does, but before teachers take hours
    folders = [output / FOLDER / str(i + 1) for i in range(len(configs))]
    # What there is, as the first process finds it: it may have begun a run before another process looks.
    there = torch.zeros(len(folders), 2, device=running.processes.device)
    if running.processes.first:
        there += torch.tensor([[(folder / name).exists() for name in (run.METRICS, run.CONFIG)] for folder in folders])
    for taught, folder, (finished, begun) in zip(
        configs, folders, running.processes.add_up(there).bool().tolist(), strict=True
    ):
        if not finished:
            train(taught, folder, running, resume=begun, start=start, parts=parts)
        elif read_config(folder / run.CONFIG).to_toml() != taught.to_toml():
            raise TrainingFailed(f"{folder} is a teacher of another configuration: choose another folder")
    return folders


def to_tensors(batch: windows.Batch, *, auxiliary: bool) -> Batch:
    """The sampler's arrays as the model's batch."""
    labels = torch.zeros(batch.target_item.shape)
    labels[..., 0] = 1.0
    weights = torch.from_numpy(batch.weight).unsqueeze(-1).expand_as(labels).clone()
    weights[..., 1:] /= labels.shape[-1] - 1
    return Batch(
        items=torch.from_numpy(batch.item),
        categories=torch.from_numpy(batch.category),
        lengths=torch.from_numpy(batch.length),
        positions=torch.from_numpy(batch.position),
        candidate_items=torch.from_numpy(batch.target_item),
        candidate_categories=torch.from_numpy(batch.target_category),
        labels=labels,
        weights=weights,
        actions=None if batch.action is None else torch.from_numpy(batch.action),
        negative_items=torch.from_numpy(batch.foreign_item) if auxiliary else None,
        negative_categories=torch.from_numpy(batch.foreign_category) if auxiliary else None,
        touches=None if batch.sketch is None else to_touches(batch.sketch),
        reads=None if batch.reads is None else torch.from_numpy(batch.reads),
    )


def to_touches(batch: windows.SketchBatch) -> Touches:
    """The sampler's arrays as the sketch's."""
    return Touches(
        addresses=torch.from_numpy(batch.address),
        times=torch.from_numpy(batch.time),
        candidate_addresses=torch.from_numpy(batch.target_address),
        now=torch.from_numpy(batch.target_time),
        weights=None if batch.weight is None else torch.from_numpy(batch.weight),
    )


def main(arguments: list[str] | None = None) -> int:
    """Train; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m mimn.train", description="Train one model.")
    parser.add_argument("--config", type=Path, required=True, help="TOML file, see models/configs")
    parser.add_argument(
        "--description",
        type=Path,
        metavar="TOML",
        help="the data set, in place of the one that the configuration names",
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        config = read_config(options.config)
        if options.description is not None:
            config = config.with_description(options.description)
        if options.seed is not None:
            config = config.with_seed(options.seed)
        with running(options) as how:
            record = train(config, options.output, how, resume=options.resume, start=start_of(options))
            if not how.processes.first:
                return 0
    except (ConfigError, DataError, TrainingFailed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say_resume(options)
        return 130
    shown = {name: record[name] for name in ("name", "dataset", "seed", "epochs", "best_epoch", "validation_auc")}
    print(json.dumps(shown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
