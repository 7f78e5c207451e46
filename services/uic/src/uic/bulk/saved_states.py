"""States of a namespace in a folder: what a backfill folds before it loads, and what a snapshot is.

    <folder>/<partition>.parquet     user, value: the states as they are stored
    <folder>/<partition>.json        the partition's progress record, and the file's hash
    <folder>/manifest.json           what the states are of, and all partitions: written last, so a folder without it is
                                     not complete

A value that is null belongs to a user who had a state and lost it. Specified in docs/formats/saved-states.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar
from uuid import UUID

import msgspec

from mimn.arrow import pa, pc, pq
from mimn.state import CorruptProgress, Progress, decode_progress, encode_progress
from mimn.state.codec import FLAGS_AT
from uic.bulk.errors import BulkRefused, DamagedFile
from uic.bulk.folder import Folder, Written

VERSION: Final = 1
MANIFEST: Final = "manifest.json"
STATES: Final = pa.schema([pa.field("user", pa.binary(), nullable=False), pa.field("value", pa.binary())])
ROWS_A_GROUP: Final = 4096
T = TypeVar("T")


class SavedPartition(msgspec.Struct, frozen=True, kw_only=True):
    """One partition."""

    partition: int
    progress: str
    """The record, hexadecimal."""
    users: int
    value_bytes: int
    """Of all values."""
    bytes: int
    sha256: str
    partial: int | None = None
    """How many of the states are partial; None: an earlier version of this program did not count them."""
    records: int = 0
    """With a backfill: how many records were folded."""
    outcomes: dict[str, int] = {}
    """With a backfill: what became of the records that are events or erasures, named as in `uic_records_total`."""
    rejected: dict[str, int] = {}
    """With a backfill: records that are no events, by reason."""
    kept: dict[str, int] = {}
    """With a backfill that keeps ledgers: of how many the memory has folded the same events (`complete`), and of how
    many it lacks some (`partial`)."""

    @property
    def decoded(self) -> Progress:
        """The progress record.

        Raises:
            DamagedFile: it cannot be read.
        """
        try:
            return decode_progress(bytes.fromhex(self.progress))
        except (CorruptProgress, ValueError) as error:
            raise DamagedFile(f"partition {self.partition}: the saved progress cannot be read: {error}") from error


class SavedStates(msgspec.Struct, frozen=True, kw_only=True):
    """`manifest.json`."""

    version: int = VERSION
    namespace: str
    fingerprint: str
    prefix: str
    topic: str
    topic_id: str
    n: int
    created_ms: int
    partitions: tuple[SavedPartition, ...]

    @property
    def users(self) -> int:
        """Users of all partitions."""
        return sum(p.users for p in self.partitions)

    @property
    def value_bytes(self) -> int:
        """Bytes of all values."""
        return sum(p.value_bytes for p in self.partitions)

    @property
    def lineages(self) -> str:
        """Lineage and era of each partition, as 8 hexadecimal digits of a hash: another one where UIC started over, or
        an operator accepted a broken log, in between."""
        all_of_them = ((p.decoded.lineage, p.decoded.era) for p in self.partitions)
        return hashlib.sha256(repr(tuple(all_of_them)).encode()).hexdigest()[:8]

    @property
    def folded(self) -> int:
        """Where the log goes on, of all partitions together: of two with the same lineages, that with more was taken
        later."""
        return sum(p.decoded.next_offset for p in self.partitions)

    @property
    def partial(self) -> int:
        """Partitions that lack events of the log: their states may be partial."""
        return sum(p.decoded.complete_from > 0 for p in self.partitions)

    @property
    def lacking(self) -> int:
        """Records of the log below which states may be partial, of all partitions."""
        return sum(p.decoded.complete_from for p in self.partitions)


class PartitionWriter:
    """Writes one partition; see `writing_partition`."""

    def __init__(self, folder: Folder, partition: int, parquet: pq.ParquetWriter, written: Written) -> None:
        self._folder = folder
        self._partition = partition
        self._parquet = parquet
        self._written = written
        self.users = 0
        self.value_bytes = 0
        self.partial = 0

    def add(self, users: Sequence[bytes] | pa.Array, values: Sequence[bytes | None] | pa.Array) -> None:
        """Some users and their states; arrays are of binary."""
        columns = [some if isinstance(some, pa.Array) else pa.array(some, pa.binary()) for some in (users, values)]
        self.users += len(users)
        self.value_bytes += pc.sum(pc.binary_length(columns[1])).as_py() or 0
        for flags in pc.value_counts(pc.binary_slice(columns[1], FLAGS_AT, FLAGS_AT + 1)).to_pylist():
            self.partial += flags["counts"] if flags["values"] and flags["values"][0] & 1 else 0
        self._parquet.write_batch(pa.RecordBatch.from_arrays(columns, schema=STATES), row_group_size=ROWS_A_GROUP)

    def finish(
        self,
        progress: Progress,
        *,
        records: int = 0,
        outcomes: Mapping[str, int] | None = None,
        rejected: Mapping[str, int] | None = None,
        kept: Mapping[str, int] | None = None,
    ) -> SavedPartition:
        """Once the states' file is whole, write what makes it count: progress and hash."""
        saved = SavedPartition(
            partition=self._partition,
            progress=encode_progress(progress).hex(),
            users=self.users,
            value_bytes=self.value_bytes,
            bytes=self._written.bytes,
            sha256=self._written.sha256,
            partial=self.partial,
            records=records,
            outcomes=dict(outcomes or {}),
            rejected=dict(rejected or {}),
            kept=dict(kept or {}),
        )
        self._folder.write(partition_file(self._partition), msgspec.json.format(msgspec.json.encode(saved)))
        return saved


@contextmanager
def writing_partition(folder: Folder, partition: int) -> Iterator[PartitionWriter]:
    """A writer of one partition's states: add them in the body, and call `finish` after it."""
    with folder.writing(states_file(partition)) as (out, written):
        schema = STATES.with_metadata({"partition": str(partition)})
        with pq.ParquetWriter(pa.PythonFile(out, "w"), schema, compression="lz4", use_dictionary=False) as parquet:
            yield PartitionWriter(folder, partition, parquet, written)


def saved_partition(folder: Folder, partition: int) -> SavedPartition | None:
    """What was written for a partition; None if it is not complete."""
    if not folder.exists(partition_file(partition)):
        return None
    return _decoded(folder, partition_file(partition), SavedPartition)


def seal(folder: Folder, manifest: SavedStates) -> None:
    """All partitions are written: the folder counts from now on."""
    folder.write(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))


def read_manifest(folder: Folder) -> SavedStates:
    """The manifest of a complete folder.

    Raises:
        DamagedFile: there is none, or it cannot be read.
        BulkRefused: partitions are missing or doubled.
    """
    manifest = _decoded(folder, MANIFEST, SavedStates)
    if manifest.version != VERSION:
        raise BulkRefused(f"{folder.url} is of version {manifest.version}; this program reads version {VERSION}")
    if [p.partition for p in manifest.partitions] != list(range(manifest.n)):
        raise BulkRefused(f"{folder.url}/{MANIFEST} does not name each of the {manifest.n} partitions once")
    try:
        topic_id = UUID(manifest.topic_id).bytes
    except ValueError as error:
        raise DamagedFile(f"{folder.url}/{MANIFEST}: {manifest.topic_id!r} is no topic id: {error}") from error
    for saved in manifest.partitions:
        progress = saved.decoded
        if progress.partitions != manifest.n or progress.topic_id != topic_id:
            raise BulkRefused(f"{folder.url}: the progress of partition {saved.partition} is of another topic")
    return manifest


def check_files(folder: Folder, partitions: Iterable[SavedPartition]) -> None:
    """Compare the hash of the states' file of each of the partitions.

    Raises:
        DamagedFile: one is missing, or is not what was written.
    """
    for saved in partitions:
        folder.check(states_file(saved.partition), saved.sha256)


def copy_files(folder: Folder, partitions: Iterable[SavedPartition], to: Folder) -> None:
    """Copy the states' files of partitions into another folder, and compare the hash of every file.

    Raises:
        DamagedFile: one is missing, or is not what was written.
    """
    for saved in partitions:
        folder.copy(states_file(saved.partition), saved.sha256, to)


def states_of(
    folder: Folder, saved: SavedPartition, rows: int = ROWS_A_GROUP
) -> Iterator[tuple[list[bytes], list[bytes | None]]]:
    """Users and values of a partition, at most `rows` at a time. Check the hash first."""
    with folder.open(states_file(saved.partition)) as file:
        for batch in pq.ParquetFile(file).iter_batches(rows):
            yield batch.column("user").to_pylist(), batch.column("value").to_pylist()


def refuse_others(there: Mapping[str, object], wanted: Mapping[str, object], fixes: Mapping[str, str]) -> None:
    """Raises BulkRefused at the first fact in which a snapshot is not what is `wanted`, with what to do about it."""
    for what, value in wanted.items():
        if there[what] != value:
            raise BulkRefused(f"the snapshot is of {what} {there[what]}, and not {value}: {fixes[what]}")


def states_file(partition: int) -> str:
    """The name of a partition's states."""
    return f"{partition}.parquet"


def partition_file(partition: int) -> str:
    """The name of a partition's progress and hash."""
    return f"{partition}.json"


def _decoded(folder: Folder, name: str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(folder.read(name), type=kind)
    except (msgspec.DecodeError, ValueError) as error:
        raise DamagedFile(f"{folder.url}/{name} cannot be read: {error}") from error
