"""A finished run with the data that it was trained on: what evaluation and calibration begin with."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mimn import config_file, run
from mimn.calibration import Calibration, CalibrationError, Method, Platt
from mimn.data.description import ImpressionsTable, read_description
from mimn.data.fields import FittedFields
from mimn.data.labelled import Occasions
from mimn.data.split import Part
from mimn.data.vocabulary import EmbeddingIds
from mimn.data_set import description_of
from mimn.impressions.config import ImpressionConfig
from mimn.impressions.data import ImpressionData, ImpressionReader
from mimn.impressions.scoring import predict
from mimn.impressions.train import DESCRIPTION
from mimn.nn.checkpoint import load_model
from mimn.nn.model import ClickModel

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
        return self._impressions.negatives_kept

    @property
    def kept(self) -> float:
        """The share of unclicked impressions that training saw, of all that there were."""
        return self.config.windows.negatives_kept * self.kept_in_files

    @property
    def _impressions(self) -> ImpressionsTable:
        table = self.data.prepared.description.impressions
        if table is None:
            raise RunFault("the description has no `[impressions]`")
        return table


@dataclass(frozen=True)
class TrainedRun(Scorer):
    """One run."""

    folder: Path
    record: dict[str, Any]
    config: ImpressionConfig
    data: ImpressionData
    reader: ImpressionReader
    model: ClickModel

    @classmethod
    def load(cls, folder: Path, cache: Path, description: Path | None = None) -> TrainedRun:
        """The run in a folder. `description`: where the data set's description is now, if it has moved.

        Raises:
            RunFault: the folder holds no finished run, or the data is not what it was trained on.
            ConfigError, DataError, CheckpointError: a file of the run or of the data set cannot be used.
        """
        torch.set_num_threads(1)
        try:
            record = run.finished(folder)
        except run.NoFinishedRun as error:
            raise RunFault(str(error)) from error
        if "description" not in record:
            raise RunFault(f"{folder} holds a run that is not on impressions: name one of `impressions train`")
        path = description_of(record["description"], description)
        config = config_file.read(folder / run.CONFIG, ImpressionConfig)
        if read_description(path) != read_description(folder / DESCRIPTION):
            raise RunFault(f"{path} differs from {folder / DESCRIPTION}: restore it, or train again")
        data = ImpressionData.load(path, cache)
        known = record.get("prepared_sha256", data.prepared.sha256)  # runs of earlier versions do not say it
        if (data.sha256, data.prepared.sha256) != (record["data_sha256"], known):
            raise RunFault(
                f"{folder}: the data of {path} is not that of training, or an earlier version read it otherwise: train "
                "again on this data"
            )
        ids, fitted, model = EmbeddingIds.load(folder), FittedFields.load(folder), load_model(folder / run.MODEL)
        if config.training.compile:
            model.compile_steps()
        return cls(folder, record, config, data, ImpressionReader(data, ids, fitted, config), model)

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


@dataclass(frozen=True)
class Fitted:
    """A calibrator, and how it was fitted. The calibrator alone does not say it: that of `shift` is a `platt`."""

    asked: Method
    calibration: Calibration
    length: int | None = None
    """How many of the latest events the scores read that it was fitted to; None if it looks at none, or in files of
    earlier versions."""

    def told(self) -> dict[str, Any]:
        """What `calibration.json` and `calibrate` say."""
        length = {} if self.length is None else {"length": self.length}
        return {"asked": self.asked, **length, **msgspec.to_builtins(self.calibration)}

    @property
    def sha256(self) -> str:
        """What tells it from other calibrators."""
        return hashlib.sha256(json.dumps(self.told(), sort_keys=True).encode()).hexdigest()


def fitted_of(run: Path) -> Fitted | None:
    """The calibrator of the run in a folder, None before `calibrate`.

    Raises:
        RunFault: its file is damaged.
    """
    path = run / CALIBRATION
    try:
        told: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict)
        asked, length = told.pop("asked", None), msgspec.convert(told.pop("length", None), int | None)
        found: Calibration = msgspec.convert(told, Calibration)
        return Fitted(_method_of(found) if asked is None else msgspec.convert(asked, Method), found, length)
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
