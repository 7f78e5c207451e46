"""Appending while the brokers are away or slow: who waits for what, for how long, and what is sent then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidTimestampError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)

from localstack.wait import until
from support.fake_event_log import FakeEventLog
from uic.core.kafka_tools import KafkaTools
from uic.core.topics import erased_topic
from uic.doors import publisher
from uic.doors.publisher import Publisher
from uic.errors import LogRefused, LogUnavailable, NotAcknowledged, NotSent, UnsuitableTopic, WrongClock
from uic.log import event_log
from uic.log.erasures import decode_erasure
from uic.log.event_log import DELIVERY_SHARE, VERDICT_MARGIN_S, KafkaLog, NewRecord, Position
from uic.log.kafka_repairs.producers import NeverSent, NotAppended, OtherCount

TIMEOUT_S = 2.0
DELIVERY_S = DELIVERY_SHARE * TIMEOUT_S
HUGE = b"a record that is larger than a request may be"
MAX_REQUEST_BYTES = 3 << 20


@dataclass
class Clock:
    """Stands for the module `time` in the log."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Future:
    """A record on its way. `waited` is called with the time that its caller waits for it."""

    waited: Callable[[float], None]
    is_done: bool = False
    exception: KafkaError | None = None

    def get(self, timeout: float) -> Position:
        try:
            self.waited(timeout)
        except KafkaError as error:
            if not isinstance(error, KafkaTimeoutError):
                self.fail(error)
            raise
        self.is_done = True
        return Position(0, 7)

    def fail(self, error: KafkaError) -> None:
        self.is_done, self.exception = True, error


@dataclass
class Producer:
    """A producer that acknowledges everything, unless told otherwise."""

    waited: Callable[[float], None] = lambda timeout: None
    sent: list[bytes] = field(default_factory=list)
    closings: int = 0
    failed: bool = False
    """For good."""
    waits: bool = False
    """Whether what is late was never sent."""

    def withdraw(self, late: Sequence[Future]) -> None:
        for future in late if self.waits else ():
            future.fail(NeverSent("withdrawn"))

    @property
    def _transaction_manager(self) -> Any:
        return SimpleNamespace(has_fatal_error=lambda: self.failed)

    def partitions_for(self, topic: str) -> set[int]:
        return {0}

    def send(self, topic: str, **record: Any) -> Future:
        if self.closings:
            raise KafkaError("closed")
        if record["value"] == HUGE:
            raise MessageSizeTooLargeError("the client's limit")
        self.sent.append(record["value"])
        return Future(self.waited)

    def close(self, timeout: float) -> None:
        self.closings += 1


@dataclass
class Brokers:
    """What the log connects to: each connection is the next of `producers`, after `connecting` has returned."""

    producers: list[Producer]
    connecting: Callable[[], None] = lambda: None
    opened: int = 0

    def open(self, client: object, *, timeout_s: float, max_request_bytes: int) -> Producer:
        assert (timeout_s, max_request_bytes) == (DELIVERY_S, MAX_REQUEST_BYTES)
        self.opened += 1
        self.connecting()
        return self.producers.pop(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(event_log, "time", clock)
    return clock


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[[Brokers], KafkaLog]:
    def made(brokers: Brokers) -> KafkaLog:
        monkeypatch.setattr(event_log, "open_producer", brokers.open)
        monkeypatch.setattr(event_log, "withdraw", Producer.withdraw)
        return KafkaLog({}, timeout_s=TIMEOUT_S, max_request_bytes=MAX_REQUEST_BYTES)

    return made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def append(log: KafkaLog, timeout_s: float, value: bytes = b"event") -> list[Position]:
    return log.append("events", 1, [NewRecord(0, b"user", value)], timeout_s)


def test_nobody_waits_for_anothers_connection_longer_than_they_have_time(
    connect: Callable[[Brokers], KafkaLog], pool: ThreadPoolExecutor
) -> None:
    answered = threading.Event()

    def away() -> None:
        answered.wait(60)

    brokers = Brokers([Producer()], away)
    log = connect(brokers)
    try:
        first = pool.submit(append, log, 60)
        until(lambda: brokers.opened == 1, "one call connects", within_s=30)
        hasty = [pool.submit(append, log, 0.05) for _ in range(5)]
        errors = [call.exception(timeout=30) for call in hasty]
        assert not answered.is_set()
        assert all(type(error) is LogUnavailable and "still connecting" in str(error) for error in errors)
        patient = pool.submit(append, log, 60)
    finally:
        answered.set()
    assert first.result(30) == patient.result(30) == [Position(0, 7)]
    assert brokers.opened == 1


def test_what_its_caller_has_given_up_is_not_sent_and_the_connection_is_kept(
    connect: Callable[[Brokers], KafkaLog], clock: Clock
) -> None:
    def slow() -> None:
        clock.now += 1.5

    producer = Producer()
    log = connect(Brokers([producer], slow))
    with pytest.raises(LogUnavailable, match="nothing was written") as raised:
        append(log, 1.0, b"late")
    assert not isinstance(raised.value, NotAcknowledged)
    assert append(log, 1.0, b"in time") == [Position(0, 7)]
    assert (producer.sent, producer.closings) == ([b"in time"], 0)


def test_the_time_that_delivery_may_take_begins_with_the_first_record_sent(
    connect: Callable[[Brokers], KafkaLog], clock: Clock
) -> None:
    def slow() -> None:
        clock.now += DELIVERY_S + VERDICT_MARGIN_S  # by the old measure, its verdict would be due

    waited: list[float] = []

    def late(timeout: float) -> None:
        waited.append(timeout)
        clock.now += timeout
        raise KafkaTimeoutError

    silent, fresh = Producer(late), Producer()
    log = connect(Brokers([silent, fresh], slow))
    with pytest.raises(NotAcknowledged):
        append(log, DELIVERY_S + VERDICT_MARGIN_S + 1.0)
    assert waited == [pytest.approx(1.0)]
    assert silent.closings == 0, "its time is not over: others use it"
    with pytest.raises(NotAcknowledged):
        append(log, 60)
    assert waited[1:] == [pytest.approx(DELIVERY_S + VERDICT_MARGIN_S)]
    assert silent.closings == 1, "it did not report in time: it must send nothing any more"
    assert append(log, 60) == [Position(0, 7)]
    assert fresh.closings == 0


@pytest.mark.parametrize(
    ("error", "why", "of_records"),
    [
        (TopicAuthorizationFailedError("events"), "grant it WRITE", False),
        (ClusterAuthorizationFailedError("no id"), "IDEMPOTENT_WRITE", False),
        (MessageSizeTooLargeError(), "max.message.bytes", True),
    ],
)
def test_what_the_brokers_refuse_is_told_with_its_reason(
    connect: Callable[[Brokers], KafkaLog], error: KafkaError, why: str, of_records: bool
) -> None:
    def refuse(timeout: float) -> None:
        raise error

    producer = Producer(refuse)
    with pytest.raises(LogRefused, match="nothing was written") as refused:
        append(connect(Brokers([producer])), 1.0)
    assert why in refused.value.detail
    assert (refused.value.retriable, refused.value.of_records) == (False, of_records)
    assert producer.closings == 0, "it costs no producer"


def test_a_time_that_the_brokers_refuse_is_the_fault_of_the_clock_here_and_not_of_the_records(
    connect: Callable[[Brokers], KafkaLog],
) -> None:
    def refuse(timeout: float) -> None:
        raise InvalidTimestampError("Timestamp 1796981249991 of message with offset 0 is out of range.")

    log = connect(Brokers([Producer(refuse)]))
    with pytest.raises(WrongClock, match="clock") as refused:
        append(log, 1.0)
    assert refused.value.retriable, "another machine may do it, or this one later"


def test_a_note_that_is_refused_for_its_time_is_told_as_half_an_erasure() -> None:
    log = FakeEventLog({"events": 1, "events.erased": 1})
    log.untimely = {"events.erased"}
    with pytest.raises(WrongClock, match="half of the erasure was written") as refused:
        Publisher(log, "events", 1, KafkaTools("h:9092")).erase("user", timeout_s=1.0)
    assert refused.value.retriable


def test_a_note_that_no_leader_was_sent_is_not_told_as_nothing_written(monkeypatch: pytest.MonkeyPatch) -> None:
    log = FakeEventLog({"events": 1, "events.erased": 1})
    appending = log.append

    def append(topic: str, *given: Any) -> list[Position]:
        if topic == "events.erased":
            raise NotSent("nothing was written")
        return appending(topic, *given)

    monkeypatch.setattr(log, "append", append)
    with pytest.raises(LogUnavailable, match="repeat the call") as raised:
        Publisher(log, "events", 1, KafkaTools("h:9092")).erase("user", timeout_s=1.0)
    assert "nothing was written" not in raised.value.detail


def test_a_record_that_fits_no_request_is_refused_and_one_behind_others_is_what_is_missing(
    connect: Callable[[Brokers], KafkaLog],
) -> None:
    producer = Producer()
    log = connect(Brokers([producer]))
    with pytest.raises(LogRefused, match="too large"):
        append(log, 1.0, HUGE)
    records = [NewRecord(0, b"user", value) for value in (b"first", HUGE, b"last")]
    with pytest.raises(NotAcknowledged, match="too large") as raised:
        log.append("events", 1, records, 1.0)
    assert (raised.value.positions, producer.sent) == ((1, 2), [b"first"])


def test_a_refusal_beside_a_record_of_unknown_fate_is_unknown(connect: Callable[[Brokers], KafkaLog]) -> None:
    outcomes: list[KafkaError] = [TopicAuthorizationFailedError("events"), KafkaTimeoutError()]

    def fail(timeout: float) -> None:
        raise outcomes.pop(0)

    log = connect(Brokers([Producer(fail)]))
    with pytest.raises(NotAcknowledged) as raised:
        log.append("events", 1, [NewRecord(0, b"user", b"1"), NewRecord(0, b"user", b"2")], 1.0)
    assert raised.value.positions == (0, 1)


@pytest.mark.parametrize("beside", [None, OtherCount()], ids=["alone", "sent twice"])
def test_what_the_brokers_did_not_append_is_unwritten_unless_another_record_is_unknown(
    connect: Callable[[Brokers], KafkaLog], beside: KafkaError | None
) -> None:
    outcomes: list[KafkaError] = [NotAppended(), beside or NotAppended()]

    def fail(timeout: float) -> None:
        raise outcomes.pop(0)

    producer = Producer(fail)
    log = connect(Brokers([producer]))
    with pytest.raises(LogUnavailable) as raised:
        log.append("events", 1, [NewRecord(0, b"user", b"1"), NewRecord(0, b"user", b"2")], 1.0)
    assert isinstance(raised.value, NotAcknowledged) is (beside is not None)
    assert raised.value.detail.startswith("nothing was written: ") is (beside is None)
    assert raised.value.retriable is (beside is None)
    assert producer.closings == 0


@pytest.mark.parametrize("beside", [None, KafkaTimeoutError()], ids=["alone", "a late one"])
def test_what_no_leader_was_sent_may_be_sent_again_unless_another_record_is_unknown(
    connect: Callable[[Brokers], KafkaLog], beside: KafkaError | None
) -> None:
    outcomes: list[KafkaError] = [NeverSent(), beside or NeverSent()]

    def fail(timeout: float) -> None:
        raise outcomes.pop(0)

    log = connect(Brokers([Producer(fail)]))
    unknown = isinstance(beside, KafkaTimeoutError)
    with pytest.raises(NotAcknowledged if unknown else NotSent) as raised:
        log.append("events", 1, [NewRecord(0, b"user", b"1"), NewRecord(0, b"user", b"2")], 1.0)
    assert raised.value.retriable is not unknown
    assert "count" not in raised.value.detail


def test_a_producer_that_has_failed_for_good_is_replaced_before_it_is_given_a_record(
    connect: Callable[[Brokers], KafkaLog],
) -> None:
    dead, fresh = Producer(), Producer()
    log = connect(Brokers([dead, fresh]))
    assert append(log, 1.0) == [Position(0, 7)]
    dead.failed = True
    assert append(log, 1.0, b"after") == [Position(0, 7)]
    assert (dead.sent, dead.closings, fresh.sent) == ([b"event"], 1, [b"after"])


def test_a_producer_that_reports_a_record_too_late_sends_nothing_more_though_no_one_calls(
    connect: Callable[[Brokers], KafkaLog],
) -> None:
    def late(timeout: float) -> None:
        raise KafkaTimeoutError

    silent, fresh = Producer(late), Producer()
    log = connect(Brokers([silent, fresh]))
    with pytest.raises(NotAcknowledged):
        append(log, 0.01)
    assert silent.closings == 0, "its time is not over: others use it"
    until(lambda: silent.closings, "it is given up", within_s=30)
    assert append(log, 1.0) == [Position(0, 7)]


def test_what_was_never_sent_in_time_is_taken_back(connect: Callable[[Brokers], KafkaLog], clock: Clock) -> None:
    def late(timeout: float) -> None:
        clock.now += timeout
        raise KafkaTimeoutError

    producer = Producer(late, waits=True)
    log = connect(Brokers([producer]))
    with pytest.raises(NotSent):
        append(log, 0.05)
    assert log._verdicts._owed == [], "nothing is owed"
    assert producer.closings == 0


@pytest.mark.parametrize(("found", "fix"), [(0, "--create"), (1, "--alter"), (8, "delete it")])
def test_without_as_many_partitions_of_notes_nothing_is_erased(found: int, fix: str) -> None:
    log = FakeEventLog({"events": 4} | ({"events.erased": found} if found else {}))
    with pytest.raises(UnsuitableTopic, match=r"events\.erased") as refused:
        Publisher(log, "events", 4, KafkaTools("h:9092")).erase("user", timeout_s=1.0)
    assert fix in refused.value.detail
    assert not refused.value.retriable
    assert log.records["events"] == [[]] * 4


def test_without_the_right_to_write_notes_nothing_is_erased_however_often_it_is_tried() -> None:
    log = FakeEventLog({"events": 4, "events.erased": 4})
    log.read_only = {"events.erased"}
    for _ in range(3):
        with pytest.raises(LogRefused, match=r"^nothing was erased: .*events\.erased") as refused:
            Publisher(log, "events", 4, KafkaTools("h:9092")).erase("user", timeout_s=1.0)
        assert not refused.value.retriable
    assert log.records == {"events": [[]] * 4, "events.erased": [[]] * 4}


def test_where_the_brokers_tell_of_no_rights_a_refused_note_is_told_as_half_an_erasure() -> None:
    log = FakeEventLog({"events": 1, "events.erased": 1})
    log.read_only, log.tells = {"events.erased"}, False
    with pytest.raises(LogRefused, match="half of the erasure was written") as refused:
        Publisher(log, "events", 1, KafkaTools("h:9092")).erase("user", timeout_s=1.0)
    assert not refused.value.retriable
    assert log.records == {"events": [[(b"user", None)]], "events.erased": [[]]}


@pytest.mark.parametrize(
    ("told", "writable"),
    [(["DESCRIBE", "READ"], False), (["DESCRIBE", "WRITE"], True), (None, True)],
    ids=["read only", "writable", "not told"],
)
def test_a_right_that_the_brokers_do_not_tell_of_is_taken_for_granted(
    connect: Callable[[Brokers], KafkaLog], monkeypatch: pytest.MonkeyPatch, told: list[str] | None, writable: bool
) -> None:
    class Admin:
        def __init__(self, **options: object) -> None: ...

        def describe_topics(self, topics: list[str]) -> list[dict[str, Any]]:
            return [{"error_code": 0, "authorized_operations": told}]

    monkeypatch.setattr(event_log, "KafkaAdminClient", Admin)
    log = connect(Brokers([Producer()]))
    with nullcontext() if writable else pytest.raises(LogRefused, match="grant it WRITE"):
        log.must_be_writable("events")
    with nullcontext() if writable else pytest.raises(LogRefused, match="grant it WRITE"):
        log.check("events", 1, 1.0)


def test_an_erasure_whose_time_went_into_the_topics_id_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(publisher, "time", clock)

    class Slow(FakeEventLog):
        def topic_id(self, topic: str) -> bytes:
            clock.now += 1.0
            return super().topic_id(topic)

    log = Slow({"events": 1, erased_topic("events"): 1})
    with pytest.raises(LogUnavailable):
        Publisher(log, "events", 1, KafkaTools("h:9092")).erase("user", timeout_s=1.0)
    assert log.records == {"events": [[]], erased_topic("events"): [[]]}


def test_two_erasures_of_a_user_at_once_write_their_notes_in_rising_order(pool: ThreadPoolExecutor) -> None:
    first_has_begun, second_may = threading.Event(), threading.Event()

    class SlowNote(FakeEventLog):
        """The note of the first erasure waits until the second erasure had time to overtake it."""

        def append(self, topic: str, partitions: int, records: Sequence[NewRecord], timeout_s: float) -> list[Position]:
            if topic == erased_topic("events") and not first_has_begun.is_set():
                first_has_begun.set()
                second_may.wait(30)
            return super().append(topic, partitions, records, timeout_s)

    log = SlowNote({"events": 1, erased_topic("events"): 1})
    door = Publisher(log, "events", 1, KafkaTools("h:9092"))
    first = pool.submit(door.erase, "user", 60.0)
    assert first_has_begun.wait(30)
    with pytest.raises(LogUnavailable, match="repeat"):
        door.erase("user", timeout_s=0.01)
    second = pool.submit(door.erase, "user", 60.0)
    second_may.set()
    assert (first.result(30).offset, second.result(30).offset) == (0, 1)
    notes = [decode_erasure(value or b"").offset for _, value in log.records[erased_topic("events")][0]]
    assert notes == [0, 1]
