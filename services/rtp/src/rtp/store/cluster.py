"""A cluster, on redis-py's client: it knows which node holds a key."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode

from rtp.store.commands import SCAN_COUNT, scan
from rtp.time_limits import within


class ClusterCommands:
    """A cluster: redis-py knows which node holds a key, and fails rather than waits when it has no connection free."""

    def __init__(self, cluster: RedisCluster, size: int) -> None:
        self._cluster = cluster
        self._slots = asyncio.Semaphore(size)

    async def get(self, key: str, timeout_s: float) -> bytes | None:
        """See `Commands`."""
        return await within(timeout_s, self._get(key))

    async def _get(self, key: str) -> bytes | None:
        async with self._slots:
            value: Any = await self._cluster.get(key)
        return None if value is None else bytes(value)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `Commands`."""
        async with self._slots:
            values: list[bytes | None] = await self._cluster.mget_nonatomic(keys)
        return values

    async def sample(self, pattern: str, most: int) -> tuple[list[bytes], bool]:
        """See `Commands`."""
        await self._cluster.initialize()
        primaries = self._cluster.get_primaries()
        found: list[bytes] = []
        whole = True
        for node in primaries:

            async def step(cursor: int, node: ClusterNode = node) -> tuple[int, Sequence[bytes]]:
                async with self._slots:
                    cursors: Any
                    cursors, keys = await self._cluster.scan(cursor, match=pattern, count=SCAN_COUNT, target_nodes=node)
                return cursors[node.name], [key for key in keys if isinstance(key, bytes)]

            some, all_of_it = await scan(step, -(-most // len(primaries)))
            found += some
            whole &= all_of_it
        return found[:most], whole

    async def count(self, keys: Sequence[bytes]) -> int:
        """See `Commands`."""
        async with self._slots:
            found: int = await self._cluster.exists(*keys)
        return found

    async def announce(self, name: str, into: str, key: str, value: bytes, lasts_ms: int) -> None:
        """See `Commands`."""
        async with self._slots:
            await self._cluster.sadd(into, name)
            await self._cluster.set(key, value, px=lasts_ms)

    async def close(self) -> None:
        """See `Commands`."""
        await self._cluster.aclose()
