"""What a bundle knows of items besides their embeddings: statistics over the train users, types, vectors and neighbors.

A head reads it together with a user's ledger (`mimn.bundle.reads`). It gives no state its meaning, so it is outside of
the fingerprint: a bundle with newer statistics keeps every user's state.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimn.bundle.arrays import finite, load_arrays, save_arrays
from mimn.state.ledger import Keys, Ledger

STATISTICS = ("log_events", "log_users", "repeat_rate", "log_baskets", "gap", "idf")
"""log1p of how many baskets of train users have the item, and how many of them bought it; the share of these that have
it in two baskets or more; log of baskets a buyer; the usual gap between two baskets, in days; log of all train users
over the item's. The last one weighs entries and is not read by itself."""
GAP, IDF = STATISTICS.index("gap"), STATISTICS.index("idf")

FILES = {name: f"table.{name}.npy" for name in ("ids", "statistics", "types", "vectors")}
"""By array, its file in a bundle or in a run folder."""
NEIGHBOR_FILES = {name: f"table.neighbors.{name}.npy" for name in ("rows", "weights")}
"""The same of a table with neighbors."""
MOST_NEIGHBORS = 1024

Floats = NDArray[np.float32]


class Neighbors(NamedTuple):
    """K other items of each item, and how much it says for the item (below 0: against it) that a user has one."""

    rows: NDArray[np.int32]
    """[I + 1, K]: rows of the table; 0, which is no item, where an item has fewer."""
    weights: Floats
    """[I + 1, K]"""


@dataclass(frozen=True)
class ItemTable:
    """I items. Row 0 of the arrays is the unknown item, row i + 1 belongs to `ids[i]`."""

    ids: NDArray[np.uint64]
    """[I], rising strictly."""
    statistics: Floats
    """[I + 1, 6], as `STATISTICS`."""
    types: NDArray[np.int32]
    """[I + 1, K]: of each kind of type the item's, 0 for none."""
    vectors: Floats
    """[I + 1, V]: alike for items that the same users touch; 0 in row 0."""
    neighbors: Neighbors | None = None

    def save(self, folder: Path) -> None:
        """Write the arrays into `folder`."""
        save_arrays(folder, FILES, self)
        if self.neighbors is not None:
            save_arrays(folder, NEIGHBOR_FILES, self.neighbors)

    @classmethod
    def load(cls, folder: Path) -> ItemTable:
        """The arrays in `folder`, memory-mapped; with neighbors if there is one of their files.

        Raises:
            ValueError: one is missing or cannot be read, or see `check`; the message names it.
        """
        paired = any((folder / file).exists() for file in NEIGHBOR_FILES.values())
        neighbors = Neighbors(**load_arrays(folder, NEIGHBOR_FILES)) if paired else None
        table = cls(**load_arrays(folder, FILES), neighbors=neighbors)
        table.check()
        return table

    def check(self) -> None:
        """Raises ValueError if shapes or types do not fit each other; the message names the array."""
        rows = len(self.ids) + 1
        if self.ids.dtype != np.uint64 or self.ids.ndim != 1 or not bool(np.all(self.ids[1:] > self.ids[:-1])):
            raise ValueError("item table: ids must be uint64 and rise strictly")
        for name, dtype, width in (
            ("statistics", np.float32, len(STATISTICS)), ("types", np.int32, None), ("vectors", np.float32, None)
        ):  # fmt: skip
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != 2 or len(array) != rows or width not in (None, array.shape[1]):
                raise ValueError(f"item table: {name} is {array.dtype} {array.shape}, which does not fit {rows} rows")
            if not finite(array) or (name == "types" and bool((array < 0).any())):
                raise ValueError(f"item table: {name} has a value that cannot be used")
        if self.neighbors is not None:
            of, weights = self.neighbors
            if of.dtype != np.int32 or weights.dtype != np.float32 or of.ndim != 2 or of.shape != weights.shape:
                raise ValueError(
                    "item table: neighbors need rows of int32 and weights of float32, of one shape [I + 1, K]"
                )
            if len(of) != rows or bool(((of < 0) | (of >= rows)).any()) or not finite(weights):
                raise ValueError(f"item table: neighbors do not fit {rows} rows, or have a weight that cannot be used")

    def rows(self, item_ids: NDArray[np.uint64]) -> NDArray[np.intp]:
        """Each item's row, 0 for an unknown one. [k] → [k]"""
        if not len(self.ids):
            return np.zeros(len(item_ids), np.intp)
        at = self.ids.searchsorted(item_ids)
        at[at == len(self.ids)] = 0
        return np.where(self.ids[at] == item_ids, at + 1, 0)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """[K + 1]: codes of kind k are `offsets[k]` and, for types from 1 on, those up to `offsets[k + 1]`."""
        return np.concatenate([[0], np.cumsum(self.types.max(0, initial=0) + 1)]).astype(np.int64)

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """[I + 1, K]: types as codes that no two kinds share."""
        return self.types + self.offsets[:-1]


NO_TABLE = ItemTable(
    ids=np.empty(0, np.uint64),
    statistics=np.zeros((1, len(STATISTICS)), np.float32),
    types=np.zeros((1, 0), np.int32),
    vectors=np.zeros((1, 0), np.float32),
)
"""Of a bundle whose head reads its members alone."""


class KeyIndex:
    """From the keys of a ledger's entries back to the rows of a table. Of two items with one key the lower id wins.

    The different keys of a table are numbered from 1 on.
    """

    def __init__(self, ledger: Ledger, ids: NDArray[np.uint64]) -> None:
        keys = ledger.keys(ids).numbers
        self.keys, first, number = np.unique(keys, return_index=True, return_inverse=True)
        """Rising."""
        self.rows: NDArray[np.intp] = np.concatenate([[0], first + 1])
        """By number of a key, the row of its item; of 0, which is no key of the table, row 0."""
        self.numbers: NDArray[np.intp] = np.concatenate([[0], number.reshape(-1) + 1])
        """By row of the table, the number of its item's key. [I + 1]"""

    def numbers_of(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
        """The numbers that lead back to rows of the table, 0 for those that none leads to. [...] → [...]"""
        numbers = self.numbers[rows]
        return np.where(self.rows[numbers] == rows, numbers, 0)

    def of(self, keys: Keys) -> NDArray[np.intp]:
        """The numbers of entries' keys, 0 where the table has no such item. [k] → [k]"""
        if not len(self.keys):
            return np.zeros(len(keys.tags), np.intp)
        wanted = keys.numbers
        at = self.keys.searchsorted(wanted)
        at[at == len(self.keys)] = 0
        return np.where(self.keys[at] == wanted, at + 1, 0)
