"""Appending records to topics: the port `EventLog`, and `KafkaLog`, its implementation on Kafka.

`KafkaLog` makes its idempotent producer when it is first needed, and replaces it once a record failed. The gRPC service
(`uic.doors.publisher`) appends through it. A record that was sent and not acknowledged may be in the log
(decision 217).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Protocol

from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidRecordError,
    InvalidTimestampError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)

from uic.core.topics import bring_back, ranges
from uic.errors import LogRefused, LogUnavailable, NotAcknowledged, UnsuitableTopic, WrongClock
from uic.log.clients import explained, failures_of, open_kafka_client
from uic.log.producer import NewRecord, Position, Producer, open_producer
from uic.log.topic_answers import TO_WRITE, check_there, rights_of, time_refused
from uic.log.topic_facts import topic_id_of
from uic.log.unreachable import by_broker, unreachable

LEAST_IN_SYNC = "min.insync.replicas"
DELIVERY_SHARE = 0.8
"""How much of a call's time its records are tried for. The rest is for the producer's word on why they failed."""


class EventLog(Protocol):
    """A log of topics that can be appended to. Safe to call from several threads."""

    def append(self, topic: str, partitions: int, records: Sequence[NewRecord], timeout_s: float) -> list[Position]:
        """Where the records landed, in their order; all are acknowledged by all in-sync replicas.

        Records of one partition keep their order. `partitions` is the count that the topic must have.

        Raises:
            LogUnavailable: no broker answers, or not before `timeout_s` was over; nothing was written.
            LogRefused: the brokers refuse all of them; nothing was written.
            WrongClock: the brokers refuse the time of all of them, which is this machine's; nothing was written.
            NotAcknowledged: some were not acknowledged within `timeout_s`, and may be in the log.
            UnsuitableTopic: missing, or of another partition count; nothing was written.
        """

    def check(self, topic: str, partitions: int, timeout_s: float) -> None:
        """Find out whether records can be appended, as far as that is known without one. Arguments are those of
        `append`, and so is what is raised.
        """

    def must_be_writable(self, topic: str) -> None:
        """Ask the brokers whether we have the right to append to the topic.

        Raises:
            LogUnavailable: no broker answers.
            LogRefused: we have not. Brokers that do not tell are taken for ones that let us.
            UnsuitableTopic: there is no such topic.
        """

    def obstacle(self, topic: str) -> str | None:
        """Why no record can be written to some partitions now, by the state of their replicas; empty: nothing speaks
        against it. None: the brokers do not tell how many replicas must be in sync.

        Raises:
            LogUnavailable: no broker answers.
            TopicRefused: this user may not see the topic.
            UnsuitableTopic: there is no such topic.
        """

    def topic_id(self, topic: str) -> bytes:
        """16 bytes; zeros if the broker has no topic ids.

        Raises:
            LogUnavailable: no broker answers.
            TopicRefused: this user may not see the topic.
            UnsuitableTopic: there is no such topic.
        """

    def partition_count(self, topic: str) -> int:
        """How many partitions the topic has.

        Raises:
            LogUnavailable: no broker answers.
            TopicRefused: this user may not see the topic.
            UnsuitableTopic: there is no such topic.
        """

    def close(self) -> None:
        """Close connections; acknowledged records stay."""


class KafkaLog:
    """`EventLog` on Kafka."""

    def __init__(self, client: Mapping[str, Any], *, timeout_s: float, max_request_bytes: int) -> None:
        """Nothing is connected yet.

        Args:
            client: options of the Kafka client (`bootstrap_servers` and what it takes to connect).
            timeout_s: how long calls usually wait. Records are tried for `DELIVERY_SHARE` of it, also those of calls
                that wait longer.
            max_request_bytes: largest request, and so largest record.
        """
        self._client = dict(client)
        self._timeout_s = timeout_s
        self._delivery_s = DELIVERY_SHARE * timeout_s
        self._max_request_bytes = max_request_bytes
        self._connecting = threading.Lock()
        """Held while a producer connects, for as long as `_delivery_s`."""
        self._changing = threading.Lock()
        """Held while `_producer` changes, for a moment."""
        self._producer: Producer | None = None
        self._asking = threading.Lock()
        """Held while the admin client connects and asks: appending does not wait for it."""
        self._admin: KafkaAdminClient | None = None

    def append(self, topic: str, partitions: int, records: Sequence[NewRecord], timeout_s: float) -> list[Position]:
        """See `EventLog`."""
        deadline = time.monotonic() + timeout_s
        producer = self._connected(deadline)
        self._check_topic(producer.kafka, topic, partitions)
        if time.monotonic() >= deadline:  # the caller has given up, and may send it again
            raise LogUnavailable("the time of the call was over before the brokers were connected; nothing was written")
        published: list[Future[Position]] = []
        failed: dict[int, Exception] = {}
        for record in records:
            try:
                published.append(producer.publish(topic, record))
            except KafkaError as error:  # the rest is not sent
                if not published:
                    raise self._not_taken(topic, error) from error
                failed = dict.fromkeys(range(len(published), len(records)), error)
                break
        positions: list[Position] = []
        for i, future in enumerate(published):
            try:
                positions.append(future.result(max(deadline - time.monotonic(), 0)))
            except (KafkaError, TimeoutError) as error:
                failed[i] = error
        if failed:
            # What only says that time was over is what the callers are told anyway, and names no cause.
            known = {at: why for at, why in failures_of(producer.kafka).items() if why.telling}
            raise self._not_acknowledged(topic, failed, len(records), by_broker(known))
        return positions

    def check(self, topic: str, partitions: int, timeout_s: float) -> None:
        """See `EventLog`."""
        self._check_topic(self._connected(time.monotonic() + timeout_s).kafka, topic, partitions)
        self.must_be_writable(topic)

    def must_be_writable(self, topic: str) -> None:
        """See `EventLog`."""
        rights = rights_of(self._described(topic))
        if rights is not None and TO_WRITE not in rights:
            raise LogRefused(_no_write(topic))

    def obstacle(self, topic: str) -> str | None:
        """See `EventLog`."""
        partitions = self._described(topic)["partitions"]
        if leaderless := [p["partition_index"] for p in partitions if p["leader_id"] < 0]:
            return bring_back(leaderless)
        wanted = ConfigResource(ConfigResourceType.TOPIC, topic, configs=[LEAST_IN_SYNC])
        try:
            told = self._answer(lambda admin: admin.describe_configs([wanted], config_filter="all"))
        except LogUnavailable:  # forbidden, or a broker that does not know the call: it has just answered
            return None
        least = told.get("topic", {}).get(topic, {}).get(LEAST_IN_SYNC, {}).get("value")
        if least is None:
            return None
        needed = {p["partition_index"]: min(int(least), len(p["replica_nodes"])) for p in partitions}  # as Kafka has it
        if short := [p["partition_index"] for p in partitions if len(p["isr_nodes"]) < needed[p["partition_index"]]]:
            have = f"partition {short[0]} has" if len(short) == 1 else f"partitions {ranges(short)} have"
            return f"{have} fewer replicas in sync than {LEAST_IN_SYNC}, which is {least}: bring their brokers back"
        return ""

    def topic_id(self, topic: str) -> bytes:
        """See `EventLog`."""
        return topic_id_of(self._described(topic))

    def partition_count(self, topic: str) -> int:
        """See `EventLog`."""
        return len(self._described(topic)["partitions"])

    def _described(self, topic: str) -> Mapping[str, Any]:
        [found] = self._answer(lambda admin: admin.describe_topics([topic]))
        check_there(self._client, found)
        described: Mapping[str, Any] = found
        return described

    def _answer(self, question: Callable[[KafkaAdminClient], Any]) -> Any:
        """What the brokers say.

        Raises:
            LogUnavailable: nothing, or not before the time was over that connecting and asking have together.
        """
        half_ms = int(self._timeout_s * 500)
        bounded = {"bootstrap_timeout_ms": half_ms, "request_timeout_ms": half_ms}
        with _held(self._asking, self._timeout_s):
            try:
                if self._admin is None:
                    self._admin = open_kafka_client(KafkaAdminClient, **self._client | bounded)
                with explained(self._admin):
                    return question(self._admin)
            except KafkaError as error:
                raise unreachable(self._client, error) from error

    def close(self) -> None:
        """See `EventLog`."""
        with self._connecting, self._changing:
            producer, self._producer = self._producer, None
        with self._asking:
            admin, self._admin = self._admin, None
        if producer is not None:
            producer.close()
        if admin is not None:
            admin.close()

    def _check_topic(self, producer: KafkaProducer, topic: str, partitions: int) -> None:
        try:
            with explained(producer):
                found = producer.partitions_for(topic)
        except NO_RIGHT as error:
            raise LogRefused(_why(topic, error)) from error
        except KafkaError as error:
            try:  # the producer waits in vain for a topic that is not there as for brokers that are silent
                self._described(topic)
            except UnsuitableTopic as absent:
                raise LogUnavailable(absent.detail) from error
            raise unreachable(self._client, error) from error
        if len(found) != partitions:
            raise UnsuitableTopic(f"topic {topic} has {len(found)} partitions, the settings say {partitions}")

    def _connected(self, deadline: float) -> Producer:
        """The producer; one call connects it, and the others wait for it no longer than they have time."""
        if (connected := self._working()) is not None:
            return connected
        with _held(self._connecting, deadline - time.monotonic()):
            if (connected := self._working()) is not None:
                return connected
            try:
                opened = open_producer(
                    self._client, timeout_s=self._delivery_s, max_request_bytes=self._max_request_bytes
                )
            except KafkaError as error:
                raise unreachable(self._client, error) from error
            with self._changing:
                self._producer = Producer(opened, self._delivery_s)
            return self._producer

    def _working(self) -> Producer | None:
        """The producer, if there is one that has not failed."""
        with self._changing:
            producer = self._producer
            if producer is None or not producer.failed:
                return producer
            self._producer = None
        producer.close()
        return None

    def _not_taken(self, topic: str, error: KafkaError) -> LogUnavailable:
        """What to raise when the producer has taken no record of a call."""
        if isinstance(error, TOO_LARGE):
            return LogRefused(f"nothing was written: {_why(topic, error)}", of_records=True)
        return LogUnavailable(f"nothing was written: the producer takes no records now: {error}")

    def _not_acknowledged(
        self, topic: str, failed: Mapping[int, Exception], total: int, cut_off: str
    ) -> LogUnavailable:
        """What to raise.

        Args:
            topic: the records'.
            failed: the records that have no position, by their index, and why.
            total: how many there are.
            cut_off: which brokers the producer has no connection to, and why; empty if that is not known of any.
        """
        errors = list(failed.values())
        if len(failed) == total and all(isinstance(error, TIME_REFUSED) for error in errors):
            return WrongClock(f"nothing was written: {time_refused(topic)}")
        if len(failed) == total and all(isinstance(error, NO_RIGHT) for error in errors):
            # Another caller's refusal ends what is in flight with the same error: so the brokers are asked.
            try:
                self.must_be_writable(topic)
            except LogRefused as refused:
                return LogRefused(f"nothing was written: {refused.detail}")
            except (LogUnavailable, UnsuitableTopic):
                pass
        told = [error for error in errors if not isinstance(error, (TimeoutError, KafkaTimeoutError))]
        return NotAcknowledged(tuple(sorted(failed)), total, _why(topic, told[0]) if told else cut_off)


@contextmanager
def _held(lock: threading.Lock, timeout_s: float) -> Iterator[None]:
    """Hold `lock`.

    Raises:
        LogUnavailable: others held it for all of `timeout_s`.
    """
    if not lock.acquire(timeout=max(timeout_s, 0)):
        raise LogUnavailable("no broker answers: another call is still connecting")
    try:
        yield
    finally:
        lock.release()


NO_RIGHT = (ClusterAuthorizationFailedError, TopicAuthorizationFailedError)
TIME_REFUSED = (InvalidTimestampError, InvalidRecordError)
"""How brokers refuse records for their time. The library says `InvalidRecordError` if a batch has several such records;
as our records have keys, their time is all that brokers can find invalid."""
TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)


def _no_write(topic: str) -> str:
    return f"the brokers do not let UIC's user write to topic {topic}: grant it WRITE"


def _why(topic: str, error: Exception) -> str:
    match error:
        case TopicAuthorizationFailedError():
            return _no_write(topic)
        case ClusterAuthorizationFailedError():
            return f"{_no_write(topic)} (before Kafka 2.8 also IDEMPOTENT_WRITE on the cluster)"
        case InvalidTimestampError() | InvalidRecordError():
            return time_refused(topic)
        case MessageSizeTooLargeError() | RecordListTooLargeError():
            return (
                f"a record is too large for topic {topic}, whose max.message.bytes says how large one may be, or for "
                "UIC_KAFKA__MAX_REQUEST_BYTES"
            )
        case _:
            return f"topic {topic}: {type(error).__name__}: {error}"
