"""Rows of the table against each other, on the same test rows: by how much they differ, and how sure that is.

Scores of two folds come from two models, so no positive of one fold is ranked against a negative of another: an AUC
over folds is the mean of the folds' AUCs. Two rows are compared on the folds that both have; the interval of their
difference resamples users within folds (2,000 times), each user with all their test rows, the same for both sides.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimn import metrics
from mimn.metrics import Interval
from mimn.table.floors import FLOORS
from mimn.table.records import FLOOR_ROW, NoRecord, Record

CERTAIN = 0.001
"""A difference counts as one when its interval excludes 0 and it is larger than this."""
LONG = 1000
"""Events of a long history."""

Group = Literal["all", "bought", "new", "long"]
"""Test rows: all, those whose positive the user bought before or did not, those with at least `LONG` events."""


class Entry(NamedTuple):
    """A row of the table, read at a length: `key` is a record's, or a floor's name."""

    key: str
    length: int


@dataclass(frozen=True)
class Comparison:
    """A difference of two entries."""

    difference: Interval
    aucs: tuple[list[float], list[float]]
    """Each one's AUC of every fold that both have."""

    @property
    def folds(self) -> int:
        """How many folds both have."""
        return len(self.aucs[0])

    @property
    def won(self) -> int:
        """Folds in which the first one's AUC is the higher."""
        return sum(ours > theirs for ours, theirs in zip(*self.aucs, strict=True))

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `not established`."""
        found = self.difference
        if (found.low > 0 or found.high < 0) and abs(found.difference) > CERTAIN:
            return "better" if found.difference > 0 else "worse"
        return "not established"


@dataclass
class Results:
    """The records of one data set.

    Raises:
        NoRecord: there are no floors, or a record was made on other instances than they were.
    """

    dataset: str
    floors: Record
    models: dict[str, Record]
    _resampled: dict[tuple[Entry, int, Group], NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for record in self.models.values():
            for fold, found in record.folds.items():
                if found["instances_sha256"] != self.floors.folds.get(fold, {}).get("instances_sha256"):
                    raise NoRecord(
                        f"{self.dataset} {record.key}: fold {fold} was made on other instances than the floors, or the "
                        "floors were not run on it: run the row and the floors again"
                    )

    def lengths(self) -> list[int]:
        """The lengths that any row was read at."""
        found = {
            int(n)
            for record in (self.floors, *self.models.values())
            for f in record.folds.values()
            for n in f["evaluation"]
        }
        return sorted(found)

    def record(self, key: str) -> Record:
        """The record that holds an entry: a model's own, or the floors'."""
        return self.models.get(key, self.floors)

    def folds(self, entry: Entry) -> list[int]:
        """The folds that an entry was run on; none if it was not."""
        if entry.key not in (*self.models, *FLOORS):
            return []
        return [
            fold
            for fold, found in sorted(self.record(entry.key).folds.items())
            if str(entry.length) in found["evaluation"]
        ]

    def figures(self, entry: Entry, sampling: str, name: str) -> list[float]:
        """A figure of every fold of an entry; none of a sampling that it was not evaluated with."""
        found = []
        for fold in self.folds(entry):
            evaluation = self.record(entry.key).folds[fold]["evaluation"][str(entry.length)]
            if sampling in evaluation:
                of = evaluation[sampling]
                found.append((of if entry.key in self.models else of[entry.key])[name])
        return found

    def samplings(self, length: int) -> list[str]:
        """How negatives were drawn at a length."""
        found = (fold["evaluation"].get(str(length), {}) for fold in self.floors.folds.values())
        return list(dict.fromkeys(sampling for evaluation in found for sampling in evaluation))

    def scores(self, entry: Entry, fold: int) -> NDArray[np.float64]:
        """An entry's ranks of a fold's rows, popularity negatives: they order positives and negatives as its scores do.

        → [r] float64
        """
        name = str(entry.length) if entry.key in self.models else f"{entry.length}_{entry.key}"
        return self.record(entry.key).of_fold(fold)[name].astype(np.float64)

    def rows(self, fold: int, group: Group) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Labels and users of a fold's rows in a group, and which of all rows those are. [g], [g], [r]"""
        of = self.floors.of_fold(fold)
        chosen = {
            "all": np.ones(len(of["user"]), bool),
            "bought": of["bought"],
            "new": ~of["bought"],
            "long": of["events"] >= LONG,
        }[group]
        users = np.repeat(of["user"].astype(np.int64)[chosen], 2)
        return np.tile(np.array([1, 0]), int(chosen.sum())), users, np.repeat(chosen, 2)

    def aucs(self, entry: Entry, group: Group = "all", folds: Iterable[int] | None = None) -> list[float]:
        """The AUC of each fold among the rows of a group."""
        found = []
        for fold in self.folds(entry) if folds is None else folds:
            labels, _, mask = self.rows(fold, group)
            found.append(metrics.auc(labels, self.scores(entry, fold)[mask]))
        return found

    def auc(self, entry: Entry, group: Group = "all") -> float:
        """The mean of the folds' AUCs."""
        return statistics.fmean(self.aucs(entry, group))

    def share(self, group: Group) -> float:
        """The share of the test rows that are in a group."""
        masks = [self.rows(fold, group)[2] for fold in sorted(self.floors.folds)]
        return float(np.concatenate(masks).mean())

    def state_bytes(self, key: str) -> int | None:
        """Bytes of a user's state in a model's row; None if it reads the events themselves."""
        found: int | None = next(iter(self.models[key].folds.values()))["state_bytes"]
        return found

    def best_on_validation(self, length: int, accepts: Callable[[int | None], bool]) -> str | None:
        """The row with the highest validation AUC among those read at a length whose state's bytes are accepted.

        Two rows are compared on the folds that both have. A row that no validation users chose anything for is a
        ceiling, and no model to choose.
        """
        keys = [
            key
            for key, record in self.models.items()
            if self.has(Entry(key, length))
            and accepts(self.state_bytes(key))
            and all("validation_auc" in found for found in record.folds.values())
        ]
        if not keys:
            return None
        best = keys[0]
        for key in keys[1:]:
            ours, theirs = self.models[key].folds, self.models[best].folds
            common = ours.keys() & theirs.keys()
            if sum(ours[fold]["validation_auc"] - theirs[fold]["validation_auc"] for fold in common) > 0:
                best = key
        return best

    def has(self, entry: Entry) -> bool:
        """Whether any fold of the entry was run."""
        return bool(self.folds(entry))

    def compare(self, first: Entry, second: Entry, group: Group = "all") -> Comparison | None:
        """`first` minus `second`, on the folds with test rows of the group; None where no fold has both."""
        common = set(self.folds(first)) & set(self.folds(second))
        folds = [fold for fold in sorted(common) if self.rows(fold, group)[2].any()]
        if not folds:
            return None
        ours, theirs = self.aucs(first, group, folds), self.aucs(second, group, folds)
        resampled = [self._aucs_resampled(first, f, group) - self._aucs_resampled(second, f, group) for f in folds]
        difference = metrics.interval(
            statistics.fmean(ours) - statistics.fmean(theirs), np.asarray(np.mean(resampled, axis=0))
        )
        return Comparison(difference, (ours, theirs))

    def _aucs_resampled(self, entry: Entry, fold: int, group: Group) -> NDArray[np.float64]:
        key = (entry, fold, group)
        if key not in self._resampled:
            labels, users, mask = self.rows(fold, group)
            self._resampled[key] = metrics.resampled_aucs(labels, self.scores(entry, fold)[mask], users, seed=fold)
        return self._resampled[key]


def results(records: list[Record]) -> list[Results]:
    """The records by data set, in the order of the data sets' names.

    Raises:
        NoRecord: a data set has no floors; or see `Results`.
    """
    found = []
    for dataset in sorted({record.dataset for record in records}):
        of = {record.key: record for record in records if record.dataset == dataset}
        if FLOOR_ROW not in of:
            raise NoRecord(
                f"{dataset} has no record {FLOOR_ROW!r}: run that row first: it says which users the test rows are of"
            )
        found.append(Results(dataset, of.pop(FLOOR_ROW), of))
    return found
