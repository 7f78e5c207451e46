"""States that stay in memory while a log is folded, because nothing is written before its end.

Backfill, Spark's job, and whoever verifies states fold with this. Batches are cut by `ordering` and folded by `fold`,
as a worker does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mimn.state import HEADERS, Progress, partition_of
from uic.core.event import Reason
from uic.core.fold import ERASED_ROW, Part, Round, fold
from uic.core.model import Model
from uic.core.ordering import Batch, Bounds, Waiting, decode, take, take_together

UNBOUNDED: Final = Bounds(1 << 31, 1 << 31, 1 << 31)
"""A batch is all that waits."""
COPIES: Final = 4
"""Of a user's state, at most: its value, and a batch's result as tensors, as a row to be encoded, and encoded."""
OBJECT_BYTES: Final = 2000
"""Of what is no array: the key, and the user's part of a batch."""


class HeldStates:
    """The states of some partitions, as they are stored."""

    def __init__(self, model: Model) -> None:
        """No user has a state yet."""
        self._model = model
        self._values: dict[int, dict[bytes, bytes]] = {}

    def of(self, partition: int) -> dict[bytes, bytes]:
        """By user of a partition, the stored value."""
        return self._values.setdefault(partition, {})

    @property
    def user_bytes(self) -> int:
        """Memory that a user takes, at most."""
        return COPIES * (HEADERS.itemsize + 4 * len(self._model.initial_state)) + OBJECT_BYTES

    def fold(
        self, waiting: Sequence[Waiting], progress: Sequence[Progress], *, lacking: bool = False
    ) -> Sequence[Batch]:
        """Fold all records that wait, and return what they were: a batch of each partition.

        Args:
            waiting: distinct partitions.
            progress: of each, before these records.
            lacking: whether states that begin here lack events, and so are `partial`.

        Raises:
            OutOfOrder: offsets do not rise, or begin below the floor.
        """
        batches = self._batches(waiting, progress)
        while batches:
            parts = [self._part(batch, before, lacking) for batch, before in zip(batches, progress, strict=True)]
            work = fold(self._model, parts)
            if not any(part.not_finite for part in parts):
                self._keep(work, parts)
                break
            batches = [p.batch.without(p.not_finite, Reason.NON_FINITE) if p.not_finite else p.batch for p in parts]
        return batches

    def _batches(self, waiting: Sequence[Waiting], progress: Sequence[Progress]) -> list[Batch]:
        """What the records ask for."""
        if not waiting:
            return []
        model, partitions = self._model, progress[0].partitions
        fronts = [
            front
            or take(
                one.pending,
                floor=one.floor,
                partition=one.partition,
                partitions=partitions,
                known=self.of(one.partition),
                erased=one.erased,
                bounds=UNBOUNDED,
                partition_of=partition_of if model.compiled is None else model.compiled.partition_of,
            )
            for one, front in zip(waiting, take_together(waiting, partitions, UNBOUNDED, model.compiled), strict=True)
        ]
        return decode(fronts, model.actions, model.compiled, text_ids=model.text_ids)

    def _part(self, batch: Batch, progress: Progress, lacking: bool) -> Part:
        suspect = set(range(len(batch.keys))) if lacking else set()
        return Part(batch, progress, list(map(self.of(batch.partition).get, batch.keys)), suspect=suspect)

    def _keep(self, work: Round, parts: Sequence[Part]) -> None:
        """Take over the results of a round."""
        encoded = work.states.encoded
        for part in parts:
            values = self.of(part.batch.partition)
            for key, row in zip(part.batch.keys, part.row_of, strict=True):
                if row == ERASED_ROW:
                    values.pop(key, None)
                elif row >= 0:
                    values[key] = encoded[row]
