"""The servers that every other test relies on: they start, answer, keep what they stored, and go away by pid."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from conftest import MakeTopics, RedisForTest
from localstack.dev_broker import DevBroker
from localstack.ports import accepts, free_port
from localstack.process import Ended
from localstack.topics import Topic, TopicMismatch, create_topics, topics
from localstack.valkey import Valkey

pytestmark = pytest.mark.servers


def read_all(bootstrap: str, topic: str, partitions: int, count: int) -> list[tuple[bytes | None, bytes | None]]:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, consumer_timeout_ms=60_000)
    try:
        consumer.assign([TopicPartition(topic, p) for p in range(partitions)])
        consumer.seek_to_beginning()
        found: list[tuple[bytes | None, bytes | None]] = []
        for record in consumer:
            found.append((record.key, record.value))
            if len(found) == count:
                break
        return found
    finally:
        consumer.close()


def produce(bootstrap: str, topic: str, count: int) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    try:
        for i in range(count):
            producer.send(topic, key=f"user-{i}".encode(), value=b"%d" % i)
        producer.flush(timeout=60)
    finally:
        producer.close()


def test_valkey_is_empty_at_the_start_of_each_test(valkey: RedisForTest) -> None:
    if "REDIS_URL" not in os.environ:
        assert valkey.client.dbsize() == 0
    assert valkey.client.info("memory")["maxmemory_policy"] == "noeviction"
    valkey.client.set(f"{valkey.prefix}:left behind", 1)


def test_valkey_is_empty_at_the_start_of_the_next_test_too(valkey: RedisForTest) -> None:
    assert not list(valkey.client.scan_iter(match=f"{valkey.prefix}:*"))
    if "REDIS_URL" not in os.environ:
        assert valkey.client.dbsize() == 0
    valkey.client.set(f"{valkey.prefix}:left behind", 1)


def test_a_killed_valkey_keeps_its_writes_and_its_port(own_valkey: Valkey) -> None:
    address = own_valkey.address
    client = redis.Redis.from_url(address)
    client.set("kept", b"1")
    own_valkey.kill()
    with pytest.raises(redis.ConnectionError):
        redis.Redis.from_url(address).ping()
    assert own_valkey.start() == address
    assert client.get("kept") == b"1"
    client.close()


def test_the_broker_keeps_topics_and_records_over_a_restart(own_kafka: DevBroker) -> None:
    create_topics(own_kafka.address, topics("kept", 4))
    produce(own_kafka.address, "kept", 50)
    own_kafka.stop()
    own_kafka.start()
    assert create_topics(own_kafka.address, topics("kept", 4)) == []
    assert len(read_all(own_kafka.address, "kept", 4, 50)) == 50


def test_topics_have_the_partitions_and_settings_of_the_design(kafka: str, make_topics: MakeTopics) -> None:
    names = make_topics(kafka)
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    described = {
        t["name"]: len(t["partitions"]) for t in admin.describe_topics([names.events, names.dlq, names.erased])
    }
    admin.close()
    assert described == {names.events: 64, names.dlq: 4, names.erased: 64}


def test_topics_of_a_real_kafka_keep_history_for_ever(real_kafka: str, make_topics: MakeTopics) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType

    names = make_topics(real_kafka, partitions=8)
    admin = KafkaAdminClient(bootstrap_servers=real_kafka)
    found = admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name) for name in (names.events, names.dlq, names.erased)],
        config_filter="all",
    )["topic"]
    admin.close()
    assert found[names.events]["cleanup.policy"]["value"] == "delete"
    assert found[names.events]["retention.ms"]["value"] == "-1"
    assert found[names.erased]["cleanup.policy"]["value"] == "compact"
    produce(real_kafka, names.events, 100)
    assert len(read_all(real_kafka, names.events, 8, 100)) == 100


def test_a_topic_with_another_partition_count_is_refused_by_name(kafka: str, make_topics: MakeTopics) -> None:
    names = make_topics(kafka, partitions=2)
    with pytest.raises(TopicMismatch, match=f"{names.events} has 2 partitions, not 3"):
        create_topics(kafka, [Topic(names.events, 3)])


def test_a_given_port_that_is_taken_is_an_error_with_the_servers_own_words(tmp_path: Path, own_valkey: Valkey) -> None:
    second = Valkey(tmp_path / "second", port=own_valkey.port)
    with pytest.raises(Ended, match="Address already in use"):
        second.start()


def test_a_free_port_that_is_taken_meanwhile_is_replaced(
    tmp_path: Path, own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = iter([own_valkey.port, free_port()])
    monkeypatch.setattr("localstack.server.free_ports", lambda count: [next(ports)] * count)
    with Valkey(tmp_path / "second", appendfsync="off") as second:
        assert second.port != own_valkey.port


def test_a_stopped_server_is_gone(own_kafka: DevBroker, free_port: Callable[[], int]) -> None:
    assert own_kafka.child
    own_kafka.stop()
    assert not own_kafka.child.identity.alive()
    with pytest.raises(ConnectionRefusedError):
        accepts(own_kafka.port)
    assert free_port() != own_kafka.port
