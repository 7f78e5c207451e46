"""A world for UIC's fold without servers, time or threads: store, log, dead letters, erasures, and a step that
can be computed by hand. The store and the dead letters pass the contract suites of the real ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from mimn.rows.live import compiled_events
from mimn.state import (
    EMPTY_DIGEST,
    Block,
    Keys,
    Progress,
    StateLayout,
    UserState,
    decode_progress,
    decode_state,
    extend_digest,
    partition_of,
    user_hash,
)
from uic.core.commit import ABSENT, Answer, Commit, NoAnswer, Refused, StatesLost, Written
from uic.core.letters import Letter
from uic.core.ports import (
    Advised,
    Assigned,
    Described,
    Fetched,
    LogMessage,
    NotDescribed,
    OutOfRange,
    Ports,
    Revoked,
)
from uic.core.records import Records
from uic.core.start_position import LogBounds
from uic.core.status import PartitionStatus, Phase
from uic.errors import LogUnavailable, NamespaceConflict, StoreUnavailable
from uic.fold.rounds import Model
from uic.fold.stall import StallWatch
from uic.fold.updater import StateUpdater, Topic
from uic.metrics import Metrics
from uic.settings import FoldSettings

TOPIC = "behavior-events"
WALL_MS = 1_700_000_000_000
FINGERPRINT = bytes(range(32))
LAYOUT = StateLayout((Block("sum", (3,)), Block("last", (2,))))
INITIAL = np.array([0.5, 0.0, 0.0, 0.0, 0.0], np.float32)
POISON_ITEM = 666
"""An item whose step gives a non-finite value."""


class FakeRecord(NamedTuple):
    """A record of the log."""

    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: tuple[tuple[str, bytes], ...] = ()


def vectors(
    items: NDArray[np.uint64], categories: NDArray[np.uint64], _actions: NDArray[np.uint8] | None = None
) -> NDArray[np.float32]:
    """[k], [k], [k] → [k, 2]; actions make no difference."""
    out = np.stack([items % np.uint64(97), categories % np.uint64(89)], axis=1).astype(np.float32)
    out[items == POISON_ITEM] = np.nan
    return out


def step(events: NDArray[np.float32], state: NDArray[np.float32]) -> NDArray[np.float32]:
    """Decaying sums, a count, and the last event: order matters, and row b depends only on row b."""
    after = np.empty_like(state)
    after[:, :2] = state[:, :2] * np.float32(0.5) + events
    after[:, 2] = state[:, 2] + np.float32(1)
    after[:, 3:] = events
    return after


class ManySteps:
    """`step`, which folds many events in one call, too."""

    def __call__(self, events: NDArray[np.float32], state: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Step`."""
        return step(events, state)

    def fold(
        self,
        events: NDArray[np.float32],
        depth: NDArray[np.int64],
        states: NDArray[np.float32],
        rows: NDArray[np.int64] | None = None,
    ) -> NDArray[np.bool_] | None:
        """See `FoldsMany`."""
        sound = np.ones(len(events), np.bool_)
        row_of = np.repeat(np.arange(len(depth)) if rows is None else rows, depth)
        for at, row in enumerate(row_of.tolist()):
            after = step(events[at : at + 1], states[row : row + 1])
            sound[at] = np.isfinite(after).all()
            if sound[at]:
                states[row] = after[0]
        return None if sound.all() else sound


def forget(state: NDArray[np.float32], item_id: int) -> None:
    """Takes the item out of the last event, if it is that."""
    state[3] = np.where(state[3] == item_id % 97, 0, state[3])


MODEL = Model(step, vectors, forget, INITIAL, LAYOUT, FINGERPRINT)
COMPILED_MODEL = replace(MODEL, step=ManySteps(), compiled=compiled_events())
"""The same with a step that folds many events in one call; with compiled code, and records in columns, where there is
a C compiler."""


def event_value(user: str, item: int = 1, category: int = 0, event_time: int = WALL_MS, event_id: str = "") -> bytes:
    """A behavior event in protobuf."""
    return BehaviorEvent(
        event_id=event_id, user_id=user, item_id=item, category_id=category, event_time=event_time
    ).SerializeToString()


def users_of(partition: int, partitions: int, n: int, prefix: str = "user") -> list[str]:
    """`n` user ids that belong to a partition."""
    found: list[str] = []
    for i in count():
        if partition_of(f"{prefix}{i}".encode(), partitions) == partition:
            found.append(f"{prefix}{i}")
            if len(found) == n:
                break
    return found


Snapshot = tuple[dict[int, bytes], dict[tuple[int, str], bytes], set[tuple[int, str]]]


class FakeStore:
    """`StateStore` in two dictionaries, and switches for the ways in which a store fails."""

    def __init__(self) -> None:
        self.progress: dict[int, bytes] = {}
        self.states: dict[tuple[int, str], bytes] = {}
        self.bad: dict[int, list[bytes]] = {}
        self.users: set[tuple[int, str]] = set()
        """Users with a state."""
        self.meta: tuple[int, str] | None = None
        self.identity = "00112233aabbccdd"
        self.away = False
        """Every call fails, and nothing is written."""
        self.silent: set[int] = set()
        """As in a cluster one of whose servers is away: partitions for which nothing answers."""
        self.fail_commits: list[Literal["lost request", "lost answer"]] = []
        """What happens to the next commits: not executed, or executed without an answer."""
        self.commits: list[Commit] = []
        """Every commit that was executed, including refused ones."""
        self.forbids: set[Literal["TIME", "UNLINK"]] = set()
        """Commands that our user has no right to."""
        self.reads = 0
        self.connections = 1
        self.clock_ms = WALL_MS

    def time_ms(self) -> int:
        self._ask()
        if "TIME" in self.forbids:
            raise StoreUnavailable("NOPERM", answered=True)
        return self.clock_ms

    def check(self) -> None:
        self._ask()

    def claim_namespace(self, partitions: int, topic: str) -> str:
        self._ask()
        self.meta = self.meta or (partitions, topic)
        if self.meta != (partitions, topic):
            raise NamespaceConflict(f"the namespace belongs to {self.meta}")
        return self.identity

    def read_progress(self, partitions: Collection[int]) -> dict[int, bytes | NoAnswer]:
        self._ask(partitions)
        return {p: NoAnswer("silent") if p in self.silent else self.progress.get(p, ABSENT) for p in partitions}

    def load(self, wanted: Sequence[tuple[int, Sequence[str]]]) -> list[list[bytes | None] | NoAnswer]:
        self._ask([p for p, _ in wanted])
        self.reads += sum(len(users) for _, users in wanted)
        return [
            NoAnswer("silent") if p in self.silent else [self.states.get((p, user)) for user in users]
            for p, users in wanted
        ]

    def commit(self, commits: Sequence[Commit]) -> list[Answer]:
        answers: list[Answer] = []
        for commit in commits:
            failure = self.fail_commits.pop(0) if self.fail_commits else None
            if self.away or commit.partition in self.silent or failure == "lost request":
                answers.append(NoAnswer("away"))
                continue
            if "UNLINK" in self.forbids and commit.begins_lineage:
                answers.append(NoAnswer("NOPERM"))
                continue
            answer = self._execute(commit)
            answers.append(NoAnswer("timeout") if failure == "lost answer" else answer)
        return answers

    def set_aside(self, partition: int, values: Sequence[bytes]) -> None:
        self._ask()
        kept = self.bad.setdefault(partition, [])
        kept[:0] = reversed(values)
        del kept[100:]

    def flush(self) -> None:
        """Everything is deleted."""
        self.progress.clear()
        self.states.clear()
        self.users.clear()
        self.meta = None

    def snapshot(self) -> Snapshot:
        """What is stored. The users listed are not those with a state: a new lineage leaves the states before it."""
        return dict(self.progress), dict(self.states), set(self.users)

    def restore(self, snapshot: Snapshot) -> None:
        """Later writes are lost."""
        self.progress, self.states, self.users = dict(snapshot[0]), dict(snapshot[1]), set(snapshot[2])

    def _execute(self, commit: Commit) -> Answer:
        self.commits.append(commit)
        stored = self.progress.get(commit.partition, ABSENT)
        if stored != commit.expected:
            return Refused(stored)
        created = [user for user, _ in commit.values[: commit.created]]
        lost = [user for user in created if (commit.partition, user) in self.users]
        if lost:
            return StatesLost(tuple(lost))
        if commit.begins_lineage:
            self.users = {(p, user) for p, user in self.users if p != commit.partition}
        self.users |= {(commit.partition, user) for user, _ in commit.values[: commit.created + commit.listed]}
        for user, value in commit.values:
            if value is None:
                self.users.discard((commit.partition, user))
                self.states.pop((commit.partition, user), None)
            else:
                self.states[commit.partition, user] = value
        if commit.erases:
            self.bad.pop(commit.partition, None)
        self.progress[commit.partition] = commit.progress
        return Written()

    def _ask(self, partitions: Collection[int] = ()) -> None:
        if self.away or (partitions and self.silent.issuperset(partitions)):
            raise StoreUnavailable("away")


@dataclass
class FakeDelivery:
    """A `Delivery` that the test completes."""

    letters: tuple[Letter, ...]
    done: bool = False
    error: str | None = None


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
        self.away = False
        self.asked: list[tuple[int, ...]] = []

    def read(self, partitions: Collection[int], topic_id: bytes) -> Mapping[int, Mapping[bytes, int]]:
        if self.away:
            raise LogUnavailable("away")
        self.asked.append(tuple(partitions))
        return {p: dict(self.notes.get(p, {})) for p in partitions}


@dataclass
class Partition:
    """One partition of a `FakeTopic`."""

    records: list[FakeRecord] = field(default_factory=list)
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
        self.partitions[partition].end += 1

    def delete_before(self, partition: int, offset: int) -> None:
        """Retention."""
        log = self.partitions[partition]
        log.start = offset
        log.records = [r for r in log.records if r.offset >= offset]

    def truncate(self, partition: int, offset: int) -> None:
        log = self.partitions[partition]
        log.end = offset
        log.records = [r for r in log.records if r.offset < offset]

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
        self.coordinator_refuses = False
        self.queued: list[LogMessage] = []
        self.reading: dict[int, tuple[int, int]] = {}
        """Partition → (tag, position)."""
        self.assigned: set[int] = set()
        self.advised: list[dict[int, int]] = []
        self.wall_ms = WALL_MS
        self.identity = ""
        """Of the store, as last told."""
        self.outstanding: dict[int, int] = {}
        """Tag → records delivered but not yet taken."""

    def assign(self, *partitions: int) -> None:
        self.assigned |= set(partitions)
        self.queued.append(Assigned(partitions))

    def revoke(self, *partitions: int) -> None:
        self.assigned -= set(partitions)
        for p in partitions:
            self.reading.pop(p, None)
        self.queued.append(Revoked(partitions))

    def messages(self, timeout_s: float) -> list[LogMessage]:
        if not self.away:
            for p, (tag, position) in list(self.reading.items()):
                self._fetch(p, tag, position)
        found, self.queued = self.queued, []
        return found

    def identify(self, store: str) -> None:
        self.identity = store

    def describe(self, tags: Mapping[int, int]) -> None:
        if self.away:
            self.queued.append(NotDescribed(tuple(tags.values()), "away"))
            return
        for p, tag in tags.items():
            if p in self.assigned:
                log = self.topic.partitions[p]
                reading = self.reading.get(p)
                position = reading[1] if reading is not None and reading[0] == tag else None
                bounds = LogBounds(log.start, log.end, self.topic.topic_id)
                self.queued.append(Described(p, tag, bounds, self.wall_ms, position, log.end))

    def read(self, partition: int, tag: int, offset: int) -> None:
        if partition in self.assigned:
            self.reading[partition] = (tag, offset)

    def park(self, partition: int) -> None:
        self.reading.pop(partition, None)

    def took(self, tag: int, records: int) -> None:
        self.outstanding[tag] = self.outstanding.get(tag, 0) - records

    def advise(self, offsets: Mapping[int, int]) -> None:
        self.advised.append(dict(offsets))
        error = "CommitFailedError" if self.coordinator_refuses else None
        self.queued.append(Advised(tuple(offsets), error))

    def _fetch(self, p: int, tag: int, position: int) -> None:
        log = self.topic.partitions[p]
        if position < log.start or position > log.end:
            self.park(p)
            self.queued.append(OutOfRange(p, tag))
            return
        records = [r for r in log.records if r.offset >= position][: self.chunk]
        more = any(r.offset >= position for r in log.records[-1:]) and len(records) == self.chunk
        after = records[-1].offset + 1 if records and more else log.end
        self.reading[p] = (tag, after)
        if records:
            self.outstanding[tag] = self.outstanding.get(tag, 0) + len(records)
            self.queued.append(Fetched(p, tag, Records.of(records) if self.columns else records, after))


class Crashed(BaseException):
    """The process ended at a step; nothing after that step ran."""


class Worker:
    """One UIC process: an updater with its own view of the shared world."""

    def __init__(
        self,
        topic: FakeTopic,
        store: FakeStore,
        *,
        dead_letters: FakeDeadLetters | None = None,
        erasures: FakeErasures | None = None,
        start: Literal["earliest", "latest"] = "earliest",
        chunk: int = 7,
        seed: int = 0,
        model: Model = MODEL,
        partitions: int | None = None,
        stalls: StallWatch | None = None,
        **fold: Any,
    ) -> None:
        self.log = FakeLog(topic, chunk, columns=model.compiled is not None)
        self.store = store
        self.dead_letters = dead_letters or FakeDeadLetters()
        self.erasures = erasures or FakeErasures()
        self.metrics = Metrics()
        self.crash_at = ""
        self.now = 1000.0
        self.ahead_ms = 0
        """How far the worker's clock is ahead of the store's."""
        numbers = random.Random(seed)
        self.updater = StateUpdater(
            topic=Topic(TOPIC, len(topic) if partitions is None else partitions, start),
            model=model,
            ports=Ports(self.log, store, self.dead_letters, self.erasures),
            settings=FoldSettings(**fold),
            metrics=self.metrics,
            random_id=lambda: numbers.getrandbits(64) | 1,
            after=self._after,
            stalls=stalls,
            clock=lambda: 0.0,
        )

    def turn(self, seconds: float = 0.3) -> None:
        """Handle all messages and due work, then advance the clock."""
        self.store.clock_ms = WALL_MS + int(self.now * 1000)
        wall_ms = self.log.wall_ms = self.store.clock_ms + self.ahead_ms
        self.updater.turn(self.log.messages(0), self.now, wall_ms)
        self.now += seconds

    def settle(self, turns: int = 12) -> None:
        """More turns than any test needs, in less time than a read-back takes."""
        for _ in range(turns):
            self.turn(0.21)

    def until(self, condition: Callable[[], object], turns: int = 400) -> None:
        """Turn until the condition holds."""
        for _ in range(turns):
            if condition():
                return
            self.turn()
        raise AssertionError(f"the condition did not hold within {turns} turns; status: {self.updater.status}")

    def drained(self) -> bool:
        """Whether all assigned partitions are folded to the end of the log."""
        return all(
            (progress := self.progress(p)) is not None and progress.next_offset == self.log.topic.partitions[p].end
            for p in self.log.assigned
        )

    def catch_up(self) -> None:
        self.until(self.drained)

    def progress(self, partition: int = 0) -> Progress | None:
        """The stored progress."""
        stored = self.store.progress.get(partition)
        return None if stored is None else decode_progress(stored)

    def partition(self, partition: int = 0) -> PartitionStatus:
        return next(p for p in self.updater.status.partitions if p.partition == partition)

    def phase(self, partition: int = 0) -> Phase:
        return self.partition(partition).phase

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def _after(self, at: str) -> None:
        if at == self.crash_at:
            raise Crashed(at)


def stored_state(store: FakeStore, user: str, partitions: int = 1) -> UserState | None:
    """A user's stored state, with every check applied."""
    value = store.states.get((partition_of(user.encode(), partitions), user))
    return None if value is None else decode_state(value, FINGERPRINT, LAYOUT, user_hash(user))


@dataclass
class Replayed:
    """A state computed from the log, one event at a time."""

    tensors: NDArray[np.float32] = field(default_factory=INITIAL.copy)
    count: int = 0
    digest: bytes = EMPTY_DIGEST
    last_offset: int = -1


def replay(records: Iterable[FakeRecord], partition: int, partitions: int) -> dict[str, Replayed]:
    """Every user's state after `records` of one partition: the definition of correct."""
    states: dict[str, Replayed] = {}
    for record in records:
        absorb(states, record, partition, partitions)
    return states


def absorb(states: dict[str, Replayed], record: FakeRecord, partition: int, partitions: int) -> bool:
    """Fold one more record; False if it is not valid and belongs to the dead letters."""
    key = record.key
    if not key or partition_of(key, partitions) != partition:
        return False
    user = key.decode()
    if record.value is None:
        states.pop(user, None)
        return True
    try:
        event = BehaviorEvent.FromString(record.value)
    except DecodeError:
        return False
    if event.user_id != user or not event.item_id or event.item_id == POISON_ITEM:
        return False
    before = states.get(user, Replayed())
    inputs = vectors(np.array([event.item_id], np.uint64), np.array([event.category_id], np.uint64))
    states[user] = replace(
        before,
        tensors=step(inputs, before.tensors[np.newaxis])[0],
        count=before.count + 1,
        digest=extend_digest(before.digest, record.offset, record.value),
        last_offset=record.offset,
    )
    return True


def assert_exactly_once(store: FakeStore, topic: FakeTopic) -> None:
    """Every user's stored state is the replay of the log, and no other user has a state."""
    expected = {
        (p, user): state
        for p, log in topic.partitions.items()
        for user, state in replay(log.records, p, len(topic)).items()
    }
    assert set(store.states) == set(expected)
    for (p, user), want in expected.items():
        got = decode_state(store.states[p, user], FINGERPRINT, LAYOUT, user_hash(user))
        assert (got.header.event_count, got.header.digest, got.header.last_offset) == (
            want.count,
            want.digest,
            want.last_offset,
        ), user
        np.testing.assert_array_equal(got.tensors, want.tensors)


KEYS = Keys("0011223344556677-0", "test")
