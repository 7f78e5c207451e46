"""Appends history to a topic, each record once, however often the import is killed and started again.

Each import is a run (`uic.log.transactions`): when it begins, nothing more of earlier ones comes. Then it looks at what
the topic has, and appends the rest in the source's order, one transaction after the other. So where the topic has a
record of a user, it has all that come before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

from kafka.errors import (
    InvalidRecordError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from mimn.state import partition_of
from uic.bulk.erased_history import ErasedHistory
from uic.bulk.errors import BulkRefused
from uic.bulk.history import PLACE, History, HistoryRecord, decode_place, encode_place
from uic.core.records import BatchRecord
from uic.core.same_topic import Identity, has_grown, made_again
from uic.core.topics import erased_topic, import_run
from uic.errors import LogUnavailable
from uic.log.erasures import Erasure, KafkaErasures, encode_erasure
from uic.log.partition_reader import PartitionReader, TopicBounds
from uic.log.producer import NewRecord, Position
from uic.log.topic_answers import TO_WRITE
from uic.log.transactions import Overtaken, Run, open_run
from uic.log.unreachable import described

TRANSACTION: Final = 10_000
"""Records that are appended together."""
TOO_LARGE: Final = "a record is too large: raise UIC_KAFKA__MAX_REQUEST_BYTES and the topic's max.message.bytes"
WRONG_TIME: Final = (
    "the topic does not take a record's time: raise its message.timestamp.after.max.ms and "
    "message.timestamp.before.max.ms"
)
REFUSED: Final[Mapping[type[KafkaError], str]] = {
    MessageSizeTooLargeError: TOO_LARGE,
    RecordListTooLargeError: TOO_LARGE,
    InvalidTimestampError: WRONG_TIME,
    InvalidRecordError: WRONG_TIME,
}
"""What is refused in the same way whenever it is tried, and the fix. The library calls records invalid if the time of
several in a batch is refused."""


class Brought(NamedTuple):
    """An erasure that the import has brought, in the topic."""

    partition: int
    offset: int
    key: bytes
    time_ms: int | None
    """When the user was erased: the record's timestamp; None if it has none."""


@dataclass(slots=True)
class Imported:
    """What a run did."""

    records: int = 0
    already_there: int = 0
    erased: int = 0
    """Left out: their user or item was erased in the topic since."""


@dataclass(slots=True)
class There:
    """What of a source the topic has, and what was erased in the topic otherwise, as far as it was read."""

    source: str
    lanes: dict[int, dict[int, int]] = field(default_factory=dict)
    """By partition of the topic, lane → highest number."""
    brought: set[Brought] = field(default_factory=set)
    """Erasures of the source."""
    erased: ErasedHistory = field(default_factory=ErasedHistory)
    records: int = 0
    """Of the source."""
    doubled: int = 0
    """Of the source, and not above the highest number before them, so twice or out of order: numbers rise within a
    partition and lane."""
    others: int = 0
    """Imported records of other sources."""

    def add(self, partition: int, record: BatchRecord) -> None:
        """Take note of the topic's next record of a partition."""
        header = next((value for name, value in record.headers if name == PLACE and value is not None), None)
        found = None if header is None else decode_place(header)
        if found is None or found[0] != self.source:
            self.others += found is not None
            self.erased.see(record)
            return
        _, place = found
        lanes = self.lanes.setdefault(partition, {})
        highest = lanes.get(place.lane, -1)
        self.records += 1
        self.doubled += place.number <= highest
        lanes[place.lane] = max(place.number, highest)
        if record.value is None and record.key is not None:
            known_ms = None if record.timestamp < 0 else record.timestamp
            self.brought.add(Brought(partition, record.offset, record.key, known_ms))


class Importer:
    """Appends to one topic."""

    def __init__(
        self,
        client: Mapping[str, Any],
        bounds: TopicBounds,
        erasures: KafkaErasures,
        *,
        timeout_s: float,
        max_request_bytes: int,
        another_source: bool = False,
        bring_back_erased: bool = False,
        after: Callable[[str], None] = lambda step: None,
        progress: Callable[[str, int, str], Callable[[int], None]] = lambda word, total, what: lambda more: None,
    ) -> None:
        """
        Args:
            client: options of the Kafka client.
            bounds: the topic as it is now; its records may have become more by `run`, which looks again.
            erasures: its notes of erased users.
            timeout_s: how long a transaction may be open.
            max_request_bytes: largest record.
            another_source: append to a topic that has imported records of another source.
            bring_back_erased: append also history of users and items that were erased in the topic since.
            after: called after each step: "scan", "record" (one was handed to the client), "commit" (of a transaction),
                "send" (all are in the topic), "note".
            progress: called with "read" and a total of "offsets", or "went through" and a total of "records"; what it
                returns is called with how many more are, now and then.
        """
        self._client = client
        self._bounds = bounds
        self._erasures = erasures
        self._timeout_s = timeout_s
        self._max_request_bytes = max_request_bytes
        self._another_source = another_source
        self._bring_back_erased = bring_back_erased
        self._after = after
        self._progress = progress

    def run(self, history: History, reader: PartitionReader) -> Imported:
        """Append what the topic lacks.

        Raises:
            BulkRefused: the topic has records of another source, or of this one twice; another import has begun since;
                the settings or the topic do not allow a record (`REFUSED`), or it would come behind later ones. Those
                of earlier transactions were appended. Or the topic was deleted and created again, or given more
                partitions, before all of it was appended.
            LogUnavailable: a transaction was not committed in time; run it again. Or the notes of erasures cannot be
                read.
        """
        name, most = import_run(self._bounds.topic), self._max_request_bytes
        with closing(open_run(self._client, name, timeout_s=self._timeout_s, max_request_bytes=most)) as run:
            there, done = self._append(history, reader, run)
            self._after("send")
            self._note(run, _highest(there.brought))
        self._after("note")
        return done

    def _append(self, history: History, reader: PartitionReader, run: Run) -> tuple[There, Imported]:
        topic = self._bounds.topic
        there = There(history.source)
        self._scan(reader, there)
        self._after("scan")
        if there.others and not self._another_source:
            raise BulkRefused(_other_source(topic, there))
        noted = self._erasures.noted(range(len(self._bounds.partitions)), self._bounds.topic_id)
        there.erased.note(noted, {(one.partition, one.offset) for one in there.brought})
        erased = ErasedHistory() if self._bring_back_erased else there.erased
        done = Imported()
        left = history.records - there.records
        went_through = self._progress("went through", left, "records")
        missing = self._missing(history, there.lanes, erased, done)
        while records := list(islice(missing, TRANSACTION)):
            landed = self._commit(run, topic, self._handed_over(history.source, records))
            erasures = ((one, at) for one, at in zip(records, landed, strict=True) if one.value is None)
            there.brought.update(Brought(at.partition, at.offset, one.key, one.timestamp) for one, at in erasures)
            done.records += len(records)
            went_through(len(records))
            self._after("commit")
        if done.records < left:
            went_through(left - done.records)  # those that are left out
        self._refuse_another_topic(reader.identity())  # once nothing more is appended: all of it went into this one
        return there, done

    def _handed_over(self, source: str, records: Iterable[HistoryRecord]) -> Iterator[NewRecord]:
        """The records as they are appended: with their place, in their key's partition."""
        for one in records:
            headers = (*one.headers, (PLACE, encode_place(source, one.place)))
            partition = partition_of(one.key, len(self._bounds.partitions))
            yield NewRecord(partition, one.key, one.value, headers, one.timestamp)
            self._after("record")

    def _commit(self, run: Run, topic: str, records: Iterable[NewRecord]) -> list[Position]:
        """Append records in one transaction.

        Raises:
            BulkRefused, LogUnavailable: as `run`.
        """
        try:
            return run.append(topic, records)
        except KafkaError as error:
            for kind, fix in REFUSED.items():
                if isinstance(error, kind):
                    raise BulkRefused(f"{fix}, and run the import again, which goes on there") from error
            if isinstance(error, Overtaken):
                raise BulkRefused(f"{error.args[0]}: wait until no other import runs, and run this again") from error
            why = described(error, self._client, topic, TO_WRITE)
            raise LogUnavailable(f"{why}: run the import again, which goes on behind what is in the topic") from error

    def _refuse_another_topic(self, now: Identity) -> None:
        """
        Raises:
            BulkRefused: the topic is not, or no longer as large as, the one with which the import began.
        """
        begun = self._bounds.identity
        if made_again(begun, now):
            raise BulkRefused(
                f"topic {begun.topic} was deleted and created again while it was imported into: what was appended "
                "before that is gone, and later records may be in the new one. Delete it, create it, and run this "
                "again, before producers begin. If it has their events by now, import into another new topic"
            )
        if has_grown(begun, now):
            raise BulkRefused(
                f"topic {begun.topic} was given more partitions while it was imported into: it has {now.partitions}, "
                f"and what was appended lies where the number of before, {begun.partitions}, says. If it has nothing "
                "but this import, delete it, create it with the number that you want, set UIC_KAFKA__PARTITIONS to "
                "that, and run this again; else see docs/runbooks/grown-topic.md"
            )

    def _scan(self, reader: PartitionReader, there: There) -> None:
        """Read what the topic has.

        Raises:
            BulkRefused: records of the source are there twice, or out of order; or it is another topic, or has grown.
            LogUnavailable: no answer, or another producer's transaction is open, behind which earlier runs may lie.
        """
        now = reader.bounds()
        self._refuse_another_topic(now.identity)
        read = self._progress("read", sum(now.log_ends) - sum(log.start for log in now.partitions), "offsets")
        for partition, log in enumerate(now.partitions):
            position = log.start
            for records, reached in reader.read(partition, position, now.log_ends[partition]):
                read(reached - position)
                position = reached
                for record in records:
                    there.add(partition, record)
            there.lanes.setdefault(partition, {})
        if there.doubled:
            raise BulkRefused(
                f"{there.doubled} records of this source are in topic {self._bounds.topic} twice, or behind later "
                "ones, and a fold would count all of them: import into a new topic"
            )

    def _missing(
        self, history: History, there: Mapping[int, Mapping[int, int]], erased: ErasedHistory, done: Imported
    ) -> Iterator[HistoryRecord]:
        """The records that the topic does not have yet, and whose user or item was not erased there since.

        Whatever of a lane lies below what every partition has is not even read.

        Raises:
            BulkRefused: a record is missing that must lie before others that are there.
        """
        lanes = {lane for some in there.values() for lane in some}
        everywhere = {lane: min(some.get(lane, -1) for some in there.values()) for lane in lanes}
        first = history.first_lanes
        too_late = {partition for partition, some in there.items() if any(lane not in first for lane in some)}
        for record in history.read(everywhere):
            partition = partition_of(record.key, len(self._bounds.partitions))
            if record.place.number <= there[partition].get(record.place.lane, -1):
                done.already_there += 1
                continue
            if erased.covers(record):
                done.erased += 1
                continue
            if partition in too_late and record.place.lane in first:
                raise BulkRefused(
                    f"topic {self._bounds.topic} has later records of this archive, and lacks some that come before "
                    "them: it was imported before the archived topic had grown, or producers wrote by the old number "
                    "of partitions after that. So that users' order is kept, import the archive into another new topic"
                )
            yield record

    def _note(self, run: Run, highest: Mapping[bytes, Brought]) -> None:
        """The notes of erasures that a rebuild of this topic reads, as `EraseUser` writes them, unless there is one as
        high. A lower one would be the only one that compaction leaves.

        Raises:
            BulkRefused, LogUnavailable: as `run`.
        """
        if not highest:
            return
        noted = self._erasures.read(range(len(self._bounds.partitions)), self._bounds.topic_id)
        topic, topic_id = erased_topic(self._bounds.topic), self._bounds.topic_id
        notes = [
            NewRecord(one.partition, key, encode_erasure(Erasure(one.partition, one.offset, topic_id)), (), one.time_ms)
            for key, one in highest.items()
            if one.offset > noted[one.partition].get(key, -1)
        ]
        for first in range(0, len(notes), TRANSACTION):
            self._commit(run, topic, notes[first : first + TRANSACTION])


def _highest(brought: Iterable[Brought]) -> dict[bytes, Brought]:
    """Of each user the last erasure."""
    highest: dict[bytes, Brought] = {}
    for one in brought:
        if one.key not in highest or one.offset > highest[one.key].offset:
            highest[one.key] = one
    return highest


def _other_source(topic: str, there: There) -> str:
    return (
        f"topic {topic} has {there.others} imported records of another source. If that is the same history, and its "
        "description, files or archive were changed since, every event would be there twice: import only what is new, "
        "as files of its own, with --another-source, or all of it into a new topic. An import that was interrupted "
        "goes on with what it began with. If it is another history, go on with --another-source"
    )
