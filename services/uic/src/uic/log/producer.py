"""A Kafka producer that bounds what it has in flight, and that can always be ended.

It uses the library's public interface only. `docs/upstream.md` describes the faults of the library that it meets.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError

from uic.log.clients import open_kafka_client

MOST_IN_FLIGHT: Final = 20_000
"""Records of one producer that wait for their acknowledgment."""
MARGIN_S: Final = 0.5
"""How much longer than its delivery timeout a producer may take to report before it counts as failed."""


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to append: the partition is the key's, chosen here and not by the Kafka client."""

    partition: int
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_ms: int | None = None
    """None: the time at which it is sent."""

    def options(self) -> dict[str, Any]:
        """What `KafkaProducer.send` takes beside the topic."""
        return {
            "key": self.key,
            "value": self.value,
            "headers": list(self.headers),
            "partition": self.partition,
            "timestamp_ms": self.timestamp_ms,
        }


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record landed."""

    partition: int
    offset: int


class TooManyInFlight(KafkaError):  # type: ignore[misc]  # kafka-python has no types
    """So many records wait for their acknowledgment that no other one is taken."""


class Producer:
    """Publishes until a record fails. Then it has `failed`, and its user replaces it. Safe for several threads."""

    def __init__(self, kafka: KafkaProducer, delivery_s: float) -> None:
        """
        Args:
            kafka: a connected producer.
            delivery_s: its delivery timeout, in seconds.
        """
        self.kafka = kafka
        self._delivery_s = delivery_s
        self._lock = threading.Lock()
        self._in_flight: dict[Future[Position], float] = {}
        """When each one is due at the latest, the oldest first; monotonic, in seconds."""
        self._failed = False

    @property
    def failed(self) -> bool:
        """Whether a record failed, or has no outcome though its time is over. After either, kafka-python may never send
        again."""
        with self._lock:
            oldest = next(iter(self._in_flight.values()), None)
            return self._failed or (oldest is not None and oldest < time.monotonic())

    def publish(self, topic: str, record: NewRecord) -> Future[Position]:
        """Send a record. The future fails with a `KafkaError`: then the record may or may not be in the log.

        Raises:
            TooManyInFlight: the record was not taken.
            KafkaError: the record was not taken: it is larger than a request may be, or the producer has no room.
        """
        published: Future[Position] = Future()
        with self._lock:
            if len(self._in_flight) >= MOST_IN_FLIGHT:
                raise TooManyInFlight(f"{MOST_IN_FLIGHT} records wait for their acknowledgment")
            self._in_flight[published] = time.monotonic() + self._delivery_s + MARGIN_S
        try:
            sent = self.kafka.send(topic, **record.options())
        except BaseException:
            with self._lock:
                self._in_flight.pop(published, None)
            raise
        sent.add_callback(lambda at: self._landed(published, Position(at.partition, at.offset)))
        sent.add_errback(lambda error: self._lost(published, error))
        return published

    def close(self) -> None:
        """End it without waiting. What is in flight still gets its outcome, within the delivery timeout."""
        threading.Thread(target=self._close, name="close-producer", daemon=True).start()

    def _close(self) -> None:
        self.kafka.close(timeout=self._delivery_s + MARGIN_S)
        with self._lock:
            left = list(self._in_flight)
        for published in left:
            self._lost(published, KafkaTimeoutError("the producer was ended"))

    def _landed(self, published: Future[Position], position: Position) -> None:
        if self._taken_out(published):
            published.set_result(position)

    def _lost(self, published: Future[Position], error: Exception) -> None:
        self._failed = True
        if self._taken_out(published):
            published.set_exception(error)

    def _taken_out(self, published: Future[Position]) -> bool:
        """Whether it was in flight."""
        with self._lock:
            return self._in_flight.pop(published, None) is not None


class _Network:
    """The network of a producer, which can end the producer's thread at its next poll, and on which a connection to one
    broker is no other one's trouble."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def maybe_connect(self, node_id: Any, **named: Any) -> None:
        """Begin to connect, if that can be done now. The library raises errors of one broker, such as that it is not
        known yet where a leader is: then a producer sends nothing to the others, reads no answer and takes a core."""
        with suppress(KafkaError):
            self._client.maybe_connect(node_id, **named)

    def poll(self, *args: Any, **named: Any) -> Any:
        if self.ended:
            self._client.close()
            raise SystemExit  # which ends a thread, and only that
        return self._client.poll(*args, **named)


class EndableProducer(KafkaProducer):  # type: ignore[misc]  # kafka-python has no types
    """A producer whose `close` always ends its thread. The library's raises and leaves the thread while records wait,
    and after a record without an answer they can wait forever."""

    def __init__(self, *, kafka_client: Callable[..., Any], **options: Any) -> None:
        self._network: _Network | None = None

        def network(**configs: Any) -> _Network:
            self._network = _Network(kafka_client(**configs))
            return self._network

        super().__init__(**options, kafka_client=network)

    def close(self, timeout: float | None = None, null_logger: bool = False) -> None:
        """End the thread: what is not acknowledged within `timeout` seconds is given up, and its futures stay open."""
        if self._network is None or self._network.ended:
            return
        try:
            super().close(timeout, null_logger)
        except KafkaError:
            self._network.ended = True


def open_producer(
    client: Mapping[str, Any], *, timeout_s: float, max_request_bytes: int, idempotent: bool = True
) -> KafkaProducer:
    """A connected producer: acknowledged by all in-sync replicas, retried inside without repeats, topics never created.

    Args:
        client: options of the Kafka client (`bootstrap_servers` and what it takes to connect).
        timeout_s: bounds connecting, and how long delivering a record may take.
        max_request_bytes: largest request, and so largest record.
        idempotent: no repeats. Without it, each record is its own batch, so one that is too large for the topic fails
            alone.

    Raises:
        KafkaError: no broker answers in time.
    """
    options = producer_options(timeout_s, max_request_bytes) | {"enable_idempotence": idempotent}
    return open_kafka_client(EndableProducer, **dict(client) | options | ({} if idempotent else {"batch_size": 0}))


def producer_options(timeout_s: float, max_request_bytes: int) -> dict[str, Any]:
    """What all producers are opened with; see `open_producer`."""
    timeout_ms = int(timeout_s * 1000)
    return {
        "acks": "all",
        "max_request_size": max_request_bytes,
        "max_block_ms": timeout_ms,
        "delivery_timeout_ms": timeout_ms,
        "request_timeout_ms": timeout_ms,
        "bootstrap_timeout_ms": timeout_ms,
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }
