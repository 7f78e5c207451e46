"""Redis or Valkey as a `StateReader`: single, behind Sentinel, or a cluster. One GET a request, by its deadline.

redis-py owns addresses, TLS and authentication, and in a cluster every exchange; otherwise `rtp.connection` exchanges
commands and replies. This module owns which connection a request takes and when to give up, because a request's
deadline is the only timeout that matters here.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import starmap
from typing import Any, Protocol, TypeVar

from redis.asyncio import RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import ConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisClusterException, RedisError, ResponseError

from rtp.connection import Connection, check_client, connect, packed
from rtp.core.outage import Outage
from rtp.errors import StoreAway, StoreLate, StoreRefused
from rtp.settings import RedisSettings
from rtp.time_limits import Deadlines, within

T = TypeVar("T")
_IN_VAIN_S = 1.25
"""How long an unanswered connection counts against the limit: a second, and some more because connections do not all
take the same time to be made."""
_AWAY = (RedisError, RedisClusterException, OSError)
"""All that redis-py raises except error replies; `RedisClusterException` (no node to reach) is not a `RedisError`."""
_SCAN_COUNT = 1000
_SCAN_CALLS = 500
"""How much of the store a sample may look at: half a million keys, a second or so."""


class Commands(Protocol):
    """How keys are read in one of the three modes. Only `get` has a time limit, because every request pays for it; for
    the others the caller cancels."""

    async def get(self, key: str, timeout_s: float) -> bytes | None:
        """One GET. Raises TimeoutError when there is no reply within `timeout_s` seconds."""
        ...

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Many GETs, in as few round trips as the mode allows."""
        ...

    async def sample(self, pattern: str, most: int) -> tuple[list[bytes], bool]:
        """SCAN until `most` keys are found, the end is reached or enough was looked at; whether it was the end."""
        ...

    async def count(self, keys: Sequence[bytes]) -> int:
        """One EXISTS."""
        ...

    async def announce(self, name: str, into: str, key: str, value: bytes, lasts_ms: int) -> None:
        """One SADD and one SET."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


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
            raise StoreRefused(f"the store refuses: {str(error).partition(' ')[0]}") from error
        except _TooManyConnects as error:
            raise StoreAway(str(error)) from error
        except _AWAY as error:
            self._outage.away(self._clock())
            raise StoreAway(f"no connection to the store ({type(error).__name__})") from error
        if watched:
            self._outage.answered()
        return value


class _TooManyConnects(Exception):
    """A pool's worth of connections got no answer within a second; says nothing about the store."""


async def _scan(step: Callable[[int], Awaitable[tuple[int, Sequence[bytes]]]], most: int) -> tuple[list[bytes], bool]:
    """Up to `most` different keys that `step` (cursor → next cursor, keys) finds, and whether the end was reached."""
    found: dict[bytes, None] = {}
    cursor = 0
    for _ in range(_SCAN_CALLS):
        cursor, keys = await step(cursor)
        found |= dict.fromkeys(keys)
        if not cursor or len(found) >= most:
            break
    return list(found)[:most], not cursor and len(found) <= most


class _PoolCommands:
    """One server: a bounded set of connections, each used by one request at a time.

    A connection whose reply was not read to its end is closed, never reused: a late reply would answer another request.
    At most as many as the pool holds are opened without success within a second, so that a store in trouble is not also
    flooded with connections.
    """

    def __init__(self, pool: ConnectionPool, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        check_client()
        self._pool = pool
        self._clock = clock
        self._size = size
        self._in_vain: deque[float] = deque()
        """When the connections were opened that have not answered yet."""
        self._free: deque[Connection | None] = deque([None] * size)
        """What may be taken: None for a connection that may still be opened; to the right those that are open."""
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        """Who waits for one, while none is free."""
        self._deadlines = Deadlines(clock)
        self._epoch = 0
        """Raised to drop all connections; those in use at that moment are not kept either."""

    async def get(self, key: str, timeout_s: float) -> bytes | None:
        """What every request does, so where a connection is open and free, with a deadline instead of `within`."""
        value: bytes | None
        began = self._clock()
        free = self._free
        if not free or (connection := free[-1]) is None or not connection.free:
            value = await within(timeout_s, self._ask("GET", key))
            return value
        free.pop()
        asked = connection.ask(packed("GET", key))
        self._deadlines.set(asked, began + timeout_s)
        try:
            value = await asked
            return value
        except RedisConnectionError:
            await self.close()  # as in `_ask`
        finally:
            self._deadlines.lift(asked)
            self._give_back(connection)
        value = await within(timeout_s - (self._clock() - began), self._ask("GET", key))
        return value

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        values: list[bytes | None] = await self._ask("MGET", *keys)
        return values

    async def sample(self, pattern: str, most: int) -> tuple[list[bytes], bool]:
        async def step(cursor: int) -> tuple[int, Sequence[bytes]]:
            answer: Any = await self._ask("SCAN", str(cursor), "MATCH", pattern, "COUNT", str(_SCAN_COUNT))
            return int(answer[0]), answer[1]

        return await _scan(step, most)

    async def count(self, keys: Sequence[bytes]) -> int:
        found: int = await self._ask("EXISTS", *keys)
        return found

    async def announce(self, name: str, into: str, key: str, value: bytes, lasts_ms: int) -> None:
        await self._ask("SADD", into, name)
        await self._ask("SET", key, value, "PX", str(lasts_ms))

    async def close(self) -> None:
        self._epoch += 1
        free, self._free = self._free, deque([None] * len(self._free))
        for connection in free:
            if connection is not None:
                connection.close()

    async def _ask(self, *command: str | bytes) -> Any:
        connection = await self._take()
        try:
            if connection is not None and connection.free:
                try:
                    return await connection.ask(packed(*command))
                except RedisConnectionError:
                    # The server closed an idle connection, or restarted; the others are as old. Try once more.
                    await self.close()
            connection = None
            connection = await self._opened()
            answer = await connection.ask(packed(*command))
            if self._in_vain:
                self._in_vain.pop()
            return answer
        finally:
            self._give_back(connection)

    async def _opened(self) -> Connection:
        now = self._clock()
        while self._in_vain and self._in_vain[0] <= now - _IN_VAIN_S:
            self._in_vain.popleft()
        if len(self._in_vain) >= self._size:
            raise _TooManyConnects("a pool's worth of connections got no answer within a second: no more for now")
        self._in_vain.append(now)
        fresh = self._pool.make_connection()  # type: ignore[no-untyped-call] # redis-py has no annotation here
        return await connect(fresh, self._epoch)

    async def _take(self) -> Connection | None:
        """A connection that was open when it was given back, or None for one that the caller may open."""
        if self._free:
            return self._free.pop()
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self._give_back(waiter.result())
            raise

    def _give_back(self, connection: Connection | None) -> None:
        if connection is not None and not (connection.free and connection.epoch == self._epoch):
            connection.close()
            connection = None
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if connection is None:
            self._free.appendleft(None)
        else:
            self._free.append(connection)


class _SentinelCommands(_PoolCommands):
    """The master that the Sentinels name. A new connection asks them; background reads notice a master that was demoted
    and still answers, with the data it last got from the new one."""

    def __init__(self, pool: SentinelConnectionPool, size: int) -> None:
        super().__init__(pool, size)
        self._master_of = pool

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        known = self._master_of.master_address
        with suppress(MasterNotFoundError):  # no Sentinel answers: the master that is known may go on
            now: Any = await self._master_of.get_master_address()  # type: ignore[no-untyped-call] # as above
            if now != known:
                await self.close()
        return await super().get_many(keys)

    async def announce(self, name: str, into: str, key: str, value: bytes, lasts_ms: int) -> None:
        try:
            await super().announce(name, into, key, value, lasts_ms)
        except ReadOnlyError:  # a master that was demoted
            await self.close()
            await super().announce(name, into, key, value, lasts_ms)


class _ClusterCommands:
    """A cluster: redis-py knows which node holds a key, and fails rather than waits when it has no connection free."""

    def __init__(self, cluster: RedisCluster, size: int) -> None:
        self._cluster = cluster
        self._slots = asyncio.Semaphore(size)

    async def get(self, key: str, timeout_s: float) -> bytes | None:
        return await within(timeout_s, self._get(key))

    async def _get(self, key: str) -> bytes | None:
        async with self._slots:
            value: Any = await self._cluster.get(key)
        return None if value is None else bytes(value)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        async with self._slots:
            values: list[bytes | None] = await self._cluster.mget_nonatomic(keys)
        return values

    async def sample(self, pattern: str, most: int) -> tuple[list[bytes], bool]:
        await self._cluster.initialize()
        primaries = self._cluster.get_primaries()
        found: list[bytes] = []
        whole = True
        for node in primaries:

            async def step(cursor: int, node: ClusterNode = node) -> tuple[int, Sequence[bytes]]:
                async with self._slots:
                    cursors: Any
                    cursors, keys = await self._cluster.scan(
                        cursor, match=pattern, count=_SCAN_COUNT, target_nodes=node
                    )
                return cursors[node.name], [key for key in keys if isinstance(key, bytes)]

            some, all_of_it = await _scan(step, -(-most // len(primaries)))
            found += some
            whole &= all_of_it
        return found[:most], whole

    async def count(self, keys: Sequence[bytes]) -> int:
        async with self._slots:
            found: int = await self._cluster.exists(*keys)
        return found

    async def announce(self, name: str, into: str, key: str, value: bytes, lasts_ms: int) -> None:
        async with self._slots:
            await self._cluster.sadd(into, name)
            await self._cluster.set(key, value, px=lasts_ms)

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
    if settings.tls:
        options |= {
            "ssl_ca_certs": settings.tls_ca_file and str(settings.tls_ca_file),
            "ssl_certfile": settings.tls_cert_file and str(settings.tls_cert_file),
            "ssl_keyfile": settings.tls_key_file and str(settings.tls_key_file),
        }
    match settings.mode:
        case "single":
            # As `ConnectionPool.from_url`, but for the protocol, which is ours to choose: we read the replies.
            return _PoolCommands(ConnectionPool(**{**options, **parse_url(url), "protocol": 2}), settings.pool_size)
        case "sentinel":
            given = parse_url(url)
            login = {name: given[name] for name in ("username", "password", "db") if name in given}
            sentinel = Sentinel(_hosts(settings.sentinels), sentinel_kwargs={"ssl": settings.tls, **options})  # type: ignore[no-untyped-call] # as above
            pool = SentinelConnectionPool(settings.sentinel_service, sentinel, ssl=settings.tls, **options, **login)  # type: ignore[no-untyped-call] # as above
            return _SentinelCommands(pool, settings.pool_size)
        case "cluster":
            options["retry"] = Retry(NoBackoff(), 1)
            options["startup_nodes"] = list(starmap(ClusterNode, _hosts(settings.nodes)))
            cluster = RedisCluster.from_url(
                url, max_connections=settings.pool_size, require_full_coverage=False, **options
            )
            return _ClusterCommands(cluster, settings.pool_size)


def _hosts(addresses: str) -> list[tuple[str, int]]:
    """Host and port of each address of a setting."""
    parts = (address.rpartition(":") for address in addresses.split(",") if address.strip())
    return [(host.strip("[] "), int(port)) for host, _, port in parts]
