"""Which columns of times say their zone, and which do not, and are read as UTC.

Where both are there, a clock's local times may stand beside true ones. Then an impression may lie hours after the event
of its own click, which is in its history. Whether they are UTC the owner of the files knows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mimn.arrow import pa
from mimn.data.column_values import Place, says_zone

DAY_MS = 86_400_000


class Zones:
    """The first time with a zone and the first without, of all columns that it is shown."""

    def __init__(self) -> None:
        self._first: dict[bool, str] = {}

    def add(self, column: pa.Array, times_ms: NDArray[np.int64], place: Place) -> None:
        """Look at one time of a batch, which stands for all of them. Numbers need no zone, and dates have none.

        Args:
            column: as it is written. [n]
            times_ms: what it was read as, -1 for none. [n]
            place: where it is.
        """
        timed = np.flatnonzero((times_ms >= 0) & (times_ms % DAY_MS != 0))
        if len(timed) and (said := says_zone(column, int(timed[0]))) is not None:
            typed = pa.types.is_timestamp(column.type)
            if said not in self._first:  # a row's name is looked for in the file
                self._first[said] = f"{place} is {column.type}" if typed else place.holds(column, int(timed[0]))

    @property
    def both(self) -> str | None:
        """One of each, if there are both."""
        if len(self._first) < 2:
            return None
        return (
            f"{self._first[False]}, without a zone, which is read as UTC, and {self._first[True]}, with one: if the "
            "first is of another zone, clicks lie hours before or after their impressions"
        )
