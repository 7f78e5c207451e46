"""A Kafka consumer outside any group: it commits nothing, and its user says where it reads.

A consumer of committed records ends at the last stable offset: the beginning of the first transaction that is open.
What lies behind may be final all the same, above all what UIC itself wrote, which is never part of a transaction. A
reader that must not overlook that uses `read_settled`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from kafka import KafkaConsumer
from kafka.errors import KafkaError, KafkaTimeoutError

from uic.errors import LogUnavailable
from uic.log.connection_causes import ConnectionsFailed
from uic.log.kafka_repairs.clients import explained, failures_of, open_kafka_client
from uic.log.kafka_repairs.partition_records import Markers, SettledRecords, read_batches_with_uic
from uic.log.outcomes import Outcomes
from uic.log.unreachable import stopped, unreachable
from uic.settings import MAX_BATCH_BYTES

T = TypeVar("T")


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
    if not (failures := failures_of(consumer)):
        brokers = ", ".join(client["bootstrap_servers"])
        return LogUnavailable(f"{what} from {brokers}: `ctr doctor` says which brokers are away; run this again")
    error = KafkaTimeoutError(what)
    error.__cause__ = ConnectionsFailed(failures)
    return LogUnavailable(f"{stopped(error, what).detail}; run this again")


def read_settled(
    client: Mapping[str, Any],
    read: Callable[[KafkaConsumer], Iterator[T]],
    *,
    timeout_s: float,
    most_bytes: int = MAX_BATCH_BYTES,
    **more: Any,
) -> Iterator[T]:
    """What `read` reads, from a last stable offset on, of the records that are final although a transaction before them
    is open: those of no transaction, and those of transactions that were committed. In the log's order.

    What belongs to the open transaction is left out, and so is what belongs to an aborted one. Which those are is known
    only behind them, so `read` reads twice.

    Args:
        client: options of the Kafka client.
        read: reads from the same offsets to the same ends each time, which may lie up to the high watermark.
        timeout_s: bounds connecting.
        most_bytes: the most that a batch may be when decompressed.
        more: further options of the consumer.

    Raises:
        LogUnavailable: no broker answers.
        KafkaError: as `read` raises it.
    """
    outcomes = Outcomes()
    more["isolation_level"] = "read_uncommitted"
    for reader in (Markers, SettledRecords):
        opened = open_lone_consumer(client, timeout_s=timeout_s, most_bytes=most_bytes, **more)
        read_batches_with_uic(opened, reader, most_bytes=most_bytes, outcomes=outcomes)
        try:
            with explained(opened):
                for found in read(opened):
                    if reader is SettledRecords:
                        yield found
        finally:
            opened.close(autocommit=False, timeout_ms=1000)
