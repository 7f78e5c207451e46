"""Records of the table: what every row measured on every fold, in plain files that are committed.

A record is a folder `<records>/<dataset>/<row>`: `config.toml` (resolved, without its fold), `metrics.json` (each
fold's figures, hashes and commit) and `predictions.npz` (each fold's predictions for its test users, popularity
negatives). The row `floors` also holds whom a fold's test rows are of. Models and data are not needed to compare rows.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn import run
from mimn.run import DataSet

FLOOR_ROW = "floors"
"""Key of the record of the predictors without a network."""
PREDICTIONS = "predictions.npz"

Floats = NDArray[np.float32]


class NoRecord(Exception):
    """A record that cannot be read or used; the message says why and what to do."""


@dataclass
class Record:
    """One row of the table. Filled fold by fold."""

    dataset: str
    key: str
    name: str
    folds: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By fold: the run's metrics, `evaluation` by length."""
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    """By `array_name`: predictions; for the floors also the columns of the test rows."""

    def of_fold(self, fold: int) -> dict[str, NDArray[Any]]:
        """The arrays of one fold, by what they are."""
        prefix = array_name(fold, "")
        return {name.removeprefix(prefix): value for name, value in self.arrays.items() if name.startswith(prefix)}

    def put(self, fold: int, found: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Take in one fold; `arrays` by what they are. What was known of the fold before is gone."""
        for name in self.of_fold(fold):
            del self.arrays[array_name(fold, name)]
        self.folds[fold] = found
        self.arrays |= {array_name(fold, name): value for name, value in arrays.items()}

    def save(self, records: Path, config: str | None = None) -> None:
        """Write the record, each file whole or not at all; the metrics last, as they say which folds there are."""
        folder = records / self.dataset / self.key
        folder.mkdir(parents=True, exist_ok=True)
        if config is not None:
            (folder / run.CONFIG).write_text(config, "utf-8")
        partial = folder / f".{PREDICTIONS}.{os.getpid()}.tmp"
        with partial.open("wb") as file:
            np.savez_compressed(file, **dict(sorted(self.arrays.items())))  # type: ignore[arg-type]  # as in evaluate
        partial.replace(folder / PREDICTIONS)
        folds = {str(fold): self.folds[fold] for fold in sorted(self.folds)}
        run.write_json(folder / run.METRICS, {"name": self.name, "dataset": self.dataset, "folds": folds})

    @classmethod
    def load(cls, folder: Path) -> Record:
        """The record that `save` wrote.

        Raises:
            NoRecord: it cannot be read, or its predictions are not those that its metrics are of.
        """
        try:
            found = json.loads((folder / run.METRICS).read_text("utf-8"))
            with np.load(folder / PREDICTIONS, allow_pickle=False) as archive:
                arrays = dict(archive)
            folds = {int(fold): one for fold, one in found["folds"].items()}
            record = cls(found["dataset"], folder.name, found["name"], folds, arrays)
            stated = {fold: one["predictions_sha256"] for fold, one in folds.items()}
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise NoRecord(
                f"{folder} cannot be read ({error}): restore it, or delete it and run the row again"
            ) from error
        for fold, sha256 in stated.items():
            if arrays_sha256(record.of_fold(fold)) != sha256:
                raise NoRecord(f"{folder}: the predictions of fold {fold} were changed: delete it, run the row again")
        return record


def array_name(fold: int, what: str) -> str:
    """The name of an array of a fold in `predictions.npz`."""
    return f"fold{fold}_{what}"


def arrays_sha256(arrays: dict[str, NDArray[Any]]) -> str:
    """sha256 over the arrays' names and bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{value.dtype.newbyteorder('<').str}\0".encode() + value.tobytes())
    return digest.hexdigest()


def read_records(folder: Path) -> list[Record]:
    """All records under `folder`, by data set and key.

    Raises:
        NoRecord: one of them cannot be read.
    """
    return [Record.load(path.parent) for path in sorted(folder.glob(f"*/*/{run.METRICS}"))]


def test_rows(data: DataSet) -> dict[str, NDArray[Any]]:
    """Whom a fold's test rows are of, as the floors' record keeps it; n positives, each followed by one negative.

    user_id [n] · events [n]: how many lie before the target · bought [n], drawn [n]: how often the positive, and its
    popularity negative, is among all of them
    """
    test = data.instances.of("test")
    counts = np.zeros((2, len(test)), np.int32)
    for i, (begin, end) in enumerate(zip(test.begin.tolist(), test.end.tolist(), strict=True)):
        history = data.events.item_id[begin:end]
        counts[0, i] = np.count_nonzero(history == test.item[i])
        counts[1, i] = np.count_nonzero(history == test.popularity_item[i, 0])
    return {
        "user_id": test.user_id.astype(np.int32),
        "events": (test.end - test.begin).astype(np.int32),
        "bought": counts[0],
        "drawn": counts[1],
    }
