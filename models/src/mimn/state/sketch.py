"""The sketch: counters in a user's state that say how often, and how recently, the user touched a candidate.

An event adds to a few cells: its category's cell, and its item's cell in each of two hashed rows. A reader takes the
smaller of the item's two cells, because other items can only have increased it. Every cell exists once per half-life h:
it holds the sum of 2^((t - now) / h) over the events at times t that added to it. Half-life 0 is plain counting.

Decay costs nothing until the counters are read. Time is divided into periods of one half-life, and a state stores the
period of its counters. An event adds 2^phase (the phase is the part of its period that has passed), times 2^-k if it is
k periods late; the weight of its action multiplies that (`mimn.state.actions`). When an event begins a new period, the
user's counters are multiplied by a power of two, which is exact.
So values do not grow over the years, and a late event counts exactly as if it had arrived on time.

UIC adds events, training computes the same sums from whole histories (`mimn.nn.sketch`), and the head reads them.
Counters hold float16 values, rounded on each write, so cached, stored and replayed values are identical. A plain
counter stops at 2,048 times the largest weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimn.state.layout import Block

HASHES = 2
"""Cells of an item: one for each half of the item's hash."""
DAY_MS = 86_400_000
LAST_PERIOD = 1 << 24
"""Periods below this are exact in float32: 46,000 years with periods of one day."""
MOST_PERIODS_LATE = 64
"""2^-64 of an event does not change a float16 counter."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sketch:
    """The sizes of a sketch, and its rules. A pure value: the counters are stored in the users' states.

    Invariant of a state: every counter is a float16 value, 0 or more.
    """

    category_cells: int
    """K: the category in row r of its table uses cell r % K, so no two share a cell if K is at least the number of
    rows. Unknown categories share row 0. 0: categories are not counted."""
    item_cells: int
    """Cells of each of the two hashed rows. 0: items are not counted."""
    half_lives: tuple[int, ...]
    """Days; 0 = no decay."""

    @property
    def cells(self) -> int:
        """N: cells of one half-life."""
        return self.category_cells + HASHES * self.item_cells

    @property
    def addresses(self) -> int:
        """A: number of cells that an event adds to."""
        return (self.category_cells > 0) + HASHES * (self.item_cells > 0)

    @property
    def row(self) -> int:
        """The first cells of a half-life, to which every event adds once: those of categories, or of items."""
        return self.category_cells or self.item_cells

    @property
    def values(self) -> int:
        """Counters of a user: S half-lives times N."""
        return len(self.half_lives) * self.cells

    @property
    def first_block(self) -> Block:
        """The counters, before a state's other blocks: [S, N]."""
        return Block("counters", (len(self.half_lives), self.cells), "float16")

    @property
    def last_block(self) -> Block:
        """The periods of the counters, after a state's other blocks: [S]."""
        return Block("periods", (len(self.half_lives),))

    @property
    def rest(self) -> slice:
        """The place of the other blocks in a flat state: the part that the step graph reads and writes."""
        return slice(self.values, -len(self.half_lives))

    def addresses_of(self, item_ids: NDArray[np.uint64], category_rows: NDArray[np.intp]) -> NDArray[np.int64]:
        """The cells of events or candidates. [k], [k] → [k, A]"""
        columns = []
        if self.category_cells:
            columns.append(category_rows % self.category_cells)
        if self.item_cells:
            hashed = mix(item_ids)
            for part in (hashed & np.uint64(0xFFFFFFFF), hashed >> np.uint64(32)):
                first = self.category_cells + self.item_cells * (len(columns) - (self.category_cells > 0))
                columns.append(first + (part % np.uint64(self.item_cells)).astype(np.int64))
        return np.stack(columns, -1).astype(np.int64, copy=False)

    def moments(self, times_ms: NDArray[np.int64], weights: Floats | None = None) -> Floats:
        """Times in the form that counters need: for each half-life the period and 2^phase in [1, 2). [k] → [k, 2, S]

        `weights` [k]: what each event counts, multiplied into 2^phase; None: 1.
        """
        moments = np.zeros((len(times_ms), 2, len(self.half_lives)), np.float32)
        for s, days in enumerate(self.half_lives):
            if days:
                periods = np.clip(times_ms / (days * DAY_MS), 0, LAST_PERIOD - 1)
                whole = np.floor(periods)
                moments[:, 0, s] = whole
                moments[:, 1, s] = np.exp2(periods - whole)
            else:
                moments[:, 1, s] = 1.0
        if weights is not None:
            moments[:, 1] *= weights[:, np.newaxis]
        return moments

    def moment(self, time_ms: int) -> Floats:
        """`moments` of one time, without arrays of one number each. [2, S]"""
        wholes, phases = [], []
        for days in self.half_lives:
            whole, phase = divmod(min(max(time_ms / (days * DAY_MS), 0.0), LAST_PERIOD - 1.0), 1.0) if days else (0, 0)
            wholes.append(whole)
            phases.append(2.0**phase)
        return np.array([wholes, phases], np.float32)

    def add(
        self, states: Floats, addresses: NDArray[np.int64], moments: Floats, chosen: NDArray[np.bool_] | None = None
    ) -> None:
        """Add one event to each of the `chosen` states (None: to all), in place; the rest of a state is unchanged.

        states [B, F] flat; addresses [B, A]; moments [B, 2, S]; chosen [B].
        """
        rows = np.arange(len(states)) if chosen is None else np.flatnonzero(chosen)
        addresses, moments = addresses[rows], moments[rows]
        S, N = len(self.half_lives), self.cells
        periods, weights = moments[:, 0], moments[:, 1]
        newer = periods > states[rows, -S:]
        if newer.any():
            self._enter(states, rows, newer, periods)
        late = np.minimum(states[rows, -S:] - periods, MOST_PERIODS_LATE).astype(np.int32)
        added = np.ldexp(weights, -late)[:, :, np.newaxis]
        at = rows[:, np.newaxis, np.newaxis], np.arange(S)[:, np.newaxis] * N + addresses[:, np.newaxis]
        states[at] = half(states[at] + added)

    def forget(self, state: Floats, addresses: NDArray[np.int64]) -> None:
        """Take what a reader sees of an item, the smaller of its two cells, from both, in place. [F] flat, [A]

        Afterwards the item reads as never touched. Nothing else changes where the cells hold this item alone. Of an
        item that shares a cell, a reader may see less afterwards than it was counted. Its category's cell stays.
        """
        if self.item_cells:
            counters = state[: self.values].reshape(-1, self.cells)
            cells = addresses[-HASHES:]
            counters[:, cells] = half(counters[:, cells] - counters[:, cells].min(1, keepdims=True))

    def _enter(self, states: Floats, rows: NDArray[np.intp], newer: NDArray[np.bool_], periods: Floats) -> None:
        """Move counters to a later period: halve them once for each period."""
        counters = states[:, : self.values].reshape(len(states), -1, self.cells)
        which, s = np.nonzero(newer)
        row, place = rows[which], s - len(self.half_lives)
        gone = np.minimum(periods[which, s] - states[row, place], MOST_PERIODS_LATE).astype(np.int32)
        counters[row, s] = half(np.ldexp(counters[row, s], -gone[:, np.newaxis]))
        states[row, place] = periods[which, s]


def mix(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit numbers in which every input bit affects every output bit (MurmurHash3's finalizer).
    [k] → [k]"""
    x: NDArray[np.uint64] = ids ^ (ids >> np.uint64(33))
    x = x * np.uint64(0xFF51AFD7ED558CCD)
    x = x ^ (x >> np.uint64(33))
    x = x * np.uint64(0xC4CEB9FE1A85EC53)
    x ^= x >> np.uint64(33)
    return x


def half(values: Floats) -> Floats:
    """`values` as they read back from float16."""
    return values.astype(np.float16).astype(np.float32)
