"""Labelled impressions as the model reads them: ids and field values as rows of tables, histories as windows.

Everything that is fitted (the ids that have embeddings, what field values mean) comes from the train part: its
impressions, and the events before its end or of its users.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mimn.bundle.fields import MISSING
from mimn.bundle.members import MemberIndex, MemberReads
from mimn.bundle.reads import Reads
from mimn.data.description import TimeSplit, instant_ms, weights_of
from mimn.data.fields import EncodedFields, FittedFields, Values, encode_fields, fit_fields
from mimn.data.labelled import Labelled, OccasionBatch, label_parts
from mimn.data.member_reads import ImpressionReads, index_of
from mimn.data.members import spans
from mimn.data.past_rates import PastRates
from mimn.data.preparation import prepare, prepared_folder
from mimn.data.prepared import Prepared
from mimn.data.split import PARTS, Part, parts_of
from mimn.data.touches import addresses_of
from mimn.data.vocabulary import UNKNOWN_ROW, EmbeddingIds, KnownIds, places
from mimn.impressions.config import ImpressionConfig
from mimn.nn.fields import FieldValues, ItemMembers
from mimn.nn.model import Batch
from mimn.nn.sketch import Touches
from mimn.state.actions import Actions

Ints = NDArray[np.int64]
POSITION_HIDDEN = 0.1
"""Share of the training occasions whose training-only fields are hidden, so that their missing rows are trained: those
are what serving reads."""


@dataclass(frozen=True)
class ImpressionData:
    """A described data set with the part of each impression."""

    prepared: Prepared
    labelled: Labelled

    @classmethod
    def load(
        cls, description: Path, cache: Path, parts: Sequence[Part] = PARTS, needed: Sequence[Part] | None = None
    ) -> ImpressionData:
        """The data set of a description, read from its files or from `cache`; of its labels those of `parts` alone.

        `needed`: the parts that must have both labels; None: all of `parts`.

        Raises:
            DataError: it cannot be used, or has no `[impressions]`, or a needed part without both labels.
        """
        required = tuple(parts if needed is None else needed)
        return _loaded(prepared_folder(description, cache), description, cache, tuple(parts), required)

    @cached_property
    def sha256(self) -> str:
        """Hash of events and impressions, for records."""
        shown = self.labelled.impressions
        digest = hashlib.sha256(self.labelled.events.sha256.encode())
        columns = [shown.user_id, shown.item_id, shown.time_ms, shown.label, *shown.context.values()]
        if self.prepared.members is not None:
            columns += [self.prepared.members.key, self.prepared.members.item]
        for column in columns:
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()

    def rows(self, part: Part) -> Ints:
        """The impressions of a part."""
        return np.flatnonzero(self.labelled.part == PARTS.index(part))

    def known_ids(self, min_count: int) -> KnownIds:
        """The vocabulary, counted on the train part.

        Items that it showed often enough have an embedding. All of the table `[items]` if items have fields, all that
        have members, and all with a past rate have a row as well.
        """
        events, shown, train = self.labelled.events, self.labelled.impressions, self.rows("train")
        split = self.prepared.description.split
        if isinstance(split, TimeSplit):
            past = events.timestamp * events.unit_ms < instant_ms(split.train_until)
        else:
            past = (parts_of(events.users, split.fold) == PARTS.index("train"))[events.user_index]
        items, counts = np.unique(np.concatenate([events.item_id[past], shown.item_id[train]]), return_counts=True)
        often = items[counts >= min_count]
        members, described = self.prepared.members, self.prepared.description.fields.item
        keys = self.prepared.side("item").key if described else np.empty(0, np.int64)
        keys = keys if members is None else np.concatenate([keys, members.key])
        if any(field.kind == "past_rate" for field in described.values()):  # a rate of its own needs a row to stand in
            keys = np.concatenate([keys, shown.item_id[train]])
            if isinstance(split, TimeSplit) and split.train_from is not None:
                keys = np.concatenate([keys, shown.item_id[shown.time_ms < instant_ms(split.train_from)]])
        categories = np.concatenate([events.category_id[past], shown.category_id[train]])
        ids = EmbeddingIds.of(np.concatenate([often, keys]), categories)
        return KnownIds.of(ids, places(often, ids.items) >= 0)

    @cached_property
    def past_rates(self) -> PastRates:
        """The fields that are rates of past labels."""
        return PastRates(self.prepared, self.labelled.impressions)

    @cached_property
    def rates(self) -> dict[str, NDArray[np.float64]]:
        """By such a field, each impression's rate as of its time. [m] each"""
        return self.past_rates.of_impressions()

    def item_members(self, known: KnownIds) -> ItemMembers | None:
        """What items stand for, by row of the model's item table: members that have an embedding of their own."""
        members = self.prepared.members
        if members is None:
            return None
        first, stop = members.bounds(known.ids.items)
        place, at = spans(first, stop)
        rows = known.embedding_rows[known.ids.item_rows(members.item[at])]
        place, rows = place[rows != UNKNOWN_ROW], rows[rows != UNKNOWN_ROW]
        sizes = np.bincount(place + 1, minlength=len(known.ids.items) + 1)  # row 0, the unknown item, has none
        return ItemMembers(torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)])), torch.from_numpy(rows))

    def fit_fields(self) -> FittedFields:
        """What the fields mean, by the train impressions.

        Raises:
            DataError: a field has no usable value there.
        """
        return fit_fields(self.prepared, self.labelled, self.rates)


class ImpressionReader:
    """Impressions and histories as tensors, by one vocabulary and one meaning of the fields."""

    def __init__(
        self,
        data: ImpressionData,
        ids: EmbeddingIds,
        fitted: FittedFields,
        config: ImpressionConfig,
        *,
        members: MemberIndex | None = None,
        dated_rates: bool = True,
    ) -> None:
        """
        Args:
            data: whose impressions and histories.
            ids, fitted: what the model knows.
            config: of the model.
            members: which candidates stand for items; None: as the data says.
            dated_rates: whether an item's past rate is that of each impression's time; else it is the one that the
                model was trained with, which is what serving reads.
        """
        model = config.architecture
        rules = data.prepared.description.action_rules
        self._weight = Actions.of(weights_of(rules)).weight if rules else None
        self._data, self._labelled, self._ids, self._sketch = data, data.labelled, ids, model.sketch
        self._length, self._dated_rates = config.training.validation_length, dated_rates
        self.member_index: MemberIndex | None = None
        """From items to the candidates that stand for them; None for a model without a ledger."""
        self._reads: Reads | None = None
        if model.ledger is not None:
            self.member_index = index_of(model.ledger, data.prepared.members) if members is None else members
            read = MemberReads(model.ledger, self.member_index, model.member_half_lives)
            self._reads = Reads(model.ledger, members=read)
        self._read: dict[int, ImpressionReads] = {}
        self._fields = encode_fields(data.prepared, data.labelled, fitted, data.rates)
        of_user = sum(spec.tabled and spec.kind != "multi" for spec in fitted.of("user"))
        single = [spec for spec in fitted.of("context") if spec.tabled and spec.kind != "multi"]
        self._training_only = [of_user + place for place, spec in enumerate(single) if spec.training_only]

    def item_values(self) -> FieldValues:
        """The items' values of their fields by row of the item table; row 0 has none."""
        encoded: EncodedFields = self._fields
        none = len(encoded.item_key)
        at = places(encoded.item_key, self._ids.items)
        values = field_values([encoded.items.at(np.append([none], np.where(at >= 0, at, none)))], (len(at) + 1,))
        now = self._data.past_rates.of_items(self._ids.items)
        scalars = [spec for spec in encoded.fitted.of("item") if not spec.tabled]
        for place, spec in enumerate(scalars):
            if spec.past_rate:
                values.numbers[1:, place] = torch.from_numpy(encoded.fitted.encoder(spec).numbers(now[spec.name]))
        return values

    def request(self, impressions: Ints, hidden: NDArray[np.bool_]) -> FieldValues:
        """The values of user and context fields. Training-only ones are missing where `hidden`. [...], [...] → [...]"""
        values = field_values(self._fields.of(impressions.reshape(-1)), impressions.shape)
        for column in self._training_only:
            values.rows[..., column][torch.from_numpy(hidden)] = MISSING
        return values

    def candidates(self, impressions: Ints) -> tuple[Tensor, Tensor]:
        """Rows of the items and categories. [...] → [...], [...]"""
        shown, flat = self._labelled.impressions, impressions.reshape(-1)
        rows = self._ids.item_rows(shown.item_id[flat]), self._ids.category_rows(shown.category_id[flat])
        items, categories = (torch.from_numpy(of.reshape(impressions.shape)) for of in rows)
        return items, categories

    def item_rates(self, impressions: Ints) -> Tensor | None:
        """The candidates' past rates as of each impression; None without such fields, or where the model has them.

        [...] → [..., Q]
        """
        if not self._dated_rates:
            return None
        rates = self._fields.rates("item", impressions.reshape(-1))
        return torch.from_numpy(rates.reshape(*impressions.shape, -1)) if rates.shape[-1] else None

    def reads(self, impressions: Ints, length: int) -> Tensor | None:
        """What is read of ledgers of the latest `length` events; None without a ledger. [...] → [..., R]"""
        if self._reads is None:
            return None
        if length not in self._read:  # of one length at a time
            self._read = {length: ImpressionReads(self._labelled, self._reads, length)}
        reads = self._read[length].of(impressions.reshape(-1))
        return torch.from_numpy(reads.reshape(*impressions.shape, -1))

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
            item_rates=self.item_rates(impressions),
            reads=self.reads(impressions, self._length),
            touches=touches,
        )

    def _cells(self, items: Ints, categories: Ints) -> Ints:
        if self._sketch is None:
            return np.empty((*items.shape, 0), np.int64)
        return addresses_of(self._sketch, self._ids, items, categories)


@lru_cache(maxsize=1)
def _loaded(
    folder: Path, description: Path, cache: Path, parts: tuple[Part, ...], needed: tuple[Part, ...]
) -> ImpressionData:
    """The data set that was prepared in `folder`: read once, however many models are trained on it."""
    prepared = prepare(description, cache)
    return ImpressionData(prepared, label_parts(prepared, parts=parts, needed=needed))


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


def field_values(sides: Iterable[Values], shape: tuple[int, ...]) -> FieldValues:
    """The values of some sides behind one another. [n] each → `shape`, of n elements"""

    def tensor(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values.reshape(*shape, values.shape[-1]))

    found = list(sides)
    return FieldValues(
        rows=tensor(np.concatenate([side.rows for side in found], -1).astype(np.int64)),
        lists=tuple(tensor(of.astype(np.int64)) for side in found for of in side.lists),
        numbers=tensor(np.concatenate([side.numbers for side in found], -1)),
    )
