"""From the log into its archive: each partition from where its archive ends to where the log ends now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from uic.bulk.archive import Archive, PartitionManifest, arrow_of
from uic.bulk.errors import BulkRefused
from uic.core.records import BatchRecord
from uic.core.start_position import LogBounds

RECORDS_A_FILE = 500_000


@dataclass(frozen=True, slots=True)
class Archived:
    """What a run did to one partition."""

    partition: int
    records: int
    bytes: int
    end: int


class Log(Protocol):
    """What is archived: `PartitionReader` says how it reads and fails."""

    def read(self, partition: int, start: int, end: int) -> Iterator[tuple[list[BatchRecord], int]]:
        """The records of `start` <= offset < `end`, some at a time, each time with the position reached."""


class Archiver:
    """Copies partitions of one topic."""

    def __init__(
        self,
        archive: Archive,
        log: Log,
        *,
        records_a_file: int = RECORDS_A_FILE,
        accept_gap: bool = False,
    ) -> None:
        """`accept_gap`: go on where the log begins if retention removed what comes next."""
        self._archive = archive
        self._log = log
        self._records_a_file = records_a_file
        self._accept_gap = accept_gap

    def refuse_gaps(self, bounds: Iterable[LogBounds]) -> None:
        """Look at all partitions before anything is read.

        Raises:
            BadArchive: an archive's manifest is lost or of another partition.
            BulkRefused: the log was cut above where a partition's archive ends, or ends below it.
        """
        for partition, now in enumerate(bounds):
            manifest = self._archive.manifest(partition)
            if manifest is None:
                continue
            if now.end < manifest.end:
                raise BulkRefused(
                    f"partition {partition} is archived up to {manifest.end}, and the log ends at {now.end}: the log "
                    "was truncated; see docs/runbooks/broken-log.md"
                )
            if now.start > manifest.end and not self._accept_gap:
                raise BulkRefused(
                    f"partition {partition} is archived up to {manifest.end}, and the log begins at {now.start}: "
                    "retention removed what lies between. With --accept-gap the archive says so and goes on; states "
                    "that are folded from it will be partial"
                )

    def run(self, partition: int, bounds: LogBounds) -> Archived:
        """Archive one partition up to `bounds.end`. What is written stays written, however the run ends."""
        archive = self._archive
        manifest = archive.manifest(partition)
        if manifest is None:
            about = archive.about
            manifest = archive.put(PartitionManifest(topic_id=about.topic_id, partition=partition, base=bounds.start))
        archive.tidy(partition, manifest)
        known = len(manifest.files)
        first = max(manifest.end, bounds.start)
        waiting: list[BatchRecord] = []
        position = first
        for records, reached in self._log.read(partition, first, bounds.end):
            waiting += records
            position = reached
            while len(waiting) >= self._records_a_file:
                some, waiting = waiting[: self._records_a_file], waiting[self._records_a_file :]
                manifest = self._write(manifest, some, first, waiting[0].offset if waiting else position)
                first = manifest.end
        if position > first:
            manifest = self._write(manifest, waiting, first, position)
        new = manifest.files[known:]
        return Archived(partition, sum(f.records for f in new), sum(f.bytes for f in new), manifest.end)

    def _write(
        self, manifest: PartitionManifest, records: list[BatchRecord], first: int, position: int
    ) -> PartitionManifest:
        return self._archive.add(manifest, [arrow_of(records)] if records else [], first, position - 1)
