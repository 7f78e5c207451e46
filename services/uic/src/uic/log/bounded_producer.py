"""A Kafka producer that answers in bounded time and can always be ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from uic.log.kafka_repairs.clients import open_kafka_client
from uic.log.kafka_repairs.producers import end_sender, repair_producer


def open_producer(
    client: Mapping[str, Any], *, timeout_s: float, max_request_bytes: int, idempotent: bool = True
) -> KafkaProducer:
    """A connected producer: acknowledged by all in-sync replicas, retried inside without repeats, topics never created.

    Args:
        client: options of the Kafka client (`bootstrap_servers` and what it takes to connect).
        timeout_s: bounds connecting, and how long delivering a record may take.
        max_request_bytes: largest request, and so largest record.
        idempotent: no repeats, but one record that is too large for the topic ends such a producer for good. Without
            it, each record is its own batch, so a large one fails alone.

    Raises:
        KafkaError: no broker answers in time.
    """
    timeout_ms = int(timeout_s * 1000)
    producer = open_kafka_client(
        KafkaProducer,
        **dict(client)
        | {
            "enable_idempotence": idempotent,
            **({} if idempotent else {"batch_size": 0}),
            "acks": "all",
            "max_request_size": max_request_bytes,
            "max_block_ms": timeout_ms,
            "delivery_timeout_ms": timeout_ms,
            "request_timeout_ms": timeout_ms,
            "bootstrap_timeout_ms": timeout_ms,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        },
    )
    if idempotent:
        repair_producer(producer)
    return producer


def close_producer(producer: KafkaProducer, wait_s: float) -> None:
    """End `producer` and its thread; what is not acknowledged within `wait_s` is given up."""
    try:
        producer.close(timeout=wait_s)
    except KafkaError:
        end_sender(producer)
