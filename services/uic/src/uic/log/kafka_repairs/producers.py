"""Idempotent producers that go on after an outage, and say whether a record can be in the log."""

from __future__ import annotations

from typing import Any, Final

from kafka import KafkaProducer
from kafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnsupportedCompressionTypeError,
    UnsupportedForMessageFormatError,
)
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import TransactionManager, TransactionState

REFUSALS: Final = (
    ClusterAuthorizationFailedError,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnsupportedCompressionTypeError,
    UnsupportedForMessageFormatError,
)
"""What a record of a repaired producer fails with if the brokers refused it and surely did not append it."""


class _TransactionManager(TransactionManager):  # type: ignore[misc]  # kafka-python has no types
    """The producer's id, which is asked for again after it was given up.

    The library gives the id up when a record's time is over that it had sent without an answer, as after any outage
    that is longer than that time. It stays in the state of a producer that has an id, in which it asks for none: such a
    producer never sends anything again.
    """

    _current_state: Any

    def init_producer_id(self) -> None:
        """Ask for an id; the library calls it whenever there is none."""
        with self._lock:
            if self._current_state is TransactionState.READY and not self.has_producer_id():
                self._current_state = TransactionState.UNINITIALIZED
            super().init_producer_id()


class _Sender(Sender):  # type: ignore[misc]  # kafka-python has no types
    """A sender whose records fail with one of `REFUSALS` if, and only if, the brokers did not append them.

    The library says the same of a record that was refused when it was sent again, of which the first try may be in the
    log, and of all other records that were on their way when one was refused.
    """

    def _dispatch_error(self, batch: Any, exception: Any, partition_response: Any) -> None:
        if isinstance(exception, REFUSALS) and (batch.in_retry() or partition_response is None):
            exception = KafkaError(f"refused when it was sent again: {exception!r}")
        super()._dispatch_error(batch, exception, partition_response)

    def _maybe_abort_batches(self, exc: Exception) -> None:
        waiting = self._accumulator._incomplete.all()
        if _no_id(exc) and not any(batch.in_retry() or batch.drained for batch in waiting):
            exc = ClusterAuthorizationFailedError("the brokers give the producer no id")
        elif isinstance(exc, REFUSALS):
            exc = KafkaError(f"another record was refused, which ended the producer: {exc!r}")
        super()._maybe_abort_batches(exc)


def _no_id(exc: Exception) -> bool:
    """Whether the brokers refused the producer an id, of which the library keeps no more than the error's name."""
    return all(part in str(exc) for part in ("InitProducerIdResponse", ClusterAuthorizationFailedError.__name__))


def repair_producer(producer: KafkaProducer) -> None:
    """Apply both repairs to an idempotent producer that `open_kafka_client` has opened."""
    producer._sender.__class__ = _Sender
    producer._transaction_manager.__class__ = _TransactionManager


def has_failed(producer: KafkaProducer) -> bool:
    """Whether an idempotent producer has failed for good: it takes records only to let them fail."""
    return bool(producer._transaction_manager.has_fatal_error())


def end_sender(producer: KafkaProducer) -> None:
    """End the producer's thread at once. `close` flushes first and, when that takes too long, raises and lets the
    thread go on for ever."""
    producer._sender.force_close()
    producer._sender.join(1.0)
