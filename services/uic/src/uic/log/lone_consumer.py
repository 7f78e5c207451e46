"""A Kafka consumer outside any group: it commits nothing, and its user says where it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaError

from uic.errors import LogUnavailable
from uic.log.batch_hook import read_batches_with_uic
from uic.log.clients import failures_of, open_kafka_client
from uic.log.unreachable import by_broker, unreachable
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


def silent(client: Mapping[str, Any], consumer: KafkaConsumer, topic: str, waited_s: float) -> LogUnavailable:
    """The error to raise where a consumer that had a connection gets no answer any more.

    Args:
        client: options of the Kafka client.
        consumer: opened with these.
        topic: that is read.
        waited_s: how long nothing came.
    """
    what = f"no answer for {waited_s:.0f} s while reading {topic}"
    brokers = by_broker(failures_of(consumer)) or ", ".join(client["bootstrap_servers"])
    return LogUnavailable(f"{what} from {brokers}: `ctr doctor` says which brokers are away; run this again")


def held_back(topic: str, partition: int, offset: int) -> LogUnavailable:
    """The error to raise where committed records end before the log does."""
    return LogUnavailable(
        f"{topic}, partition {partition}: a transaction is open from offset {offset} on; run this again when its "
        "producer has ended it. One that hangs: docs/runbooks/data-gap.md"
    )
