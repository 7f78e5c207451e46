"""Labelled impressions as the model reads them: ids and field values as rows of tables, histories as windows.

Everything that is fitted (the ids that have embeddings, what field values mean) comes from the train part: its
impressions, and the events before its end or of its users.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mimn.bundle.fields import MISSING
from mimn.data.description import TimeSplit, instant_ms, weights_of
from mimn.data.fields import EncodedFields, FittedFields, Values, encode_fields, fit_fields
from mimn.data.labelled import Labelled, OccasionBatch, label_parts
from mimn.data.prepared import Prepared, prepare
from mimn.data.split import PARTS, Part, parts_of
from mimn.data.touches import addresses_of
from mimn.data.vocabulary import UNKNOWN_ROW, EmbeddingIds, places
from mimn.nn.fields import FieldValues
from mimn.nn.model import Batch
from mimn.nn.sketch import Touches
from mimn.state.actions import Actions
from mimn.state.sketch import Sketch

Ints = NDArray[np.int64]
POSITION_HIDDEN = 0.1
"""Share of the training occasions whose training-only fields are hidden, so that their missing rows are trained: those
are what serving reads."""


@dataclass(frozen=True)
class KnownIds:
    """The ids that have rows, and which of the items have an embedding of their own."""

    ids: EmbeddingIds
    """Items that training showed often enough, and all of the table `[items]` if items have fields."""
    embedding_rows: Ints
    """[items + 1]: by row, the row of the embedding; `UNKNOWN_ROW` where training showed too little."""


@dataclass(frozen=True)
class ImpressionData:
    """A described data set with the part of each impression."""

    prepared: Prepared
    labelled: Labelled

    @classmethod
    def load(cls, description: Path, cache: Path, parts: Sequence[Part] = PARTS) -> ImpressionData:
        """The data set of a description, read from its files or from `cache`; of its labels those of `parts` alone.

        Raises:
            DataError: it cannot be used, or has no `[impressions]`, or a part without both labels.
        """
        prepared = prepare(description, cache)
        return cls(prepared, label_parts(prepared, parts=parts))

    @cached_property
    def sha256(self) -> str:
        """Hash of events and impressions, for records."""
        shown = self.labelled.impressions
        digest = hashlib.sha256(self.labelled.events.sha256.encode())
        for column in (shown.user_id, shown.item_id, shown.time_ms, shown.label, *shown.context.values()):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def rows(self, part: Part) -> Ints:
        """The impressions of a part."""
        return np.flatnonzero(self.labelled.part == PARTS.index(part))

    def known_ids(self, min_count: int) -> KnownIds:
        """The vocabulary, counted on the train part."""
        events, shown, train = self.labelled.events, self.labelled.impressions, self.rows("train")
        split = self.prepared.description.split
        if isinstance(split, TimeSplit):
            past = events.timestamp * events.unit_ms < instant_ms(split.train_until)
        else:
            past = (parts_of(events.users, split.fold) == PARTS.index("train"))[events.user_index]
        items, counts = np.unique(np.concatenate([events.item_id[past], shown.item_id[train]]), return_counts=True)
        often = items[counts >= min_count]
        keys = self.prepared.side("item").key if self.prepared.description.fields.item else np.empty(0, np.int64)
        categories = np.concatenate([events.category_id[past], shown.category_id[train]])
        ids = EmbeddingIds.of(np.concatenate([often, keys]), categories)
        own = np.arange(1, len(ids.items) + 1)
        own = np.where(places(often, ids.items) >= 0, own, UNKNOWN_ROW)
        return KnownIds(ids, np.concatenate([[UNKNOWN_ROW], own]))

    def fit_fields(self) -> FittedFields:
        """What the fields mean, by the train impressions.

        Raises:
            DataError: a field has no usable value there.
        """
        return fit_fields(self.prepared, self.labelled)


class ImpressionReader:
    """Impressions and histories as tensors, by one vocabulary and one meaning of the fields."""

    def __init__(self, data: ImpressionData, ids: EmbeddingIds, fitted: FittedFields, sketch: Sketch | None) -> None:
        rules = data.prepared.description.action_rules
        self._weight = Actions.of(weights_of(rules)).weight if rules else None
        self._labelled, self._ids, self._sketch = data.labelled, ids, sketch
        self._fields = encode_fields(data.prepared, data.labelled, fitted)
        of_user = sum(spec.tabled and spec.kind != "multi" for spec in fitted.of("user"))
        single = [spec for spec in fitted.of("context") if spec.tabled and spec.kind != "multi"]
        self._training_only = [of_user + place for place, spec in enumerate(single) if spec.training_only]

    def item_values(self) -> FieldValues:
        """The items' values of their fields by row of the item table; row 0 has none."""
        encoded: EncodedFields = self._fields
        none = len(encoded.item_key)
        at = places(encoded.item_key, self._ids.items)
        return _values([encoded.items], [np.append([none], np.where(at >= 0, at, none))])

    def request(self, impressions: Ints, hidden: NDArray[np.bool_]) -> FieldValues:
        """The values of user and context fields. Training-only ones are missing where `hidden`. [...], [...] → [...]"""
        encoded = self._fields
        values = _values([encoded.users, encoded.context], [encoded.user_row[impressions], impressions])
        for column in self._training_only:
            values.rows[..., column][torch.from_numpy(hidden)] = MISSING
        return values

    def candidates(self, impressions: Ints) -> tuple[Tensor, Tensor]:
        """Rows of the items and categories. [...] → [...], [...]"""
        shown, flat = self._labelled.impressions, impressions.reshape(-1)
        rows = self._ids.item_rows(shown.item_id[flat]), self._ids.category_rows(shown.category_id[flat])
        items, categories = (torch.from_numpy(of.reshape(impressions.shape)) for of in rows)
        return items, categories

    def cells(self, impressions: Ints) -> Ints:
        """The sketch's cells of candidates. [...] → [..., A]"""
        shown = self._labelled.impressions
        return self._cells(shown.item_id[impressions], shown.category_id[impressions])

    def history(self, start: Ints, length: Ints) -> History:
        """The events `start : start + length` of windows. [W], [W]"""
        events = self._labelled.events
        width = max(int(length.max(initial=0)), 1)
        # Behind a window's end any row will do.
        at = np.minimum(start[:, np.newaxis] + np.arange(width), len(events) - 1)
        ids = events.item_id[at], events.category_id[at]
        items = self._ids.item_rows(ids[0].reshape(-1)).reshape(at.shape)
        categories = self._ids.category_rows(ids[1].reshape(-1)).reshape(at.shape)
        cells = None if self._sketch is None else self._cells(*ids)
        actions = None if events.action is None else events.action[at].astype(np.int64)
        weights = None if actions is None or self._weight is None else self._weight[actions]
        return History(items, categories, length, cells, events.timestamp[at] * events.unit_ms, actions, weights)

    def batch(self, windows: OccasionBatch, rng: np.random.Generator, share: slice = slice(None)) -> Batch:
        """A training batch of some of the windows; `rng` chooses the occasions whose training-only fields are hidden,
        among all windows."""
        hidden = (rng.random(windows.position.shape) < POSITION_HIDDEN)[share]
        windows = windows.share(share)
        shown, impressions = self._labelled.impressions, windows.impression
        history = self.history(windows.start, windows.length)
        items, categories = self.candidates(impressions)
        first = impressions[..., 0]
        touches = None
        if history.cells is not None:
            touches = Touches(
                addresses=torch.from_numpy(history.cells),
                times=torch.from_numpy(history.times_ms),
                candidate_addresses=torch.from_numpy(self.cells(impressions)),
                now=torch.from_numpy(shown.time_ms[first]),
                weights=None if history.weights is None else torch.from_numpy(history.weights),
            )
        return Batch(
            items=torch.from_numpy(history.items),
            categories=torch.from_numpy(history.categories),
            lengths=torch.from_numpy(windows.length),
            positions=torch.from_numpy(windows.position),
            candidate_items=items,
            candidate_categories=categories,
            labels=torch.from_numpy(shown.label[impressions].astype(np.float32)),
            weights=torch.from_numpy(windows.real * shown.weight[impressions]),
            actions=None if history.actions is None else torch.from_numpy(history.actions),
            request=self.request(first, hidden),
            touches=touches,
        )

    def _cells(self, items: Ints, categories: Ints) -> Ints:
        if self._sketch is None:
            return np.empty((*items.shape, 0), np.int64)
        return addresses_of(self._sketch, self._ids, items, categories)


@dataclass(frozen=True)
class History:
    """W windows of at most T events."""

    items: Ints
    """[W, T] rows."""
    categories: Ints
    """[W, T] rows."""
    lengths: Ints
    """[W]"""
    cells: Ints | None
    """[W, T, A], with a sketch."""
    times_ms: Ints
    """[W, T]"""
    actions: Ints | None
    """[W, T]: numbers on the wire; None: the data set does not say."""
    weights: NDArray[np.float32] | None
    """[W, T]: what each event adds to counters; None: 1."""


def _values(sides: list[Values], rows: list[Ints]) -> FieldValues:
    """The values of some sides at some of their rows, behind one another. [...] each"""
    found = [
        replace(
            side,
            rows=side.rows[at].astype(np.int64),
            lists=tuple(of[at].astype(np.int64) for of in side.lists),
            numbers=side.numbers[at],
        )
        for side, at in zip(sides, rows, strict=True)
    ]
    return FieldValues(
        rows=torch.from_numpy(np.concatenate([side.rows for side in found], -1)),
        lists=tuple(torch.from_numpy(of) for side in found for of in side.lists),
        numbers=torch.from_numpy(np.concatenate([side.numbers for side in found], -1)),
    )
