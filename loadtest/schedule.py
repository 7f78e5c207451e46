"""When requests are due. Pure: a schedule is a value; the sender follows it and never looks at the server.

A schedule is a sequence of phases, each at one rate; so is every mode except the search for the knee.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Gaps = Literal["constant", "poisson"]
"""Arrivals evenly spaced, or at random, as independent people send them."""


@dataclass(frozen=True)
class Phase:
    """A while at one rate."""

    per_s: float
    """Requests a second."""
    seconds: float
    name: str = ""


@dataclass(frozen=True)
class Schedule:
    """Phases one after the other.

    Raises:
        ValueError: a rate or a duration is not positive, or nothing would ever be due.
    """

    phases: tuple[Phase, ...]
    gaps: Gaps = "constant"
    seed: int = 0

    def __post_init__(self) -> None:
        for phase in self.phases:
            if not phase.per_s > 0 or not phase.seconds > 0:
                raise ValueError(
                    f"{phase.per_s:g} requests/s for {phase.seconds:g} s: a rate and a duration must be positive"
                )
        if not any(int(phase.per_s * phase.seconds) for phase in self.phases):
            raise ValueError("no request would be due: raise the rate or the duration")

    @property
    def seconds(self) -> float:
        """Of all phases together."""
        return sum(phase.seconds for phase in self.phases)

    def due_s(self) -> list[NDArray[np.float64]]:
        """For each phase, the seconds from the start of the schedule at which its requests are due, in order.

        A phase of constant gaps holds exactly rate x seconds requests; one of Poisson gaps a random number.
        """
        random = np.random.default_rng(self.seed)
        due: list[NDArray[np.float64]] = []
        began = 0.0
        for phase in self.phases:
            if self.gaps == "constant":
                offsets = np.arange(int(phase.per_s * phase.seconds)) / phase.per_s
            else:
                # Six standard deviations more than are expected; those beyond the phase's end are cut off.
                mean = phase.per_s * phase.seconds
                offsets = np.cumsum(random.exponential(1 / phase.per_s, int(mean + 6 * mean**0.5) + 10))
                offsets = offsets[offsets < phase.seconds]
            due.append(began + offsets)
            began += phase.seconds
        return due


def fixed(per_s: float, seconds: float) -> tuple[Phase, ...]:
    """One rate."""
    return (Phase(per_s, seconds, "fixed"),)


def steps(rates: Sequence[float], seconds: float) -> tuple[Phase, ...]:
    """One rate after the other, `seconds` each."""
    return tuple(Phase(rate, seconds, f"step {rate:g}/s") for rate in rates)


def spike(per_s: float, peak_per_s: float, seconds: float) -> tuple[Phase, ...]:
    """A rate, a fifth of the time at the peak, and the rate again, to see how long the peak is felt."""
    return (
        Phase(per_s, 0.4 * seconds, "before"),
        Phase(peak_per_s, 0.2 * seconds, "spike"),
        Phase(per_s, 0.4 * seconds, "after"),
    )


def soak(per_s: float, seconds: float) -> tuple[Phase, ...]:
    """One rate for long, reported in ten equal parts so that a drift is seen."""
    return tuple(Phase(per_s, seconds / 10, f"part {i + 1} of 10") for i in range(10))
