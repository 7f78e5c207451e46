"""Reads a topic from some offsets to where it ends now, outside any consumer group.

For callers that need a finite answer from a log: the erasures before a rebuild, the dead-letter command, the doctor.
The consumer lives as long as the call, commits nothing and chooses no position: each is given or looked up here.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, TopicAuthorizationFailedError

from uic.core.topics import miscounted
from uic.errors import LogUnavailable, TopicRefused, UnreadableLog, UnsuitableTopic
from uic.log.clients import explained, open_kafka_client
from uic.log.lone_consumer import held_back, open_lone_consumer, silent
from uic.log.record_batches import UnreadableBatch
from uic.log.topic_answers import TO_READ, check_there, refusal
from uic.log.topic_facts import check_led, extents
from uic.log.unreachable import stopped, unreachable
from uic.settings import MAX_BATCH_BYTES

POLL_MS = 200


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record and its place in the log."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def read_to_end(
    client: Mapping[str, Any],
    topic: str,
    partitions: Collection[int] | None = None,
    *,
    count: int | None = None,
    last: int | None = None,
    since_ms: Mapping[int, int] | None = None,
    idle_s: float = 10.0,
    most_bytes: int = MAX_BATCH_BYTES,
) -> Iterator[LogRecord]:
    """The committed records of `partitions` (None: all), from their beginning to where they end at the call.

    Committed records end where a transaction is open. A caller that asks whether something is in the log would miss
    what is behind that, so this is an error if the transaction lasts, except with `last`. A partition's records come in
    the order of their offsets; partitions are mixed.

    Args:
        client: options of the Kafka client (`bootstrap_servers` and what it takes to connect).
        topic: never created.
        partitions: which; those that the topic lacks are ignored.
        count: how many partitions the topic must have; None for any number.
        last: only about this many of the newest records of each partition, up to an open transaction; None for all.
        since_ms: partition → time; none below the offset of its first record of that time or later, if it has one.
        idle_s: how long to wait for any answer, or for a transaction to end, before giving up.
        most_bytes: the most that a batch may be when decompressed.

    Raises:
        LogUnavailable: no broker answers, or it stops answering, or a transaction is open; a `NoLeader` names the
            partitions that have no leader.
        TopicRefused: this user may not see or read the topic.
        UnreadableLog: a batch is damaged, or compressed with an unknown codec.
        UnsuitableTopic: the topic does not exist, or has another number of partitions than `count`.
    """
    span = _span(client, topic, partitions, count=count, last=last, since_ms=since_ms or {}, idle_s=idle_s)
    consumer = open_lone_consumer(client, timeout_s=idle_s, most_bytes=most_bytes)
    try:
        with explained(consumer):
            yield from _read(client, consumer, topic, span, idle_s=idle_s)
    except TopicAuthorizationFailedError as error:
        raise TopicRefused(f"topic {topic} {refusal(client, TO_READ)}") from error
    except KafkaError as error:
        raise stopped(error) from error
    finally:
        consumer.close(autocommit=False, timeout_ms=1000)


@dataclass(frozen=True, slots=True)
class _Span:
    """What is read of partitions."""

    starts: Mapping[TopicPartition, int]
    ends: Mapping[TopicPartition, int]
    stable: Mapping[TopicPartition, int]
    """The last stable offsets: behind one, a transaction was open."""


def _span(
    client: Mapping[str, Any],
    topic: str,
    partitions: Collection[int] | None,
    *,
    count: int | None,
    last: int | None,
    since_ms: Mapping[int, int],
    idle_s: float,
) -> _Span:
    """Ask the brokers.

    Raises:
        LogUnavailable, TopicRefused, UnsuitableTopic: as `read_to_end`.
    """
    timeout_ms = int(idle_s * 1000)
    bounded = {"bootstrap_timeout_ms": timeout_ms, "request_timeout_ms": timeout_ms}
    try:
        with closing(open_kafka_client(KafkaAdminClient, **dict(client) | bounded)) as admin, explained(admin):
            [found] = admin.describe_topics([topic])
            check_there(client, found)
            there = sorted(one["partition_index"] for one in found["partitions"])
            if not there:
                raise LogUnavailable(f"topic {topic} has no partitions yet")
            if count is not None and (wrong := miscounted(len(there), count)):
                raise UnsuitableTopic(f"topic {topic} {wrong}")
            chosen = [TopicPartition(topic, p) for p in there if partitions is None or p in partitions]
            check_led(found, [tp.partition for tp in chosen])
            spans = extents(admin, chosen)
            times = {tp: since_ms[tp.partition] for tp in chosen if tp.partition in since_ms}
            first = {tp: at.offset for tp, at in admin.list_partition_offsets(times).items()} if times else {}
    except TopicAuthorizationFailedError as error:
        raise TopicRefused(f"topic {topic} {refusal(client, TO_READ)}") from error
    except KafkaError as error:
        raise unreachable(client, error) from error
    # The first record of a time has the offset -1 where there is none.
    starts = {
        tp: max(one.start, first.get(tp, 0), 0 if last is None else one.log_end - last) for tp, one in spans.items()
    }
    ends = {tp: one.log_end if last is None else one.stable_end for tp, one in spans.items()}
    return _Span(starts, ends, {tp: one.stable_end for tp, one in spans.items()})


def _read(
    client: Mapping[str, Any],
    consumer: KafkaConsumer,
    topic: str,
    span: _Span,
    *,
    idle_s: float,
) -> Iterator[LogRecord]:
    """The records of `span`."""
    starts, ends = span.starts, span.ends
    timeout_ms = int(idle_s * 1000)
    unread = {tp for tp in starts if starts[tp] < ends[tp]}
    if not unread:
        return
    consumer.assign(sorted(unread))
    for tp in unread:
        consumer.seek(tp, starts[tp])
    positions = {tp: starts[tp] for tp in unread}
    deadline = time.monotonic() + idle_s
    while unread:
        for tp, records in consumer.poll(timeout_ms=POLL_MS).items():
            for record in records:
                if isinstance(record, UnreadableBatch):
                    raise UnreadableLog(
                        f"{topic}, partition {tp.partition}: the batch at offset {record.offset} cannot be read: "
                        f"{record.reason}"
                    )
                if record.offset < ends[tp]:
                    yield LogRecord(
                        tp.topic,
                        tp.partition,
                        record.offset,
                        record.timestamp,
                        record.key,
                        record.value,
                        tuple(record.headers),
                    )
        # Positions, not records, tell the end: the last offsets may be transaction markers or compacted away.
        for tp in sorted(unread):
            position = consumer.position(tp, timeout_ms=timeout_ms)
            if position > positions[tp]:
                positions[tp] = position
                deadline = time.monotonic() + idle_s
            if position >= ends[tp]:
                unread.discard(tp)
                consumer.pause(tp)
        if unread and time.monotonic() > deadline:
            for tp in sorted(unread):
                if positions[tp] >= span.stable[tp]:
                    raise held_back(topic, tp.partition, positions[tp])
            raise silent(client, consumer, topic, idle_s)
