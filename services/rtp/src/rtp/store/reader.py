"""The store as a `StateReader`: one GET a request, by its deadline."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from redis.exceptions import RedisClusterException, RedisError, ResponseError

from rtp.core.outage import Outage
from rtp.errors import StoreAway, StoreLate, StoreRefused
from rtp.store.commands import Commands, TooManyConnects, reason_of
from rtp.time_limits import within

T = TypeVar("T")
_AWAY = (RedisError, RedisClusterException, OSError)
"""All that redis-py raises except error replies; `RedisClusterException` (no node to reach) is not a `RedisError`."""


class RedisStateReader:
    """Reads under a timeout, and stops asking the store for a while when it is away. Implements `StateReader`."""

    def __init__(self, commands: Commands, outage: Outage, clock: Callable[[], float] = time.monotonic) -> None:
        self._commands = commands
        self._outage = outage
        self._clock = clock

    async def read(self, key: str, timeout_s: float) -> bytes | None:
        """The value under `key`, None if there is none.

        Raises:
            StoreAway: no connection, or the store is not asked because it was away a moment ago.
            StoreLate: no reply within `timeout_s` seconds.
            StoreRefused: an error reply.
        """
        if timeout_s <= 0:
            raise StoreLate("no time is left to ask the store")
        if not self._outage.may_ask(self._clock()):
            raise StoreAway("the store was away a moment ago and is not asked by every request")
        return await self._told(self._commands.get(key, timeout_s), timeout_s)

    async def read_many(self, keys: Sequence[str], timeout_s: float) -> list[bytes | None]:
        """The values under `keys`, in order; asks even while requests do not. An answer here, with more time than a
        request has, does not show that requests would get one.

        Raises: as `read`.
        """
        return await self._in_background(self._commands.get_many(keys), timeout_s)

    async def sample(self, pattern: str, most: int, timeout_s: float) -> tuple[list[bytes], bool]:
        """Up to `most` keys that match `pattern`, and whether these are all there are; asks like `read_many`.

        Raises: as `read`.
        """
        return await self._in_background(self._commands.sample(pattern, most), timeout_s)

    async def count(self, keys: Sequence[bytes], timeout_s: float) -> int:
        """How many of `keys` exist; asks like `read_many`.

        Raises: as `read`.
        """
        return await self._in_background(self._commands.count(keys), timeout_s)

    async def announce(self, name: str, into: str, key: str, value: bytes, *, lasts_s: float, timeout_s: float) -> None:
        """Put `name` into the set under `into`, and `value` under `key` for `lasts_s` seconds; asks like `read_many`.

        Raises: as `read`.
        """
        said = self._commands.announce(name, into, key, value, round(lasts_s * 1000))
        await self._in_background(said, timeout_s)

    async def close(self) -> None:
        """Close every connection."""
        await self._commands.close()

    async def _in_background(self, reading: Awaitable[T], timeout_s: float) -> T:
        return await self._told(within(timeout_s, reading), timeout_s, watched=False)

    async def _told(self, reading: Awaitable[T], timeout_s: float, *, watched: bool = True) -> T:
        """What `reading` gives, and what became of it, told to the outage and in our own errors."""
        try:
            value = await reading
        except TimeoutError as error:
            if watched:
                self._outage.late(self._clock())
            raise StoreLate(f"no reply within {timeout_s * 1000:.0f} ms") from error
        except ResponseError as error:
            if watched:
                self._outage.answered()
            raise StoreRefused(reason_of(error)) from error
        except TooManyConnects as error:
            raise StoreAway(reason_of(error)) from error
        except _AWAY as error:
            self._outage.away(self._clock())
            raise StoreAway(reason_of(error)) from error
        if watched:
            self._outage.answered()
        return value
