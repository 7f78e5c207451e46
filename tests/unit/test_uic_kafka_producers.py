"""A repaired producer goes on after an outage, and says of a failed record whether it can be in the log."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
from kafka import TopicPartition
from kafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidProducerEpochError,
    InvalidTimestampError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    OutOfOrderSequenceNumberError,
    SaslAuthenticationFailedError,
    TopicAuthorizationFailedError,
    UnknownBrokerIdError,
    UnknownError,
    for_code,
)
from kafka.future import Future
from kafka.producer.producer_batch import ProducerBatch
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import ProducerIdAndEpoch, TransactionManager, TransactionState
from kafka.record import MemoryRecords

from uic.log.kafka_repairs import clients, producers, runs
from uic.log.kafka_repairs.producers import REFUSALS, NeverSent, NotAppended, OtherCount, repair_producer
from uic.log.kafka_repairs.withdrawal import withdraw

TOPIC = "behavior-events"
FULL = bytes(16_000)
"""A value that has a batch of its own."""


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


@pytest.mark.parametrize("listed", [(0,), (0, 1, 2)], ids=["one is listed", "all are listed"])
def test_each_record_of_a_batch_that_is_refused_fails_with_the_brokers_reason(listed: tuple[int, ...]) -> None:
    line = Line()
    records = [line.add(0) for _ in range(3)]
    [sent] = line.turn()
    sent.answered(InvalidTimestampError, records=[(index, "out of range") for index in listed])
    assert [type(record.exception) for record in records] == [InvalidTimestampError] * 3


@pytest.mark.parametrize("kind", [TopicAuthorizationFailedError, MessageSizeTooLargeError])
def test_a_record_that_is_refused_when_it_is_sent_again_may_be_in_the_log(kind: type[Exception]) -> None:
    batches = Batches()
    batch = batches.add()
    batch.retry()
    found = batches.refuse(batch, kind)
    assert not isinstance(found, REFUSALS)
    assert kind.__name__ in str(found)


@pytest.mark.parametrize(
    "kind",
    [
        ClusterAuthorizationFailedError,
        InvalidTimestampError,
        MessageSizeTooLargeError,
        TopicAuthorizationFailedError,
        UnknownError,
    ],
)
def test_a_record_that_is_refused_costs_no_other_record(kind: type[Exception]) -> None:
    line = Line()
    refused, other = line.add(0), line.add(1)
    first, second = line.turn()
    behind = line.add(0)
    first.answered(kind)
    assert isinstance(refused.exception, kind)
    [next_one] = line.turn()
    assert next_one.place == (0, 1, 0), "the brokers count nothing that they refuse, and the next epoch asks no one"
    second.answered()
    next_one.answered()
    assert (other.succeeded(), behind.succeeded(), line.manager.has_fatal_error()) == (True, True, False)


@pytest.mark.parametrize("sent", [False, True], ids=["never sent", "sent under an earlier id"])
def test_what_waits_for_an_id_that_is_refused_is_refused_unless_it_was_sent_before(sent: bool) -> None:
    batches = Batches()
    batch = batches.add()
    if sent:
        batch.drained = 1.0
    said = f"Unexpected error in InitProducerIdResponse: {ClusterAuthorizationFailedError()}"
    batches.sender._maybe_abort_batches(KafkaError(said))
    assert isinstance(failure(batch), REFUSALS) is not sent


class Sent(NamedTuple):
    """A batch on its way, with the place among the records of its partition that its producer gives it."""

    partition: int
    epoch: int
    sequence: int
    answer: Future
    values: tuple[bytes, ...]

    @property
    def place(self) -> tuple[int, int, int]:
        return self[:3]

    def answered(self, error: Any = None, *, records: Sequence[tuple[int, str]] = ()) -> None:
        """The leader answers; `error` is None if it has appended the batch, else it may list `records` with it."""
        answer = SimpleNamespace(
            index=self.partition,
            error_code=(error or for_code(0)).errno,
            error_message="",
            log_start_offset=-1,
            log_append_time_ms=-1,
            base_offset=0,
            record_errors=list(records),
        )
        topic = SimpleNamespace(name=TOPIC, partition_responses=[answer])
        self.answer.success(SimpleNamespace(responses=[topic]))


class Line:
    """A repaired sender whose brokers answer when the test does; each partition has a leader of its own."""

    DELIVERY_MS = 5000

    def __init__(self, *, of_run: bool = False) -> None:
        self.manager = with_id(TransactionManager(api_version=(4, 0)))
        self.accumulator = RecordAccumulator(
            transaction_manager=self.manager,
            delivery_timeout_ms=self.DELIVERY_MS,
            request_timeout_ms=self.DELIVERY_MS,
            retry_backoff_ms=0,
        )
        self.away: set[int] = set()
        """Leaders that there is no connection to."""
        self.updates: list[None] = []
        """How often the brokers were asked who leads."""
        self._sent: list[Sent] = []
        cluster = SimpleNamespace(
            leader_for_partition=lambda tp: tp.partition,
            partitions_for_broker=lambda node: {TopicPartition(TOPIC, node)},
            request_update=lambda: self.updates.append(None),
        )
        client = SimpleNamespace(
            cluster=cluster,
            is_ready=lambda node: node not in self.away,
            connection_delay=lambda node: 0,
            maybe_connect=lambda node, wakeup: None,
            send=self._send,
        )
        self.sender: Any = Sender(
            client, None, self.accumulator, transaction_manager=self.manager, guarantee_message_order=True, acks=-1
        )
        self.producer: Any = SimpleNamespace(_sender=self.sender, _transaction_manager=self.manager)
        (runs.repair_run if of_run else repair_producer)(self.producer)

    def _send(self, node: int, request: Any, wakeup: bool) -> Future:
        [topic] = request.topic_data
        [partition] = topic.partition_data
        batch = MemoryRecords(bytes(partition.records)).next_batch()
        values = tuple(bytes(record.value) for record in batch)
        self._sent.append(Sent(partition.index, batch.producer_epoch, batch.base_sequence, Future(), values))
        return self._sent[-1].answer

    def add(self, partition: int, value: bytes = b"value") -> Any:
        """A record of a caller, whose future is given."""
        future, *_ = self.accumulator.append(TopicPartition(TOPIC, partition), None, b"key", value, [])
        return future

    def withdraw(self, *futures: Any) -> None:
        """The time of their caller is over."""
        withdraw(cast(Any, SimpleNamespace(_accumulator=self.accumulator)), futures)

    def turn(self) -> list[Sent]:
        """What goes out."""
        self._sent = []
        self.sender._send_producer_data()
        return self._sent

    def let_expire(self, future: Any) -> None:
        """The time of a record is over."""
        self.let_wait(future, self.DELIVERY_MS / 1000)

    def let_wait(self, future: Any, seconds: float) -> None:
        """So much of a record's time is over."""
        [batch] = [one for one in self.accumulator._incomplete.all() if one.produce_future is future._produce_future]
        batch.created -= seconds


def test_a_record_without_an_answer_costs_no_other_record() -> None:
    line = Line()
    lost, other = line.add(0), line.add(1)
    assert [one.place for one in line.turn()] == [(0, 0, 0), (1, 0, 0)]
    line.let_expire(lost)
    after = line.add(0)
    [sent] = line.turn()
    assert isinstance(lost.exception, KafkaTimeoutError)
    assert sent.place == (0, 1, 0), "the brokers may have counted the lost one, or not"
    sent.answered()
    assert after.succeeded()
    assert not other.is_done


def test_a_record_that_ends_behind_one_on_its_way_sends_no_other_one_beside_it() -> None:
    line = Line()
    lost = line.add(0)
    line.turn()
    behind = line.add(0, FULL)
    after = line.add(0, FULL)
    assert line.turn() == [], "one at a time"
    line.let_expire(lost)
    line.let_expire(behind)
    [sent] = line.turn()
    assert isinstance(lost.exception, KafkaTimeoutError)
    assert isinstance(behind.exception, NeverSent)
    assert sent.place == (0, 1, 0), "in the next epoch, because the brokers may have counted the lost one"
    sent.answered()
    assert after.succeeded()


@pytest.mark.parametrize("lost_beside", [False, True], ids=["in the same epoch", "in the next epoch"])
def test_a_batch_that_is_too_large_goes_on_in_halves_from_where_the_brokers_count(lost_beside: bool) -> None:
    line = Line()
    line.add(0)
    [first] = line.turn()
    first.answered()
    large, other = [line.add(0) for _ in range(2)], line.add(1)
    sent, _ = line.turn()
    assert sent.place == (0, 0, 1)
    if lost_beside:
        line.let_expire(other)
        line.turn()
    sent.answered(MessageSizeTooLargeError)
    for place in ((0, 1, 0), (0, 1, 1)) if lost_beside else ((0, 0, 1), (0, 0, 2)):
        [half] = line.turn()
        assert half.place == place
        half.answered()
    assert all(record.succeeded() for record in large)


@pytest.mark.parametrize("how", ["refused for now", "cut off"])
def test_what_is_sent_again_after_another_partitions_loss_keeps_its_place(how: str) -> None:
    line = Line()
    lost, other = line.add(0), line.add(1)
    _, sent = line.turn()
    line.let_expire(lost)
    line.turn()
    assert lost.failed()
    if how == "cut off":
        sent.answer.failure(KafkaConnectionError())
    else:
        sent.answered(NotLeaderForPartitionError)
    later = line.add(1)
    [again] = line.turn()
    assert again.place == sent.place, "the brokers may have it, and know it by its place"
    again.answered()
    assert other.succeeded()
    [sent] = line.turn()
    assert sent.place == (1, 1, 0)
    sent.answered()
    assert later.succeeded()


def test_a_record_that_waits_to_be_sent_again_in_vain_keeps_nothing_that_waits_beside_it() -> None:
    line = Line()
    lost = line.add(0)
    [sent] = line.turn()
    sent.answer.failure(KafkaConnectionError())
    line.away = {0}
    line.let_expire(lost)
    other = line.add(1)
    [sent] = line.turn()
    assert isinstance(lost.exception, KafkaTimeoutError)
    sent.answered()
    assert other.succeeded()
    line.away = set()
    line.add(0)
    assert [one.place for one in line.turn()] == [(0, 1, 0)]


@pytest.mark.parametrize("error", [None, NotLeaderForPartitionError, OutOfOrderSequenceNumberError])
def test_the_late_answer_of_a_lost_record_changes_nothing(error: Any) -> None:
    line = Line()
    lost, other = line.add(0), line.add(1)
    late, sent = line.turn()
    line.let_expire(lost)
    line.turn()
    line.add(0)
    [second] = line.turn()
    late.answered(error)
    assert isinstance(lost.exception, KafkaTimeoutError)
    line.add(0)
    assert line.turn() == [], "one at a time, so that none overtakes another"
    second.answered()
    sent.answered()
    assert other.succeeded()
    assert [one.place for one in line.turn()] == [(0, 1, 1)]


def test_while_a_leader_takes_no_connection_the_brokers_are_asked_who_leads_and_no_core_is_kept_busy() -> None:
    line = Line()
    line.away = {0}
    waits = line.add(0)
    line.turn()
    assert line.updates == []
    line.let_wait(waits, 1.1)
    pauses = [line.sender._send_producer_data() for _ in range(10)]
    assert len(line.updates) == 1, "once a second"
    assert min(pauses) >= 20
    line.let_expire(waits)
    line.turn()
    assert len(line.updates) == 2


@pytest.mark.parametrize("error", [UnknownBrokerIdError(0), SaslAuthenticationFailedError("refused")])
def test_a_leader_that_cannot_be_connected_to_keeps_no_other_leader_waiting(error: Exception) -> None:
    def get_connection(node: int) -> None:
        raise error

    line = Line()
    line.away = {0}
    network = clients.NetClient(SimpleNamespace(), SimpleNamespace(get_connection=get_connection))
    line.sender._client.maybe_connect = network.maybe_connect
    line.add(0)
    other = line.add(1)
    [sent] = line.turn()
    sent.answered()
    assert other.succeeded()


def test_a_record_that_was_never_sent_is_not_missed() -> None:
    line = Line()
    line.away = {0}
    lost = line.add(0)
    assert line.turn() == []
    line.let_expire(lost)
    line.turn()
    assert isinstance(lost.exception, NeverSent), "so it is surely not in the log"
    line.away = set()
    line.add(0)
    assert [one.place for one in line.turn()] == [(0, 0, 0)]


def test_what_is_withdrawn_before_it_was_sent_is_never_sent_and_leaves_no_gap() -> None:
    line = Line()
    line.away = {0}
    one, other = line.add(0), line.add(1)
    [of_the_other] = line.turn()
    line.withdraw(one, other)
    assert isinstance(one.exception, NeverSent)
    assert not other.is_done, "it is on its way"
    line.away.clear()
    after = line.add(0)
    [sent] = line.turn()
    assert (of_the_other.place, sent.place) == ((1, 0, 0), (0, 0, 0))
    for each in (sent, of_the_other):
        each.answered()
    assert after.succeeded()
    assert other.succeeded()
    assert not line.accumulator.has_incomplete


def test_what_was_sent_before_is_not_withdrawn() -> None:
    line = Line()
    again = line.add(0)
    [first] = line.turn()
    first.answered(NotLeaderForPartitionError)
    line.withdraw(again)
    assert not again.is_done, "it waits for its second try, and the first may be in the log"
    [second] = line.turn()
    second.answered()
    assert again.succeeded()


def test_of_a_batch_that_several_callers_share_each_withdraws_its_own_records() -> None:
    line = Line()
    line.away = {0}
    futures = [line.add(0, value) for value in (b"1", b"2", b"3", b"4")]
    line.let_wait(futures[0], 1)
    waits_since = line.accumulator._batches[TopicPartition(TOPIC, 0)][0].created
    line.withdraw(futures[0], futures[2])
    line.withdraw(futures[3])
    assert [isinstance(future.exception, NeverSent) for future in futures] == [True, False, True, True]
    assert not futures[1].is_done, "its time is not over"
    futures.append(line.add(0, b"5"))
    [batch] = line.accumulator._batches[TopicPartition(TOPIC, 0)]
    assert batch.created == waits_since, "its time is what it was"
    line.away.clear()
    [sent] = line.turn()
    assert sent.values == (b"2", b"5")
    sent.answered()
    assert [futures[n].value.offset for n in (1, 4)] == [0, 1]
    assert not line.accumulator.has_incomplete
    line.withdraw(*futures)
    assert futures[1].succeeded(), "it is in the log"


def test_a_producer_that_ends_tells_what_waits_itself() -> None:
    line = Line()
    waiting = line.add(0)
    line.accumulator.close()
    line.withdraw(waiting)
    assert not waiting.is_done
    line.accumulator.abort_incomplete_batches()
    assert waiting.failed()


def test_a_record_at_the_wrong_place_is_surely_not_in_the_log_and_costs_no_producer() -> None:
    line = Line()
    refused = line.add(0)
    [sent] = line.turn()
    sent.answered(OutOfOrderSequenceNumberError)
    assert isinstance(refused.exception, NotAppended)
    assert not line.manager.has_fatal_error()
    line.add(0)
    assert [one.place for one in line.turn()] == [(0, 1, 0)]


def test_a_record_at_the_wrong_place_that_was_sent_before_may_be_in_the_log() -> None:
    line = Line()
    lost = line.add(0)
    [sent] = line.turn()
    sent.answer.failure(KafkaConnectionError())
    [again] = line.turn()
    again.answered(OutOfOrderSequenceNumberError)
    assert isinstance(lost.exception, OtherCount)
    assert not isinstance(lost.exception, (NotAppended, *REFUSALS))


def test_after_the_last_epoch_comes_another_id() -> None:
    line = Line()
    line.manager.set_producer_id_and_epoch(ProducerIdAndEpoch(7, 32766))
    line.manager.bump_producer_id_and_epoch()
    assert line.manager.producer_id_and_epoch == ProducerIdAndEpoch(7, 32767)
    line.manager.bump_producer_id_and_epoch()
    line.manager.init_producer_id()
    assert len(line.manager._pending_requests) == 1


@pytest.mark.parametrize("how", ["expired", "refused", "expired before it was sent"])
def test_the_first_record_of_a_run_that_fails_is_the_last_one_that_it_sends(how: str) -> None:
    line = Line(of_run=True)
    if how == "expired before it was sent":
        line.away = {0}
    failed, other = line.add(0), line.add(1)
    sent = line.turn()
    behind = line.add(0)
    line.add(1)
    if how == "refused":
        sent[0].answered(TopicAuthorizationFailedError)
    else:
        line.let_expire(failed)
    line.away = set()
    assert line.turn() == []
    sent[-1].answered()
    assert other.succeeded(), "it was on its way, and its answer came"
    assert line.turn() == [], "in no partition"
    error = runs.failure_of_run(line.producer)
    assert failed.exception is error
    assert error is not None
    line.sender._maybe_abort_batches(error)
    assert not isinstance(behind.exception, REFUSALS), "the reason of the first one is not that of the others"
    assert line.turn() == []


def test_a_run_keeps_its_first_failure_and_its_epoch() -> None:
    line = Line(of_run=True)
    first, second = line.add(0), line.add(1)
    one, other = line.turn()
    one.answered(InvalidTimestampError)
    other.answered(MessageSizeTooLargeError)
    assert isinstance(runs.failure_of_run(line.producer), InvalidTimestampError)
    assert isinstance(second.exception, MessageSizeTooLargeError)
    assert isinstance(first.exception, InvalidTimestampError)
    assert line.manager.producer_id_and_epoch == ProducerIdAndEpoch(7, 0)


def test_a_record_of_a_run_is_sent_again_in_its_place() -> None:
    line = Line(of_run=True)
    record = line.add(0)
    [sent] = line.turn()
    sent.answer.failure(KafkaConnectionError())
    [again] = line.turn()
    assert again.place == sent.place
    again.answered()
    assert record.succeeded()
    assert runs.failure_of_run(line.producer) is None


def test_a_run_that_another_one_has_overtaken_says_so() -> None:
    line = Line(of_run=True)
    record = line.add(0)
    [sent] = line.turn()
    sent.answered(InvalidProducerEpochError)
    assert isinstance(record.exception, runs.Overtaken)
