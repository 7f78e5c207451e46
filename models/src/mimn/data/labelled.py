"""Labelled impressions as training and evaluation see them: parts, occasions, and windows with many occasions each.

An **occasion** is what a user was shown at one time by one request in one context: its impressions share the history,
the values of all context fields (the position too), the user's fields and one pass over the events. Its history is the
events that are certain to have happened before its time.

    part      train from `train_from` on, if the label is known before the cut; validation between the cuts, test behind
    window    events start : start + length of one user, and the occasions whose histories end in it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mimn.data.batches import Batches
from mimn.data.description import TimeSplit
from mimn.data.events import DataError, Events
from mimn.data.prepared import WITHHELD, Impressions, Prepared
from mimn.data.split import LEFT_OUT, PARTS, Part, parts_of, time_parts

Ints = NDArray[np.int64]
CANDIDATES = 64
"""Most impressions of an occasion that are read together; a larger one is read in pieces."""
TOGETHER = 1 << 20
"""Impressions whose histories are found together: memory for so many, however long the log."""


@dataclass(frozen=True)
class Labelled:
    """The impressions of a data set beside its events."""

    events: Events
    impressions: Impressions
    part: NDArray[np.int8]
    """[m]: place in `PARTS`, `mimn.data.split.LEFT_OUT` where the label is not known in time, or before training's."""

    @cached_property
    def end(self) -> Ints:
        """[m]: the first event of the user that is not in the impression's history; 0 for users without events.

        Events at the impression's very time are not in it: which came first is not known. An event whose time may be
        rounded down, to its second or its date, is in it if that second or day is over (`mimn.data.rounding`):
        otherwise the click itself would lie before the impression.
        """
        end = np.empty(len(self.impressions), np.int64)
        for first in range(0, len(end), TOGETHER):
            rows = slice(first, first + TOGETHER)
            end[rows] = self._end_of(self.impressions.user_id[rows], self.impressions.time_ms[rows])
        return end

    def _end_of(self, user_id: Ints, time_ms: Ints) -> Ints:
        """`end` of some impressions. [k], [k] → [k]"""
        events = self.events
        user = np.searchsorted(events.users, user_id)
        known = events.users[np.minimum(user, len(events.users) - 1)] == user_id
        user = np.where(known, user, 0)
        begin, stop = events.bounds[user], events.bounds[user + 1]
        end = _first_after(events, begin, stop, time_ms)
        return np.where(known, end, 0)

    @cached_property
    def begin(self) -> Ints:
        """[m]: the user's first event; equal to `end` without history."""
        shown, events = self.impressions, self.events
        user = np.minimum(np.searchsorted(events.users, shown.user_id), len(events.users) - 1)
        return np.where(events.users[user] == shown.user_id, events.bounds[user], 0)

    def occasions(self, part: Part, *, history: bool = True) -> Occasions:
        """The occasions of a part, by user and time; with the events before them, or as if there were none."""
        rows = np.flatnonzero(self.part == PARTS.index(part))
        shown = self.impressions
        keys = np.stack([shown.user_id[rows], shown.time_ms[rows], shown.request[rows]])
        order = np.lexsort((rows, keys[2], keys[1], keys[0]))
        rows, keys = rows[order], keys[:, order]
        new = np.ones(len(rows), np.bool_)
        new[1:] = (keys[:, 1:] != keys[:, :-1]).any(0)
        for column in (*shown.context.values(), shown.position):
            bits = column[rows].view(f"u{column.itemsize}")  # one missing number equals another
            new[1:] |= bits[1:] != bits[:-1]
        first = np.flatnonzero(new)
        size = np.diff(np.append(first, len(rows)))
        pieces = -(-size // CANDIDATES)
        number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        at = np.repeat(first, pieces) + CANDIDATES * number
        length = np.minimum(np.repeat(first + size, pieces) - at, CANDIDATES)
        return Occasions(self, rows, at, length, history)


@dataclass(frozen=True)
class Occasions:
    """q occasions of one part."""

    labelled: Labelled
    rows: Ints
    """Impressions of the part, an occasion's behind one another."""
    first: Ints
    """[q]: place in `rows` of an occasion's first impression."""
    size: Ints
    """[q]: its impressions, 1 to `CANDIDATES`."""
    history: bool = True
    """Whether there are events before them."""

    def __len__(self) -> int:
        return len(self.first)

    @cached_property
    def begin(self) -> Ints:
        """[q]"""
        return self.labelled.begin[self.rows[self.first]] if self.history else np.zeros(len(self), np.int64)

    @cached_property
    def end(self) -> Ints:
        """[q]: the history is the events `begin:end`."""
        return self.labelled.end[self.rows[self.first]] if self.history else np.zeros(len(self), np.int64)

    def impressions(self, chosen: Ints, width: int) -> tuple[Ints, NDArray[np.float32]]:
        """Rows of the chosen occasions' impressions, and 1 for a real one. [k] → [k, width], [k, width]

        Behind an occasion's last impression its own are repeated, so that padding looks like any other candidate.
        """
        size = self.size[chosen, np.newaxis]
        place = np.arange(width)
        return self.rows[self.first[chosen, np.newaxis] + place % size], (place < size).astype(np.float32)


@dataclass(frozen=True)
class OccasionBatch:
    """W windows of at most T events with at most P occasions of at most C impressions each."""

    start: Ints
    """[W]: each window's first event."""
    length: Ints
    """[W]"""
    position: Ints
    """[W, P]: events of the window before each occasion."""
    impression: Ints
    """[W, P, C]: rows of the impressions."""
    real: NDArray[np.float32]
    """[W, P, C]: 1, or 0 for padding."""

    def share(self, rows: slice) -> OccasionBatch:
        """Some of the windows."""
        return OccasionBatch(**{name: value[rows] for name, value in vars(self).items()})


def label_parts(data: Prepared, parts: Sequence[Part] = PARTS, needed: Sequence[Part] | None = None) -> Labelled:
    """The impressions of a prepared data set with the part of each.

    `parts`: which parts there shall be. The impressions of the others belong to no part then, and their labels are not
    in memory: `WITHHELD` stands there. `needed`: which of them must have both labels; None: all.

    Raises:
        DataError: there are no impressions, or a needed part is empty or has one label alone.
    """
    shown, described = data.impressions, data.description
    if shown is None or described.impressions is None:
        raise DataError("the data set has no `[impressions]`, so no labels: negatives are drawn instead")
    split = described.split
    if isinstance(split, TimeSplit):
        part = time_parts(split, shown.known_ms, shown.time_ms)
    else:
        users, place = np.unique(shown.user_id, return_inverse=True)
        part = parts_of(users, split.fold)[place]
    if missing := set(PARTS) - set(parts):
        withheld = np.isin(part, [PARTS.index(name) for name in missing])
        part = np.where(withheld, LEFT_OUT, part).astype(part.dtype)
        shown = replace(shown, label=np.where(withheld, WITHHELD, shown.label).astype(np.uint8))
    for name in parts if needed is None else needed:
        rows = part == PARTS.index(name)
        clicks = int(shown.label[rows].sum())
        if clicks in (0, int(rows.sum())):
            raise DataError(
                f"`[split]`: the part {name} has {clicks} clicks in {int(rows.sum())} impressions: move the cuts, so "
                "that each part has clicked and unclicked impressions"
            )
    return Labelled(data.events, shown, part)


class OccasionSampler:
    """Epochs of windows over the train occasions. Each epoch is a function of its generator alone."""

    def __init__(self, occasions: Occasions, length: int, per_window: int, negatives_kept: float = 1.0) -> None:
        """
        Args:
            occasions: of the train part.
            length: T, most events of a window.
            per_window: P, most occasions of a window.
            negatives_kept: w, the share of unclicked impressions that an epoch reads; each draws its own.
        """
        self._occasions, self._length, self._per_window = occasions, length, per_window
        self._kept = negatives_kept
        order = np.lexsort((occasions.end, occasions.begin))
        self._order = order
        changes = np.flatnonzero(np.diff(occasions.begin[order])) + 1
        self._user_first = np.concatenate([[0], changes]).astype(np.int64)
        self._user_stop = np.append(changes, len(order))

    def epoch(self, rng: np.random.Generator, windows_per_batch: int) -> Batches[OccasionBatch]:
        """The batches of one epoch, in random order; windows of like length share a batch."""
        windows = self._drawn(rng)
        lengths = np.array([stop - start for start, stop, _ in windows])
        order = np.argsort(lengths + rng.random(len(windows)) * 16.0)
        batches = [order[i : i + windows_per_batch] for i in range(0, len(order), windows_per_batch)]
        order = rng.permutation(len(batches))
        return Batches(len(order), (self._batch([windows[i] for i in batches[place]], rng) for place in order))

    def histories(self, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """What an epoch's windows show before each occasion: its first event, and the one behind its last. [q], [q]"""
        windows = self._drawn(rng)
        chosen = np.concatenate([of for _, _, of in windows])
        first = np.repeat([start for start, _, _ in windows], [len(of) for _, _, of in windows])
        return first, self._occasions.end[chosen]

    def _drawn(self, rng: np.random.Generator) -> list[tuple[int, int, Ints]]:
        """The windows of all users."""
        users = zip(self._user_first.tolist(), self._user_stop.tolist(), strict=True)
        return [window for first, stop in users for window in self._windows(first, stop, rng)]

    def _windows(self, first: int, stop: int, rng: np.random.Generator) -> Iterator[tuple[int, int, Ints]]:
        """Windows (start, stop, occasions) of one user: every occasion once, behind at least half a window of events,
        or behind all that there are."""
        occasions = self._order[first:stop]
        begin = int(self._occasions.begin[occasions[0]])
        ends = self._occasions.end[occasions]
        half = max(self._length // 2, 1)
        offset = int(rng.integers(half))
        tile = np.maximum(ends - begin + offset, 0) // half
        for each in np.unique(tile):
            of_tile = occasions[tile == each]
            start = max(begin, begin - offset + (int(each) - 1) * half)
            for i in range(0, len(of_tile), self._per_window):
                chosen = of_tile[i : i + self._per_window]
                yield start, max(int(self._occasions.end[chosen].max()), start), chosen

    def _batch(self, windows: list[tuple[int, int, Ints]], rng: np.random.Generator) -> OccasionBatch:
        counts = np.array([len(chosen) for _, _, chosen in windows])
        start = np.array([window[0] for window in windows])
        place = np.arange(int(counts.max()))
        chosen = np.stack([of[place % len(of)] for _, _, of in windows])
        there = place < counts[:, np.newaxis]
        width = int(self._occasions.size[chosen].max())
        rows, real = self._occasions.impressions(chosen.reshape(-1), width)
        real = real.reshape(*chosen.shape, width) * there[..., np.newaxis]
        rows = rows.reshape(*chosen.shape, width)
        if self._kept < 1.0:
            label = self._occasions.labelled.impressions.label[rows]
            rows, real = _compact(rows, (real > 0) & ((label == 1) | (rng.random(rows.shape) < self._kept)))
        return OccasionBatch(
            start=start,
            length=np.array([stop for _, stop, _ in windows]) - start,
            position=self._occasions.end[chosen] - start[:, np.newaxis],
            impression=rows,
            real=real.astype(np.float32),
        )


def _compact(rows: Ints, kept: NDArray[np.bool_]) -> tuple[Ints, NDArray[np.float32]]:
    """The kept impressions of each occasion in front, as wide as the fullest one needs. [W, P, C] → [W, P, C'] each"""
    width = max(int(kept.sum(-1).max()), 1)
    order = np.argsort(~kept, axis=-1, kind="stable")[..., :width]
    return np.take_along_axis(rows, order, -1), np.take_along_axis(kept, order, -1).astype(np.float32)


def _first_after(events: Events, begin: Ints, stop: Ints, at_ms: Ints) -> Ints:
    """By row, the first of the events `begin:stop` of a user that is not certain to have happened at a time.

    [m] each → [m]
    """
    low, high = begin.copy(), stop.copy()
    while bool((low < high).any()):
        middle = (low + high) // 2
        certain = events.certain_ms(events.timestamp[np.minimum(middle, len(events) - 1)])
        before = (low < high) & (certain <= at_ms)
        low, high = np.where(before, middle + 1, low), np.where((low < high) & ~before, middle, high)
    return low
