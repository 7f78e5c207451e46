"""What a head reads of a user's ledger for candidates, together with the table of items: one definition for training,
evaluation and serving, on one user's words.

Groups of values, in this order; a model takes some of them:

    static   the candidate's statistics: log events, log users, repeat rate, log baskets a buyer, log usual gap G
    own      the user's entry of the candidate: is there one, baskets n, age (days since the last) and baskets since,
             own gap g, age over g, age over G, age over (g (n - 1) + 2 G) / (n + 1), n over the user's baskets
    user     baskets, mean interval, days since the last, entries, share of repeats
    types    for each kind of type, over the user's entries of the candidate's type: baskets, the same halving every
             60 days, entries
    vectors  p = sum over entries of log(1 + n) sqrt(idf) v, and the same halving every 30 days: dot and cosine with the
             candidate's v

Counts, ages and ratios are read as logarithms, dot products through arcsinh. A value about something unknown is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.bundle.item_table import GAP, IDF, ItemTable, KeyIndex
from mimn.state.ledger import (
    BASKETS,
    FIRST_DAY,
    LAST_MINUTE,
    LINES,
    MINUTE,
    MINUTES_OF_DAY,
    REPEATS,
    Keys,
    Ledger,
    Words,
)

GROUPS = ("static", "own", "user", "types", "vectors")
WIDTHS = {"static": 5, "own": 9, "user": 5, "types": 3, "vectors": 4}
"""Values of each group; of `types` for each kind."""
TYPE_DAYS, VECTOR_DAYS = 60.0, 30.0
"""Half-lives."""
HALF_DAY = 0.5

Values = NDArray[np.floating[Any]]


def width(groups: tuple[str, ...], kinds: int) -> int:
    """R: how many values the groups have for one candidate, with `kinds` kinds of types."""
    return sum(WIDTHS[group] * (kinds if group == "types" else 1) for group in groups)


@dataclass(frozen=True)
class Reads:
    """Some groups of reads of one kind of ledger with one table. Not for two threads at once while it is new."""

    ledger: Ledger
    table: ItemTable
    groups: tuple[str, ...]

    @cached_property
    def width(self) -> int:
        """R: values of a candidate."""
        return width(self.groups, self.table.types.shape[1])

    def rows(self, keys: Keys) -> NDArray[np.intp]:
        """The table's rows of entries, 0 for items that it does not have. [k] → [k]"""
        return self._index.rows(keys)

    @cached_property
    def _index(self) -> KeyIndex:
        return KeyIndex(self.ledger, self.table.ids)

    @cached_property
    def _gaps(self) -> Values:
        gaps: Values = self.table.statistics[:, GAP].astype(np.float64)
        return gaps

    @cached_property
    def _static(self) -> Values:
        statistics = self.table.statistics[:, : GAP + 1].astype(np.float64)
        statistics[:, GAP] = np.log1p(statistics[:, GAP])
        return statistics

    @cached_property
    def _entry_weights(self) -> Values:
        weights: Values = np.sqrt(self.table.statistics[:, IDF])
        return weights

    @cached_property
    def _lengths(self) -> Values:
        lengths: Values = np.maximum(np.linalg.norm(self.table.vectors, axis=1), 1e-12)
        return lengths

    def read(self, words: Words, item_ids: NDArray[np.uint64], now_ms: int) -> NDArray[np.float32]:
        """What a head reads for candidates of one user at a time. [words], [C] → [C, R]"""
        rows = self.table.rows(item_ids)
        minute = min(max(now_ms // 60_000, 0), LAST_MINUTE)
        today, scalars = minute // MINUTES_OF_DAY, self.ledger.scalars(words)
        columns: list[Values] = []
        if "static" in self.groups:
            columns.append(self._static[rows])
        if "own" in self.groups:
            columns.append(self._own(words, self.ledger.keys(item_ids), rows, int(scalars[BASKETS]), today))
        if not {"user", "types", "vectors"}.isdisjoint(self.groups):
            keys, entries = self.ledger.known(words)
            if "user" in self.groups:
                columns.append(np.broadcast_to(_user(scalars, minute, len(entries.n)), (len(rows), WIDTHS["user"])))
            ages = np.maximum(today - entries.day, 0)
            known = self.rows(keys)
            if "types" in self.groups:
                columns.append(self._types(rows, known, entries.n, ages))
            if "vectors" in self.groups:
                columns.append(self._vectors(rows, known, entries.n, ages))
        return np.concatenate(columns, 1).astype(np.float32)

    def _own(self, words: Words, keys: Keys, rows: NDArray[np.intp], baskets: int, today: int) -> Values:
        entry = self.ledger.look_up(words, keys)
        n = entry.n.astype(np.float64)
        age, gap = np.maximum(today - entry.day, 0) + HALF_DAY, entry.gap / 16 + HALF_DAY
        usual = self._gaps[rows] + HALF_DAY
        due = (gap * np.maximum(n - 1, 0) + 2 * usual) / (n + 1)
        logs = np.log(np.stack([n + 1, age, entry.baskets_ago + 1.0, gap, due, usual, (n + 1) / (baskets + 1)], 1))
        own = np.empty((len(n), WIDTHS["own"]))
        own[:, 0] = 1
        own[:, 1:5] = logs[:, :4]
        own[:, 5] = (logs[:, 1] - logs[:, 3]) * (n > 1)
        own[:, 6] = logs[:, 1] - logs[:, 5]
        own[:, 7] = logs[:, 1] - logs[:, 4]
        own[:, 8] = logs[:, 6]
        return own * (n > 0)[:, np.newaxis]

    def _types(
        self, rows: NDArray[np.intp], known: NDArray[np.intp], n: NDArray[np.int64], ages: NDArray[np.int64]
    ) -> Values:
        kinds, end = self.table.types.shape[1], int(self.table.offsets[-1])
        codes, asked = self.table.codes[known].reshape(-1), self.table.codes[rows]
        sums = np.empty((3, *asked.shape))
        recent = n * np.exp2(ages * (-1 / TYPE_DAYS))
        for place, weights in enumerate((n.repeat(kinds), recent.repeat(kinds), None)):
            sums[place] = np.bincount(codes, weights, end)[asked]
        sums *= self.table.types[rows] > 0
        read: Values = np.log1p(sums).transpose(1, 2, 0).reshape(len(rows), -1)
        return read

    def _vectors(
        self, rows: NDArray[np.intp], known: NDArray[np.intp], n: NDArray[np.int64], ages: NDArray[np.int64]
    ) -> Values:
        weights = np.log1p(n) * self._entry_weights[known]
        both = np.stack([weights, weights * np.exp2(ages * (-1 / VECTOR_DAYS))]).astype(np.float32)
        p = both @ self.table.vectors[known]
        dots = self.table.vectors[rows] @ p.T
        lengths = np.maximum(np.linalg.norm(p, axis=1), 1e-12)
        cosines = dots / (lengths * self._lengths[rows, np.newaxis])
        return np.concatenate([np.arcsinh(dots), cosines], 1)


def _user(scalars: NDArray[np.int64], minute: int, entries: int) -> Values:
    baskets = float(scalars[BASKETS])
    if not baskets:
        return np.zeros(WIDTHS["user"])
    interval = (scalars[MINUTE] / MINUTES_OF_DAY - scalars[FIRST_DAY]) / max(baskets - 1, 1)
    since = max(minute - scalars[MINUTE], 0) / MINUTES_OF_DAY
    share = scalars[REPEATS] / max(scalars[LINES], 1)
    return np.array([*np.log1p([baskets, max(interval, 0), since, entries]), share])
