"""Appends history to a topic, each record once, however often the import is killed and started again.

Each import is a run (`uic.log.kafka_repairs.runs`): before it looks at what the topic has, it makes sure that nothing
more of earlier ones comes, and it ends with its first record that fails. So where the topic has a record of a user, it
has all that come before it. What an import of an earlier version has left out is found by its number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from kafka.errors import (
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)

from mimn.state import partition_of
from uic.bulk.erased_history import ErasedHistory
from uic.bulk.errors import BulkRefused
from uic.bulk.history import PLACE, History, HistoryRecord, Place, decode_place, encode_place
from uic.bulk.numbers_there import Numbers, told
from uic.core.records import BatchRecord
from uic.core.same_topic import Identity, has_grown, made_again
from uic.core.topics import erased_topic, import_run
from uic.errors import LogUnavailable
from uic.log.bounded_producer import open_run
from uic.log.erasures import Erasure, KafkaErasures, encode_erasure
from uic.log.kafka_repairs.runs import Overtaken, failure_of_run
from uic.log.partition_reader import PartitionReader, TopicBounds
from uic.log.topic_answers import TO_WRITE
from uic.log.unreachable import described

IN_FLIGHT: Final = 20_000
"""Records that wait for acknowledgment."""
TOO_LARGE: Final = "a record is too large: raise UIC_KAFKA__MAX_REQUEST_BYTES and the topic's max.message.bytes"
REFUSED: Final[Mapping[type[KafkaError], str]] = {
    MessageSizeTooLargeError: TOO_LARGE,
    RecordListTooLargeError: TOO_LARGE,
    InvalidTimestampError: "the topic does not take a record's time: raise its message.timestamp.after.max.ms and "
    "message.timestamp.before.max.ms",
}
"""What is refused in the same way whenever it is tried, and the fix."""


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
    upto: dict[int, int] = field(default_factory=dict)
    """By partition of the topic, where reading goes on."""
    lanes: dict[int, dict[int, int]] = field(default_factory=dict)
    """By partition of the topic, lane → highest number."""
    numbers: dict[int, Numbers] = field(default_factory=dict)
    """By lane, all of them: a record belongs into one partition."""
    cut: set[int] = field(default_factory=set)
    """Partitions of the topic whose first records were removed, as by retention."""
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
        self.numbers.setdefault(place.lane, Numbers()).add(place.number)
        if record.value is None and record.key is not None:
            known_ms = None if record.timestamp < 0 else record.timestamp
            self.brought.add(Brought(partition, record.offset, record.key, known_ms))

    def should_have(self, partition: int, place: Place) -> bool:
        """Whether a record must be there, because a later one of its partition and lane is, and is not. Of a partition
        that was cut this is not known: it may have lost the record, or the erasure for which it was left out."""
        if partition in self.cut or place.number > self.lanes.get(partition, {}).get(place.lane, -1):
            return False
        return place.number not in self.numbers[place.lane]


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
        erasures_known: bool = True,
        after: Callable[[str], None] = lambda step: None,
        progress: Callable[[str, int, str], Callable[[int], None]] = lambda word, total, what: lambda more: None,
    ) -> None:
        """
        Args:
            client: options of the Kafka client.
            bounds: the topic as it is now; its records may have become more by `run`, which looks again.
            erasures: its notes of erased users.
            timeout_s: how long a record may be on its way.
            max_request_bytes: largest record.
            another_source: append to a topic that has imported records of another source.
            bring_back_erased: append also history of users and items that were erased in the topic since.
            erasures_known: whether the source says whom it left out, so that what is missing is a gap.
            after: called after each step: "scan", "record" (one was handed to the client), "send" (all are
                acknowledged), "note".
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
        self._erasures_known = erasures_known
        self._after = after
        self._progress = progress

    def run(self, history: History, reader: PartitionReader) -> Imported:
        """Append what the topic lacks, and wait until all of it is acknowledged.

        Raises:
            BulkRefused: the topic has records of another source, or of this one twice, or lacks some between others;
                another import appends to it; the settings or the topic do not allow a record (`REFUSED`), or it would
                come behind later ones. Those before it were appended. Or the topic was deleted and created again, or
                given more partitions, before all of it was appended.
            LogUnavailable: something was not acknowledged; run it again. Or the notes of erasures cannot be read.
        """
        topic, partitions = self._bounds.topic, range(len(self._bounds.partitions))
        with self._begun(topic, partitions) as producer:
            there, done = self._append(history, reader, producer)
        self._after("send")
        highest = _highest(there.brought)
        if highest:
            with self._begun(erased_topic(topic), {one.partition for one in highest.values()}) as producer:
                self._note(producer, highest)
        self._after("note")
        return done

    @contextmanager
    def _begun(self, topic: str, partitions: Collection[int]) -> Iterator[Any]:
        """A producer to which errors are told in the words of an import. Of earlier imports, nothing more comes there.

        Raises:
            BulkRefused, LogUnavailable: as `run`.
        """
        name, most = import_run(self._bounds.topic), self._max_request_bytes
        producer = open_run(self._client, name, topic, partitions, timeout_s=self._timeout_s, max_request_bytes=most)
        try:
            yield producer
        except KafkaError as error:
            failed = failure_of_run(producer) or error
            for kind, fix in REFUSED.items():
                if isinstance(failed, kind):
                    raise BulkRefused(f"{fix}, and run the import again, which goes on there") from error
            if isinstance(failed, Overtaken):
                raise BulkRefused(self._another()) from error
            may_not = isinstance(failed, TopicAuthorizationFailedError)
            why = described(failed, self._client, topic, TO_WRITE) if may_not else type(failed).__name__
            raise LogUnavailable(
                f"not all records were acknowledged ({why}): run the import again, it goes on behind "
                "the last one that is in the topic"
            ) from error
        finally:
            producer.close(timeout=0)

    def _append(self, history: History, reader: PartitionReader, producer: Any) -> tuple[There, Imported]:
        there = There(history.source)
        self._scan(reader, there)
        self._after("scan")
        seen = there.records + there.others
        self._scan(reader, there)
        if there.records + there.others > seen:
            raise BulkRefused(self._another())
        if there.others and not self._another_source:
            raise BulkRefused(_other_source(self._bounds.topic, there))
        noted = self._erasures.noted(range(len(self._bounds.partitions)), self._bounds.topic_id)
        there.erased.note(noted, {(one.partition, one.offset) for one in there.brought})
        if self._erasures_known:
            self._refuse_gaps(history, there)
        erased = ErasedHistory() if self._bring_back_erased else there.erased
        done = Imported()
        left = history.records - there.records
        went_through = self._progress("went through", left, "records")
        flying: deque[tuple[Any, HistoryRecord]] = deque()
        for record in self._missing(history, there.lanes, erased, done):
            partition = partition_of(record.key, len(self._bounds.partitions))
            place = (PLACE, encode_place(history.source, record.place))
            future = producer.send(
                self._bounds.topic,
                key=record.key,
                value=record.value,
                headers=[*record.headers, place],
                partition=partition,
                timestamp_ms=record.timestamp,
            )
            flying.append((future, record))
            done.records += 1
            went_through(1)
            self._after("record")
            if done.records == IN_FLIGHT:
                # Of two that began at once, the one that comes here last sees what the other has appended.
                self._land(producer, flying, there.brought)
                self._scan(reader, there)
            while len(flying) > IN_FLIGHT:
                self._landed(*flying.popleft(), there.brought)
        self._land(producer, flying, there.brought)
        if done.records < left:
            went_through(left - done.records)  # those that are left out
        if done.records < IN_FLIGHT:
            self._scan(reader, there)
        self._refuse_another_topic(reader.identity())  # once nothing more is appended: all of it went into this one
        return there, done

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

    def _another(self) -> str:
        return f"another import appends to {self._bounds.topic} now: wait until it has ended, and run this again"

    def _scan(self, reader: PartitionReader, there: There) -> None:
        """Read what the topic has got since the last scan; the first one reads all of it. What lies behind an open
        transaction is read, too: records of an earlier run, or of another import, may be there. What that transaction
        itself has written is not there yet, and is not read later: to this run, it comes after the import.

        Raises:
            BulkRefused: records of the source are there twice, or out of order; or it is another topic, or has grown.
            LogUnavailable: no answer.
        """
        now = reader.bounds()
        self._refuse_another_topic(now.identity)
        begins = [max(there.upto.get(partition, 0), log.start) for partition, log in enumerate(now.partitions)]
        read = self._progress("read", sum(now.log_ends) - sum(begins), "offsets")
        for partition, log in enumerate(now.partitions):
            if log.start > 0:
                there.cut.add(partition)
            position = begins[partition]
            for records, reached in reader.read_settled(partition, position, now):
                read(reached - position)
                position = reached
                for record in records:
                    there.add(partition, record)
            there.upto[partition] = now.log_ends[partition]
            there.lanes.setdefault(partition, {})
        if there.doubled:
            raise BulkRefused(
                f"{there.doubled} records of this source are in topic {self._bounds.topic} twice, or behind later "
                "ones: two imports appended them at the same time, or the brokers took the last ones of an import of "
                "an earlier version after it had ended. A fold would count all of them. Import into a new topic, one "
                "import at a time"
            )

    def _refuse_gaps(self, history: History, there: There) -> None:
        """Records that are missing between others cannot be appended, because they would come behind later ones of
        their users. One may be missing if its user or item was erased in the topic before an import came to it.

        Raises:
            BulkRefused: there are such records.
        """
        last: dict[int, int] = {}
        for lanes in there.lanes.values():
            for lane, highest in lanes.items():
                last[lane] = max(highest, last.get(lane, -1))
        if not last:
            return
        belongs = ((partition_of(one.key, len(self._bounds.partitions)), one) for one in history.read_up_to(last))
        gaps = told(
            (partition, *one.place)
            for partition, one in belongs
            if there.should_have(partition, one.place) and not there.erased.covers(one)
        )
        if gaps:
            raise BulkRefused(
                f"topic {self._bounds.topic} lacks {gaps} of this source, and has later ones: an import of an earlier "
                "version went on behind records that the brokers had not taken, or they were removed since, as by "
                "compaction, or left out for an erasure that nothing tells of any more. Behind later ones they would "
                "be out of order: import into a new topic, and retire this one"
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

    def _land(self, producer: Any, flying: deque[tuple[Any, HistoryRecord]], brought: set[Brought]) -> None:
        producer.flush(timeout=self._timeout_s)
        while flying:
            self._landed(*flying.popleft(), brought)

    def _landed(self, future: Any, record: HistoryRecord, brought: set[Brought]) -> None:
        landed = future.get(timeout=self._timeout_s)
        if record.value is None:
            brought.add(Brought(landed.partition, landed.offset, record.key, record.timestamp))

    def _note(self, producer: Any, highest: Mapping[bytes, Brought]) -> None:
        """The notes of erasures that a rebuild of this topic reads, as `EraseUser` writes them, unless there is one as
        high. A lower one would be the only one that compaction leaves.

        Raises:
            LogUnavailable: the notes cannot be read; run it again.
        """
        noted = self._erasures.read(range(len(self._bounds.partitions)), self._bounds.topic_id)
        sent = [
            producer.send(
                erased_topic(self._bounds.topic),
                key=key,
                value=encode_erasure(Erasure(one.partition, one.offset, self._bounds.topic_id)),
                partition=one.partition,
                timestamp_ms=one.time_ms,
            )
            for key, one in highest.items()
            if one.offset > noted[one.partition].get(key, -1)
        ]
        producer.flush(timeout=self._timeout_s)
        for future in sent:
            future.get(timeout=self._timeout_s)


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
