"""The judge: what every user's state must be, computed from the log alone, against what lies in the store.

It asks UIC nothing. `replay` folds the log offline, one event at a time: count, digest, last offset and the ids from
which `tensors` computes the numbers. `compare` holds that against the stored values and against the progress records,
which must cover the whole log (or, in a snapshot that a killed worker left, are believed: the states must then be the
fold of exactly that much of the log).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

import numpy as np
from google.protobuf import json_format
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from numpy.typing import NDArray

from ctr.event.v1.behavior_event_pb2 import ACTION_ERASE_ITEM, BehaviorEvent
from mimn.bundle import Bundle
from mimn.bundle.golden import StepFunction
from mimn.state import (
    EMPTY_DIGEST,
    NO_TOPIC_ID,
    NOTHING_FOLDED,
    Actions,
    CorruptProgress,
    Progress,
    StateError,
    UserState,
    decode_progress,
    decode_state,
    extend_digest,
    user_hash,
    witness,
)


class Logged(NamedTuple):
    """One record of the log."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    json: bool = False


@dataclass
class Log:
    """All that lies in a topic now."""

    records: dict[int, list[Logged]]
    """By partition, in order."""
    ends: dict[int, int]
    """The offset that each partition's next record will get."""
    topic_id: bytes = NO_TOPIC_ID


Place = tuple[int, str]
"""Partition and user id: where a state lies."""
Dead = Collection[tuple[int, int]]
"""(partition, offset) of the records that are no events; whoever produced them knows which they are."""


@dataclass
class Due:
    """What one user's state must say."""

    items: list[int] = field(default_factory=list)
    categories: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    digest: bytes = EMPTY_DIGEST
    partial: bool = False

    def add(self, record: Logged, event: BehaviorEvent, complete_from: int) -> None:
        """The next event; the log has a gap that ends at `complete_from`, 0 if it has none."""
        value = record.value or b""
        last = self.offsets[-1] if self.offsets else 0
        self.partial |= last < complete_from <= record.offset
        self.items.append(event.item_id)
        self.categories.append(event.category_id)
        self.offsets.append(record.offset)
        self.values.append(value)
        self.actions.append(event.action)
        self.times.append(event.event_time)
        self.digest = extend_digest(self.digest, record.offset, value)


def replay(
    records: Mapping[int, Iterable[Logged]],
    *,
    upto: Mapping[int, int] | None = None,
    since: Mapping[int, int] | None = None,
    dead: Dead = frozenset(),
    actions: Actions | None = None,
) -> dict[Place, Due]:
    """Every user's state after the log, or after what of it lies below `upto` (by partition).

    Of the events, only those whose action the bundle folds reach a state; `actions` are the bundle's.
    `since` is where each partition's latest gap ends: a state that goes on behind it may miss events (`partial`).
    """
    due: dict[Place, Due] = {}
    for partition, some in records.items():
        end = None if upto is None else upto.get(partition, 0)
        for record in some:
            if end is not None and record.offset >= end:
                break
            if record.key is None or (partition, record.offset) in dead:
                continue
            place = partition, record.key.decode()
            if record.value is None:
                due.pop(place, None)
                continue
            event = BehaviorEvent()
            if record.json:
                json_format.Parse(record.value, event)
            else:
                event.ParseFromString(record.value)
            if actions is not None and event.action != ACTION_ERASE_ITEM and not actions.folded[event.action]:
                continue
            due.setdefault(place, Due()).add(record, event, 0 if since is None else since.get(partition, 0))
    return due


def tensors(due: Mapping[Place, Due], bundle: Bundle, step: StepFunction) -> dict[Place, NDArray[np.float32]]:
    """Every user's tensors: from the initial state, event by event; the k-th events of all users are one run.

    Counters and a ledger, which no graph writes, are added to as `mimn.state` defines them. The erasure of an item
    runs no step: the bundle says what goes.
    """
    places = sorted(due, key=lambda place: -len(due[place].items))
    states = np.tile(bundle.initial_state, (len(places), 1))
    depths = [len(due[place].items) for place in places]
    width = len(places)
    for k in range(depths[0] if depths else 0):
        while depths[width - 1] <= k:
            width -= 1
        items = np.array([due[place].items[k] for place in places[:width]], np.uint64)
        categories = np.array([due[place].categories[k] for place in places[:width]], np.uint64)
        actions = np.array([due[place].actions[k] for place in places[:width]], np.uint8)
        times = np.array([due[place].times[k] for place in places[:width]], np.int64)
        for row in np.flatnonzero(actions == ACTION_ERASE_ITEM):
            bundle.forget(states[row], int(items[row]))
        behaves = np.flatnonzero(actions != ACTION_ERASE_ITEM)
        items, categories, actions, times = items[behaves], categories[behaves], actions[behaves], times[behaves]
        if not len(behaves):
            continue
        part, rest, ledger = states[behaves], bundle.rest, bundle.ledger
        part[:, rest] = step(bundle.events(items, categories, actions), np.ascontiguousarray(part[:, rest]))
        if bundle.sketch is not None:
            counted = part if ledger is None else part[:, : -ledger.words]
            cells = bundle.sketch.addresses(items, categories)
            bundle.sketch.sketch.add(counted, cells, bundle.sketch.moments(times, actions))
        if ledger is not None:
            ledger.add(part, ledger.keys(items), times)
        states[behaves] = part
    return dict(zip(places, states, strict=True))


@dataclass
class Stored:
    """What lies in the store: raw values."""

    progress: dict[int, bytes]
    states: dict[Place, bytes]


@dataclass
class Findings:
    """How the store differs from the log. Nothing, if all is well."""

    lost: int = 0
    """Events of the log that no state has absorbed."""
    doubled: int = 0
    """Events that a state has absorbed more than once."""
    wrong: list[str] = field(default_factory=list)
    """Each difference in words."""

    def __bool__(self) -> bool:
        return bool(self.wrong)

    def say(self, what: str) -> None:
        """Note a difference."""
        self.wrong.append(what)

    def __str__(self) -> str:
        more = f" and {len(self.wrong) - 5} more" if len(self.wrong) > 5 else ""
        return f"lost {self.lost}, doubled {self.doubled}: " + "; ".join(self.wrong[:5]) + more


class Differs(AssertionError):
    """The store did not become what the log says; `findings` are the judge's, counts included."""

    def __init__(self, when: object, findings: Findings) -> None:
        super().__init__(f"{when}: {findings}")
        self.findings = findings


@dataclass(frozen=True)
class Judge:
    """Compares stores with logs under one bundle."""

    bundle: Bundle
    step: StepFunction
    partitions: int

    def compare(
        self,
        log: Log,
        stored: Stored,
        *,
        snapshot: bool = False,
        dead: Dead = frozenset(),
        since: Mapping[int, int] | None = None,
        rebuilt: bool = False,
    ) -> Findings:
        """How `stored` differs from `log`.

        Args:
            log: the whole topic.
            stored: progress and states.
            snapshot: the partitions need not be folded to the end: states must be the fold up to their progress, and
                states of earlier lineages are as if absent.
            dead: records that must have been left out.
            since: where each partition's latest gap ends.
            rebuilt: a new lineage began from another log: a user of the old log alone keeps the old state, which RTP
                calls stale.
        """
        findings = Findings()
        progress = self._progress(log, stored, snapshot, findings)
        upto = {p: record.next_offset for p, record in progress.items()}
        due = replay(log.records, upto=upto if snapshot else None, since=since, dead=dead, actions=self.bundle.actions)
        numbers = tensors(due, self.bundle, self.step)
        found = self._states(stored, progress, snapshot, rebuilt, findings)
        for place in sorted(due.keys() | found.keys()):
            self._state(place, due.get(place), found.get(place), numbers.get(place), findings)
        return findings

    def _progress(self, log: Log, stored: Stored, snapshot: bool, findings: Findings) -> dict[int, Progress]:
        known = {}
        for p in range(self.partitions):
            value = stored.progress.get(p)
            if value is None:
                if not snapshot:
                    findings.say(f"partition {p} has no progress")
                continue
            try:
                record = known[p] = decode_progress(value)
            except CorruptProgress as error:
                findings.say(f"progress of partition {p}: {error}")
                continue
            end = log.ends.get(p, 0)
            if record.next_offset > end or (not snapshot and record.next_offset != end):
                findings.say(f"progress of partition {p} is at {record.next_offset}, the log ends at {end}")
            if record.partitions != self.partitions or (any(log.topic_id) and record.topic_id != log.topic_id):
                findings.say(f"progress of partition {p} is of another topic")
            if record.last_offset != NOTHING_FOLDED:
                last = next((r for r in reversed(log.records.get(p, [])) if r.offset <= record.last_offset), None)
                if last is not None and (
                    last.offset != record.last_offset or witness(last.key, last.value, last.timestamp) != record.witness
                ):
                    findings.say(f"progress of partition {p} does not carry the witness of offset {record.last_offset}")
        return known

    def _states(
        self, stored: Stored, progress: Mapping[int, Progress], snapshot: bool, rebuilt: bool, findings: Findings
    ) -> dict[Place, UserState]:
        found = {}
        for place, value in stored.states.items():
            partition, user = place
            try:
                state = decode_state(value, self.bundle.fingerprint, self.bundle.layout, user_hash(user))
            except StateError as error:
                findings.say(f"state of {user}: {type(error).__name__}")
                continue
            if partition not in progress:
                if not snapshot:
                    findings.say(f"state of {user} lies in a partition without progress")
                continue
            if state.header.lineage != progress[partition].lineage:
                if not (snapshot or rebuilt):
                    findings.say(f"state of {user} is of another lineage than partition {partition}")
                continue
            found[place] = state
        return found

    def _state(
        self,
        place: Place,
        due: Due | None,
        state: UserState | None,
        numbers: NDArray[np.float32] | None,
        findings: Findings,
    ) -> None:
        user = place[1]
        if due is None:
            findings.doubled += state.header.event_count if state is not None else 0
            findings.say(f"{user} has a state and no events")
            return
        if state is None:
            findings.lost += len(due.items)
            findings.say(f"{user} has {len(due.items)} events and no state")
            return
        header = state.header
        if (header.event_count, header.digest) != (len(due.items), due.digest):
            lost, doubled, what = explain(due, header.event_count, header.digest)
            findings.lost += lost
            findings.doubled += doubled
            findings.say(f"{user}: {header.event_count} events folded of {len(due.items)}: {what}")
        elif header.last_offset != due.offsets[-1] or header.partial != due.partial:
            findings.say(f"{user}: last offset {header.last_offset}, partial {header.partial}")
        elif numbers is None or not self._alike(state.tensors, numbers):
            findings.say(f"{user}: other tensors under the right digest")

    def _alike(self, stored: NDArray[np.float32], numbers: NDArray[np.float32]) -> bool:
        """Whether tensors are those of the log: numbers but for rounding, the words of a ledger to the last bit."""
        end = len(stored) if self.bundle.ledger is None else len(stored) - self.bundle.ledger.words
        return np.allclose(stored[:end], numbers[:end], rtol=1e-5, atol=1e-5) and (
            stored[end:].tobytes() == numbers[end:].tobytes()
        )


def explain(due: Due, count: int, digest: bytes) -> tuple[int, int, str]:
    """(lost, doubled, in words) of a state whose digest is not the log's."""
    events = list(zip(due.offsets, due.values, strict=True))
    n = len(events)
    if count == n - 1 and any(_digest([*events[:i], *events[i + 1 :]]) == digest for i in range(n)):
        return 1, 0, "one was dropped"
    if count == n + 1 and any(_digest([*events[: i + 1], *events[i:]]) == digest for i in range(n)):
        return 0, 1, "one was doubled"
    if count < n and _digest(events[:count]) == digest:
        return n - count, 0, "the last ones are missing"
    if count == n:
        for i in range(n - 1):
            if _digest([*events[:i], events[i + 1], events[i], *events[i + 2 :]]) == digest:
                return 0, 0, "two were folded in the wrong order"
        return 1, 1, "as many, but not the same"
    return max(0, n - count), max(0, count - n), "not the events of the log"


def _digest(events: Sequence[tuple[int, bytes]]) -> bytes:
    digest = EMPTY_DIGEST
    for offset, value in events:
        digest = extend_digest(digest, offset, value)
    return digest


class LogReader:
    """Reads a topic whole, and again what was added since."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        self._topic_id = topic_id(bootstrap, topic)
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap,
            auto_offset_reset="none",
            enable_auto_commit=False,
            reconnect_backoff_max_ms=1000,
            isolation_level="read_committed",
        )
        self._places = [TopicPartition(topic, p) for p in range(partitions)]
        self._consumer.assign(self._places)
        starts = self._consumer.beginning_offsets(self._places)
        self._at = {place.partition: starts[place] for place in self._places}
        for place in self._places:
            self._consumer.seek(place, starts[place])
        self._records: dict[int, list[Logged]] = {place.partition: [] for place in self._places}

    def read(self) -> Log:
        """All records up to the end that the log has now.

        Raises:
            KafkaError: the broker is away.
        """
        ends = {place.partition: end for place, end in self._consumer.end_offsets(self._places).items()}
        while any(self._at[p] < end for p, end in ends.items()):
            for place, records in self._consumer.poll(timeout_ms=200).items():
                for r in records:
                    is_json = any(name == "content-type" for name, _ in r.headers or ())
                    self._records[place.partition].append(Logged(r.offset, r.timestamp, r.key, r.value, is_json))
            for place in self._places:
                self._at[place.partition] = self._consumer.position(place)
        records = {p: [r for r in some if r.offset < ends[p]] for p, some in self._records.items()}
        return Log(records, ends, self._topic_id)

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close(autocommit=False, timeout_ms=1000)


def topic_id(bootstrap: str, topic: str) -> bytes:
    """The topic's id as the broker says it, zeros if it has none."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        found = admin.describe_topics([topic])[0].get("topic_id")
    finally:
        admin.close()
    return UUID(found).bytes if found else NO_TOPIC_ID
