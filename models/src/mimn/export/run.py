"""Where exported models come from: a run's folder, or a bundle that was exported before."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard

import msgspec
import numpy as np

from mimn import config_file, run_files
from mimn.baselines import folded_blocks
from mimn.bundle import ItemTable, MemberIndex, load_bundle
from mimn.bundle.arrays import read_array
from mimn.bundle.specs import IdKind
from mimn.calibration import UNCALIBRATED
from mimn.config import ConfigError
from mimn.data.description import read_description
from mimn.data.events import DataError
from mimn.data.fields import FILE, FittedFields
from mimn.export.parts import NO_RUN, ExportError, Ids, RunFacts
from mimn.export.recurrent import export_bundle
from mimn.export.sequence import EVENTS, export_sequence
from mimn.impressions.config import ImpressionConfig
from mimn.impressions.long_histories import LONG_HISTORIES, LongHistories
from mimn.impressions.measured import LATER, evaluation_of, outdated, overall
from mimn.impressions.trained import RunFault, fitted_of, kept_in_files
from mimn.nn.baselines.model import BaselineModel
from mimn.nn.checkpoint import load_model
from mimn.nn.graphs import StateModel
from mimn.nn.model import ClickModel
from mimn.run import CATEGORY_IDS, CONFIG, ITEM_IDS, MODEL, NoFinishedRun
from mimn.run_files import DESCRIPTION
from mimn.state.event_list import EventList
from mimn.state.layout import BlockType

log = logging.getLogger("mimn.export")


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
    if _has_list(model):
        if state_dtype != "float32":
            raise ExportError(
                f"--state-dtype {state_dtype}: a list of events holds row numbers, which float16 would round away; "
                "leave it out"
            )
        return export_sequence(
            model, item_ids, category_ids, output, name=name, version=version, events=events, facts=facts
        )
    if not isinstance(model, StateModel):
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


def list_length(model: ClickModel, asked: int | None) -> int:
    """How many events the lists of a model's bundle keep: as many as `asked`, or `EVENTS`.

    Raises:
        ExportError: a length is asked for, and the model has no list.
    """
    if asked is not None and not _has_list(model):
        raise ExportError(f"--events {asked}: the state of this model is no list of events: leave it out")
    return EVENTS if asked is None else asked


def _has_list(model: ClickModel) -> TypeGuard[BaselineModel]:
    """Whether a model's state is a list of events."""
    return isinstance(model, BaselineModel) and not folded_blocks(model.config)


def export_run(
    run: Path,
    output: Path,
    name: str,
    version: str,
    state_dtype: BlockType,
    *,
    events: int | None = None,
    members: MemberIndex | None = None,
) -> Path:
    """Export the model in a training run's folder; returns the bundle's path.

    `events`: as `list_length`. `members`: the index of the bundle in place of the run's, for a model with
    `member_reads`.

    Raises:
        ExportError, ParityError, BundleError, LayoutError, CheckpointError: as the names say.
    """
    if not run.is_dir():
        raise ExportError(f"--run: {run} is not a folder: give the --output of the training")
    facts = facts_of(run)
    model = load_model(run / MODEL)
    ledger = model.config.ledger
    try:
        if ledger is not None and model.config.read_groups:
            facts = replace(facts, table=ItemTable.load(run))
        if ledger is not None and model.config.member_reads:
            facts = replace(facts, members=members or MemberIndex.load(run, ledger))
    except ValueError as error:
        raise ExportError(str(error)) from error
    return export_any(
        model,
        _ids(run / ITEM_IDS),
        _ids(run / CATEGORY_IDS),
        output,
        name=name,
        version=version,
        state_dtype=state_dtype,
        events=list_length(model, events),
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
            ids=before.manifest.input.ids,
            codes=before.request.codes,
            table=None if before.reads is None else before.reads.table,
            members=None if before.reads is None or before.reads.members is None else before.reads.members.index,
            calibration=before.manifest.calibration,
            negatives_kept=before.manifest.negatives_kept,
        ),
    )


def facts_of(run: Path) -> RunFacts:
    """What a run's folder says beside its model: the values of its fields, and of a run on impressions its calibrator.

    Raises:
        ExportError: the run is not finished, or a file of it is missing or damaged.
    """
    try:
        training = run_files.whole(run)
        told = {name: value for name, value in training.items() if name not in (run_files.FILES, "description", LATER)}
        codes = FittedFields.load(run).codes if (run / FILE).exists() else {}
        ids: IdKind = "string" if training.get("ids") == "string" else None
        if "description" not in training:
            return RunFacts(training=told, ids=ids, codes=codes)
        kept = kept_in_files(read_description(run / DESCRIPTION))
        fitted = fitted_of(run)
        history = config_file.read(run / CONFIG, ImpressionConfig).history
    except (NoFinishedRun, ConfigError, DataError, RunFault) as error:
        raise ExportError(str(error)) from error
    if not history:
        raise ExportError(
            f"{run} was trained with history = false: a served state holds events, and its model has never read one. "
            "Train it with history = true"
        )
    if LONG_HISTORIES in training:
        found = msgspec.convert(training[LONG_HISTORIES], LongHistories)
        if found.warning is not None:
            log.warning(found.warning)
    on = None if fitted is None else fitted.on
    measured = evaluation_of(training, on)
    for length in outdated(measured, fitted):
        log.warning(
            "%s: the figures of its probabilities on the latest %s events are left out, because they are those of "
            "another calibrator: evaluate again with %s--length %s",
            run,
            length,
            "" if on is None else "--on and ",
            length,
        )
    # By slice they would be longer than all the rest of a manifest.
    told["evaluation"] = overall(evaluation_of(training, None), fitted)
    if on is not None:
        told["calibrated_on"] = msgspec.to_builtins(on) | {"evaluation": overall(measured, fitted)}
    return RunFacts(
        training=told,
        ids=ids,
        codes=codes,
        calibration=UNCALIBRATED if fitted is None else fitted.calibration,
        negatives_kept=training.get("negatives_kept", 1.0) * kept,
    )


def _ids(path: Path) -> Ids:
    try:
        ids = read_array(path)
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read as an array of ids: {error}") from error
    return ids.astype(np.uint64)
