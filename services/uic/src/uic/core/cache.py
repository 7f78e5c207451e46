"""States kept in memory between batches, so that a user's next event needs no read of the store.

A state is kept as the value that the store has, without the zeros of its tensors (`mimn.state.sparse`). Each partition
session has a `Shelf`, which is dropped with the session. A shelf holds only states that the store has acknowledged:
results enter after the commit, never before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter

ENTRY_BYTES = 400
"""Size of an entry besides its value's bytes, with the longest user id: key, entry of a shelf, and what Python and the
allocator add to a value."""


class StateCache:
    """How much memory all shelves take together.

    Invariant: `used` is the sum over the shelves, and at most `size` whenever no shelf is being changed.
    """

    def __init__(self, size: int) -> None:
        """`size`: bytes."""
        self.size = size
        self.used = 0
        self._shelves: set[Shelf] = set()

    def __len__(self) -> int:
        return sum(map(len, self._shelves))

    def open(self) -> Shelf:
        """An empty shelf."""
        shelf = Shelf(self)
        self._shelves.add(shelf)
        return shelf

    def make_room(self, taker: Shelf) -> None:
        """Evict the least recently used keys until at most `size` bytes are used: of `taker` while it has more than its
        fair share, else of the fullest shelf."""
        fair = self.size // len(self._shelves)
        while self.used > self.size:
            victim = taker if taker.used > fair else max(self._shelves, key=attrgetter("used"))
            victim.drop_oldest(min(self.used - self.size, victim.used - fair))

    def close(self, shelf: Shelf) -> None:
        """Drop a shelf with all its entries."""
        if shelf in self._shelves:
            self._shelves.remove(shelf)
            shelf.drop_oldest(shelf.used)


class Shelf:
    """The cached states of one session: record key → stored value, least recently used first."""

    __slots__ = ("_cache", "used", "values")

    def __init__(self, cache: StateCache) -> None:
        self._cache = cache
        self.values: dict[bytes, bytes] = {}
        self.used = 0
        """Bytes."""

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.values)

    def find(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys, None for others; the order of use is unchanged."""
        return list(map(self.values.get, keys))

    def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Keep values of distinct keys, which become the most recently used, one after another. What does not fit into
        the cache any more is evicted, perhaps some of these."""
        known = len(self.values)
        pop = self.values.pop
        before = sum([len(pop(key, b"")) for key in keys])
        self.values.update(zip(keys, values, strict=True))
        self._grow(sum(map(len, values)) - before + ENTRY_BYTES * (len(self.values) - known))
        self._cache.make_room(self)

    def drop(self, key: bytes) -> None:
        """Forget a key."""
        value = self.values.pop(key, None)
        if value is not None:
            self._grow(-len(value) - ENTRY_BYTES)

    def drop_oldest(self, size: int) -> None:
        """Forget the least recently used keys that take `size` bytes or a little more. (All at once: a dict finds its
        first key by passing all those that were taken out of it.)"""
        gone, freed = [], 0
        for key, value in self.values.items():
            if freed >= size:
                break
            gone.append(key)
            freed += len(value) + ENTRY_BYTES
        for key in gone:
            del self.values[key]
        self._grow(-freed)

    def _grow(self, by: int) -> None:
        self.used += by
        self._cache.used += by
