"""What a fold reads and writes in Kafka, in memory: the log of events, the dead letters and the erasures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mimn.state import partition_of
from support.hand_model import WALL_MS, event_value
from uic.core.letters import Letter, to_wire
from uic.core.ports import (
    Advised,
    Described,
    Fetched,
    LogMessage,
    NotCounted,
    NotDescribed,
    OutOfRange,
    Owned,
    PartitionCount,
    Skipped,
)
from uic.core.records import Records
from uic.core.start_position import LogBounds
from uic.core.topics import bring_back
from uic.errors import LogUnavailable, NoLeader

TOPIC = "behavior-events"
MOST_OF_LETTER = 1 << 20
"""Bytes that the dead letters take of one."""


class FakeRecord(NamedTuple):
    """A record of the log."""

    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass
class Partition:
    """One partition of a `FakeTopic`."""

    records: list[FakeRecord] = field(default_factory=list)
    markers: set[int] = field(default_factory=set)
    start: int = 0
    end: int = 0


class FakeTopic:
    """The log itself, shared by the workers that read it."""

    def __init__(self, partitions: int = 1) -> None:
        self.partitions = {p: Partition() for p in range(partitions)}
        self.topic_id = bytes([7]) * 16

    def __len__(self) -> int:
        return len(self.partitions)

    def append(
        self,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        *,
        timestamp: int = WALL_MS,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> int:
        """The new record's offset."""
        log = self.partitions[partition]
        log.records.append(FakeRecord(log.end, key, value, timestamp, headers))
        log.end += 1
        return log.end - 1

    def event(self, user: str, item: int = 1, category: int = 0) -> int:
        """Append an event of `user` to the user's partition."""
        p = partition_of(user.encode(), len(self))
        return self.append(p, user.encode(), event_value(user, item, category))

    def erase(self, user: str) -> int:
        return self.append(partition_of(user.encode(), len(self)), user.encode(), None)

    def marker(self, partition: int) -> None:
        """A transaction marker: uses an offset, is never delivered."""
        log = self.partitions[partition]
        log.markers.add(log.end)
        log.end += 1

    def compact(self, partition: int) -> None:
        """Keep the newest record of each key; nothing moves."""
        log = self.partitions[partition]
        newest = {r.key: r.offset for r in log.records}
        log.records = [r for r in log.records if newest[r.key] == r.offset]

    def delete_before(self, partition: int, offset: int) -> None:
        """Retention."""
        log = self.partitions[partition]
        log.start = offset
        log.records = [r for r in log.records if r.offset >= offset]

    def truncate(self, partition: int, offset: int) -> None:
        """An unclean election: a replica leads that has not got the last records."""
        log = self.partitions[partition]
        log.end = offset
        log.records = [r for r in log.records if r.offset < offset]
        log.markers = {at for at in log.markers if at < offset}

    def grow(self, partitions: int) -> None:
        """The topic is given more partitions; from now on `event` and `erase` go by the new count."""
        self.partitions |= {p: Partition() for p in range(len(self), partitions)}

    def make_anew(self) -> None:
        """The topic is deleted and created again under the same name."""
        for p in self.partitions:
            self.partitions[p] = Partition()
        self.topic_id = bytes([self.topic_id[0] + 1]) * 16


class FakeLog:
    """`Log`: one worker's consumer of a `FakeTopic`. Delivers up to `chunk` records of each partition per call."""

    def __init__(self, topic: FakeTopic, chunk: int = 7, *, columns: bool = False) -> None:
        self.topic = topic
        self.columns = columns
        self.chunk = chunk
        self.away = False
        self.leases_away = False
        """Whether it does not hear of the leases any more."""
        self.now = 0.0
        """Monotonic, in seconds."""
        self.counts = 0
        """How often the topic's partitions were counted."""
        self.no_count = False
        """No broker says how many partitions there are."""
        self.queued: list[LogMessage] = []
        self.reading: dict[int, tuple[int, int]] = {}
        """Partition → (tag, position)."""
        self.topic_ids: dict[int, bytes] = {}
        """Partition → the topic that is read."""
        self.assigned: set[int] = set()
        self.advised: list[dict[int, int]] = []
        self.wall_ms = WALL_MS
        self.outstanding: dict[int, int] = {}
        """Tag → records delivered but not yet taken."""

    def assign(self, *partitions: int) -> None:
        self.assigned |= set(partitions)
        self.queued.append(self.owned())

    def revoke(self, *partitions: int) -> None:
        self.assigned -= set(partitions)
        for p in partitions:
            self.reading.pop(p, None)
        self.queued.append(self.owned())

    def owned(self) -> Owned:
        return Owned(frozenset(self.assigned), self.now, frozenset({"worker"}))

    def messages(self, timeout_s: float) -> list[LogMessage]:
        if not self.away:
            for p, (tag, position) in list(self.reading.items()):
                self._fetch(p, tag, position)
        if self.assigned and not self.leases_away:
            self.queued.append(self.owned())
        found, self.queued = self.queued, []
        return found

    def describe(self, tags: Mapping[int, int]) -> None:
        if self.away:
            self.queued.append(NotDescribed(tuple(tags.values()), "away"))
            return
        for p, tag in tags.items():
            if p in self.assigned:
                log = self.topic.partitions[p]
                bounds = LogBounds(log.start, log.end, self.topic.topic_id)
                self.queued.append(Described(p, tag, bounds, self.wall_ms, log.end))

    def count_partitions(self) -> None:
        self.counts += 1
        lost = self.away or self.no_count
        self.queued.append(NotCounted("away") if lost else PartitionCount(len(self.topic)))

    def read(self, partition: int, tag: int, offset: int, topic_id: bytes) -> None:
        if partition in self.assigned:
            self.reading[partition] = (tag, offset)
            self.topic_ids[partition] = topic_id

    def park(self, partition: int) -> None:
        self.reading.pop(partition, None)

    def took(self, tag: int, records: int) -> None:
        self.outstanding[tag] = self.outstanding.get(tag, 0) - records

    def advise(self, offsets: Mapping[int, int]) -> None:
        self.advised.append(dict(offsets))
        self.queued.append(Advised(tuple(offsets), None))

    def _fetch(self, p: int, tag: int, position: int) -> None:
        log = self.topic.partitions[p]
        another = any(self.topic_ids[p]) and self.topic_ids[p] != self.topic.topic_id
        if another or position < log.start or position > log.end:
            self.park(p)
            self.queued.append(OutOfRange(p, tag))
            return
        if position in log.markers:
            self.queued.append(Skipped(p, tag, position))
        records = [r for r in log.records if r.offset >= position][: self.chunk]
        more = any(r.offset >= position for r in log.records[-1:]) and len(records) == self.chunk
        after = records[-1].offset + 1 if records and more else log.end
        self.reading[p] = (tag, after)
        if after > position:
            self.outstanding[tag] = self.outstanding.get(tag, 0) + len(records)
            self.queued.append(Fetched(p, tag, Records.of(records) if self.columns else records, after))


@dataclass
class FakeDelivery:
    """A `Delivery` that the test completes."""

    letters: tuple[Letter, ...]
    done: bool = False
    error: str | None = None
    cut: int = 0


class FakeDeadLetters:
    """`DeadLetters` in a list."""

    def __init__(self) -> None:
        self.arrived: list[Letter] = []
        self.away = False
        self.slow = False
        """Deliveries stay open until `finish`."""
        self.open: list[FakeDelivery] = []

    def send(self, letters: Sequence[Letter]) -> FakeDelivery:
        delivery = FakeDelivery(tuple(letters))
        self.open.append(delivery)
        if not self.slow:
            self.finish()
        return delivery

    def finish(self) -> None:
        for delivery in self.open:
            delivery.done = True
            delivery.error = "away" if self.away else None
            delivery.cut = sum(not to_wire(letter, MOST_OF_LETTER).whole for letter in delivery.letters)
            if not self.away:
                self.arrived += delivery.letters
        self.open.clear()

    @property
    def reasons(self) -> dict[int, str]:
        """By offset."""
        return {letter.offset: letter.reason.value for letter in self.arrived}


class FakeErasures:
    """`Erasures` in a dictionary."""

    def __init__(self) -> None:
        self.notes: dict[int, dict[bytes, int]] = {}
        self.of_logs_before: dict[bytes, dict[int, dict[bytes, int]]] = {}
        """By topic id, notes of logs before."""
        self.away = False
        self.leaderless: set[int] = set()
        """Partitions that no broker leads."""
        self.asked: list[tuple[int, ...]] = []

    def read(self, partitions: Collection[int], topic_id: bytes) -> Mapping[int, Mapping[bytes, int]]:
        if self.away:
            raise LogUnavailable("away")
        if lost := tuple(sorted(self.leaderless & set(partitions))):
            raise NoLeader(bring_back(lost), lost)
        self.asked.append(tuple(partitions))
        notes = self.of_logs_before.get(topic_id, self.notes)
        return {p: dict(notes.get(p, {})) for p in partitions}
