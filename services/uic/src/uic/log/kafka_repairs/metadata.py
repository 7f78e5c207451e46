"""What a client knows of the cluster: brokers' addresses, leaders, a topic's partitions and id."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

from kafka import KafkaConsumer, TopicPartition
from kafka.cluster import ClusterMetadata
from kafka.errors import TopicAuthorizationFailedError, UnknownTopicOrPartitionError

from mimn.state import NO_TOPIC_ID
from process.addresses import joined

NO_BROKER: Final = -1
"""What the brokers name as the leader of a partition that has none."""


def address_of(node: Any) -> str:
    """Where a broker is, `host:port`."""
    return joined(node.host, node.port)


def addresses_of(nodes: Iterable[Any]) -> str:
    """Where brokers are, for a message."""
    return ", ".join(sorted(map(address_of, nodes)))


def leaderless_in(cluster: ClusterMetadata, partitions: Iterable[TopicPartition]) -> set[TopicPartition]:
    """Those that have no leader, as of the metadata in `cluster`."""
    return {tp for tp in partitions if cluster.leader_for_partition(tp) == NO_BROKER}


def leaderless(consumer: KafkaConsumer, partitions: Iterable[TopicPartition]) -> set[TopicPartition]:
    """Those that have no leader, as of the client's latest metadata."""
    return leaderless_in(consumer._cluster, partitions)


def partition_count(consumer: KafkaConsumer, topic: str) -> int:
    """As of the client's latest metadata; 0 if unknown."""
    return len(consumer._cluster.partitions_for_topic(topic) or ())


def fresh_topic_id(consumer: KafkaConsumer, topic: str, timeout_ms: int) -> bytes:
    """The topic's id by fresh metadata, zeros if the broker has none."""
    _refresh(consumer, timeout_ms)
    found = consumer._cluster.topic_id(topic)
    return found.bytes if isinstance(found, UUID) else NO_TOPIC_ID


def learn_topic(consumer: KafkaConsumer, topic: str, timeout_ms: int) -> None:
    """Learn the topic's partitions, also for a client that has none of them yet.

    Raises:
        TopicAuthorizationFailedError: this user may not see it.
        UnknownTopicOrPartitionError: there is no such topic.
    """
    consumer._cluster.add_topic(topic)
    _refresh(consumer, timeout_ms)
    if topic in consumer._cluster.unauthorized_topics:
        raise TopicAuthorizationFailedError(topic)
    if not partition_count(consumer, topic):
        raise UnknownTopicOrPartitionError(topic)


def _refresh(consumer: KafkaConsumer, timeout_ms: int) -> None:
    refreshed = consumer._cluster.request_update()
    consumer._net.run(consumer._manager.wait_for, refreshed, timeout_ms)
