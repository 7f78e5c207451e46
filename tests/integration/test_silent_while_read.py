"""A broker that goes silent while a topic is read, or before a producer is closed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaProducer

from localstack.dev_broker import DevBroker
from support.for_test import MakeTopics, TopicsForTest
from uic.errors import LogUnavailable
from uic.log import topic_reader
from uic.log.partition_reader import PartitionReader
from uic.log.topic_reader import read_to_end

pytestmark = pytest.mark.servers
IDLE_S = 8.0
"""Of a reader: enough for its questions before the broker goes silent, on a machine that stalls for seconds."""


@pytest.fixture
def names(own_kafka: DevBroker, make_topics: MakeTopics) -> Iterator[TopicsForTest]:
    """A topic with a record, on a broker that this test may freeze."""
    made = make_topics(own_kafka.address, 1)
    producer = KafkaProducer(bootstrap_servers=own_kafka.address, acks="all")
    producer.send(made.events, key=b"u", value=b"x").get(60)
    producer.close()
    yield made
    own_kafka.thaw()


def names_broker_and_topic(error: LogUnavailable, broker: DevBroker, names: TopicsForTest) -> bool:
    found = re.search(r"no answer for \d+ s", error.detail)
    return found is not None and names.events in error.detail and broker.address in error.detail


def test_a_broker_that_goes_silent_while_a_partition_is_read_is_named_and_the_way_on(
    own_kafka: DevBroker, names: TopicsForTest
) -> None:
    with PartitionReader({"bootstrap_servers": [own_kafka.address]}, names.events, idle_s=IDLE_S) as reader:
        assert reader.bounds().log_ends == [1]
        own_kafka.freeze()
        with pytest.raises(LogUnavailable) as told:
            list(reader.read(0, 0, 1))
        own_kafka.thaw()
    assert names_broker_and_topic(told.value, own_kafka, names), str(told.value)


def test_a_broker_that_goes_silent_while_a_topic_is_read_is_named_and_the_way_on(
    own_kafka: DevBroker, names: TopicsForTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = topic_reader._read

    def then_silent(*arguments: Any, **named: Any) -> Iterator[Any]:
        own_kafka.freeze()
        yield from read(*arguments, **named)

    monkeypatch.setattr(topic_reader, "_read", then_silent)
    with pytest.raises(LogUnavailable) as told:
        list(read_to_end({"bootstrap_servers": [own_kafka.address]}, names.events, idle_s=IDLE_S))
    assert names_broker_and_topic(told.value, own_kafka, names), str(told.value)
