"""How keys are read, whatever the mode of the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

SCAN_COUNT: Final = 1000
_SCAN_CALLS: Final = 500
"""How much of the store a sample may look at: half a million keys, a second or so."""


class TooManyConnects(Exception):
    """A pool's worth of connections got no answer within a second; says nothing about the store."""


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


async def scan(step: Callable[[int], Awaitable[tuple[int, Sequence[bytes]]]], most: int) -> tuple[list[bytes], bool]:
    """Up to `most` different keys that `step` (cursor → next cursor, keys) finds, and whether the end was reached."""
    found: dict[bytes, None] = {}
    cursor = 0
    for _ in range(_SCAN_CALLS):
        cursor, keys = await step(cursor)
        found |= dict.fromkeys(keys)
        if not cursor or len(found) >= most:
            break
    return list(found)[:most], not cursor and len(found) <= most
