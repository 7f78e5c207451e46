"""Producers of runs: of work that is done again, from where it got to, when it could not be finished.

What a run that ended has sent may still be on its way: in the sockets of its process, which the kernel sends on though
the process is gone, in a proxy, or in what a broker has received and not read. Appended after the next run has looked
how far the log has got, it would be in the log twice, or behind what comes later.

So all runs of one name have one producer id, which brokers know by a transactional id, and each run the next epoch.
Before it looks, a run has a transaction without records committed in the partitions that it will look at. Its markers
say there that the epoch has begun: from then on their leaders refuse what an earlier run has on its way, wherever that
lies. What the run itself appends is in no transaction, so readers of committed records wait for none.

A run ends with its first batch that fails. The next batch of that partition would lie behind a gap.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.errors import (
    IncompatibleBrokerVersion,
    InvalidProducerEpochError,
    KafkaError,
    KafkaTimeoutError,
    ProducerFencedError,
    TransactionalIdAuthorizationFailedError,
    UnknownError,
    UnsupportedVersionError,
    for_code,
)
from kafka.producer.transaction_manager import ProducerIdAndEpoch, TransactionState
from kafka.protocol.producer import InitProducerIdRequest

from uic.log.kafka_repairs import producers

OVERTAKEN: Final = "another run of this name has begun at the same time"


class Overtaken(KafkaError):  # type: ignore[misc]  # kafka-python has no types
    """A later run of the same name has begun: the brokers take nothing more of this one."""


class NotBegun(KafkaTimeoutError):  # type: ignore[misc]  # kafka-python has no types
    """The brokers have not shut out earlier runs in time."""


class _RunManager(producers._TransactionManager):
    """The id and epoch that a run has for as long as it goes on."""

    def initialize_transactions(self) -> Any:
        """Get the next epoch, once all markers of the last transaction are written. The library asks only once."""
        with self._lock:
            if self._current_state is TransactionState.READY:
                self._current_state = TransactionState.UNINITIALIZED
            return super().initialize_transactions()

    def bump_producer_id_and_epoch(self) -> None:
        """Stay: a run has one epoch, and what failed has ended it."""

    def classify_batch_error(self, error: Any, batch: Any, log_start_offset: int = -1) -> Any:
        """What the library does after a batch that failed: the first one ends the producer."""
        return self.ERROR_CLASS_RETRIABLE if self.has_fatal_error() else self.ERROR_CLASS_FATAL


class _RunSender(producers._Sender):
    """A sender that sends nothing more once a batch has failed: the library drains nothing of a producer that ended,
    and it ends before the batch's partition may send again."""

    def _dispatch_error(self, batch: Any, exception: Any, partition_response: Any) -> None:
        if isinstance(exception, InvalidProducerEpochError | ProducerFencedError):
            exception = Overtaken("another run has begun since")
        super()._dispatch_error(batch, exception, partition_response)

    def _maybe_abort_batches(self, exc: Exception) -> None:
        """What waits behind the one that failed, or is on its way beside it: that one's reason is not theirs."""
        super()._maybe_abort_batches(KafkaError(f"given up, because another record failed: {exc!r}"))


def repair_run(producer: KafkaProducer) -> None:
    """Let the first batch that fails end an idempotent producer that `open_kafka_client` has opened."""
    producer._sender.__class__ = _RunSender
    producer._transaction_manager.__class__ = _RunManager


def begin_run(producer: KafkaProducer, partitions: Collection[TopicPartition], timeout_s: float) -> ProducerIdAndEpoch:
    """Make a transactional producer that `open_kafka_client` has opened, and that has not begun, that of a run: from
    now on the leaders of `partitions` take nothing of earlier runs with its transactional id, if they have the marker
    of what is returned (`without_marker`).

    Raises:
        Overtaken: another run has begun at the same time.
        KafkaError: not in time, or the brokers refuse it.
    """
    repair_run(producer)
    manager = producer._transaction_manager
    deadline = time.monotonic() + timeout_s

    def done(ask: Callable[[], Any]) -> None:
        result = ask()
        producer._sender.wakeup()
        try:
            if not result.wait(timeout_ms=max(0.0, deadline - time.monotonic()) * 1000):
                raise NotBegun("earlier runs are not shut out")
        except (InvalidProducerEpochError, ProducerFencedError) as error:
            raise Overtaken(OVERTAKEN) from error

    done(manager.initialize_transactions)
    marked: ProducerIdAndEpoch = manager.producer_id_and_epoch
    manager.begin_transaction()
    for partition in partitions:
        manager.maybe_add_partition_to_transaction(partition)
    try:
        done(manager.begin_commit)
    except KafkaError as error:
        # While another run shuts this one out, the coordinator answers a commit by an error that it has no name for.
        if UnknownError.__name__ in str(error):
            raise Overtaken(f"{OVERTAKEN}, or their coordinator has failed, which its log would say") from error
        raise
    done(manager.initialize_transactions)  # which waits for the markers
    manager.transactional_id = None  # what follows is in no transaction
    return marked


def may_begin(admin: KafkaAdminClient, name: str) -> bool:
    """Whether the brokers let this user begin runs of this name. To ask begins none: Kafka looks at the right first,
    and then refuses a transaction that may take no time, whatever its name.

    Raises:
        KafkaError: no answer.
    """
    error: type[KafkaError] = admin._manager.run(_asked_for_no_time, admin, name)
    return error is not TransactionalIdAuthorizationFailedError


async def _asked_for_no_time(admin: KafkaAdminClient, name: str) -> type[KafkaError]:
    answer = await admin._manager.send(InitProducerIdRequest(transactional_id=name, transaction_timeout_ms=0))
    error: type[KafkaError] = for_code(answer.error_code)
    return error


def without_marker(
    admin: KafkaAdminClient, partitions: Collection[TopicPartition], marked: ProducerIdAndEpoch
) -> list[int]:
    """Partitions that take records of earlier runs, because they have no marker: while a partition has no leader, the
    coordinator drops its markers, and says all the same that the transaction is complete.

    A leader that knows no producer at all had no run within the last day. Brokers before Kafka 2.8 do not tell.

    Raises:
        KafkaError: a leader does not answer.
    """
    [topic] = {partition.topic for partition in partitions}
    [described] = admin.describe_topics([topic])
    asked = {partition.partition for partition in partitions}
    away = [p["partition_index"] for p in described["partitions"] if p["leader_id"] < 0]
    if lacking := sorted(asked.intersection(away)):
        return lacking
    try:
        told = admin.describe_producers(partitions)
    except (IncompatibleBrokerVersion, UnsupportedVersionError):
        return []
    return sorted(
        at.partition
        for at, known in told.items()
        if known.active_producers and not any(_has_begun(one, marked) for one in known.active_producers)
    )


def _has_begun(producer: Any, marked: ProducerIdAndEpoch) -> bool:
    return bool(producer.producer_id == marked.producer_id and producer.producer_epoch >= marked.epoch)


def failure_of_run(producer: KafkaProducer) -> Exception | None:
    """What the first batch that failed has failed with, which has ended the run; None if it goes on."""
    manager = producer._transaction_manager
    error: Exception | None = manager.last_error if manager.has_fatal_error() else None
    return error
