"""The event log, for tools that fold records again: read only if it is the one that was folded, as UIC itself decides
that (`uic.core.start_position`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mimn.state import decode_progress
from uic.core.records import BatchRecord
from uic.core.start_position import Begin, Broken, BrokenReason, LogBounds, Mint, start_position
from uic.errors import UnsuitableTopic
from uic.log.partition_reader import PartitionReader


class AnotherLog(Exception):
    """Not the log that was folded, or it cannot be shown to be; the message has UIC's name for that."""

    def __init__(self, reason: BrokenReason) -> None:
        super().__init__(
            f"broken_log: {reason}: the log is not the one that was folded, or cannot be shown to be. Check "
            "UIC_KAFKA__BOOTSTRAP_SERVERS; see docs/runbooks/broken-log.md"
        )


class Span(NamedTuple):
    """Records that were folded, as far as the log still has them."""

    first: int
    """The log has all from here on. The first record may lie higher: no reader is handed the marker of a transaction,
    nor what was written in an aborted one."""
    end: int
    """Where they end; all that lies below was handed out once they are read."""
    records: Iterable[BatchRecord]


class FoldedLog:
    """One topic."""

    def __init__(self, reader: PartitionReader, partitions: int) -> None:
        """Asks for the topic's bounds.

        Raises:
            LogUnavailable: no answer.
            UnsuitableTopic: there is no such topic, or it has another number of partitions.
        """
        self._reader = reader
        self._mint = Mint(partitions, "earliest", lineage=0, writer=0)
        self._bounds = self._ask()

    def check(self, partition: int, stored: bytes) -> Begin:
        """Where UIC would go on after `stored`, a partition's progress record.

        Raises:
            AnotherLog: it would stop.
            LogUnavailable: no answer.
            UnsuitableTopic: as at the beginning.
        """
        begin = start_position(stored, self._bounds[partition], self._mint)
        if isinstance(begin, Broken):  # the log may have grown since it was asked
            self._bounds = self._ask()
            begin = start_position(stored, self._bounds[partition], self._mint)
        if isinstance(begin, Broken):
            raise AnotherLog(begin.reason)
        return begin

    def folded(self, partition: int, stored: bytes, since: int) -> Span:
        """The records that were folded, those below offset `since` left out; with the last one that was folded, if it
        is among them and the log still reaches back to it, compared with its witness.

        Raises, here or while the records are read:
            AnotherLog: as `check`; or there is another record in its place, or none.
            LogUnavailable: no answer; or retention has removed records since it was asked where the log begins.
            UnsuitableTopic: as at the beginning.
        """
        self._bounds = self._ask()
        begin = self.check(partition, stored)
        first, end = max(since, self._bounds[partition].start), decode_progress(stored).next_offset
        unseen = begin.witness is not None and begin.read_from >= since
        return Span(first, end, self._read(partition, first, end, begin, unseen=unseen))

    def _read(self, partition: int, first: int, end: int, begin: Begin, *, unseen: bool) -> Iterator[BatchRecord]:
        for some, _ in self._reader.read(partition, first, end):
            for record in some:
                if unseen and record.offset >= begin.read_from:
                    unseen = False
                    if (reason := begin.contradicted_by(record)) is not None:
                        raise AnotherLog(reason)
                yield record
        if unseen:
            raise AnotherLog(BrokenReason.REMOVED)

    def _ask(self) -> Sequence[LogBounds]:
        bounds = self._reader.bounds()
        if len(bounds.partitions) != self._mint.partitions:
            raise UnsuitableTopic(
                f"topic {bounds.topic} has {len(bounds.partitions)} partitions, the settings say "
                f"{self._mint.partitions}: see docs/runbooks/grown-topic.md"
            )
        return bounds.partitions
