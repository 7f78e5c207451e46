"""Idempotent producers that go on after an outage, and say whether a record can be in the log.

Brokers count the records of each partition by the producer's id and its epoch, and take a batch only if it is the next
one. A record that was sent, and of which no answer came in time, may or may not have been counted. So the producer goes
on in the next epoch, in which the count of each partition begins at zero. The brokers then refuse what an earlier epoch
still has on its way to them, so a record that was given up is never appended behind a later one.

A sender has one batch of a partition on its way at a time. So a batch that is sent again in its own epoch never comes
behind one of a later epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from kafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidProducerEpochError,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumberError,
    PolicyViolationError,
    RecordListTooLargeError,
    RetriableError,
    TopicAuthorizationFailedError,
    UnknownProducerIdError,
    UnsupportedCompressionTypeError,
    UnsupportedForMessageFormatError,
)
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import ProducerIdAndEpoch, TransactionManager, TransactionState

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
_OTHER_COUNT: Final = (InvalidProducerEpochError, OutOfOrderSequenceNumberError, UnknownProducerIdError)
"""How brokers refuse a batch because they count the producer's records otherwise, as after they lost some."""
_LAST_EPOCH: Final = 32767
_WAITS_S: Final = 1.0
"""From when on a record that is not sent has the brokers asked, as often, who leads its partition now."""
_PAUSE_MS: Final = 20
"""The least pause while such a record waits; an answer, or a new record, ends it."""


class OtherCount(RetriableError):  # type: ignore[misc]  # kafka-python has no types
    """The brokers count the producer's records otherwise, so they did not append this try of a record."""


class NotAppended(RetriableError):  # type: ignore[misc]  # kafka-python has no types
    """The record is surely not in the log, and may be sent again as a new one: the brokers count otherwise, and this
    was its only try; or it was not sent before its producer ended."""


class NeverSent(NotAppended):
    """The same of a record whose time was over before its leader could be sent it."""


class _TransactionManager(TransactionManager):  # type: ignore[misc]  # kafka-python has no types
    """The producer's id and epoch. The epoch is the producer's own to count, as Java's client does.

    The library asks the brokers for another id instead, sends nothing meanwhile, and drops what has to be sent again.
    And where it gives an id up without asking for another one, it stays in the state of a producer that has one: such a
    producer never sends anything again.
    """

    _current_state: Any

    def bump_producer_id_and_epoch(self) -> None:
        """Go on in the next epoch, with another id after the last one."""
        with self._lock:
            if self.has_fatal_error() or not self.has_producer_id():
                return
            now = self.producer_id_and_epoch
            self.reset_producer_id()
            if now.epoch < _LAST_EPOCH:
                self.set_producer_id_and_epoch(ProducerIdAndEpoch(now.producer_id, now.epoch + 1))

    def classify_batch_error(self, error: Any, batch: Any, log_start_offset: int = -1) -> Any:
        """What the library does after a batch that failed: nothing, because `_Sender` goes on in the next epoch. The
        library ends the producer after a refusal, and with it everything that is on its way."""
        return self.ERROR_CLASS_RETRIABLE

    def init_producer_id(self) -> None:
        """Ask for an id; the library calls it whenever there is none."""
        with self._lock:
            if self._current_state is TransactionState.READY and not self.has_producer_id():
                self._current_state = TransactionState.UNINITIALIZED
            super().init_producer_id()


class _Sender(Sender):  # type: ignore[misc]  # kafka-python has no types
    """A sender that goes on in the next epoch after each record that was sent and failed, before it sends another one
    of that partition. Its records fail with one of `REFUSALS`, or `NotAppended`, if, and only if, it is sure that the
    brokers did not append them.

    After a record without an answer the library goes on in the same epoch, so the next record of the partition fails if
    that one was not counted. Of a record that was refused when it was sent again, of which the first try may be in the
    log, it says the same as of one that was refused at once.

    While a leader takes no connection, the library keeps to it until connecting has failed, though another one may lead
    by now. And it looks for what there is to send without any pause, which takes a core.
    """

    _asked_at = 0.0
    """When the brokers were asked last who leads; monotonic, in seconds."""

    def _send_producer_data(self, now: float | None = None) -> Any:
        """Send what waits, once it is told which records' time is over. The library chooses first what to send, and if
        one whose time is over had been sent before, it never sends what it chose.

        What is on its way comes first: the end of a batch lets its partition's next one go, and that of one behind it
        would do so beside it."""
        now = time.monotonic() if now is None else now
        self._expire(super()._get_expired_inflight_batches(now=now))
        self._expire(self._accumulator.expired_batches(now=now))
        poll_ms = super()._send_producer_data(now=now)
        if not self._waits(since=now - _WAITS_S):
            return poll_ms
        if now - self._asked_at >= _WAITS_S:
            self._asked_at = now
            self._metadata.request_update()
        return max(poll_ms, _PAUSE_MS)

    def _waits(self, since: float) -> bool:
        """Whether a record has waited since then; a caller's thread may withdraw one meanwhile."""
        accumulator = self._accumulator
        for partition, line in list(accumulator._batches.items()):
            with accumulator._tp_lock(partition):
                if line and line[0].created <= since:
                    return True
        return False

    def _get_expired_inflight_batches(self, now: float | None = None) -> list[Any]:
        """None, because it is told here, for the same reason."""
        self._expire(super()._get_expired_inflight_batches(now=now))
        return []

    def _expire(self, batches: list[Any]) -> None:
        for batch in batches:
            error = KafkaTimeoutError if batch.drained or batch.in_retry() else NeverSent
            self._complete_batch_with_exception(batch, error("not acknowledged in time"))
        if batches:  # whose leader may be another one by now
            self._metadata.request_update()

    def _can_retry(self, batch: Any, error_cls: type[Exception]) -> bool:
        """Whether to send a batch again; the library drops one of an earlier epoch."""
        return (
            issubclass(error_cls, RetriableError)
            and not issubclass(error_cls, (NotAppended, OtherCount))
            and batch.attempts < self.config["retries"]
            and not batch.has_reached_delivery_timeout(self._accumulator.delivery_timeout_ms)
        )

    def _complete_batch(self, batch: Any, partition_response: Any) -> None:
        """An answer came. One that is late must not let the partition's next batch go, of which another is on its
        way."""
        if not batch.is_done:
            super()._complete_batch(batch, partition_response)

    def _dispatch_error(self, batch: Any, exception: Any, partition_response: Any) -> None:
        if batch.is_done:
            return
        only_try = partition_response is not None and not batch.in_retry()
        if isinstance(exception, _OTHER_COUNT):
            exception = (NotAppended if only_try else OtherCount)(repr(exception))
        elif isinstance(exception, REFUSALS) and not only_try:
            exception = KafkaError(f"refused when it was sent again: {exception!r}")
        manager, partition = self._transaction_manager, batch.topic_partition
        counted = manager.sequence_number(partition)
        super()._dispatch_error(batch, exception, partition_response)
        if manager.producer_id_and_epoch.match(batch):
            if batch.is_done:
                manager.bump_producer_id_and_epoch()
        elif not batch.is_done:  # the library counts from where the batch began, which was in an earlier epoch
            manager.set_sequence_number(partition, counted)

    def _record_exceptions_fn(self, top_level_exception: Exception, *_: object) -> Callable[[int], Exception]:
        """What each record of a batch fails with: brokers append all of a batch or none. Of one with several records
        that they refuse for their time, the library says that the records are invalid, and of those that they do not
        list no more than that there was an error."""
        return lambda _: top_level_exception

    def _maybe_abort_batches(self, exc: Exception) -> None:
        waiting = self._accumulator._incomplete.all()
        if _no_id(exc) and not any(batch.in_retry() or batch.drained for batch in waiting):
            exc = ClusterAuthorizationFailedError("the brokers give the producer no id")
        super()._maybe_abort_batches(exc)


def _no_id(exc: Exception) -> bool:
    """Whether the brokers refused the producer an id, of which the library keeps no more than the error's name."""
    return all(part in str(exc) for part in ("InitProducerIdResponse", ClusterAuthorizationFailedError.__name__))
