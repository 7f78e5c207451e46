"""States kept in memory between batches, so that a user's next event needs no read of the store.

One arena of float32 rows for the whole process, bounded; one `Shelf` a partition session, dropped with it. A shelf
holds only what the store has acknowledged: results enter after the commit, never before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


class Entry:
    """One cached state: its header's fields as plain attributes, and where its tensors lie in the arena."""

    __slots__ = ("count", "digest", "era", "last_offset", "partial", "row", "time", "user", "user_hash")

    def __init__(self, user: str, user_hash: int, row: int) -> None:
        self.user = user
        self.user_hash = user_hash
        self.row = row
        self.last_offset = -1
        self.era = 0
        self.count = 0
        self.time = 0
        self.digest = b""
        self.partial = False


class StateCache:
    """The arena and its free rows.

    Invariant: every row is either free or belongs to exactly one entry of one shelf.
    """

    def __init__(self, capacity: int, floats: int) -> None:
        """Room for `capacity` states of `floats` values. Memory is taken as rows are first used."""
        self.arena: NDArray[np.float32] = np.empty((capacity, floats), np.float32)
        self.capacity = capacity
        self._fresh = 0
        self._free: list[int] = []
        self._shelves: set[Shelf] = set()

    def __len__(self) -> int:
        return self._fresh - len(self._free)

    def open(self) -> Shelf:
        """An empty shelf."""
        shelf = Shelf(self)
        self._shelves.add(shelf)
        return shelf

    def take_row(self, taker: Shelf) -> int:
        """A free row for `taker`. When there is none the least recently used entry goes: of `taker` if it has its fair
        share already, else of the fullest shelf."""
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
        """Drop a shelf and all that is on it."""
        if shelf in self._shelves:
            self._shelves.remove(shelf)
            self.release([entry.row for entry in shelf.entries.values()])
            shelf.entries.clear()


class Shelf:
    """The cached states of one session, by record key, least recently used first."""

    __slots__ = ("_cache", "entries")

    def __init__(self, cache: StateCache) -> None:
        self._cache = cache
        self.entries: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.entries)

    def get(self, key: bytes) -> Entry | None:
        """The entry of a key; its place in the order is unchanged."""
        return self.entries.get(key)

    def touch(self, key: bytes, user: str, user_hash: int) -> Entry:
        """The entry of a key, made if need be, as the most recently used one. The caller fills it."""
        entry = self.entries.pop(key, None)
        if entry is None:
            entry = Entry(user, user_hash, self._cache.take_row(self))
        self.entries[key] = entry
        return entry

    def drop(self, key: bytes) -> None:
        """Forget a key."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self._cache.release([entry.row])

    def drop_oldest(self) -> int:
        """Forget the least recently used entry and return its row, which is the caller's now."""
        return self.entries.pop(next(iter(self.entries))).row
