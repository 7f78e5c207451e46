"""Records made to stop UIC's reading, through a broker that takes them: all are read, and those behind them folded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatchBuilder

from localstack.topics import Topic, create_topics
from localstack.wait import until
from localstack.web import web
from mimn.state import partition_of
from support.for_test import MakeTopics, RedisForTest
from support.uic_running import click, delete_and_wait, running_uic
from uic.log.topic_reader import read_to_end
from uic.tools.letter_display import describe
from uic.tools.letter_reading import read_letter

pytestmark = pytest.mark.servers

N = 4
USER = "ann"


class NoText(str):
    """A header's name that goes over the wire as bytes that are no text. Brokers do not look at names."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:  # whatever the encoding
        return b"\xff\xfe"


class FromTheLeastTime(DefaultRecordBatchBuilder):  # type: ignore[misc]  # kafka-python has no types
    """Writes times as the least time of 64 bits and what is to be added to it, as a producer may."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._first_timestamp, self._max_timestamp = 2**63, time.time_ns() // 1_000_000

    def build(self) -> Any:
        """The batch's bytes."""
        self._first_timestamp = -(2**63)
        return super().build()


def test_a_time_that_is_written_in_an_odd_way_is_that_time(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = make_topics(kafka, N)
    with running_uic(tmp_path / "uic", valkey, topics) as uic:
        monkeypatch.setattr(memory_records, "DefaultRecordBatchBuilder", FromTheLeastTime)
        producer = KafkaProducer(bootstrap_servers=kafka, acks="all", enable_idempotence=False)
        where = partition_of(USER.encode(), N)
        for _ in range(2):
            value = click(USER).SerializeToString()
            producer.send(topics.events, key=USER.encode(), value=value, partition=where).get(timeout=60)
        producer.close()
        monkeypatch.undo()
        uic.wait_folded(uic.publish(click(USER)))
        state = uic.state(USER)
        assert state is not None
        assert state.event_count == 3


@pytest.mark.parametrize("value", [b'{"action":1e400}', b'{"userId":"\\ud800"}'])
def test_json_that_protobuf_reads_with_an_error_of_its_own_is_a_dead_letter_like_another(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics, value: bytes
) -> None:
    topics = make_topics(kafka, N)
    with running_uic(tmp_path / "uic", valkey, topics) as uic:
        producer = KafkaProducer(bootstrap_servers=kafka, acks="all")
        headers, where = [("content-type", b"application/json")], partition_of(USER.encode(), N)
        producer.send(topics.events, key=USER.encode(), value=value, headers=headers, partition=where).get(timeout=60)
        producer.close()
        uic.wait_folded(uic.publish(click(USER)))
        state = uic.state(USER)
        assert state is not None
        assert state.event_count == 1
    [record] = read_to_end({"bootstrap_servers": kafka}, topics.dlq)
    letter = read_letter(record)
    assert (letter.reason, letter.value) == ("malformed_json", value)


@pytest.mark.full
def test_a_dead_letter_topic_that_does_not_exist_is_named_from_the_start_and_used_once_it_is_there(
    tmp_path: Path, valkey: RedisForTest, real_kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(real_kafka, N)
    delete_and_wait(real_kafka, topics.dlq)
    gone = f"dead_letter_topic_unavailable: topic {topics.dlq} does not exist. Create it: kafka-topics.sh "
    where = partition_of(USER.encode(), N)
    with running_uic(tmp_path / "uic", valkey, topics, UIC_KAFKA__REQUEST_TIMEOUT_MS="8000") as uic:

        def degraded() -> list[str]:
            found: list[str] = web().get(f"{uic.worker.admin_url}/readyz", timeout=60).json()["degraded"]
            return found

        def named() -> bool:
            return [reason[: len(gone)] for reason in degraded()] == [gone]

        until(named, "the topic is named before a record needs it", within_s=60)
        producer = KafkaProducer(bootstrap_servers=real_kafka, acks="all")
        producer.send(topics.events, key=USER.encode(), value=b"\xff\xff", partition=where).get(timeout=60)
        producer.close()
        later = uic.publish(click(USER))

        def stalled() -> str:
            found: str = uic.admin("/partitions")["partitions"][where]["reason"]
            return found

        until(lambda: stalled().startswith(f"dead_letters: topic {topics.dlq} does not"), "it stalls", within_s=60)
        assert named(), "and is named once"
        create_topics(real_kafka, [Topic(topics.dlq, 1)])
        uic.wait_folded(later)
        until(lambda: degraded() == [], "nothing is wrong", within_s=60)
    [record] = read_to_end({"bootstrap_servers": real_kafka}, topics.dlq)
    assert read_letter(record).value == b"\xff\xff"
    assert sum("event=dead_letter_topic_unavailable" in line for line in uic.worker.log.read_text().splitlines()) == 1


def test_headers_whose_names_are_no_text_stop_nobody(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, N)
    odd = [(NoText("x"), b"v")]
    with running_uic(tmp_path / "uic", valkey, topics) as uic:
        producer = KafkaProducer(bootstrap_servers=kafka, acks="all")
        where = partition_of(USER.encode(), N)
        for value in (click(USER).SerializeToString(), b"\xff\xff", click(USER).SerializeToString()):
            producer.send(topics.events, key=USER.encode(), value=value, headers=odd, partition=where).get(timeout=60)
        producer.close()
        uic.wait_folded(uic.publish(click(USER)))
        state = uic.state(USER)
        assert state is not None
        assert state.event_count == 3
        assert uic.admin("/partitions")["serving"]
    [record] = read_to_end({"bootstrap_servers": kafka}, topics.dlq)
    letter = read_letter(record)
    assert (letter.reason, letter.offset, letter.key, letter.value) == ("malformed_protobuf", 1, b"ann", b"\xff\xff")
    assert letter.headers == (("\N{REPLACEMENT CHARACTER}" * 2, b"v"),)
    assert any("\N{REPLACEMENT CHARACTER}" in line for line in describe(letter))
