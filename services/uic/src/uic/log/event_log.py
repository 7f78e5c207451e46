"""Appending records to topics: the port `EventLog`, and `KafkaLog`, its implementation on Kafka.

`KafkaLog` makes its idempotent producer when it is first needed, and replaces it once it can no longer be trusted: it
failed for good, or did not report a record in time. The gRPC service (`uic.doors.publisher`) and the replay of dead
letters append through it, the replay with the producer of a run. What the brokers surely did not append is told as
refused, with the reason; decision 204 says how that is known.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)

from uic.core.topics import bring_back, ranges
from uic.errors import LogRefused, LogUnavailable, NotAcknowledged, NotSent, UnsuitableTopic, WrongClock
from uic.log.bounded_producer import close_producer, open_producer
from uic.log.kafka_repairs.clients import answered_by, explained, failures_of, is_unknown, open_kafka_client
from uic.log.kafka_repairs.producers import REFUSALS, NeverSent, NotAppended, has_failed
from uic.log.kafka_repairs.runs import Overtaken
from uic.log.kafka_repairs.withdrawal import withdraw
from uic.log.owed_verdicts import OwedVerdicts
from uic.log.topic_answers import TO_WRITE, check_there, rights_of, time_refused
from uic.log.topic_facts import topic_id_of
from uic.log.unreachable import by_broker, unreachable

LEAST_IN_SYNC = "min.insync.replicas"
DELIVERY_SHARE = 0.8
"""How much of a call's time its records are tried for. The rest is for the producer's word on what became of them: if
both ended at once, it would be chance whether a call hears that its records were never sent."""
VERDICT_MARGIN_S = 0.5
"""How much longer than its delivery timeout a producer may take to report before it is given up."""


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to append: the partition is the key's, chosen here and not by the Kafka client."""

    partition: int
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record landed."""

    partition: int
    offset: int


class EventLog(Protocol):
    """A log of topics that can be appended to. Safe to call from several threads."""

    def append(self, topic: str, partitions: int, records: Sequence[NewRecord], timeout_s: float) -> list[Position]:
        """Where the records landed, in their order; all are acknowledged by all in-sync replicas.

        Records of one partition keep their order. `partitions` is the count that the topic must have.

        Raises:
            LogUnavailable: no broker answers, or not before `timeout_s` was over; nothing was written.
            LogRefused: the brokers refuse all of them; nothing was written.
            WrongClock: the brokers refuse the time of all of them, which is this machine's; nothing was written.
            NotSent: the leaders could not be sent some of them within `timeout_s`; nothing was written.
            NotAcknowledged: some were not acknowledged within `timeout_s`.
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

    def __init__(
        self,
        client: Mapping[str, Any],
        *,
        timeout_s: float,
        max_request_bytes: int,
        run: KafkaProducer | None = None,
    ) -> None:
        """Nothing is connected yet.

        Args:
            client: options of the Kafka client (`bootstrap_servers` and what it takes to connect).
            timeout_s: how long calls usually wait. Records are tried for `DELIVERY_SHARE` of it, also those of calls
                that wait longer; after that they are never sent again.
            max_request_bytes: largest request, and so largest record.
            run: the producer of a run (`open_run`), which is used alone, for as long as it works, and closed with this.
        """
        self._client = dict(client)
        self._timeout_s = timeout_s
        self._delivery_s = DELIVERY_SHARE * timeout_s
        self._max_request_bytes = max_request_bytes
        self._connecting = threading.Lock()
        """Held while a producer connects, for as long as `_delivery_s`."""
        self._changing = threading.Lock()
        """Held while `_producer` changes, for a moment."""
        self._producer: KafkaProducer | None = run
        self._is_run = run is not None
        self._verdicts = OwedVerdicts(self._give_up)
        self._asking = threading.Lock()
        """Held while the admin client connects and asks: appending does not wait for it."""
        self._admin: KafkaAdminClient | None = None

    def append(self, topic: str, partitions: int, records: Sequence[NewRecord], timeout_s: float) -> list[Position]:
        """See `EventLog`."""
        deadline = time.monotonic() + timeout_s
        producer = self._connected(deadline)
        self._check_topic(producer, topic, partitions)
        sent = time.monotonic()
        if sent >= deadline:  # the caller has given up, and may send it again
            raise LogUnavailable("the time of the call was over before the brokers were connected; nothing was written")
        verdict_by = sent + self._delivery_s + VERDICT_MARGIN_S
        deadline = min(deadline, verdict_by)
        futures: list[Any] = []
        failed: dict[int, KafkaError] = {}
        for record in records:
            try:
                futures.append(
                    producer.send(
                        topic,
                        key=record.key,
                        value=record.value,
                        headers=list(record.headers),
                        partition=record.partition,
                    )
                )
            except KafkaError as error:  # its buffer is full, or the record too large: the rest is not sent
                failed = dict.fromkeys(range(len(futures), len(records)), error)
                break
        positions: list[Position] = []
        trusted = True
        for i, future in enumerate(futures):
            try:
                landed = future.get(timeout=max(deadline - time.monotonic(), 0))
                positions.append(Position(landed.partition, landed.offset))
            except KafkaError as error:
                failed[i] = error
                trusted &= future.is_done or time.monotonic() < verdict_by
        withdraw(producer, [future for future in futures if not future.is_done])
        failed |= {i: future.exception for i, future in enumerate(futures) if future.exception is not None}
        if not trusted:
            self._give_up(producer)
        elif late := [future for future in futures if not future.is_done]:
            self._verdicts.expect(producer, late, verdict_by - time.monotonic())
        if failed:
            # What only says that time was over is what the callers are told anyway, and names no cause.
            known = {at: why for at, why in failures_of(producer).items() if why.telling}
            raise _not_appended(topic, failed, len(futures), len(records), by_broker(known))
        return positions

    def check(self, topic: str, partitions: int, timeout_s: float) -> None:
        """See `EventLog`."""
        self._check_topic(self._connected(time.monotonic() + timeout_s), topic, partitions)
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
        timeout_ms = int(self._timeout_s * 1000)
        deadline = time.monotonic() + self._timeout_s
        with _held(self._asking, self._timeout_s):
            try:
                if self._admin is None:
                    left_ms = max(int((deadline - time.monotonic()) * 1000), 1)
                    self._admin = open_kafka_client(
                        KafkaAdminClient,
                        **self._client | {"bootstrap_timeout_ms": left_ms, "request_timeout_ms": timeout_ms},
                    )
                with explained(self._admin), answered_by(self._admin, deadline):
                    return question(self._admin)
            except KafkaError as error:
                raise unreachable(self._client, error) from error

    def close(self) -> None:
        """See `EventLog`."""
        self._verdicts.close()
        with self._connecting, self._changing:
            producer, self._producer = self._producer, None
        with self._asking:
            admin, self._admin = self._admin, None
        if producer is not None:
            close_producer(producer, wait_s=1.0)
        if admin is not None:
            admin.close()

    def _check_topic(self, producer: KafkaProducer, topic: str, partitions: int) -> None:
        try:
            with explained(producer):
                found = producer.partitions_for(topic)
        except REFUSALS as error:
            raise LogRefused(_why_refused(topic, error)) from error
        except KafkaError as error:
            if is_unknown(producer, topic):
                raise LogUnavailable(f"the brokers have no topic {topic}: does it exist?") from error
            raise unreachable(self._client, error) from error
        if len(found) != partitions:
            raise UnsuitableTopic(f"topic {topic} has {len(found)} partitions, the settings say {partitions}")

    def _connected(self, deadline: float) -> KafkaProducer:
        """The producer; one call connects it, and the others wait for it no longer than they have time."""
        if (connected := self._working()) is not None:
            return connected
        with _held(self._connecting, deadline - time.monotonic()):
            if (connected := self._working()) is not None:
                return connected
            if self._is_run:
                raise LogUnavailable("a record of this run has failed, so nothing was written behind it: run it again")
            try:
                opened = open_producer(
                    self._client, timeout_s=self._delivery_s, max_request_bytes=self._max_request_bytes
                )
            except KafkaError as error:
                raise unreachable(self._client, error) from error
            with self._changing:
                self._producer = opened
            return opened

    def _working(self) -> KafkaProducer | None:
        """The producer, if there is one that has not failed."""
        if (producer := self._producer) is not None and has_failed(producer):
            self._give_up(producer)
            return None
        return producer

    def _give_up(self, producer: KafkaProducer) -> None:
        """Drop a producer that failed or did not report, so that it sends nothing after its callers were answered."""
        with self._changing:
            if self._producer is producer:
                self._producer = None
        close_producer(producer, wait_s=0)


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


def _not_appended(topic: str, failed: Mapping[int, KafkaError], sent: int, total: int, cut_off: str) -> LogUnavailable:
    """What to raise.

    Args:
        topic: the records'.
        failed: the records that have no position, by their index, and why.
        sent: how many the producer took, the first ones.
        total: how many there are.
        cut_off: which brokers the producer has no connection to, and why; empty if that is not known of any.
    """
    refused = [error for error in failed.values() if isinstance(error, REFUSALS)]
    not_there = (*REFUSALS, NotAppended)
    if len(failed) == total and all(i >= sent or isinstance(error, not_there) for i, error in failed.items()):
        if refused:
            if any(isinstance(error, InvalidTimestampError) for error in refused):
                return WrongClock(f"nothing was written: {time_refused(topic)}")
            of_records = not any(isinstance(error, NO_RIGHT) for error in refused)
            return LogRefused(f"nothing was written: {_why_refused(topic, refused[0])}", of_records=of_records)
        if any(isinstance(error, NeverSent) for error in failed.values()):
            said = f"nothing was written: topic {topic}: no broker that leads the partition took the records in time"
            return NotSent(f"{said}{f': {cut_off}' if cut_off else ''}; send them again", cut_off)
        if sent:
            return LogUnavailable(
                "nothing was written: this worker's producer had to begin its count of records again; send them again"
            )
        return LogUnavailable(f"the producer accepts no records now: {type(failed[0]).__name__}")
    overtaken = [error for error in failed.values() if isinstance(error, Overtaken)]
    why = _why_refused(topic, refused[0]) if refused else str(overtaken[0]) if overtaken else cut_off
    return NotAcknowledged(tuple(sorted(failed)), total, why)


NO_RIGHT = (ClusterAuthorizationFailedError, TopicAuthorizationFailedError)


def _no_write(topic: str) -> str:
    return f"the brokers do not let UIC's user write to topic {topic}: grant it WRITE"


def _why_refused(topic: str, error: KafkaError) -> str:
    match error:
        case TopicAuthorizationFailedError():
            return _no_write(topic)
        case ClusterAuthorizationFailedError():
            return f"{_no_write(topic)} (before Kafka 2.8 also IDEMPOTENT_WRITE on the cluster)"
        case InvalidTimestampError():
            return time_refused(topic)
        case MessageSizeTooLargeError() | RecordListTooLargeError():
            return (
                f"a record is too large for topic {topic}, whose max.message.bytes says how large one may be, or for "
                "UIC_KAFKA__MAX_REQUEST_BYTES"
            )
        case _:
            return f"topic {topic}: {type(error).__name__}: {error}"
