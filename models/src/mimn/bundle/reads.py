"""What a head reads of a user's ledger for candidates, together with the table of items and the members of candidates:
one definition for training, evaluation and serving, on one user's words.

Groups of values, in this order; a model takes some of them:

    static   the candidate's statistics: log events, log users, repeat rate, log baskets a buyer, log usual gap G
    own      the user's entry of the candidate: is there one, baskets n, age (days since the last) and baskets since,
             own gap g, age over g, age over G, age over (g (n - 1) + 2 G) / (n + 1), n over the user's baskets
    user     baskets, mean interval, days since the last, entries, share of repeats
    types    for each kind of type, over the user's entries of the candidate's type: baskets, the same halving every
             60 days, entries
    vectors  p = sum over entries of log(1 + n) sqrt(idf) v, and the same halving every 30 days: dot and cosine with the
             candidate's v
    neighbors  the sum of weight times log(1 + n) over the candidate's neighbors that the user has, and the same halving
             every 60 days

Counts, ages and ratios are read as logarithms, dot products through arcsinh, sums over neighbors, which are small, as
arcsinh(64 x). A value about something unknown is 0.
Behind the groups comes what is read of the items that a candidate stands for (`mimn.bundle.members`).

The groups are read by compiled code where it is installed (`mimn.rows.candidates`), by numpy elsewhere. Both
compute in double precision and round once, so their float32 values are the same but where the last bits of a double
decide, and never further apart than 1e-6, of a value or of 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimn.bundle.item_table import GAP, IDF, NO_TABLE, Floats, ItemTable, KeyIndex, Neighbors
from mimn.bundle.members import MemberReads
from mimn.rows.arrays import aligned
from mimn.rows.candidates import FACTS, LedgerReading
from mimn.rows.library import library
from mimn.state.ledger import (
    BASKETS,
    FIRST_DAY,
    LAST_MINUTE,
    LINES,
    MINUTE,
    MINUTES_OF_DAY,
    MOST_BASKETS,
    REPEATS,
    SCALARS,
    SIXTEENTHS,
    Entries,
    Keys,
    Ledger,
    Words,
)

GROUPS = ("static", "own", "user", "types", "vectors", "neighbors")
WIDTHS = {"static": 5, "own": 9, "user": 5, "types": 3, "vectors": 4, "neighbors": 2}
"""Values of each group; of `types` for each kind."""
MS_OF_MINUTE = 60_000
OLDEST = 2048
"""Days; what is older counts as that old."""
DECAY = np.exp2(-np.arange(OLDEST + 1) / 60)
"""By days: halves every 60."""
FASTER_DECAY = np.exp2(-np.arange(OLDEST + 1) / 30)
"""By days: halves every 30."""
STEEPNESS = 64
LOG1P = np.log1p(np.arange(MOST_BASKETS + 1))
HALF_DAY, TINY = np.float32(0.5), 1e-12


def width(groups: tuple[str, ...], kinds: int) -> int:
    """R: how many values the groups have for one candidate, with `kinds` kinds of types."""
    return sum(WIDTHS[group] * (kinds if group == "types" else 1) for group in groups)


@dataclass(frozen=True)
class Reads:
    """What is read of one kind of ledger: some groups with one table, and of the candidates' members. Not for two
    threads at once."""

    ledger: Ledger
    table: ItemTable = NO_TABLE
    groups: tuple[str, ...] = ()
    members: MemberReads | None = None

    @cached_property
    def widths(self) -> dict[str, int]:
        """Values of each group."""
        return {group: width((group,), self.table.types.shape[1]) for group in self.groups}

    @cached_property
    def width(self) -> int:
        """R: values of a candidate."""
        return sum(self.widths.values()) + (0 if self.members is None else self.members.width)

    def rows(self, keys: Keys) -> NDArray[np.intp]:
        """The table's rows of entries, 0 for items that it does not have. [k] → [k]"""
        return self._index.rows[self._index.of(keys)]

    @cached_property
    def _index(self) -> KeyIndex:
        return KeyIndex(self.ledger, self.table.ids)

    @cached_property
    def _entry_of(self) -> NDArray[np.int32]:
        """By number of a key, 1 + the entry that has it; 0 before and after each use."""
        return np.zeros(len(self._index.rows), np.int32)

    @cached_property
    def _usual(self) -> Floats:
        usual: Floats = self.table.statistics[:, GAP] + HALF_DAY
        return usual

    @cached_property
    def _static(self) -> Floats:
        statistics = self.table.statistics[:, : GAP + 1].copy()
        statistics[:, GAP] = np.log1p(statistics[:, GAP])
        return statistics

    @cached_property
    def _weighted(self) -> Floats:
        """What an entry of a row adds to p, but for its baskets. [I + 1, V]"""
        weighted: Floats = self.table.vectors * np.sqrt(np.maximum(self.table.statistics[:, IDF, np.newaxis], 0))
        return weighted

    @cached_property
    def _lengths(self) -> Floats:
        """[I + 1, 1]"""
        lengths: Floats = np.maximum(np.linalg.norm(self.table.vectors, axis=1, keepdims=True), np.float32(TINY))
        return lengths

    def read(self, words: Words, item_ids: NDArray[np.uint64], now_ms: int) -> NDArray[np.float32]:
        """What a head reads for candidates of one user at a time. [words], [C] → [C, R]"""
        words, item_ids = np.ascontiguousarray(words, np.uint32), np.ascontiguousarray(item_ids, np.uint64)
        out = np.empty((len(item_ids), self.width), np.float32)
        self.into(words, item_ids, out)(len(item_ids), now_ms)
        return out

    def into(self, words: Words, item_ids: NDArray[np.uint64], out: NDArray[np.float32]) -> Callable[[int, int], None]:
        """What writes the first C rows of `out`, given C and a time in ms, as the arrays are then: for callers that
        fill the same ones again. [words], [≥ C], [≥ C, R]"""
        groups = self.compiled.into(words, item_ids, out) if self.groups and self.compiled is not None else None

        def write(count: int, now_ms: int) -> None:
            minute = min(max(now_ms // MS_OF_MINUTE, 0), LAST_MINUTE)
            if groups is not None:
                groups(count, minute)
            elif self.groups:
                self.read_by_numpy(words, item_ids[:count], minute, out[:count])
            if self.members is not None:
                out[:count, -self.members.width :] = self.members.read(words, item_ids[:count], now_ms)

        return write

    def read_by_numpy(self, words: Words, item_ids: NDArray[np.uint64], minute: int, out: Floats) -> None:
        """Write what the groups read at a minute into the first columns of `out`. [words], [C], [C, R]"""
        rows, begin = self.table.rows(item_ids), 0
        today, scalars = minute // MINUTES_OF_DAY, words[-len(SCALARS) :].tolist()
        keys, entries = self.ledger.known(words)
        numbers = self._index.of(keys)
        known = _Known(self._index.rows[numbers], entries.n, np.minimum(np.maximum(today - entries.day, 0), OLDEST))
        for group in self.groups:
            part = out[:, begin : (begin := begin + self.widths[group])]
            if group == "static":
                part[:] = self._static[rows]
            elif group == "own":
                asked, at = self._among(keys, numbers, item_ids, rows)
                entry = Entries(*(values[at] for values in entries))
                self._own(part, asked, entry, rows, baskets=scalars[BASKETS], today=today)
            elif group == "user":
                part[:] = _user(scalars, minute, len(known.n))
            elif group == "types":
                self._types(part, rows, known)
            elif group == "vectors":
                self._vectors(part, rows, known)
            else:
                self._neighbors(part, rows, known)

    @cached_property
    def compiled(self) -> LedgerReading | None:
        """The compiled form, if it can be had."""
        if (built := library()) is None:
            return None
        table, ledger, index = self.table, self.ledger, self._index
        facts = np.zeros(len(table.ids) + 1, FACTS)
        facts["fixed"], facts["usual"], facts["length"] = self._static, self._usual, self._lengths[:, 0]
        codes = np.where(table.types > 0, table.codes + 1, 0)
        weighted = aligned(np.float32, len(index.rows), table.vectors.shape[1])
        weighted[:] = self._weighted[index.rows]
        arrays: dict[str, NDArray[Any]] = {
            "sixteenths": SIXTEENTHS, "log1p_n": LOG1P, "fading": np.stack([DECAY, FASTER_DECAY], axis=1),
            "ids": table.ids, "facts": facts, "vectors": table.vectors, "codes": codes, "keys": index.keys,
            "weighted": weighted, "kinds_of": codes[index.rows], "neighbors": index.numbers_of(self._paired.rows),
            "weights": self._paired.weights,
        }  # fmt: skip
        numbers = {
            "groups": sum(1 << GROUPS.index(group) for group in self.groups), "buckets": ledger.buckets,
            "ways": ledger.ways, "kinds": table.types.shape[1], "width": table.vectors.shape[1],
            "items": len(table.ids), "paired": self._paired.rows.shape[1],
        }  # fmt: skip
        return LedgerReading(arrays, numbers, built)

    @cached_property
    def _paired(self) -> Neighbors:
        rows = len(self.table.ids) + 1
        return self.table.neighbors or Neighbors(np.zeros((rows, 0), np.int32), np.zeros((rows, 0), np.float32))

    def _among(
        self, keys: Keys, numbers: NDArray[np.intp], item_ids: NDArray[np.uint64], rows: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        """Which candidates a user has, and which entries they are. [k] each, [C] each → [h] each"""
        entry_of = self._entry_of
        entry_of[numbers] = np.arange(1, len(numbers) + 1, dtype=np.int32)
        entry_of[0] = 0
        entry = entry_of[self._index.numbers[rows]]
        entry_of[numbers] = 0
        if not rows.all():  # items that the table does not have are looked for by their keys
            others = np.flatnonzero(rows == 0)
            asked = self.ledger.keys(item_ids[others])
            same = (asked.buckets[:, np.newaxis] == keys.buckets) & (asked.tags[:, np.newaxis] == keys.tags)
            which, at = same.nonzero()
            entry[others[which]] = at + 1
        candidates: NDArray[np.intp] = np.flatnonzero(entry)
        return candidates, (entry[candidates] - 1).astype(np.intp)

    def _own(
        self,
        out: Floats,
        asked: NDArray[np.intp],
        entry: Entries,
        rows: NDArray[np.intp],
        *,
        baskets: int,
        today: int,
    ) -> None:
        """[C, 9]; the candidates that the user has [h], their entries [h] each; [C]"""
        out[:] = 0
        if not len(asked):
            return
        n = entry.n.astype(np.float64)
        numbers = np.empty((6, len(n)))
        np.add(n, 1, out=numbers[0])
        np.add(np.maximum(today - entry.day, 0), 0.5, out=numbers[1])
        np.add(entry.baskets_ago, 1, out=numbers[2])
        np.add(entry.gap / 16, 0.5, out=numbers[3])
        numbers[4] = self._usual[rows[asked]]
        numbers[5] = (numbers[3] * (n - 1) + 2 * numbers[4]) / numbers[0]
        logs = np.log(numbers)
        own = np.empty((WIDTHS["own"], len(n)))
        own[0], own[1:5] = 1, logs[:4]
        own[5:8] = logs[1] - logs[3:]
        own[5] *= n > 1
        own[8] = logs[0] - math.log(baskets + 1)
        out[asked] = own.T

    def _types(self, out: Floats, rows: NDArray[np.intp], known: _Known) -> None:
        kinds, end = self.table.types.shape[1], int(self.table.offsets[-1])
        codes, asked = self.table.codes[known.rows].reshape(-1), self.table.codes[rows]
        sums = np.empty((*asked.shape, WIDTHS["types"]))
        for place, weights in enumerate((known.n, known.n * DECAY[known.ages], None)):
            every = weights if weights is None or kinds == 1 else weights.repeat(kinds)
            sums[..., place] = np.bincount(codes, every, end)[asked]
        sums *= (self.table.types[rows] > 0)[..., np.newaxis]
        out[:] = np.log1p(sums).reshape(len(rows), -1)

    def _vectors(self, out: Floats, rows: NDArray[np.intp], known: _Known) -> None:
        weights = np.empty((2, len(known.n)))
        weights[0] = LOG1P[known.n]
        np.multiply(weights[0], FASTER_DECAY[known.ages], out=weights[1])
        p = weights @ self._weighted[known.rows]
        dots = self.table.vectors[rows] @ p.T
        lengths = np.maximum(np.sqrt((p * p).sum(1)), TINY)
        out[:, :2] = np.arcsinh(dots)
        out[:, 2:] = dots / (lengths * self._lengths[rows])

    def _neighbors(self, out: Floats, rows: NDArray[np.intp], known: _Known) -> None:
        held = np.zeros((len(self.table.ids) + 1, 2))
        held[known.rows, 0] = LOG1P[known.n]
        held[known.rows, 1] = LOG1P[known.n] * DECAY[known.ages]
        held[0] = 0
        said = (held[self._paired.rows[rows]] * self._paired.weights[rows][..., np.newaxis]).sum(1)
        out[:] = np.arcsinh(STEEPNESS * said)


class _Known(NamedTuple):
    """A user's entries, [k] each."""

    rows: NDArray[np.intp]
    """Of the table; 0 if it does not have the item."""
    n: NDArray[np.int64]
    ages: NDArray[np.int64]
    """Days since the last basket, at most `OLDEST`."""


def _user(scalars: list[int], minute: int, entries: int) -> list[float]:
    baskets = scalars[BASKETS]
    if not baskets:
        return [0.0] * WIDTHS["user"]
    interval = max(scalars[MINUTE] / MINUTES_OF_DAY - scalars[FIRST_DAY], 0) / max(baskets - 1, 1)
    since = max(minute - scalars[MINUTE], 0) / MINUTES_OF_DAY
    return [
        math.log1p(baskets),
        math.log1p(interval),
        math.log1p(since),
        math.log1p(entries),
        scalars[REPEATS] / max(scalars[LINES], 1),
    ]
