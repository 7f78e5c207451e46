"""Training passes: windows of train users' histories, each with many targets.

One pass over a window gives the state before every target in it, so a target costs one head and not one history. Each
epoch draws a window's targets, their negatives and its place in a long history again. Windows are left-aligned and
padded at the end, so the recurrence is the same arithmetic as folding events one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from itertools import islice
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mimn.data.batches import Batches
from mimn.data.events import DataError, Events
from mimn.data.instances import DEFAULT_RULE
from mimn.data.ledger_reads import LedgerReader, Questions
from mimn.data.negatives import NegativeRule, Pool
from mimn.data.touches import addresses_of
from mimn.data.vocabulary import EmbeddingIds, Vocabulary, places
from mimn.state.actions import Actions
from mimn.state.sketch import Sketch

Ints = NDArray[np.int64]
READ_TOGETHER = 8
"""Batches whose windows are folded into ledgers together, which costs less than one after another."""


class WindowPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How windows are cut."""

    length: int = 256
    """Most events in a window."""
    per_user: int = 4
    """Most windows per user in an epoch."""
    occasions: int = 24
    """Most target occasions in a window."""
    rows_per_occasion: int = 1
    """Targets per occasion, different rows of it."""
    min_history: int = 20
    """Events of the window that must precede a target; 0: also the first events of a user, whose state is empty."""
    negatives: int = 1
    """Drawn items beside each target. Together they weigh as much as it does."""
    without: tuple[date, date] | None = None
    """Days (UTC) without targets, from the first to before the second. Their events stay in the histories."""

    def __post_init__(self) -> None:
        for name in ("length", "per_user", "occasions", "rows_per_occasion", "negatives"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.min_history < 0:
            raise ValueError(f"min_history must be at least 0, not {self.min_history}")
        if self.min_history >= self.length:
            raise ValueError(f"min_history must be below length ({self.length}), not {self.min_history}")
        if self.without is not None and self.without[0] >= self.without[1]:
            raise ValueError(f"without must be a first day and a later one, not {' and '.join(map(str, self.without))}")


@dataclass(frozen=True)
class SketchBatch:
    """The same events and targets as the sketch sees them."""

    address: Ints
    """[W, T, A]: the cells that each event adds to."""
    time: Ints
    """[W, T], ms."""
    target_address: Ints
    """[W, P, C, A]"""
    target_time: Ints
    """[W, P], ms"""
    weight: NDArray[np.float32] | None = None
    """[W, T]: what each event counts; None: 1."""


@dataclass(frozen=True)
class Batch:
    """W windows of at most T events with at most P targets each; ids as rows of the embedding tables.

    Target (w, j) is scored on the state after `position[w, j]` events of window w. A window with fewer targets than P
    repeats its own with weight 0, so padding looks like any other target to batch statistics.
    """

    item: Ints
    """[W, T], 0 after the end."""
    category: Ints
    """[W, T]"""
    length: Ints
    """[W]: events of each window."""
    position: Ints
    """[W, P]"""
    target_item: Ints
    """[W, P, C]: the real item and the drawn ones."""
    target_category: Ints
    """[W, P, C]"""
    weight: NDArray[np.float32]
    """[W, P]: 1, or 0 for a repetition."""
    foreign_item: Ints
    """[W, T]: for each event, an item drawn uniformly (for the auxiliary loss)."""
    foreign_category: Ints
    """[W, T]"""
    target: Ints
    """[W, P]: the rows of the targets among all events."""
    start: Ints
    """[W]: the events' row in which each window begins."""
    drawn_id: Ints
    """[W, P, C - 1]: ids of the drawn items."""
    sketch: SketchBatch | None = None
    """Only with a sketch."""
    reads: NDArray[np.float32] | None = None
    """[W, P, C, R]: what the head reads of the ledger; only with one."""
    action: Ints | None = None
    """[W, T]: numbers on the wire; only if the data set has actions."""

    def share(self, rows: slice) -> Batch:
        """Some of the windows."""
        sketch = None if self.sketch is None else SketchBatch(**_share(self.sketch, rows))
        return replace(Batch(**_share(self, rows)), sketch=sketch)


def _share(batch: Batch | SketchBatch, rows: slice) -> dict[str, Any]:
    return {name: value[rows] for name, value in vars(batch).items() if isinstance(value, np.ndarray)}


@dataclass(frozen=True)
class _Window:
    start: int
    length: int
    targets: Ints
    """[p]: rows of the events."""


class WindowSampler:
    """Epochs of batches over the train users. It keeps no state between epochs: each depends on its generator alone.

    Negatives are drawn as `rule` says, from its first sampling (`mimn.data.negatives`).
    """

    def __init__(
        self,
        events: Events,
        vocabulary: Vocabulary,
        ids: EmbeddingIds,
        train_users: NDArray[np.bool_],
        plan: WindowPlan,
        *,
        sketch: Sketch | None = None,
        ledger: LedgerReader | None = None,
        rule: NegativeRule = DEFAULT_RULE,
        actions: Actions | None = None,
    ) -> None:
        self._ledger = ledger
        self._actions = actions
        self._events, self._vocabulary, self._plan = events, vocabulary, plan
        # One number an event: 32 bits, so that long logs leave room.
        self._item_rows = ids.item_rows(events.item_id).astype(np.int32)
        self._category_rows = ids.category_rows(events.category_id).astype(np.int32)
        self._vocabulary_item_rows = ids.item_rows(vocabulary.items)
        self._vocabulary_category_rows = ids.category_rows(vocabulary.item_category)
        self._users = np.flatnonzero(train_users)
        self._trained_on = np.ones(len(events.timestamp), np.bool_)
        if plan.without is not None:
            first, end = np.array(plan.without, "datetime64[ms]").astype(np.int64) // events.unit_ms
            self._trained_on = (events.timestamp < first) | (events.timestamp >= end)
        self._sketch, self._ids = sketch, ids
        self._pool = Pool(rule.samplings[0], events, vocabulary, train_users)
        self._later = Pool("popularity", events, vocabulary, train_users)
        # What a negative must not be, an item of the target's occasion or basket, as sorted (key, item) pairs; and the
        # row in which a user first had an item.
        all_items = np.unique(events.item_id)
        item_place = places(all_items, events.item_id)
        self._item_space = len(all_items)
        self._vocabulary_place = places(all_items, vocabulary.items)
        self._occasion_items = _pairs(events.occasion, item_place, self._item_space)
        self._basket: Ints | None = None
        if not events.alone:
            _, self._basket = np.unique(events.basket_id, return_inverse=True)
            self._basket_items = _pairs(self._basket, item_place, self._item_space)
        self._seen: tuple[Ints, Ints] | None = None
        if rule.exclude == "history":
            self._seen = np.unique(events.user_index * self._item_space + item_place, return_index=True)

    def epoch(self, rng: np.random.Generator, windows_per_batch: int) -> Batches[Batch]:
        """The batches of one epoch, in random order; windows of like length share a batch, so that little is padded.

        Raises:
            DataError: no window has a target.
        """
        windows = [window for user in self._users for window in self._windows(int(user), rng)]
        if not windows:
            raise DataError(f"no train user has {self._plan.min_history} events before a target: lower min_history")
        lengths = np.array([window.length for window in windows])
        order = np.argsort(lengths + rng.random(len(windows)) * 16.0)
        batches = [order[i : i + windows_per_batch] for i in range(0, len(order), windows_per_batch)]
        order = rng.permutation(len(batches))
        made = (self._batch([windows[i] for i in batches[place]], rng) for place in order)
        return Batches(len(order), made if self._ledger is None else self._with_reads(self._ledger, made))

    def negatives(self, targets: Ints, rng: np.random.Generator) -> Ints:
        """Places in `vocabulary.items`, none excluded by the rule for its target. [p] rows → [p]

        Raises:
            DataError: nearly all items are excluded for a target.
        """
        times = self._events.timestamp[targets]
        drawn = self._pool.draw(times, rng)
        open_ = np.arange(len(targets))
        for attempt in range(1000):
            open_ = open_[self._excluded(targets[open_], drawn[open_])]
            if not len(open_):
                return drawn
            # At the start of the data four weeks may hold too few other items: after some draws, by popularity.
            drawn[open_] = (self._pool if attempt < 100 else self._later).draw(times[open_], rng)
        raise DataError("a target's basket or history holds nearly all items: no negative outside it was drawn")

    def _excluded(self, targets: Ints, drawn: Ints) -> NDArray[np.bool_]:
        """Whether each drawn item must not be a negative of its target. [p], [p] → [p]"""
        item = self._vocabulary_place[drawn]
        excluded = places(self._occasion_items, self._events.occasion[targets] * self._item_space + item) >= 0
        if self._basket is not None:
            excluded |= places(self._basket_items, self._basket[targets] * self._item_space + item) >= 0
        if self._seen is not None:
            pairs, first_row = self._seen
            at = places(pairs, self._events.user_index[targets] * self._item_space + item)
            excluded |= (at >= 0) & (first_row[at] < self._events.history_end[targets])
        return excluded

    def _windows(self, user: int, rng: np.random.Generator) -> list[_Window]:
        plan, begin, end = self._plan, int(self._events.bounds[user]), int(self._events.bounds[user + 1])
        if end - begin <= plan.length:
            starts = np.array([begin])
        else:
            offset = int(rng.integers(plan.length))
            starts = np.arange(begin - offset, end - plan.min_history, plan.length)
            starts = rng.permutation(starts)[: plan.per_user]
        history_end = self._events.history_end[begin:end]
        windows = []
        for first in starts.tolist():
            start = max(begin, first)
            inside = (history_end >= start + plan.min_history) & (history_end <= first + plan.length)
            inside &= self._trained_on[begin:end]
            rows = self._choose(begin + np.flatnonzero(inside), rng)
            if len(rows):
                windows.append(_Window(start, max(1, int(self._events.history_end[rows].max()) - start), rows))
        return windows

    def _choose(self, rows: Ints, rng: np.random.Generator) -> Ints:
        """At most `rows_per_occasion` random rows of at most `occasions` random occasions."""
        if not len(rows):
            return rows
        rows = rng.permutation(rows)
        rows = rows[np.argsort(self._events.occasion[rows], kind="stable")]
        _, first, counts = np.unique(self._events.occasion[rows], return_index=True, return_counts=True)
        chosen = rng.permutation(len(first))[: self._plan.occasions]
        take = np.arange(self._plan.rows_per_occasion)
        grid = first[chosen, np.newaxis] + take
        chosen_rows: Ints = rows[grid[take < counts[chosen, np.newaxis]]]
        return chosen_rows

    def _batch(self, windows: list[_Window], rng: np.random.Generator) -> Batch:
        length = np.array([window.length for window in windows])
        item, category, action = np.zeros((3, len(windows), int(length.max())), np.int64)
        for w, window in enumerate(windows):
            rows = slice(window.start, window.start + window.length)
            item[w, : window.length] = self._item_rows[rows]
            category[w, : window.length] = self._category_rows[rows]
            if self._events.action is not None:
                action[w, : window.length] = self._events.action[rows]
        counts = np.array([len(window.targets) for window in windows])
        grid = np.arange(int(counts.max())) % counts[:, np.newaxis]
        weight = (np.arange(int(counts.max())) < counts[:, np.newaxis]).astype(np.float32)
        targets = np.concatenate([window.targets for window in windows])
        flat = np.concatenate([[0], np.cumsum(counts)[:-1]])[:, np.newaxis] + grid
        drawn = self.negatives(np.repeat(targets, self._plan.negatives), rng).reshape(len(targets), -1)
        items = np.column_stack([self._item_rows[targets], self._vocabulary_item_rows[drawn]])
        categories = np.column_stack([self._category_rows[targets], self._vocabulary_category_rows[drawn]])
        foreign = rng.integers(len(self._vocabulary.items), size=item.shape)
        start = np.array([window.start for window in windows])
        return Batch(
            item=item,
            category=category,
            length=length,
            position=self._events.history_end[targets][flat] - start[:, np.newaxis],
            target_item=items[flat],
            target_category=categories[flat],
            weight=weight,
            foreign_item=self._vocabulary_item_rows[foreign],
            foreign_category=self._vocabulary_category_rows[foreign],
            sketch=self._touches(windows, action, targets[flat], drawn[flat]),
            target=targets[flat],
            start=start,
            drawn_id=self._vocabulary.items[drawn][flat],
            action=None if self._events.action is None else action,
        )

    def _with_reads(self, ledger: LedgerReader, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches with what the head reads of ledgers: the windows of some are folded together, and targets that
        are repeated are read once."""
        while some := list(islice(batches, READ_TOGETHER)):
            windows = np.cumsum([0, *(len(batch.length) for batch in some)])
            real = [np.nonzero(batch.weight) for batch in some]
            targets, drawn, position = (
                np.concatenate([getattr(batch, name)[at] for batch, at in zip(some, real, strict=True)])
                for name in ("target", "drawn_id", "position")
            )
            asked = Questions(
                history=np.concatenate([first + w for first, (w, _) in zip(windows[:-1], real, strict=True)]),
                position=position,
                items=np.column_stack([self._events.item_id[targets], drawn]),
                now_ms=self._events.timestamp[targets] * self._events.unit_ms,
            )
            start, length = (np.concatenate([getattr(batch, name) for batch in some]) for name in ("start", "length"))
            reads, first = ledger.read(start, length, asked), 0
            for batch in some:
                count = batch.weight.sum(1).astype(np.int64)
                begin = first + np.cumsum(count) - count
                at = begin[:, np.newaxis] + np.arange(batch.weight.shape[1]) % count[:, np.newaxis]
                yield replace(batch, reads=reads[at])
                first += int(count.sum())

    def _touches(self, windows: list[_Window], action: Ints, targets: Ints, drawn: Ints) -> SketchBatch | None:
        if self._sketch is None:
            return None
        events, vocabulary = self._events, self._vocabulary
        item, category, time = np.zeros((3, *action.shape), np.int64)
        for w, window in enumerate(windows):
            rows = slice(window.start, window.start + window.length)
            item[w, : window.length], category[w, : window.length] = events.item_id[rows], events.category_id[rows]
            time[w, : window.length] = events.timestamp[rows] * events.unit_ms
        asked = np.concatenate([events.item_id[targets][..., np.newaxis], vocabulary.items[drawn]], 2)
        of_asked = np.concatenate([events.category_id[targets][..., np.newaxis], vocabulary.item_category[drawn]], 2)
        return SketchBatch(
            address=addresses_of(self._sketch, self._ids, item, category),
            time=time,
            target_address=addresses_of(self._sketch, self._ids, asked, of_asked),
            target_time=events.timestamp[targets] * events.unit_ms,
            weight=None if self._actions is None else self._actions.weight[action],
        )


def _pairs(keys: Ints, items: Ints, item_space: int) -> Ints:
    """The distinct pairs of a key and an item's place, as rising numbers `key * item_space + place`. [n], [n] → [k]"""
    pairs = keys * item_space
    pairs += items
    pairs.sort()
    new = np.ones(len(pairs), np.bool_)
    new[1:] = pairs[1:] != pairs[:-1]
    return pairs[new]


def histories(begin: Ints, end: Ints, item_rows: Ints, category_rows: Ints, length: int) -> tuple[Ints, Ints, Ints]:
    """The latest `length` events before each `end`, left-aligned: items [n, T], categories [n, T], lengths [n]."""
    lengths = np.minimum(end - begin, length)
    items, categories = np.zeros((2, len(end), int(lengths.max(initial=0))), np.int64)
    for i, (stop, count) in enumerate(zip(end.tolist(), lengths.tolist(), strict=True)):
        items[i, :count] = item_rows[stop - count : stop]
        categories[i, :count] = category_rows[stop - count : stop]
    return items, categories, lengths
