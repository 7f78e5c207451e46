"""The producer of a run of a command that appends."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import KafkaError, TopicAuthorizationFailedError, TransactionalIdAuthorizationFailedError
from kafka.producer.transaction_manager import ProducerIdAndEpoch

from uic.core.topics import ranges
from uic.errors import LogRefused, LogUnavailable
from uic.log.kafka_repairs.clients import explained, open_kafka_client
from uic.log.kafka_repairs.runs import NotBegun, Overtaken, begin_run, without_marker
from uic.log.producer import EndableProducer, producer_options
from uic.log.topic_answers import TO_READ, TO_WRITE, refusal
from uic.log.unreachable import unreachable

TRANSACTION_MS = 10_000
"""How long the brokers may wait for the end of a run's empty transaction. No reader waits for it."""


def open_run(
    client: Mapping[str, Any],
    name: str,
    topic: str,
    partitions: Collection[int],
    *,
    timeout_s: float,
    max_request_bytes: int,
) -> EndableProducer:
    """The producer of a run: of work that is done again when it could not be finished. What earlier runs of this name
    have on their way to `partitions` is never appended from now on, wherever it lies, and nothing that they send any
    more. The producer sends nothing once one of its batches has failed (`kafka_repairs.runs`).

    Args:
        client: options of the Kafka client (`bootstrap_servers` and what it takes to connect).
        name: of the run, the same for all that must not append beside each other: a transactional id.
        topic: what it appends to.
        partitions: those of the topic that it looks at before it appends there.
        timeout_s: bounds connecting, and how long delivering a record may take.
        max_request_bytes: largest request, and so largest record.

    Raises:
        LogUnavailable: no answer in time; nothing was appended.
        LogRefused: a right is missing.
    """
    options = producer_options(timeout_s, max_request_bytes)
    options |= {"transactional_id": name, "transaction_timeout_ms": TRANSACTION_MS}
    try:
        producer = open_kafka_client(EndableProducer, **dict(client) | options)
        try:
            places = [TopicPartition(topic, partition) for partition in partitions]
            with explained(producer):
                marked = begin_run(producer, places, timeout_s)
            _refuse_unmarked(client, name, places, marked, timeout_s)
        except BaseException:
            producer.close(timeout=0)
            raise
    except TransactionalIdAuthorizationFailedError as error:
        raise LogRefused(f"transactional id {name} {refusal(client, TO_WRITE, type(error))}") from error
    except TopicAuthorizationFailedError as error:
        raise LogRefused(f"topic {topic} {refusal(client, TO_WRITE)}") from error
    except Overtaken as error:
        raise LogUnavailable(f"{name}: {error.args[0]}: run this again when that one has ended") from error
    except KafkaError as error:
        if isinstance(error, NotBegun) and error.__cause__ is None:
            raise LogUnavailable(
                f"the brokers answer, and did not shut out earlier runs of {name} within {timeout_s:g} s; nothing was "
                f"appended. Each partition of {topic} needs a leader and as many replicas in sync as "
                "min.insync.replicas says, and Kafka its topic __transaction_state, which a cluster of fewer brokers "
                "than transaction.state.log.replication.factor (3) cannot make"
            ) from error
        raise unreachable(client, error) from error
    return producer


def _refuse_unmarked(
    client: Mapping[str, Any],
    name: str,
    places: Sequence[TopicPartition],
    marked: ProducerIdAndEpoch,
    timeout_s: float,
) -> None:
    """
    Raises:
        LogUnavailable: earlier runs are not shut out everywhere.
        LogRefused: only who may read a partition is told who writes to it.
        KafkaError: a broker does not answer.
    """
    if not places:
        return
    timeout_ms = int(timeout_s * 1000)
    options = {"bootstrap_timeout_ms": timeout_ms, "request_timeout_ms": timeout_ms}
    try:
        with closing(open_kafka_client(KafkaAdminClient, **dict(client) | options)) as admin, explained(admin):
            lacking = without_marker(admin, places, marked)
    except TopicAuthorizationFailedError as error:
        raise LogRefused(f"topic {places[0].topic} {refusal(client, TO_READ)}") from error
    if lacking:
        raise LogUnavailable(
            f"earlier runs of {name} are not shut out of partitions {ranges(lacking)}, which have, or had a moment "
            "ago, no leader; nothing was appended: run this again once they have one"
        )
