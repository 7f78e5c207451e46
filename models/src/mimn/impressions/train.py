"""Train one model of labelled impressions: a description and a configuration in, a run folder out.

The folder holds `config.toml` (resolved), `dataset.toml` (a copy), the ids and fields as they were fitted on the train
part, `model.safetensors` (the epoch with the lowest validation log loss), `metrics.json`, `train.log` and, until
training ends, a checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mimn import metrics, run
from mimn.calibration import Prior
from mimn.data.batches import Batches
from mimn.data.description import read_description
from mimn.data.labelled import OccasionBatch, OccasionSampler
from mimn.data.split import PARTS, Part
from mimn.data.vocabulary import UNKNOWN_ROW
from mimn.impressions.config import ImpressionConfig
from mimn.impressions.data import ImpressionData, ImpressionReader, KnownIds
from mimn.impressions.scoring import predict
from mimn.nn.checkpoint import model_fields, untrained
from mimn.nn.heads.over_state import FieldTop
from mimn.nn.model import ClickModel
from mimn.training.folder import TrainingFailed, check_folder, log, logged, machine
from mimn.training.loop import ONCE, Running, Step, finite, fit
from mimn.training.processes import Processes
from mimn.training.schedule import Measure, Schedule
from mimn.training.warm import Origin, Start

DESCRIPTION = "dataset.toml"


class LabelledImpressions:
    """The task: whether each impression of the train part was clicked, in windows of histories."""

    measure = Measure("logloss", higher_is_better=False)
    first_epoch = 1

    def __init__(
        self, config: ImpressionConfig, data: ImpressionData, reader: ImpressionReader, processes: Processes
    ) -> None:
        plan = config.windows
        self._config, self._reader, self._processes = config, reader, processes
        self._sampler = OccasionSampler(
            data.labelled.occasions("train", history=config.history),
            plan.length,
            plan.occasions,
            plan.negatives_kept,
        )
        self._validation = data.labelled.occasions("validation", history=config.history)
        self.data_sha256 = f"{data.sha256} {data.prepared.sha256}"

    def steps(self, rng: np.random.Generator) -> Batches[Step]:
        """One epoch of windows with their impressions."""
        batches = self._sampler.epoch(rng, self._config.training.windows_per_batch)
        return Batches(len(batches), self._steps(batches, rng))

    def _steps(self, batches: Batches[OccasionBatch], rng: np.random.Generator) -> Iterator[Step]:
        mine = self._processes.share
        for windows in batches:
            if not windows.real.any():  # all of its negatives were left out
                continue
            batch = self._reader.batch(windows, rng, mine)
            yield Step(batch if len(batch.items) else None, {"impressions": int(windows.real.sum())})

    def validate(self, model: ClickModel) -> dict[str, float]:
        """Log loss and AUC on the validation impressions, the loss after the correction for the negatives that training
        left out."""
        processes, validation = self._processes, self._validation
        length = self._config.training.validation_length
        scores = finite(processes.add_up_scores(predict(model, self._reader, validation, length, processes.share)))
        labels = validation.labelled.impressions.label[validation.rows].astype(np.int64)
        corrected = Prior(self._config.windows.negatives_kept).apply(scores)
        return {"logloss": metrics.logloss(labels, corrected), "auc": metrics.auc(labels, scores)}


def train(
    description: Path,
    config: ImpressionConfig,
    output: Path,
    running: Running = ONCE,
    *,
    cache: Path,
    resume: bool = False,
    start: Start | None = None,
    parts: Sequence[Part] = PARTS,
) -> dict[str, Any]:
    """Train `config` on the data set of `description` into the folder `output`; returns what `metrics.json` says.

    `parts`: whose labels are read at all. A run without the part test has other data, and cannot be evaluated there.
    `start`: the finished run whose weights this one begins with (`mimn.training.warm`).

    Raises:
        ConfigError, DataError: the configuration or the data set cannot be used; nothing is written then.
        TrainingFailed: the folder is taken, there is nothing to resume, or the loss is not finite.
    """
    torch.set_num_threads(1)
    processes, resolved, commit = running.processes, config.to_toml(), run.commit()
    with processes.first_alone():
        if processes.first:
            check_folder(output, config, resume=resume)
            if resume and read_description(description) != read_description(output / DESCRIPTION):
                raise TrainingFailed(f"{description} differs from {output / DESCRIPTION}: resume with that description")
        origin = Origin.of(output, start, resume=resume)
        if origin is not None:
            origin.check(config.architecture)
        data = ImpressionData.load(description, cache, parts)
        config.check_against(data.prepared.description)
        known, fitted = data.known_ids(config.min_count), data.fit_fields()
        if origin is not None:
            origin.check_actions(data.prepared.description.action_rules)
            known, fitted = grown(known, origin), origin.grown_fields(fitted)
        reader = ImpressionReader(data, known.ids, fitted, config)
        torch.manual_seed(config.training.seed)
        fields, members = None, data.item_members(known)
        if fitted.specs or members is not None:
            rows = torch.from_numpy(known.embedding_rows)
            fields = model_fields(config.architecture, fitted.specs, reader.item_values(), rows, members)
        rules = data.prepared.description.action_rules
        rows_of = len(known.ids.items) + 1, len(known.ids.categories) + 1
        model = untrained(config.architecture, *rows_of, fields, rules)
        start_at_base_rate(model, data, config.windows.negatives_kept)
        if processes.first:
            output.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(description, output / DESCRIPTION)
            known.ids.save(output)
            fitted.save(output)
            if reader.member_index is not None:
                reader.member_index.save(output)
            if origin is not None:
                origin.save(output)
            # Last: it says that there is a run to resume, with all that it began with.
            run.write_text(output / run.CONFIG, resolved)
    with logged(output, file=processes.first):
        data.prepared.say_refused(log)
        if origin is not None:
            origin.give(model, known.ids, fitted)
        task = LabelledImpressions(config, data, reader, processes)
        begun = None if origin is None else origin.source.run
        schedule = fit(model, task, config.training, output, running, resume=resume, start=begun)
        record = {
            "description": str(description.resolve()),
            "items": len(known.ids.items),
            "categories": len(known.ids.categories),
            "fields": [spec.name for spec in fitted.specs],
            **_record(config, data, model, schedule, commit=commit),
        }
        if origin is not None:
            record["from"] = origin.record(schedule.start)
        if processes.first:
            run.write_json(output / run.METRICS, record)
            (output / run.CHECKPOINT).unlink(missing_ok=True)
        return record


def start_at_base_rate(model: ClickModel, data: ImpressionData, negatives_kept: float) -> None:
    """Let a head without a tower begin with the log odds of a click among what an epoch reads."""
    rows, shown = data.rows("train"), data.labelled.impressions
    clicked = shown.label[rows] == 1
    clicks, others = (float(shown.weight[rows[mask]].sum(dtype=np.float64)) for mask in (clicked, ~clicked))
    for part in model.modules():
        if isinstance(part, FieldTop):
            part.start_at(float(np.log(clicks / (negatives_kept * others))))


def grown(known: KnownIds, origin: Origin) -> KnownIds:
    """The ids of the new data and of the run that is started from; an item that had its own embedding keeps it. If the
    run's states are kept, its ids and embeddings alone."""
    ids = origin.grown(known.ids)
    if origin.source.keep_state:
        return KnownIds(ids, origin.embedding_rows)
    own = known.embedding_rows[known.ids.item_rows(ids.items)] != UNKNOWN_ROW
    own |= origin.own_embedding(ids)
    rows = np.where(own, np.arange(1, len(own) + 1), UNKNOWN_ROW)
    return KnownIds(ids, np.concatenate([[UNKNOWN_ROW], rows]))


def _record(
    config: ImpressionConfig, data: ImpressionData, model: ClickModel, schedule: Schedule, *, commit: str
) -> dict[str, Any]:
    best = schedule.validations[schedule.best_epoch]
    return {
        "name": config.name,
        "dataset": data.prepared.description.name,
        "seed": config.training.seed,
        "data_sha256": data.sha256,
        "prepared_sha256": data.prepared.sha256,
        "refused": data.prepared.meta.refused,
        "commit": commit,
        "machine": machine(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "negatives_kept": config.windows.negatives_kept,
        "impressions": {part: len(data.rows(part)) for part in PARTS},
        "epochs": len(schedule.curve),
        "best_epoch": schedule.best_epoch,
        "validation_logloss": best["logloss"],
        "validation_auc": best["auc"],
        "curve": [epoch.row() for epoch in schedule.curve],
        "evaluation": {},
    }
