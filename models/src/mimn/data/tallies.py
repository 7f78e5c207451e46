"""How often each id and each number occurs, and how many rows repeat another one, counted batch by batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mimn.data.ids import distinct
from mimn.data.tables import Columns
from mimn.state.sketch import mix

PENDING_ROWS = 1 << 22


class Tally:
    """How often each id was seen."""

    def __init__(self) -> None:
        self._ids: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._counts: NDArray[np.int64] = np.empty(0, np.int64)
        self._pending: list[NDArray[np.uint64]] = []
        self._rows = 0

    def add(self, ids: NDArray[np.uint64]) -> None:
        """Count ids. [n]"""
        self._pending.append(ids)
        self._rows += len(ids)
        if self._rows >= PENDING_ROWS:
            self._merge()

    def _merge(self) -> None:
        found, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *self._pending]), return_counts=True)
        ids, place = np.unique(np.concatenate([self._ids, found]), return_inverse=True)
        self._counts = np.bincount(place, np.concatenate([self._counts, counts]), len(ids)).astype(np.int64)
        self._ids, self._pending, self._rows = ids, [], 0

    @property
    def ids(self) -> NDArray[np.uint64]:
        """Distinct ids, rising. [k]"""
        self._merge()
        return self._ids

    @property
    def counts(self) -> NDArray[np.int64]:
        """How often each of `ids` was seen. [k]"""
        self._merge()
        return self._counts


class FirstTimes:
    """When each id was first seen."""

    def __init__(self) -> None:
        self._ids: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._first_ms: NDArray[np.int64] = np.empty(0, np.int64)
        self._pending: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
        self._rows = 0

    def add(self, ids: NDArray[np.uint64], at_ms: NDArray[np.int64]) -> None:
        """Note ids with times. [n], [n]"""
        self._pending.append((ids, at_ms))
        self._rows += len(ids)
        if self._rows >= PENDING_ROWS:
            self._merge()

    def _merge(self) -> None:
        ids = np.concatenate([self._ids, *(some for some, _ in self._pending)])
        at_ms = np.concatenate([self._first_ms, *(some for _, some in self._pending)])
        order = np.argsort(ids)
        ids = ids[order]
        new = np.flatnonzero(np.append(True, ids[1:] != ids[:-1])[: len(ids)])
        self._ids = ids[new]
        self._first_ms = np.minimum.reduceat(at_ms[order], new) if len(new) else at_ms
        self._pending, self._rows = [], 0

    def before(self, ids: NDArray[np.uint64], at_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each id was seen strictly before a time. [n], [n] → [n]"""
        if self._pending:
            self._merge()
        if not len(self._ids):
            return np.zeros(len(ids), np.bool_)
        at = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        seen: NDArray[np.bool_] = (self._ids[at] == ids) & (self._first_ms[at] < at_ms)
        return seen


class NumberTally:
    """How often each finite number was seen, rounded to 12 bits behind the binary point, so that a column has few."""

    _LEFT_OUT = np.uint64((1 << 40) - 1)

    def __init__(self) -> None:
        self._bits = Tally()

    def add(self, numbers: NDArray[np.float64]) -> None:
        """Count numbers; NaN and infinite ones are none. [n]"""
        self._bits.add(numbers[np.isfinite(numbers)].view(np.uint64) & ~self._LEFT_OUT)

    @property
    def numbers(self) -> NDArray[np.float64]:
        """Distinct numbers, at most a 4,096th nearer to 0 than they are, in no order. [k]"""
        return self._bits.ids.view(np.float64)

    @property
    def counts(self) -> NDArray[np.int64]:
        """How often each of `numbers` was seen. [k]"""
        return self._bits.counts


class RepeatedRows:
    """Counts rows that repeat another one in every column, by a hash of 64 bits."""

    def __init__(self) -> None:
        self._hashes: list[NDArray[np.uint64]] = []

    def add(self, batch: Columns) -> None:
        """Note rows."""
        hashed = np.zeros(len(next(iter(batch.values()))), np.uint64)
        for column in batch.values():
            bits = column.view(np.uint64) if column.dtype.itemsize == 8 else column.astype(np.uint64)
            hashed = mix(hashed * np.uint64(0x9E3779B97F4A7C15) + bits + np.uint64(1))
        self._hashes.append(hashed)

    @property
    def count(self) -> int:
        """How many rows there are more than different ones."""
        rows = np.concatenate([np.empty(0, np.uint64), *self._hashes])
        return len(rows) - len(distinct(rows)) if len(rows) else 0
