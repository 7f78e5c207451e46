"""Where exported models come from: a run's folder, a bundle that was exported before, or nowhere (untrained)."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mimn.baselines import ModelConfig, model_config
from mimn.bundle import ItemTable, load_bundle
from mimn.calibration import UNCALIBRATED
from mimn.config import ConfigError, MimnConfig
from mimn.data.description import read_description
from mimn.data.events import DataError
from mimn.data.fields import FittedFields
from mimn.export.parts import NO_RUN, ExportError, Ids, RunFacts
from mimn.export.recurrent import export_bundle
from mimn.export.sequence import EVENTS, export_sequence
from mimn.impressions.train import DESCRIPTION
from mimn.impressions.trained import RunFault, calibration_of
from mimn.nn.baselines.model import BaselineModel
from mimn.nn.checkpoint import load_model, untrained
from mimn.nn.model import ClickModel, MimnModel
from mimn.state.event_list import EventList
from mimn.state.layout import BlockType

MODEL_FILE, METRICS_FILE = "model.safetensors", "metrics.json"
ITEM_IDS_FILE, CATEGORY_IDS_FILE = "items.ids.npy", "categories.ids.npy"


def export_any(
    model: ClickModel,
    item_ids: Ids,
    category_ids: Ids,
    output: Path,
    *,
    name: str,
    version: str,
    state_dtype: BlockType,
    events: int,
    facts: RunFacts = NO_RUN,
) -> Path:
    """The bundle of a model of any variant.

    Raises: as `export_bundle` and `export_sequence`.
    """
    if isinstance(model, BaselineModel):
        if state_dtype != "float32":
            raise ExportError(
                f"--state-dtype {state_dtype}: a list of events holds row numbers, which float16 would round away; "
                "leave it out"
            )
        return export_sequence(
            model, item_ids, category_ids, output, name=name, version=version, events=events, facts=facts
        )
    if not isinstance(model, MimnModel):
        raise TypeError(f"{type(model).__name__} is a kind of model that export does not know")
    return export_bundle(
        model,
        item_ids,
        category_ids,
        output,
        name=name,
        version=version,
        state_dtype=state_dtype,
        facts=facts,
    )


def export_run(
    run: Path, output: Path, name: str, version: str, state_dtype: BlockType, *, events: int = EVENTS
) -> Path:
    """Export the model in a training run's folder; returns the bundle's path.

    Raises:
        ExportError, ParityError, BundleError, LayoutError, CheckpointError: as the names say.
    """
    if not run.is_dir():
        raise ExportError(f"--run: {run} is not a folder: give the folder that the training command printed")
    model = load_model(run / MODEL_FILE)
    facts = facts_of(run)
    if model.config.ledger is not None:
        facts = replace(facts, table=_item_table(run))
    return export_any(
        model,
        _ids(run / ITEM_IDS_FILE),
        _ids(run / CATEGORY_IDS_FILE),
        output,
        name=name,
        version=version,
        state_dtype=state_dtype,
        events=events,
        facts=facts,
    )


def export_again(old: Path, weights: Path, output: Path, *, name: str, version: str, state_dtype: BlockType) -> Path:
    """Export a bundle's model again with the current code, given the file with its weights; returns the new path.

    Raises:
        ExportError, ParityError, BundleError, LayoutError, CheckpointError: as the names say.
    """
    before = load_bundle(old)
    return export_any(
        load_model(weights),
        before.items.ids,
        before.categories.ids,
        output,
        name=name,
        version=version,
        state_dtype=state_dtype,
        events=EventList.of(before.layout).capacity if before.manifest.state.kind == "sequence" else EVENTS,
        facts=RunFacts(
            training=dict(before.manifest.training),
            codes=before.request.codes,
            table=None if before.reads is None else before.reads.table,
            calibration=before.manifest.calibration,
            negatives_kept=before.manifest.negatives_kept,
        ),
    )


def facts_of(run: Path) -> RunFacts:
    """What a run's folder says beside its model; a run on impressions has fields and perhaps a calibrator.

    Raises:
        ExportError: a file of the run is missing or damaged.
    """
    training = _metrics(run / METRICS_FILE)
    if not (run / DESCRIPTION).exists():
        return RunFacts(training=training)
    try:
        impressions = read_description(run / DESCRIPTION).impressions
        fitted, calibration = FittedFields.load(run), calibration_of(run)
    except (DataError, RunFault) as error:
        raise ExportError(str(error)) from error
    evaluated = {length: figures.get("overall") for length, figures in training.get("evaluation", {}).items()}
    told = {name: value for name, value in training.items() if name != "description"}
    kept_in_files = 1.0 if impressions is None else impressions.negatives_kept
    return RunFacts(
        training=told | {"evaluation": evaluated},  # by slice it would be longer than all the rest of a manifest
        codes=fitted.codes,
        calibration=UNCALIBRATED if calibration is None else calibration,
        negatives_kept=training.get("negatives_kept", 1.0) * kept_in_files,
    )


def untrained_model(config: ModelConfig, items: int, categories: int, seed: int) -> ClickModel:
    """A model of `config` before training, with the given numbers of items and categories."""
    torch.manual_seed(seed)
    return untrained(config, items + 1, categories + 1)


def _item_table(folder: Path) -> ItemTable:
    try:
        return ItemTable.load(folder)
    except ValueError as error:
        raise ExportError(str(error)) from error


def _ids(path: Path) -> Ids:
    try:
        ids = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read as an array of ids: {error}") from error
    return np.asarray(ids).astype(np.uint64)


def _metrics(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        metrics = json.loads(path.read_text())
    except ValueError as error:
        raise ExportError(f"{path} is not JSON: {error}") from error
    return metrics if isinstance(metrics, dict) else {"metrics": metrics}


def config_of(path: Path | None) -> ModelConfig:
    """The `[model]` table of a TOML file, the default sizes without one.

    Raises:
        ConfigError: it cannot be used.
    """
    if path is None:
        return MimnConfig()
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config: {path} cannot be read as TOML: {error}") from error
    return model_config(table.get("model", {}))
