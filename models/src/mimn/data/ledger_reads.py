"""What a head reads of ledgers in training and evaluation: histories are folded event by event with the code that UIC
folds with, and read with the code that RTP reads with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimn.baselines import ModelConfig
from mimn.bundle.item_table import ItemTable
from mimn.bundle.reads import Reads
from mimn.data.events import Events
from mimn.data.item_statistics import TableSizes, fold_tables, item_table, item_types
from mimn.data.prepared import Side
from mimn.data.touches import times_ms
from mimn.rows.library import library
from mimn.rows.states import add_entries
from mimn.state.ledger import Keys, Ledger

Ints = NDArray[np.int64]
GROUPS_OF_USERS = 4
"""Train users are read with tables of the other three quarters of them."""


class LedgerModel(NamedTuple):
    """What a model's configuration says of its ledger and of what it reads."""

    ledger: Ledger
    groups: tuple[str, ...]
    """Of `mimn.bundle.reads`."""
    kinds: tuple[str, ...]
    """Kinds of types (`mimn.data.item_statistics.item_types`)."""
    sizes: TableSizes

    def reads(self, table: ItemTable) -> Reads:
        """What the model reads with a table."""
        return Reads(self.ledger, table, self.groups)


def ledger_model(config: ModelConfig) -> LedgerModel | None:
    """What a model's configuration says of a ledger, None without one."""
    if config.ledger is None:
        return None
    neighbors = config.ledger_neighbors if "neighbors" in config.read_groups else 0
    sizes = TableSizes(config.ledger_vectors, config.ledger_least_users, neighbors, config.ledger_neighbor_l2)
    return LedgerModel(config.ledger, config.read_groups, config.ledger_types, sizes)


@dataclass(frozen=True)
class Questions:
    """q times at which candidates are read."""

    history: Ints
    """[q]: which history."""
    position: Ints
    """[q]: after how many of its events."""
    items: Ints
    """[q, C]: ids of the candidates."""
    now_ms: Ints
    """[q]"""


def make_table(model: LedgerModel, events: Events, users: NDArray[np.bool_], side: Side) -> ItemTable:
    """The table that a bundle gets, from the events of the `users` [U] and the items' fields.

    Raises:
        DataError: the items have no field of a kind of types.
    """
    types = item_types(events, side, model.kinds)
    return item_table(events, users, types, model.sizes)


def make_fold_tables(
    model: LedgerModel, events: Events, users: NDArray[np.bool_], side: Side
) -> tuple[Ints, list[ItemTable]]:
    """Groups of users, and the tables that train users are read with (`mimn.data.item_statistics.fold_tables`).

    Raises:
        DataError: as `make_table`.
    """
    types = item_types(events, side, model.kinds)
    return fold_tables(events, users, types, model.sizes, groups=GROUPS_OF_USERS)


class LedgerReader:
    """Folds histories of a data set into ledgers and reads them."""

    def __init__(self, readers: Sequence[Reads], events: Events, group_of: Ints | None = None) -> None:
        """`readers`: of one ledger. `group_of` [U] says by which of them a user is read; None: all by the first."""
        self._ledger, self._readers = readers[0].ledger, readers
        self._user_of, self._group_of = events.user_index, group_of
        self._keys, self._times = self._ledger.keys(events.item_id.astype(np.uint64)), times_ms(events)

    @property
    def width(self) -> int:
        """R: values of a candidate."""
        return self._readers[0].width

    def read(self, start: Ints, length: Ints, asked: Questions) -> NDArray[np.float32]:
        """What the head reads at each question. History h is the events `start[h]` to `start[h] + length[h]`.

        [h], [h], q questions of C candidates → [q, C, R]
        """
        out = np.empty((*asked.items.shape, self.width), np.float32)
        ids = asked.items.astype(np.uint64)
        needed = np.zeros(len(start), np.int64)
        np.maximum.at(needed, asked.history, asked.position)
        # Longest first: the histories that go on are always the first rows.
        order = np.argsort(-np.minimum(length, needed), kind="stable")
        begin, left = start[order], np.minimum(length, needed)[order]
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        states = np.zeros((len(order), self._ledger.words), np.float32)
        occasions = _occasions(asked)
        ends = np.searchsorted(
            asked.position[[qs[0] for qs in occasions]], np.arange(int(left.max(initial=0)) + 1), "right"
        )
        first, active = 0, len(order)
        for t, end in enumerate(ends.tolist()):
            for qs in occasions[first:end]:
                h = place[asked.history[qs[0]]]
                group = 0 if self._group_of is None else int(self._group_of[self._user_of[begin[h]]])
                known = self._readers[group].read(
                    self._ledger.of(states[h]), ids[qs].reshape(-1), int(asked.now_ms[qs[0]])
                )
                out[qs] = known.reshape(len(qs), *out.shape[1:])
            first = end
            while active and left[active - 1] <= t:
                active -= 1
            if not active:
                break
            rows = begin[:active] + t
            self._add(states[:active], Keys(self._keys.buckets[rows], self._keys.tags[rows]), self._times[rows])
        return out

    def _add(self, states: NDArray[np.float32], keys: Keys, times: Ints) -> None:
        """One event to each state, by C where it is there: the same bits."""
        built = library()
        if built is None:
            self._ledger.add(states, keys, times)
        else:
            depth = np.ones(len(states), np.int64)
            add_entries(built, self._ledger, self._ledger.of(states), depth, keys, times, None)


def _occasions(asked: Questions) -> list[Ints]:
    """The questions by position, those of one history, position and time together: they are read at once."""
    order = np.lexsort([asked.now_ms, asked.history, asked.position])
    kept = [values[order] for values in (asked.position, asked.history, asked.now_ms)]
    new = np.flatnonzero(np.any([values[1:] != values[:-1] for values in kept], axis=0)) + 1
    return np.split(order, new) if len(order) else []


class Ledgers(NamedTuple):
    """What a model with a ledger is trained with."""

    table: ItemTable
    """Of all train users: evaluation and the bundle read with it."""
    reader: LedgerReader
    """Reads each train user with a table that leaves their group out."""


def ledgers_of(config: ModelConfig, events: Events, users: NDArray[np.bool_], side: Side) -> Ledgers | None:
    """The tables of items, and what reads ledgers in training; None without a ledger. Users [U] are the train users.

    Raises:
        DataError: the items have no field of a kind of types.
    """
    model = ledger_model(config)
    if model is None:
        return None
    groups, tables = make_fold_tables(model, events, users, side)
    readers = [model.reads(table) for table in tables]
    return Ledgers(make_table(model, events, users, side), LedgerReader(readers, events, groups))
