"""A Kafka consumer outside any group: it commits nothing, and whoever uses it says where it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaError

from uic.log.kafka_repairs import open_kafka_client, read_batches_with_uic
from uic.log.unreachable import unreachable
from uic.settings import MAX_BATCH_BYTES


def open_lone_consumer(
    client: Mapping[str, Any], *, timeout_s: float, most_bytes: int = MAX_BATCH_BYTES, **more: Any
) -> KafkaConsumer:
    """A connected consumer of committed records. Close it.

    Args:
        client: options of the Kafka client (`bootstrap_servers` and what it takes to connect).
        timeout_s: bounds connecting.
        most_bytes: the most that a batch may be when decompressed.
        more: further options of the consumer.

    Raises:
        LogUnavailable: no broker answers.
    """
    options = {
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
        "bootstrap_timeout_ms": int(timeout_s * 1000),
    }
    try:
        consumer = open_kafka_client(KafkaConsumer, **dict(client) | options | more)
    except KafkaError as error:
        raise unreachable(client, error) from error
    read_batches_with_uic(consumer, most_bytes=most_bytes)
    return consumer
