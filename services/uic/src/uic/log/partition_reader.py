"""Reads whole partitions of a topic, one after the other, outside any consumer group: for work on the log in bulk.

Unlike `topic_reader` it hands out what one poll returned at a time, with the position behind it, so that a caller can
write files whose names say which offsets they cover, markers of transactions included.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError, TopicAuthorizationFailedError

from uic.core.records import BatchRecord
from uic.core.same_topic import Identity
from uic.core.start_position import LogBounds, log_bounds
from uic.errors import LogUnavailable, TopicRefused, UnreadableLog
from uic.log.clients import explained, open_kafka_client
from uic.log.lone_consumer import held_back, open_lone_consumer, silent
from uic.log.record_batches import UnreadableBatch
from uic.log.topic_answers import TO_READ, TO_SEE, check_there, refusal
from uic.log.topic_facts import Extent, check_led, extents, topic_id_of
from uic.log.unreachable import NO_ANSWER, stopped
from uic.settings import MAX_BATCH_BYTES, KafkaSettings

POLL_MS = 200
FETCH_BYTES: Final = 8 << 20
FETCHING: Final[Mapping[str, Any]] = {
    "max_poll_records": 10_000,
    "max_partition_fetch_bytes": FETCH_BYTES,
    "fetch_max_bytes": FETCH_BYTES,
    "fetch_max_wait_ms": 100,
}
"""Options of a consumer that reads in bulk."""


@dataclass(frozen=True, slots=True)
class TopicBounds:
    """A topic as the brokers describe it now."""

    topic: str
    topic_id: bytes
    """16 bytes; zeros if the broker has none."""
    partitions: Sequence[LogBounds]
    log_ends: Sequence[int]
    """Where each partition ends (high watermark). While a transaction is open in it, that is above the `end` of its
    bounds, the last stable offset."""

    @property
    def identity(self) -> Identity:
        """Which topic this is."""
        return Identity(self.topic, self.topic_id, len(self.partitions))


class PartitionReader:
    """A consumer of one topic, never a member of a group. Close it."""

    def __init__(
        self, client: Mapping[str, Any], topic: str, *, idle_s: float = 10.0, most_bytes: int = MAX_BATCH_BYTES
    ) -> None:
        """Connects.

        Args:
            client: options of the Kafka client (`bootstrap_servers` and what it takes to connect).
            topic: never created.
            idle_s: how long to wait for any answer before giving up.
            most_bytes: the most that a batch may be when decompressed.

        Raises:
            LogUnavailable: no broker answers.
        """
        self._client = dict(client)
        self._topic = topic
        self._idle_s = idle_s
        self._most_bytes = most_bytes
        self._admin: KafkaAdminClient | None = None
        """For questions about the topic; connected when first needed."""
        self._consumer = open_lone_consumer(
            client,
            timeout_s=idle_s,
            most_bytes=most_bytes,
            **FETCHING,
        )

    def bounds(self) -> TopicBounds:
        """The topic's id, and where each partition begins and ends now.

        Raises:
            LogUnavailable: no answer; a `NoLeader` names the partitions that have no leader.
            TopicRefused: this user may not see the topic.
            UnsuitableTopic: there is no such topic.
        """
        with self._named(NO_ANSWER, TO_SEE):
            found = self._described()
            count, topic_id = len(found["partitions"]), topic_id_of(found)
            check_led(found, range(count))
            spans = self._extents(range(count))
        partitions = [log_bounds(one.start, one.stable_end, topic_id) for one in spans]
        at_least = [max(one.log_end, now.end) for one, now in zip(spans, partitions, strict=True)]
        return TopicBounds(self._topic, topic_id, partitions, at_least)

    def identity(self) -> Identity:
        """Which topic there is now. Asked after records were read, it says of which topic they are: if it is the one
        of before, so are they.

        Raises:
            LogUnavailable, TopicRefused, UnsuitableTopic: as `bounds`.
        """
        with self._named(NO_ANSWER, TO_SEE):
            found = self._described()
        return Identity(self._topic, topic_id_of(found), len(found["partitions"]))

    def _described(self) -> Mapping[str, Any]:
        admin = self._asked()
        with explained(admin):
            [found] = admin.describe_topics([self._topic])
        check_there(self._client, found)
        described: Mapping[str, Any] = found
        return described

    def _extents(self, partitions: Iterable[int]) -> list[Extent]:
        admin = self._asked()
        with explained(admin):
            places = [TopicPartition(self._topic, p) for p in partitions]
            found = extents(admin, places)
        return [found[tp] for tp in places]

    def _asked(self) -> KafkaAdminClient:
        if self._admin is None:
            timeout_ms = int(self._idle_s * 1000)
            bounded = {"bootstrap_timeout_ms": timeout_ms, "request_timeout_ms": timeout_ms}
            self._admin = open_kafka_client(KafkaAdminClient, **self._client | bounded)
        return self._admin

    def start(self, partition: int) -> int:
        """Where a partition begins now.

        Raises:
            LogUnavailable: no answer; a `NoLeader` if the partition has no leader.
        """
        with self._named(NO_ANSWER, TO_SEE):
            check_led(self._described(), [partition])
            [extent] = self._extents([partition])
        return extent.start

    def read(self, partition: int, start: int, end: int) -> Iterator[tuple[list[BatchRecord], int]]:
        """The committed records of `start` <= offset < `end`, some thousand at a time, each time with the position
        that the client has reached: all that lies below it was handed out, or will never be.

        Raises:
            LogUnavailable: the broker stopped answering, or a transaction is open below `end`, or retention removed
                records while they were read.
            TopicRefused: this user may not read the topic.
            UnreadableLog: a batch is damaged, or compressed with an unknown codec.
        """
        consumer = self._consumer
        if start >= end:
            return
        tp = TopicPartition(self._topic, partition)
        timeout_ms = int(self._idle_s * 1000)
        position = start
        with self._named(f"the broker stopped answering while reading {self._topic}", TO_READ), explained(consumer):
            try:
                consumer.assign([tp])
                consumer.seek(tp, start)
                deadline = time.monotonic() + self._idle_s
                while position < end:
                    found = consumer.poll(timeout_ms=POLL_MS).get(tp, [])
                    if found and isinstance(found[-1], UnreadableBatch):
                        raise UnreadableLog(
                            f"{self._topic}, partition {partition}: the batch at offset {found[-1].offset} cannot be "
                            f"read: {found[-1].reason}"
                        )
                    reached = consumer.position(tp, timeout_ms=timeout_ms)
                    if reached > position:
                        position, deadline = min(reached, end), time.monotonic() + self._idle_s
                        yield [record for record in found if record.offset < end], position
                    elif time.monotonic() > deadline:
                        [extent] = self._extents([partition])
                        if extent.stable_end <= position:
                            raise held_back(self._topic, partition, position)
                        raise silent(self._client, consumer, self._topic, self._idle_s)
            except OffsetOutOfRangeError as error:
                raise LogUnavailable(
                    f"{self._topic}, partition {partition}: retention removed offset {position} while the log was "
                    "read; run this again"
                ) from error

    @contextmanager
    def _named(self, what: str, right: str) -> Iterator[None]:
        """Turns the Kafka client's errors into `LogUnavailable`, and one about the topic's rights into `TopicRefused`,
        with the right that is needed."""
        try:
            with explained(self._consumer):
                yield
        except TopicAuthorizationFailedError as error:
            raise TopicRefused(f"topic {self._topic} {refusal(self._client, right)}") from error
        except KafkaError as error:
            raise stopped(error, what) from error

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close(autocommit=False, timeout_ms=1000)
        if self._admin is not None:
            self._admin.close()

    def __enter__(self) -> PartitionReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def log_reader(kafka: KafkaSettings) -> PartitionReader:
    """A reader of the event topic. Close it.

    Raises:
        LogUnavailable: no broker answers.
    """
    return PartitionReader(
        kafka.client_options(),
        kafka.topic,
        idle_s=kafka.request_timeout_ms / 1000,
        most_bytes=kafka.max_batch_bytes,
    )
