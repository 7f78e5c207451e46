"""Redis or Valkey as a `StateReader`: single, behind Sentinel, or a cluster. One GET a request, by its deadline.

redis-py owns addresses, TLS, authentication and the protocol; this module owns which connection a request takes and
when to give up, because a request's deadline is the only timeout that matters here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from rtp.core.outage import Outage
from rtp.errors import StoreAway, StoreLate, StoreRefused
from rtp.settings import RedisSettings

T = TypeVar("T")
_AWAY = (RedisConnectionError, RedisTimeoutError, OSError)


class Commands(Protocol):
    """How keys are read in one of the three modes. No timeouts: the caller cancels."""

    async def get(self, key: str) -> bytes | None:
        """One GET."""
        ...

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Many GETs, in as few round trips as the mode allows."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class RedisStateReader:
    """Reads under a timeout, and does without the store for a while when it is away. Implements `StateReader`."""

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
        return await self._within(self._commands.get(key), timeout_s)

    async def read_many(self, keys: Sequence[str], timeout_s: float) -> list[bytes | None]:
        """The values under `keys`, in order; asks even while requests do not.

        Raises: as `read`.
        """
        return await self._within(self._commands.get_many(keys), timeout_s)

    async def close(self) -> None:
        """Close every connection."""
        await self._commands.close()

    async def _within(self, reading: Awaitable[T], timeout_s: float) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                value = await reading
        except TimeoutError as error:
            self._outage.late(self._clock())
            raise StoreLate(f"no reply within {timeout_s * 1000:.0f} ms") from error
        except ResponseError as error:
            self._outage.answered()
            raise StoreRefused(f"the store refuses: {str(error).partition(' ')[0]}") from error
        except _AWAY as error:
            self._outage.away(self._clock())
            raise StoreAway(f"no connection to the store ({type(error).__name__})") from error
        except RedisError as error:
            self._outage.away(self._clock())
            raise StoreRefused(f"the store cannot be asked ({type(error).__name__})") from error
        self._outage.answered()
        return value


class _PoolCommands:
    """One server, or the master that Sentinel names: a bounded set of connections, each one request's at a time.

    A connection whose reply was not read to its end is closed, never reused: a late reply would answer somebody else.
    """

    def __init__(self, pool: ConnectionPool, size: int) -> None:
        self._pool = pool
        self._idle: list[AbstractConnection] = []
        self._slots = asyncio.Semaphore(size)

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._ask("GET", key)
        return value

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        values: list[bytes | None] = await self._ask("MGET", *keys)
        return values

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)

    async def _ask(self, *command: str) -> Any:
        async with self._slots:
            if self._idle:
                connection = self._idle.pop()
                try:
                    return await self._exchange(connection, command)
                except (RedisConnectionError, OSError):
                    # The server closed an idle connection, or restarted; the others are as old. One new try.
                    await self.close()
            fresh = self._pool.make_connection()  # type: ignore[no-untyped-call] # redis-py has no annotation here
            return await self._exchange(fresh, command)

    async def _exchange(self, connection: AbstractConnection, command: tuple[str, ...]) -> Any:
        try:
            await connection.send_command(*command)
            value = await connection.read_response()
        except ResponseError:
            self._idle.append(connection)
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        return value


class _ClusterCommands:
    """A cluster: redis-py knows which node holds a key."""

    def __init__(self, cluster: RedisCluster) -> None:
        self._cluster = cluster

    async def get(self, key: str) -> bytes | None:
        value: Any = await self._cluster.get(key)
        return None if value is None else bytes(value)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        values: list[bytes | None] = await self._cluster.mget_nonatomic(keys)
        return values

    async def close(self) -> None:
        await self._cluster.aclose()


def open_store(settings: RedisSettings) -> RedisStateReader:
    """The store that the settings name. Nothing is connected before the first read."""
    outage = Outage(settings.failures_to_pause, settings.retry_every_ms / 1000)
    return RedisStateReader(_commands(settings), outage)


def _commands(settings: RedisSettings) -> Commands:
    url = settings.url.get_secret_value()
    options: dict[str, Any] = {
        "protocol": 2,
        "socket_connect_timeout": settings.connect_timeout_ms / 1000,
        "socket_timeout": None,  # the request's deadline cancels, so redis-py needs no timer of its own
        "retry": Retry(NoBackoff(), 0),
    }
    match settings.mode:
        case "single":
            return _PoolCommands(ConnectionPool.from_url(url, **options), settings.pool_size)
        case "sentinel":
            at = Redis.from_url(url).connection_pool.connection_kwargs
            address = [(at.get("host", "127.0.0.1"), at.get("port", 26379))]
            sentinel = Sentinel(address, sentinel_kwargs=options, **options)  # type: ignore[no-untyped-call]
            master = sentinel.master_for(settings.sentinel_master)
            return _PoolCommands(master.connection_pool, settings.pool_size)
        case "cluster":
            options["retry"] = Retry(NoBackoff(), 1)
            return _ClusterCommands(
                RedisCluster.from_url(url, max_connections=settings.pool_size, require_full_coverage=False, **options)
            )
