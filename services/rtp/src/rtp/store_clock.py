"""The store's clock. UIC writes as-of times by it, so RTP judges their age by it: by a clock of its own that is an hour
fast every state would be `stale`.

The store is asked outside of requests. In between, and while it is away, its time goes on by the steady clock of this
process, which is never set.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rtp.core.ports import StateReader


def wall_ms() -> int:
    """This process's clock, in ms since 1970."""
    return time.time_ns() // 1_000_000


class StoreClock:
    """What time it is by the store."""

    def __init__(
        self,
        store: StateReader,
        *,
        timeout_s: float,
        steady_s: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = wall_ms,
    ) -> None:
        """`timeout_s` is how long the store is waited for; `steady_s` gives seconds that only ever grow."""
        self._store = store
        self._timeout_s = timeout_s
        self._steady_s = steady_s
        self._wall_ms = wall_ms
        self._began_ms: int | None = None
        """The store's time when the steady clock was 0; None until the store has told its time."""

    def now_ms(self) -> int:
        """The store's time in ms since 1970; this process's, until the store has told it."""
        return self._wall_ms() if self._began_ms is None else self._began_ms + int(1000 * self._steady_s())

    async def compare(self) -> float:
        """Ask the store for its time; how far this process's clock is ahead of it, in seconds.

        Raises:
            StoreError: the store did not tell it. What it said before goes on to count.
        """
        asked_s = self._steady_s()
        told_ms = await self._store.time_ms(self._timeout_s)
        self._began_ms = told_ms - int(500 * (asked_s + self._steady_s()))  # half of the way there and back
        return (self._wall_ms() - self.now_ms()) / 1000
