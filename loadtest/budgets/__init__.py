"""The promises about speed and size. A file asks one question and has the budgets that answer it, each a bound and the
function that measures it; `python -m loadtest.budgets` lists and measures them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Sample sizes."""

    requests: int = 3_000
    """A kind of user, for the ratio of latencies."""
    backlog: int = 100_000
    users: int = 100_000
    seconds: float = 10.0
    """Of each phase at a fixed rate."""

    @classmethod
    def full(cls) -> Sizes:
        """As the budgets name them."""
        return cls(requests=20_000, backlog=300_000, seconds=30.0)


@dataclass(frozen=True)
class Figure:
    """A measured value, and how far apart single measurements were."""

    value: float
    spread: str = ""
    histogram: str = ""
    """Of single measurements in microseconds, in HdrHistogram's base64, where there are many."""


@dataclass(frozen=True)
class Budget:
    """One promise: what is measured, and the bound that the figure must keep."""

    key: str
    what: str
    unit: str
    measure: Callable[[Sizes], Figure]
    at_most: float | None = None
    at_least: float | None = None

    def holds(self, value: float) -> bool:
        """Whether `value` keeps the bound."""
        return value <= self.at_most if self.at_most is not None else value >= (self.at_least or 0)

    @property
    def rule(self) -> str:
        """The bound in words."""
        bound = f"≤ {self.at_most:g}" if self.at_most is not None else f"≥ {self.at_least:g}"
        return f"{bound} {self.unit}".rstrip()


def budget(
    what: str, unit: str, *, at_most: float | None = None, at_least: float | None = None
) -> Callable[[Callable[[Sizes], Figure]], Budget]:
    """Make a measuring function the budget of its name."""
    return lambda measure: Budget(measure.__name__, what, unit, measure, at_most, at_least)
