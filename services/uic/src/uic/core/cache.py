"""States kept in memory between batches, so that a user's next event needs no read of the store.

Two bounded arrays for the whole process hold headers and tensors by row. Each partition session has a `Shelf`, which
maps users to rows and is dropped with the session. A shelf holds only states that the store has acknowledged: results
enter after the commit, never before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.state import HEADERS

NOT_CACHED = -1
ENTRY_BYTES = 400
"""Size of an entry besides its tensors, with the longest user id: header, key, and entry of a shelf."""


class StateCache:
    """The arrays and their free rows.

    Invariant: every row is either free or belongs to exactly one key of one shelf.
    """

    def __init__(self, capacity: int, floats: int) -> None:
        """Room for `capacity` states of `floats` values. Memory is used only when a row is first written."""
        self.headers: NDArray[np.void] = _unused(capacity, HEADERS)
        self.tensors: NDArray[np.float32] = _unused(capacity * floats, np.dtype(np.float32)).reshape(capacity, floats)
        self.capacity = capacity
        self._fresh = 0
        self._free: list[int] = []
        self._shelves: set[Shelf] = set()

    @classmethod
    def of_bytes(cls, size: int, floats: int) -> StateCache:
        """Room for as many states as `size` bytes hold, at least one."""
        return cls(max(1, size // (4 * floats + ENTRY_BYTES)), floats)

    def __len__(self) -> int:
        return self._fresh - len(self._free)

    def open(self) -> Shelf:
        """An empty shelf."""
        shelf = Shelf(self)
        self._shelves.add(shelf)
        return shelf

    def take_row(self, taker: Shelf) -> int:
        """A free row for `taker`. If there is none, the least recently used key is evicted: from `taker` if it already
        has its fair share, else from the fullest shelf."""
        if self._free:
            return self._free.pop()
        if self._fresh < self.capacity:
            self._fresh += 1
            return self._fresh - 1
        fair = self.capacity // len(self._shelves)
        victim = taker if len(taker) >= max(fair, 1) else max(self._shelves, key=len)
        return victim.drop_oldest()

    def release(self, rows: Sequence[int]) -> None:
        """Make rows free."""
        self._free.extend(rows)

    def close(self, shelf: Shelf) -> None:
        """Drop a shelf with all its entries."""
        if shelf in self._shelves:
            self._shelves.remove(shelf)
            self.release(list(shelf.rows.values()))
            shelf.rows.clear()


def _unused(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Zeros whose pages the system gives when they are written. (numpy asks for huge ones: 2 MiB for the first row.)"""
    return np.frombuffer(mmap(-1, count * dtype.itemsize, MAP_PRIVATE | MAP_ANONYMOUS), dtype)


class Shelf:
    """The cached states of one session: record key → row of the cache, least recently used first."""

    __slots__ = ("_cache", "rows")

    def __init__(self, cache: StateCache) -> None:
        self._cache = cache
        self.rows: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.rows)

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """The rows of keys, `NOT_CACHED` for others; the order of use is unchanged."""
        get = self.rows.get
        return [get(key, NOT_CACHED) for key in keys]

    def touch(self, keys: Iterable[bytes]) -> list[int]:
        """The rows of keys, which become the most recently used, one after another. New rows are taken where needed,
        perhaps that of an earlier one of the keys; the caller fills them."""
        rows, touched = self.rows, []
        for key in keys:
            row = rows.pop(key, NOT_CACHED)
            if row < 0:
                row = self._cache.take_row(self)
            rows[key] = row
            touched.append(row)
        return touched

    def drop(self, key: bytes) -> None:
        """Forget a key."""
        row = self.rows.pop(key, NOT_CACHED)
        if row >= 0:
            self._cache.release([row])

    def drop_oldest(self) -> int:
        """Forget the least recently used key and return its row, which now belongs to the caller."""
        return self.rows.pop(next(iter(self.rows)))
