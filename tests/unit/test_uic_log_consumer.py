"""What the poll thread tells of the log when it is asked for the log's bounds."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from kafka import TopicPartition
from kafka.admin import OffsetSpec
from kafka.consumer.fetcher import IsolationLevel
from kafka.coordinator.heartbeat import Heartbeat
from kafka.errors import KafkaConnectionError
from kafka.future import Future

from uic.core.epochs import EpochEnd
from uic.core.ports import (
    BrokersSilent,
    DeadLettersAway,
    Described,
    ErasuresAway,
    Fetched,
    LeaderAway,
    LogMessage,
    NotCounted,
    NotDescribed,
    OutOfRange,
    PartitionCount,
    ReadRefused,
    Skipped,
    TopicCompacted,
)
from uic.core.records import BatchRecord
from uic.log import consumer
from uic.log.consumer import LEADER_PAUSE_S, LogConsumer
from uic.log.kafka_repairs import leaders
from uic.log.kafka_repairs.offsets import LeaderAwareFetcher
from uic.log.kafka_repairs.partition_records import FetchedBatch
from uic.settings import KafkaSettings

PLACE = TopicPartition("events", 0)
NO_DEAD_LETTERS = (
    "topic events.dlq does not exist. Create it: kafka-topics.sh --bootstrap-server 127.0.0.1:9092 --create "
    "--topic events.dlq --partitions 4 --config cleanup.policy=delete --config retention.ms=-1"
)


class Leaders(LeaderAwareFetcher):
    """What asks the leaders for offsets."""

    def __init__(self, busy: BusyLog) -> None:
        self.busy = busy
        self._isolation_level = IsolationLevel.READ_COMMITTED

    async def _fetch_offsets_by_times_async(self, timestamps: Any, timeout_ms: int | None = None) -> Any:
        busy = self.busy
        busy.end += 1
        busy.hears.append({busy.leaders[place.partition] for place in timestamps})
        if {busy.leaders[place.partition] for place in timestamps} & busy.refusing:
            raise KafkaConnectionError("refused")
        is_stable = self._isolation_level is IsolationLevel.READ_COMMITTED and busy.open_from is not None
        end = busy.open_from if is_stable else busy.end
        [at] = set(timestamps.values())
        busy.asked.append("beginnings" if at == OffsetSpec.EARLIEST else "ends")
        return {place: SimpleNamespace(offset=0 if at == OffsetSpec.EARLIEST else end) for place in timestamps}


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
        self.policy: str | None = "delete"
        """None: the broker does not tell it."""
        self.count: int | None = 3
        """Partitions of the topic, as the broker tells; None: it does not answer."""
        self.open_from: int | None = None
        """Where a transaction begins that was left open."""
        self._subscription = SimpleNamespace(assignment={})
        self.leaders = {0: 1}
        self.topic_id: UUID | None = None
        self.parked: list[int] = []
        self.refusing: set[int] = set()
        """Leaders that refuse this client."""
        self.hears: list[set[int]] = []
        """The leaders that were asked, by question."""
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

    def cleanup_policy(self) -> str | None:
        return self.policy

    def partition_count(self) -> int:
        if self.count is None:
            raise KafkaConnectionError("away")
        return self.count


def consumer_of(busy: BusyLog) -> tuple[LogConsumer, Any]:
    """The thread, not started, on a client and a broker's view that are both `busy`."""
    log = LogConsumer(KafkaSettings(topic="events", partitions=1), lambda store: "group", 100)
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


def test_where_epochs_end_is_asked_before_where_the_log_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What retention removes between the two would seem to have been folded."""
    busy = BusyLog()

    async def ends(_manager: Any, epochs: dict[Any, int], _timeout_ms: int) -> dict[Any, EpochEnd]:
        busy.asked.append("epochs")
        return {tp: EpochEnd(epoch, 3) for tp, epoch in epochs.items()}

    monkeypatch.setattr(leaders, "ends_of_epochs", ends)
    log, client = consumer_of(busy)
    log.describe({0: 7}, {0: 5})
    log._obey(client)
    (said,) = log.messages(0)
    assert isinstance(said, Described)
    assert (said.bounds.epoch_end, busy.asked[:2]) == (EpochEnd(5, 3), ["epochs", "beginnings"])


def told_of(log: LogConsumer, client: Any, **tags: int) -> list[LogMessage]:
    """What is told when partitions are described; `p1=7` is partition 1 under tag 7."""
    log.describe({int(name[1:]): tag for name, tag in tags.items()})
    log._obey(client)
    return log.messages(0)


def test_partitions_without_a_leader_keep_none_of_the_others_from_being_described() -> None:
    busy = BusyLog()
    busy.leaders = {0: 1, 1: -1, 2: 1, 3: -1}
    log, client = consumer_of(busy)
    away, *others = told_of(log, client, p0=5, p1=6, p2=7, p3=8)
    assert isinstance(away, LeaderAway)
    assert sorted(away.tags) == [6, 8]
    assert [(said.partition, said.tag) for said in others if isinstance(said, Described)] == [(0, 5), (2, 7)]
    busy.leaders[1] = busy.leaders[3] = 2
    assert [type(said) for said in told_of(log, client, p1=6, p3=8)] == [Described, Described]


def test_a_leader_that_refuses_keeps_none_of_the_others_from_being_described() -> None:
    busy = BusyLog()
    busy.leaders, busy.refusing = {0: 1, 1: 2, 2: 1, 3: 3}, {2}
    log, client = consumer_of(busy)
    told = told_of(log, client, p0=5, p1=6, p2=7, p3=8)
    assert sorted(said.tag for said in told if isinstance(said, Described)) == [5, 7, 8]
    assert [said.tags for said in told if isinstance(said, NotDescribed)] == [(6,)]


def test_a_leader_that_gave_no_answer_is_asked_again_after_a_pause_and_a_new_leader_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy, now = BusyLog(), [100.0]
    busy.leaders, busy.refusing = {0: 1, 1: 2}, {2}
    monkeypatch.setattr(consumer, "time", SimpleNamespace(monotonic=lambda: now[0], time_ns=time.time_ns))
    log, client = consumer_of(busy)
    [first] = [said for said in told_of(log, client, p0=5, p1=6) if isinstance(said, NotDescribed)]
    busy.refusing, busy.hears = set(), []
    [again] = [said for said in told_of(log, client, p0=5, p1=6) if isinstance(said, NotDescribed)]
    assert again == first
    assert {2} not in busy.hears
    busy.leaders[1] = 3
    assert {type(said) for said in told_of(log, client, p0=5, p1=6)} == {Described}
    busy.leaders[1] = 2
    now[0] += LEADER_PAUSE_S
    assert {type(said) for said in told_of(log, client, p0=5, p1=6)} == {Described}


def test_a_topic_that_no_leader_knows_for_a_moment_is_no_other_topic() -> None:
    busy = BusyLog()
    busy.leaders, busy.topic_id = {0: 1, 1: 2}, UUID(int=1)
    log, client = consumer_of(busy)
    told_of(log, client, p0=5, p1=6)
    log._read(client, 1, 6, 40)
    busy.topic_id, busy.refusing = None, {1, 2}
    assert {type(said) for said in told_of(log, client, p0=5, p1=6)} == {NotDescribed}
    assert (busy.parked, log._topic_id) == ([], UUID(int=1).bytes)


def test_progress_is_judged_for_what_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = BusyLog()
    busy.leaders, busy.refusing = {0: 1, 1: 2, 2: 3}, {2}
    log, client = consumer_of(busy)
    log._tags = {0: 5, 1: 6, 2: 7}
    monkeypatch.setattr(consumer, "position", lambda *_: 3)
    seen: list[dict[int, int]] = []
    monkeypatch.setattr(log._watchdog.__class__, "progress", lambda _, behind, now: seen.append(behind))
    told_of(log, client, p0=5, p1=6, p2=7)
    assert seen == [{5: 3, 7: 3}]
    told_of(log, client, p1=6)
    assert seen == [{5: 3, 7: 3}], "nothing was learned"


def test_what_is_read_of_a_leader_that_does_not_answer_is_taken_up_again_where_the_topic_was_made_again() -> None:
    busy = BusyLog()
    busy.leaders, busy.topic_id = {0: 1, 1: 2}, UUID(int=1)
    log, client = consumer_of(busy)
    told_of(log, client, p0=5, p1=6)
    log._read(client, 1, 6, 40)
    busy.refusing = {2}
    assert OutOfRange(1, 6) not in told_of(log, client, p0=5, p1=6)
    busy.topic_id = UUID(int=2)
    assert OutOfRange(1, 6) in told_of(log, client, p0=5, p1=6)
    assert busy.parked == [1]


def test_what_is_read_without_a_leader_of_a_topic_that_was_made_again_is_taken_up_again() -> None:
    busy = BusyLog()
    busy.leaders, busy.topic_id = {0: 1, 1: 2}, UUID(int=1)
    log, client = consumer_of(busy)
    told_of(log, client, p0=5, p1=6)
    log._read(client, 1, 6, 40)
    busy.leaders[1] = -1
    assert LeaderAway((6,)) in told_of(log, client, p1=6)
    assert busy.parked == []
    busy.topic_id = UUID(int=2)
    assert OutOfRange(1, 6) in told_of(log, client, p1=6)
    assert busy.parked == [1]


@pytest.mark.parametrize("open_from", [90, 100])
def test_what_lies_behind_an_open_transaction_is_told_apart(open_from: int) -> None:
    busy = BusyLog()
    busy.open_from = open_from
    said = described(busy)
    assert (said.bounds.end, said.log_end > open_from) == (open_from, True)


@pytest.mark.parametrize(
    ("attribute", "wrong", "right", "told"),
    [
        ("lacks", "events.erased", "", [ErasuresAway("does not exist"), ErasuresAway("")]),
        ("lacks", "events.dlq", "", [DeadLettersAway(NO_DEAD_LETTERS), DeadLettersAway("")]),
        ("policy", "compact,delete", "delete", [TopicCompacted("compact,delete"), TopicCompacted("")]),
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


def test_a_policy_that_the_broker_keeps_to_itself_stays_what_it_was_told_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "TOPICS_LOOK_S", 0.0)
    said: list[str] = []
    monkeypatch.setattr(consumer, "say", lambda log, level, event, **fields: said.append(event))
    busy = BusyLog()
    log, _ = consumer_of(busy)
    for policy in ("compact", None, None, "compact", None, "delete"):
        busy.policy = policy
        log._look_at_topics()
    assert log.messages(0) == [TopicCompacted("compact"), TopicCompacted("")]
    silent, again = "the broker does not tell the topic's cleanup.policy", "the broker tells the topic's cleanup.policy"
    assert said == [silent, again, silent, again]


def test_what_lies_in_place_of_an_event_is_told_before_the_events_that_follow() -> None:
    log, client = consumer_of(BusyLog())
    log._tags[0] = 7
    log._backpressure.begin(7)
    event = BatchRecord(41, 5, b"ann", b"value", ())
    log._deliver(client, PLACE, [FetchedBatch(40, (), 3), FetchedBatch(41, [event], 3)])
    assert log.messages(0) == [Skipped(0, 7, 40), Fetched(0, 7, [event], 42, [(41, 3)])]


def test_the_broker_itself_is_asked_how_many_partitions_there_are() -> None:
    busy = BusyLog()
    log, client = consumer_of(busy)
    log.count_partitions()
    log._obey(client)
    busy.count = None
    log.count_partitions()
    log._obey(client)
    counted, away = log.messages(0)
    assert counted == PartitionCount(3)
    assert isinstance(away, NotCounted)


def test_a_count_that_ends_its_consumer_has_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fold thread asks nothing more before it has one."""

    def broken() -> int:
        raise OSError(9, "Bad file descriptor")

    busy = BusyLog()
    log, client = consumer_of(busy)
    monkeypatch.setattr(busy, "partition_count", broken)
    log.count_partitions()
    with pytest.raises(OSError, match="Bad file descriptor"):
        log._obey(client)
    (said,) = log.messages(0)
    assert isinstance(said, NotCounted)
    assert "Bad file descriptor" in said.detail


def test_an_accepted_heartbeat_ends_that_a_worker_is_out_of_its_group_at_once() -> None:
    log, client = consumer_of(BusyLog())
    heartbeat = Heartbeat()
    client._coordinator = SimpleNamespace(heartbeat=heartbeat)
    long_ago = time.monotonic() - 100
    log._silence.answered(long_ago)
    log._silence.unanswered("silent", long_ago + 1)
    assert log._silence.unanswered("silent", long_ago + 99) == BrokersSilent("silent", out_of_group=True)
    log._look_at_heartbeats(client)
    assert log.messages(0) == [], "there was none"
    heartbeat.received_heartbeat()
    log._look_at_heartbeats(client)
    log._look_at_heartbeats(client)
    assert log.messages(0) == [BrokersSilent("")]


def refusing(log: LogConsumer, client: Any, refused: bool | None, patch: pytest.MonkeyPatch) -> list[str]:
    """What is told when the last fetch was refused, or answered, or there was none."""
    patch.setattr(consumer, "fetch_refused", lambda _: refused)
    log._look_at_fetches(client)
    return [message.detail for message in log.messages(0) if isinstance(message, ReadRefused)]


def test_a_topic_that_may_not_be_read_is_told_once_and_taken_back_by_an_answered_fetch_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, client = consumer_of(BusyLog())
    assert refusing(log, client, None, monkeypatch) == []
    assert refusing(log, client, False, monkeypatch) == []
    [said] = refusing(log, client, True, monkeypatch)
    assert said == (
        "topic events is refused: this user needs READ on it (TopicAuthorizationFailedError; see "
        "docs/runbooks/kafka-users.md)"
    )
    assert refusing(log, client, True, monkeypatch) == []
    assert refusing(log, client, None, monkeypatch) == [], "another client has fetched nothing yet"
    assert refusing(log, client, False, monkeypatch) == [""]


def test_a_member_that_has_nothing_to_read_any_more_takes_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    log, client = consumer_of(BusyLog())
    refusing(log, client, True, monkeypatch)
    monkeypatch.setattr(client, "assignment", set)
    assert refusing(log, client, None, monkeypatch) == []
    log._announced = True
    assert refusing(log, client, None, monkeypatch) == [""]


def test_what_lies_ahead_of_a_reader_that_is_refused_is_no_reason_to_join_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = BusyLog()
    log, client = consumer_of(busy)
    log._tags = {0: 7}
    monkeypatch.setattr(consumer, "position", lambda *_: 3)
    seen: list[dict[int, int]] = []
    monkeypatch.setattr(log._watchdog.__class__, "progress", lambda _, behind, now: seen.append(behind))
    for refused in (False, True):
        log._read_refused = refused
        log.describe({0: 7})
        log._obey(client)
    assert seen == [{7: 3}, {}]
