"""Appending while the brokers are away or slow: who waits for what, for how long, and what is sent then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
from kafka.errors import (
    InvalidRecordError,
    InvalidTimestampError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)
from kafka.future import Future

from localstack.wait import until
from support.fake_event_log import FakeEventLog
from uic.core.kafka_tools import KafkaTools
from uic.core.topics import erased_topic
from uic.doors import publisher
from uic.doors.publisher import Publisher
from uic.errors import LogRefused, LogUnavailable, NotAcknowledged, UnsuitableTopic, WrongClock
from uic.log import event_log, producer
from uic.log.erasures import decode_erasure
from uic.log.event_log import DELIVERY_SHARE, KafkaLog
from uic.log.producer import NewRecord, Position

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


@dataclass(eq=False)
class Producer:
    """A producer of the library that acknowledges everything, unless it has an outcome for the next record: an error,
    or None for one that is never reported."""

    outcomes: list[KafkaError | None] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)

    def partitions_for(self, topic: str) -> set[int]:
        return {0}

    def send(self, topic: str, **record: Any) -> Future:
        if record["value"] == HUGE:
            raise MessageSizeTooLargeError("the client's limit")
        self.sent.append(record["value"])
        future = Future()
        if not self.outcomes:
            future.success(Position(0, 7))
        elif (error := self.outcomes.pop(0)) is not None:
            future.failure(error)
        return future

    def close(self, timeout: float) -> None:
        self.closed.set()


@dataclass(eq=False)
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
        return KafkaLog({}, timeout_s=TIMEOUT_S, max_request_bytes=MAX_REQUEST_BYTES)

    return made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def admin_telling(rights: list[str] | None) -> type:
    """A class of admin clients that are told these rights."""

    class Admin:
        def __init__(self, **options: object) -> None: ...

        def describe_topics(self, topics: list[str]) -> list[dict[str, Any]]:
            return [{"error_code": 0, "authorized_operations": rights}]

    return Admin


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

    library = Producer()
    log = connect(Brokers([library], slow))
    with pytest.raises(LogUnavailable, match="nothing was written") as raised:
        append(log, 1.0, b"late")
    assert not isinstance(raised.value, NotAcknowledged)
    assert append(log, 1.0, b"in time") == [Position(0, 7)]
    assert (library.sent, library.closed.is_set()) == ([b"in time"], False)


def test_after_a_failed_record_the_producer_is_replaced(connect: Callable[[Brokers], KafkaLog]) -> None:
    failing, fresh = Producer([KafkaTimeoutError()]), Producer()
    log = connect(Brokers([failing, fresh]))
    with pytest.raises(NotAcknowledged) as raised:
        append(log, 1.0)
    assert raised.value.positions == (0,)
    assert append(log, 1.0, b"after") == [Position(0, 7)]
    assert failing.closed.wait(30)
    assert fresh.sent == [b"after"]


def test_a_producer_that_never_reports_is_replaced(
    connect: Callable[[Brokers], KafkaLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    silent, fresh = Producer([None]), Producer()
    log = connect(Brokers([silent, fresh]))
    monkeypatch.setattr(producer, "time", clock)
    with pytest.raises(NotAcknowledged):
        append(log, 0.01)
    assert append(log, 1.0, b"in time") == [Position(0, 7)], "its time is not over: others use it"
    clock.now += DELIVERY_S + producer.MARGIN_S + 0.1
    assert append(log, 1.0, b"after") == [Position(0, 7)]
    assert silent.closed.wait(30)
    assert (silent.sent, fresh.sent) == ([b"event", b"in time"], [b"after"])


def test_a_full_producer_refuses_a_call_at_once(
    connect: Callable[[Brokers], KafkaLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "MOST_IN_FLIGHT", 1)
    log = connect(Brokers([Producer([None])]))
    with pytest.raises(NotAcknowledged):
        append(log, 0.01)
    with pytest.raises(LogUnavailable, match="nothing was written") as raised:
        append(log, 60)
    assert raised.value.retriable


@pytest.mark.parametrize("error", [InvalidTimestampError("out of range"), InvalidRecordError("out of range")])
def test_a_time_that_the_brokers_refuse_is_the_fault_of_the_clock_here_and_not_of_the_records(
    connect: Callable[[Brokers], KafkaLog], error: KafkaError
) -> None:
    log = connect(Brokers([Producer([error])]))
    with pytest.raises(WrongClock, match="clock") as refused:
        append(log, 1.0)
    assert refused.value.retriable, "another machine may do it, or this one later"


def test_a_note_that_is_refused_for_its_time_is_told_as_half_an_erasure() -> None:
    log = FakeEventLog({"events": 1, "events.erased": 1})
    log.untimely = {"events.erased"}
    with pytest.raises(WrongClock, match="half of the erasure was written") as refused:
        Publisher(log, "events", 1, KafkaTools("h:9092")).erase("user", timeout_s=1.0)
    assert refused.value.retriable


def test_a_record_that_fits_no_request_is_refused_and_one_behind_others_is_what_is_missing(
    connect: Callable[[Brokers], KafkaLog],
) -> None:
    library = Producer()
    log = connect(Brokers([library]))
    with pytest.raises(LogRefused, match="too large"):
        append(log, 1.0, HUGE)
    records = [NewRecord(0, b"user", value) for value in (b"first", HUGE, b"last")]
    with pytest.raises(NotAcknowledged, match="too large") as raised:
        log.append("events", 1, records, 1.0)
    assert (raised.value.positions, library.sent) == ((1, 2), [b"first"])


def test_a_refusal_beside_a_record_of_unknown_fate_is_unknown(connect: Callable[[Brokers], KafkaLog]) -> None:
    log = connect(Brokers([Producer([TopicAuthorizationFailedError("events"), KafkaTimeoutError()])]))
    with pytest.raises(NotAcknowledged) as raised:
        log.append("events", 1, [NewRecord(0, b"user", b"1"), NewRecord(0, b"user", b"2")], 1.0)
    assert raised.value.positions == (0, 1)


@pytest.mark.parametrize("told", [["DESCRIBE"], ["DESCRIBE", "WRITE"]], ids=["no right", "another's refusal"])
def test_a_missing_right_is_told_where_the_brokers_confirm_it(
    connect: Callable[[Brokers], KafkaLog], monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    monkeypatch.setattr(event_log, "KafkaAdminClient", admin_telling(told))
    log = connect(Brokers([Producer([TopicAuthorizationFailedError("events")])]))
    with pytest.raises(NotAcknowledged if "WRITE" in told else LogRefused, match="grant it WRITE"):
        append(log, 1.0)


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
    monkeypatch.setattr(event_log, "KafkaAdminClient", admin_telling(told))
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
