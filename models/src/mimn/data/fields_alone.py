"""How well each field of a request tells a click by itself, measured on users by whom its values were not judged.

A field that is known only after the answer (the label under another name, time on a page, what was bought) tells it
nearly always, alone. A model then reads the answer in the request, and no request has it. The measure is the AUC of
the click rate of the field's value. The rates are those of one half of the users and are measured on the other, so that
ids, and values that repeat within a user, say nothing. Numbers become intervals, and a missing value is one, too: so
values above 0 after a click, or none without one, are found like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimn.data.tables import Columns
from mimn.state.sketch import mix

Ids = NDArray[np.uint64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
SAMPLED_ROWS = 1 << 18
SAMPLED_VALUES = 1 << 22
"""So many rows and values are kept at most, of impressions with a click and of others: 32 MiB each."""
FEW = 20
"""With fewer clicks, or fewer other impressions, in one half of the users nothing is said."""
AFTER_THE_ANSWER = 0.94
"""A copy of the label that is wrong in 3 of 100 rows has an AUC of 0.97. Scores of good models are below 0.9 or so."""
ERRORS = 2.0
"""So many standard errors an AUC has to be above it."""
QUANTILES = np.linspace(0.0, 1.0, 33)
"""Of the numbers of clicks, and of those of other impressions: between these lie the intervals."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a field tells by itself."""

    column: str
    auc: float
    error: float
    """Standard error of `auc`."""
    missing: tuple[float, float]
    """Share of the impressions with a click that have no value, and of the others."""

    @property
    def answer(self) -> bool:
        """Whether it tells a click too well to be known before it."""
        return self.auc - ERRORS * self.error >= AFTER_THE_ANSWER


class FieldsAlone:
    """Keeps a sample of impressions, and measures each field on it."""

    def __init__(self, columns: Sequence[str], trains: Callable[[Ids], Mask]) -> None:
        """
        Args:
            columns: which columns hold fields.
            trains: which of some different users are of the train part.
        """
        self._columns, self._trains = columns, trains
        self._seen = 0
        self._of_label = {clicked: _Sample(["user", *columns]) for clicked in (True, False)}

    def add(self, batch: Columns, clicked: Mask, used: Mask) -> None:
        """Note the rows of a batch that are used. AUC is the same whatever share is kept of rows with either label."""
        n = len(clicked)
        drawn = mix(np.arange(self._seen + 1, self._seen + n + 1, dtype=np.uint64))
        self._seen += n
        for label, sample in self._of_label.items():
            sample.add(drawn, batch, used & (clicked == label))

    @property
    def told(self) -> list[Told]:
        """Of each field, best first; of none if there are too few clicks, or nothing else."""
        if not self._columns:
            return []
        clicks, others = (self._of_label[label].rows for label in (True, False))
        users = np.concatenate([clicks["user"], others["user"]])
        clicked = np.arange(len(users)) < len(clicks["user"])
        known, place = np.unique(users, return_inverse=True)
        kept = self._trains(known)[place]
        users, clicked = users[kept], clicked[kept]
        half = mix(users) & np.uint64(1)
        groups = [(half == h) & (clicked == label) for h in (0, 1) for label in (True, False)]
        if min(map(np.count_nonzero, groups)) < FEW:
            return []
        found = []
        for column in self._columns:
            values = np.concatenate([clicks[column], others[column]])[kept]
            number = values.dtype.kind == "f"
            missing = ~np.isfinite(values) if number else values == 0
            code = _intervals(values, missing, clicked) if number else np.unique(values, return_inverse=True)[1]
            counts = np.array([np.bincount(code[group], minlength=code.max() + 1) for group in groups])
            auc, error = _auc(*counts)
            found.append(Told(column, auc, error, (float(missing[clicked].mean()), float(missing[~clicked].mean()))))
        return sorted(found, key=lambda one: -one.auc)


def _intervals(values: Floats, missing: Mask, clicked: Mask) -> NDArray[np.int64]:
    """The interval of each number; each edge is a number that is there, and the last one below it. [n] → [n]"""
    there = [values[~missing & (clicked == label)] for label in (True, False)]
    edges = np.unique([np.quantile(some, QUANTILES, method="lower") for some in there if len(some)])
    return np.where(missing, 0, 1 + np.searchsorted(edges, values))


def _auc(
    clicks: NDArray[np.int64], others: NDArray[np.int64], clicks_2: NDArray[np.int64], others_2: NDArray[np.int64]
) -> tuple[float, float]:
    """AUC of rates of one half on the other, of both ways the mean, and its standard error. By value, [k] each"""
    first = _ranked(_rates(clicks_2, others_2), clicks, others)
    second = _ranked(_rates(clicks, others), clicks_2, others_2)
    return (first[0] + second[0]) / 2, float(np.sqrt(first[1] + second[1])) / 2


def _rates(clicks: NDArray[np.int64], others: NDArray[np.int64]) -> Floats:
    """The click rate of each value, with one impression at the overall rate added: that of a new value. [k] → [k]"""
    rates: Floats = (clicks + clicks.sum() / (clicks.sum() + others.sum())) / (clicks + others + 1)
    return rates


def _ranked(rates: Floats, clicks: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[float, float]:
    """AUC of values by their rates, ties counting one half, and its variance (DeLong). [k] each"""
    _, place = np.unique(rates, return_inverse=True)
    up, down = np.bincount(place, clicks), np.bincount(place, others)
    below = (np.cumsum(down) - down / 2) / down.sum()
    above = 1.0 - (np.cumsum(up) - up / 2) / up.sum()
    auc = float(np.average(below, weights=up))
    of_clicks = np.average((below - auc) ** 2, weights=up) / up.sum()
    return auc, float(of_clicks + np.average((above - auc) ** 2, weights=down) / down.sum())


class _Sample:
    """Rows whose drawn number is at most a limit, which falls as rows come."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._most = min(SAMPLED_ROWS, SAMPLED_VALUES // (len(columns) + 1))
        self._limit = np.uint64((1 << 64) - 1)
        self._parts: list[tuple[Ids, Columns]] = []
        self._n = 0

    def add(self, drawn: Ids, batch: Mapping[str, NDArray[np.uint64] | Floats], used: Mask) -> None:
        """Keep rows, and a smaller share of all if they are too many. [n] each"""
        self._keep(drawn, batch, used)
        while self._n > self._most:
            self._limit //= np.uint64(2)
            parts, self._parts, self._n = self._parts, [], 0
            for of_part, rows in parts:
                self._keep(of_part, rows, np.ones(len(of_part), np.bool_))

    def _keep(self, drawn: Ids, batch: Mapping[str, NDArray[np.uint64] | Floats], used: Mask) -> None:
        kept = np.flatnonzero(used & (drawn <= self._limit))
        self._parts.append((drawn[kept], {name: batch[name][kept] for name in self._columns}))
        self._n += len(kept)

    @property
    def rows(self) -> Columns:
        """The columns of what is kept; nothing was read if there are none."""
        return {
            name: np.concatenate([rows[name] for _, rows in self._parts] or [np.empty(0, np.uint64)])
            for name in self._columns
        }
