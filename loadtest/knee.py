"""The search for the knee: the highest rate that the server can still answer in time. Pure: `measure` sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from loadtest.result import Run

MOST_FAILED = 0.001
"""Share of requests that may fail or be dropped at a rate that holds."""


@dataclass(frozen=True)
class Limits:
    """When a rate holds."""

    p99_ms: float | None = None
    """At most this; None requires only that the server keeps up."""

    def hold(self, run: Run) -> bool:
        """Whether the server kept up, without failures, and in time."""
        return all(
            not phase.saturated
            and phase.failed + phase.dropped <= MOST_FAILED * phase.due
            and (self.p99_ms is None or phase.quantile_ms(0.99) <= self.p99_ms)
            for phase in run.phases
        )


@dataclass(frozen=True)
class Tried:
    """One rate that was tried."""

    per_s: float
    run: Run
    holds: bool


def search(
    measure: Callable[[float], Run],
    start: float,
    most: float,
    limits: Limits,
    *,
    factor: float = 1.5,
    halvings: int = 3,
) -> Iterator[Tried]:
    """Raise the rate until it does not hold, then narrow down between the last that held and the first that did not.

    Args:
        measure:  one run at a rate, in requests a second.
        start:    the first rate.
        most:     never more than this.
        limits:   when a rate holds.
        factor:   from one rate to the next on the way up.
        halvings: of what lies between (in the logarithm), at the end.

    Yields: every rate as it was tried.
    """
    best, failed, rate = None, None, start
    while failed is None and rate <= most:
        run = measure(rate)
        tried = Tried(rate, run, limits.hold(run))
        yield tried
        if tried.holds:
            best, rate = rate, rate * factor
        else:
            failed = rate
    for _ in range(halvings if best is not None and failed is not None else 0):
        assert best is not None and failed is not None  # noqa: S101, PT018 - for mypy, which forgets the line above
        rate = (best * failed) ** 0.5
        run = measure(rate)
        tried = Tried(rate, run, limits.hold(run))
        yield tried
        best, failed = (rate, failed) if tried.holds else (best, rate)


def knee(tried: list[Tried]) -> float | None:
    """The highest rate that held; None if none did."""
    return max((point.per_s for point in tried if point.holds), default=None)
