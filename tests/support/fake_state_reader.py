"""A `StateReader` over a dictionary, for the tests of scoring. It passes the contract suite of the real one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from rtp.errors import StoreAway, StoreError, StoreLate, StoreRefused
from rtp.progress_watcher import ProgressReader
from rtp.store_clock import StoreClock, wall_ms


class FakeStateReader:
    """Values in memory, and switches for the ways in which a store fails."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.refused: set[str] = set()
        """Keys for which the store returns an error."""
        self.silent: set[str] = set()
        """Keys that no node gives an answer for, while others do."""
        self.frozen = False
        """No reply, connections stay open."""
        self.away = False
        """No connection."""
        self.asked: list[str] = []
        """Every key passed to `read`."""
        self.asked_again = 0
        """How often a read that failed was to be tried again."""
        self.budgets_s: list[float] = []
        """The timeout of each `read`."""
        self.announced: set[str] = set()
        """Who did. What was said does not expire here."""
        self.closed = False
        self.clock_ms: Callable[[], int] = wall_ms
        """The store's clock."""
        self.keeps_its_time = False
        """TIME is refused."""
        self.full = False
        """It takes no announcement."""
        self.troubles: list[str] = []
        self.sentinels: str | None = None
        """Said in `/readyz`."""

    async def read(self, key: str, timeout_s: float) -> bytes | None:
        self.asked.append(key)
        self.budgets_s.append(timeout_s)
        if timeout_s <= 0:
            raise StoreLate("no time is left")
        return (await self.read_many([key], timeout_s))[0]

    async def read_again(self, timeout_s: float) -> None:
        """What it failed to read is no trouble here."""
        self.asked_again += 1

    async def read_each(self, keys: Sequence[str], timeout_s: float) -> list[bytes | StoreError | None]:
        found = await self.read_many([key for key in keys if key not in self.silent], timeout_s)
        if keys and not found:
            raise StoreAway("away")
        given = iter(found)
        return [StoreAway("away") if key in self.silent else next(given) for key in keys]

    async def read_many(self, keys: Sequence[str], timeout_s: float) -> list[bytes | None]:
        if self.away or self.silent.intersection(keys):
            raise StoreAway("away")
        if self.frozen:
            await asyncio.sleep(timeout_s)
            raise StoreLate("late")
        if self.refused.intersection(keys):
            raise StoreRefused("refused")
        return [self.values.get(key) for key in keys]

    async def sample(self, pattern: str, most: int, timeout_s: float) -> tuple[list[bytes], bool]:
        await self.read_many([], timeout_s)
        found = [key.encode() for key in self.values if fnmatchcase(key, pattern)]
        return found[:most], len(found) <= most

    async def count(self, keys: Sequence[bytes], timeout_s: float) -> int:
        await self.read_many([], timeout_s)
        return sum(key.decode() in self.values for key in keys)

    async def time_ms(self, timeout_s: float) -> int:
        await self.read_many([], timeout_s)
        if self.keeps_its_time:
            raise StoreRefused("NOPERM")
        return self.clock_ms()

    async def announce(self, name: str, into: str, key: str, value: bytes, *, lasts_s: float, timeout_s: float) -> None:
        await self.read_many([into, key], timeout_s)
        if self.full:
            raise StoreRefused("OutOfMemoryError")
        self.values[key] = value
        self.announced.add(name)

    async def close(self) -> None:
        self.closed = True


def progress_reader(
    store: FakeStateReader, *, timeout_s: float = 1.0, wall_ms: Callable[[], int] = wall_ms
) -> ProgressReader:
    """A reader whose own clock is `wall_ms`."""
    clock = StoreClock(store, timeout_s=timeout_s, wall_ms=wall_ms)
    return ProgressReader(store, clock, timeout_s=timeout_s, ahead_within_ms=5_000)
