"""From the log into its archive: each partition from where its archive ends to where the log ends now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from uic.bulk.archive import Archive, PartitionManifest, arrow_of
from uic.bulk.errors import BadArchive, BulkRefused
from uic.core.records import BatchRecord
from uic.core.same_topic import Identity, made_again
from uic.core.start_position import LogBounds

RECORDS_A_FILE = 500_000
BYTES_A_FILE = 64 << 20
"""Of keys, values and headers: what a run holds in memory is some times as much, however large records are."""


@dataclass(frozen=True, slots=True)
class Archived:
    """What a run did to one partition."""

    partition: int
    records: int
    bytes: int
    end: int


class Log(Protocol):
    """What is archived: `PartitionReader` says how it reads and fails."""

    def identity(self) -> Identity:
        """Which topic there is now."""

    def start(self, partition: int) -> int:
        """Where the partition begins now."""

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
        bytes_a_file: int = BYTES_A_FILE,
        accept_gap: bool = False,
        replace_damaged: bool = False,
    ) -> None:
        """
        Args:
            archive: to write.
            log: to read.
            records_a_file: the most.
            bytes_a_file: the most of keys, values and headers, unless one record alone has more.
            accept_gap: go on where the log begins if retention removed what comes next, or if a partition's folder is
                gone and retention removed what it had.
            replace_damaged: read files that are missing or cut short from the log again.
        """
        self._archive = archive
        self._log = log
        self._records_a_file = records_a_file
        self._bytes_a_file = bytes_a_file
        self._accept_gap = accept_gap
        self._replace_damaged = replace_damaged

    def refuse(self, bounds: Iterable[LogBounds]) -> None:
        """Look at all partitions before anything is written.

        Raises:
            BadArchive: a manifest is lost or of another partition, or files are not what it says; or a partition's
                folder is gone, and the log no longer has all that it had.
            BulkRefused: the log was cut above where a partition's archive ends, or ends below it.
        """
        damaged: list[str] = []
        for partition, now in enumerate(bounds):
            manifest = self._archive.manifest(partition)
            if manifest is None:
                self._refuse_lost(partition, now.start)
            if manifest is None or not manifest.files:
                continue
            if now.end < manifest.end:
                raise BulkRefused(
                    f"partition {partition} is archived up to {manifest.end}, and the log ends at {now.end}: the log "
                    "was truncated; see docs/runbooks/broken-log.md"
                )
            self._refuse_gap(manifest, now.start)
            damaged += [
                f"{partition}/{file.name}"
                for file in self._archive.damaged(manifest)
                if not self._replace_damaged or file.first < now.start
            ]
        if damaged:
            raise BadArchive(
                f"{len(damaged)} files of {self._archive.folder.url} are missing or cut short: {', '.join(damaged[:5])}"
                f"{', …' if len(damaged) > 5 else ''}. Take them from a copy. Those that the log still has are "
                "archived again with --replace-damaged. What has neither is lost: archive into another folder"
            )

    def _refuse_lost(self, partition: int, start: int) -> None:
        if start > 0 and self._archive.begun(partition) and not self._accept_gap:
            raise BadArchive(
                f"{self._archive.lost(partition)}. With --accept-gap the partition is archived again from offset "
                f"{start}, where the log begins; states that are folded from it will be partial"
            )

    def _refuse_gap(self, manifest: PartitionManifest, start: int) -> None:
        if start > manifest.end and not self._accept_gap:
            raise BulkRefused(
                f"partition {manifest.partition} is archived up to {manifest.end}, and the log begins at {start}: "
                "retention removed what lies between. With --accept-gap the archive says so and goes on; states "
                "that are folded from it will be partial"
            )

    def left(self, partition: int, now: LogBounds) -> int:
        """How many offsets of a partition are still to be archived."""
        manifest = self._archive.manifest(partition)
        return now.end - max(now.start, 0 if manifest is None else manifest.end)

    def run(self, partition: int, end: int, done: Callable[[int], None] = lambda offsets: None) -> Archived:
        """Archive one partition up to offset `end`. What is written stays written, however the run ends. `done` is
        called with how many more offsets were read, now and then.

        Raises:
            BulkRefused: another run writes the partition; or retention has removed records since `refuse`; or the topic
                was deleted and created again.
            BadArchive: another run has written it meanwhile, where there are no locks; or as `refuse`.
        """
        with self._archive.locked(partition):
            return self._run(partition, end, done)

    def _run(self, partition: int, end: int, done: Callable[[int], None]) -> Archived:
        archive = self._archive
        start = self._log.start(partition)  # partitions before this one may have taken hours
        self._refuse_another_topic()
        manifest = archive.manifest(partition)
        if manifest is None:
            self._refuse_lost(partition, start)
        if manifest is None or not manifest.files:
            empty = PartitionManifest(topic_id=archive.about.topic_id, partition=partition, base=start)
            manifest = empty if manifest == empty else archive.put(empty)
        archive.note_begun(partition)
        self._refuse_gap(manifest, start)
        if self._replace_damaged:
            manifest = self._replaced(manifest)
        archive.tidy(partition, manifest)
        known = len(manifest.files)
        first = position = max(manifest.end, start)
        waiting: list[BatchRecord] = []
        size = 0
        for records, reached in self._log.read(partition, first, end):
            for record in records:
                more = _bytes_of(record)
                if waiting and (len(waiting) == self._records_a_file or size + more > self._bytes_a_file):
                    manifest = self._write(manifest, waiting, first, record.offset)
                    first, waiting, size = manifest.end, [], 0
                waiting.append(record)
                size += more
            done(reached - position)
            position = reached
        if position > first:
            manifest = self._write(manifest, waiting, first, position)
        new = manifest.files[known:]
        return Archived(partition, sum(f.records for f in new), sum(f.bytes for f in new), manifest.end)

    def _replaced(self, manifest: PartitionManifest) -> PartitionManifest:
        """With every damaged file read from the log again."""
        for file in self._archive.damaged(manifest):
            read = self._log.read(manifest.partition, file.first, file.last + 1)
            records = [record for some, _ in read for record in some]
            if len(records) != file.records:
                raise BadArchive(
                    f"{file.name} of partition {manifest.partition} had {file.records} records, and the log has "
                    f"{len(records)} there (compaction?): take the file from a copy, or archive into another folder"
                )
            self._refuse_another_topic()
            manifest = self._archive.replace(manifest, file, [arrow_of(records)] if records else [])
        return manifest

    def _write(
        self, manifest: PartitionManifest, records: list[BatchRecord], first: int, position: int
    ) -> PartitionManifest:
        self._refuse_another_topic()
        return self._archive.add(manifest, [arrow_of(records)] if records else [], first, position - 1)

    def _refuse_another_topic(self) -> None:
        """What was read until now may be of a topic that was created under the name meanwhile: no offset tells it.

        Raises:
            BulkRefused: it may be.
        """
        about = self._archive.about
        begun = Identity(about.topic, self._archive.topic_id, about.partitions)
        if made_again(begun, self._log.identity()):
            raise BulkRefused(
                f"topic {about.topic} was deleted and created again while it was archived. {self._archive.folder.url} "
                "holds the old one as far as it was read before that, and nothing of the new one. Run this again: the "
                "new topic gets an archive of its own"
            )


def _bytes_of(record: BatchRecord) -> int:
    return (
        len(record.key or b"")
        + len(record.value or b"")
        + sum(len(name) + len(value or b"") for name, value in record.headers)
    )
