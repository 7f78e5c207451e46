"""What is told of the log: by the thread that asks the brokers, and by the one that reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import GroupAuthorizationFailedError, KafkaConnectionError, UnknownTopicOrPartitionError

from localstack.wait import until
from uic.core.ports import (
    Advised,
    Described,
    Fetched,
    LeaderAway,
    LogMessage,
    NotCounted,
    NotDescribed,
    OutOfRange,
    Owned,
    PartitionCount,
    Skipped,
)
from uic.core.records import BatchRecord
from uic.core.trouble import TOPIC, Cause, Trouble
from uic.log import consumer, observer
from uic.log.batch_hook import FetchedBatch
from uic.log.consumer import LogConsumer
from uic.log.observer import LogObserver
from uic.settings import KafkaSettings

ID, OTHER_ID = UUID(int=1), UUID(int=2)
SETTINGS = KafkaSettings(topic="events", partitions=4)


@dataclass(eq=False)
class Brokers:
    """Brokers and an admin client of theirs. The log gets another event with every question."""

    leaders: dict[int, int] = field(default_factory=lambda: {0: 1, 1: 2, 2: 1, 3: 3})
    refusing: set[int] = field(default_factory=set)
    """Leaders that refuse this client."""
    silent: bool = False
    topic_id: UUID = ID
    end: int = 100
    lacks: str = ""
    policy: str = "delete"
    commits_refused: bool = False

    def describe_topics(self, topics: list[str]) -> list[dict[str, Any]]:
        if self.silent:
            raise KafkaConnectionError("refused")
        there = [{"partition_index": p, "leader_id": leader} for p, leader in self.leaders.items()]
        return [
            {
                "name": topic,
                "error_code": UnknownTopicOrPartitionError.errno if topic == self.lacks else 0,
                "topic_id": self.topic_id,
                "partitions": [] if topic == self.lacks else there,
            }
            for topic in topics
        ]

    def describe_topic_partitions(self, topics: list[str], response_partition_limit: int) -> Mapping[str, Any]:
        assert response_partition_limit == 1
        return {"topics": self.describe_topics(topics)}

    def list_partition_offsets(self, specs: Mapping[TopicPartition, int], **_: Any) -> dict[TopicPartition, Any]:
        self.end += 1
        if {self.leaders[tp.partition] for tp in specs} & self.refusing:
            raise KafkaConnectionError("refused")
        return {
            tp: SimpleNamespace(offset=0 if at == OffsetSpec.EARLIEST else self.end) for tp, at in specs.items()
        }  # fmt: skip

    def describe_configs(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"topic": {"events": {"cleanup.policy": {"value": self.policy}}}}

    def alter_group_offsets(self, group: str, offsets: Mapping[Any, Any]) -> dict[Any, Any]:
        if self.commits_refused:
            raise GroupAuthorizationFailedError(group)
        return {}

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def observed(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> Iterator[LogObserver]:
    monkeypatch.setattr(observer, "open_kafka_client", lambda *_, **__: brokers)
    monkeypatch.setattr(observer, "QUIET_S", 0.01)
    monkeypatch.setattr(observer, "LOOK_S", 0.0)
    monkeypatch.setattr(observer, "AGAIN_S", 0.01)
    monkeypatch.setattr(observer, "COMMIT_S", 0.0)
    watching = LogObserver(SETTINGS)
    watching.begin("group")
    try:
        yield watching
    finally:
        watching.leave(10)


def heard(watching: LogObserver, is_it: Callable[[LogMessage], bool]) -> LogMessage:
    """The next message that is the one."""
    while True:
        message = watching.messages.get(timeout=30)
        if is_it(message):
            return message


def next_of(watching: LogObserver, kind: type[LogMessage]) -> Any:
    return heard(watching, lambda message: isinstance(message, kind))


def test_what_is_produced_meanwhile_is_no_open_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    with observed(Brokers(), monkeypatch) as watching:
        watching.describe({0: 7})
        said = next_of(watching, Described)
        assert (said.partition, said.tag, said.bounds.topic_id) == (0, 7, ID.bytes)
        assert said.log_end == said.bounds.end


def test_a_leader_that_refuses_or_is_away_concerns_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    brokers = Brokers(refusing={2})
    brokers.leaders[3] = -1
    with observed(brokers, monkeypatch) as watching:
        for _ in range(2):
            watching.describe({0: 5, 1: 6, 2: 7, 3: 8})
            assert next_of(watching, LeaderAway).tags == (8,)
            assert {next_of(watching, Described).tag for _ in range(2)} == {5, 7}
            assert next_of(watching, NotDescribed).tags == (6,)


def test_every_question_has_an_answer_while_no_broker_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "PATIENCE_S", 0.05)
    brokers = Brokers(silent=True)
    with observed(brokers, monkeypatch) as watching:
        watching.describe({0: 5})
        watching.count_partitions()
        assert next_of(watching, NotDescribed).tags == (5,)
        next_of(watching, NotCounted)
        assert next_of(watching, Trouble).detail
        assert watching.unfit()
        brokers.silent = False
        assert next_of(watching, Trouble).detail == ""
        assert not watching.unfit()
        watching.count_partitions()
        assert next_of(watching, PartitionCount) == PartitionCount(4)


@pytest.mark.parametrize(
    ("attribute", "wrong", "cause", "part", "detail"),
    [
        ("lacks", "events.erased", Cause.ERASURES, TOPIC, "topic events.erased does not exist"),
        ("lacks", "events", Cause.LOG, TOPIC, "topic events does not exist"),
        ("policy", "compact", Cause.COMPACTED, "", "cleanup.policy compact"),
    ],
)
def test_what_is_wrong_with_topics_is_told_once_and_when_it_ends(
    attribute: str, wrong: str, cause: Cause, part: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    brokers = Brokers()
    with observed(brokers, monkeypatch) as watching:
        setattr(brokers, attribute, wrong)
        begun = next_of(watching, Trouble)
        assert (begun.cause, begun.part) == (cause, part)
        assert detail in begun.detail
        setattr(brokers, attribute, "")
        assert next_of(watching, Trouble) == Trouble(cause, "", part)


def test_offsets_that_are_refused_are_committed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "COMMIT_AGAIN_S", 0.0)
    brokers = Brokers(commits_refused=True)
    with observed(brokers, monkeypatch) as watching:
        watching.advise({1: 10})
        refused = next_of(watching, Advised)
        assert (refused.partitions, refused.refused) == ((1,), True)
        brokers.commits_refused = False
        heard(watching, lambda message: message == Advised((1,), None))


class Client:
    """A Kafka consumer of which the test fills in what it has fetched."""

    def __init__(self) -> None:
        self.at: dict[TopicPartition, int] = {}
        self.fetched: list[dict[TopicPartition, list[Any]]] = []
        self.assigned: list[set[int]] = []

    def assign(self, places: list[TopicPartition]) -> None:
        self.at = {tp: self.at.get(tp, -1) for tp in places}
        self.assigned.append({tp.partition for tp in places})

    def seek(self, place: TopicPartition, offset: int) -> None:
        self.at[place] = offset

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        fetched = self.fetched.pop(0) if self.fetched else {}
        return {tp: batches for tp, batches in fetched.items() if tp in self.at}

    def close(self, **_: Any) -> None:
        """Nothing is open."""


@contextmanager
def reading(
    client: Client, brokers: Brokers, monkeypatch: pytest.MonkeyPatch, room: int = 100
) -> Iterator[LogConsumer]:
    opened = {KafkaConsumer: client, KafkaAdminClient: brokers}
    monkeypatch.setattr(consumer, "open_kafka_client", lambda kind, **_: opened[kind])
    monkeypatch.setattr(consumer, "read_batches_with_uic", lambda *_, **__: None)
    reader = LogConsumer(SETTINGS, room, LogObserver(SETTINGS))
    reader.start()
    reader.own(Owned(frozenset({0, 1}), 1.0))
    try:
        yield reader
    finally:
        reader.leave(10)


def told(reader: LogConsumer, messages: int) -> list[LogMessage]:
    found: list[LogMessage] = []
    until(lambda: len(found.__iadd__(reader.messages(0.01))) >= messages, "it is told", within_s=30)
    return [message for message in found if not isinstance(message, Owned)]


def event(offset: int) -> BatchRecord:
    return BatchRecord(offset, 5, b"ann", b"value", ())


PLACE, NEXT = TopicPartition("events", 0), TopicPartition("events", 1)


def test_what_is_no_event_is_told_before_the_events_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    with reading(client, Brokers(), monkeypatch) as reader:
        assert told(reader, 1) == []
        client.fetched.append({PLACE: [FetchedBatch(40, (), 41), FetchedBatch(41, [event(41)], 42)]})
        client.fetched.append({PLACE: [FetchedBatch(42, (), 43)]})
        reader.read(0, 7, 40, ID.bytes)
        first, last = Fetched(0, 7, [event(41)], 42), Fetched(0, 7, (), 43)
        assert told(reader, 4) == [Skipped(0, 7, 40), first, Skipped(0, 7, 42), last]


def test_nothing_of_a_topic_that_was_made_again_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    with reading(client, Brokers(topic_id=OTHER_ID), monkeypatch) as reader:
        assert told(reader, 1) == []
        client.fetched.append({PLACE: [FetchedBatch(40, [event(40)], 41)]})
        reader.read(0, 7, 40, ID.bytes)
        assert told(reader, 1) == [OutOfRange(0, 7)]
        reader.read(0, 8, 0, OTHER_ID.bytes)
        client.fetched.append({PLACE: [FetchedBatch(0, [event(0)], 1)]})
        assert told(reader, 1) == [Fetched(0, 8, [event(0)], 1)]


def test_what_was_fetched_while_no_broker_tells_the_id_is_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    client, brokers = Client(), Brokers(silent=True)
    with reading(client, brokers, monkeypatch) as reader:
        assert told(reader, 1) == []
        reader.read(0, 7, 40, ID.bytes)
        until(lambda: client.at.get(PLACE) == 40, "it is read", within_s=30)
        client.at[PLACE] = 41  # as the client's own position is
        client.fetched.append({PLACE: [FetchedBatch(40, [event(40)], 41)]})
        until(lambda: client.at[PLACE] == 40, "it is sought again", within_s=30)
        brokers.silent = False
        client.fetched.append({PLACE: [FetchedBatch(40, [event(40)], 41)]})
        assert told(reader, 1) == [Fetched(0, 7, [event(40)], 41)]


def test_a_partition_that_fills_the_queue_lets_the_others_read(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    with reading(client, Brokers(), monkeypatch, room=4) as reader:
        assert told(reader, 1) == []
        client.fetched.append({PLACE: [FetchedBatch(0, [event(at) for at in range(3)], 3)]})
        reader.read(1, 8, 0, ID.bytes)
        reader.read(0, 7, 0, ID.bytes)
        assert len(told(reader, 1)) == 1
        until(lambda: client.assigned[-1] == {1}, "it waits", within_s=30)
        reader.took(7, 3)
        until(lambda: client.assigned[-1] == {0, 1}, "it is read again", within_s=30)
        assert client.at[PLACE] == 3
