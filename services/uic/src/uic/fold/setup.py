"""What a worker folds, with what, and for whom."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from uic.core.model import Model
from uic.core.ports import Ports
from uic.metrics import Metrics
from uic.settings import FoldSettings


@dataclass(frozen=True, slots=True)
class Topic:
    """The log that is folded."""

    name: str
    partitions: int
    start: Literal["earliest", "latest"] = "earliest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """All that the parts of a worker share and none of them changes."""

    topic: Topic
    model: Model
    ports: Ports
    settings: FoldSettings
    """Bounds and intervals."""
    metrics: Metrics
    goes_on: Callable[[], None] = lambda: None
    """Called when a turn begins, and after each step of it."""
    after: Callable[[str], None] = lambda step: None
    """Called after each step of the protocol (crash tests end the process there)."""
    random_id: Callable[[], int] = lambda: secrets.randbits(64) or 1
    """Makes ids of writers and lineages."""
    clock: Callable[[], float] = perf_counter
    """Seconds; measures how long steps take, and decides nothing."""

    def done(self, step: str) -> None:
        """A step of the protocol is done."""
        self.goes_on()
        self.after(step)

    def retry_at(self, now: float) -> float:
        """When to try again what has just failed."""
        return now + self.settings.retry_interval_s
