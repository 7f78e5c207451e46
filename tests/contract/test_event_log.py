"""The port `EventLog`: the log in memory and the one on Kafka keep the same promises."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from localstack.topics import Topic, create_topics
from mimn.state import NO_TOPIC_ID, partition_of
from support.fake_event_log import FakeEventLog
from support.uic_running import delete_and_wait
from uic.errors import LogUnavailable, UnsuitableTopic
from uic.log.event_log import EventLog, KafkaLog
from uic.log.producer import NewRecord, Position
from uic.log.topic_reader import LogRecord, read_to_end

N = 4


@dataclass
class Case:
    """A log with one topic of N partitions, and how to see what lies in it."""

    log: EventLog
    topic: str
    read: Callable[[], dict[Position, LogRecord]]


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.servers)])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    if request.param == "memory":
        fake = FakeEventLog({"events": N})

        def stored() -> dict[Position, LogRecord]:
            return {
                Position(p, o): LogRecord("events", p, o, 0, key, value, fake.headers["events", p, o])
                for p, records in enumerate(fake.records["events"])
                for o, (key, value) in enumerate(records)
            }

        yield Case(fake, "events", stored)
        return
    bootstrap: str = request.getfixturevalue("kafka")
    topic: str = request.getfixturevalue("make_topics")(bootstrap, N).events
    client: dict[str, Any] = {"bootstrap_servers": bootstrap}
    log = KafkaLog(client, timeout_s=60, max_request_bytes=1 << 20)
    yield Case(log, topic, lambda: {Position(r.partition, r.offset): r for r in read_to_end(client, topic)})
    log.close()


def record(user: str, value: bytes | None, *headers: tuple[str, bytes]) -> NewRecord:
    return NewRecord(partition_of(user.encode(), N), user.encode(), value, headers)


def test_records_lie_where_the_answer_says_in_their_order(case: Case) -> None:
    sent = [record(f"u{i % 5}", b"%d" % i, ("n", b"%d" % i)) for i in range(40)]
    positions = case.log.append(case.topic, N, sent, 60)
    read = case.read()
    assert len(read) == 40
    for r, position in zip(sent, positions, strict=True):
        found = read[position]
        assert (position.partition, found.key, found.value, found.headers) == (r.partition, r.key, r.value, r.headers)
    for p in range(N):
        offsets = [position.offset for position in positions if position.partition == p]
        assert offsets == sorted(set(offsets))


def test_a_null_value_is_kept_as_null(case: Case) -> None:
    [position] = case.log.append(case.topic, N, [record("u", None)], 60)
    assert case.read()[position].value is None


def test_nothing_to_append_is_nothing(case: Case) -> None:
    assert case.log.append(case.topic, N, [], 60) == []
    assert case.read() == {}


def test_another_partition_count_is_refused_before_anything_is_written(case: Case) -> None:
    with pytest.raises(UnsuitableTopic, match="4 partitions"):
        case.log.append(case.topic, N + 1, [record("u", b"v")], 60)
    assert case.read() == {}


def test_a_topic_has_one_identity(case: Case) -> None:
    identity = case.log.topic_id(case.topic)
    assert len(identity) == 16
    assert case.log.topic_id(case.topic) == identity


def test_a_topics_partitions_are_counted(case: Case) -> None:
    assert case.log.partition_count(case.topic) == N


def test_an_unknown_topic_is_refused_and_not_created(case: Case) -> None:
    for call in (case.log.topic_id, case.log.partition_count):
        with pytest.raises(UnsuitableTopic, match="does not exist"):
            call(f"no-such-{uuid.uuid4().hex[:8]}")


@pytest.mark.servers
def test_a_recreated_topic_has_another_identity(real_kafka: str, make_topics: Callable[..., Any]) -> None:
    topic = make_topics(real_kafka, N).events
    log = KafkaLog({"bootstrap_servers": real_kafka}, timeout_s=60, max_request_bytes=1 << 20)
    before = log.topic_id(topic)
    delete_and_wait(real_kafka, topic)
    create_topics(real_kafka, [Topic(topic, N)])
    after = log.topic_id(topic)
    log.close()
    assert NO_TOPIC_ID not in (before, after)
    assert before != after


def test_no_broker_is_unavailable_within_the_timeout(closed_port: str) -> None:
    log = KafkaLog({"bootstrap_servers": closed_port}, timeout_s=0.5, max_request_bytes=1 << 20)
    for call in (lambda: log.append("t", N, [record("u", b"v")], 0.5), lambda: log.topic_id("t")):
        with pytest.raises(LogUnavailable) as raised:
            call()
        assert raised.value.retriable
    log.close()
