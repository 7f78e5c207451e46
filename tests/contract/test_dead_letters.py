"""One suite for every `DeadLetters`: the fake that the protocol is tested with, and a real topic."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from localstack.topics import Topic, create_topics, delete_topics
from localstack.wait import until
from support import fake_topics
from support.for_test import MakeTopics
from uic.core.event import Reason
from uic.core.letters import OFFSET, REASON, VALUE_BYTES, Letter, to_wire
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


def test_letters_that_do_not_fit_are_cut_and_counted(subject: Subject) -> None:
    assert subject.deliver([letter(1), letter(2)]).cut == 0
    delivery = subject.deliver([letter(3, b"x" * (2 << 20)), letter(4), letter(5, b"x" * (2 << 20))])
    assert (delivery.error, delivery.cut) == (None, 2)
    assert subject.deliver([letter(6)]).cut == 0


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
def test_a_record_of_two_mebibytes_is_cut_to_what_the_producer_sends_and_says_what_to_raise(
    kafka: str, make_topics: MakeTopics, caplog: pytest.LogCaptureFixture
) -> None:
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
    [line] = [record for record in caplog.records if record.message == "a letter is cut"]
    assert "raise UIC_KAFKA__MAX_REQUEST_BYTES" in str(line.__dict__)


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
def test_letters_are_whole_again_once_the_topic_takes_them_and_one_that_takes_none_is_told_with_what_to_raise(
    real_kafka: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"limited-{uuid.uuid4().hex[:10]}.dlq"
    create_topics(real_kafka, [Topic(name, 1, {"max.message.bytes": "6000"})])
    value, most = b"x" * 20_000, 1 << 20
    producer = DeadLetterProducer({"bootstrap_servers": [real_kafka]}, name, max_bytes=most)
    producer.start()

    def deliver(offset: int) -> Delivery:
        return finished(producer.send([letter(offset, value), letter(offset + 1)]))

    raised = f"kafka-configs.sh --bootstrap-server {real_kafka} --alter --entity-type topics --entity-name {name}"
    with caplog.at_level(logging.WARNING):
        for offset in (1, 3):
            assert (deliver(offset).error, deliver(offset).cut) == (None, 1)
    [line] = [record for record in caplog.records if record.message == "a letter is cut"]
    assert f"{raised} --add-config max.message.bytes={most}" in str(line.__dict__)
    limit(real_kafka, name, 300)
    until(lambda: deliver(5).error is not None, "it takes none", within_s=60)
    error = finished(producer.send([letter(7, b"v" * 100)])).error
    assert error is not None
    size = to_wire(letter(7, b"v" * 100), most).size
    assert error.startswith(
        f"a letter of about {size} bytes is refused: max.message.bytes of topic {name} is too small"
    )
    assert error.endswith(f"Raise it: {raised} --add-config max.message.bytes={most}")
    limit(real_kafka, name, most)
    until(lambda: deliver(9).error is None, "it takes letters again", within_s=60)
    delivery = deliver(11)
    assert (delivery.error, delivery.cut) == (None, 0), "by the same producer"
    producer.close()
    arrived = {int(dict(r.headers)[OFFSET] or b""): r for r in read_letters(real_kafka, name)}
    assert 0 < len(arrived[3].value or b"") < 6000
    assert arrived[11].value == value
    delete_topics(real_kafka, [name])


def limit(bootstrap: str, topic: str, most: int) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(most)})])


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
