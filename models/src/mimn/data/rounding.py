"""Times that a log has rounded down: to which units, and from when on their events are certain to have happened.

A click that is logged with the second, the minute or the date in which it happened seems to come before the impression
that caused it. One table may hold the rows of several logs, so it is decided event by event: a time that is a whole
second may be one that was rounded, and its event counts from the end of that second on. A few times are whole by
chance. Where no more are than chance gives, none is taken as rounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
NAMES = {1: "milliseconds", 1000: "seconds", 60_000: "minutes", 3_600_000: "hours", 86_400_000: "days"}
"""Milliseconds of a unit → what whole numbers of it are called; each is a multiple of the one before."""
RARE = 1000
"""Where fewer than one time in so many is whole in a unit, none is taken as rounded to it."""


@dataclass(slots=True)
class WholeTimes:
    """Counts the times of a table that are whole in each unit."""

    counts: dict[int, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    """By unit, in ms: times that are multiples of it."""

    def add(self, times_ms: Ints) -> None:
        """Count some times. [n]"""
        for unit in NAMES:
            times_ms = times_ms[times_ms % unit == 0]
            self.counts[unit] += len(times_ms)

    @property
    def units(self) -> tuple[int, ...]:
        """The units, in ms and rising, that times may be rounded to: in which more than twice as many are whole as by
        chance, and not `RARE` ones.

        By chance one in 60 whole minutes, say, is a whole hour.
        """
        return tuple(
            unit
            for finer, unit in pairwise(NAMES)
            if self.counts[unit] * unit > 2 * self.counts[finer] * finer and self.counts[unit] * RARE >= self.counts[1]
        )

    @property
    def shares(self) -> dict[str, float]:
        """What share of the times is read as rounded to each unit, by the unit's name; the finest first."""
        units = [1, *self.units]
        whole = [*(self.counts[unit] for unit in units), 0]
        shares = {NAMES[unit]: (whole[i] - whole[i + 1]) / whole[0] for i, unit in enumerate(units)}
        return {name: share for name, share in shares.items() if share}


def certain_ms(times_ms: Ints, units: tuple[int, ...]) -> Ints:
    """From when on events are certain to have happened: the end of the coarsest of `units` that their time is whole
    in, or of its millisecond. [n] → [n]"""
    unit = np.ones_like(times_ms)
    for ms in units:
        unit[times_ms % ms == 0] = ms
    return times_ms + unit
