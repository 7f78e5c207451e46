"""One suite for every `DeadLetters`: the fake that the protocol is tested with, and a real topic."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from conftest import MakeTopics
from localstack.topics import Topic, create_topics, delete_topics
from localstack.wait import until
from support import fake_topics
from uic.core.event import Reason
from uic.core.letters import OFFSET, REASON, VALUE_BYTES, Letter
from uic.core.ports import DeadLetters, Delivery
from uic.log.dead_letter_topic import DeadLetterProducer
from uic.log.topic_reader import LogRecord, read_to_end


def letter(offset: int, value: bytes | None = b"v", key: bytes | None = b"ann") -> Letter:
    return Letter(Reason.MALFORMED_JSON, "t", 3, offset, 5, key, value, (("content-type", b"application/json"),))


@dataclass
class Subject:
    """Dead letters under test, and a look at what arrived: (offset, key, value) of each letter."""

    letters: DeadLetters
    arrived: Callable[[], list[tuple[int, bytes | None, bytes | None]]]
    away: DeadLetters

    def deliver(self, letters: Sequence[Letter]) -> Delivery:
        return finished(self.letters.send(letters))


def finished(delivery: Delivery) -> Delivery:
    until(lambda: delivery.done, "the delivery is finished", within_s=60)
    return delivery


def read_letters(bootstrap: str, topic: str) -> list[LogRecord]:
    return list(read_to_end({"bootstrap_servers": [bootstrap]}, topic))


@pytest.fixture(params=["fake", pytest.param("kafka", marks=pytest.mark.servers)])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    if request.param == "fake":
        fake, away = fake_topics.FakeDeadLetters(), fake_topics.FakeDeadLetters()
        away.away = True
        yield Subject(fake, lambda: [(x.offset, x.key, x.value) for x in fake.arrived], away)
        return
    bootstrap: str = request.getfixturevalue("kafka")
    make_topics: MakeTopics = request.getfixturevalue("make_topics")
    topic = make_topics(bootstrap, partitions=1).dlq
    producer = DeadLetterProducer({"bootstrap_servers": [bootstrap]}, topic, max_bytes=1 << 20)
    nowhere = DeadLetterProducer(
        {"bootstrap_servers": [request.getfixturevalue("closed_port")]}, topic, max_bytes=1 << 20, timeout_s=0.5
    )
    producer.start()
    nowhere.start()

    def arrived() -> list[tuple[int, bytes | None, bytes | None]]:
        return [(int(dict(r.headers)[OFFSET] or b""), r.key, r.value) for r in read_letters(bootstrap, topic)]

    yield Subject(producer, arrived, nowhere)
    producer.close()
    nowhere.close()
    producer.join(5)
    nowhere.join(5)


def test_letters_arrive_in_order_with_the_record_as_it_was(subject: Subject) -> None:
    assert subject.deliver([letter(1), letter(2, None), letter(3, b"\xff\x00", b"\xfe")]).error is None
    assert subject.deliver([letter(4)]).error is None
    assert subject.arrived() == [(1, b"ann", b"v"), (2, b"ann", None), (3, b"\xfe", b"\xff\x00"), (4, b"ann", b"v")]


def test_no_letters_are_delivered_at_once(subject: Subject) -> None:
    assert subject.deliver([]).error is None


def test_a_topic_that_is_away_is_an_error_and_not_an_exception(subject: Subject) -> None:
    assert finished(subject.away.send([letter(1)])).error
    assert finished(subject.away.send([letter(1)])).error


# What only a real topic has


@pytest.mark.servers
def test_a_topic_that_does_not_exist_is_named_with_the_command_that_creates_it(real_kafka: str) -> None:
    # The embedded broker creates a topic that is asked for.
    name = f"absent-{uuid.uuid4().hex[:10]}.dlq"
    producer = DeadLetterProducer({"bootstrap_servers": [real_kafka]}, name, max_bytes=1 << 20, timeout_s=5.0)
    producer.start()
    error = finished(producer.send([letter(1)])).error
    producer.close()
    assert error is not None
    command = f"kafka-topics.sh --bootstrap-server {real_kafka} --create --topic {name} "
    assert error.startswith(f"topic {name} does not exist. Create it: {command}")


@pytest.mark.servers
def test_a_record_of_two_mebibytes_is_cut_to_what_the_producer_sends(kafka: str, make_topics: MakeTopics) -> None:
    topic = make_topics(kafka, partitions=1).dlq
    producer = DeadLetterProducer({"bootstrap_servers": [kafka]}, topic, max_bytes=1 << 20)
    producer.start()
    value = b"x" * (2 << 20)
    assert finished(producer.send([letter(1), letter(2, value), letter(3)])).error is None
    producer.close()
    records = read_letters(kafka, topic)
    assert [int(dict(r.headers)[OFFSET] or b"") for r in records] == [1, 2, 3]
    cut = records[1]
    assert cut.value is not None
    assert (1 << 19) < len(cut.value) < (1 << 20)
    assert dict(cut.headers)[VALUE_BYTES] == str(2 << 20).encode()


@pytest.mark.servers
def test_a_topic_that_takes_less_gets_less(real_kafka: str) -> None:
    """The small broker of the wheel does not know max.message.bytes."""
    name = f"small-{uuid.uuid4().hex[:10]}.dlq"
    create_topics(real_kafka, [Topic(name, 1, {"cleanup.policy": "delete", "max.message.bytes": "20000"})])
    producer = DeadLetterProducer({"bootstrap_servers": [real_kafka]}, name, max_bytes=1 << 20)
    producer.start()
    assert finished(producer.send([letter(1), letter(2, b"x" * 100_000)])).error is None
    producer.close()
    arrived = {int(dict(r.headers)[OFFSET] or b""): r for r in read_letters(real_kafka, name)}
    assert set(arrived) == {1, 2}
    assert dict(arrived[2].headers)[VALUE_BYTES] == b"100000"
    assert dict(arrived[2].headers)[REASON] == b"malformed_json"
    delete_topics(real_kafka, [name])


@pytest.mark.servers
def test_a_producer_outlives_the_absence_of_its_topic(real_kafka: str) -> None:
    """The small broker of the wheel makes every topic that it is asked for."""
    name = f"late-{uuid.uuid4().hex[:10]}.dlq"
    producer = DeadLetterProducer({"bootstrap_servers": [real_kafka]}, name, max_bytes=1 << 20, timeout_s=5.0)
    producer.start()
    assert finished(producer.send([letter(1)])).error
    create_topics(real_kafka, [Topic(name, 1)])
    until(lambda: finished(producer.send([letter(2)])).error is None, "the letter arrives", within_s=60)
    producer.close()
    assert 2 in [int(dict(r.headers)[OFFSET] or b"") for r in read_letters(real_kafka, name)]
    delete_topics(real_kafka, [name])
