"""Whether the fold has stalled. A stalled thread cannot report it itself, so the fold thread records when it last made
progress, and the threads that read the status compare that time with a bound.
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
"""More calls to the store, each of which may take its whole timeout, than there are between two records of progress."""


class StallWatch:
    """Records the fold thread's progress; `judge` may be called on any thread."""

    def __init__(self, bound_s: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        """Reports no stall before the first progress. `bound_s`: the longest time between two records of progress."""
        self.bound_s = bound_s
        self._clock = clock
        self._seen: float | None = None

    @classmethod
    def of(cls, store_timeout_s: float, clock: Callable[[], float] = time.monotonic) -> StallWatch:
        """With the bound for a store whose calls may take this long."""
        return cls(max(LEAST_S, CALLS * store_timeout_s), clock)

    def goes_on(self) -> None:
        """Record progress: a turn begins, or a step of it is done."""
        self._seen = self._clock()

    def rests(self) -> None:
        """Report no stall until `goes_on`: no turn is due, or what the fold waits for has its own time limit."""
        self._seen = None

    def stalled(self) -> str:
        """For how long the fold has stood still; empty if it has not."""
        if (seen := self._seen) is None or (silent_s := self._clock() - seen) < self.bound_s:
            return ""
        return f"the fold has stood still for {silent_s:.0f} s"

    def judge(self, status: Status) -> Status:
        """The fold's last status, with the stall if there is one."""
        if not (stalled := self.stalled()):
            return status
        return replace(status, serving=False, reasons=(f"fold_stalled: {stalled}", *status.reasons))


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
