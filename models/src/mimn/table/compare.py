"""Rows of the table against each other, on the same test rows: by how much they differ, and how sure that is.

Scores of two folds come from two models, so no positive of one fold is ranked against a negative of another: an AUC
over folds is the mean of the folds' AUCs, and of a row that was trained more than once also the mean of its trainings.
Two rows are compared on the folds that both have; the interval of their difference resamples users within folds (2,000
times), each user with all their test rows, the same for both sides, and takes one training of each side at random.
"""

from __future__ import annotations

import itertools
import statistics
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimn import metrics
from mimn.metrics import Interval
from mimn.state.codec import HEADER_BYTES
from mimn.table.floors import FLOORS
from mimn.table.records import FLOOR_ROW, TRAININGS, NoRecord, Record, row_of, training_key

CERTAIN = 0.001
"""A difference counts as one when its interval excludes 0 and it is larger than this."""
LONG = 1000
"""Events of a long history."""

TRAINED_LONG = "_long"
"""Ends the key of a row that was trained with the schedule and windows of its own configuration, where the row without
it has the table's eight epochs."""

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
    trainings: tuple[int, int]
    """How often each one was trained on each of these folds, or on the one with the fewest."""

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
    models: dict[str, Sequence[Record]]
    """The trainings of each row."""
    _resampled: dict[tuple[Entry, int, Group], NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for record in itertools.chain.from_iterable(self.models.values()):
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
            for record in itertools.chain([self.floors], *self.models.values())
            for f in record.folds.values()
            for n in f["evaluation"]
        }
        return sorted(found)

    def records(self, key: str) -> Sequence[Record]:
        """The records that hold an entry: a model's trainings, or the floors."""
        return self.models.get(key, [self.floors])

    def name(self, key: str) -> str:
        """What a model's row is called."""
        return self.models[key][0].name

    def longest(self, key: str) -> str:
        """The row of the same model that was trained longest."""
        return long if (long := key + TRAINED_LONG) in self.models else key

    def trainings(self, entry: Entry, fold: int) -> list[Record]:
        """The records of an entry that have a fold."""
        return [
            record
            for record in self.records(entry.key)
            if str(entry.length) in record.folds.get(fold, {}).get("evaluation", {})
        ]

    def folds(self, entry: Entry) -> list[int]:
        """The folds that an entry was run on; none if it was not."""
        if entry.key not in (*self.models, *FLOORS):
            return []
        known = {fold for record in self.records(entry.key) for fold in record.folds}
        return [fold for fold in sorted(known) if self.trainings(entry, fold)]

    def found(self, entry: Entry) -> list[dict[str, Any]]:
        """What the records say of an entry's folds, fold by fold, all trainings."""
        return [record.folds[fold] for fold in self.folds(entry) for record in self.trainings(entry, fold)]

    def figures(self, entry: Entry, sampling: str, name: str) -> list[float]:
        """A figure of every fold and training of an entry; none of a sampling that it was not evaluated with."""
        evaluations = (found["evaluation"][str(entry.length)] for found in self.found(entry))
        of = (evaluation[sampling] for evaluation in evaluations if sampling in evaluation)
        return [(one if entry.key in self.models else one[entry.key])[name] for one in of]

    def samplings(self, length: int) -> list[str]:
        """How negatives were drawn at a length."""
        found = (fold["evaluation"].get(str(length), {}) for fold in self.floors.folds.values())
        return list(dict.fromkeys(sampling for evaluation in found for sampling in evaluation))

    def scores(self, entry: Entry, fold: int) -> list[NDArray[np.float64]]:
        """Each training's ranks of a fold's rows, popularity negatives: they order positives and negatives as its
        scores do. [r] each
        """
        name = str(entry.length) if entry.key in self.models else f"{entry.length}_{entry.key}"
        return [record.of_fold(fold)[name].astype(np.float64) for record in self.trainings(entry, fold)]

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
        """The AUC of each fold among the rows of a group, the mean of its trainings."""
        chosen = self.folds(entry) if folds is None else folds
        return [statistics.fmean(self._training_aucs(entry, fold, group)) for fold in chosen]

    def _training_aucs(self, entry: Entry, fold: int, group: Group) -> list[float]:
        labels, _, mask = self.rows(fold, group)
        return [metrics.auc(labels, of[mask]) for of in self.scores(entry, fold)]

    def auc(self, entry: Entry, group: Group = "all") -> float:
        """The mean of the folds' AUCs."""
        return statistics.fmean(self.aucs(entry, group))

    def share(self, group: Group) -> float:
        """The share of the test rows that are in a group."""
        masks = [self.rows(fold, group)[2] for fold in sorted(self.floors.folds)]
        return float(np.concatenate(masks).mean())

    def state_bytes(self, key: str) -> int | None:
        """Bytes of a user's stored state in a model's row, its header included; None if it reads the events themselves.
        A record has the bytes without the header."""
        found: int | None = next(iter(self.models[key][0].folds.values()))["state_bytes"]
        return None if found is None else HEADER_BYTES + found

    def validation_auc(self, key: str, fold: int) -> float | None:
        """The mean of the trainings of a row on a fold; None where validation users chose nothing for it, or there is
        no such fold."""
        of = [record.folds[fold] for record in self.models[key] if fold in record.folds]
        found = [one["validation_auc"] for one in of if "validation_auc" in one]
        return statistics.fmean(found) if found and len(found) == len(of) else None

    def best_on_validation(self, length: int, accepts: Callable[[int | None], bool]) -> str | None:
        """The row with the highest validation AUC among those read at a length whose state's bytes are accepted.

        A row that no validation users chose anything for is a ceiling, and no model to choose.
        """
        known: dict[str, dict[int, float]] = {}
        for key in self.models:
            aucs = {fold: self.validation_auc(key, fold) for fold in self.folds(Entry(key, length))}
            if None not in aucs.values():
                known[key] = {fold: auc for fold, auc in aucs.items() if auc is not None}
        return self.best_of(known, accepts)

    def best_of(
        self, validation: Mapping[str, Mapping[int, float]], accepts: Callable[[int | None], bool]
    ) -> str | None:
        """The row with the highest AUC in `validation`, by row and fold, among those whose state's bytes are accepted.

        Two rows are compared on the folds that both have.
        """
        best: tuple[str, Mapping[int, float]] | None = None
        for key in self.models:
            known = validation.get(key)
            if not known or not accepts(self.state_bytes(key)):
                continue
            if best is None or sum(known[fold] - best[1][fold] for fold in known.keys() & best[1].keys()) > 0:
                best = key, known
        return None if best is None else best[0]

    def spread(self, key: str) -> float | None:
        """By how much a row's trainings differ in their AUC, from the lowest to the highest: the mean over the folds
        that all of them have, at the shortest length. None for a row that was trained once."""
        entry, trainings = Entry(key, self.lengths()[0]), len(self.models[key])
        folds = [fold for fold in self.folds(entry) if len(self.trainings(entry, fold)) == trainings]
        if trainings == 1 or not folds:
            return None
        aucs = [self._training_aucs(entry, fold, "all") for fold in folds]
        means = [statistics.fmean(of) for of in zip(*aucs, strict=True)]
        return max(means) - min(means)

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
        least = [min(len(self.trainings(entry, fold)) for fold in folds) for entry in (first, second)]
        return Comparison(difference, (ours, theirs), (least[0], least[1]))

    def _aucs_resampled(self, entry: Entry, fold: int, group: Group) -> NDArray[np.float64]:
        key = (entry, fold, group)
        if key not in self._resampled:
            labels, users, mask = self.rows(fold, group)
            every = [metrics.resampled_aucs(labels, of[mask], users, seed=fold) for of in self.scores(entry, fold)]
            # Two rows whose trainings have the same seeds are not paired by them: the name decides too.
            self._resampled[key] = one_training_each(every, seed=zlib.crc32(f"{entry.key} {fold}".encode()))
        return self._resampled[key]


def one_training_each(resampled: Sequence[NDArray[np.float64]], seed: int) -> NDArray[np.float64]:
    """Of each resample the AUC of one training, chosen at random. [resamples] a training → [resamples]"""
    every = np.stack(resampled)
    chosen = np.random.default_rng(seed).integers(len(every), size=every.shape[1])
    found: NDArray[np.float64] = every[chosen, np.arange(every.shape[1])]
    return found


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
        floors, rows = of.pop(FLOOR_ROW), [key for key in of if row_of(key, of) == key]
        keys = {row: [training_key(row, n) for n in range(TRAININGS)] for row in rows}
        found.append(Results(dataset, floors, {row: [of[key] for key in keys[row] if key in of] for row in rows}))
    return found
