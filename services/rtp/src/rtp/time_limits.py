"""How long a read of the store may take: a limit for one read, and a cheap one for the many reads of requests.

Both end what is late two passes of the loop after its time, because a loop that was kept from running looks at its
timers before it looks at its sockets: a reply that is there already is not late.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

T = TypeVar("T")
_TICK_S: Final = 0.001
"""uvloop's timers count whole milliseconds, so one may ring this much before its time."""


async def within(timeout_s: float, reading: Awaitable[T]) -> T:
    """What `reading` gives; after `timeout_s` seconds it is cancelled.

    Raises:
        TimeoutError: it was.
    """
    loop = asyncio.get_running_loop()
    limit = asyncio.timeout(None)
    timer = loop.call_later(timeout_s, loop.call_soon, loop.call_soon, _expire, limit)
    try:
        async with limit:
            return await reading
    finally:
        timer.cancel()


def _expire(limit: asyncio.Timeout) -> None:
    with suppress(RuntimeError):  # the read has ended meanwhile
        limit.reschedule(0)


class Deadlines:
    """Futures that fail with TimeoutError when their time is over. One timer serves them all, for the one that is due
    first when it is set; nearly always that one has ended long before."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._due: dict[asyncio.Future[Any], float] = {}
        self._rings_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, future: asyncio.Future[Any], due: float) -> None:
        """Fail `future` at `due` (seconds of the clock), unless it is lifted before."""
        self._due[future] = due
        if due < self._rings_at:
            self._ring_at(due)

    def lift(self, future: asyncio.Future[Any]) -> None:
        """No longer look at `future`."""
        del self._due[future]

    def _ring_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = due
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due - self._clock()), self._ring)

    def _ring(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._fail, self._clock() + _TICK_S)

    def _fail(self, until: float) -> None:
        next_due = math.inf
        for future, due in self._due.items():
            if due > until:
                next_due = min(next_due, due)
            elif not future.done():
                future.set_exception(TimeoutError())
        self._rings_at = math.inf
        if next_due < math.inf:
            self._ring_at(next_due)
