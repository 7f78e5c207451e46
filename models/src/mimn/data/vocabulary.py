"""The ids that a model knows, taken from train users alone, and their rows in an embedding table.

`Vocabulary` counts everything that train users touched; `EmbeddingIds` are the ids that get a row of their own. All
other ids share the unknown row 0, in training as in serving (`mimn.bundle.vocabulary` has the same rule). An item may
have a row for its fields and still share the unknown item's embedding: `KnownIds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimn.bundle.arrays import read_array
from mimn.data.events import DataError, Events
from mimn.run import CATEGORY_IDS, ITEM_IDS

UNKNOWN_ROW = 0
Ids = NDArray[np.int64] | NDArray[np.uint64]


@dataclass(frozen=True)
class Vocabulary:
    """Items and categories of the train users' events. `item_…` arrays are [I], `category_…` arrays [K]."""

    items: NDArray[np.int64]
    """[I], rising."""
    item_category: NDArray[np.int64]
    item_events: NDArray[np.int64]
    item_users: NDArray[np.int64]
    """Distinct train users."""
    categories: NDArray[np.int64]
    """[K], rising."""
    category_events: NDArray[np.int64]
    event_items: NDArray[np.int64]
    """[train events]: places in `items`, in the order of the events. Drawing from it is drawing by popularity."""

    def item_places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Each id's place in `items`, -1 for an unknown one."""
        return places(self.items, ids)

    def popularity(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many train events each item has; 0 for an unknown one."""
        at = self.item_places(ids)
        return np.where(at >= 0, self.item_events[at], 0)

    def category_popularity(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many train events each category has; 0 for an unknown one."""
        at = places(self.categories, ids)
        return np.where(at >= 0, self.category_events[at], 0)

    def embedding_ids(self, min_users: int) -> EmbeddingIds:
        """The ids that get an embedding: items that at least `min_users` train users touched, and all categories."""
        return EmbeddingIds.of(self.items[self.item_users >= min_users], self.categories)


@dataclass(frozen=True)
class EmbeddingIds:
    """The ids that have a row of their own: id `items[i]` has row i + 1, every other id row 0.

    Hashes of strings use all 64 bits and are held as the int64 with the same bits; their order is that of uint64, as in
    a bundle.
    """

    items: NDArray[np.int64]
    """[I'], rising as uint64."""
    categories: NDArray[np.int64]
    """[K], rising as uint64."""

    def __post_init__(self) -> None:
        for name in ("items", "categories"):
            ids = getattr(self, name).view(np.uint64)
            if not bool((ids[1:] > ids[:-1]).all()):
                raise ValueError(f"{name} must rise strictly as uint64, or rows of some ids are not found")

    @classmethod
    def of(cls, items: NDArray[np.int64], categories: NDArray[np.int64]) -> EmbeddingIds:
        """The distinct ids in their order."""
        return cls(*(np.unique(ids.astype(np.uint64)).astype(np.int64) for ids in (items, categories)))

    def item_rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Embedding rows of item ids. [n] → [n]"""
        return places(self.items.view(np.uint64), ids.astype(np.uint64)) + 1

    def category_rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Embedding rows of category ids. [n] → [n]"""
        return places(self.categories.view(np.uint64), ids.astype(np.uint64)) + 1

    def save(self, folder: Path) -> None:
        """Write both arrays into `folder`, as the uint64 arrays that a bundle holds."""
        np.save(folder / ITEM_IDS, self.items.astype(np.uint64), allow_pickle=False)
        np.save(folder / CATEGORY_IDS, self.categories.astype(np.uint64), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> EmbeddingIds:
        """The arrays that `save` wrote.

        Raises:
            DataError: a file is missing, is not a plain array, or its ids do not rise.
        """
        arrays = []
        for name in (ITEM_IDS, CATEGORY_IDS):
            try:
                arrays.append(read_array(folder / name).astype(np.int64))
            except (OSError, ValueError) as error:
                raise DataError(f"{folder / name} cannot be read: {error}") from error
        try:
            return cls(*arrays)
        except ValueError as error:
            raise DataError(f"{folder}: {error}") from error


@dataclass(frozen=True)
class KnownIds:
    """The ids that have rows, and which of the items have an embedding of their own."""

    ids: EmbeddingIds
    """Items that training showed often enough, and those that have a row for another reason: values of fields, members,
    a past rate."""
    embedding_rows: NDArray[np.int64]
    """[items + 1]: by row, the row of the embedding; `UNKNOWN_ROW` where training showed too little."""

    @classmethod
    def of(cls, ids: EmbeddingIds, own: NDArray[np.bool_]) -> KnownIds:
        """`own`: which of the items have an embedding of their own. [items]"""
        rows = np.where(own, np.arange(1, len(own) + 1), UNKNOWN_ROW)
        return cls(ids, np.concatenate([[UNKNOWN_ROW], rows]))

    def own(self, items: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which items have an embedding of their own. [n] → [n]"""
        found: NDArray[np.bool_] = self.embedding_rows[self.ids.item_rows(items)] != UNKNOWN_ROW
        return found


class TwoCategories(DataError):
    """An item whose events name different categories."""

    def __init__(self, item: int) -> None:
        super().__init__(f"item {item} has two categories: give each item one")
        self.item = item
        """As events have it: of a text, its hash."""


def build_vocabulary(events: Events, train_users: NDArray[np.bool_]) -> Vocabulary:
    """The vocabulary of the users where the mask [U] is true.

    Raises:
        DataError: no user is a train user, or an item has two categories.
    """
    rows = train_users[events.user_index]
    if not bool(rows.any()):
        raise DataError("no train users: the data set is too small for the split")
    items, first, places_, counts = np.unique(
        events.item_id[rows], return_index=True, return_inverse=True, return_counts=True
    )
    item_category = events.category_id[rows][first]
    different = events.category_id[rows] != item_category[places_]
    if bool(different.any()):
        raise TwoCategories(int(items[places_[np.argmax(different)]]))
    pairs = np.unique(places_ * len(events.users) + events.user_index[rows])
    item_users = np.bincount(pairs // len(events.users), minlength=len(items))
    categories, category_events = np.unique(events.category_id[rows], return_counts=True)
    return Vocabulary(items, item_category, counts, item_users, categories, category_events, places_)


def places(sorted_ids: Ids, ids: Ids) -> NDArray[np.int64]:
    """Each id's place in `sorted_ids`, -1 where it is absent. Both have one type. [k], [n] → [n]"""
    if not len(sorted_ids):
        return np.full(len(ids), -1)
    at = np.minimum(np.searchsorted(sorted_ids, ids), len(sorted_ids) - 1)
    return np.where(sorted_ids[at] == ids, at, -1)
