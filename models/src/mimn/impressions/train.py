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

from mimn import metrics
from mimn.calibration import Prior
from mimn.data.batches import Batches
from mimn.data.description import read_description
from mimn.data.labelled import OccasionBatch, OccasionSampler
from mimn.data.split import PARTS, Part
from mimn.impressions.config import ImpressionConfig
from mimn.impressions.data import ImpressionData, ImpressionReader
from mimn.impressions.later import first_event_ms
from mimn.impressions.limits import limited
from mimn.impressions.scoring import predict
from mimn.nn.checkpoint import model_fields, untrained
from mimn.nn.heads.over_state import FieldTop
from mimn.nn.model import ClickModel
from mimn.run_files import DESCRIPTION
from mimn.training.folder import TrainingFailed, machine
from mimn.training.loop import ONCE, Running, Step, finite
from mimn.training.procedure import train_run
from mimn.training.processes import Processes
from mimn.training.schedule import Measure, Schedule
from mimn.training.warm import Origin, Start, limits_of

MANY_CLICKS = 40
"""With fewer validation clicks an AUC of 1 may be luck."""
LIKELY_CAUSE = (
    "most often something that is read is known only after the answer. `ctr data check` looks for fields and histories "
    "that hold the answer; leave out what no request has, and train again"
)


class LabelledImpressions:
    """The task: whether each impression of the train part was clicked, in windows of histories."""

    measure = Measure("logloss", higher_is_better=False)
    first_epoch = 1
    curves = False
    doubts: Sequence[str] = ()

    def __init__(
        self,
        description: Path,
        config: ImpressionConfig,
        data: ImpressionData,
        processes: Processes,
        origin: Origin | None = None,
    ) -> None:
        """`description`: the file that describes the data. `origin`: what a warm run begins with.

        Raises:
            ConfigError, DataError: the model cannot read the data, or cannot begin with those weights.
        """
        self._description, self._config, self._data, self._processes = description, config, data, processes
        self.prepared = data.prepared
        config.check_against(data.prepared.description)
        known, fitted = data.known_ids(config.min_count), data.fit_fields()
        if origin is not None:
            known, fitted = origin.grown(known, fitted, data.prepared.description.action_rules)
        self.known, self.fitted = known, fitted
        labels = {part: data.labelled.impressions.label[data.rows(part)] for part in PARTS}
        self.counts = "impressions: " + ", ".join(
            f"{part} {len(of)} ({int((of == 1).sum())} clicked)" for part, of in labels.items() if len(of)
        )
        clicks = int((labels["validation"] == 1).sum())
        self.too_good = None if clicks < MANY_CLICKS else LIKELY_CAUSE
        self.hashes = f"data {data.sha256[:16]}"
        self._reader = ImpressionReader(data, known.ids, fitted, config)
        plan = config.windows
        self._sampler = OccasionSampler(
            data.labelled.occasions("train", history=config.history),
            plan.length,
            plan.occasions,
            plan.negatives_kept,
        )
        self._validation = data.labelled.occasions("validation", history=config.history)
        architecture = config.architecture if origin is None else limits_of(origin.config, config.architecture)
        self._architecture = limited(architecture, data, self._sampler, config.training.seed)
        self.data_sha256 = f"{data.sha256} {data.prepared.sha256}"

    def untrained(self) -> ClickModel:
        """The model with weights drawn from torch's generator; a head without a tower begins at the base rate."""
        config, data, known, specs = self._config, self._data, self.known, self.fitted.specs
        fields, members = None, data.item_members(known)
        if specs or members is not None:
            rows = torch.from_numpy(known.embedding_rows)
            fields = model_fields(self._architecture, specs, self._reader.item_values(), rows, members)
        rules = data.prepared.description.action_rules
        rows_of = len(known.ids.items) + 1, len(known.ids.categories) + 1
        model = untrained(self._architecture, *rows_of, fields, rules)
        start_at_base_rate(model, data, config.windows.negatives_kept)
        return model

    def save(self, folder: Path) -> None:
        """Write the description, the meanings of fields and, if a ledger reads them, the members of items."""
        shutil.copyfile(self._description, folder / DESCRIPTION)
        self.fitted.save(folder)
        if self._reader.member_index is not None:
            self._reader.member_index.save(folder)

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

    def record(self, model: ClickModel, schedule: Schedule, commit: str) -> dict[str, Any]:
        """What `metrics.json` says of the run."""
        config, data, best = self._config, self._data, schedule.validations[schedule.best_epoch]
        return {
            "description": str(self._description.resolve()),
            "items": len(self.known.ids.items),
            "categories": len(self.known.ids.categories),
            "fields": [spec.name for spec in self.fitted.specs],
            "name": config.name,
            "dataset": data.prepared.description.name,
            "ids": data.prepared.description.ids,
            "seed": config.training.seed,
            "data_sha256": data.sha256,
            "prepared_sha256": data.prepared.sha256,
            "first_event_ms": first_event_ms(data),
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
        ConfigError, DataError, TrainingFailed: as `train_run`.
    """

    def load(origin: Origin | None) -> LabelledImpressions:
        if resume and read_description(description) != read_description(output / DESCRIPTION):
            raise TrainingFailed(f"{description} differs from {output / DESCRIPTION}: resume with that description")
        data = ImpressionData.load(description, cache, parts)
        return LabelledImpressions(description, config, data, running.processes, origin)

    return train_run(config, output, load, running, resume=resume, start=start)


def start_at_base_rate(model: ClickModel, data: ImpressionData, negatives_kept: float) -> None:
    """Let a head without a tower begin with the log odds of a click among what an epoch reads."""
    rows, shown = data.rows("train"), data.labelled.impressions
    clicked = shown.label[rows] == 1
    clicks, others = (float(shown.weight[rows[mask]].sum(dtype=np.float64)) for mask in (clicked, ~clicked))
    for part in model.modules():
        if isinstance(part, FieldTop):
            part.start_at(float(np.log(clicks / (negatives_kept * others))))
