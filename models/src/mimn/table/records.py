"""Records of the table: what every row measured on every fold, in plain files that are committed.

A record is a folder `<records>/<dataset>/<row>`: `config.toml` (resolved, without its fold), `metrics.json` (each
fold's figures, hashes and commit) and `ranks.npz` (how each fold's model ranks its test rows, popularity negatives).
The row `floors` also says which user each test row belongs to. Models and data are not needed to compare rows. Further
trainings of a row have records of their own, `<row>_10` and `<row>_20` (`training_key`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn import run
from mimn.data_set import DataSet
from mimn.whole_file import writing

FLOOR_ROW = "floors"
"""Key of the record of the predictors without a network."""
RANKS = "ranks.npz"
TRAININGS = 3
"""How often a row can be trained."""
SEEDS_APART = 10
"""A row's next training has a seed that is larger by this. Folds, which are added to the seed too, are fewer."""


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
    """By `array_name`: ranks (`ranks`) by length; for the floors also the columns of `test_rows`."""

    def of_fold(self, fold: int) -> dict[str, NDArray[Any]]:
        """The arrays of one fold, by what they are."""
        prefix = array_name(fold, "")
        return {name.removeprefix(prefix): value for name, value in self.arrays.items() if name.startswith(prefix)}

    def put(self, fold: int, found: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Add or replace one fold; `arrays` by what they are."""
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
        with writing(folder / RANKS) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **dict(sorted(self.arrays.items())))  # type: ignore[arg-type]  # as in evaluate
        folds = {str(fold): self.folds[fold] for fold in sorted(self.folds)}
        run.write_json(folder / run.METRICS, {"name": self.name, "dataset": self.dataset, "folds": folds})

    @classmethod
    def load(cls, folder: Path) -> Record:
        """The record that `save` wrote.

        Raises:
            NoRecord: it cannot be read, or its ranks do not have the hash that its metrics state.
        """
        try:
            found = json.loads((folder / run.METRICS).read_text("utf-8"))
            with np.load(folder / RANKS, allow_pickle=False) as archive:
                arrays = dict(archive)
            folds = {int(fold): one for fold, one in found["folds"].items()}
            record = cls(found["dataset"], folder.name, found["name"], folds, arrays)
            stated = {fold: one["ranks_sha256"] for fold, one in folds.items()}
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise NoRecord(
                f"{folder} cannot be read ({error}): restore it, or delete it and run the row again"
            ) from error
        for fold, sha256 in stated.items():
            if arrays_sha256(record.of_fold(fold)) != sha256:
                raise NoRecord(f"{folder}: the ranks of fold {fold} were changed: delete it and run the row again")
        return record


def training_key(row: str, training: int) -> str:
    """The key of a row's training, counted from 0: the row's own for the first one, with its seed for the others."""
    return row if training == 0 else f"{row}_{training * SEEDS_APART}"


def row_of(key: str, rows: Collection[str]) -> str:
    """The row of `rows` that `key` is a further training of; `key` itself if there is none."""
    row, _, _ = key.rpartition("_")
    return row if row in rows and key in {training_key(row, n) for n in range(1, TRAININGS)} else key


def array_name(fold: int, what: str) -> str:
    """The name of an array of a fold in `ranks.npz`."""
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


def ranks(scores: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """What an AUC needs of the scores of r rows, positives and negatives in turn: [r] → [r], 0 to 65535.

    A positive and a negative compare by their ranks as they do by their scores, ties included, whichever rows or users
    are chosen: an AUC and its resamples are the same number to the last bit. Rows of one label that no other label
    stands between share a rank, so there are few ranks and they compress well.

    Raises:
        ValueError: there are more ranks than 65,536.
    """
    values, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    positives = np.bincount(place[::2], minlength=len(values))
    # Of each distinct score: negatives alone, positives alone, or both, which no neighbor may join.
    label = np.select([positives == 0, positives == counts], [0, 1], 2)
    begins = (label[1:] != label[:-1]) | (label[1:] == 2)
    found = np.concatenate([[0], np.cumsum(begins)])[place]
    if found.max(initial=0) > np.iinfo(np.uint16).max:
        raise ValueError(f"{len(scores):,} rows have more ranks than 65,536")
    return found.astype(np.uint16)


def test_rows(data: DataSet) -> dict[str, NDArray[Any]]:
    """Which users a fold's test rows belong to, for the floors' record; n positives, each followed by a negative.

    user [n] int32: numbered from 0, because a record holds no user ids · events [n] int32: how many lie before the
    target · bought [n] bool: the positive is among them
    """
    test = data.instances.of("test")
    histories = zip(test.begin.tolist(), test.end.tolist(), test.item.tolist(), strict=True)
    return {
        "user": np.unique(test.user_id, return_inverse=True)[1].astype(np.int32),
        "events": (test.end - test.begin).astype(np.int32),
        "bought": np.array([bool((data.events.item_id[begin:end] == item).any()) for begin, end, item in histories]),
    }
