"""A finished run with the data that it was trained on: what evaluation and calibration begin with."""

from __future__ import annotations

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mimn import config_file, run, run_files
from mimn.bundle.members import MemberIndex, MemberIndexError
from mimn.calibration import Calibration, CalibrationError, Method, Platt
from mimn.data.description import Description, read_description
from mimn.data.fields import FittedFields
from mimn.data.labelled import Occasions
from mimn.data.split import PARTS, Part
from mimn.data.vocabulary import EmbeddingIds
from mimn.data_set import description_of
from mimn.impressions.config import ImpressionConfig
from mimn.impressions.data import ImpressionData, ImpressionReader
from mimn.impressions.later import LaterData, check_later, check_past, doubt_of_history
from mimn.impressions.scoring import predict
from mimn.nn.checkpoint import load_model
from mimn.nn.model import ClickModel
from mimn.run_files import DESCRIPTION

log = logging.getLogger("mimn.impressions")
CALIBRATION = "calibration.json"
KEPT = ("commit", "epochs", "best_epoch", "parameters")


class RunFault(Exception):
    """A run that cannot be used; the message says why and what to do."""


class Scorer(ABC):
    """What gives the impressions of a data set scores: a trained run, or a floor (`mimn.impressions.floors`)."""

    config: ImpressionConfig
    data: ImpressionData

    @abstractmethod
    def scores(self, occasions: Occasions, length: int) -> NDArray[np.float64]:
        """The scores of `occasions.rows` on the latest `length` events before each."""

    @property
    @abstractmethod
    def training(self) -> dict[str, Any]:
        """What a table keeps of the training: `mimn.impressions.table.Done` has these fields."""

    def predict(self, part: Part, length: int) -> Predicted:
        """The scores of a part's impressions on the latest `length` events before each."""
        occasions = self.data.labelled.occasions(part, history=self.config.history)
        shown = self.data.labelled.impressions
        labels = shown.label[occasions.rows].astype(np.int64)
        weights = np.where(labels == 1, 1.0, 1.0 / self.kept_in_files)
        return Predicted(occasions, labels, weights, self.scores(occasions, length))

    @property
    def kept_in_files(self) -> float:
        """The share of unclicked impressions that the data set's files still hold."""
        return kept_in_files(self.data.prepared.description)

    @property
    def kept(self) -> float:
        """The share of unclicked impressions that training saw, of all that there were."""
        return self.config.windows.negatives_kept * kept_in_files(self.trained_on)

    @property
    def trained_on(self) -> Description:
        """What training read."""
        return self.data.prepared.description


def kept_in_files(description: Description) -> float:
    """The share of unclicked impressions that the files of a data set still hold.

    Raises:
        RunFault: it has no impressions.
    """
    if description.impressions is None:
        raise RunFault("the description has no `[impressions]`")
    return description.impressions.negatives_kept


@dataclass(frozen=True)
class TrainedRun(Scorer):
    """One run, on the data that it was trained on or on later data."""

    folder: Path
    record: dict[str, Any]
    config: ImpressionConfig
    data: ImpressionData
    reader: ImpressionReader
    model: ClickModel
    later: LaterData | None = None
    """What `data` is; None: what the run was trained on."""

    @classmethod
    def load(cls, folder: Path, cache: Path, description: Path | None = None) -> TrainedRun:
        """The run in a folder. `description`: where the data set's description is now, if it has moved.

        Raises:
            RunFault: the folder holds no finished run, or the data is not what it was trained on.
            ConfigError, DataError, CheckpointError: a file of the run or of the data set cannot be used.
        """
        record = _record(folder)
        path = description_of(record["description"], description)
        if read_description(path) != read_description(folder / DESCRIPTION):
            raise RunFault(
                f"{path} differs from {folder / DESCRIPTION}: restore it, or train again; name a description of later "
                "data by --on"
            )
        data = ImpressionData.load(path, cache)
        known = record.get("prepared_sha256", data.prepared.sha256)  # runs of earlier versions do not say it
        if (data.sha256, data.prepared.sha256) != (record["data_sha256"], known):
            raise RunFault(
                f"{folder}: the data of {path} is not that of training, or an earlier version read it otherwise: train "
                "again on this data"
            )
        config = config_file.read(folder / run.CONFIG, ImpressionConfig)
        reader = ImpressionReader(data, EmbeddingIds.load(folder), FittedFields.load(folder), config)
        return cls(folder, record, config, data, reader, _model(folder, config))

    @classmethod
    def load_on(
        cls,
        later: Path,
        folder: Path,
        cache: Path,
        needed: Sequence[Part] = PARTS[1:],
        *,
        members: MemberIndex | None = None,
    ) -> TrainedRun:
        """The run in a folder on the later data of the description `later`, which is read as serving reads requests:
        ids, fields, members and items' past rates are the run's.

        `needed`: the parts that must have both labels. `members`: the index that is served in place of the run's, for
        a model with `member_reads`.

        Raises:
            RunFault: the folder holds no finished run.
            ConfigError: the description says something else of the model's inputs, or of what has been learned.
            DataError, CheckpointError: a file of the run or of the data set cannot be used.
        """
        record, config = _record(folder), config_file.read(folder / run.CONFIG, ImpressionConfig)
        check_later(read_description(folder / DESCRIPTION), later)
        data = ImpressionData.load(later, cache, needed=needed)
        check_past(data, later)
        if config.history and (doubt := doubt_of_history(record, data)) is not None:
            log.warning("%s: %s", later, doubt)
        ledger = config.architecture.ledger
        try:
            if ledger is not None and members is None:
                members = MemberIndex.load(folder, ledger)
        except MemberIndexError as error:
            raise RunFault(f"{folder} holds no members ({error}): train it again") from error
        ids, fitted = EmbeddingIds.load(folder), FittedFields.load(folder)
        reader = ImpressionReader(data, ids, fitted, config, members=members, dated_rates=False)
        which = LaterData.of(later, data)
        return cls(folder, record, config, data, reader, _model(folder, config), which)

    @property
    def trained_on(self) -> Description:
        """As `Scorer.trained_on`."""
        return self.data.prepared.description if self.later is None else read_description(self.folder / DESCRIPTION)

    def scores(self, occasions: Occasions, length: int) -> NDArray[np.float64]:
        """As `Scorer.scores`."""
        return predict(self.model, self.reader, occasions, length)

    @property
    def training(self) -> dict[str, Any]:
        """As `Scorer.training`."""
        cpu_s = round(sum(epoch["cpu_s"] for epoch in self.record["curve"]), 1)
        return {name: self.record[name] for name in KEPT} | {"cpu_s": cpu_s}

    def fitted(self) -> Fitted | None:
        """As `fitted_of`."""
        return fitted_of(self.folder)


def _record(folder: Path) -> dict[str, Any]:
    """What the `metrics.json` of a finished run on impressions says, whose files are those that training wrote.

    Raises:
        RunFault: there is none, or a file is missing or damaged.
    """
    try:
        record = run_files.whole(folder)
    except run.NoFinishedRun as error:
        raise RunFault(str(error)) from error
    if "description" not in record:
        raise RunFault(f"{folder} holds a run that is not on impressions: name one of `impressions train`")
    return record


def _model(folder: Path, config: ImpressionConfig) -> ClickModel:
    torch.set_num_threads(1)
    model = load_model(folder / run.MODEL)
    if config.training.compile:
        model.compile_steps()
    return model


@dataclass(frozen=True)
class Fitted:
    """A calibrator, and how it was fitted. The calibrator alone does not say it: that of `shift` is a `platt`."""

    asked: Method
    calibration: Calibration
    length: int | None = None
    """How many of the latest events the scores read that it was fitted to; None if it looks at none, or in files of
    earlier versions."""
    on: LaterData | None = None
    """Whose labels it was fitted to; None: those of the data that the run was trained on, or none."""

    def told(self) -> dict[str, Any]:
        """What `calibration.json` and `calibrate` say."""
        length = {} if self.length is None else {"length": self.length}
        on = {} if self.on is None else {"on": msgspec.to_builtins(self.on)}
        return {"asked": self.asked, **length, **msgspec.to_builtins(self.calibration), **on}

    @property
    def sha256(self) -> str:
        """What tells it from other calibrators: the same function by the same method is the same one."""
        same = {"asked": self.asked, **msgspec.to_builtins(self.calibration)}
        return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()


def fitted_of(run: Path) -> Fitted | None:
    """The calibrator of the run in a folder, None before `calibrate`.

    Raises:
        RunFault: its file is damaged.
    """
    path = run / CALIBRATION
    try:
        told: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict)
        asked, length = told.pop("asked", None), msgspec.convert(told.pop("length", None), int | None)
        on = msgspec.convert(told.pop("on", None), LaterData | None)
        found: Calibration = msgspec.convert(told, Calibration)
        return Fitted(_method_of(found) if asked is None else msgspec.convert(asked, Method), found, length, on)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, CalibrationError) as error:
        raise RunFault(f"{path} cannot be used ({error}): calibrate again") from error


def _method_of(calibration: Calibration) -> Method:
    """What a file of an earlier version, which does not say it, was asked for."""
    if isinstance(calibration, Platt) and calibration.slope == 1.0:  # exactly 1 nearly only by `shift`
        return "shift"
    method: Method = msgspec.to_builtins(calibration)["method"]
    return method


@dataclass(frozen=True)
class Predicted:
    """Scores of the n impressions of a part, by user and time."""

    occasions: Occasions
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    """What each impression counts: an unclicked one stands for those that the files left out."""
    scores: NDArray[np.float64]
    """As the model gives them."""
