"""The store as a `StateReader`: one key a request, by its deadline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Final, TypeVar

import structlog
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from rtp.core.circuit_breaker import CircuitBreaker
from rtp.errors import StoreAway, StoreError, StoreLate, StoreRefused
from rtp.store.commands import FAIR_S, Commands, TooManyConnects, reason_of
from rtp.time_limits import within
from rtp.trouble import Trouble

T = TypeVar("T")
CALM_S: Final = 5.0
"""How long no read of a request may have failed until that counts as over: some may go well all the time, because other
commands, keys or nodes of a cluster are not concerned."""
_FAILURES = (RedisError, RedisClusterException, OSError, TooManyConnects)
"""All that `Commands` raise; `RedisClusterException` (no node to reach) is not a `RedisError`."""

log = structlog.stdlib.get_logger(__name__)


class RedisStateReader:
    """Reads under a timeout, and stops asking the store for a while when it is away. Implements `StateReader`."""

    def __init__(self, commands: Commands, breaker_of: Callable[[str], CircuitBreaker]) -> None:
        """`breaker_of` gives the one that counts for a key: nodes of a cluster fail one by one."""
        self._commands = commands
        self._breaker_of = breaker_of
        self._trouble = Trouble()
        """Why a read of a request failed lately, if not for want of time."""
        self._failed_at = 0.0
        self._failed_key = ""
        """Of that read."""
        self._tried_at = 0.0
        """When that key was last read again."""

    @property
    def troubles(self) -> list[str]:
        """See `StateReader`."""
        reads = f"states cannot be read: {self._trouble.reason}" if self._trouble.reason else ""
        sentinels = self._commands.sentinels or ""
        return [trouble for trouble in (reads, "" if sentinels in reads else sentinels) if trouble]

    @property
    def sentinels(self) -> str | None:
        """See `StateReader`."""
        return self._commands.sentinels

    async def read(self, key: str, timeout_s: float, *, again: bool = False) -> bytes | None:
        """The value under `key`, None if there is none. `again`: no request asks, so a failure is not a new one.

        Raises:
            StoreAway: no connection, or the store is not asked because it was away a moment ago.
            StoreLate: no reply within `timeout_s` seconds.
            StoreRefused: an error reply.
        """
        if timeout_s <= 0:
            raise StoreLate("no time is left to ask the store")
        breaker = self._breaker_of(key)
        if not breaker.may_ask(monotonic()):
            raise StoreAway("the store was away a moment ago and is not asked by every request")
        try:
            value = await self._commands.get(key, timeout_s)
        except TooManyConnects as error:
            raise self._told(key, _ours(error, timeout_s), again) from error
        except _FAILURES as error:
            failed = _ours(error, timeout_s)
            if isinstance(failed, StoreLate):
                if timeout_s >= FAIR_S:
                    breaker.late(monotonic())
                raise failed from error
            if isinstance(failed, StoreAway):
                breaker.away(monotonic())
            else:
                breaker.answered()
            raise self._told(key, failed, again) from error
        breaker.answered()
        if self._trouble.reason is not None:
            self._went_well()
        return value

    async def read_again(self, timeout_s: float) -> None:
        """See `StateReader`. Whatever has gone well since, for `CALM_S`, has ended the trouble."""
        now = monotonic()
        if self._trouble.reason is not None and self._calm and now - self._tried_at >= CALM_S:
            self._tried_at = now
            with suppress(StoreError):  # it is the trouble that is told already, or the store is late
                await self.read(self._failed_key, timeout_s, again=True)

    @property
    def _calm(self) -> bool:
        return monotonic() - self._failed_at >= CALM_S

    def _told(self, key: str, failed: StoreError, again: bool) -> StoreError:
        """Tell operators: the answer says only `unavailable`, and the reads in the background may go well."""
        if not again:
            self._failed_at, self._failed_key = monotonic(), key
        reason = f"{type(failed).__name__}: {failed}"
        if self._trouble.begins(failed, reason):
            log.warning("states cannot be read", reason=reason)
        return failed

    def _went_well(self) -> None:
        if self._calm and self._trouble.ends():
            log.info("states are read again")

    async def read_each(self, keys: Sequence[str], timeout_s: float) -> list[bytes | StoreError | None]:
        """The values under `keys`, in order, and in place of each that a node of a cluster does not give, why. Asks
        even while requests do not, and says nothing about the store to requests: these have less time.

        Raises: as `read`, if there is no answer at all.
        """
        values = await _told(self._commands.get_many(keys, timeout_s), timeout_s)
        found = [_ours(value, timeout_s) if isinstance(value, Exception) else value for value in values]
        if found and all(isinstance(value, StoreError) for value in found):
            _all_answered(found)
        return found

    async def read_many(self, keys: Sequence[str], timeout_s: float) -> list[bytes | None]:
        """The values under `keys`, in order; asks like `read_each`.

        Raises: as `read`.
        """
        return _all_answered(await self.read_each(keys, timeout_s))

    async def sample(self, pattern: str, most: int, timeout_s: float) -> tuple[list[bytes], bool]:
        """Up to `most` keys that match `pattern`, and whether these are all there are; asks like `read_each`.

        Raises: as `read`.
        """
        return await _told(within(timeout_s, self._commands.sample(pattern, most)), timeout_s)

    async def count(self, keys: Sequence[bytes], timeout_s: float) -> int:
        """How many of `keys` exist; asks like `read_each`.

        Raises: as `read`.
        """
        return await _told(within(timeout_s, self._commands.count(keys)), timeout_s)

    async def time_ms(self, timeout_s: float) -> int:
        """The store's clock, in ms since 1970; asks like `read_each`.

        Raises: as `read`.
        """
        return await _told(self._commands.time_ms(timeout_s), timeout_s)

    async def announce(self, name: str, into: str, key: str, value: bytes, *, lasts_s: float, timeout_s: float) -> None:
        """Put `name` into the set under `into`, and `value` under `key` for `lasts_s` seconds; asks like `read_each`.

        Raises: as `read`.
        """
        said = self._commands.announce(name, into, key, value, round(lasts_s * 1000))
        await _told(within(timeout_s, said), timeout_s)

    async def close(self) -> None:
        """Close every connection."""
        await self._commands.close()


async def _told(reading: Awaitable[T], timeout_s: float) -> T:
    """What `reading` gives, and its failures as ours."""
    try:
        return await reading
    except _FAILURES as error:
        raise _ours(error, timeout_s) from error


def _ours(error: Exception, timeout_s: float) -> StoreError:
    match error:
        case TimeoutError():
            return StoreLate(f"no reply within {timeout_s * 1000:.0f} ms")
        case ResponseError():
            return StoreRefused(reason_of(error))
        case _:
            return StoreAway(reason_of(error))


def _all_answered(found: Sequence[bytes | StoreError | None]) -> list[bytes | None]:
    values: list[bytes | None] = []
    for value in found:
        if isinstance(value, StoreError):
            raise value
        values.append(value)
    return values
