"""The poll thread: the one owner of the Kafka consumer, which is never shared between threads.

It polls all the time, whatever the store does, so that the group keeps us; it obeys commands, and queues all that
happens for the fold thread. It never waits for the store and chooses no position: a partition that the group gives us
is parked (`seek(0)` and `pause`) until the fold thread says from where to read.

Records carry the tag of the command that caused them, so what was fetched before a rewind or for an earlier assignment
can be told apart. A partition with too many records on their way to the fold is paused until there is room.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import UUID

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.coordinator.base import MemberState
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError, UnknownTopicOrPartitionError
from kafka.structs import OffsetAndMetadata

from mimn.state import NO_TOPIC_ID
from uic.core.ports import (
    Advised,
    Assigned,
    Described,
    Fetched,
    LogAway,
    LogMessage,
    NotDescribed,
    OutOfRange,
    PartitionCountChanged,
    Revoked,
)
from uic.core.takeup import LogBounds
from uic.log.assignor import HonestAssignor
from uic.log.record_batches import read_with
from uic.log.topic_identity import TopicIdentity
from uic.logs import say
from uic.settings import KafkaSettings

log = logging.getLogger("uic.log.consumer")

POLL_MS = 20
"""How long a poll may wait for the answer to an open fetch, with which it ends: with Kafka this is no delay."""
JOIN_MS = 500
"""How long a poll may take while we are not a stable member with partitions: joining is not for short polls."""
LONGEST_PAUSE_S = 0.032
"""Between polls that bring nothing. A poll alone does not rest: brokers that answer an empty fetch at once (the small
one of the local stack does) would be asked again and again, at the price of a core."""
DESCRIBE_MS = 3000
ADVISE_INTERVAL_S = 0.2
CHECK_INTERVAL_S = 1.0
REOPEN_S = 1.0
Command = Callable[[KafkaConsumer], None]


class _AnotherStore(Exception):
    """The group is no longer that of the store's workers."""


class LogConsumer(threading.Thread):
    """`Log` on a Kafka consumer group. Begin with `start`, end with `leave`."""

    def __init__(self, settings: KafkaSettings, group: Callable[[str], str], queue_records: int) -> None:
        """Nothing is connected yet.

        Args:
            settings: the log.
            group: names the consumer group, given the store's identity (empty until `identify` tells it).
            queue_records: fetched records that may wait for the fold, over all partitions.
        """
        super().__init__(name="poll", daemon=True)
        self._settings = settings
        self._topic = settings.topic
        self._group = group
        self._store = ""
        self._queue_records = queue_records
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[LogMessage] = queue.SimpleQueue()
        self._leaving = threading.Event()
        # Owned by the poll thread (and the listener, which runs while that waits in `poll`):
        self._tags: dict[int, int] = {}
        self._full: set[int] = set()
        self._given: dict[int, int] = {}
        self._advice: dict[int, int] = {}
        self._advising = False
        self._advise_due = 0.0
        self._check_due = 0.0
        self._joined_as = ""
        self._topic_id = NO_TOPIC_ID
        self._identity: TopicIdentity | None = None
        # Written by the fold thread, read by the poll thread:
        self._taken: dict[int, int] = {}

    # For the fold thread

    def messages(self, timeout_s: float) -> list[LogMessage]:
        """See `Log`."""
        found: list[LogMessage] = []
        try:
            found.append(self._messages.get(timeout=timeout_s) if timeout_s > 0 else self._messages.get_nowait())
            while True:
                found.append(self._messages.get_nowait())
        except queue.Empty:
            return found

    def describe(self, tags: Mapping[int, int]) -> None:
        """See `Log`."""
        wanted = dict(tags)
        self._commands.put(lambda consumer: self._describe(consumer, wanted))

    def read(self, partition: int, tag: int, offset: int) -> None:
        """See `Log`."""
        self._commands.put(lambda consumer: self._read(consumer, partition, tag, offset))

    def park(self, partition: int) -> None:
        """See `Log`."""
        self._commands.put(lambda consumer: self._park(consumer, partition))

    def took(self, tag: int, records: int) -> None:
        """See `Log`."""
        self._taken[tag] = self._taken.get(tag, 0) + records

    def advise(self, offsets: Mapping[int, int]) -> None:
        """See `Log`."""
        newer = dict(offsets)
        self._commands.put(lambda consumer: self._advice.update(newer))

    def identify(self, store: str) -> None:
        """Join the group of the workers that write to this store; a worker that is in another group leaves it.

        Without this, two stores under one topic and prefix would share one group, and each would get some partitions.
        """
        self._store = store

    def leave(self, timeout_s: float) -> bool:
        """Commit the last advice, leave the group and end the thread; False if that was not done in time."""
        self._leaving.set()
        self.join(timeout_s)
        return not self.is_alive()

    # The poll thread

    def run(self) -> None:
        """Consume until told to leave, with a new consumer after every failure."""
        while not self._leaving.is_set():
            consumer = None
            try:
                self._joined_as = self._group(self._store)
                assignor = HonestAssignor()
                consumer = KafkaConsumer(**self._options(), partition_assignment_strategy=[assignor])
                assignor.holds = consumer.assignment
                read_with(consumer)
                _hear_joins(consumer)
                consumer.subscribe([self._topic], listener=_Parking(consumer, self))
                _learn_topic(consumer, self._topic, self._settings.request_timeout_ms)
                self._consume(consumer)
                self._obey(consumer)
                if last := self._due_advice(consumer):
                    consumer.commit(last, timeout_ms=1000)
            except Exception as error:  # kafka-python's, or a broken record batch: a new consumer begins clean
                say(log, logging.WARNING, "consumer failed", detail=repr(error))
                self._messages.put(LogAway(f"{type(error).__name__}: {str(error)[:120]}"))
            if consumer is not None:
                _close(consumer)
            self._begin_clean()
            self._leaving.wait(REOPEN_S)

    def _begin_clean(self) -> None:
        """Forget what belonged to a consumer that is gone."""
        for partition in list(self._tags):
            self._forget(partition)
        self._advice.clear()
        self._advising = False
        if self._identity is not None:
            self._identity.close()
            self._identity = None

    def _options(self) -> dict[str, Any]:
        s = self._settings
        return s.client_options() | {
            "group_id": self._joined_as,
            "auto_offset_reset": "none",
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
            "session_timeout_ms": s.session_timeout_ms,
            "heartbeat_interval_ms": s.heartbeat_interval_ms,
            "max_poll_interval_ms": s.max_poll_interval_ms,
            "max_poll_records": s.max_poll_records,
            "fetch_min_bytes": s.fetch_min_bytes,
            "fetch_max_wait_ms": s.fetch_max_wait_ms,
            "max_partition_fetch_bytes": s.max_partition_fetch_bytes,
            "metadata_max_age_ms": 30_000,
            "bootstrap_timeout_ms": s.request_timeout_ms,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }

    def _consume(self, consumer: KafkaConsumer) -> None:
        pause_s = 0.0
        while not self._leaving.is_set():
            self._obey(consumer, pause_s)
            self._make_room(consumer)
            self._send_advice(consumer)
            self._check_partition_count(consumer)
            if self._joined_as != self._group(self._store):
                raise _AnotherStore("the store has another identity: changing groups")
            _unblock_parked(consumer)
            pause_s = min(LONGEST_PAUSE_S, max(0.001, 2 * pause_s))
            try:
                batches = consumer.poll(timeout_ms=POLL_MS if _settled(consumer) else JOIN_MS)
            except OffsetOutOfRangeError as error:
                self._out_of_range(consumer, error.args[0])
            except LogTruncationError as error:
                self._out_of_range(consumer, error.divergent_offsets)
            else:
                if batches and not self._same_log(consumer):
                    self._give_back(consumer, batches)
                    continue
                for tp, records in batches.items():
                    self._deliver(consumer, tp, records)
                    pause_s = 0.0

    def _obey(self, consumer: KafkaConsumer, wait_s: float = 0.0) -> None:
        """Do what the fold thread asks for; wait up to `wait_s` for it to ask."""
        try:
            while True:
                command = self._commands.get(timeout=wait_s) if wait_s > 0 else self._commands.get_nowait()
                command(consumer)
                wait_s = 0.0
        except queue.Empty:
            return

    def _same_log(self, consumer: KafkaConsumer) -> bool:
        """Whether what was just fetched is of the topic that was described; asked after the fetch, every time. Records
        are fetched by name: from a topic that was deleted and made again while we heard nothing, they would be another
        log's, at offsets that look right. If they are, the fold thread hears that first, and no session takes what
        comes after."""
        if not any(self._topic_id):
            return True
        try:
            if self._identity is None:
                self._identity = TopicIdentity(
                    self._settings.client_options() | {"request_timeout_ms": DESCRIBE_MS}, self._topic
                )
            found = self._identity.now()
        except KafkaError:
            return False
        if found != self._topic_id:
            self._describe(consumer, dict(self._tags))
        return found == self._topic_id

    def _give_back(self, consumer: KafkaConsumer, batches: Mapping[TopicPartition, list[Any]]) -> None:
        """Fetch again later what was fetched now."""
        for tp, records in batches.items():
            if tp.partition in self._tags and tp in consumer.assignment():
                consumer.seek(tp, records[0].offset)

    def _deliver(self, consumer: KafkaConsumer, tp: TopicPartition, records: list[Any]) -> None:
        tag = self._tags.get(tp.partition)
        if tag is None:
            return
        self._given[tag] = self._given.get(tag, 0) + len(records)
        self._messages.put(Fetched(tp.partition, tag, records, _position(consumer, tp) or records[-1].offset + 1))
        if self._waiting(tag) > self._room():
            consumer.pause(tp)
            self._full.add(tp.partition)

    def _make_room(self, consumer: KafkaConsumer) -> None:
        for p in list(self._full):
            tag = self._tags.get(p)
            if tag is None:
                self._full.discard(p)
            elif self._waiting(tag) <= self._room() // 2:
                self._full.discard(p)
                consumer.resume(self._tp(p))

    def _waiting(self, tag: int) -> int:
        return self._given.get(tag, 0) - self._taken.get(tag, 0)

    def _room(self) -> int:
        return self._queue_records // max(1, len(self._tags))

    def _read(self, consumer: KafkaConsumer, partition: int, tag: int, offset: int) -> None:
        tp = self._tp(partition)
        if tp not in consumer.assignment():
            return  # taken away since; the fold thread is about to hear of it
        self._forget(partition)
        self._tags[partition] = tag
        consumer.seek(tp, offset)
        consumer.resume(tp)

    def _park(self, consumer: KafkaConsumer, partition: int) -> None:
        self._forget(partition)
        tp = self._tp(partition)
        if tp in consumer.assignment():
            consumer.seek(tp, 0)
            consumer.pause(tp)

    def _forget(self, partition: int) -> None:
        tag = self._tags.pop(partition, None)
        self._full.discard(partition)
        if tag is not None:
            self._given.pop(tag, None)
        for old in [tag for tag in list(self._taken) if tag not in self._given]:
            self._taken.pop(old, None)

    def _describe(self, consumer: KafkaConsumer, tags: dict[int, int]) -> None:
        assigned = consumer.assignment()
        wanted = {p: tag for p, tag in tags.items() if self._tp(p) in assigned}
        if not wanted:
            return
        asked_ms = time.time_ns() // 1_000_000
        partitions = [self._tp(p) for p in wanted]
        try:
            topic_id = _topic_id(consumer, self._topic)
            if topic_id != self._topic_id:  # all that is read has to be looked at anew
                wanted = {p: tag for p, tag in self._tags.items() if self._tp(p) in assigned} | wanted
                partitions = [self._tp(p) for p in wanted]
            starts = consumer.beginning_offsets(partitions, timeout_ms=DESCRIBE_MS)
            ends = consumer.end_offsets(partitions, timeout_ms=DESCRIBE_MS)
        except KafkaError as error:
            self._messages.put(NotDescribed(tuple(wanted.values()), f"{type(error).__name__}: {str(error)[:120]}"))
            return
        for p, tag in wanted.items():
            tp = self._tp(p)
            position = _position(consumer, tp) if self._tags.get(p) == tag else None
            self._messages.put(Described(p, tag, LogBounds(starts[tp], ends[tp], topic_id), asked_ms, position))
        self._topic_id = topic_id

    def _out_of_range(self, consumer: KafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
        for tp in partitions:
            tag = self._tags.get(tp.partition)
            self._park(consumer, tp.partition)
            if tag is not None:
                self._messages.put(OutOfRange(tp.partition, tag))

    def _check_partition_count(self, consumer: KafkaConsumer) -> None:
        if time.monotonic() < self._check_due:
            return
        self._check_due = time.monotonic() + CHECK_INTERVAL_S
        count = len(_cluster(consumer).partitions_for_topic(self._topic) or ())
        if count and count != self._settings.partitions:
            self._messages.put(PartitionCountChanged(count))

    def _send_advice(self, consumer: KafkaConsumer) -> None:
        """One offset commit at a time, carrying the newest of what was said meanwhile."""
        if not self._advice or self._advising or time.monotonic() < self._advise_due:
            return
        offsets = self._due_advice(consumer)
        if not offsets:
            return
        self._advising = True
        self._advise_due = time.monotonic() + ADVISE_INTERVAL_S
        partitions = tuple(tp.partition for tp in offsets)

        def answered(_: object, response: object) -> None:
            self._advising = False
            error = f"{type(response).__name__}: {response}" if isinstance(response, BaseException) else None
            self._messages.put(Advised(partitions, error))

        consumer.commit_async(offsets, callback=answered)

    def _due_advice(self, consumer: KafkaConsumer) -> dict[TopicPartition, OffsetAndMetadata]:
        assigned = consumer.assignment()
        advice, self._advice = self._advice, {}
        return {
            self._tp(p): OffsetAndMetadata(offset, "", -1) for p, offset in advice.items() if self._tp(p) in assigned
        }

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)

    def _assigned(self, consumer: KafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
        """From the listener: park, and tell."""
        for tp in partitions:
            self._park(consumer, tp.partition)
        self._messages.put(Assigned(tuple(sorted(tp.partition for tp in partitions))))

    def _revoked(self, partitions: Iterable[TopicPartition]) -> None:
        for tp in partitions:
            self._forget(tp.partition)
        self._messages.put(Revoked(tuple(sorted(tp.partition for tp in partitions))))


class _Parking(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Runs on the client's I/O thread while the poll thread waits in `poll`: parks what is new, tells what is gone."""

    def __init__(self, consumer: KafkaConsumer, owner: LogConsumer) -> None:
        self._consumer = consumer
        self._owner = owner

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """New ones only: the protocol is cooperative."""
        self._owner._assigned(self._consumer, list(assigned))

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Given up in an orderly way; also when the group lost us."""
        self._owner._revoked(list(revoked))


def _settled(consumer: KafkaConsumer) -> bool:
    """Whether we are a member of the group, no rebalance is under way, and there is something to read."""
    return bool(consumer.assignment()) and consumer.group_metadata().state is MemberState.STABLE


# kafka-python has no public way to these.


def _cluster(consumer: KafkaConsumer) -> Any:
    return consumer._cluster


def _position(consumer: KafkaConsumer, tp: TopicPartition) -> int | None:
    """Where the client reads on, without asking anybody (`position` may fetch committed offsets)."""
    state = consumer._subscription.assignment.get(tp)
    return None if state is None or state.position is None else int(state.position.offset)


def _topic_id(consumer: KafkaConsumer, topic: str) -> bytes:
    """The topic's id by fresh metadata, zeros if the broker has none."""
    _refresh(consumer, DESCRIBE_MS)
    found = _cluster(consumer).topic_id(topic)
    return found.bytes if isinstance(found, UUID) else NO_TOPIC_ID


def _learn_topic(consumer: KafkaConsumer, topic: str, timeout_ms: int) -> None:
    """Know the topic's partitions before joining: a leader that does not gives nobody any."""
    _refresh(consumer, timeout_ms)
    if not _cluster(consumer).partitions_for_topic(topic):
        raise UnknownTopicOrPartitionError(topic)


def _refresh(consumer: KafkaConsumer, timeout_ms: int) -> None:
    """Fetch fresh metadata."""
    refreshed = _cluster(consumer).request_update()
    consumer._net.run(consumer._manager.wait_for, refreshed, timeout_ms)


def _close(consumer: KafkaConsumer) -> None:
    try:
        consumer.close(autocommit=False, timeout_ms=2000)
    except Exception as error:  # it is given up anyway
        say(log, logging.DEBUG, "closing the consumer failed", detail=repr(error))


def _unblock_parked(consumer: KafkaConsumer) -> None:
    """Let kafka-python hand out what it had fetched of a partition before that was paused.

    kafka-python (seen in 3.0.12) puts such records aside and takes them back only when its place for the records in
    line is None; after use it holds an empty object instead, so a resumed partition would stay silent for ever.
    """
    fetcher = consumer._fetcher
    if fetcher._next_partition_records is not None and not fetcher._next_partition_records:
        fetcher._next_partition_records = None


class _Unheard:
    """A join that nobody has heard the end of: never done, until it is waited for."""

    is_done = False

    def __init__(self, join: Any) -> None:
        self.add_callback, self.add_errback = join.add_callback, join.add_errback


class _Hearing(ConsumerCoordinator):  # type: ignore[misc]  # kafka-python has no types
    """A coordinator that hears what became of every join that it began.

    kafka-python (seen in 3.0.12) joins once more if a join has ended between two of its looks at it, and what was
    assigned is lost. Polls are short, and one looks several times near its end, because timers within it round down: a
    new member cost the group three or four rebalances, and a pause at each, instead of two.
    """

    @property
    def _join_task(self) -> _Unheard | None:
        join: _Unheard | None = self.__dict__.get("_join")
        return join

    @_join_task.setter
    def _join_task(self, join: Any) -> None:
        self.__dict__["_join"] = None if join is None else _Unheard(join)


def _hear_joins(consumer: KafkaConsumer) -> None:
    """Once, before the consumer subscribes."""
    consumer._coordinator.__class__ = _Hearing
