"""Train one model of labelled impressions: a description and a configuration in, a run folder out.

The folder holds `config.toml` (resolved), `dataset.toml` (a copy), the ids and fields as they were fitted on the train
part, `model.safetensors` (the epoch with the lowest validation log loss), `metrics.json` and `train.log`.
"""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mimn import metrics, run
from mimn.calibration import Prior
from mimn.data.labelled import Occasions, OccasionSampler
from mimn.data.split import PARTS
from mimn.impressions.config import ImpressionConfig
from mimn.impressions.data import ImpressionData, ImpressionReader
from mimn.impressions.scoring import predict
from mimn.nn.checkpoint import model_fields, save_model, untrained
from mimn.nn.model import ClickModel
from mimn.train import TrainingFailed, copied, logged, machine, optimizer_of, take_step

log = logging.getLogger("mimn.train")
DESCRIPTION = "dataset.toml"


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the curve."""

    loss: float
    """Mean weighted click loss over the epoch's impressions, in nats; with fewer negatives kept, of those kept."""
    validation_logloss: float
    """Of all validation impressions, after the correction for the negatives that training left out."""
    validation_auc: float
    impressions: int
    cpu_s: float
    """CPU seconds of the training passes, without validation."""


@dataclass
class _Progress:
    best: dict[str, Tensor]
    curve: list[Epoch] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """Index of the lowest validation log loss, the first of equals."""
        return int(np.argmin([epoch.validation_logloss for epoch in self.curve]))

    def over(self, config: ImpressionConfig) -> bool:
        """Whether training ends here."""
        settings, done = config.training, len(self.curve)
        return done >= settings.most_epochs or (done > 0 and done - 1 - self.best_epoch >= settings.patience)

    def learning_rate(self, config: ImpressionConfig) -> float:
        """Of the next epoch: lowered after every epoch, with `auto` after those that were not the best so far."""
        settings, lowered = config.training, len(self.curve)
        if settings.epochs == "auto":
            losses = [epoch.validation_logloss for epoch in self.curve]
            lowered -= sum(loss < min(losses[:at], default=np.inf) for at, loss in enumerate(losses))
        return settings.learning_rate * settings.learning_rate_decay**lowered


def train(
    description: Path, config: ImpressionConfig, output: Path, *, cache: Path, progress_bar: bool = False
) -> dict[str, Any]:
    """Train `config` on the data set of `description` into the folder `output`; returns what `metrics.json` says.

    Raises:
        ConfigError, DataError: the configuration or the data set cannot be used; nothing is written then.
        TrainingFailed: the folder is taken, or the loss is not finite.
    """
    torch.set_num_threads(1)
    if output.exists() and any(output.iterdir()):
        raise TrainingFailed(f"{output} is not empty: choose another folder")
    resolved = config.to_toml()
    data = ImpressionData.load(description, cache)
    config.check_against(data.prepared.description)
    known, fitted = data.known_ids(config.min_count), data.fit_fields()
    reader = ImpressionReader(data, known.ids, fitted, config.architecture.sketch)
    torch.manual_seed(config.training.seed)
    fields = None
    if fitted.specs:
        rows = torch.from_numpy(known.embedding_rows)
        fields = model_fields(config.architecture, fitted.specs, reader.item_values(), rows)
    rules = data.prepared.description.action_rules
    model = untrained(config.architecture, len(known.ids.items) + 1, len(known.ids.categories) + 1, fields, rules)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    output.mkdir(parents=True, exist_ok=True)
    (output / run.CONFIG).write_text(resolved, "utf-8")
    shutil.copyfile(description, output / DESCRIPTION)
    known.ids.save(output)
    fitted.save(output)
    with logged(output):
        progress = _epochs(config, data, reader, model, progress_bar)
        if progress.best_epoch + 1 == len(progress.curve):
            log.warning(
                "%s: the last of %d epochs is the best on validation, so more training may give a better model: raise "
                'training.epochs, or set epochs = "auto" to stop by validation',
                output,
                len(progress.curve),
            )
    model.load_state_dict(progress.best)
    save_model(model, output / run.MODEL)
    record = {
        "description": str(description.resolve()),
        "items": len(known.ids.items),
        "categories": len(known.ids.categories),
        "fields": [spec.name for spec in fitted.specs],
        **_record(config, data, progress, model),
    }
    run.write_json(output / run.METRICS, record)
    return record


def _epochs(
    config: ImpressionConfig, data: ImpressionData, reader: ImpressionReader, model: ClickModel, progress_bar: bool
) -> _Progress:
    plan, settings = config.windows, config.training
    if settings.compile:
        model.compile_steps()
    optimizer = optimizer_of(model, settings)
    sampler = OccasionSampler(data.labelled.occasions("train"), plan.length, plan.occasions, plan.negatives_kept)
    validation = data.labelled.occasions("validation")
    progress = _Progress(copied(model))
    while not progress.over(config):
        number = len(progress.curve) + 1
        rng = np.random.default_rng([settings.seed, number])
        torch.manual_seed(int(rng.integers(2**62)))
        for group in optimizer.param_groups:
            group["lr"] = progress.learning_rate(config)
        model.train()
        began, total, weight, impressions = time.process_time(), 0.0, 0.0, 0
        batches = sampler.epoch(rng, settings.windows_per_batch)
        for windows in tqdm(batches, f"epoch {number}", disable=not progress_bar, unit="batch", leave=False):
            if not windows.real.any():  # all of its negatives were left out
                continue
            batch = reader.batch(windows, rng)
            click = take_step(model, optimizer, batch, settings, number)
            counted = 0.0 if batch.weights is None else float(batch.weights.sum())
            total, weight, impressions = (
                total + click * counted,
                weight + counted,
                impressions + int(windows.real.sum()),
            )
        cpu_s = round(time.process_time() - began, 2)
        logloss, auc = _validate(config, model, reader, validation)
        progress.curve.append(
            Epoch(
                loss=total / weight,
                validation_logloss=logloss,
                validation_auc=auc,
                impressions=impressions,
                cpu_s=cpu_s,
            )
        )
        if progress.best_epoch + 1 == number:
            progress.best = copied(model)
        log.info(
            "epoch %d: loss %.5f, validation log loss %.5f, AUC %.4f, %d impressions, %.1f CPU s",
            number,
            total / weight,
            logloss,
            auc,
            impressions,
            cpu_s,
        )
    return progress


def _validate(
    config: ImpressionConfig, model: ClickModel, reader: ImpressionReader, validation: Occasions
) -> tuple[float, float]:
    """Log loss and AUC on the validation impressions."""
    scores = predict(model, reader, validation, config.training.validation_length)
    labels = validation.labelled.impressions.label[validation.rows].astype(np.int64)
    return metrics.logloss(labels, Prior(config.windows.negatives_kept).apply(scores)), metrics.auc(labels, scores)


def _record(config: ImpressionConfig, data: ImpressionData, progress: _Progress, model: ClickModel) -> dict[str, Any]:
    best = progress.curve[progress.best_epoch]
    return {
        "name": config.name,
        "dataset": data.prepared.description.name,
        "seed": config.training.seed,
        "data_sha256": data.sha256,
        "commit": run.commit(),
        "machine": machine(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "negatives_kept": config.windows.negatives_kept,
        "impressions": {part: len(data.rows(part)) for part in PARTS},
        "epochs": len(progress.curve),
        "best_epoch": progress.best_epoch + 1,
        "validation_logloss": best.validation_logloss,
        "validation_auc": best.validation_auc,
        "curve": [msgspec.to_builtins(epoch) for epoch in progress.curve],
        "evaluation": {},
    }
