"""Train one model: a configuration file in, a run folder out.

    python -m mimn.train --config models/configs/online_retail_mimn.toml --output runs/x [--seed 1] [--resume]

The run folder holds `config.toml` (resolved), `model.safetensors` (the epoch with the best validation AUC), the id
arrays of its embedding tables, `metrics.json`, `train.log`, `curves.png` and, until training ends, a checkpoint.

Each epoch draws from generators seeded by (seed, epoch), so a run that is resumed after an epoch continues as if it had
never stopped. A checkpoint therefore needs no generator state: it is the model, the best model, the optimizer's moments
and the curve so far.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from mimn import metrics, run
from mimn.baselines import state_bytes
from mimn.bundle.item_table import ItemTable
from mimn.config import ConfigError
from mimn.data import windows
from mimn.data.description import ActionRules
from mimn.data.events import DataError
from mimn.data.ledger_reads import LedgerReader, ledger_model, make_fold_tables, make_table
from mimn.data.vocabulary import EmbeddingIds
from mimn.data.windows import WindowSampler
from mimn.nn.checkpoint import save_model, untrained
from mimn.nn.model import Batch, ClickModel
from mimn.nn.sketch import Touches
from mimn.run import DataSet, RunConfig, TrainingSettings
from mimn.scoring import predict

log = logging.getLogger("mimn.train")

VALIDATION_NEGATIVES = 4
"""All drawn negatives choose the epoch: a single one is too noisy."""


class TrainingFailed(Exception):
    """Training cannot start, go on or resume; the message says why and what to do."""


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the curve."""

    loss: float
    """Mean click loss over the epoch's targets, in nats."""
    validation_auc: float
    """Four negatives per positive, of the first sampling."""
    targets: int
    events: int
    cpu_s: float
    """CPU seconds of the training passes, without validation."""


@dataclass
class Progress:
    """Where a training run is: everything that the next epoch depends on, except the seed."""

    model: ClickModel
    optimizer: torch.optim.Adam
    best: dict[str, Tensor]
    curve: list[Epoch] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """Index in the curve of the highest validation AUC, the first of equals."""
        return int(np.argmax([epoch.validation_auc for epoch in self.curve]))

    def learning_rate(self, settings: TrainingSettings) -> float:
        """The rate of the next epoch: lowered after every epoch, or after every one that was not the best so far."""
        lowered = len(self.curve)
        if settings.epochs == "auto":
            aucs = [epoch.validation_auc for epoch in self.curve]
            lowered -= sum(auc > max(aucs[:number], default=-1.0) for number, auc in enumerate(aucs))
        return settings.learning_rate * settings.learning_rate_decay**lowered


def train(config: RunConfig, output: Path, *, resume: bool = False, progress_bar: bool = False) -> dict[str, Any]:
    """Train `config` into the folder `output` and return what `metrics.json` says.

    Raises:
        ConfigError, DataError: the configuration or the data set cannot be used.
        TrainingFailed: the folder is taken, there is nothing to resume, or the loss is not finite.
    """
    torch.set_num_threads(1)
    resolved = config.to_toml()
    if not resume and (output / run.CONFIG).exists():
        raise TrainingFailed(f"{output} already holds a run: continue it with --resume, or choose another folder")
    if resume and not (output / run.CONFIG).exists():
        raise TrainingFailed(f"{output} holds no run to resume: start without --resume")
    # Both with today's defaults: the run may have started before a field was added.
    if resume and run.read_config(output / run.CONFIG).to_toml() != resolved:
        raise TrainingFailed(
            f"{output / run.CONFIG} is another configuration: resume with the one that the run started with"
        )
    if resume and (output / run.METRICS).exists():
        raise TrainingFailed(f"{output} holds a finished run: there is nothing to resume; choose another folder")
    data = run.load_data(config.data)
    if not len(data.instances.of("validation")):
        raise DataError(
            f"no validation user of {data.name} has a target with enough history: the data set has too few "
            "users to choose an epoch by"
        )
    output.mkdir(parents=True, exist_ok=True)
    (output / run.CONFIG).write_text(resolved, "utf-8")
    with logged(output):
        return _train(config, data, output, resume, progress_bar)


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Meanwhile, write what `log` says into the run folder's log, and warnings to standard error as well."""
    file, warnings = logging.FileHandler(folder / run.LOG, encoding="utf-8"), logging.StreamHandler()
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    warnings.setFormatter(logging.Formatter("warning: %(message)s"))
    warnings.setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    log.addHandler(file)
    log.addHandler(warnings)
    try:
        yield
    finally:
        log.removeHandler(warnings)
        log.removeHandler(file)
        file.close()


def _train(config: RunConfig, data: DataSet, output: Path, resume: bool, progress_bar: bool) -> dict[str, Any]:
    settings, commit = config.training, run.commit()
    ids = data.vocabulary.embedding_ids(config.data.min_users)
    ids.save(output)
    progress = start(config, ids, data.action_rules)
    checkpoint = output / run.CHECKPOINT
    if resume and checkpoint.exists():
        load_checkpoint(progress, checkpoint)
        log.info("resumed after epoch %d", len(progress.curve))
    sampler = WindowSampler(
        data.events,
        data.vocabulary,
        ids,
        data.train_users,
        config.windows,
        sketch=config.architecture.sketch,
        ledger=train_reader(config, data, output),
        rule=config.data.negatives,
        actions=None if progress.model.actions is None else progress.model.actions.value,
    )
    table = None if config.architecture.ledger is None else ItemTable.load(output)
    if settings.compile:
        progress.model.compile_steps()
    log.info(
        "%s on %s: %d items, %d categories, %d parameters, data %s, instances %s",
        config.name,
        data.name,
        len(ids.items),
        len(ids.categories),
        sum(parameter.numel() for parameter in progress.model.parameters()),
        data.events.sha256[:16],
        data.instances.sha256[:16],
    )
    while len(progress.curve) < settings.most_epochs and not _out_of_patience(progress, settings.patience):
        epoch = run_epoch(config, data, ids, sampler, progress, table=table, progress_bar=progress_bar)
        save_checkpoint(progress, checkpoint)
        log.info(
            "epoch %d: loss %.4f, validation AUC %.4f, %d targets, %.1f CPU s",
            len(progress.curve),
            epoch.loss,
            epoch.validation_auc,
            epoch.targets,
            epoch.cpu_s,
        )
    if progress.best_epoch + 1 == len(progress.curve):
        log.warning(
            "%s: the last of %d epochs is the best on validation, so more training may give a better model: raise "
            'training.epochs, or set epochs = "auto" to stop by validation',
            output,
            len(progress.curve),
        )
    progress.model.load_state_dict(progress.best)
    save_model(progress.model, output / run.MODEL)
    draw_curves(progress.curve, output / run.CURVES, config.name)
    record = _record(config, data, ids, progress, commit)
    run.write_json(output / run.METRICS, record)
    checkpoint.unlink(missing_ok=True)
    return record


def train_reader(config: RunConfig, data: DataSet, output: Path) -> LedgerReader | None:
    """What reads ledgers in training, None without one. Writes the table of items into the run folder: evaluation and
    the bundle read with it, training with tables that leave each user's own group out."""
    model = ledger_model(config.architecture)
    if model is None:
        return None
    make_table(model, data.events, data.train_users, data.items).save(output)
    groups, tables = make_fold_tables(model, data.events, data.train_users, data.items)
    return LedgerReader(model, data.events, tables, groups)


def start(config: RunConfig, ids: EmbeddingIds, rules: ActionRules) -> Progress:
    """An untrained model, on the GPU if there is one, and its optimizer; both depend only on the seed."""
    torch.manual_seed(config.training.seed)
    model = untrained(config.architecture, len(ids.items) + 1, len(ids.categories) + 1, actions=rules)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return Progress(model, optimizer_of(model, config.training), best=copied(model))


def optimizer_of(model: ClickModel, settings: TrainingSettings) -> torch.optim.Adam:
    """Adam, with weight decay for the embedding tables alone."""
    tables = [model.items.weight, model.categories.weight]
    if model.fields is not None:
        tables += [module.weight for module in model.fields.modules() if isinstance(module, nn.Embedding)]
    others = [parameter for parameter in model.parameters() if not any(parameter is table for table in tables)]
    groups: list[dict[str, Any]] = [{"params": tables, "weight_decay": settings.embedding_l2}, {"params": others}]
    return torch.optim.Adam(groups, lr=settings.learning_rate)


def take_step(
    model: ClickModel, optimizer: torch.optim.Adam, batch: Batch, settings: TrainingSettings, epoch: int
) -> float:
    """One step of the optimizer on one batch; returns its click loss. `epoch`, from 1 on, is for the message.

    Raises:
        TrainingFailed: the loss is not finite.
    """
    losses = model.loss(batch.to(model.items.weight.device))
    click = float(losses.click.detach())
    if not math.isfinite(click):
        raise TrainingFailed(f"the loss is {click} in epoch {epoch}: lower training.learning_rate")
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
    optimizer.step()
    return click


def run_epoch(
    config: RunConfig,
    data: DataSet,
    ids: EmbeddingIds,
    sampler: WindowSampler,
    progress: Progress,
    *,
    table: ItemTable | None = None,
    progress_bar: bool = False,
) -> Epoch:
    """One pass over newly drawn windows, then validation; `progress` moves on by one epoch.

    Raises:
        TrainingFailed: the loss is not finite.
    """
    settings, model, number = config.training, progress.model, len(progress.curve)
    rng = np.random.default_rng([settings.seed, number])
    torch.manual_seed(int(rng.integers(2**62)))
    learning_rate = progress.learning_rate(settings)
    for group in progress.optimizer.param_groups:
        group["lr"] = learning_rate
    model.train()
    began, total, targets, events = time.process_time(), 0.0, 0, 0
    batches = sampler.epoch(rng, settings.windows_per_batch)
    for batch in tqdm(batches, f"epoch {number + 1}", disable=not progress_bar, unit="batch", leave=False):
        tensors = to_tensors(batch, auxiliary=model.config.auxiliary_loss)
        click = take_step(model, progress.optimizer, tensors, settings, number + 1)
        count = int(batch.weight.sum())
        total, targets, events = total + click * count, targets + count, events + int(batch.length.sum())
    cpu_s = time.process_time() - began
    epoch = Epoch(
        loss=total / targets,
        validation_auc=validation_auc(model, ids, data, settings.validation_length, table),
        targets=targets,
        events=events,
        cpu_s=round(cpu_s, 2),
    )
    progress.curve.append(epoch)
    if progress.best_epoch == number:
        progress.best = copied(model)
    return epoch


def validation_auc(
    model: ClickModel, ids: EmbeddingIds, data: DataSet, length: int, table: ItemTable | None = None
) -> float:
    """AUC on the validation users, four negatives per positive, of the first sampling."""
    instances = data.instances.of("validation")
    sampling = instances.samplings[0]
    samplings = {sampling: VALIDATION_NEGATIVES}
    scores = predict(model, ids, data.events, instances, samplings=samplings, length=length, table=table)
    labels = instances.candidates(sampling, VALIDATION_NEGATIVES).label
    return metrics.auc(labels, scores[sampling].astype(np.float64))


def to_tensors(batch: windows.Batch, *, auxiliary: bool) -> Batch:
    """The sampler's arrays as the model's batch."""
    labels = torch.zeros(batch.target_item.shape)
    labels[..., 0] = 1.0
    return Batch(
        items=torch.from_numpy(batch.item),
        categories=torch.from_numpy(batch.category),
        lengths=torch.from_numpy(batch.length),
        positions=torch.from_numpy(batch.position),
        candidate_items=torch.from_numpy(batch.target_item),
        candidate_categories=torch.from_numpy(batch.target_category),
        labels=labels,
        weights=torch.from_numpy(batch.weight).unsqueeze(-1).expand_as(labels),
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


def save_checkpoint(progress: Progress, path: Path) -> None:
    """Write `progress`, whole or not at all."""
    tensors = {f"model.{name}": value for name, value in progress.model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in progress.best.items()}
    for place, state in progress.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{place}.{name}": value for name, value in state.items()}
    partial = path.with_name(f".{path.name}.tmp")
    curve = msgspec.json.encode(progress.curve).decode()
    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, partial, metadata={"curve": curve})
    partial.replace(path)


def load_checkpoint(progress: Progress, path: Path) -> None:
    """Set `progress` to what `save_checkpoint` wrote into `path`.

    Raises:
        TrainingFailed: the file cannot be read, or belongs to another model.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            curve = msgspec.json.decode(file.metadata()["curve"], type=list[Epoch])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            place, _, moment = name.partition(".")
            state.setdefault(int(place), {})[moment] = value
        progress.model.load_state_dict(parts["model"])
        progress.optimizer.load_state_dict(
            {"state": state, "param_groups": progress.optimizer.state_dict()["param_groups"]}
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise TrainingFailed(f"{path} cannot be resumed ({error}): start again in another folder") from error
    progress.best, progress.curve = parts["best"], curve


def draw_curves(curve: list[Epoch], path: Path, title: str) -> None:
    """Loss and validation AUC by epoch, as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    epochs = range(1, len(curve) + 1)
    left.plot(epochs, [epoch.loss for epoch in curve], marker=".")
    left.set(title=title, xlabel="epoch", ylabel="click loss (nats)")
    right.plot(epochs, [epoch.validation_auc for epoch in curve], marker=".", color="tab:orange")
    right.set(xlabel="epoch", ylabel="validation AUC")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _record(config: RunConfig, data: DataSet, ids: EmbeddingIds, progress: Progress, commit: str) -> dict[str, Any]:
    targets, cpu_s = sum(e.targets for e in progress.curve), sum(e.cpu_s for e in progress.curve)
    return {
        "name": config.name,
        "dataset": data.name,
        "seed": config.training.seed,
        "data_sha256": data.events.sha256,
        "instances_sha256": data.instances.sha256,
        "commit": commit,
        "machine": machine(progress.model),
        "items": len(ids.items),
        "categories": len(ids.categories),
        "parameters": sum(parameter.numel() for parameter in progress.model.parameters()),
        "state_bytes": state_bytes(config.architecture),
        "epochs": len(progress.curve),
        "best_epoch": progress.best_epoch + 1,
        "validation_auc": progress.curve[progress.best_epoch].validation_auc,
        "targets_per_cpu_s": round(targets / max(cpu_s, 1e-9), 1),
        "curve": [msgspec.to_builtins(epoch) for epoch in progress.curve],
        "evaluation": {},
    }


def machine(model: ClickModel) -> str:
    """What a model was trained on, for its record."""
    device = model.items.weight.device
    used = "one thread" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {used}, torch {torch.__version__}"


def _out_of_patience(progress: Progress, patience: int) -> bool:
    return bool(progress.curve) and len(progress.curve) - 1 - progress.best_epoch >= patience


def copied(model: ClickModel) -> dict[str, Tensor]:
    """The model's tensors as they are now."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def main(arguments: list[str] | None = None) -> int:
    """Train; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m mimn.train", description="Train one model.")
    parser.add_argument("--config", type=Path, required=True, help="TOML file, see models/configs")
    parser.add_argument("--output", type=Path, required=True, help="run folder to write")
    parser.add_argument("--seed", type=int, help="use this seed, not training.seed")
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder")
    options = parser.parse_args(arguments)
    try:
        config = run.read_config(options.config)
        if options.seed is not None:
            config = config.with_seed(options.seed)
        record = train(config, options.output, resume=options.resume, progress_bar=sys.stderr.isatty())
    except (ConfigError, DataError, TrainingFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; continue with --resume --output {options.output}", file=sys.stderr)
        return 130
    shown = {name: record[name] for name in ("name", "dataset", "seed", "epochs", "best_epoch", "validation_auc")}
    print(json.dumps(shown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
