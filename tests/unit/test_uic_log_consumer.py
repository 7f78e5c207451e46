"""What the poll thread tells of the log when it is asked for the log's bounds."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from kafka import TopicPartition
from kafka.admin import OffsetSpec
from kafka.consumer.fetcher import IsolationLevel
from kafka.errors import KafkaConnectionError
from kafka.future import Future

from uic.core.ports import (
    Described,
    ErasuresAway,
    Fetched,
    LogMessage,
    NotCounted,
    NotDescribed,
    OutOfRange,
    Skipped,
    TopicCompacted,
)
from uic.core.records import BatchRecord
from uic.log import consumer
from uic.log.consumer import LogConsumer
from uic.log.kafka_repairs.offsets import LeaderAwareFetcher
from uic.log.kafka_repairs.partition_records import FetchedBatch
from uic.settings import KafkaSettings

PLACE = TopicPartition("events", 0)


class Leaders(LeaderAwareFetcher):
    """What asks the leaders for offsets."""

    def __init__(self, busy: BusyLog) -> None:
        self.busy = busy
        self._isolation_level = IsolationLevel.READ_COMMITTED

    async def _fetch_offsets_by_times_async(self, timestamps: Any, timeout_ms: int | None = None) -> Any:
        busy = self.busy
        busy.end += 1
        if {busy.leaders[place.partition] for place in timestamps} & busy.refusing:
            raise KafkaConnectionError("refused")
        [at] = set(timestamps.values())
        busy.asked.append("beginnings" if at == OffsetSpec.EARLIEST else "ends")
        return {place: SimpleNamespace(offset=0 if at == OffsetSpec.EARLIEST else busy.end) for place in timestamps}


class Loop:
    """Runs what is asked of a leader at once."""

    def call_soon(self, ask: Any, *given: Any) -> Future:
        with pytest.raises(StopIteration) as ended:
            ask(*given).send(None)
        return Future().success(ended.value.value)

    async def wait_for(self, future: Future, _timeout_ms: float) -> Any:
        return future.value


class BusyLog:
    """A consumer and a broker's view of a log that gets another event with every question."""

    def __init__(self) -> None:
        self.end = 100
        self.lacks = ""
        """A topic that the broker does not know."""
        self.policy = "delete"
        self._subscription = SimpleNamespace(assignment={})
        self.leaders = {0: 1}
        self.topic_id: UUID | None = None
        self.parked: list[int] = []
        self.refusing: set[int] = set()
        """Leaders that refuse this client."""
        self.asked: list[str] = []
        self._cluster = SimpleNamespace(
            request_update=lambda: Future().success(True),
            topic_id=lambda topic: self.topic_id,
            leader_for_partition=lambda place: self.leaders[place.partition],
        )
        self._fetcher = Leaders(self)
        self._manager = Loop()
        self._net = SimpleNamespace(run=lambda ask, *given: asyncio.run(ask(*given)))

    def assignment(self) -> set[TopicPartition]:
        return {TopicPartition("events", p) for p in self.leaders}

    def seek(self, place: TopicPartition, offset: int) -> None:
        """To zero: to be parked."""

    def pause(self, place: TopicPartition) -> None:
        self.parked.append(place.partition)

    def resume(self, place: TopicPartition) -> None:
        """To be read."""

    def explained(self) -> AbstractContextManager[None]:
        return nullcontext()

    def topic_trouble(self, topic: str, partitions: int | None = None) -> str:
        return "does not exist" if topic == self.lacks else ""

    def cleanup_policy(self) -> str:
        return self.policy

    def partition_count(self) -> int:
        raise OSError(9, "Bad file descriptor")


def consumer_of(busy: BusyLog) -> tuple[LogConsumer, Any]:
    """The thread, not started, on a client and a broker's view that are both `busy`."""
    log = LogConsumer(KafkaSettings(topic="events", partitions=1), 100, lambda offsets: None)
    client: Any = busy
    log._broker = client
    return log, client


def described(busy: BusyLog) -> Described:
    log, client = consumer_of(busy)
    log.describe({0: 7})
    log._obey(client)
    (said,) = log.messages(0)
    assert isinstance(said, Described)
    return said


def test_what_is_produced_while_a_log_is_described_is_no_open_transaction() -> None:
    said = described(BusyLog())
    assert said.log_end == said.bounds.end


def told_of(log: LogConsumer, client: Any, **tags: int) -> list[LogMessage]:
    """What is told when partitions are described; `p1=7` is partition 1 under tag 7."""
    log.describe({int(name[1:]): tag for name, tag in tags.items()})
    log._obey(client)
    return log.messages(0)


def test_a_leader_that_refuses_keeps_none_of_the_others_from_being_described() -> None:
    busy = BusyLog()
    busy.leaders, busy.refusing = {0: 1, 1: 2, 2: 1, 3: 3}, {2}
    log, client = consumer_of(busy)
    told = told_of(log, client, p0=5, p1=6, p2=7, p3=8)
    assert sorted(said.tag for said in told if isinstance(said, Described)) == [5, 7, 8]
    assert [said.tags for said in told if isinstance(said, NotDescribed)] == [(6,)]


def test_a_topic_that_no_leader_knows_for_a_moment_is_no_other_topic() -> None:
    busy = BusyLog()
    busy.leaders, busy.topic_id = {0: 1, 1: 2}, UUID(int=1)
    log, client = consumer_of(busy)
    told_of(log, client, p0=5, p1=6)
    log._read(client, 1, 6, 40)
    busy.topic_id, busy.refusing = None, {1, 2}
    assert {type(said) for said in told_of(log, client, p0=5, p1=6)} == {NotDescribed}
    assert (busy.parked, log._topic_id) == ([], UUID(int=1).bytes)


@pytest.mark.parametrize("leader", ["refuses", "is away"])
def test_a_topic_made_again_is_noticed_without_a_leader(leader: str) -> None:
    busy = BusyLog()
    busy.leaders, busy.topic_id = {0: 1, 1: 2}, UUID(int=1)
    log, client = consumer_of(busy)
    told_of(log, client, p0=5, p1=6)
    log._read(client, 1, 6, 40)
    if leader == "refuses":
        busy.refusing = {2}
    else:
        busy.leaders[1] = -1
    assert OutOfRange(1, 6) not in told_of(log, client, p0=5, p1=6)
    busy.topic_id = UUID(int=2)
    assert OutOfRange(1, 6) in told_of(log, client, p0=5, p1=6)
    assert busy.parked == [1]


@pytest.mark.parametrize(
    ("attribute", "wrong", "right", "told"),
    [
        ("lacks", "events.erased", "", [ErasuresAway("does not exist"), ErasuresAway("")]),
        ("policy", "compact", "", [TopicCompacted("compact"), TopicCompacted("")]),
    ],
)
def test_what_is_wrong_with_topics_is_told_once_and_when_it_ends(
    attribute: str, wrong: str, right: str, told: list[LogMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "TOPICS_LOOK_S", 0.0)
    busy = BusyLog()
    log, _ = consumer_of(busy)
    log._look_at_topics()
    assert log.messages(0) == []
    setattr(busy, attribute, wrong)
    for _ in range(3):
        log._look_at_topics()
    setattr(busy, attribute, right)
    log._look_at_topics()
    assert log.messages(0) == told


def test_what_lies_in_place_of_an_event_is_told_before_the_events_that_follow() -> None:
    log, client = consumer_of(BusyLog())
    log._tags[0] = 7
    log._backpressure.begin(7)
    event = BatchRecord(41, 5, b"ann", b"value", ())
    log._deliver(client, PLACE, [FetchedBatch(40, ()), FetchedBatch(41, [event])])
    assert log.messages(0) == [Skipped(0, 7, 40), Fetched(0, 7, [event], 42)]


def test_a_count_that_ends_its_consumer_has_an_answer_too() -> None:
    """The fold thread asks nothing more before it has one."""
    log, client = consumer_of(BusyLog())
    log.count_partitions()
    with pytest.raises(OSError, match="Bad file descriptor"):
        log._obey(client)
    (said,) = log.messages(0)
    assert isinstance(said, NotCounted)
