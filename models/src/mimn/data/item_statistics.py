"""The table of items that a head reads beside a ledger, from the events of some users.

Statistics and vectors of an item come from the very users that a model is trained on, so a training target would find
itself in them. Training therefore reads tables made from other train users (`fold_tables`): what it sees of a user is
what a new user's target sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from mimn.bundle.item_table import ItemTable
from mimn.data.events import DataError, Events
from mimn.data.neighbors import neighbors_of
from mimn.data.prepared import Side

Ints = NDArray[np.int64]
PRIOR = 3.0
"""A repeat rate and a gap count as if the average of all items had been seen so many times before."""
DAY_S = 86_400
MISSING_CODE = 0
"""Of a field's value in a prepared data set."""


@dataclass(frozen=True)
class ItemTypes:
    """Types of items: for each kind a number from 1 on, 0 for none."""

    kinds: tuple[str, ...]
    items: Ints
    """[I], rising."""
    types: NDArray[np.int32]
    """[I, K]"""

    def of(self, items: Ints) -> NDArray[np.int32]:
        """The types of items, 0 for unknown ones. [n] → [n, K]"""
        at = np.minimum(np.searchsorted(self.items, items), max(len(self.items) - 1, 0))
        found = np.zeros((len(items), len(self.kinds)), np.int32)
        if len(self.items):
            known = self.items[at] == items
            found[known] = self.types[at[known]]
        return found


def item_types(events: Events, side: Side, kinds: Sequence[str]) -> ItemTypes:
    """The types of the items of some events: their `category`, and fields that the data set describes. `a*b`: pairs.

    Raises:
        DataError: the data set has no such field.
    """
    items, first = np.unique(events.item_id, return_index=True)
    rows = side.rows(items)
    columns: dict[str, Ints] = {"category": _numbers(events.category_id[first])}
    for name in {name for kind in kinds for name in kind.split("*")} - {"category"}:
        if name not in side.fields or side.fields[name].dtype != np.uint64:
            known = ", ".join(["category", *(name for name, of in side.fields.items() if of.dtype == np.uint64)])
            raise DataError(
                f"model.ledger_types names {name!r}: the types that this data set's items have are {known}; describe "
                f"others as `fields.item.{name}` of kind categorical"
            )
        values = side.fields[name][rows]
        columns[name] = np.where((rows >= 0) & (values != MISSING_CODE), _numbers(values), 0)
    types = np.zeros((len(items), len(kinds)), np.int32)
    for k, kind in enumerate(kinds):
        parts = [columns[name] for name in kind.split("*")]
        numbers = parts[0]
        for part in parts[1:]:
            both = (numbers > 0) & (part > 0)
            numbers = np.where(both, _numbers(numbers * (int(part.max(initial=0)) + 1) + part), 0)
        types[:, k] = numbers
    return ItemTypes(tuple(kinds), items, types)


def _numbers(values: NDArray[np.generic]) -> Ints:
    """Values as numbers from 1 on."""
    numbers: Ints = np.unique(values, return_inverse=True)[1].astype(np.int64) + 1
    return numbers


class TableSizes(NamedTuple):
    """What a configuration says of the table's sizes."""

    vectors: int
    """V: width of the items' vectors."""
    least_users: int
    """Items of fewer train users are not in the table."""
    neighbors: int = 0
    """K: of each item; 0: the table has none."""
    neighbor_l2: float = 200.0
    """How strongly their weights are drawn to 0."""


def item_table(events: Events, users: NDArray[np.bool_], types: ItemTypes, sizes: TableSizes) -> ItemTable:
    """The table of the items that enough of the `users` [U] have, as if all train users were these.

    An item's baskets count once each. A vector is the item's part of the `vectors` largest singular vectors of the
    matrix users × items of log(1 + baskets) sqrt(idf).
    """
    rows = users[events.user_index]
    user, item, second = events.user_index[rows], events.item_id[rows], events.timestamp[rows] * events.unit_ms // 1000
    _, basket = np.unique(events.basket_id[rows], return_inverse=True)
    order = np.lexsort([basket, second, user, item])
    user, item, second, basket = user[order], item[order], second[order], basket[order]
    once = np.ones(len(item), np.bool_)
    once[1:] = (item[1:] != item[:-1]) | (user[1:] != user[:-1]) | (basket[1:] != basket[:-1])
    user, item, second = user[once], item[once], second[once]
    ids, place = np.unique(item, return_inverse=True)
    pair_begins = np.ones(len(item), np.bool_)
    pair_begins[1:] = (item[1:] != item[:-1]) | (user[1:] != user[:-1])
    pair = np.cumsum(pair_begins) - 1
    pair_item, pair_user, baskets = place[pair_begins], user[pair_begins], np.bincount(pair)

    events_of, buyers = np.bincount(place), np.bincount(pair_item)
    repeaters = np.bincount(pair_item, baskets > 1)
    again = np.flatnonzero(~pair_begins)
    gaps = np.log1p(np.maximum(second[again] - second[again - 1], 0) / DAY_S)
    gap_sum, gap_count = np.bincount(place[again], gaps, len(ids)), np.bincount(place[again], minlength=len(ids))
    mean_rate, mean_gap = repeaters.sum() / max(buyers.sum(), 1), gaps.mean() if len(gaps) else np.log1p(30.0)
    kept = np.flatnonzero(buyers >= sizes.least_users)
    kept = kept[np.argsort(ids[kept].astype(np.uint64))]
    total = int(np.count_nonzero(users))
    # Events and users as if all train users had been counted, so that tables of fewer users read alike.
    statistics = np.stack(
        [
            np.log1p(events_of / total * 1000),
            np.log1p(buyers / total * 1000),
            (repeaters + PRIOR * mean_rate) / (buyers + PRIOR),
            np.log(events_of / buyers),
            np.expm1((gap_sum + PRIOR * mean_gap) / (gap_count + PRIOR)),
            np.log((total + 1) / buyers),
        ],
        1,
    )[kept]
    unknown = np.array([[0.0, 0.0, mean_rate, 0.0, np.expm1(mean_gap), np.log(total + 1)]])
    matrix = csr_matrix(
        (np.log1p(baskets) * np.sqrt(np.log((total + 1) / buyers))[pair_item], (pair_user, pair_item)),
        shape=(len(users), len(ids)),
    )[users][:, kept]
    directions = _directions(matrix, sizes.vectors)
    return ItemTable(
        ids=ids[kept].astype(np.uint64),
        statistics=np.concatenate([unknown, statistics]).astype(np.float32),
        types=np.concatenate([np.zeros((1, len(types.kinds)), np.int32), types.of(ids[kept])]),
        vectors=np.concatenate([np.zeros((1, sizes.vectors)), directions]).astype(np.float32),
        neighbors=neighbors_of(matrix.sign(), sizes.neighbors, sizes.neighbor_l2) if sizes.neighbors else None,
    )


def _directions(matrix: csr_matrix, count: int) -> NDArray[np.float64]:
    """The items' part of the largest singular vectors, scaled so that a typical vector has length 1. [U, I] → [I, V]"""
    found = np.zeros((matrix.shape[1], count))
    most = min(count, min(matrix.shape) - 1)
    if most > 0:
        _, _, right = svds(matrix.astype(np.float64), k=most, v0=np.ones(min(matrix.shape)), random_state=0)
        found[:, :most] = right.T[:, ::-1]
    found *= np.sqrt(matrix.shape[1] / max(count, 1))
    return found


def fold_tables(
    events: Events, train_users: NDArray[np.bool_], types: ItemTypes, sizes: TableSizes, *, groups: int
) -> tuple[NDArray[np.int64], list[ItemTable]]:
    """A group for each user, and for each group the table of the train users outside of it. [U] → [U], [groups]"""
    group = np.arange(len(train_users)) % groups
    return group, [item_table(events, train_users & (group != g), types, sizes) for g in range(groups)]
