"""A repaired producer goes on after an outage, and says of a failed record whether it can be in the log."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)
from kafka.producer.producer_batch import ProducerBatch
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import ProducerIdAndEpoch, TransactionManager, TransactionState

from uic.log.kafka_repairs import producers
from uic.log.kafka_repairs.producers import REFUSALS, repair_producer

TOPIC = "behavior-events"


def with_id(manager: Any) -> Any:
    manager.init_producer_id()
    manager._pending_requests.clear()
    manager._transition_to(TransactionState.READY)
    manager.set_producer_id_and_epoch(ProducerIdAndEpoch(7, 0))
    return manager


def test_a_producer_that_gave_its_id_up_asks_for_another_one() -> None:
    library = with_id(TransactionManager(api_version=(4, 0)))
    library.reset_producer_id()
    library.init_producer_id()
    assert library._pending_requests == [], "so it never sends anything again"
    repaired = with_id(producers._TransactionManager(api_version=(4, 0)))
    repaired.init_producer_id()
    assert repaired._pending_requests == [], "it has an id"
    repaired.reset_producer_id()
    for _ in range(3):
        repaired.init_producer_id()
    assert len(repaired._pending_requests) == 1


class Batches:
    """A repaired sender without a broker; a batch of it is `refused` or `aborted`."""

    def __init__(self) -> None:
        self.waiting: list[ProducerBatch] = []
        accumulator = SimpleNamespace(
            _incomplete=SimpleNamespace(all=lambda: list(self.waiting)),
            has_incomplete=True,
            abort_batches=self._abort,
            delivery_timeout_ms=5000,
            deallocate=lambda batch: None,
        )
        self.sender: Any = object.__new__(Sender)
        self.sender.config = {
            "retries": 10,
            "guarantee_message_order": False,
            "client_id": "",
            "transactional_id": None,
        }
        self.sender._accumulator = accumulator
        self.sender._in_flight_batches = {}
        self.sender._sensors = None
        self.sender._transaction_manager = with_id(TransactionManager(api_version=(4, 0)))
        repair_producer(SimpleNamespace(_sender=self.sender, _transaction_manager=self.sender._transaction_manager))

    def _abort(self, error: Exception) -> None:
        for batch in self.waiting:
            batch.abort(error)

    def add(self) -> ProducerBatch:
        records: Any = SimpleNamespace(next_offset=lambda: 1, producer_id=7, producer_epoch=0, base_sequence=0)
        self.waiting.append(ProducerBatch(TopicPartition(TOPIC, 0), records))
        return self.waiting[-1]

    def refuse(self, batch: ProducerBatch, error: Any) -> Exception:
        """What its records fail with when the brokers answer with `error`."""
        answer = SimpleNamespace(
            error_code=error.errno,
            error_message="",
            log_start_offset=-1,
            base_offset=-1,
            record_errors=[],
        )
        self.sender._complete_batch(batch, answer)
        return failure(batch)


def failure(batch: ProducerBatch) -> Exception:
    error: Exception = batch.produce_future.value[2](0)
    return error


@pytest.mark.parametrize("kind", [TopicAuthorizationFailedError, MessageSizeTooLargeError])
def test_a_record_that_is_refused_at_its_first_try_is_surely_not_in_the_log(kind: type[Exception]) -> None:
    batches = Batches()
    assert isinstance(batches.refuse(batches.add(), kind), kind)


@pytest.mark.parametrize("kind", [TopicAuthorizationFailedError, MessageSizeTooLargeError])
def test_a_record_that_is_refused_when_it_is_sent_again_may_be_in_the_log(kind: type[Exception]) -> None:
    batches = Batches()
    batch = batches.add()
    batch.retry()
    found = batches.refuse(batch, kind)
    assert not isinstance(found, REFUSALS)
    assert kind.__name__ in str(found)


def test_what_is_on_its_way_when_another_record_is_refused_may_be_in_the_log() -> None:
    batches = Batches()
    other_one = batches.add()
    batches.sender._maybe_abort_batches(TopicAuthorizationFailedError("another topic"))
    assert not isinstance(failure(other_one), REFUSALS)


@pytest.mark.parametrize("sent", [False, True], ids=["never sent", "sent under an earlier id"])
def test_what_waits_for_an_id_that_is_refused_is_refused_unless_it_was_sent_before(sent: bool) -> None:
    batches = Batches()
    batch = batches.add()
    if sent:
        batch.drained = 1.0
    said = f"Unexpected error in InitProducerIdResponse: {ClusterAuthorizationFailedError()}"
    batches.sender._maybe_abort_batches(KafkaError(said))
    assert isinstance(failure(batch), REFUSALS) is not sent
