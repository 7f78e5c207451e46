"""Leader epochs: Kafka gives a partition's leader a number that rises with each election, and writes it on each batch.

A log that lost its tail was written again by a leader of a higher epoch. With the epoch of a record, UIC
asks the brokers where the records of that epoch end now. What lies behind that end is not what was there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from mimn.state import NO_EPOCH

KEPT: Final = 64
"""Elections that are remembered of the records that wait to be folded; an older epoch is forgotten."""


class EpochEnd(NamedTuple):
    """A leader's answer to the question where the records of an epoch end."""

    epoch: int
    """The one that was asked about, or the highest one below it if the log has no record of that one."""
    end: int
    """The offset behind its last record."""


class Epochs:
    """The epochs of records that were fetched."""

    def __init__(self) -> None:
        self._from: deque[tuple[int, int]] = deque(maxlen=KEPT)

    def note(self, batches: Iterable[tuple[int, int]]) -> None:
        """More batches, in order: offset of the first record, and epoch."""
        for first in batches:
            if not self._from or self._from[-1][1] != first[1]:
                self._from.append(first)

    def of(self, offset: int) -> int:
        """The epoch of the record at `offset`; `NO_EPOCH` if it is not known."""
        return next((epoch for first, epoch in reversed(self._from) if first <= offset), NO_EPOCH)
