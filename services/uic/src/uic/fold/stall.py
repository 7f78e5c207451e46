"""Whether the fold stands still: its thread gives signs of life, and who asks for the status hears when they fail to
come, because a thread that stands still cannot say so itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Final

from uic.core.ports import Erasures
from uic.core.status import Status

LEAST_S: Final = 10.0
CALLS: Final = 10
"""More calls to the store, each of which may take its whole timeout, than lie between two signs of life."""


class StallWatch:
    """Hears the fold thread, and judges it on any thread."""

    def __init__(self, bound_s: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        """Does not judge yet. `bound_s`: longer than what lies between two signs of life, unless something is wrong."""
        self._bound_s = bound_s
        self._clock = clock
        self._seen: float | None = None

    @classmethod
    def of(cls, store_timeout_s: float, clock: Callable[[], float] = time.monotonic) -> StallWatch:
        """With the bound for a store whose calls may take this long."""
        return cls(max(LEAST_S, CALLS * store_timeout_s), clock)

    def goes_on(self) -> None:
        """A turn begins, or a step of it is done."""
        self._seen = self._clock()

    def rests(self) -> None:
        """Do not judge until it goes on: no turn is due, or the fold waits for what has a bound of its own."""
        self._seen = None

    def judge(self, status: Status) -> Status:
        """The fold's last status, or that the fold stands still."""
        if (seen := self._seen) is None or (silent_s := self._clock() - seen) < self._bound_s:
            return status
        stalled = f"fold_stalled: the fold has stood still for {silent_s:.0f} s"
        return replace(status, serving=False, reasons=(stalled, *status.reasons))


class UnhurriedErasures:
    """Reading the erasures is no stall: it waits for brokers as long as a request to them may take, and then reads all
    notes of a partition."""

    def __init__(self, erasures: Erasures, stalls: StallWatch) -> None:
        self._erasures = erasures
        self._stalls = stalls

    def read(self, partitions: Collection[int], topic_id: bytes, /) -> Mapping[int, Mapping[bytes, int]]:
        """See `Erasures`."""
        self._stalls.rests()
        try:
            return self._erasures.read(partitions, topic_id)
        finally:
            self._stalls.goes_on()
