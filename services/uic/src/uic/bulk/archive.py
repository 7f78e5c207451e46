"""The archive of a log: its raw records in Parquet files, so that Kafka need only keep days.

    <root>/<topic id>/archive.json                            topic, N, N before the topic grew, what was begun
    <root>/<topic id>/begun.lock                              empty; locked while that is noted
    <root>/<topic id>/<partition>.lock                        empty; locked by the run that writes the partition
    <root>/<topic id>/<partition>/manifest.json               what of the partition is archived, file by file
    <root>/<topic id>/<partition>/<first>-<last>.parquet      records of these offsets (`partition_log.RECORDS`)

A file covers a range of offsets; ranges are contiguous, and a range may have no record where transactions left
markers. The manifest alone says what counts: a file that it does not name is what a killed job left, or was put there
by hand. Specified in docs/formats/archive.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import msgspec

from mimn.arrow import pa, pq
from uic.bulk.errors import BadArchive, BulkRefused, DamagedFile
from uic.bulk.folder import Folder
from uic.bulk.partition_log import RECORDS
from uic.core.records import BatchRecord

VERSION: Final = 1
GROWN: Final = 2
"""Version of `archive.json` where the topic has grown: older programs, which would lose events of it, refuse it."""
ARCHIVE: Final = "archive.json"
BEGUN_LOCK: Final = "begun.lock"
MANIFEST: Final = "manifest.json"
ROWS_A_GROUP: Final = 1 << 16
NAMED: Final = 5
"""So many partitions or files are named in a message."""


class About(msgspec.Struct, frozen=True, kw_only=True):
    """`archive.json`."""

    version: int = VERSION
    topic: str
    topic_id: str
    partitions: int
    grew_from: int | None = None
    """How many partitions the topic had before it was given more; None if it was not, as far as is known."""
    begun: tuple[int, ...] | None = None
    """Partitions that have a manifest, or had one: a folder of these that does not exist is lost. None: not noted, by
    an earlier version of this program."""


class ArchivedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a partition's manifest."""

    first: int
    last: int
    """Offsets covered, both included."""
    records: int
    bytes: int
    sha256: str
    after_gap: bool = False
    """The offsets before `first` were lost to retention before they were archived, and an operator accepted that."""

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.first:020d}-{self.last:020d}.parquet"


class PartitionManifest(msgspec.Struct, frozen=True, kw_only=True):
    """`manifest.json` of a partition."""

    version: int = VERSION
    topic_id: str
    partition: int
    base: int
    """Where the log began when its first file was written."""
    files: tuple[ArchivedFile, ...] = ()

    @property
    def end(self) -> int:
        """Where archiving goes on."""
        return self.files[-1].last + 1 if self.files else self.base

    @property
    def gap_ends(self) -> list[int]:
        """Where gaps end."""
        return [file.first for file in self.files if file.after_gap]

    @property
    def complete_from(self) -> int:
        """From which offset on no record is missing; above 0, states that are folded from it are partial."""
        return max([self.base, *self.gap_ends])

    @property
    def records(self) -> int:
        """How many records there are."""
        return sum(file.records for file in self.files)


class Archive:
    """One topic's archive."""

    def __init__(self, folder: Folder, about: About) -> None:
        """Use `open_archive` or `begin_archive`."""
        self.folder = folder
        self.about = about
        self.after: Callable[[str], None] = lambda step: None
        """Called after each step of writing."""

    @property
    def topic_id(self) -> bytes:
        """16 bytes."""
        return UUID(self.about.topic_id).bytes

    @property
    def partitions(self) -> int:
        """N: how many the topic had when it was last archived."""
        return self.about.partitions

    def manifest(self, partition: int) -> PartitionManifest | None:
        """What of a partition is archived; None before its first run.

        Raises:
            BadArchive: the manifest is of another topic, partition or version, cannot be read, or is lost: the first
                run writes it before any other file.
        """
        folder = self._of(partition)
        if not folder.exists(MANIFEST):
            if files := folder.names():
                raise BadArchive(
                    f"{folder.url} has {len(files)} files and no {MANIFEST}, which says what they are: restore it from "
                    "the copy that the folder came from, or archive into another folder"
                )
            return None
        try:
            manifest = msgspec.json.decode(folder.read(MANIFEST), type=PartitionManifest)
        except (msgspec.DecodeError, ValueError) as error:
            raise BadArchive(f"{folder.url}/{MANIFEST} cannot be read: {error}") from error
        if manifest.version != VERSION:
            raise BadArchive(
                f"{folder.url}/{MANIFEST} is of version {manifest.version}, and this program knows {VERSION}: use the "
                "version of ctr that wrote it"
            )
        if (manifest.topic_id, manifest.partition) != (self.about.topic_id, partition):
            raise BadArchive(
                f"{folder.url} holds records of topic {manifest.topic_id}, partition {manifest.partition}: "
                "it was copied into another archive; remove it"
            )
        return manifest

    def checked(self, partition: int) -> PartitionManifest:
        """The manifest of a partition whose files are there and cover its range without a hole or an overlap.

        Raises:
            BadArchive: they do not; the message names the file.
        """
        manifest, folder = self.manifest(partition), self._of(partition)
        if manifest is None and self.begun(partition):
            raise BadArchive(self.lost(partition))
        if manifest is None:
            raise BadArchive(f"{folder.url} does not exist: archive all {self.partitions} partitions (ctr archive)")
        end = manifest.base
        for file in manifest.files:
            if file.first < end:
                raise BadArchive(f"{folder.url}/{file.name} begins below {end}, where the file before it ends")
            if file.first > end and not file.after_gap:
                raise BadArchive(f"{folder.url} has a hole: offsets {end} to {file.first - 1} are in no file")
            end = file.last + 1
        there, named = set(folder.names()) - {MANIFEST}, {file.name for file in manifest.files}
        if missing := sorted(named - there):
            raise BadArchive(f"{folder.url} has a hole: {missing[0]} is in the manifest and does not exist")
        if foreign := sorted(there - named):
            raise BadArchive(
                f"{folder.url}/{foreign[0]} is not in the manifest: a doubled or foreign file, or a killed run's; "
                "remove it, or run ctr archive again"
            )
        return manifest

    def add(
        self, manifest: PartitionManifest, records: Sequence[pa.RecordBatch], first: int, last: int
    ) -> PartitionManifest:
        """Write a file that covers `first` to `last`, then the manifest that names it; returns that manifest.

        Raises:
            BadArchive: the manifest is no longer `manifest`: another run has written it.
        """
        file = self._write(manifest.partition, records, first, last, after_gap=first > manifest.end)
        return self._name(manifest, (*manifest.files, file))

    def replace(
        self, manifest: PartitionManifest, old: ArchivedFile, records: Sequence[pa.RecordBatch]
    ) -> PartitionManifest:
        """Write one of the manifest's files again, then the manifest that names it; returns that manifest.

        Raises:
            BadArchive: as `add`.
        """
        new = self._write(manifest.partition, records, old.first, old.last, after_gap=old.after_gap)
        return self._name(manifest, tuple(new if file is old else file for file in manifest.files))

    def _write(
        self, partition: int, records: Sequence[pa.RecordBatch], first: int, last: int, *, after_gap: bool
    ) -> ArchivedFile:
        folder = self._of(partition)
        place = {
            "topic_id": self.about.topic_id,
            "partition": str(partition),
            "first": str(first),
            "last": str(last),
        }
        file = ArchivedFile(
            first=first,
            last=last,
            records=sum(map(len, records)),
            bytes=0,
            sha256="",
            after_gap=after_gap,
        )
        with folder.writing(file.name) as (out, written):
            schema = RECORDS.with_metadata(place)
            with pq.ParquetWriter(pa.PythonFile(out, "w"), schema, compression="zstd") as parquet:
                for some in records:
                    parquet.write_batch(some, row_group_size=ROWS_A_GROUP)
        self.after("file")
        return msgspec.structs.replace(file, bytes=written.bytes, sha256=written.sha256)

    def _name(self, manifest: PartitionManifest, files: tuple[ArchivedFile, ...]) -> PartitionManifest:
        if self.manifest(manifest.partition) != manifest:  # a lock keeps others out only where there are locks
            raise BadArchive(
                f"another run has written {self._of(manifest.partition).url} at the same time: run one at a time, and "
                "run this again once the other has ended"
            )
        manifest = self.put(msgspec.structs.replace(manifest, files=files))
        self.after("manifest")
        return manifest

    def put(self, manifest: PartitionManifest) -> PartitionManifest:
        """Write or replace a partition's manifest."""
        self._of(manifest.partition).write(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
        return manifest

    def begun(self, partition: int) -> bool:
        """Whether a run has begun the partition."""
        if self.about.begun is not None:
            return partition in self.about.begun
        names = self.folder.names()  # each run has locked the partition before it wrote its manifest
        return f"{partition}.lock" in names or str(partition) in names

    def lost(self, partition: int) -> str:
        """That a partition was begun and its folder is gone, and what to do."""
        return (
            f"partition {partition} was archived, and {self._of(partition).url} is gone (a copy or a restore that was "
            "not whole?): take the folder from the copy that the archive came from"
        )

    def note_begun(self, partition: int) -> None:
        """Note that a partition has a manifest. Where there are no locks, of two runs that note a partition each at the
        same moment, one may be lost until that run is repeated."""
        if partition in (self.about.begun or ()):
            return
        with self.folder.locked(BEGUN_LOCK, wait=True):
            self.about = _about(self.folder)  # another run, of other partitions, may have written it
            begun = {p for p in range(self.partitions) if self.begun(p)} | {partition}
            self.about = msgspec.structs.replace(self.about, begun=tuple(sorted(begun)))
            self.folder.write(ARCHIVE, msgspec.json.encode(self.about))

    def damaged(self, manifest: PartitionManifest) -> list[ArchivedFile]:
        """Files of the manifest that do not exist or have another size. Nothing is read of them."""
        sizes = self._of(manifest.partition).sizes()
        return [file for file in manifest.files if sizes.get(file.name) != file.bytes]

    @contextmanager
    def locked(self, partition: int) -> Iterator[None]:
        """Keep other runs from writing a partition, where the folder has locks.

        Raises:
            BulkRefused: another run writes it.
        """
        with self.folder.locked(f"{partition}.lock") as held:
            if not held:
                raise BulkRefused(
                    f"another run writes {self._of(partition).url}: wait until it has ended, and run this again"
                )
            yield

    def tidy(self, partition: int, manifest: PartitionManifest) -> None:
        """Remove what a killed run left: unfinished files, and those that the manifest does not name. For the one job
        that archives this partition."""
        self._of(partition).remove_others({MANIFEST, *(file.name for file in manifest.files)})

    def records(self, manifest: PartitionManifest, rows: int = ROWS_A_GROUP) -> Iterator[pa.RecordBatch]:
        """The partition's records in log order, at most `rows` at a time; no batch spans files.

        Raises:
            DamagedFile, BadArchive: a file is not the one that was written, or not of this partition.
        """
        for file in manifest.files:
            yield from self._open(manifest, file).iter_batches(rows)

    def keys(self, manifest: PartitionManifest) -> Iterator[pa.Array]:
        """The keys of a partition's records."""
        for file in manifest.files:
            for some in self._open(manifest, file).iter_batches(ROWS_A_GROUP, columns=["key"]):
                yield some.column(0)

    def _open(self, manifest: PartitionManifest, file: ArchivedFile) -> pq.ParquetFile:
        folder = self._of(manifest.partition)
        data = folder.read(file.name, file.sha256)
        try:
            found = pq.ParquetFile(pa.BufferReader(data))
        except pa.ArrowException as error:
            raise DamagedFile(f"{folder.url}/{file.name} is not a Parquet file: {error}") from error
        said = {k.decode(): v.decode() for k, v in (found.schema_arrow.metadata or {}).items()}
        want = (self.about.topic_id, str(manifest.partition), str(file.first), str(file.last))
        have = tuple(said.get(name) for name in ("topic_id", "partition", "first", "last"))
        if have != want:
            raise BadArchive(
                f"{folder.url}/{file.name} says that it holds topic {have[0]}, partition {have[1]}, offsets "
                f"{have[2]} to {have[3]}: it belongs elsewhere; take the right copy"
            )
        if not found.schema_arrow.remove_metadata().equals(RECORDS):
            raise BadArchive(f"{folder.url}/{file.name} has other columns than an archive: {found.schema_arrow.names}")
        return found

    def _of(self, partition: int) -> Folder:
        return self.folder.below(str(partition))


def begin_archive(root: Folder, topic: str, topic_id: bytes, partitions: int, folded: int | None = None) -> Archive:
    """The archive of a topic below `root`, made if there is none.

    A topic may have been given more partitions. An archive that was begun before knows it; a new one goes by `folded`.
    A description that cannot be right begins no archive: it would lie beside the topic's own for good.

    Args:
        root: holds archives.
        topic: its name.
        topic_id: 16 bytes.
        partitions: how many the topic has now.
        folded: how many UIC was told that it has; None: nothing was told.

    Raises:
        BadArchive: the archive under this topic id says another topic, or more partitions; or it has partitions and
            does not say of what topic.
        BulkRefused: the topic has no partition, fewer than UIC was told, or no id although it had one when it was
            archived here before.
    """
    if partitions < 1:
        raise BulkRefused(f"topic {topic} has no partitions, as the broker tells it: nothing was archived")
    name = str(UUID(bytes=topic_id))
    folder = root.below(name)
    if folder.exists(ARCHIVE):
        there = open_archive(root, topic_id)
        if there.about.topic != topic or there.partitions > partitions:
            raise BadArchive(
                f"{folder.url} was made for topic {there.about.topic} of {there.partitions} partitions, and the topic "
                f"is {topic} of {partitions}: archive into another folder"
            )
        if there.partitions == partitions:
            return there
        grew_from: int | None = there.about.grew_from or there.partitions
        begun = there.about.begun
    elif folder.names():
        raise BadArchive(
            f"{folder.url} has partitions and no {ARCHIVE}, which says whether the topic has grown: "
            "restore it from the copy that the folder came from, or archive into another folder"
        )
    else:
        _refuse_to_begin(root, topic, topic_id, partitions, folded)
        grew_from = folded if folded is not None and folded < partitions else None
        begun = ()
    version = VERSION if grew_from is None else GROWN
    about = About(version=version, topic=topic, topic_id=name, partitions=partitions, grew_from=grew_from, begun=begun)
    folder.write(ARCHIVE, msgspec.json.encode(about))
    return Archive(folder, about)


def _refuse_to_begin(root: Folder, topic: str, topic_id: bytes, partitions: int, folded: int | None) -> None:
    if folded is not None and folded > partitions:
        raise BulkRefused(
            f"topic {topic} has {partitions} partitions, and UIC_KAFKA__PARTITIONS says {folded}: set the topic's count"
        )
    if any(topic_id):
        return
    for name in root.names():
        if root.below(name).exists(ARCHIVE) and open_archive(root, UUID(name).bytes).about.topic == topic:
            raise BulkRefused(
                f"the broker tells no id of topic {topic}, and {root.url} has its archive under the id {name}: ask a "
                "broker that knows topic ids, or archive into another folder"
            )


def open_archive(root: Folder, topic_id: bytes | None = None) -> Archive:
    """The archive of a topic id below `root`, or of the only topic there is.

    Raises:
        BadArchive: there is none, or more than one to choose from.
    """
    there = [name for name in root.names() if root.below(name).exists(ARCHIVE)]
    wanted = there if topic_id is None else [str(UUID(bytes=topic_id))]
    if len(wanted) != 1 or wanted[0] not in there:
        asked = "no topic id was given" if topic_id is None else f"the topic's id is {wanted[0]}"
        raise BadArchive(f"{root.url} holds archives of {', '.join(there) or 'no topic'}, and {asked}")
    folder = root.below(wanted[0])
    about = _about(folder)
    if about.topic_id != wanted[0] or about.version not in (VERSION, GROWN):
        raise BadArchive(f"{folder.url}/{ARCHIVE} is of topic {about.topic_id}, version {about.version}")
    return Archive(folder, about)


def _about(folder: Folder) -> About:
    try:
        return msgspec.json.decode(folder.read(ARCHIVE), type=About)
    except (msgspec.DecodeError, ValueError) as error:
        raise BadArchive(f"{folder.url}/{ARCHIVE} cannot be read: {error}") from error


PARTIAL = "states that are folded from these are partial"


def incomplete(complete_from: Mapping[int, int], partitions: int, so: str = PARTIAL) -> str:
    """That records are missing, to be told before they are used; empty if none is.

    Args:
        complete_from: by partition, from which offset on none is missing.
        partitions: N.
        so: what that means.
    """
    lacking = {p: offset for p, offset in complete_from.items() if offset > 0}
    if not lacking:
        return ""
    some = [f"{p} is complete from offset {offset} on" for p, offset in list(lacking.items())[:NAMED]]
    more = ", …" if len(lacking) > NAMED else ""
    return (
        f"{len(lacking)} of {partitions} partitions lack records that the log once had ({', '.join(some)}{more}): {so}"
    )


def arrow_of(records: Sequence[BatchRecord]) -> pa.RecordBatch:
    """Records as Arrow, schema `RECORDS`."""
    offsets, timestamps, keys, values, headers = zip(*records, strict=True)
    some = any(headers)
    named = [[{"name": n, "value": v} for n, v in h] if h else None for h in headers] if some else [None] * len(records)
    columns = (offsets, timestamps, keys, values, named)
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, RECORDS, strict=True)], schema=RECORDS
    )
